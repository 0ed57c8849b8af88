# SPDX-License-Identifier: MIT
"""ser-predict: options, inputs, exit codes."""

import array
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import unittest

from support import (
    A,
    B,
    Case,
    LABELS,
    LONG,
    MAX_SECONDS,
    PREDICT,
    Run,
    TEXT,
    WINDOW,
    environment,
    path,
    prepare,
    sanitized,
    tone,
    write_model,
    write_wav,
)

setUpModule = prepare


class CommandLine(Case):
    def test_help_goes_to_standard_output(self):
        for option in ("--help", "-h"):
            run = self.run_ok(option)
            self.assertIn("Usage: ser-predict", run.out)
            self.assertLessEqual(max(map(len, run.out.splitlines())), 80)

    def test_version(self):
        for option in ("--version", "-V"):
            self.assertRegex(self.run_ok(option).out, r"^ser-predict \(libser\) \d+\.\d+\.\d+\n$")

    def test_no_input(self):
        run = self.usage_fails("no input")
        self.assertIn("Usage: ser-predict", run.err)

    def test_unknown_options_name_the_nearest(self):
        self.usage_fails(
            "unknown option '--modle'; did you mean '--model'?", "--modle", "x", "a.wav"
        )
        self.usage_fails("did you mean '--batch-size'?", "--batchsize=3", "a.wav")
        run = self.usage_fails("unknown option '--zzzzzz'", "--zzzzzz")
        self.assertNotIn("did you mean", run.err)
        self.usage_fails("unknown option '-z'", "-z")
        self.usage_fails("unknown option '-z'", "--quiet", "-zq")

    def test_prefixes(self):
        self.assertEqual(self.run_ok("--form", "rttm", A).out[:7], "SPEAKER")
        self.usage_fails("option '--l' could be one of 3", "--l", "x")

    def test_arguments_missing_and_superfluous(self):
        self.usage_fails("--model needs an argument", A, "--model")
        self.usage_fails("--top-k needs an argument", A, "-k")
        self.usage_fails("--quiet takes no argument", "--quiet=1", A)

    def test_whole_numbers_are_strict(self):
        ranges = {
            "--top-k": "1 to 1000",
            "--threads": "1 to 1024",
            "--batch-size": "1 to 4096",
            "--channel": "0 to 1023",
        }
        for option, limits in ranges.items():
            for word in (
                "x",
                "",
                "1x",
                " 1",
                "1 ",
                "+1",
                "0x1",
                "1.0",
                "1e1",
                "-1",
                "99999",
                "18446744073709551617",
            ):
                self.usage_fails(
                    "%s: '%s' is not a whole number from %s" % (option, word, limits),
                    option,
                    word,
                    A,
                )

    def test_numbers_are_strict(self):
        ranges = {
            "--window": "0.025 to 600",
            "--hop": "0.01 to 600",
            "--offset": "0 to 1e+09",
            "--length": "0.001 to 1e+09",
        }
        for option, limits in ranges.items():
            for word in (
                "x",
                "",
                "1x",
                " 1",
                "1 ",
                "+1",
                "0x1",
                "1,5",
                "nan",
                "inf",
                "1e999",
                "-1",
                "1e",
                "1e10",
            ):
                self.usage_fails(
                    "%s: '%s' is not a number from %s" % (option, word, limits), option, word, A
                )

    def test_choices(self):
        self.usage_fails(
            "--format: 'xml' is not one of text, jsonl, csv, rttm, audacity, textgrid",
            "--format",
            "xml",
            A,
        )
        self.usage_fails("--color: 'yes' is not one of auto, always, never", "--color=yes", A)
        for word in ("gpu", "", "cuda:", "cuda:x", "cuda:-1", "CPU", "cuda:99999"):
            self.usage_fails(
                "--device: '%s' is not auto, cpu, cuda or cuda:N" % word, "--device", word, A
            )

    def test_contradictions(self):
        self.usage_fails("--hop needs --window", "--hop", "1", A)
        self.usage_fails("--hop: 2 is longer than the window", "--window", "1", "--hop", "2", A)
        self.usage_fails("contradict", "--quiet", "--verbose", A)
        self.usage_fails("only once", "-", "-")
        for name in ("csv", "rttm", "audacity", "textgrid"):
            self.usage_fails("--attention goes with", "--attention", "--format", name, A)
        for name in ("audacity", "textgrid"):
            self.usage_fails("--format %s holds one input, not 2" % name, "--format", name, A, B)

    def test_operands_after_two_dashes(self):
        write_wav("--help", tone(0.5))
        run = self.run_ok("--json", "--", "--help", cwd=path())
        self.assertEqual(run.objects()[0]["file"], "--help")

    def test_options_after_operands(self):
        self.assertEqual(self.run_ok(A, "--json").objects()[0]["file"], A)

    def test_numbers_do_not_follow_the_locale(self):
        if not shutil.which("localedef") or not os.path.exists("/usr/share/i18n/locales/de_DE"):
            self.skipTest("no localedef or no locale sources to make de_DE with")
        subprocess.run(
            ["localedef", "-i", "de_DE", "-f", "UTF-8", path("de_DE.UTF-8")],
            check=False,
            stderr=subprocess.DEVNULL,
        )
        env = environment(LC_ALL="de_DE.UTF-8", LOCPATH=path())
        run = self.run_ok("--json", "--window", "0.5", A, env=env)
        self.assertEqual(run.out, self.run_ok("--json", "--window", "0.5", A).out)
        self.assertEqual(run.objects()[0]["end"], 0.5)


