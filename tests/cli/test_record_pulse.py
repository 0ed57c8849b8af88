# SPDX-License-Identifier: MIT
"""ser-record with a real sound server: a clip is played into it and recorded from it; the server
dies. Skipped where PulseAudio's programs are not installed."""

import array
import json
import os
import re
import signal
import sys
import time
import unittest
import wave

from record_support import SOURCE, OnTerminal, Record, RecordCase, wav
from support import LABELS, environment, path, prepare, write_wav

sys.path.insert(0, os.path.join(SOURCE, "tests/capture"))
import pulse_server  # noqa: E402

CLIP = os.path.join(SOURCE, "examples/clip.wav")
MODEL = os.path.join(SOURCE, "models/ser-mini.safetensors")


def setUpModule():
    if pulse_server.missing():
        raise unittest.SkipTest("not installed: " + pulse_server.missing())
    if "not in this build" in Record("--no-predict", "--source", "pulse:none").err:
        raise unittest.SkipTest("built without libpulse")
    prepare()
    write_utterance()


def write_utterance():
    """A second and a half of the clip whose answer is clear, in silence. The model cuts silence but
    0.1 s: a clip without any would be heard with another beginning than it has as a file."""
    with wave.open(CLIP, "rb") as f:
        rate = f.getframerate()
        f.setpos(rate // 2)
        samples = array.array("h", f.readframes(rate * 3 // 2))
    silence = array.array("h", bytes(rate))  # half a second of 16-bit samples
    write_wav("utterance.wav", silence + samples + silence, rate=rate)


class Pulse(RecordCase):
    def setUp(self):
        self.server = pulse_server.PulseServer()
        self.addCleanup(self.server.stop)
        self.source = "pulse:" + self.server.monitor
        self.env = environment(**{k: self.server.env[k] for k in self.server.env
                                  if k.startswith(("PULSE", "XDG", "HOME"))})

    def begin(self, *arguments, **changes):
        """Record until stopped, from the moment at which it does."""
        run = Record("--json", "--levels", *arguments, env=dict(self.env, **changes), wait=False)
        self.addCleanup(lambda: run.process.poll() is None and run.process.kill())
        run.event("level")
        return run

    def test_a_clip_through_the_loudspeaker(self):
        """The label and the scores of the file that was played."""
        for name in ("heard.wav", "heard.flac"):
            run = self.begin("--source", self.source, "--seconds", "4", "-o", path(name),
                             SER_MODEL=MODEL)
            self.server.play(path("utterance.wav"))
            run.finish()
            self.assertEqual(run.code, 0, run.err)
            row = run.events("window")[0]
            other = self.predict("--model", MODEL, path("utterance.wav"))[0]
            self.assertEqual(row["label"], other["label"])
            for label, score in other["scores"].items():
                self.assertAlmostEqual(row["scores"][label], score, delta=0.05)
            self.assertEqual((row["sampling_rate"], row["channels"]), (48000, 2))
            self.assertEqual(run.events("end")[0]["seconds"], 4)
            self.assert_same([row], self.predict("--model", MODEL, path(name)))

    def test_windows_and_delay(self):
        """Equal to ser-predict on what was kept. The delay is printed, not judged: a busy machine
        is no fault."""
        run = Record("--json", "--levels", "-c", "--window", "1", "--hop", "0.5", "--source",
                     self.source, "--seconds", "4", "-o", path("kept.wav"),
                     env=dict(self.env, SER_MODEL=MODEL), wait=False)
        self.server.wait_for_recorder()
        self.server.play(CLIP)
        times = {}
        while True:
            line = run.line()
            if not line:
                break
            event = run.events()[-1]
            times.setdefault(event["event"], []).append(
                time.monotonic() - event.get("end", event.get("time", 0.0)))
        run.finish()
        self.assertEqual(run.code, 0, run.err)
        self.assert_same(run.events("window"), self.predict(
            "--model", MODEL, "--window", "1", "--hop", "0.5", path("kept.wav")))
        delay = [1000 * (t - min(times["level"])) for t in times["window"][:-1]]
        print("window to line: %.0f ms in the mean, %.0f at most" % (sum(delay) / len(delay),
                                                                     max(delay)))

    def test_default_source_and_list(self):
        run = self.record_ok("--list-devices", "--json", env=self.env)
        found = [row for row in map(json.loads, run.out.splitlines()) if row["default"]]
        self.assertEqual([row["source"] for row in found], [self.source])
        self.assertEqual(set(found[0]), {"source", "description", "default", "monitor"})
        run = self.record_ok("--list-devices", env=self.env)
        self.assertRegex(run.out, r"(?m)^\* %s  .*Test-test.* \(what the computer plays\)$"
                         % re.escape(self.source))
        run = Record("--no-predict", "--seconds", "0.3", "-o", path("default.wav"), env=self.env)
        self.assertEqual(run.code, 0, run.err)
        self.assertIn("from Monitor of Test-test", run.err)
        self.assertEqual(wav("default.wav")[:2], (48000, 2))

    def test_no_such_source(self):
        self.record_fails(4, "nowhere", "--source", "pulse:nowhere", env=self.env)

    def test_server_dies(self):
        """One clip: what came is kept and answered, exit code 6."""
        for number in (signal.SIGKILL, signal.SIGTERM):
            name = "dies%d.wav" % number
            run = self.begin("--source", self.source, "--seconds", "30", "-o", path(name))
            self.server.play(CLIP)
            while run.event("level")["time"] < 1.5:
                pass
            self.server.kill(number)
            run.finish()
            self.assertEqual(run.code, 6, run.err)
            self.assertIn("what came before is kept", run.err)
            end = run.events("end")[0]
            self.assertEqual((end["reason"], end["file"]), ("lost", path(name)))
            rate, channels, samples = wav(name)
            self.assertEqual(len(samples), round(end["seconds"] * rate) * channels)
            self.assertGreaterEqual(end["seconds"], 1.5)
            self.assert_same(run.events("window"), self.predict(path(name)))
            self.server.start()

    def test_server_comes_back(self):
        """Continuous: the time line goes on, and what is missing is said."""
        run = self.begin("-c", "--window", "0.5", "--source", self.source, "-o", path("gap.wav"))
        while run.event("level")["time"] < 1:
            pass
        self.server.kill()
        time.sleep(0.7)
        self.server.start()
        gap = run.event("gap")
        self.assertGreater(gap["seconds"], 0.5)
        while run.event("level")["time"] < gap["time"] + 1:
            pass
        run.send(signal.SIGINT)
        run.finish()
        self.assertEqual(run.code, 0, run.err)
        self.assertIn("waiting 30 s for it to come back", run.err)
        self.assertIn("which are missing", run.err)
        ends = [e["end"] for e in run.events("window")]
        self.assertEqual(ends, sorted(ends))
        self.assertGreater(ends[-1], gap["time"] + 0.5)
        self.assert_same(run.events("window"),
                         self.predict("--window", "0.5", "--hop", "0.5", path("gap.wav")))

    def test_server_stays_away(self):
        run = self.begin("-c", "--source", self.source, "-o", path("away.wav"))
        self.server.kill()
        started = time.monotonic()
        run.finish()
        self.assertEqual(run.code, 6, run.err)
        self.assertGreater(time.monotonic() - started, 25)
        self.assertIn("has not come back", run.err)
        self.assertEqual(run.events("end")[0]["reason"], "lost")
        self.assertGreater(len(wav("away.wav")[2]), 1000)
        run = self.begin_again()
        self.server.kill()
        time.sleep(1)
        run.send(signal.SIGTERM)  # while it waits
        run.finish()
        self.assertEqual(run.code, 143, run.err)
        self.assertEqual(run.events("end")[0]["reason"], "stopped")

    def begin_again(self):
        self.server.start()
        return self.begin("-c", "--source", self.source)

    def test_on_a_terminal(self):
        """As a person would: speak, see the meter move, read the answer."""
        t = OnTerminal("--seconds", "3", env=self.env)
        self.server.wait_for_recorder()
        self.server.play(CLIP)
        self.assertEqual(t.finish(), 0)
        self.assertRegex(t.screen.text, r"\|#+[ !]*\| peak -\d+ dBFS")
        lines = t.screen.shown()
        self.assertIn("Monitor of Test-test  0:03.00", lines)
        self.assertEqual(len([line for line in lines if line.endswith("%")]), len(LABELS), lines)


if __name__ == "__main__":
    unittest.main()
