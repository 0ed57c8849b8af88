# SPDX-License-Identifier: MIT
"""bench.py without a card: numbers and tables of hand-made samples, runs of libser alone on the CPU
and on the emulated GPU, and, where PyTorch can be imported, of all peers on the CPU.

    SER_LIBRARY=BUILD/lib/libser.so.0 SER_EMULATED_MODULE=BUILD/tests/cuda \\
        PYTHONPATH=bindings/python python3 tests/bench/gpu/test_bench.py

Nothing is asserted of times but that there are some.
"""

import contextlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

import numpy as np

sys.dont_write_bytecode = True  # the source tree stays as it is

import bench  # noqa: E402
import bench_cases  # noqa: E402
import kernels  # noqa: E402
import machine  # noqa: E402
import peers  # noqa: E402
import table  # noqa: E402


def worker(host, **more):
    return {"host": host, "events": [], "span": [], **more}


def sample_run():
    """libser 2 ms and 10 ms, the best peer 5 ms and 15 ms, at B=1 and B=64."""
    one = {
        "precision": "bf16", "batch": 1, "complete": True,
        "plain_bf16": {"hidden": 0.04, "logits": 0.02},
        "probe": {"type": "bf16", "tflops": [400.0, 500.0, 600.0], "bandwidth": [4.0]},
        "floors": {"wave_conv": 4e-6, "conv 5": 1e-6, "conv 6": 2e-6, "qkv": 5e-6},
        "workers": {
            "libser-bf16": worker([2e-3, 2e-3, 8e-3], span=[1e-3, 0.4e-3, 0.3e-3],
                                  memory=5e8, memory_peak=6e8,
                                  error={"logits": 0.01, "hidden": 0.02, "largest": 0.01},
                                  ops={"wave_conv": 8.0, "conv 5 and on": 12.0, "qkv": 20.0}),
            "eager": worker([40e-3] * 3, events=[30e-3], span=[60e-3]),
            "tuned": worker([6e-3] * 3),
            "graph": worker([5e-3] * 3, events=[2e-3, 2e-3], span=[1.2e-3, 1.2e-3],
                            facts={"parts": {"front": "moments"}, "upload": "staged",
                                   "prepare_seconds": 12.5}),
        },
    }
    many = {
        "precision": "bf16", "batch": 64, "complete": False,
        "probe": {"type": "bf16", "tflops": [], "bandwidth": []},
        "workers": {
            "libser-bf16": worker([10e-3]),
            "compiled": worker([15e-3]),
            "graph": worker([16e-3]),
        },
    }
    return {
        "date": "2000-01-02T03:04:05+00:00", "card": "NVIDIA H200", "versions": {"torch": "9.9"},
        "standard": True, "flop": 7.0e10, "sizes": [one, many],
        "not_measured": {"torchaudio": "why"},
        "notes": ["a note"],
        "starts": {"libser-bf16": [{"import": 0.1, "load": 0.2, "first": 0.3, "total": 0.9},
                                   {"import": 0.1, "load": 0.2, "first": 0.1, "total": 0.7}],
                   "eager": [{"import": 5, "load": 1, "first": 1, "total": 7.0}]},
    }


def row(lines, name, under=None):
    """The line that starts with `name`, in words; after the line that starts with `under`."""
    start = 0 if under is None else next(i for i, x in enumerate(lines) if x.startswith(under)) + 1
    return next(line for line in lines[start:] if line.startswith(name)).split()


