# SPDX-License-Identifier: MIT
"""files.py and pipeline_peer.py: comparison, merging, tables, and both with a tiny model.

SER_BUILD=build [SER_EMULATED_MODULE=build/tests/cuda] [SER_TORCH_PYTHON=python] \\
    python3 tests/bench/gpu/test_files.py

The peers run where that Python (default: this one) has torch and transformers. Nothing here depends
on how long anything takes.
"""

import importlib.util
import json
import math
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import commands
import files
import files_result
import pipeline_peer

BUILD = pathlib.Path(os.environ.get("SER_BUILD", "build")).resolve()
TORCH = os.environ.get("SER_TORCH_PYTHON", sys.executable)
TIMEOUT = 300


def has(python, *modules):
    """Whether this Python finds the modules, without importing them."""
    code = "import sys, importlib.util as u; sys.exit(None in map(u.find_spec, sys.argv[1:]))"
    return subprocess.run([python, "-c", code, *modules]).returncode == 0


def sanitized():
    """A plain Python cannot load a library with AddressSanitizer."""
    return b"__asan_init" in (BUILD / "lib" / "libser.so.0").read_bytes()


def answers(**probabilities):
    """{file: (label, scores, seconds)} of two-class probabilities of "a"."""
    return {
        file: ("a" if p > 0.5 else "b", {"a": p, "b": 1.0 - p}, 2.0)
        for file, p in probabilities.items()
    }


class Compare(unittest.TestCase):
    def test_equal(self):
        found, complaint = files_result.compare(answers(x=0.7), answers(x=0.7), 0.0)
        self.assertEqual((found, complaint), ({"largest_difference": 0.0, "other_labels": 0}, ""))

    def test_difference_within_and_beyond_the_limit(self):
        wanted, given = answers(x=0.7, y=0.52), answers(x=0.71, y=0.48)
        found, complaint = files_result.compare(wanted, given, 0.05)
        self.assertAlmostEqual(found["largest_difference"], 0.04)
        self.assertEqual((found["other_labels"], complaint), (1, ""))
        _, complaint = files_result.compare(wanted, given, 0.03)
        self.assertIn("y: a probability is off by 0.04", complaint)

    def test_without_a_limit_differences_are_told_only(self):
        found, complaint = files_result.compare(answers(x=0.9), answers(x=0.1), None)
        self.assertAlmostEqual(found["largest_difference"], 0.8)
        self.assertEqual(complaint, "")

    def test_not_a_number(self):
        for place in ("a", "b"):
            given = answers(x=0.7)
            given["x"][1][place] = math.nan
            found, complaint = files_result.compare(answers(x=0.7), given, 0.5)
            self.assertEqual(found["largest_difference"], math.inf)
            self.assertIn("x", complaint)

    def test_missing_clip_and_other_classes(self):
        found, complaint = files_result.compare(answers(x=0.7, y=0.1), answers(x=0.7), None)
        self.assertEqual((found, complaint), ({}, "answers 1 clips, not the 2 of the reference"))
        other = {"x": ("c", {"c": 1.0}, None)}
        _, complaint = files_result.compare(answers(x=0.7), other, None)
        self.assertIn("other labels", complaint)

    def test_a_failed_file_is_no_answer(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "out.jsonl")
            path.write_text('{"file": "x.wav", "error": "cut", "status": "SER_ERR_DATA"}\n')
            with self.assertRaisesRegex(files.RunFailure, "x.wav: cut"):
                files_result.read_answers(path)


def run_of(seconds, **more):
    run = {"seconds": seconds, "user_seconds": 2.0, "system_seconds": 0.5, "peak_bytes": 3e8}
    return {**run, **more}


def result_with(**measures):
    setting = {"device": "cuda", "card": "A Card", "cpu": "A CPU", "cores": 16, "clips": 100}
    setting.update(libser="ser-predict 1", audio_seconds=500.0)
    return {"date": "now", "setting": setting, "nvidia_smi": {}, "measures": measures}


def entry(seconds, command="run", failure="", **more):
    runs = [run_of(one) for one in seconds]
    return {"command": [command], "environment": {}, "failure": failure, "runs": runs, **more}


