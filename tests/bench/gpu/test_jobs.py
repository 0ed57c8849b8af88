# SPDX-License-Identifier: MIT
"""jobs.py and its peers: manifest, checks of a run, tables, verdicts, and all with a tiny model.

SER_BUILD=build [SER_EMULATED_MODULE=build/tests/cuda] [SER_TORCH_PYTHON=python] \\
    python3 tests/bench/gpu/test_jobs.py

The peers run where that Python (default: this one) has torch, transformers and accelerate. Nothing
here depends on how long anything takes.
"""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

import commands
import job_data
import jobs
import jobs_result
import machine
import trainer_peer

BUILD = pathlib.Path(os.environ.get("SER_BUILD", "build")).resolve()
TORCH = os.environ.get("SER_TORCH_PYTHON", sys.executable)
TIMEOUT = 300
HAS_NUMPY = importlib.util.find_spec("numpy") is not None


# Losses of the loop as it is on a CPU, with graphs that are functions, and with one that cannot be
# captured: argv is the folder of a prepared job and how many captures work.
GRAPHS = """
import argparse, json, pathlib, sys
import commands, job_data, jobs, loop_peer, pipeline_peer
work, works = pathlib.Path(sys.argv[1]), int(sys.argv[2])
recipe = json.loads((work / "recipe.json").read_text())
a = argparse.Namespace(model=commands.ROOT / "tests/golden/base", recipe=recipe, device="cpu",
    seed=3, precision="f32", peer="loop", threads=1, head=None, out=work / ("run" + sys.argv[2]))
clips = job_data.Clips(work / "clips.csv", work / "clips", list(jobs.EMOTIONS))
samples = job_data.decode_all(clips, pipeline_peer.Libsndfile(), 1)
loop = loop_peer.Loop(a, clips, samples, job_data.Journal(a.out, recipe["epochs"]))
replays = []

class Graph:
    def __init__(self, index, length):
        self.index, self.length = index, length
    def replay(self):
        replays.append(self)
        loop.step(self.index, self.length)

def capture(index, length):
    if len(loop.graphs) == works:
        raise RuntimeError("cannot be captured")
    index = index.clone()
    return Graph(index, length), index

def run_batch(index, length, run=loop.run_batch):
    loop.cuda = works >= 0
    run(index, length)
    loop.cuda = False

loop.capture, loop.run_batch = capture, run_batch
loop.train()
lines = (a.out / "metrics.jsonl").read_text().splitlines()
losses = [json.loads(line)["train_loss"] for line in lines]
print(json.dumps([losses, len(replays), len(loop.graphs), loop.graph_failure]))
"""


def has(python, *modules):
    """Whether this Python finds the modules, without importing them."""
    code = "import sys, importlib.util as u; sys.exit(None in map(u.find_spec, sys.argv[1:]))"
    return subprocess.run([python, "-c", code, *modules]).returncode == 0


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)


