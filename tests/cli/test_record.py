# SPDX-License-Identifier: MIT
"""ser-record: options, answers, the file that it keeps, signals; sound from files and pipes."""

import array
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import time
import unittest

from record_support import SOURCE, Record, RecordCase, wav
from support import (B, LABELS, LONG, TEXT, TIMEOUT, WINDOW, Run, environment, path, prepare,
                     sanitized, tone, write_model, write_wav)

FAST, REAL = "fast:", "file:"
MINI = os.path.join(SOURCE, "models/ser-mini.safetensors")


def setUpModule():
    prepare()
    write_wav("stereo.wav", tone(2.5, 11, rate=44100), channels=2, rate=44100)
    write_wav("square.wav", array.array("h", [32767] * 20 + [-32767] * 20) * 800)
    write_wav("loud.wav", tone(2.0, 12, amplitude=1.0))
    with open(path("raw"), "wb") as f:
        f.write(tone(3.0, 13).tobytes())


def raw(name="raw"):
    with open(path(name), "rb") as f:
        return f.read()


class Options(RecordCase):
    def usage(self, message, *arguments):
        run = self.record_fails(2, message, *arguments)
        self.assertIn("Try 'ser-record --help'", run.err)
        self.assertEqual(run.out, "")

    def test_contradictions(self):
        for name, value in (("window", "2"), ("hop", "1"), ("smoothing", "3"), ("gate", "-50")):
            self.usage("--%s needs --continuous" % name, "--" + name, value)
            self.usage("--%s contradicts --no-predict" % name, "--continuous", "--no-predict",
                       "--" + name, value)
        self.usage("--attention contradicts --no-predict", "--no-predict", "--attention")
        self.usage("--levels needs --format jsonl", "--levels")
        self.usage("--force needs --output", "--force")
        self.usage("contradict each other", "-q", "-v")
        self.usage("--hop: 3 is longer than the window of 2", "-c", "--window", "2", "--hop", "3")
        self.usage("(the model's)", "-c", "--hop", "3")
        self.usage("600 s at most", "--seconds", "601")
        self.usage("takes no files", "clip.wav")
        self.usage("ends neither in .wav nor in .flac", "-o", path("clip.mp3"))
        self.usage("ends neither", "-o", ".wav")
        self.usage("no such source", "--source", "tape")
        self.usage("the model has no label 'sad'; it has neutral", "-l", "sad",
                   "--source", FAST + B)
        self.usage("'loud' is not a number from -200 to -1", "-c", "--gate", "loud")

    def test_privacy_is_promised(self):
        self.assertIn("never leaves\nthis machine, and is written nowhere",
                      self.record_ok("--help").out)

    def test_failures_say_what_to_do(self):
        self.record_fails(3, "missing", "--source", FAST + path("missing"), "-q")
        self.record_fails(7, "", "--source", FAST + TEXT, "-q")
        self.record_fails(3, "missing", "-m", path("missing"))
        self.record_fails(7, "cannot load the model", "-m", TEXT)
        self.record_fails(3, "is there already; --force", "-o", B)
        self.record_fails(3, "cannot make a file in", "-o", path("nowhere/a.wav"))
        os.makedirs(path("folder.wav"), exist_ok=True)
        self.record_fails(3, "no file", "-o", path("folder.wav"), "--force")

    def test_no_sound_hardware(self):
        env = environment(PULSE_SERVER="unix:" + path("no-server"), ALSA_CONFIG_PATH=path("none"))
        run = self.record_fails(4, "no microphone", env=env)
        self.assertIn("--source", run.err)
        run = self.record_fails(4, "no microphone found", "--list-devices", env=env)
        self.assertIn("--source file:", run.err)

    def test_network_fails(self):
        """NaN in the weights of the last layer: exit code 5, and what was recorded is kept."""
        model = write_model("nan.safetensors", poison="classifier.1.bias")
        words = ["-q", "-j", "-m", model, "--source", FAST + B]
        run = self.record_fails(5, "", *words)  # seen before anything is recorded
        self.assertEqual(run.out, "")
        run = self.record_fails(5, "", *words, "--continuous", "-o", path("nan.wav"))
        self.assertEqual(run.events("window"), [])
        self.assertEqual(run.events("end")[0]["reason"], "failed")
        self.assertGreater(len(wav("nan.wav")[2]), 0)

    def test_only_what_was_recorded_leaves_a_file(self):
        env = environment(PULSE_SERVER="unix:" + path("no-server"), ALSA_CONFIG_PATH=path("none"))
        self.record_fails(4, "no microphone", "-o", path("none.wav"), env=env)
        run = self.record_fails(7, "nothing was recorded", "--source", "-", "-o",
                                path("none.wav"), input=b"")
        self.assertEqual(run.out, "")
        if not sanitized():  # which needs address space without end
            def limit():
                resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

            self.record_fails(4, "out of memory", "--source", "-", "--rate", "768000", "--channels",
                              "32", "-s", "60", "-o", path("none.wav"), input=b"", preexec_fn=limit)
        self.record_fails(2, "4 GB of samples at most", "--source", "-", "--rate", "768000",
                          "--channels", "32", "-s", "90", "-o", path("none.wav"), input=b"")
        self.assertEqual([n for n in os.listdir(path()) if n.startswith("none")], [])


    def test_source_that_fails_is_not_opened_again(self):
        """NaN after two seconds of a file; a pipe that cannot be read."""
        samples = struct.pack("<40000f", *[0.1] * 39000, *[float("nan")] * 1000)
        with open(path("bad.wav"), "wb") as f:
            f.write(b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVEfmt "
                    + struct.pack("<IHHIIHH", 16, 3, 1, 16000, 64000, 4, 32) + b"data"
                    + struct.pack("<I", len(samples)) + samples)
        for i, extra in enumerate((["-c", "-w", "1"], ["--no-predict", "-c"], ["-s", "9"])):
            name = "bad%d.wav" % i
            run = self.record_fails(7, "what came before is kept", "-j", *extra, "--source",
                                    FAST + path("bad.wav"), "-o", path(name))
            end = run.events("end")[0]
            self.assertEqual((end["reason"], end["file"]), ("source", path(name)))
            self.assertEqual(len(wav(name)[2]) / 16000, end["seconds"])
            self.assertGreater(end["seconds"], 0.9)
        folder = os.open("/", os.O_RDONLY)
        run = self.record_fails(3, "standard input: Is a directory", "-j", "-c", "--source", "-",
                                stdin=folder)
        os.close(folder)
        self.assertEqual(run.events("end")[0]["reason"], "source")


