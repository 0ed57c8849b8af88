# SPDX-License-Identifier: MIT
"""ser-predict on a terminal: colour, bars, progress; and when signals come."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
import unittest

from support import A, B, Case, LONG, PREDICT, TIMEOUT, environment, path, prepare, tone, write_wav

BAR = re.compile(r"\|[# ]*\| \d+/\d+ files, ")
UTF8 = {"LC_ALL": "C.UTF-8"}


def setUpModule():
    prepare()
    for i in range(40):
        write_wav("many/%02d.wav" % i, tone(3.0, 30) if i == 0 else tone(0.2, i))


def slow_file(name="slow.wav"):
    """A pipe that gives a clip after a while, long enough for a progress bar to appear."""
    if not os.path.exists(path(name)):
        os.mkfifo(path(name))

    def feed():
        with open(A, "rb") as source, open(path(name), "wb") as pipe:
            time.sleep(0.4)
            pipe.write(source.read())

    threading.Thread(target=feed, daemon=True).start()
    return path(name)


def on_terminal(*arguments, out=True, err=True, columns=80, env=None):
    """Run with standard output, error or both on a pseudo terminal: code, its text, the pipe's."""
    try:
        leader, follower = pty.openpty()
    except OSError as error:
        raise unittest.SkipTest(f"no pseudo-terminals here: {error}") from error
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [PREDICT, *arguments],
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=follower if out else subprocess.PIPE,
        stderr=follower if err else subprocess.PIPE,
    )
    os.close(follower)
    pipe = process.stdout or process.stderr
    texts = {leader: b"", pipe.fileno() if pipe else None: b""}
    waiting = {fd for fd in texts if fd is not None}
    end = time.monotonic() + TIMEOUT
    while waiting and time.monotonic() < end:
        for fd in select.select(waiting, [], [], 1)[0]:
            try:
                data = os.read(fd, 65536)
            except OSError:  # EIO: the last one has closed the terminal
                data = b""
            texts[fd] += data
            if not data:
                waiting.discard(fd)
    code = process.wait(TIMEOUT)
    os.close(leader)
    text = texts.pop(leader).decode()
    rest = b"".join(texts.values()).decode()
    if pipe:
        pipe.close()
    return code, text.replace("\r\n", "\n"), rest


class Text(Case):
    def test_colour_on_a_terminal_only(self):
        for env, option, expected in (
            ({}, [], True),
            ({"NO_COLOR": "1"}, [], False),
            ({"NO_COLOR": ""}, [], True),
            ({"TERM": "dumb"}, [], False),
            ({}, ["--color=never"], False),
            ({"NO_COLOR": "1"}, ["--color=always"], True),
        ):
            code, text, _ = on_terminal(*option, A, env=env)
            self.assertEqual(code, 0)
            self.assertEqual("\x1b[1m" in text, expected, (env, option, text))

    def test_colour_elsewhere(self):
        for env, option, expected in (
            ({}, [], False),
            ({"CLICOLOR_FORCE": "1"}, [], True),
            ({"FORCE_COLOR": "1"}, [], True),
            ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, [], False),
            ({"FORCE_COLOR": "1"}, ["--color", "never"], False),
            ({}, ["--color", "always"], True),
        ):
            run = self.run_ok(*option, A, env=environment(**env))
            self.assertEqual("\x1b[1m" in run.out, expected, (env, option))
        for name in ("jsonl", "csv", "rttm", "audacity", "textgrid"):
            run = self.run_ok("--color", "always", "-f", name, A)
            self.assertNotIn("\x1b", run.out)

    def test_blocks_in_a_utf8_terminal_only(self):
        self.assertIn("\u2588", on_terminal(A, env=UTF8)[1])
        self.assertIn("#", on_terminal(A)[1])
        self.assertIn("#", self.run_ok(A, env=environment(**UTF8)).out)
        text = on_terminal("--attention", A, env=UTF8)[1]
        self.assertRegex(text, "\\|[\u2581-\u2588]+\\|")

    def test_lines_fit_and_align(self):
        for columns in (40, 60, 80, 200):
            for extra in ([], ["--window", "0.5"], ["--attention"]):
                code, text, _ = on_terminal("--color=never", *extra, B, columns=columns, env=UTF8)
                lines = text.splitlines()[1:]
                if columns >= 60 or not extra:
                    self.assertLess(max(map(len, lines)), columns, text)
                ends = {len(line) for line in lines if line.endswith("%")}
                self.assertEqual(len(ends), 1, text)
        wide = self.run_ok(A, env=environment(COLUMNS="50")).out.splitlines()[1:]
        self.assertLess(max(map(len, wide)), 51)

    def test_messages_stand_in_their_place(self):
        code, text, _ = on_terminal("--color=never", A, path("missing"), B)
        names = [
            line.split("  ")[0] for line in text.splitlines() if line.startswith(("/", "ser-"))
        ]
        self.assertEqual(code, 1)
        self.assertEqual(
            [os.path.basename(n.split(": N")[0]) for n in names], ["a.wav", "missing", "b.wav"]
        )