class Merge(unittest.TestCase):
    def seconds(self, result, name):
        return [run["seconds"] for run in result["measures"][name]["runs"]]

    def test_other_measures_stay_and_the_same_one_has_more_runs(self):
        old = result_with(libser=entry([1.0]), loop=entry([3.0]))
        result = files_result.merge(old, result_with(libser=entry([2.0]), pipeline=entry([4.0])))
        self.assertEqual(self.seconds(result, "libser"), [1.0, 2.0])
        self.assertEqual(self.seconds(result, "loop"), [3.0])
        self.assertEqual(self.seconds(result, "pipeline"), [4.0])

    def test_another_command_replaces(self):
        old = result_with(loop=entry([1.0], "run --batch-size 8"))
        result = files_result.merge(old, result_with(loop=entry([2.0], "run --batch-size 64")))
        self.assertEqual(self.seconds(result, "loop"), [2.0])

    def test_a_failure_does_not_replace_runs(self):
        old = result_with(loop=entry([1.0]))
        result = files_result.merge(old, result_with(loop=entry([], failure="exit 1")))
        self.assertEqual(self.seconds(result, "loop"), [1.0])

    def test_another_setting_is_refused(self):
        new = result_with(loop=entry([1.0]))
        new["setting"]["clips"] = 99
        with self.assertRaisesRegex(SystemExit, "clips was 100 and is 99"):
            files_result.merge(result_with(loop=entry([1.0])), new)


class Tables(unittest.TestCase):
    def test_jobs(self):
        result = result_with(
            libser=entry([2.0, 1.0, 4.0], largest_difference=0.01, other_labels=2),
            loop=entry([8.0]),
        )
        _, libser, loop = (line.split() for line in files_result.job_rows(result))
        wanted = ["libser", "1.00", "2.00", "1.00", "50.0", "250", "2.50", "300", "1.0e-02", "2"]
        self.assertEqual(libser, wanted)
        self.assertEqual(loop[:6], ["loop", "8.00", "8.00", "4.00", "12.5", "62"])
        self.assertEqual(loop[-2:], ["-", "-"])

    def test_ratios_need_libser(self):
        rows = files_result.job_rows(result_with(loop=entry([8.0])))
        self.assertIn("nan", rows[1])

    def test_first_answers(self):
        runs = [
            run_of(1.5, first_seconds=first, stages={"model": model, "end": 0.1})
            for first, model in ((1.0, 0.2), (1.2, 0.4), (1.1, 0.3))
        ]
        measure = dict(entry([]), runs=runs)
        rows = files_result.first_rows(result_with(**{"first-libser": measure, "x": entry([1.0])}))
        self.assertEqual(len(rows), 2)
        self.assertEqual(
            rows[1].split(), "first-libser 1.100 1.500 2.50 300 model 0.300, end 0.100".split()
        )

    def test_places(self):
        names = [("/tmp/w", "WORK"), ("/src", "SOURCE")]
        words = ["/src/tests/x.py", "/tmp/w/out", "/tmp/work", "/tmp/w", "a/src"]
        wanted = ["SOURCE/tests/x.py", "WORK/out", "/tmp/work", "WORK", "a/src"]
        self.assertEqual(files_result.named(words, names), wanted)

    def test_written_at_once(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "new", "result.json")
            files_result.write_result(path, {"a": 1})
            files_result.write_result(path, {"a": 2})
            self.assertEqual(json.loads(path.read_text()), {"a": 2})
            self.assertEqual(list(path.parent.iterdir()), [path])


class Runs(unittest.TestCase):
    def run_shell(self, script, timeout=60.0, **more):
        return files.run_once(files.Measure("x", ["sh", "-c", script], **more), timeout)

    def test_first_output_and_stages(self):
        script = (
            "echo 'ser-predict: model: computing in bf16 on cuda:0' >&2; sleep 0.02;"
            "echo 'ser-predict: model m: 9 weights, 2 labels, on cuda:0' >&2; sleep 0.02;"
            "echo answer; sleep 0.02; exit 0"
        )
        run = self.run_shell(script)
        names = ["start and device", "model", "decoding and first answer", "end"]
        self.assertEqual(list(run["stages"]), names)
        self.assertAlmostEqual(sum(run["stages"].values()), run["seconds"], places=6)
        self.assertGreater(run["stages"]["model"], 0.01)
        self.assertGreater(run["seconds"], run["first_seconds"])
        self.assertGreater(run["peak_bytes"], 0)

    def test_stages_that_are_not_told(self):
        self.assertEqual(
            files.stages(1.0, 1.5, [], None), {"decoding and first answer": 1.0, "end": 0.5}
        )
        report = {"import_seconds": 2.0, "model_seconds": 1.0, "run_seconds": 0.5}
        wanted = {"start": 0.5, "import": 2.0, "model": 1.0, "run": 0.5}
        self.assertEqual(files.stages(4.0, 4.5, [], report), wanted)

    def test_report(self):
        report = '{"import_seconds": 1, "model_seconds": 1, "run_seconds": 1}'
        run = self.run_shell(f"echo x; echo noise >&2; echo 'report {report}' >&2")
        self.assertEqual(run["report"]["import_seconds"], 1)

    def test_failures(self):
        with self.assertRaisesRegex(files.RunFailure, "exit 3: .*why"):
            self.run_shell("echo why >&2; exit 3")
        with self.assertRaisesRegex(files.RunFailure, "no answer"):
            self.run_shell("exit 0")

    def test_too_late_with_all_its_children(self):
        with tempfile.TemporaryDirectory() as folder:
            note = pathlib.Path(folder, "pid")
            with self.assertRaisesRegex(files.RunFailure, "still running"):
                self.run_shell(f"sleep 60 & echo $! > {note}; wait", timeout=1.0)
            child = int(note.read_text())
            for _ in range(100):
                if not pathlib.Path(f"/proc/{child}").exists() or "Z" in state_of(child):
                    return
                time.sleep(0.05)
            self.fail("the child of a stopped command goes on")

    def test_new_cache(self):
        with tempfile.TemporaryDirectory() as folder:
            cache = pathlib.Path(folder, "cache")
            environment = {"SER_CACHE_DIR": str(cache)}
            for _ in range(2):
                script = "mkdir $SER_CACHE_DIR && echo x"
                self.run_shell(script, environment=environment, new_cache=True)
            self.assertTrue(cache.exists())

    def test_library_times(self):
        code = "import time; time.sleep(0.3)"
        seen = files.library_times(files.Measure("x", [sys.executable, "-c", code]))
        self.assertIn("libc", seen)


