# SPDX-License-Identifier: MIT
"""ser-record on a terminal: count-down, meter, bars that are drawn anew, keys and sizes."""

import array
import os
import re
import signal
import unittest

from record_support import OnTerminal, RecordCase, wav
from support import B, LABELS, LONG, Run, environment, path, prepare, tone, write_wav

UTF8 = {"LC_ALL": "C.UTF-8"}
ONCE = ["--source", "file:" + LONG, "--color=never"]
LIVE = [*ONCE, "--continuous", "--window", "1", "--hop", "0.5"]
METER = r" \|[# !]+\| "


def setUpModule():
    prepare()
    write_wav("quiet.wav", tone(4.0, 5, amplitude=0.0))
    write_wav("clipped.wav", array.array("h", [32767, -32768] * 24000))


class Meter(RecordCase):
    def test_count_down_and_answer(self):
        for columns in (80, 40):
            t = OnTerminal(*ONCE, "--seconds", "1.5", columns=columns)
            self.assertEqual(t.finish(), 0)
            lines = t.screen.shown()
            self.assertEqual(len(lines), 2 + 1 + len(LABELS))  # no trace of the meter
            self.assertRegex(lines[0] + lines[1], "recording 1.5 s from")
            left = [float(x) for x in re.findall(r"([\d.]+) s left", t.screen.text)]
            self.assertGreater(len(left), 4)
            self.assertEqual(left, sorted(left, reverse=True))
            self.assertRegex(t.screen.text, METER)
            for part in re.split(r"\r\x1b\[K|\n", t.screen.text):
                if "left" in part:
                    self.assertLess(len(part), columns)

    def test_blocks_and_peak_hold(self):
        t = OnTerminal(*ONCE, "--seconds", "1", env=UTF8)
        self.assertEqual(t.finish(), 0)
        self.assertRegex(t.screen.text, "\\|\u2588+[\u2589-\u258f]?[\u2502 ]* *\\| peak -\\d+ dBFS")

    def test_warnings(self):
        for name, text, narrow in (("quiet", "no sound for 2 s: muted?", "silence"),
                                   ("clipped", "CLIPPED: turn it down", "CLIPPED")):
            for columns, expected in ((80, text), (40, narrow)):
                t = OnTerminal("--no-predict", "--seconds", "2.5", "--source",
                               "file:" + path(name + ".wav"), columns=columns)
                self.assertEqual(t.finish(), 0)
                self.assertIn(expected, t.screen.text)
                self.assertNotIn("warning", t.screen.text)

    def test_meter_only_where_there_is_a_terminal(self):
        t = OnTerminal(*ONCE, "--seconds", "0.5", "--json", out=False)  # answers go elsewhere
        self.assertEqual(t.finish(), 0)
        self.assertRegex(t.screen.text, METER)
        self.assertNotIn(b"\x1b", t.piped)
        t = OnTerminal(*ONCE, "--seconds", "0.5", err=False)
        self.assertEqual(t.finish(), 0)
        self.assertNotIn(b"\x1b", t.piped)
        self.assertNotIn("\x1b", t.screen.text)
        for extra, env in ((["--quiet"], {}), ([], {"TERM": "dumb"})):
            t = OnTerminal(*ONCE, "--seconds", "0.5", *extra, env=env)
            self.assertEqual(t.finish(), 0)
            self.assertNotIn("\x1b", t.screen.text)

    def test_ctrl_c(self):
        t = OnTerminal(*ONCE, "--seconds", "9", "-o", path("key.wav"))
        t.until(lambda: "left" in t.screen.text)
        t.read(0.6)
        t.key(b"\x03")
        self.assertEqual(t.finish(), 0)
        self.assertTrue(any(line.startswith("  " + LABELS[0]) for line in t.screen.shown()))
        self.assertIn("key.wav: ", t.screen.shown()[-2])
        kept = wav("key.wav")[2]
        self.assertEqual(kept, wav("long.wav")[2][: len(kept)])