class Manifest(Folder):
    def write(self, names):
        audio = self.folder / "audio"
        for name in names:
            (audio / name).parent.mkdir(parents=True, exist_ok=True)
            (audio / name).touch()
        return jobs.write_manifest(argparse.Namespace(work=self.folder, audio=audio))

    def test_the_whole_corpus(self):
        """60 clips of each of 24 actors: as many steps an epoch as 1,152 clips are."""
        emotions = [1 + n % 8 for n in range(60)]
        names = [
            f"Actor_{actor:02}/03-01-{e:02}-01-01-{n:02}-{actor:02}.flac"
            for actor in range(1, 25)
            for n, e in enumerate(emotions)
        ]
        counts = self.write(names)
        self.assertEqual(counts, {"train": 1140, "validation": 240, "test": 60})
        self.assertEqual(math.ceil(1140 / 32), math.ceil(1152 / 32))
        clips = job_data.Clips(self.folder / "clips.csv", self.folder, list(jobs.EMOTIONS))
        actors = {
            part: {int(clips.paths[i].stem[-2:]) for i in indices}
            for part, indices in clips.parts.items()
        }
        self.assertEqual(actors["validation"], {2, 5, 14, 15})
        self.assertEqual(actors["test"], {16})
        self.assertEqual(len(set.union(*actors.values())), 24)
        self.assertTrue(all(
            label + 1 == int(path.stem[6:8]) for label, path in zip(clips.labels, clips.paths)
        ))  # fmt: skip

    def test_other_names_and_missing_parts(self):
        with self.assertRaisesRegex(SystemExit, "not named like a clip of RAVDESS"):
            self.write(["a.flac"])
        with self.assertRaisesRegex(SystemExit, "there is no emotion 9"):
            jobs.manifest_rows(self.named("03-01-09-01-01-01-01.flac"))
        with self.assertRaisesRegex(SystemExit, "no clip for the part validation"):
            jobs.write_manifest(argparse.Namespace(
                work=self.folder, audio=self.named("03-01-01-01-01-01-01.flac")
            ))  # fmt: skip

    def named(self, name):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        (folder / name).touch()
        return folder


def epoch_line(**changes):
    line = {"kind": "epoch", "train_loss": 2.0, "validation_loss": 2.1, "validation_uar": 0.5}
    return {**line, "validation_accuracy": 0.5, "seconds": 1.0, **changes}


class Collect(Folder):
    def run_of(self, lines):
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        (self.folder / "checkpoints" / "step-1").write_bytes(b"12345")
        (self.folder / "checkpoints" / "best-1.safetensors").write_bytes(b"no checkpoint")
        (self.folder / "best.safetensors").write_bytes(b"123")
        report = {"parts": [{"nll": 1.0, "uar": 0.5, "accuracy": 0.6, "name": "test"}]}
        (self.folder / "report.json").write_text(json.dumps(report))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.folder / "metrics.jsonl").write_text(text)

    def test_whole(self):
        self.run_of([{"kind": "step"}, epoch_line(), epoch_line(train_loss=1.5)])
        run = jobs_result.collect(self.folder, 2)
        self.assertEqual([epoch["train_loss"] for epoch in run["epochs"]], [2.0, 1.5])
        self.assertEqual(run["test"], {"nll": 1.0, "uar": 0.5, "accuracy": 0.6})
        self.assertEqual((run["model_bytes"], run["checkpoint_bytes"]), (3, 5))

    def complains(self, pattern, epochs=1):
        with self.assertRaisesRegex(jobs.RunFailure, pattern):
            jobs_result.collect(self.folder, epochs)

    def test_what_is_not_done(self):
        self.complains("no metrics or no report")
        self.run_of([epoch_line()])
        self.complains("1 epochs in metrics.jsonl, not 2", 2)
        (self.folder / "best.safetensors").unlink()
        self.complains("no best model")
        self.run_of([epoch_line()])
        (self.folder / "checkpoints" / "step-1").unlink()
        self.complains("no checkpoint")

    def test_losses_that_are_no_numbers(self):
        for value in (math.nan, None):
            self.run_of([epoch_line(), epoch_line(train_loss=value)])
            self.complains("epoch 2: not a number", 2)


class Stages(unittest.TestCase):
    def test_told(self):
        lines = [[1.0, "Data: 8 clips, 8 labels"], [3.0, "ser-train: epoch 1/3: loss 2.0"]]
        lines += [[5.0, "ser-train: epoch 2/3: loss 2.0"], [7.0, "ser-train: epoch 3/3: loss 2"]]
        epochs = [{"seconds": s} for s in (1.5, 1.25, 1.25)]
        wanted = {"start, reading": 1.0, "first epoch": 2.0, "training": 2.5}
        wanted.update({"validation, saving": 1.5, "end": 1.0})
        self.assertEqual(jobs_result.stages(lines, 8.0, epochs), wanted)

    def test_not_told(self):
        self.assertEqual(jobs_result.stages([], 8.0, []), {"end": 8.0})