class Progress(Case):
    def test_bar_on_a_terminal(self):
        code, text, out = on_terminal("--json", "-b", "1", slow_file(), path("many"), out=False)
        self.assertEqual(code, 0)
        self.assertEqual(len(out.splitlines()), 41)
        self.assertRegex(text, BAR)
        self.assertTrue(text.endswith("\r\x1b[K"), repr(text[-80:]))
        self.assertNotIn("\n", text)

    def test_results_on_the_same_terminal_stay_whole(self):
        code, text, _ = on_terminal("--format", "rttm", "-b", "1", slow_file(), path("many"))
        self.assertEqual(code, 0)
        self.assertRegex(text, BAR)
        plain = re.sub("[^\n]*\r\x1b\\[K", "", text)
        self.assertEqual(plain, self.run_ok("--format", "rttm", slow_file(), path("many")).out)

    def test_messages_stay_whole(self):
        names = [slow_file(), path("many")] + [path("missing%d" % i) for i in range(30)]
        code, text, _ = on_terminal("--json", "-b", "1", *names, out=False)
        self.assertEqual(code, 1)
        self.assertRegex(text, BAR)
        plain = re.sub("[^\n]*\r\x1b\\[K", "", text)
        self.assertEqual([line.split(":")[0] for line in plain.splitlines()], ["ser-predict"] * 30)

    def test_no_bar_when_not_wanted(self):
        for extra, env in ((["--no-progress"], {}), (["--quiet"], {}), ([], {"TERM": "dumb"})):
            code, text, _ = on_terminal(
                "--json", "-b", "1", *extra, slow_file(), path("many"), out=False, env=env
            )
            self.assertEqual((code, text), (0, ""), extra)
        code, text, _ = on_terminal("--json", A, out=False)
        self.assertEqual(text.replace("\r\x1b[K", ""), "")

    def test_windows_of_one_file(self):
        code, text, _ = on_terminal(
            "--json", "-b", "1", "--window", "0.05", "--hop", "0.01", slow_file(), out=False
        )
        self.assertEqual(code, 0)
        self.assertRegex(text, r"\d+ windows, [\d.]+/s, 0:00:\d\d, \d+ s of audio")

    def test_narrow_terminals(self):
        code, text, _ = on_terminal(
            "--json", "-b", "1", slow_file(), path("many"), out=False, columns=30
        )
        self.assertIn("|", text)
        for line in text.split("\r\x1b[K"):
            self.assertLess(len(line), 30)


class Signals(Case):
    def start(self, *arguments, **options):
        return subprocess.Popen(
            [PREDICT, *arguments],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options
        )

    def stop(self, process, number):
        started = time.monotonic()
        process.send_signal(number)
        code = process.wait(30)
        self.assertLess(time.monotonic() - started, 10)
        out, err = process.stdout.read().decode(), process.stderr.read().decode()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        return code, out, err

    def test_first_signal_ends_in_order(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process = self.start("--json", "-b", "1", A, "-")
            first = process.stdout.readline().decode()
            code, out, err = self.stop(process, number)
            self.assertEqual((code, out), (128 + number, ""))
            self.assertIn(A, first)
            self.assertEqual(err, "ser-predict: stopped after 1 of 2 inputs\n")

    def test_output_file_is_left_alone(self):
        with open(path("stopped.csv"), "w") as f:
            f.write("old")
        process = self.start("-f", "csv", "-b", "1", "-v", "-o", path("stopped.csv"), A, "-")
        process.stderr.readline()  # the model is loaded: the output is open or about to be
        time.sleep(0.5)
        code, _, err = self.stop(process, signal.SIGINT)
        self.assertEqual(code, 130)
        self.assertIn("the output file was not written", err)
        with open(path("stopped.csv")) as f:
            self.assertEqual(f.read(), "old")
        self.assertEqual([n for n in os.listdir(path()) if n.endswith(".tmp")], [])

    def test_second_signal_ends_at_once(self):
        process = self.start(
            "--json", "--attention", "-b", "200", "--window", "0.1", "--hop", "0.01", LONG
        )
        fcntl.fcntl(process.stdout, 1031, 4096)  # F_SETPIPE_SZ: far less than the first batch
        process.stdout.read(1)  # and no more: it waits in the middle of writing
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        code, _, _ = self.stop(process, signal.SIGINT)
        self.assertEqual(code, 130)

    def test_ignored_signals_stay_ignored(self):
        def ignore():
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        process = self.start("--json", "-b", "1", A, "-", preexec_fn=ignore)
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        self.assertIsNone(process.poll())
        with open(B, "rb") as f:
            out, _ = process.communicate(f.read(), 30)
        self.assertEqual(process.returncode, 0)
        self.assertIn(b'"-"', out)


if __name__ == "__main__":
    unittest.main()