class Model(Case):
    def test_model_option_and_environment(self):
        other = write_model("other.safetensors", labels=["yes", "no"])
        self.assertEqual(
            set(self.run_ok("--json", "-m", other, A).objects()[0]["scores"]), {"yes", "no"}
        )
        run = self.run_ok("--json", A, env=environment(SER_MODEL=other))
        self.assertEqual(run.objects()[0]["model"], other)

    def test_bad_models(self):
        self.run_fails(3, "cannot load the model", "--model", path("missing"), A)
        self.run_fails(3, "$SER_MODEL", A, env=environment(SER_MODEL=path("missing")))
        self.run_fails(7, "cannot load the model", "--model", TEXT, A)

    def test_nan_is_a_numeric_failure(self):
        bad = write_model("nan.safetensors", poison="classifier.1.bias")
        run = Run("--json", "--quiet", "--model", bad, A, B)
        self.assertEqual(run.code, 5, run.err)
        self.assertEqual([o["status"] for o in run.objects()], ["SER_ERR_NUMERIC"] * 2)

    def test_labels(self):
        everything = self.run_ok("--json", A).objects()[0]["scores"]
        chosen = self.run_ok("--json", "--labels", "happy,neutral", A).objects()[0]
        total = everything["happy"] + everything["neutral"]
        self.assertEqual(set(chosen["scores"]), {"happy", "neutral"})
        for label, score in chosen["scores"].items():
            self.assertAlmostEqual(score, everything[label] / total, 6)
        self.assertAlmostEqual(sum(chosen["scores"].values()), 1.0, 6)
        self.assertEqual(chosen["score"], chosen["scores"][chosen["label"]])
        header = self.run_ok("--format", "csv", "-l", "happy,neutral", A).out.split("\r\n")[0]
        self.assertTrue(header.endswith(",flags,neutral,happy"), header)

    def test_unknown_labels_list_the_known_ones(self):
        run = self.usage_fails(
            "--labels: the model has no label 'joyful'", "--labels", "happy,joyful", A
        )
        for label in LABELS:
            self.assertIn(label, run.err)
        self.usage_fails("no label ''", "--labels", "happy,", A)
        self.usage_fails("name two labels or more", "--labels", "happy", A)
        self.usage_fails("name two labels or more", "--labels", "happy,happy", A)