def run_of(seconds, loss=2.0, **more):
    run = {"seconds": seconds, "user_seconds": 1.0, "system_seconds": 0.5, "peak_bytes": 3e8}
    run.update(epochs=[epoch_line(), epoch_line(train_loss=loss)], test={"uar": 0.25})
    return {**run, "stages": {"end": seconds}, **more}


def result_with(device="cuda", **measures):
    setting = {"device": device, "card": "A Card", "cpu": "A CPU", "cores": 16, "epochs": 15}
    setting.update(libser="ser-train 1", batch_size=32, steps=540)
    setting["clips"] = {"train": 1140, "validation": 240, "test": 60}
    measures = {
        name.replace("_", "-"): {"failure": "", "runs": runs} for name, runs in measures.items()
    }
    return {"setting": setting, "measures": measures}


class Tables(unittest.TestCase):
    def test_jobs(self):
        libser = [run_of(seconds, device_peak_bytes=5e9) for seconds in (7.0, 9.0, 8.0)]
        result = result_with(libser=libser, trainer=[run_of(80.0)])
        _, ours, theirs = (line.split() for line in jobs_result.job_rows(result))
        self.assertEqual(ours, "libser 3 7.00 8.00 1.00 1.50 300 5000".split())
        self.assertEqual(theirs, "trainer 1 80.00 80.00 10.00 1.50 300 -".split())

    def test_losses(self):
        result = result_with(libser=[run_of(1.0, 1.0), run_of(1.0, 3.0)], loop=[run_of(1.0)])
        _, ours, theirs = jobs_result.loss_rows(result)
        self.assertIn("2.0000 +- 1.4142", ours)
        self.assertIn("50.0 +- 0.0", ours)
        self.assertIn("2.0000 +- ?", theirs)

    def test_ratios_and_aims(self):
        result = result_with(libser=[run_of(8.0)], trainer=[run_of(60.0)], loop=[run_of(20.0)],
                             loop_f32=[run_of(10.0)], trainer_tuned=[run_of(40.0)])  # fmt: skip
        lines = jobs_result.verdicts(result)
        self.assertIn("libser: 8.00 s; " + jobs_result.AIMS, lines)
        self.assertIn("trainer (trainer) takes 7.50 times libser's; wanted 8", lines)
        self.assertIn("the fastest peer (loop) takes 2.50 times libser's; wanted 3", lines)
        lines = jobs_result.verdicts(result_with(device="cpu", libser=[run_of(8.0)]))
        self.assertEqual(lines, [])

    def test_seed_noise(self):
        judge = jobs_result.judge
        self.assertIn("within", judge([2.0, 2.2], [2.1, 2.3]))
        self.assertIn("OUTSIDE", judge([2.0, 2.01, 2.02], [2.1, 2.11, 2.12]))
        self.assertIn("OUTSIDE", judge([2.1, 2.11, 2.12], [2.0, 2.01, 2.02]))
        for values in (([2.0], [2.0, 2.1]), ([2.0, 2.1], [2.0])):
            self.assertIn("not judged", judge(*values))
        result = result_with(libser=[run_of(8.0, 1.0), run_of(8.0, 1.1)],
                             loop_f32=[run_of(8.0, 2.0), run_of(8.0, 2.1)])  # fmt: skip
        train, validation, _ = jobs_result.verdicts(result)[:3]
        self.assertIn("libser, train_loss: 1.0500, loop-f32 has 2.0500: OUTSIDE", train)
        self.assertIn("within", validation)