class Live(RecordCase):
    def test_one_block_of_bars(self):
        for rows, columns, env in ((24, 80, {}), (24, 40, UTF8), (7, 80, {})):
            t = OnTerminal(*LIVE, "--seconds", "3", rows=rows, columns=columns, env=env)
            self.assertEqual(t.finish(), 0)
            lines = t.screen.shown()
            self.assertFalse(t.screen.wrapped)
            heads = [line for line in lines if line.startswith("0:0") and path()[:8] in line]
            self.assertEqual(len(heads), 1, lines)
            bars = [line for line in lines if line.endswith("%")]
            self.assertEqual(len(bars), len(LABELS) if rows == 24 else 3, lines)
            self.assertEqual(len({len(line) for line in bars}), 1)  # they are aligned
            self.assertLess(max(map(len, bars)), columns)
            self.assertEqual(lines[-1], "")
            self.assertRegex(lines[-2], r"^  \d+:\d\d .*")
            self.assertGreater(t.screen.text.count("[J"), 20)

    def test_last_answer_stays(self):
        """The bars that are left are those of the last window."""
        t = OnTerminal(*LIVE, "--seconds", "3")
        self.assertEqual(t.finish(), 0)
        rows = self.predict("--window", "1", "--hop", "0.5", "--length", "3", LONG)
        for line in t.screen.shown():
            for label, score in rows[-1]["scores"].items():
                if line.strip().startswith(label + " "):
                    self.assertIn("%5.1f %%" % (100 * score), line)
        best = [(row["label"], row["start"]) for row in rows]
        history = t.screen.shown()[-2].strip()
        changes = [b for i, b in enumerate(best) if i == 0 or best[i - 1][0] != b[0]]
        label, start = changes[-1]
        self.assertTrue(history.endswith("0:%02d %s" % (int(start + 0.5), label)), (history, best))

    def test_history_fits(self):
        t = OnTerminal(*LIVE, "--hop", "0.05", "--window", "0.1", "--seconds", "4", columns=40)
        self.assertEqual(t.finish(), 0)
        self.assertLess(len(t.screen.shown()[-2]), 40)

    def test_what_was_there_stays(self):
        """Messages above the block, and what the screen showed before, are not overwritten."""
        t = OnTerminal(*LIVE, "--seconds", "2", "-v", rows=30)
        self.assertEqual(t.finish(), 0)
        text = "\n".join(t.screen.shown())
        self.assertIn("ser-record: model ", text)
        self.assertIn("recording 2 s from", text)
        self.assertIn("2.00 s recorded", text)
        self.assertEqual(text.count("peak"), 0)  # the meter has gone

    def test_ctrl_c(self):
        t = OnTerminal(*LIVE, "-o", path("live.wav"))
        t.until(lambda: "%" in t.screen.text)
        t.key(b"\x03")
        self.assertEqual(t.finish(), 0)
        self.assertIn("live.wav: ", t.screen.shown()[-2])
        self.assertGreater(len(wav("live.wav")[2]), 16000)

    def test_smaller_and_continued(self):
        """A narrower terminal, and a stop as by Ctrl-Z: drawn anew, nothing is overwritten."""
        t = OnTerminal(*LIVE, "--seconds", "5")
        t.until(lambda: "%" in t.screen.text)
        before = len(t.screen.lines)
        t.resize(24, 50)
        t.until(lambda: len(t.screen.lines) > before + 3)
        self.assertIn("0:00.00 - 0:01.00", "\n".join(t.screen.shown()))
        before = len(t.screen.lines)
        os.kill(t.process.pid, signal.SIGSTOP)
        t.read(0.5)
        at = len(t.screen.text)
        t.read(0.5)
        self.assertEqual(len(t.screen.text), at)  # it stands still
        t.screen.feed("\r\nsomething of the shell\r\n")
        os.kill(t.process.pid, signal.SIGCONT)
        self.assertEqual(t.finish(), 0)
        self.assertIn("something of the shell", t.screen.shown())

    def test_attention_and_colour(self):
        t = OnTerminal(*LIVE[:2], *LIVE[3:], "--attention", "--seconds", "1.5", env=UTF8)
        self.assertEqual(t.finish(), 0)
        self.assertIn("\x1b[1m", t.screen.text)
        self.assertTrue(any(line.startswith("  attention  0:0") for line in t.screen.shown()))
        self.assertRegex(t.screen.text, "\\|[\u2581-\u2588]+\\|")

    def test_lines_where_the_output_is_none(self):
        t = OnTerminal(*LIVE, "--seconds", "2", out=False)
        self.assertEqual(t.finish(), 0)
        rows = Run("--window", "1", "--hop", "0.5", "--length", "2", LONG, env=environment()).out
        self.assertEqual(t.piped.decode(), rows)
        self.assertRegex(t.screen.text, METER)


if __name__ == "__main__":
    unittest.main()