def state_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


class Batches(unittest.TestCase):
    LENGTHS = [5, 3, 5, 9, 3, 5, 5, 1]

    def test_equal(self):
        batches = pipeline_peer.equal_batches(self.LENGTHS, 3)
        self.assertEqual(batches, [[3], [0, 2, 5], [6], [1, 4], [7]])

    def test_padded(self):
        batches = pipeline_peer.padded_batches(self.LENGTHS, 3)
        self.assertEqual(batches, [[3, 0, 2], [5, 6, 1], [4, 7]])


@unittest.skipUnless(importlib.util.find_spec("numpy"), "the copy of a model needs NumPy")
class Bf16Copy(unittest.TestCase):
    def test_rounded_to_nearest_even(self):
        """Ties between two bf16 numbers go to the one whose last bit is 0."""
        low, high = 1.0, 1.0 + 2.0**-7  # neighbours in bf16
        middle = 1.0 + 2.0**-8
        values = [low, middle, middle + 2.0**-20, high + 2.0**-8, -middle, 0.0]
        wanted = [low, low, high, high + 2.0**-7, -low, 0.0]
        with tempfile.TemporaryDirectory() as folder:
            model, copy = pathlib.Path(folder, "model"), pathlib.Path(folder, "copy")
            model.mkdir()
            (model / "config.json").write_text("{}")
            block = struct.pack("<6f", *values)
            header = {
                "__metadata__": {"format": "pt"},
                "w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]},
                "n": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]},
            }
            text = json.dumps(header).encode()
            data = struct.pack("<Q", len(text)) + text + block + struct.pack("<q", 7)
            (model / "model.safetensors").write_bytes(data)
            program = pathlib.Path(files.__file__).with_name("bf16_copy.py")
            subprocess.run([sys.executable, program, model, copy], check=True)
            data = (copy / "model.safetensors").read_bytes()
            self.assertTrue((copy / "config.json").exists())
        start = 8 + struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:start])
        self.assertEqual((header["w"]["dtype"], header["w"]["data_offsets"]), ("BF16", [0, 12]))
        self.assertEqual((header["n"]["dtype"], header["n"]["data_offsets"]), ("I64", [12, 20]))
        halves = struct.unpack("<6H", data[start : start + 12])
        given = [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]
        self.assertEqual(given, wanted)
        self.assertEqual(struct.unpack("<q", data[start + 12 :]), (7,))