class FirstWeights(unittest.TestCase):
    """The check of a peer's first losses against libser's in f32."""

    def check(self, name, precision, loss):
        command = ["x", "--peer", name, "{seed}"]
        measure = jobs.Measure(name, command, {}, facts={"precision": precision})
        a = argparse.Namespace()
        run = {"seconds": 1.0, "epochs": [epoch_line(train_loss=loss)]}
        with mock.patch.object(jobs, "execute", return_value=run) as execute:
            jobs.check(a, measure, epoch_line())
        self.assertEqual(execute.call_args[0][4], "check")
        return measure, execute.call_args[0][3]

    def test_loops_have_libsers_first_weights(self):
        measure, command = self.check("loop", "f32", 2.0)
        self.assertEqual(command, ["x", "--peer", "loop", "{seed}", "--head", "{head}"])
        self.assertEqual(measure.command[-1], "{seed}")
        self.assertEqual(measure.facts["train_loss_apart"], 0.0)
        self.assertEqual(measure.facts["check_seconds"], 1.0)

    def test_limits(self):
        self.check("loop", "f32", 2.001)
        self.check("loop", "bf16", 2.03)
        for precision, loss in (("f32", 2.01), ("bf16", 2.1), ("f32", math.nan)):
            with self.assertRaisesRegex(jobs.RunFailure, "train_loss is"):
                self.check("loop", precision, loss)

    def test_the_trainers_have_another_head(self):
        measure, command = self.check("trainer", "bf16", 3.0)
        self.assertNotIn("--head", command)
        self.assertEqual(measure.facts["train_loss_apart"], 0.5)


class Choosing(unittest.TestCase):
    """Numbers of workers first, then cuDNN's heuristics with the fastest of them."""

    def choose(self, name, device, seconds_of):
        measure = jobs.Measure(name, ["x"], {"A": "1"})
        a = argparse.Namespace(tiny=False, device=device)

        def check(a, measure, reference):
            return {"epochs": [{"seconds": seconds_of(measure.command, measure.environment)}]}

        with mock.patch.object(jobs, "check", check):
            with mock.patch.object(os, "sched_getaffinity", return_value=set(range(4))):
                jobs.choose(a, measure, {})
        return measure

    def test_workers_and_heuristics(self):
        times = {0: 5.0, 2: 3.0, 4: 4.0}

        def seconds_of(command, environment):
            return times[command[-1]] - (jobs.HEURISTIC in environment)

        measure = self.choose("trainer-tuned", "cuda", seconds_of)
        self.assertEqual(measure.command, ["x", "--workers", 2])
        self.assertEqual(measure.environment, {"A": "1", jobs.HEURISTIC: "1"})
        self.assertEqual([seconds for seconds, _, _ in measure.facts["tried"]], [5, 3, 4, 2])
        measure = self.choose("trainer-tuned", "cpu", seconds_of)
        self.assertEqual(measure.environment, {"A": "1"})

    def test_heuristics_that_do_not_pay(self):
        measure = self.choose("loop", "cuda", lambda _, environment: 1.0 + len(environment))
        self.assertEqual((measure.command, measure.environment), (["x"], {"A": "1"}))
        self.assertEqual(len(measure.facts["tried"]), 2)

    def test_what_an_earlier_part_chose(self):
        entry = {"command": ["x", "--workers", "2"], "environment": {jobs.HEURISTIC: "1"}}
        measure = jobs.Measure("trainer-tuned", ["x"], {})
        jobs.adopt(measure, {**entry, "tried": [1]})
        self.assertEqual(measure.command, ["x", "--workers", 2])
        self.assertEqual(measure.environment, {jobs.HEURISTIC: "1"})