class Answers(RecordCase):
    """Held against ser-predict on the file that was kept."""

    def kept(self, name, *arguments, source=None, **options):
        run = self.record_ok("-q", "--json", "--source", source or FAST + B, "-o", path(name),
                             *arguments, **options)
        end = run.events("end")
        self.assertEqual(len(end), 1)
        self.assertEqual(end[0]["file"], path(name))
        self.assertEqual(json.loads(run.out.splitlines()[-1])["event"], "end")
        self.assertEqual(json.loads(run.out.splitlines()[0])["event"], "start")
        return run, end[0]

    def test_one_clip(self):
        for i, (source, extra) in enumerate((
            (FAST + B, []),
            (FAST + B, ["--seconds", "1.3"]),
            (FAST + path("stereo.wav"), ["--attention"]),
            (FAST + path("loud.wav"), ["--labels", "happy,neutral"]),
            (FAST + path("square.wav"), []),  # clipped, if at +-32767
            (FAST + LONG, ["--seconds", "9"]),  # longer than the model takes in one piece
        )):
            for suffix in ("wav", "flac"):
                name = "clip%d.%s" % (i, suffix)
                run, end = self.kept(name, *extra, source=source)
                words = [w for w in extra if w != "--seconds" and not w[0].isdigit()]
                self.assert_same(run.events("window"), self.predict(*words, path(name)))
                self.assertEqual(end["reason"], "time" if "--seconds" in extra else "ended")

    def test_windows(self):
        for i, extra in enumerate((["--window", "1", "--hop", "0.25"], ["--hop", "0.5"],
                                   ["--window", "0.3", "--attention"],
                                   ["--window", "5", "--hop", "5"])):
            name = "windows%d.wav" % i
            run, end = self.kept(name, "--continuous", *extra, source=FAST + LONG)
            words = list(extra)
            if "--window" not in words:
                words += ["--window", str(WINDOW)]  # the model's own
            if "--hop" not in words:
                words += ["--hop", "0.3"]  # 1 s, but no longer than the window
            self.assert_same(run.events("window"), self.predict(*words, path(name)))
            self.assertGreater(len(run.events("window")), 1)
            self.assertEqual(end["seconds"], 10)

    def test_default_hop(self):
        run = self.record_ok("-q", "-j", "-c", "--source", FAST + LONG)
        self.assertEqual([e["start"] for e in run.events("window")][:3], [0, 1, 2])

    def test_text(self):
        run = self.record_ok("-q", "--source", FAST + B, "-o", path("words.wav"))
        self.assertEqual(run.out, Run(path("words.wav")).out)
        run = self.record_ok("-q", "-c", "--window", "1", "--source", FAST + B)
        other = Run("--window", "1", "--hop", "1", B).out
        self.assertEqual(run.out, other)
        self.assertNotIn("\x1b", run.out)

    def test_raw_samples(self):
        source = ["-q", "-j", "--source", "-"]
        write_wav("raw16.wav", tone(3.0, 13))
        run = self.record_ok(*source, input=raw())
        self.assert_same(run.events("window"), self.predict(path("raw16.wav")))
        write_wav("raw2.wav", tone(3.0, 13), channels=2, rate=24000)
        run = self.record_ok(*source, "--rate", "24000", "--channels", "2", "-o", path("in.wav"),
                             input=raw() + b"x")  # half a frame at the end is none
        self.assert_same(run.events("window"), self.predict(path("raw2.wav")))
        self.assertEqual(wav("in.wav"), wav("raw2.wav"))

    def test_gate_and_smoothing(self):
        samples = tone(2.0, 5) + tone(2.0, 5, amplitude=0.0) + tone(2.0, 6)
        write_wav("pause.wav", samples)
        words = ["-q", "-j", "-c", "--window", "1", "--source", FAST + path("pause.wav")]
        plain = self.record_ok(*words).events("window")
        gated = self.record_ok(*words, "--gate", "-60").events("window")
        self.assertEqual(["gated" in e["flags"] for e in gated], [0, 0, 1, 1, 0, 0])
        self.assertEqual(gated[2]["label"], None)
        self.assertEqual(gated[2]["scores"], {})
        self.assertEqual(gated[0]["scores"], plain[0]["scores"])
        text = self.record_ok(*[w for w in words if w != "-j"], "--gate", "-60").out
        self.assertRegex(text, r"0:02.00 -  0:03.00  -\n  silent: .*\n  gated: quieter than --gate")
        smooth = self.record_ok(*words, "--smoothing", "5").events("window")
        for before, after, one in zip(smooth, smooth[1:], plain[1:]):
            for label in LABELS:  # between where it was and where it would go at once
                low, high = sorted((before["scores"][label], one["scores"][label]))
                self.assertTrue(low - 1e-6 <= after["scores"][label] <= high + 1e-6)

    def test_levels(self):
        run = self.record_ok("-q", "-j", "--levels", "--source", FAST + path("pause.wav"),
                             "--no-predict")
        levels = run.events("level")
        self.assertEqual(len(levels), 100)  # 5 s
        self.assertEqual(levels[19]["time"], 1)
        _, _, samples = wav("pause.wav")
        for level in (levels[3], levels[45], levels[90]):
            end = round(level["time"] * 16000)
            part = samples[end - 800 : end]
            peak = max(abs(x) for x in part) / 32768
            self.assertAlmostEqual(level["low"], min(part) / 32768, 4)
            self.assertAlmostEqual(level["high"], max(part) / 32768, 4)
            self.assertEqual(level["peak_db"] == -100, peak == 0)
            if peak:
                rms = (sum(x * x for x in part) / len(part)) ** 0.5 / 32768
                self.assertAlmostEqual(10 ** (level["peak_db"] / 20), peak, 3)
                self.assertAlmostEqual(10 ** (level["rms_db"] / 20), rms, 3)
        self.assertEqual(sum(e["clipped"] for e in levels), 0)
        loud = self.record_ok("-q", "-j", "--levels", "--source", "-", "--no-predict",
                              input=b"\xff\x7f\x00\x80" * 8000)
        self.assertEqual(sum(e["clipped"] for e in loud.events("level")), 16000)

    def test_warnings_without_a_terminal(self):
        run = Record("-j", "--no-predict", "--seconds", "4", "--source", FAST + path("pause.wav"))
        self.assertEqual(run.err.count("is the microphone muted?"), 1)
        run = Record("-j", "--no-predict", "--source", "-", input=b"\xff\x7f" * 16000)
        self.assertEqual(run.err.count("turn the microphone down"), 1)
        for text in (run.out, run.err):
            self.assertNotIn("\x1b", text)
            self.assertNotIn("\r", text)

    def test_lines_come_at_once(self):
        """From a pipe that stays open: the answer is there before the next sound is."""
        run = Record("-q", "-j", "-c", "--window", "1", "--source", "-", wait=False,
                     stdin=-1)
        run.process.stdin.write(raw()[:32000])
        run.process.stdin.flush()
        self.assertEqual(run.event("window")["end"], 1)
        run.process.stdin.write(raw()[32000:64000])
        run.process.stdin.flush()
        self.assertEqual(run.event("window")["end"], 2)
        run.finish()
        self.assertEqual(run.code, 0)

    def test_time_of_a_real_source(self):
        started = time.monotonic()
        run = self.record_ok("-q", "-j", "--seconds", "1.5", "--source", REAL + LONG)
        self.assertGreater(time.monotonic() - started, 1.4)
        self.assertEqual(run.events("window")[0]["duration"], 1.5)