class Device(Case):
    def test_list(self):
        lines = self.run_ok("--list-devices").out.splitlines()
        self.assertRegex(lines[0], r"^cpu +\S")
        objects = self.run_ok("--list-devices", "--json").objects()
        self.assertEqual((objects[0]["device"], objects[0]["available"]), ("cpu", True))
        self.assertEqual(len([o for o in objects if o["available"]]), len(lines))
        self.assertEqual(objects[1]["device"], "cuda")
        self.assertIn("libser-cuda.so is not in", objects[1]["reason"])
        self.assertIn("libser-cuda.so is not in", Run("--list-devices", "-v").err)

    def test_cpu(self):
        self.assertEqual(self.run_ok("--json", "--device", "cpu", A).objects()[0]["device"], "cpu")

    def test_no_gpu(self):
        if "cuda" in self.run_ok("--list-devices").out:
            self.skipTest("there is a GPU")
        for name in ("cuda", "cuda:1"):
            run = self.run_fails(4, "cuda: libser-cuda.so is not in", "--device", name, A)
            self.assertEqual(run.out, "")
            self.assertIn("use the CPU", run.err)

    def test_precision(self):
        plain = self.run_ok("--json", "--precision", "f32", A).out
        self.assertEqual(self.run_ok("--json", A).out, plain)
        run = Run("--json", "--precision", "bf16", "--device", "cpu", A)
        self.assertEqual((run.code, run.out), (0, plain))
        self.assertIn("bf16 is not available", run.err)
        self.usage_fails("--precision", "--precision", "f16", A)

    def test_verbose_tells_where_the_time_went(self):
        self.assertRegex(
            Run("-v", A, B).err,
            r"waited \d+\.\d+ s for decoding, \d+\.\d+ s for the device, \d+\.\d+ s writing",
        )

    def test_threads_do_not_change_the_answer(self):
        runs = [self.run_ok("--json", "--threads", n, A).objects()[0]["scores"] for n in "12"]
        for label in LABELS:
            self.assertAlmostEqual(runs[0][label], runs[1][label], 5)


class EmulatedGpu(Case):
    """The CUDA backend as a user meets it, on the emulated card of tests/emulation."""

    def setUp(self):
        self.env = environment(SER_MODULE_PATH=os.environ["SER_EMULATED_MODULE"])

    def scores(self, *arguments):
        objects = self.run_ok("--json", *arguments, env=self.env).objects()
        return [(o["file"], o["start"], o["label"], o["scores"]) for o in objects], objects

    def close(self, arguments, device, delta):
        wanted, _ = self.scores("--device", "cpu", *arguments)
        got, objects = self.scores(*device, *arguments)
        self.assertEqual([g[:2] for g in got], [w[:2] for w in wanted])
        for (_, _, _, a), (_, _, _, b) in zip(got, wanted):
            for label in LABELS:
                self.assertAlmostEqual(a[label], b[label], delta=delta)
        return objects

    def test_list(self):
        out = self.run_ok("--list-devices", env=self.env).out
        self.assertRegex(out, r"cuda:0 +cuda:0 \(")

    def test_files_of_many_lengths(self):
        files = [A, B, A, LONG, B, A]
        objects = self.close(files, ("--device", "cuda", "--precision", "f32"), 1e-5)
        self.assertEqual({o["device"] for o in objects}, {"cuda:0"})
        self.close(files, ("--device", "cuda:0"), 2e-2)

    def test_windows(self):
        arguments = ["--window", "0.8", "--hop", "0.3", LONG]
        self.close(arguments, ("--precision", "f32", "--batch-size", "3"), 1e-5)

    def test_several_batches_in_a_call(self):
        files = [A, B, A, LONG, B, A, B] * 3
        self.close(files, ("--precision", "f32", "--batch-size", "2"), 1e-5)

    def test_padding_of_transformers_does_not_change_answers(self):
        model = write_model("hf.safetensors", padding="hf")
        files = ["--model", model, "--batch-size", "2", A, A, A, B, B, A]
        self.close(files, ("--precision", "f32"), 1e-5)

    def test_same_bits_twice(self):
        runs = [self.run_ok("--json", A, B, LONG, env=self.env).out for _ in range(2)]
        self.assertEqual(runs[0], runs[1])

    def test_says_what_it_computes_in(self):
        for precision, words in (("auto", "bf16 with f32 sums"), ("f32", "f32 (no TF32)")):
            run = Run("-v", "--precision", precision, A, env=self.env)
            self.assertEqual(run.code, 0)
            self.assertIn(f"computing in {words} on cuda:0", run.err)

    def test_no_such_card(self):
        self.run_fails(4, "cuda:7: there is no such GPU", "--device", "cuda:7", A, env=self.env)