class TimeLimit(Folder):
    """A run that the time limit cuts short is no failure of its command; one that hangs is."""

    def run_cut_after(self, left):
        a = argparse.Namespace(work=self.folder, labels=[], head=None, tiny=True, timeout=60.0)
        a.memory, a.deadline = machine.Memory("cpu"), machine.Deadline(left)
        measure = jobs.Measure("x", ["sleep", "60"], {})
        cut = jobs.RunFailure("still running")
        with mock.patch.object(commands, "execute", side_effect=cut) as execute:
            try:
                jobs.execute(a, measure, 0, measure.command, "recipe")
            finally:
                self.limit = execute.call_args[0][1]

    def test_both(self):
        with self.assertRaises(machine.TimeUp):
            self.run_cut_after(0.0)
        with self.assertRaisesRegex(jobs.RunFailure, "still running"):
            self.run_cut_after(1000.0)
        self.assertEqual(self.limit, 60.0)


class Peers(Folder):
    def test_missing_packages_are_named(self):
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            with self.assertRaisesRegex(SystemExit, "torch, transformers, .*accelerate"):
                trainer_peer.need_packages("trainer")
            with self.assertRaisesRegex(SystemExit, "safetensors$"):
                trainer_peer.need_packages("loop")

    def test_recipes_that_no_peer_follows(self):
        job_data.check_recipe({"schedule": "linear", "lr": 1.0})
        with self.assertRaisesRegex(SystemExit, "schedule is cosine"):
            job_data.check_recipe({"schedule": "cosine"})

    def test_long_clips(self):
        clip = list(range(job_data.LONGEST + 10))
        self.assertEqual(job_data.middle(clip), clip[5:-5])
        self.assertEqual(job_data.middle(clip[:7]), clip[:7])

    def test_rates_are_ser_trains(self):
        """The rate of every step of a run, as metrics.jsonl tells it."""
        a = jobs.parse_arguments(["--build", str(BUILD), "--tiny", "--device", "cpu"])
        a.work, a.build = self.folder, BUILD
        jobs.prepare(a)
        command = [BUILD / "tools" / "ser-train", *jobs.common_options(a)]
        command += ["--epochs", 5, "--log-every", 1, "-q", "-o", self.folder / "run"]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        lines = (self.folder / "run" / "metrics.jsonl").read_text().splitlines()
        steps = [line for line in map(json.loads, lines) if line["kind"] == "step"]
        recipe = json.loads((self.folder / "recipe.json").read_text())
        warmup = job_data.warmup_steps(recipe["warmup"], len(steps))
        self.assertEqual((len(steps), warmup), (20, 2))
        for n, step in enumerate(steps):
            wanted = recipe["lr"] * job_data.rate_factor(n, len(steps), warmup)
            self.assertAlmostEqual(step["lr"] / recipe["lr"], wanted / recipe["lr"], places=5)

    @unittest.skipUnless(HAS_NUMPY, "needs NumPy")
    def test_scores(self):
        import numpy as np

        logits = np.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [9.0, 0.0, 0.0]])
        found = job_data.score(logits, np.array([0, 0, 1, 1]), 3)
        self.assertEqual((found["uar"], found["accuracy"]), (0.75, 0.75))
        likely = math.log(1.0 + 2.0 * math.exp(-2.0))
        wrong = 9.0 + math.log(1.0 + 2.0 * math.exp(-9.0))
        self.assertAlmostEqual(found["loss"], (3 * likely + wrong) / 4)
        found = job_data.score(logits[:1], np.array([1]), 3)
        self.assertEqual(found["uar"], 0.0)

    @unittest.skipUnless(HAS_NUMPY, "needs NumPy")
    def test_batches(self):
        import numpy as np

        lengths = [7 * n % 101 for n in range(100)]
        batches = job_data.batches_of(range(2, 100), lengths, 8, np.random.default_rng(1))
        self.assertEqual(sorted(sum(batches, [])), list(range(2, 100)))
        self.assertEqual(sorted(map(len, batches)), [2] + [8] * 12)
        spread = [lengths[batch[0]] - lengths[batch[-1]] for batch in batches]
        self.assertGreaterEqual(min(spread), 0)
        self.assertLess(max(spread), 20)  # of 100: sorted, then cut
        again = job_data.batches_of(range(2, 100), lengths, 8, np.random.default_rng(2))
        self.assertNotEqual(batches, again)

    @unittest.skipUnless(HAS_NUMPY, "needs NumPy")
    def test_masked_spans(self):
        import numpy as np

        frames, keep = [9] + [250] * 300, np.zeros((301, 256), bool)
        job_data.mask_spans(keep, frames, range(1, 300), 0.05, 10, np.random.default_rng(0))
        self.assertTrue(keep[0].all() and keep[300].all() and keep[:, 250:].all())
        masked = 1.0 - keep[1:300, :250].mean()
        self.assertTrue(0.045 < masked < 0.05, masked)  # 0.05 less what overlaps
        job_data.mask_spans(keep, frames, [0], 0.9, 10, np.random.default_rng(0))
        self.assertTrue(keep.all())  # too short for a span