class Program(unittest.TestCase):
    """The program itself, on the CPU."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.results = pathlib.Path(self.folder.name, "results")

    def command(self, *options, peers=""):
        here = pathlib.Path(files.__file__).parent / "files.py"
        start = [sys.executable, str(here), "--build", str(BUILD), "--tiny", "--device", "cpu"]
        return [*start, "--peers", peers, "--results", str(self.results), *options]

    def run_program(self, *options, code=0, peers="", **environment):
        done = subprocess.run(
            self.command(*options, peers=peers),
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
        )
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def result(self):
        (path,) = self.results.iterdir()
        self.assertRegex(path.name, r"^gpu-files-cpu-[a-z0-9-]+\.json$")
        return json.loads(path.read_text())

    def names(self):
        names = ["libser", "libser-new-cache", "libser-f32", "libser-b64"]
        names += ["first-libser", "first-libser-new-cache"]
        names += ["first-libser-bf16-file"] if importlib.util.find_spec("numpy") else []
        return names + ([] if sanitized() else ["first-binding"])

    def test_libser_alone_then_more_of_it(self):
        names = self.names()
        done = self.run_program("--rounds", "2", "--only", ",".join(names))
        measures = self.result()["measures"]
        self.assertEqual(list(measures), names)
        for name, measure in measures.items():
            self.assertEqual((measure["failure"], len(measure["runs"])), ("", 2), name)
            self.assertIn(name, done.stdout)
            if name.startswith("first-"):
                self.assertIn("decoding and first answer", measure["runs"][0]["stages"])
            else:
                self.assertLessEqual(measure["largest_difference"], files.F32_LIMIT)
        self.assertIn("model", measures["first-libser"]["runs"][0]["stages"])
        self.assertIn("libser", measures["first-libser"]["library_seconds"])
        setting = self.result()["setting"]
        self.assertEqual((setting["clips"], setting["card"]), (7, None))
        self.assertGreater(setting["audio_seconds"], 3.0)
        command = " ".join(measures["libser"]["command"])
        self.assertRegex(command, r"^BUILD/tools/ser-predict .* -o WORK/libser.jsonl WORK/clips$")
        self.assertNotIn(str(commands.ROOT), json.dumps(measures))

        self.run_program("--rounds", "1", "--append", "--only", "libser")
        measures = self.result()["measures"]
        self.assertEqual(len(measures["libser"]["runs"]), 3)
        self.assertEqual(len(measures["libser-f32"]["runs"]), 2)
        self.run_program("--rounds", "1", "--only", "libser")
        self.assertEqual(list(self.result()["measures"]), ["libser"])

    def test_stopped(self):
        process = subprocess.Popen(
            self.command("--rounds", "100000", "--only", "libser*"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            for _ in range(TIMEOUT * 10):
                if self.results.exists() and list(self.results.glob("*.json")):
                    break
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
            process.wait()
        self.assertEqual(process.returncode, 130)
        self.assertIn("libser", out)
        runs = sum(len(one["runs"]) for one in self.result()["measures"].values())
        self.assertGreater(runs, 0)

    def test_nothing_is_called_so(self):
        done = self.run_program("--only", "lisber", code=1)
        self.assertIn("nothing is called lisber", done.stderr)
        self.assertFalse(self.results.exists())

    def test_a_model_that_ser_predict_refuses(self):
        model = pathlib.Path(self.folder.name, "model")
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(b"nonsense")
        done = self.run_program("--model", str(model), code=1)
        self.assertIn("ser-predict --precision f32: exit 7", done.stderr)

    @unittest.skipUnless("SER_EMULATED_MODULE" in os.environ, "needs the emulated GPU of the build")
    def test_emulated_gpu(self):
        module = os.environ["SER_EMULATED_MODULE"]
        options = ["--device", "cuda", "--rounds", "1", "--only", "libser,first-libser"]
        self.run_program(*options, SER_MODULE_PATH=module)
        (path,) = self.results.iterdir()
        result = json.loads(path.read_text())
        self.assertEqual(result["setting"]["device"], "cuda")
        self.assertNotIn("gpu-files-cpu", path.name)
        libser, first = (result["measures"][name] for name in ("libser", "first-libser"))
        self.assertEqual((libser["failure"], first["failure"]), ("", ""))
        self.assertGreater(libser["largest_difference"], 0.0)  # bf16 against f32
        names = ["start and device", "model", "decoding and first answer", "end"]
        self.assertEqual(list(first["runs"][0]["stages"]), names)
        self.assertIn("libser-cuda", first["library_seconds"])

    @unittest.skipUnless(has(TORCH, "torch", "transformers"), "the peers need PyTorch")
    def test_peers(self):
        options = ["--rounds", "1", "--python", TORCH, "--decoder", "libsndfile"]
        only = "libser,pipeline-1,first-pipeline,loop*"
        self.run_program(*options, "--only", only, peers=files.PEERS)
        measures = self.result()["measures"]
        wanted = ["libser", "first-pipeline", "pipeline-1", "loop", "loop-padded"]
        self.assertEqual(list(measures), wanted)
        for name, measure in measures.items():
            self.assertEqual((measure["failure"], len(measure["runs"])), ("", 1), name)
        for name in ("pipeline-1", "loop"):
            self.assertLessEqual(measures[name]["largest_difference"], files.BF16_LIMIT)
            self.assertIn("libsndfile", measures[name]["decoder"])
            self.assertIsNotNone(measures[name]["versions"]["torch"])
        self.assertIn("--batch-size", measures["loop"]["command"])
        stages = measures["first-pipeline"]["runs"][0]["stages"]
        self.assertEqual(list(stages), ["start", "import", "model", "run"])


if __name__ == "__main__":
    unittest.main()