class Inputs(Case):
    def names(self, *arguments, code=0):
        run = Run("--json", *arguments)
        self.assertEqual(run.code, code, run.err)
        return [o["file"] for o in run.objects()]

    def test_order_is_that_of_the_command_line(self):
        files = [path(n) for n in ("c.wav", "a.wav", "long.wav", "b.wav", "a.wav")]
        self.assertEqual(self.names(*files), files)
        self.assertEqual(self.names("--batch-size", "2", *files), files)

    def test_directories(self):
        for name in (
            "d/b.WAV",
            "d/a.wav",
            "d/sub/z.Wave",
            "d/sub/a.wav",
            "d/.hidden.wav",
            "d/._a.wav",
            "d/.git/x.wav",
        ):
            write_wav(name, tone(0.3))
        for name in ("d/notes.txt", "d/wav"):
            with open(path(name), "w") as f:
                f.write("text")
        os.symlink("..", path("d/sub/loop"))
        os.symlink("../../a.wav", path("d/sub/link.wav"))
        os.mkfifo(path("d/pipe.wav"))
        expected = [
            path("d", n) for n in ("a.wav", "b.WAV", "sub/a.wav", "sub/link.wav", "sub/z.Wave")
        ]
        self.assertEqual(self.names(path("d")), expected)
        here = Run("--json", ".", cwd=path("d"))
        self.assertEqual(
            [o["file"] for o in here.objects()],
            ["./" + os.path.relpath(name, path("d")) for name in expected],
        )

    def test_empty_directory(self):
        os.makedirs(path("empty"), exist_ok=True)
        self.run_fails(3, "no audio files in this directory", path("empty"))
        self.assertEqual(self.names(path("empty"), A, code=1), [path("empty"), A])

    def test_dangling_link_in_a_directory(self):
        write_wav("dangling/a.wav", tone(0.3))
        os.symlink("nowhere", path("dangling/b.wav"))
        self.assertEqual(len(self.names(path("dangling"), code=1)), 2)

    def test_named_files_are_tried_whatever_they_are_called(self):
        shutil.copy(A, path("recording"))
        self.assertEqual(self.names(path("recording")), [path("recording")])

    def test_file_names_are_bytes(self):
        name = os.path.join(os.fsencode(path("bytes")), b"caf\xe9 \n\x1b[31m \xc3\xa9.wav")
        write_wav(name, tone(0.5))
        run = self.run_ok("--json", name)
        self.assertEqual(os.fsencode(run.objects()[0]["file"]), name)
        run.out.encode("utf-8")
        text = self.run_ok(name).out
        self.assertIn("caf\\xe9 \\x0a\\x1b[31m \u00e9.wav", text)
        self.assertNotIn("\x1b", text)
        os.rename(name, name + b"x")
        run = self.run_fails(3, "caf\\xe9 \\x0a\\x1b[31m \u00e9.wav: ", name)
        self.assertNotIn("\x1b", run.err)
        self.assertEqual(
            Run("--json", os.fsencode(path("bytes")) + b"/\xff").objects()[0]["file"],
            path("bytes") + "/\udcff",
        )

    def test_missing_file(self):
        run = self.run_fails(3, path("missing.wav") + ": ", path("missing.wav"))
        self.assertEqual(run.err.count("missing.wav"), 1)
        self.assertEqual(run.out, "")

    def test_unreadable(self):
        write_wav("locked.wav", tone(0.3))
        os.chmod(path("locked.wav"), 0)
        options = {}
        if os.geteuid() == 0:  # root reads everything: become somebody else
            options = {"user": 65534}
            os.chmod(path(), 0o755)
            probe = subprocess.run(["test", "-x", PREDICT], user=65534)
            if probe.returncode != 0:
                self.skipTest("the program lies where an ordinary user may not look")
        self.run_fails(3, "locked.wav: Permission denied", path("locked.wav"), **options)
        os.makedirs(path("locked"), exist_ok=True)
        os.chmod(path("locked"), 0)
        self.run_fails(3, "locked: Permission denied", path("locked"), **options)
        os.chmod(path("locked"), 0o755)

    def test_text_named_wav(self):
        self.run_fails(7, TEXT + ": ", TEXT)

    def test_exit_codes_of_several_failures(self):
        self.run_fails(1, "text.wav", A, TEXT)
        self.run_fails(7, "missing", TEXT, path("missing"))
        self.run_fails(3, "missing", path("missing"), TEXT)

    def test_failures_stand_in_order_in_json(self):
        run = Run("--json", A, TEXT, path("missing"), B)
        self.assertEqual(run.code, 1)
        objects = run.objects()
        self.assertEqual(
            [sorted(o)[0] for o in objects], ["channels", "error", "error", "channels"]
        )
        self.assertEqual([o.get("status") for o in objects[1:3]], ["SER_ERR_FORMAT", "SER_ERR_IO"])
        self.assertEqual(set(objects[1]), {"file", "error", "status"})
        self.assertEqual(objects[1]["file"], TEXT)

    def test_standard_input(self):
        with open(A, "rb") as f:
            data = f.read()
        run = self.run_ok("--json", "-", input=data)
        self.assertEqual(run.objects()[0]["file"], "-")
        self.assertEqual(
            run.objects()[0]["scores"], self.run_ok("--json", A).objects()[0]["scores"]
        )
        self.run_fails(7, "standard input: ", "-", input=b"")
        self.run_fails(7, "standard input: ", "-", input=b"no audio" * 100)

    def test_long_standard_input(self):
        with open(LONG, "rb") as f:
            data = f.read()
        piped = self.run_ok("--json", "-", input=data).objects()[0]
        named = self.run_ok("--json", LONG).objects()[0]
        self.assertEqual(piped["scores"], named["scores"])

    def test_closed_standard_input(self):
        run = subprocess.run(
            ["sh", "-c", 'exec "$0" --json - <&-', PREDICT], env=environment(), capture_output=True
        )
        self.assertEqual(run.returncode, 3, run.stderr)

    def test_flac_from_a_pipe(self):
        maker = shutil.which("flac") or shutil.which("sox") or shutil.which("ffmpeg")
        if not maker:
            self.skipTest("no flac, sox or ffmpeg to make a FLAC file with")
        arguments = {
            "flac": ["-s", "-f", "-o", path("a.flac"), A],
            "sox": [A, path("a.flac")],
            "ffmpeg": ["-v", "error", "-y", "-i", A, path("a.flac")],
        }
        subprocess.run([maker, *arguments[os.path.basename(maker)]], check=True)
        with open(path("a.flac"), "rb") as f:
            run = self.run_ok("--json", "-", input=f.read())
        self.assertEqual(
            run.objects()[0]["scores"], self.run_ok("--json", A).objects()[0]["scores"]
        )