class Files(RecordCase):
    def test_suffixes_in_capitals(self):
        self.record_ok("-q", "--no-predict", "--source", FAST + B, "-o", path("BIG.WAV"))
        self.assertEqual(wav("BIG.WAV"), wav("b.wav"))

    def test_native_rate_and_channels(self):
        data = tone(1.0, 3, rate=48000).tobytes()
        for suffix in ("wav", "flac"):
            name = path("native." + suffix)
            self.record_ok("-q", "--no-predict", "--source", "-", "--rate", "48000",
                           "--channels", "2", "-o", name, input=data)
            row = self.predict(name)[0]
            self.assertEqual((row["sampling_rate"], row["channels"]), (48000, 2))
            self.assertEqual(row["duration"], 0.5)

    def test_unknown_length_may_become_rf64(self):
        """Of a length that nobody knows: the header has room for 64-bit sizes, unused here."""
        self.record_ok("-q", "--no-predict", "-c", "--source", FAST + B, "-o", path("open.wav"))
        with open(path("open.wav"), "rb") as f:
            head = f.read(16)
        self.assertEqual((head[:4], head[8:]), (b"RIFF", b"WAVEJUNK"))
        self.assertEqual(wav("open.wav"), wav("b.wav"))  # and the format that all readers know

    def test_replaced_only_by_force(self):
        name = path("mine.wav")
        write_wav("mine.wav", tone(0.5, 1))
        before = wav("mine.wav")
        words = ["-q", "--no-predict", "--source", FAST + B, "-o", name]
        self.record_fails(3, "--force replaces it", *words)
        self.assertEqual(wav("mine.wav"), before)
        self.record_ok(*words, "--force")
        self.assertEqual(wav("mine.wav"), wav("b.wav"))
        shutil.copy(B, path("rest.wav.part"))
        words[-1] = path("rest.wav")
        self.record_fails(3, "rest.wav.part: is there already", *words)
        self.record_ok(*words, "--force")
        self.assertFalse(os.path.exists(path("rest.wav.part")))

    def test_part_is_a_file_of_its_own(self):
        """A link of its name is replaced, not followed; two recordings do not share it."""
        write_wav("diary.wav", tone(0.5, 1))
        before = wav("diary.wav")
        name = path("linked.wav")
        os.symlink("diary.wav", name + ".part")
        words = ["-q", "--no-predict", "--force", "-o", name, "--source"]
        self.record_ok(*words, FAST + B)
        self.assertEqual((wav("diary.wav"), wav("linked.wav")), (before, wav("b.wav")))
        self.assertFalse(os.path.islink(name))
        run = Record(*words, "-", wait=False, stdin=-1)
        while not os.path.exists(name + ".part"):
            time.sleep(0.01)
        self.record_fails(3, "another program is recording into it", *words, FAST + B)
        run.finish(raw())

    def test_a_file_that_comes_in_the_meantime_stays(self):
        run = Record("-q", "--no-predict", "--source", "-", "-o", path("late.wav"), wait=False,
                     stdin=-1)
        while not os.path.exists(path("late.wav.part")):
            time.sleep(0.01)
        with open(path("late.wav"), "w") as f:
            f.write("somebody's")
        run.finish(raw())
        self.assertEqual(run.code, 3)
        self.assertIn("late.wav.part: cannot be renamed", run.err)
        with open(path("late.wav")) as f:
            self.assertEqual(f.read(), "somebody's")
        self.assertEqual(wav("late.wav.part")[2].tobytes(), raw())

    def test_flac_has_limits(self):
        self.record_fails(2, "cannot hold 9 channels", "-q", "--no-predict", "--source", "-",
                          "--channels", "9", "-o", path("nine.flac"), input=raw())
        self.assertFalse(os.path.exists(path("nine.flac.part")))

    def limited(self, name, *extra, size=50000):
        """Recorded where no file may grow beyond `size` bytes."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        run = Record("--json", "--source", FAST + LONG, "-o", path(name), *extra,
                     preexec_fn=limit)
        self.assertEqual(run.code, 3, run.err)
        self.assertIn("cannot write: File too large; what was recorded so far is kept", run.err)
        self.assertFalse(os.path.exists(path(name + ".part")))
        self.assertEqual(run.events("end")[0]["reason"], "disk")
        self.assertEqual(run.events("end")[0]["file"], path(name))
        kept = self.predict(path(name))[0]["duration"]
        self.assertAlmostEqual(run.events("end")[0]["seconds"], kept, 2)
        return run

    def test_full_disk(self):
        samples = wav("long.wav")[2]
        self.limited("full1.wav", "--seconds", "8")
        kept = wav("full1.wav")[2]
        self.assertEqual(kept, samples[: len(kept)])
        self.assertGreater(len(kept), 24900)
        self.limited("full2.wav", "--continuous")
        row = self.predict(path("full2.wav"))[0]
        self.assertGreater(row["duration"], 1.5)
        run = self.limited("full3.flac", "--seconds", "8")
        self.assertGreater(self.predict(path("full3.flac"))[0]["duration"], 0.5)
        self.assertEqual(len(run.events("window")), 1)  # answered all the same

    def test_full_file_system(self):
        if os.geteuid() != 0:
            self.skipTest("only root mounts a small file system")
        os.makedirs(path("small"), exist_ok=True)
        if os.system("mount -t tmpfs -o size=64k none %s 2>/dev/null" % path("small")) != 0:
            self.skipTest("no file system can be mounted here")
        try:
            run = Record("--source", FAST + LONG, "-o", path("small/a.wav"), "--seconds", "9")
            self.assertEqual(run.code, 3, run.err)
            self.assertIn("No space left on device; what was recorded so far is kept", run.err)
            kept = wav("small/a.wav")[2]
            self.assertEqual(kept, wav("long.wav")[2][: len(kept)])
            self.assertGreater(len(kept), 28000)
        finally:
            os.system("umount " + path("small"))

    def test_closed_output(self):
        run = Record("-q", "-j", "-c", "--levels", "--source", REAL + LONG, "-o",
                     path("closed.wav"), wait=False)
        run.event("level")
        run.process.stdout.close()
        run.process.wait(30)
        self.assertEqual(run.process.returncode, 3)
        run.process.stderr.close()
        self.assertGreater(len(wav("closed.wav")[2]), 800)


class Signals(RecordCase):
    def stopped(self, number, name, *extra, after):
        run = Record("-j", "--levels", "--no-predict", "--source", REAL + LONG, "-o", path(name),
                     *extra, wait=False)
        run.event("level")
        time.sleep(after)
        run.send(number)
        run.finish()
        return run

    def test_random_moments(self):
        """The file holds what the levels told of, and is a beginning of what was played."""
        numbers = random.Random(5)
        samples = wav("long.wav")[2]
        for i in range(10):
            number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[i % 3]
            suffix = ("wav", "flac")[i % 2]
            name = "stop%d.%s" % (i, suffix)
            extra = (["--seconds", "9"], ["--continuous"])[i // 2 % 2]
            run = self.stopped(number, name, *extra, after=numbers.uniform(0, 1.5))
            self.assertEqual(run.code, 0 if number == signal.SIGINT else 128 + number, run.err)
            end = run.events("end")[0]
            self.assertEqual((end["reason"], end["file"]), ("stopped", path(name)))
            self.assertGreaterEqual(end["seconds"], run.events("level")[-1]["time"])
            self.assertFalse(os.path.exists(path(name + ".part")))
            self.assertEqual(self.predict(path(name))[0]["duration"], end["seconds"])
            if suffix == "wav" and extra[0] == "--seconds":
                kept = wav(name)[2]
                self.assertEqual(kept, samples[: len(kept)])

    def test_what_waits_is_kept(self):
        """A reader of the lines that is slow: sound up to the signal is in the file."""
        run = Record("-q", "-j", "--levels", "--no-predict", "--source", REAL + LONG, "-o",
                     path("slow.wav"), "--seconds", "9", wait=False)
        fcntl.fcntl(run.process.stdout, 1031, 4096)  # F_SETPIPE_SZ: about 30 lines
        run.event("level")
        time.sleep(3)
        run.send(signal.SIGINT)
        run.finish()
        self.assertEqual(run.code, 0, run.err)
        self.assertGreater(run.events("end")[0]["seconds"], 2.9)
        kept = wav("slow.wav")[2]
        self.assertEqual(kept, wav("long.wav")[2][: len(kept)])

    def test_killed(self):
        """SIGKILL at random moments: the part is a file that can be read."""
        numbers = random.Random(6)
        samples = wav("long.wav")[2]
        for i in range(4):
            name = "kill%d.%s" % (i, ("wav", "flac")[i % 2])
            run = Record("-q", "-j", "--levels", "--no-predict", "--source", REAL + LONG, "-o",
                         path(name), wait=False)
            while run.event("level")["time"] < 1.2 + numbers.uniform(0, 1):
                pass
            run.send(signal.SIGKILL)
            run.finish()
            told = run.events("level")[-1]["time"]
            self.assertFalse(os.path.exists(path(name)))
            row = self.predict(path(name + ".part"))[0]
            self.assertGreater(row["duration"], told - 1.01 if i % 2 == 0 else told - 0.6)
            if i % 2 == 0:
                kept = wav(name + ".part")[2]
                self.assertGreaterEqual(len(kept), 16000)
                self.assertEqual(kept, samples[: len(kept)])

    def test_ctrl_c_ends_in_order(self):
        """What came is answered; the same as ser-predict says of the file."""
        run = Record("-j", "--levels", "--source", REAL + LONG, "-o", path("ctrl.wav"),
                     "--seconds", "8", wait=False)
        while run.event("level")["time"] < 1.5:
            pass
        run.send(signal.SIGINT)
        run.finish()
        self.assertEqual(run.code, 0, run.err)
        self.assert_same(run.events("window"), self.predict(path("ctrl.wav")))
        run = Record("-j", "--levels", "--source", REAL + LONG, "-o", path("ctrl2.wav"), "-c",
                     "--window", "0.5", "--hop", "0.25", wait=False)
        while run.event("window")["end"] < 1.5:
            pass
        run.send(signal.SIGTERM)
        run.finish()
        self.assertEqual(run.code, 143, run.err)
        self.assert_same(run.events("window"),
                         self.predict("--window", "0.5", "--hop", "0.25", path("ctrl2.wav")))

    def test_slow_model(self):
        """A minute for which the network needs far longer: it is kept at once, and Ctrl-C does not
        wait for all the answers."""
        write_wav("minute.wav", tone(60.0, 14))
        run = Record("-j", "-c", "--window", "20", "--hop", "0.01", "-m", MINI, "--source",
                     FAST + path("minute.wav"), "-o", path("slow60.wav"), wait=False)
        run.event("window")
        time.sleep(1)
        self.assertEqual(wav("slow60.wav"), wav("minute.wav"))  # has its name already
        run.send(signal.SIGINT)
        started = time.monotonic()
        run.finish()
        self.assertLess(time.monotonic() - started, 8)
        self.assertEqual(run.code, 0, run.err)
        missing = re.search(r"([\d.]+) s of sound were not answered: the model is slower "
                            "than the sound; the recording is complete", run.err)
        self.assertAlmostEqual(run.events("window")[-1]["end"], 60 - float(missing[1]), 2)
        self.assertEqual(run.events("end")[0]["seconds"], 60)

    def test_nobody_reads(self):
        """Lines that are not read, until the pipe is full: file and Ctrl-C do not wait for it."""
        run = Record("-q", "-j", "--levels", "--no-predict", "--source", REAL + LONG, "-o",
                     path("unread.wav"), wait=False)
        fcntl.fcntl(run.process.stdout, 1031, 4096)  # F_SETPIPE_SZ
        time.sleep(3)
        run.send(signal.SIGINT)
        started = time.monotonic()
        self.assertEqual(run.process.wait(TIMEOUT), 3)
        self.assertLess(time.monotonic() - started, 4)
        run.finish()
        self.assertIn("standard output is not read", run.err)
        self.assertEqual(run.out[-1], "\n")  # whole lines
        kept = wav("unread.wav")[2]
        self.assertGreater(len(kept), 2.5 * 16000)
        self.assertEqual(kept, wav("long.wav")[2][: len(kept)])

    def test_second_signal_ends_at_once(self):
        run = Record("-q", "-j", "--levels", "--source", REAL + LONG, "-o", path("twice.wav"),
                     "--seconds", "9", wait=False)
        run.event("level")
        os.kill(run.process.pid, signal.SIGSTOP)  # so that both are waiting
        run.send(signal.SIGINT)
        run.send(signal.SIGTERM)
        os.kill(run.process.pid, signal.SIGCONT)
        run.finish()
        self.assertIn(run.code, (130, 143))
        self.assertTrue(os.path.exists(path("twice.wav.part")))

    def test_stopped_and_continued(self):
        run = Record("-q", "-j", "--levels", "--no-predict", "--source", REAL + LONG, "--seconds",
                     "1.5", wait=False)
        run.event("level")
        run.send(signal.SIGTSTP)
        time.sleep(0.3)
        run.send(signal.SIGCONT)
        run.finish()
        self.assertEqual((run.code, run.err), (0, ""))
        self.assertEqual(run.events("end")[0]["seconds"], 1.5)


if __name__ == "__main__":
    unittest.main()