class Numbers(unittest.TestCase):
    def test_p99_is_the_nearest_rank(self):
        self.assertEqual(table.p99([7.0]), 7.0)
        self.assertEqual(table.p99(list(range(100, 0, -1))), 99)
        self.assertEqual(table.p99(list(range(1, 201))), 198)
        self.assertEqual(table.p99([3, 1, 2]), 3)

    def test_ratios_are_over_libser(self):
        one, many = sample_run()["sizes"]
        self.assertAlmostEqual(table.ratio(one, "eager", table.host_seconds), 20.0)
        self.assertAlmostEqual(table.ratio(one, "graph", table.device_seconds), 3.0)
        self.assertIsNone(table.ratio(one, "compiled", table.host_seconds))
        self.assertIsNone(table.ratio(many, "graph", table.device_seconds))
        self.assertAlmostEqual(table.ratio(many, "compiled", table.host_seconds), 1.5)

    def test_the_device_clock_is_in_the_peers_favour(self):
        workers = sample_run()["sizes"][0]["workers"]
        self.assertEqual(table.device_seconds(workers["eager"]), 30e-3)
        self.assertEqual(table.device_seconds(workers["graph"]), 1.2e-3)
        self.assertEqual(table.device_seconds(workers["libser-bf16"]), 0.4e-3)
        self.assertIsNone(table.device_seconds(workers["tuned"]))

    def test_levels(self):
        latency, throughput = table.TARGETS[0], table.TARGETS[2]
        got = [table.level(latency, ms) for ms in (0.6, 0.5, 0.35, 0.22)]
        self.assertEqual(got, ["-", "must", "strong", "stretch"])
        got = [table.level(throughput, clips) for clips in (5000, 5500, 6900, 8000)]
        self.assertEqual(got, ["-", "must", "strong", "stretch"])

    def test_units(self):
        self.assertAlmostEqual(table.in_unit(table.TARGETS[0], 2e-3), 2.0)
        self.assertAlmostEqual(table.in_unit(table.TARGETS[2], 10e-3), 6400.0)
        attention = next(t for t in table.TARGETS if t.name.startswith("attention"))
        self.assertAlmostEqual(table.in_unit(attention, 240e-6), 20.0)

    def test_digits(self):
        shown = [table.number(x) for x in (None, 0, 0.0123456, 1.25, 99.94, 12345.6)]
        self.assertEqual(shown, ["-", "0", "0.0123", "1.25", "99.9", "12,346"])


class Tables(unittest.TestCase):
    def setUp(self):
        self.lines = table.lines(sample_run())

    def test_sizes(self):
        # 70 GFLOP in 0.4 ms are 175 TFLOP/s, 35 % of the median 500
        words = row(self.lines, "libser-bf16")
        self.assertEqual(words, ["libser-bf16", "2.00", "8.00", "0.400", "500.0", "35.0", "%",
                                 "1.00x", "1.00x", "500", "600", "1.0e-02", "2.0e-02", "3"])
        words = row(self.lines, "graph")
        self.assertEqual(words[1:6], ["5.00", "5.00", "1.20", "200.0", "11.7"])
        self.assertEqual(words[7:9], ["2.50x", "3.00x"])
        title = next(line for line in self.lines if line.startswith("bf16, B=1;"))
        self.assertIn("500 TFLOP/s", title)
        self.assertIn("floor 0.0120 ms", title)
        self.assertIn("stopped early", next(x for x in self.lines if x.startswith("bf16, B=64")))

    def test_targets(self):
        lines = table.target_lines([sample_run()])
        words = row(lines, "B=1 ")
        self.assertEqual(words[:6], ["B=1", "0.400", "device", "ms", "must", "0.0910"])
        self.assertEqual(words[9:], ["20.0x", ">=12x", "2.50x", ">=2.5x", "graph"])
        words = row(lines, "B=64 ")
        self.assertEqual(words[:5], ["B=64", "6,400", "host", "clips/s", "must"])
        self.assertEqual(words[9:], ["-", ">=4x", "1.50x", ">=1.7x", "compiled"])
        self.assertEqual(row(lines, "B=8 ")[:4], ["B=8", "-", "not", "measured"])
        words = row(lines, "start to first result")
        self.assertEqual(words[4:8], ["0.700", "host", "s", "strong"])
        self.assertIn("10.0x", words)
        self.assertNotIn("set for an H200", lines[0])

    def test_targets_of_parts(self):
        run = sample_run()
        workers = run["sizes"][1]["workers"]
        workers["libser-bf16"]["ops"] = {"wave_conv": 500.0, "conv 1": 1500.0, "qkv": 9.0}
        workers["graph"]["facts"] = {"seconds": {"front": {"a": 1e-3, "b": 2e-3},
                                                 "convolutions": {"a": 7e-3, "b": 5e-3}}}
        words = row(table.target_lines([run]), "convolutions, B=64")
        self.assertEqual(words[2:6], ["2.00", "trace", "ms", "stretch"])
        self.assertEqual(words[10:], ["-", "-", "3.00x", ">=2x", "graph"])

    def test_targets_of_several_runs(self):
        """Each ratio is one of its own run; what was measured again is the later one."""
        first, second = sample_run(), sample_run()
        workers = second["sizes"][0]["workers"]
        for name in ("eager", "graph"):
            del workers[name]
        workers["tuned"] = worker([3e-3])
        workers["compiled"] = worker([5.4e-3])
        workers["libser-bf16"] = worker([1e-3], span=[0.34e-3])
        words = row(table.target_lines([first, second]), "B=1 ")
        self.assertEqual(words[:5], ["B=1", "0.340", "device", "ms", "strong"])
        # eager 40/2 and graph 5/2 of the first, tuned 3/1 and compiled 5.4/1 of the second
        self.assertEqual(words[9:], ["20.0x", ">=12x", "2.50x", ">=2.5x", "graph"])

    def test_only_comparable_runs_go_together(self):
        first, second = sample_run(), sample_run()
        for run in (first, second):
            run["samples"] = 80000
        self.assertEqual(len(table.comparable({"runs": [first, second]}, second)), 2)
        first["card"] = "another"
        self.assertEqual(table.comparable({"runs": [first, second]}, second), [second])
        self.assertIn("set for an H200", table.target_lines([first])[0])

    def test_targets_are_for_one_network(self):
        run = sample_run()
        run["standard"] = False
        self.assertIn("no targets", "\n".join(table.target_lines([run])))

    def test_ops(self):
        # the trace knows convolutions 5 and 6 only together: 3 us of 12
        words = row(self.lines, "conv 5 and on")
        self.assertEqual(words[4:], ["12.0", "3.00", "25.0", "%", "30.0", "%"])
        words = row(self.lines, "together")
        self.assertEqual(words, ["together", "40.0", "12.0", "30.0", "%", "100.0", "%"])

    def test_the_rest(self):
        text = "\n".join(self.lines)
        self.assertIn("not measured: torchaudio: why", text)
        self.assertIn("note: a note", text)
        words = row(self.lines, "hidden, B=1")
        self.assertEqual(words[2:], ["4.0e-02", "2.0e-02", "0.50", "1.1"])
        words = row(self.lines, "libser-bf16", under="start ")
        self.assertEqual(words, ["libser-bf16", "0.700", "0.100", "0.200", "0.100", "2"])

    def test_what_was_chosen(self):
        line = " ".join(row(self.lines, "graph", under="chosen"))
        self.assertEqual(line, "graph 12.5 front: moments; upload: staged")

    def test_nothing_measured(self):
        run = sample_run()
        run.update(sizes=[], starts={})
        self.assertIn("not measured", "\n".join(table.lines(run)))
        words = row(table.target_lines([run]), "B=1 ")
        self.assertEqual(words[:4], ["B=1", "-", "not", "measured"])