@unittest.skipUnless(has(TORCH, "torch", "transformers", "numpy"), "the loop needs PyTorch")
class Graphs(Folder):
    """A step per batch, whichever of them are replayed."""

    def losses(self, works):
        done = subprocess.run(
            [TORCH, "-W", "ignore", "-c", GRAPHS, str(self.folder), str(works)],
            env={**os.environ, "PYTHONPATH": str(pathlib.Path(jobs.__file__).parent)},
            stdout=subprocess.PIPE,
            check=True,
            timeout=TIMEOUT,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def test_same_losses(self):
        arguments = ["--build", str(BUILD), "--tiny", "--device", "cpu", "--epochs", "3"]
        a = jobs.parse_arguments([*arguments, "--options=--lr 1e-3 --batch-size 4"])
        a.work, a.build = self.folder, BUILD
        jobs.prepare(a)
        plain, replays, graphs, _ = self.losses(-1)
        self.assertEqual((replays, graphs), (0, 0))
        losses, replays, graphs, failure = self.losses(100)
        self.assertEqual((losses, failure), (plain, None))
        self.assertEqual(replays, 24 - graphs)  # a shape's first batch is not replayed
        losses, replays, graphs, failure = self.losses(0)
        self.assertEqual((losses, replays, graphs), (plain, 0, 0))
        self.assertEqual(failure, "cannot be captured")


class Program(Folder):
    """The program itself, on the CPU."""

    def setUp(self):
        super().setUp()
        self.results = self.folder / "results"

    def command(self, *options, peers=""):
        program = pathlib.Path(jobs.__file__)
        start = [sys.executable, str(program), "--build", str(BUILD), "--tiny", "--device", "cpu"]
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
        return json.loads(path.read_text())

    def test_libser_alone_then_more_of_it(self):
        done = self.run_program("--seeds", "2")
        result = self.result()
        measures = result["measures"]
        names = ["libser", "libser-new-cache", "libser-each-epoch", "libser-f32"]
        self.assertEqual(list(measures), names)
        for name, measure in measures.items():
            self.assertEqual((measure["failure"], len(measure["runs"])), ("", 2), name)
            self.assertIn(name, done.stdout)
            for run in measure["runs"]:
                self.assertAlmostEqual(sum(run["stages"].values()), run["seconds"], places=6)
                self.assertEqual(len(run["stages"]), 5)
        runs = measures["libser"]["runs"]
        self.assertEqual([run["seed"] for run in runs], [0, 1])
        self.assertNotEqual(*(run["epochs"][-1]["train_loss"] for run in runs))
        clips = {"train": 32, "validation": 8, "test": 8}
        self.assertEqual((result["setting"]["clips"], result["setting"]["steps"]), (clips, 8))
        self.assertRegex(result["setting"]["file_system"], r"^[a-z0-9.]+$")
        command = " ".join(measures["libser"]["command"])
        self.assertRegex(command, r"^BUILD/tools/ser-train .* --seed \{seed\} -o \{out\}$")
        self.assertNotIn(str(commands.ROOT), json.dumps(measures))
        self.assertEqual(measures["libser-f32"]["validation_loss_apart"], 0.0)
        one, two = (measures[name]["runs"][0]["checkpoint_bytes"]
                    for name in ("libser", "libser-each-epoch"))  # fmt: skip
        self.assertTrue(1.9 < two / one < 2.1, two / one)  # the end alone, and each of two epochs

        self.run_program("--seeds", "1", "--append", "--only", "libser")
        measures = self.result()["measures"]
        self.assertEqual([run["seed"] for run in measures["libser"]["runs"]], [0, 1, 2])
        self.assertEqual(len(measures["libser-f32"]["runs"]), 2)

    def test_stopped(self):
        process = subprocess.Popen(
            self.command("--seeds", "100000"),
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
        self.assertIn("after the last epoch", out)
        runs = sum(len(one["runs"]) for one in self.result()["measures"].values())
        self.assertGreater(runs, 0)

    def test_no_time_at_all(self):
        done = self.run_program("--time-limit", "0.001", code=1)
        self.assertIn("nothing was measured", done.stderr)

    def test_nothing_is_called_so(self):
        done = self.run_program("--only", "lisber", code=1)
        self.assertIn("nothing is called lisber", done.stderr)
        self.assertFalse(self.results.exists())

    def test_a_model_that_ser_train_refuses(self):
        model = self.folder / "model"
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(b"nonsense")
        done = self.run_program("--model", str(model), code=1)
        self.assertIn("ser-train --precision f32: exit 7", done.stderr)

    def test_a_peer_that_cannot_start(self):
        broken = self.folder / "python"
        broken.write_text("#!/bin/sh\necho 'no torch here' >&2\nexit 1\n")
        broken.chmod(0o755)
        options = ["--python", str(broken), "--only", "libser,trainer", "--seeds", "1"]
        done = self.run_program(*options, code=1, peers="trainer")
        self.assertIn("no torch here", done.stderr)
        measures = self.result()["measures"]
        self.assertEqual((measures["trainer"]["runs"], len(measures["libser"]["runs"])), ([], 1))

    @unittest.skipUnless("SER_EMULATED_MODULE" in os.environ, "needs the emulated GPU of the build")
    def test_emulated_gpu(self):
        module = os.environ["SER_EMULATED_MODULE"]
        options = ["--device", "cuda", "--seeds", "1", "--epochs", "1", "--only", "libser"]
        self.run_program(*options, SER_MODULE_PATH=module)
        libser = self.result()["measures"]["libser"]
        self.assertEqual((libser["failure"], len(libser["runs"])), ("", 1))
        self.assertGreater(libser["validation_loss_apart"], 0.0)  # bf16 against f32
        self.assertLess(libser["validation_loss_apart"], jobs.LIMITS["bf16"][0])

    @unittest.skipUnless(
        has(TORCH, "torch", "transformers", "accelerate", "numpy"),
        "the peers need torch, transformers and accelerate",
    )
    def test_peers(self):
        options = ["--seeds", "1", "--epochs", "1", "--python", TORCH, "--decoder", "libsndfile"]
        self.run_program(*options, "--only", "libser,trainer,loop-f32", peers="trainer,loop-f32")
        measures = self.result()["measures"]
        self.assertEqual(list(measures), ["libser", "trainer", "loop-f32"])
        for name, measure in measures.items():
            self.assertEqual((measure["failure"], len(measure["runs"])), ("", 1), name)
        loop = measures["loop-f32"]  # the same weights, clips and arithmetic
        self.assertLess(loop["train_loss_apart"], 1e-6)
        self.assertLess(loop["validation_loss_apart"], 1e-6)
        self.assertLess(measures["trainer"]["validation_loss_apart"], 0.1)  # another head
        self.assertIn("libsndfile", loop["decoder"])
        self.assertIsNotNone(loop["versions"]["torch"])


if __name__ == "__main__":
    unittest.main()