class Audio(Case):
    def one(self, *arguments):
        return self.run_ok("--json", *arguments).objects()[0]

    def test_facts(self):
        write_wav(
            "stereo44.wav",
            array.array("h", [v for s in tone(1.0, 5, 44100) for v in (s, s)]),
            2,
            44100,
        )
        row = self.one(path("stereo44.wav"))
        self.assertEqual((row["sampling_rate"], row["channels"], row["flags"]), (44100, 2, []))
        self.assertEqual((row["start"], row["end"], row["duration"]), (0, 1, 1))

    def test_channel(self):
        left, right = tone(1.0, 6), tone(1.0, 7)
        write_wav("left.wav", left)
        write_wav("right.wav", right)
        write_wav("both.wav", array.array("h", [v for pair in zip(left, right) for v in pair]), 2)
        for channel, name in (("0", "left.wav"), ("1", "right.wav")):
            self.assertEqual(
                self.one("--channel", channel, path("both.wav"))["scores"],
                self.one(path(name))["scores"],
            )
        self.assertNotEqual(
            self.one(path("both.wav"))["scores"], self.one(path("left.wav"))["scores"]
        )
        self.run_fails(2, "both.wav: ", "--channel", "2", path("both.wav"))

    def test_offset_and_length(self):
        row = self.one("--offset", "0.5", "--length", "0.25", B)
        self.assertEqual((row["start"], row["end"], row["duration"]), (0.5, 0.75, 0.25))
        write_wav("part.wav", tone(2.0, 2)[8000:12000])
        self.assertEqual(row["scores"], self.one(path("part.wav"))["scores"])
        self.run_fails(7, "a.wav: ", "--offset", "100", A)
        self.assertEqual(self.one("--length", "100", A)["duration"], 1)

    def test_truncated(self):
        with open(A, "rb") as f:
            data = f.read()
        with open(path("cut.wav"), "wb") as f:
            f.write(data[: len(data) // 2])
        self.assertEqual(self.one(path("cut.wav"))["flags"], ["truncated"])
        self.run_fails(7, "cut.wav: ", "--strict", path("cut.wav"))
        rows = self.run_ok("--json", "--window", "0.2", path("cut.wav")).objects()
        self.assertEqual([r["flags"] for r in rows], [[]] * (len(rows) - 1) + [["truncated"]])

    def test_flags(self):
        write_wav("silent.wav", array.array("h", [0] * 16000))
        write_wav(
            "clipped.wav", array.array("h", [32767 if v > 0 else -32768 for v in tone(1.0, 8)])
        )
        write_wav("short.wav", tone(0.02, 9))
        write_wav("cancel.wav", array.array("h", [v for s in tone(1.0, 10) for v in (s, -s)]), 2)
        write_wav("dc.wav", array.array("h", [v + 8000 for v in tone(1.0, 11)]))
        expected = {
            "silent": "silent",
            "clipped": "clipped",
            "short": "short",
            "cancel": "cancelled",
            "dc": "dc_offset",
        }
        for name, flag in expected.items():
            self.assertIn(flag, self.one(path(name + ".wav"))["flags"])
            self.assertIn("  %s: " % flag, self.run_ok(path(name + ".wav")).out)
        self.assertEqual(self.one(A)["flags"], [])

    def test_rare_containers(self):
        with open(path("rare.sf"), "wb") as f:  # IRCAM, little endian, 16 bit
            f.write(struct.pack("<IfII", 0x0001A364, 16000.0, 1, 2).ljust(1024, b"\0"))
            f.write(tone(0.5).tobytes())
        self.run_fails(7, "rare.sf: ", path("rare.sf"))
        self.assertEqual(self.one("--any-format", path("rare.sf"))["duration"], 0.5)

    def test_windows(self):
        rows = self.run_ok("--json", "--window", "0.8", "--hop", "0.5", B).objects()
        spans = [(r["start"], r["end"]) for r in rows]
        self.assertEqual(spans[:3], [(0, 0.8), (0.5, 1.3), (1, 1.8)])
        self.assertEqual(spans[-1][1], 2)
        rows = self.run_ok("--json", "--window", "0.5", "--offset", "1", B).objects()
        self.assertEqual([(r["start"], r["end"]) for r in rows], [(1, 1.5), (1.5, 2)])
        whole = self.one("--window", "30", B)
        self.assertEqual(whole["scores"], self.one(B)["scores"])

    def test_long_files_are_the_weighted_mean_of_windows(self):
        row = self.one(LONG)
        parts = self.run_ok("--json", "--window", str(WINDOW), LONG).objects()
        self.assertEqual(len(parts), math.ceil(10 / WINDOW))
        self.assertLess(parts[-1]["duration"], WINDOW)
        for label in LABELS:
            mean = sum(p["scores"][label] * p["duration"] for p in parts) / 10
            self.assertAlmostEqual(row["scores"][label], mean, 6)
        self.assertEqual((row["start"], row["end"], row["flags"]), (0, 10, ["windowed"]))

    def test_the_longest_single_piece(self):
        """At the model's limit a clip is one piece, whatever its windows are; beyond it is not."""
        write_wav("limit.wav", tone(MAX_SECONDS, 12))
        row = self.one(path("limit.wav"))
        self.assertEqual(row["flags"], [])
        self.assertEqual(row["scores"], self.one("--window", "4", path("limit.wav"))["scores"])
        samples = tone(MAX_SECONDS, 12)
        samples.append(0)
        write_wav("beyond.wav", samples)
        self.assertEqual(self.one(path("beyond.wav"))["flags"], ["windowed"])

    def test_batches_do_not_change_answers(self):
        files = [path(n) for n in ("a.wav", "long.wav", "b.wav", "text.wav", "c.wav", "missing")]
        outputs = {
            Run("--json", "--window", "0.7", "--batch-size", n, *files).out
            for n in ("1", "2", "3", "8", "100")
        }
        self.assertEqual(len(outputs), 1)

    def test_padding_of_transformers_does_not_change_answers(self):
        model = write_model("hf.safetensors", padding="hf")
        for size in "1", "2", "8":
            together = self.run_ok("--json", "-m", model, "-b", size, A, B, LONG).objects()
            for name, row in zip((A, B, LONG), together):
                self.assertEqual(row, self.one("-m", model, name))

    def test_top_k(self):
        row = self.one("--top-k", "2", A)
        everything = self.one(A)["scores"]
        best = sorted(everything.values(), reverse=True)[:2]
        self.assertEqual(list(row["scores"].values()), best)
        self.assertEqual(row["label"], list(row["scores"])[0])
        self.assertEqual(len(self.one("-k", "99", A)["scores"]), len(LABELS))
        self.assertEqual(self.run_ok("-k", "2", A).out.count("%"), 2)

    def test_attention(self):
        plain = self.one(B)
        self.assertNotIn("attention", plain)
        row = self.one("--attention", B)
        attention = row["attention"]
        self.assertAlmostEqual(sum(attention["weights"]), 1.0, 5)
        self.assertGreaterEqual(min(attention["weights"]), 0)
        last = attention["start"] + attention["step"] * (len(attention["weights"]) - 1)
        self.assertTrue(0 <= attention["start"] < last <= 2, attention)
        later = self.one("--attention", "--offset", "1", B)["attention"]
        self.assertAlmostEqual(later["start"] - attention["start"], 1.0)
        self.assertIsNone(self.one("--attention", LONG)["attention"])
        self.assertRegex(self.run_ok("--attention", B).out, r"attention  0:00\.\d\d \|.+\| 0:0")
        self.assertIn("use --window", self.run_ok("-a", LONG).out)

    def test_memory_does_not_grow_with_the_file(self):
        if sanitized():
            self.skipTest("AddressSanitizer keeps freed memory")
        # A child's peak counts its parent's memory before exec: measure from a small process.
        measure = (
            "import os, subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdout=2); "
            "print(*os.wait4(p.pid, 0)[1:])"
        )
        peaks = {}
        for minutes in (1, 20):
            write_wav("memory.wav", tone(1.0, 13) * (60 * minutes))
            done = subprocess.run(
                [sys.executable, "-c", measure, PREDICT, "--json", path("memory.wav")],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            status, peak = re.match(rb"(\d+) .*ru_maxrss=(\d+)", done.stdout).groups()
            self.assertEqual(status, b"0", done.stderr)
            self.assertIn(b'"windowed"', done.stderr)
            peaks[minutes] = int(peak)
        self.assertLess(peaks[20] - peaks[1], 4 * 1024, peaks)
        os.unlink(path("memory.wav"))


class Messages(Case):
    def test_quiet_and_verbose(self):
        run = Run("--verbose", A)
        self.assertEqual(run.code, 0)
        self.assertRegex(
            run.err, r"ser-predict: model .*model\.safetensors: \d+ weights, 5 labels, on cpu"
        )
        self.assertIn("1 of 1 inputs", run.err)
        run = self.run_fails(3, "missing", "--quiet", path("missing"))
        self.assertEqual(len(run.err.splitlines()), 1)

    def test_no_progress_without_a_terminal(self):
        self.run_ok("--json", A, B, LONG)


if __name__ == "__main__":
    unittest.main()
