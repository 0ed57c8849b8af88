# SPDX-License-Identifier: MIT
"""What the tests of ser-record share: running it, and a terminal that remembers what it shows.

The program under test is $SER_RECORD.
"""

import array
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import unittest
import wave

from support import TIMEOUT, Run, environment, path

RECORD = os.environ.get("SER_RECORD", "ser-record")
SOURCE = os.environ.get("SER_SOURCE", os.path.join(os.path.dirname(__file__), "..", ".."))


class Record:
    """A run of ser-record: code, out, err; started, and finished by finish() or the constructor."""

    def __init__(self, *arguments, env=None, input=None, wait=True, **options):
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stdin", subprocess.PIPE if input is not None else subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [RECORD, *arguments], stderr=subprocess.PIPE, env=env or environment(), **options
        )
        self.out = self.err = ""
        if wait:
            self.finish(input)

    def finish(self, input=None):
        out, err = self.process.communicate(input, timeout=TIMEOUT)
        self.code = self.process.returncode
        self.out += (out or b"").decode()
        self.err += err.decode("utf-8", "surrogateescape")
        return self

    def line(self):
        """The next line of its standard output, as it comes."""
        line = self.process.stdout.readline().decode()
        self.out += line
        return line

    def event(self, name):
        """The next event of this kind."""
        while True:
            line = self.line()
            if not line:
                raise AssertionError("no event %s: %s" % (name, self.finish().err))
            event = json.loads(line)
            if event["event"] == name:
                return event

    def send(self, number):
        self.process.send_signal(number)

    def events(self, name=None):
        events = [json.loads(line) for line in self.out.splitlines()]
        return [e for e in events if name is None or e["event"] == name]


class RecordCase(unittest.TestCase):
    maxDiff = None

    def record_ok(self, *arguments, **options):
        run = Record(*arguments, **options)
        self.assertEqual((run.code, run.err), (0, ""), arguments)
        return run

    def record_fails(self, code, message, *arguments, **options):
        run = Record(*arguments, **options)
        self.assertEqual(run.code, code, (arguments, run.err))
        self.assertIn(message, run.err)
        for line in run.err.splitlines():
            self.assertTrue(line.startswith(("ser-record: ", "Try 'ser-record --help'")), line)
        return run

    def predict(self, *arguments, **options):
        """The objects that ser-predict writes."""
        run = Run("--json", *arguments, **options)
        self.assertEqual((run.code, run.err), (0, ""), arguments)
        return run.objects()

    def assert_same(self, events, rows):
        """Answers of ser-record and of ser-predict, to the last digit."""
        def keys(row):
            return {k: v for k, v in row.items() if k not in ("file", "source", "event")}

        self.assertEqual([keys(e) for e in events], [keys(r) for r in rows])


def wav(name):
    """(rate, channels, samples) of a 16-bit WAV file."""
    with wave.open(path(name), "rb") as f:
        assert f.getsampwidth() == 2
        samples = array.array("h", f.readframes(f.getnframes()))
        return f.getframerate(), f.getnchannels(), samples


class Terminal:
    """What a terminal shows: rows of text, with the escapes that ser-record uses and no others."""

    TOKEN = re.compile(r"\x1b\[(\d*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")

    def __init__(self, rows, columns):
        self.height, self.width = rows, columns
        self.lines = [""]  # with all that scrolled away
        self.row = self.column = 0
        self.text = ""  # all that came
        self.wrapped = False  # a line other than a message was too long
        self.rest = ""

    def feed(self, text):
        self.text += text
        text = self.rest + text
        at = 0
        for token in self.TOKEN.finditer(text):
            if token.start() != at:
                break
            at = token.end()
            self.take(*token.groups())
        self.rest = text[at:]

    def take(self, number, command, control, plain):
        if control == "\r":
            self.column = 0
        elif control == "\n":
            self.row += 1
            while len(self.lines) <= self.row:
                self.lines.append("")
        elif plain:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = (
                line[: self.column] + plain + line[self.column + len(plain) :]
            )
            self.column += len(plain)
            message = self.lines[self.row].startswith("ser-record: ")
            self.wrapped = self.wrapped or (self.column >= self.width and not message)
        elif command == "A":
            self.row -= int(number or 1)
            assert self.row >= max(0, len(self.lines) - self.height), "above the screen"
        elif command == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif command == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]
        elif command != "m":
            raise AssertionError("escape " + command)

    def shown(self):
        return [line.rstrip() for line in self.lines]


class OnTerminal:
    """ser-record on a pseudo-terminal; `out` and `err`: which of its streams go there."""

    def __init__(self, *arguments, rows=24, columns=80, out=True, err=True, env=None):
        try:
            self.leader, follower = pty.openpty()
        except OSError as error:
            raise unittest.SkipTest(f"no pseudo-terminals here: {error}") from error
        self.resize(rows, columns)
        self.screen = Terminal(rows, columns)
        # Ctrl-C makes a terminal throw away what it has not shown yet; here all of it is looked at.
        self.settings = termios.tcgetattr(follower)
        self.settings[3] |= termios.NOFLSH
        termios.tcsetattr(follower, termios.TCSANOW, self.settings)
        self.follower = follower
        self.process = subprocess.Popen(
            [RECORD, *arguments],
            env=environment(**(env or {})),
            stdin=follower,
            stdout=follower if out else subprocess.PIPE,
            stderr=follower if err else subprocess.PIPE,
            start_new_session=True,
            # Its own terminal, so that a key on it is a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.pipe = self.process.stdout or self.process.stderr
        self.piped = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def key(self, byte):
        os.write(self.leader, byte)

    def read(self, seconds):
        """Take in what comes for so long; False once the program has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            waiting = [self.leader] + ([self.pipe] if self.pipe else [])
            ready = select.select(waiting, [], [], 0.05)[0]
            if self.leader in ready:
                data = os.read(self.leader, 65536).decode("utf-8", "replace")
                self.screen.feed(data)
            if self.pipe in ready:
                data = os.read(self.pipe.fileno(), 65536)
                self.piped += data
                if not data:
                    self.pipe.close()
                    self.pipe = None
            if not ready and self.process.poll() is not None:
                return False
        return True

    def until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            alive = self.read(0.1)
            if time.monotonic() > end or (not alive and not condition()):
                raise AssertionError("not seen: %r %r" % (self.screen.shown(), self.piped))

    def finish(self):
        """Read to the end: the exit code. The terminal must be as it was."""
        end = time.monotonic() + TIMEOUT
        while self.read(0.2) and time.monotonic() < end:
            pass
        code = self.process.wait(TIMEOUT)
        assert termios.tcgetattr(self.follower) == self.settings
        if self.pipe:
            self.pipe.close()
        os.close(self.follower)
        os.close(self.leader)
        return code