class Files(unittest.TestCase):
    def test_merging(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "new" / "file.json"
            self.assertEqual(table.read(path), {"runs": []})
            table.write(path, table.merged(table.read(path), {"date": "a", "x": 1}))
            table.write(path, table.merged(table.read(path), {"date": "b", "x": 2}))
            table.write(path, table.merged(table.read(path), {"date": "a", "x": 3}))
            runs = table.read(path)["runs"]
            self.assertEqual(runs, [{"date": "b", "x": 2}, {"date": "a", "x": 3}])
            self.assertEqual(os.listdir(path.parent), ["file.json"])
            path.write_text('{"runs": 3}')
            with self.assertRaises(ValueError):
                table.read(path)


class Agreement(unittest.TestCase):
    def setUp(self):
        random = np.random.default_rng(1)
        logits, hidden = random.standard_normal((8, 3)), random.standard_normal((8, 5))
        self.reference = {"logits": logits, "hidden": hidden, "plain_logits": logits * 1.01,
                          "plain_hidden": hidden * 1.02}
        exact = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        self.outputs = {"logits": logits[:4], "hidden": hidden[:4], "probabilities": exact[:4]}

    def test_errors(self):
        found = bench.errors(self.outputs, self.reference)
        self.assertEqual((found["largest"], found["hidden"]), (0, 0))
        self.assertLess(found["probabilities"], 1e-12)
        largest = np.abs(self.outputs["logits"]).max()
        self.outputs["logits"] = self.outputs["logits"] + np.eye(4, 3) * 0.1 * largest
        self.outputs["hidden"] = self.outputs["hidden"] * 1.03
        found = bench.errors(self.outputs, self.reference)
        self.assertAlmostEqual(found["largest"], 0.1)
        self.assertAlmostEqual(found["hidden"], 0.03)
        del self.outputs["hidden"]
        self.assertIsNone(bench.errors(self.outputs, self.reference)["hidden"])

    def test_limits(self):
        plain = bench.plain_errors(self.reference, 4)
        self.assertAlmostEqual(plain["logits"], 0.01)
        self.assertAlmostEqual(plain["hidden"], 0.02)

        def allowed(name, precision, **error):
            error = {"largest": 1.0, "logits": 1.0, "hidden": None, **error}
            return bench.objection(name, precision, error, plain) is None

        self.assertTrue(allowed("libser-f32", "f32", largest=0.9e-4))
        self.assertFalse(allowed("libser-f32", "f32", largest=1.1e-4))
        self.assertFalse(allowed("libser-f32", "f32", largest=float("nan")))
        self.assertTrue(allowed("tf32-graph", "f32", largest=9e-3))
        self.assertTrue(allowed("libser-bf16", "bf16", hidden=0.0219))
        self.assertFalse(allowed("libser-bf16", "bf16", hidden=0.0221))
        self.assertTrue(allowed("graph", "bf16", hidden=0.039))
        self.assertFalse(allowed("eager", "bf16", logits=0.021))

    def test_clips(self):
        clips = bench.make_clips(3, 4000).astype(np.float32)
        self.assertEqual(clips.shape, (3, 4000))
        self.assertTrue(np.array_equal(clips * 32768, np.round(clips * 32768)))
        self.assertGreater(clips.std(), 0.01)
        self.assertLess(np.abs(np.corrcoef(clips) - np.eye(3)).max(), 0.2)


class CommandLine(unittest.TestCase):
    def refused(self, *arguments):
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as text:
            bench.parse(list(arguments))
        return text.getvalue()

    def test_names(self):
        arguments = bench.parse(["--peers", "graph,f32", "--batches", "64", "1"])
        self.assertEqual(arguments.names, ["libser-bf16", "graph", "libser-f32", "f32"])
        self.assertEqual(arguments.batches, [1, 64])
        self.assertEqual(arguments.left_out["eager"], "not asked for")
        arguments = bench.parse(["--only", "bf16", "--skip-compiled"])
        self.assertNotIn("compiled", arguments.names)
        self.assertIn("graph", arguments.names)
        self.assertEqual(arguments.left_out["compiled"], "--skip-compiled")
        self.assertEqual(arguments.left_out["f32"], "not asked for")

    def test_mistakes(self):
        self.assertIn("no peer onnx", self.refused("--peers", "onnx"))
        self.assertIn("at least 1", self.refused("--batches", "0"))

    def test_tiny_writes_no_file(self):
        self.assertIsNone(bench.parse(["--tiny"]).results)
        self.assertIsNotNone(bench.parse([]).results)
        self.assertEqual(bench.parse(["--tiny", "--rounds", "5"]).rounds, 5)


class Card(unittest.TestCase):
    """What only a card gives, with its answers made up."""

    def test_memory_is_above_what_was_there(self):
        memory, used, found = machine.Memory("cpu"), [100], {}
        memory.used = lambda: used[0]
        with memory.peak(found):
            used[0] = 500
            time.sleep(0.1)
            used[0] = 300
        self.assertEqual(found, {"peak": 400, "kept": 200})

    def test_without_a_card_there_is_no_memory(self):
        memory, found = machine.Memory("cpu"), {}
        with memory.peak(found):
            pass
        self.assertEqual(found, {})

    def trace(self, peer):
        activities = [kernels.Activity("Memcpy HtoD (Pinned -> Device)", 0.0, 10.0),
                      kernels.Activity("wave_convolve(float const*)", 12.0, 5.0),
                      kernels.Activity("Memcpy DtoH (Device -> Pinned)", 20.0, 2.0)]
        worker = peers.Worker.__new__(peers.Worker)
        worker.peer = peer
        with mock.patch.dict(sys.modules, torch=mock.Mock()), \
                mock.patch.object(kernels, "record", lambda run, repeats: [activities] * repeats):
            return worker.trace(3)

    def test_traces(self):
        answer = self.trace(peers.Libser("f32"))
        np.testing.assert_allclose(answer["span"], [5e-6] * 3)
        np.testing.assert_allclose(answer["span_copies"], [22e-6] * 3)
        self.assertEqual(answer["ops"]["wave_conv"], 5.0)
        self.assertNotIn("ops", self.trace(peers.Torch()))


class Runs(bench_cases.Runs):
    program, kind = "bench.py", "inference"

    def check_run(self, run, text, names):
        """Two rounds of two runs, for all names at both sizes, all positive."""
        sizes = [(size["precision"], size["batch"]) for size in run["sizes"]]
        self.assertEqual(sizes, [("bf16", 1), ("bf16", 2), ("f32", 1), ("f32", 2)])
        for size in run["sizes"]:
            wanted = [name for name in names if peers.PEERS[name].precision == size["precision"]]
            self.assertEqual(list(size["workers"]), wanted)
            self.assertTrue(size["complete"])
            for entry in size["workers"].values():
                self.assertEqual(len(entry["host"]), 4)
                self.assertGreater(min(entry["host"]), 0)
            self.assertEqual(len(size["probe"]["tflops"]), 2)
            self.assertGreater(min(size["probe"]["tflops"] + size["probe"]["bandwidth"]), 0)
            self.assertGreater(min(size["floors"].values()), 0)
        for name in names:
            self.assertRegex(text, rf"\n{name} ")
            (start,) = run["starts"][name]
            self.assertGreater(min(start.values()), 0)
            parts = start["import"] + start["load"] + start["first"]
            self.assertGreaterEqual(start["total"], parts)

    def test_alone_on_the_cpu(self):
        text, (run,) = self.measure("--device", "cpu", "--peers", "")
        self.check_run(run, text, ["libser-bf16", "libser-f32"])
        self.assertIn("cpu", run["facts"]["libser-f32"]["device"])
        self.assertEqual(run["not_measured"]["graph"], "not asked for")
        self.assertIn("no trace of the device", text)
        self.assertFalse(run["standard"])
        # a second part keeps the first
        _, runs = self.measure("--device", "cpu", "--peers", "", "--append", "--only", "f32")
        self.assertEqual(runs[0], run)
        self.assertEqual([size["precision"] for size in runs[1]["sizes"]], ["f32", "f32"])

    @unittest.skipUnless(bench_cases.EMULATED, "needs SER_EMULATED_MODULE")
    def test_alone_on_the_emulated_card(self):
        text, (run,) = self.measure("--device", "cuda", "--peers", "", "--seconds", "0.25",
                                  SER_MODULE_PATH=bench_cases.EMULATED)
        self.check_run(run, text, ["libser-bf16", "libser-f32"])
        self.assertIn("cuda", run["facts"]["libser-bf16"]["device"])

    def test_without_a_module_nothing_is_measured(self):
        text, (run,) = self.measure("--device", "cuda", "--peers", "", status=1,
                                  SER_MODULE_PATH=str(self.work))
        self.assertIn("libser-cuda.so", run["not_measured"]["libser-bf16"])
        self.assertIn("libser was not measured", text)

    @unittest.skipIf(bench_cases.TORCH, "PyTorch is here")
    def test_a_peer_that_cannot_start_is_named(self):
        text, (run,) = self.measure("--device", "cpu", "--peers", "eager", "--only", "bf16")
        self.assertIn("No module named", run["not_measured"]["eager"])
        self.assertIn("not measured: eager", text)
        self.assertEqual(list(run["sizes"][0]["workers"]), ["libser-bf16"])

    def test_wrong_outputs_stop_the_run(self):
        with tempfile.TemporaryDirectory() as folder:
            asked = ["--tiny", "--device", "cpu", "--work", folder]
            arguments = bench.parse(asked)
            bench.prepare(arguments, machine.Deadline(60))
            random = np.random.default_rng(2)
            wrong = {name: random.standard_normal((8, columns)) for name, columns in (
                ("logits", 8), ("hidden", 48), ("plain_logits", 8), ("plain_hidden", 48))}
            np.savez(bench.reference_path(arguments), **wrong)
            text, (run,) = self.measure(*asked[1:], "--peers", "", "--only", "f32", status=1)
        self.assertIn("libser is wrong: libser-f32, B=1: error of largest", text)
        self.assertEqual(len(run["sizes"]), 1)

    def test_an_interrupt_keeps_what_was_measured(self):
        process = subprocess.Popen(
            self.command("--device", "cpu", "--peers", "", "--rounds", "1000000"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment())
        text = b""
        while b"round 3 of" not in text:
            data = os.read(process.stderr.fileno(), 4096)
            self.assertTrue(data, text)
            text += data
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
        self.assertEqual(process.returncode, 130)
        self.assertIn(b"note: interrupted", out)
        (run,) = self.runs()
        self.assertGreaterEqual(len(run["sizes"][0]["workers"]["libser-bf16"]["host"]), 6)
        self.assertFalse(run["sizes"][0]["complete"])

    def test_the_time_limit_keeps_what_was_measured(self):
        size = self.after_three_rounds(bench.main)
        self.assertEqual(len(size["workers"]["libser-bf16"]["host"]), 6)

    def test_nothing_outlives_the_time_limit(self):
        now, started, popen = machine.Deadline(0), [], subprocess.Popen
        self.assertRaises(machine.TimeUp, now.check)

        def start(*arguments, **more):
            started.append(popen(*arguments, **more))
            return started[-1]

        with self.assertRaises(machine.TimeUp), mock.patch.object(subprocess, "Popen", start):
            machine.Process({"do": "probe", "precision": "f32"}, self.work, now)
        self.assertIsNotNone(started[0].poll())

    def test_a_file_of_something_else_is_not_appended_to(self):
        file = bench.result_path(self.results, machine.cpu_name())
        file.write_text("[]")
        done = subprocess.run(self.command("--device", "cpu", "--peers", "", "--append"),
                              capture_output=True, text=True, env=self.environment())
        self.assertEqual((done.returncode, file.read_text()), (1, "[]"))
        self.assertIn("was not written by bench.py", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    @unittest.skipUnless(bench_cases.TORCH, "needs PyTorch and transformers")
    def test_with_pytorch_on_the_cpu(self):
        names = ["libser-bf16", "eager", "graph", "libser-f32", "f32"]
        asked = ",".join(["compiled", *(name for name in names if not name.startswith("libser"))])
        text, (run,) = self.measure("--device", "cpu", "--peers", asked, "--skip-compiled")
        self.check_run(run, text, names)
        self.assertEqual(run["not_measured"]["compiled"], "--skip-compiled")
        for size in run["sizes"]:
            for name, entry in size["workers"].items():
                self.assertIsNone(bench.objection(name, size["precision"], entry["error"],
                                                  size["plain_bf16"]))
        parts = run["sizes"][0]["workers"]["graph"]["facts"]["parts"]
        self.assertEqual(list(parts), ["front", "convolutions", "position", "layer"])


@unittest.skipUnless(bench_cases.TORCH, "needs PyTorch and transformers")
class Network(unittest.TestCase):
    """Every way to compute each part of network.py is the same function, which is transformers'."""

    def setUp(self):
        import network
        import torch

        self.network, self.torch = network, torch
        torch.set_grad_enabled(False)
        self.addCleanup(torch.set_grad_enabled, True)
        model = peers.fold(peers.load_classifier(bench.TINY["model"])).double()
        self.model, self.weights = model, network.Weights(model, "cpu", torch.float64)

    def clips(self, samples):
        return self.torch.from_numpy(bench.make_clips(2, samples).astype(np.float64))

    def test_same_as_transformers(self):
        # pairs of rows: lengths that divide evenly, and those that leave a row over at every level
        for samples in (16000, 80000, 7777, 405):
            pcm = self.clips(samples)
            plan = self.network.Plan(self.weights, pcm, False, repeats=1)
            probabilities, logits, mean = plan.prepare()()
            x = self.network.normalized(pcm)
            hidden = self.model.wav2vec2(x).last_hidden_state.mean(1)
            self.assertLess(float((mean - hidden).abs().max()), 1e-6, samples)
            wanted = self.model(x).logits
            self.assertLess(float((logits - wanted).abs().max()), 1e-5, samples)
            self.assertEqual(set(plan.taken), {"front", "convolutions", "position", "layer"})

    def test_every_way(self):
        for samples in (16000, 7777):
            shape = self.network.Shape(self.weights, samples)
            x = self.clips(samples)
            for part, ways in self.network.PARTS.items():
                results = {}
                for name, way in ways.items():
                    y = way(self.weights, shape, x)
                    results[name] = y[:, : shape.frames[0]] if part == "front" else y
                    keep = y if name == next(iter(ways)) else keep
                first = results[next(iter(ways))]
                for name, y in results.items():
                    limit = 1e-4 if name == "f32" else 1e-9
                    self.assertLess(float((y - first).abs().max()), limit, (part, name, samples))
                x = keep

    def test_rows_hold_every_frame(self):
        for samples in range(400, 3000, 7):
            shape = self.network.Shape(self.weights, samples)
            for i, frames in enumerate(shape.frames):
                self.assertGreaterEqual(shape.rows[i], frames)
                if i > 0:
                    self.assertEqual(shape.rows[i - 1], 2 * shape.rows[i])


if __name__ == "__main__":
    unittest.main()
