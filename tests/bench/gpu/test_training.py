# SPDX-License-Identifier: MIT
"""training.py without a card: numbers and tables of hand-made samples, what stops a run and what
leaves a peer out, runs of libser alone on the CPU and on the emulated GPU, and, where PyTorch can
be imported, of all peers on the CPU and of every way that G4 has.

    SER_LIBRARY=BUILD/lib/libser.so.0 SER_EMULATED_MODULE=BUILD/tests/cuda \\
        PYTHONPATH=bindings/python python3 tests/bench/gpu/test_training.py

Nothing is asserted of times but that there are some.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
import unittest
from unittest import mock

import numpy as np

sys.dont_write_bytecode = True  # the source tree stays as it is

import bench_cases  # noqa: E402
import kernels  # noqa: E402
import machine  # noqa: E402
import training  # noqa: E402
import training_peers  # noqa: E402
import training_table  # noqa: E402


def worker(host, **more):
    return {"host": host, "events": [], "span": [], "same": True, "same_noisy": True, **more}


def sample_run():
    """At B=32 libser 10 ms cached, 12 ms with convolutions; eager 50 and 54 ms, graph 16 and 24."""
    probe = {"type": "bf16", "tflops": [400.0, 500.0, 600.0], "bandwidth": [4.0]}
    cached = {
        "precision": "bf16", "batch": 32, "cached": True, "complete": True, "probe": probe,
        "plain": {"largest": 2e-3, "losses": 1e-3, "norms": 2e-3},
        "floors": {"qkv": 1e-3, "adamw": 2e-3},
        "workers": {
            "libser-bf16": worker([10e-3, 9e-3, 20e-3], span=[8e-3], memory=4e9, memory_peak=5e9,
                                  error={"largest": 2e-3, "losses": 5e-4, "norms": 1e-2},
                                  ops={"qkv": 1500.0, "adamw": 600.0, "sum_squares": 60.0}),
            "eager": worker([50e-3], update=[3e-3, 2e-3, 9e-3], memory=12e9),
            "tuned": worker([30e-3], events=[29e-3], update=[1.5e-3], memory=9e9),
            "graph": worker([16e-3], events=[15e-3], update=[0.99e-3], memory=8e9),
        },
    }
    step = {
        "precision": "bf16", "batch": 32, "cached": False, "complete": False, "probe": probe,
        "workers": {"libser-bf16": worker([12e-3]), "eager": worker([54e-3]),
                    "graph": worker([24e-3])},
    }
    return {
        "date": "2000-01-02T03:04:05+00:00", "card": "NVIDIA H200", "versions": {"torch": "9.9"},
        "standard": True, "samples": 80000, "flop": {"cached": 1e11, "step": 2e11},
        "sizes": [cached, step], "not_measured": {"tuned-b": "why"}, "notes": ["a note"],
        "starts": {"libser-bf16": [{"import": 0.1, "load": 0.2, "first": 0.3, "total": 0.9}],
                   "compiled": [{"import": 5, "load": 1, "first": 80, "total": 88.0}]},
    }


def row(lines, name):
    return next(line for line in lines if line.startswith(name)).split()


class Numbers(unittest.TestCase):
    def test_p90_is_the_nearest_rank(self):
        self.assertEqual(training_table.p90([7.0]), 7.0)
        self.assertEqual(training_table.p90(list(range(10, 0, -1))), 9)
        self.assertEqual(training_table.p90([3, 1, 2]), 3)

    def test_update(self):
        workers = sample_run()["sizes"][0]["workers"]
        self.assertAlmostEqual(training_table.update_seconds(workers["libser-bf16"]), 660e-6)
        self.assertAlmostEqual(training_table.update_seconds(workers["eager"]), 3e-3)
        self.assertIsNone(training_table.update_seconds({"ops": {"adamw": 5.0}}))
        self.assertIsNone(training_table.update_seconds({"update": None}))

    def test_share(self):
        run = sample_run()
        cached, step = run["sizes"]
        # 32 x 100 GFLOP in 10 ms are 320 TFLOP/s of 500
        self.assertAlmostEqual(
            training_table.share(run, cached, cached["workers"]["libser-bf16"]), 0.64)
        self.assertAlmostEqual(training_table.share(run, step, step["workers"]["graph"]), 0.5333,
                               places=4)
        step["probe"] = {"tflops": [], "bandwidth": []}
        self.assertIsNone(training_table.share(run, step, step["workers"]["graph"]))

    def test_levels(self):
        memory, share = training_table.TARGETS[-2:]
        got = [training_table.reached(memory, x) for x in (6, 5, 4.2, 3)]
        self.assertEqual(got, ["-", "must", "strong", "stretch"])
        got = [training_table.reached(share, x) for x in (40, 46, 55, 70)]
        self.assertEqual(got, ["-", "must", "strong", "stretch"])


class Tables(unittest.TestCase):
    def setUp(self):
        self.lines = training_table.lines(sample_run())

    def test_sizes(self):
        self.assertEqual(row(self.lines, "libser-bf16"), [
            "libser-bf16", "10.0", "9.00", "20.0", "8.00", "3,200", "64.0", "%", "1.00x", "1.00x",
            "0.660", "4,000", "5,000", "5.0e-04", "1.0e-02", "3"])
        words = row(self.lines, "graph")
        self.assertEqual(words[1:5], ["16.0"] * 3 + ["15.0"])
        self.assertEqual(words[8:11], ["1.60x", "1.88x", "0.990"])
        heading = next(x for x in self.lines if x.startswith("bf16, B=32, features cached;"))
        self.assertIn("floor 3.00 ms", heading)
        self.assertIn("stopped early",
                      next(x for x in self.lines if x.startswith("bf16, B=32, CNN in the step")))

    def test_targets(self):
        lines = training_table.target_lines([sample_run()])
        words = row(lines, "step, B=32, cached")
        self.assertEqual(words[3:6], ["10.0", "ms", "strong"])
        self.assertEqual(words[10:], ["5.00x", ">=4x", "1.60x", ">=1.5x", "graph"])
        words = row(lines, "the same, peers without a cache")  # 24 ms over 10 ms
        self.assertEqual(words[-5:], ["5.00x", ">=4x", "2.40x", ">=1.8x", "graph"])
        words = row(lines, "step, B=32, CNN in it")
        self.assertEqual(words[-5:], ["4.50x", ">=4x", "2.00x", ">=1.7x", "graph"])
        words = row(lines, "clip and AdamW")
        self.assertEqual(words[3:6], ["0.660", "ms", "strong"])
        self.assertEqual(words[-5:], ["4.55x", ">=2x", "1.50x", ">=1.15x", "graph"])
        words = row(lines, "memory, B=32")  # the best peer is the one with the least
        self.assertEqual(words[-5:], ["0.333x", "<=0.4x", "0.500x", "<=0.6x", "graph"])
        words = row(lines, "of peak")
        self.assertEqual(words[4:7], ["64.0", "%", "stretch"])
        self.assertIn("-", row(lines, "step, B=8"))
        self.assertIn("libser-bf16 0.900 s, compiled 88.0 s", lines[-1])

    def test_targets_of_several_runs(self):
        """Each ratio is one of its own run; what was measured again is the later one."""
        first, second = sample_run(), sample_run()
        second["sizes"] = second["sizes"][:1]
        workers = second["sizes"][0]["workers"]
        workers["libser-bf16"] = worker([8e-3])
        for name in ("eager", "graph"):
            del workers[name]
        workers["compiled"] = worker([11e-3])
        words = row(training_table.target_lines([first, second]), "step, B=32, cached")
        self.assertEqual(words[3:6], ["8.00", "ms", "stretch"])
        self.assertEqual(words[10:], ["5.00x", ">=4x", "1.38x", ">=1.5x", "compiled"])

    def test_targets_are_for_one_network(self):
        self.assertIn("no targets", training_table.target_lines([{"standard": False}])[0])

    def test_the_rest(self):
        text = "\n".join(self.lines)
        self.assertIn("not measured: tuned-b: why", text)
        self.assertIn("note: a note", text)
        self.assertRegex(text, r"features cached +1.0e-03 +5.0e-04 +0.5 +the same bits")

    def test_nothing_measured(self):
        run = sample_run()
        run.update(sizes=[], starts={})
        self.assertIn("not measured", "\n".join(training_table.lines(run)))
        self.assertIn("-", row(training_table.target_lines([run]), "step, B=8"))


class Agreement(unittest.TestCase):
    def setUp(self):
        losses = np.linspace(2.0, 1.5, 20).reshape(2, 10)
        self.reference = {"losses": losses, "norms": 3 * losses,
                          "plain_losses": losses * 1.01, "plain_norms": losses * 3.06}

    def found(self, factor=1.0, **more):
        return {"losses": (self.reference["losses"] * factor).tolist(),
                "norms": self.reference["norms"].tolist(), "noisy": [2.1] * 10, "same": True,
                "same_noisy": True, **more}

    def test_errors(self):
        exact = training.errors(self.found(), self.reference)
        self.assertEqual(exact, {"largest": 0.0, "losses": 0.0, "norms": 0.0})
        self.assertAlmostEqual(training.errors(self.found(1.03), self.reference)["losses"], 0.03)
        one = self.found()
        one["losses"][1][3] *= 1.1
        found = training.errors(one, self.reference)
        self.assertAlmostEqual(found["largest"], 0.1)
        self.assertAlmostEqual(found["losses"], 0.1 / 20**0.5)
        plain = training.plain_errors(self.reference)
        self.assertAlmostEqual(plain["losses"], 0.01)
        self.assertAlmostEqual(plain["norms"], 0.02)

    def test_fewer_draws(self):
        part = {name: self.found()[name][:1] for name in ("losses", "norms")}
        self.assertEqual(training.errors(part, self.reference)["largest"], 0)

    def test_limits(self):
        plain = training.plain_errors(self.reference)

        def allowed(name, precision, factor):
            error = training.errors(self.found(factor), self.reference)
            return training.objection(name, precision, error, plain) is None

        self.assertTrue(allowed("libser-f32", "f32", 1 + 1.9e-5))
        self.assertFalse(allowed("libser-f32", "f32", 1 + 2.1e-5))
        self.assertFalse(allowed("libser-f32", "f32", float("nan")))
        self.assertTrue(allowed("tf32-graph", "f32", 1.009))
        self.assertTrue(allowed("libser-bf16", "bf16", 1.019))
        self.assertFalse(allowed("libser-bf16", "bf16", 1.021))
        self.assertTrue(allowed("graph", "bf16", 1.029))
        self.assertFalse(allowed("graph", "bf16", 1.031))

    def test_misbehaviour(self):
        def why(name, **more):
            return training.misbehaviour(name, self.found(**more))

        self.assertIsNone(why("libser-bf16"))
        self.assertIn("twice", why("libser-bf16", same=False))
        self.assertIn("twice", why("libser-f32", same_noisy=False))
        self.assertIsNone(why("tuned", same_noisy=False))
        self.assertIn("not finite", why("tuned", noisy=[float("nan")] * 10))
        self.assertIn("change nothing", why("tuned", noisy=self.found()["losses"][0]))

    def bench(self, name, answer):
        """A run in which that worker has these losses."""
        run = training.Training.__new__(training.Training)
        run.arguments = mock.Mock(draws=2)
        run.memory, run.reference = machine.Memory("cpu"), self.reference
        run.run = {"not_measured": {}, "notes": []}
        fake = mock.Mock(held=None)
        fake.ask = lambda do, **request: {"size": {}, "agree": answer}[do]
        fake.process.poll.return_value = None
        run.workers = {name: fake}
        run.say = lambda text: None
        return run, fake

    def size(self):
        return {"precision": "bf16", "batch": 2, "cached": True, "workers": {}, "failed": [],
                "plain": training.plain_errors(self.reference)}

    def test_libser_that_is_wrong_stops_the_run(self):
        for answer in (self.found(1.05), self.found(same=False)):
            run, fake = self.bench("libser-bf16", answer)
            size = self.size()
            with self.assertRaises(training.Disagreement):
                run.each(size, "libser-bf16", lambda: run.make_ready("libser-bf16", fake, size))
            self.assertIn("libser-bf16", size["workers"])  # its losses are kept

    def test_a_peer_that_is_wrong_is_left_out(self):
        run, fake = self.bench("graph", self.found(1.05))
        size = self.size()
        run.each(size, "graph", lambda: run.make_ready("graph", fake, size))
        self.assertEqual(size["workers"], {})
        self.assertIn("its losses are wrong: error of the losses",
                      run.run["not_measured"]["graph, bf16, B=2, features cached"])
        run, fake = self.bench("graph", self.found(1.01))
        run.each(size := self.size(), "graph", lambda: run.make_ready("graph", fake, size))
        self.assertAlmostEqual(size["workers"]["graph"]["error"]["losses"], 0.01)


class CommandLine(unittest.TestCase):
    def test_names(self):
        arguments = training.parse(["--peers", "graph,f32", "--batches", "32", "8"])
        self.assertEqual(arguments.names, ["libser-bf16", "graph", "libser-f32", "f32"])
        self.assertEqual((arguments.batches, arguments.cached), ([8, 32], [True, False]))
        self.assertEqual(training.parse(["--features", "step"]).cached, [False])
        self.assertEqual(training.parse([]).batches, [8, 32])
        arguments = training.parse(["--skip-compiled"])
        self.assertEqual(arguments.left_out["compiled"], "--skip-compiled")

    def test_mistakes(self):
        for wrong in (["--peers", "torchaudio"], ["--draws", "0"], ["--draws", "99"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                training.parse(wrong)

    def test_tiny_writes_no_file(self):
        self.assertIsNone(training.parse(["--tiny"]).results)
        self.assertIsNotNone(training.parse([]).results)


class Card(unittest.TestCase):
    def trace(self, peer, counts):
        activities = [kernels.Activity("Memcpy HtoD (Pinned -> Device)", 0.0, 10.0),
                      kernels.Activity("sum_chunks(float const*)", 12.0, 5.0),
                      kernels.Activity("adamw(float*)", 18.0, 20.0),
                      kernels.Activity("Memcpy DtoH (Device -> Pinned)", 40.0, 2.0)]
        made = training_peers.Worker.__new__(training_peers.Worker)
        made.peer, peer.run = peer, lambda count: counts.append(count)
        with mock.patch.dict(sys.modules, torch=mock.Mock()), \
                mock.patch.object(kernels, "record", lambda run, repeats: [activities] * repeats):
            return made.trace(3)

    def test_traces(self):
        counts = []
        answer = self.trace(training_peers.Libser("f32"), counts)
        self.assertGreaterEqual(sum(counts), training_peers.ROTATION)  # features are in the cache
        np.testing.assert_allclose(answer["span"], [26e-6] * 3)
        np.testing.assert_allclose(answer["span_copies"], [42e-6] * 3)
        self.assertAlmostEqual(training_table.update_seconds(answer), 25e-6)
        self.assertNotIn("ops", self.trace(training_peers.Torch(), []))


class Runs(bench_cases.Runs):
    program, kind, options = "training.py", "training", ["--draws", "1"]

    def check_run(self, run, text, names, sizes):
        """Two rounds, for all names at all sizes; everybody's ten losses."""
        got = [(size["precision"], size["batch"], size["cached"]) for size in run["sizes"]]
        self.assertEqual(got, sizes)
        for size in run["sizes"]:
            wanted = [name for name in names
                      if training_peers.PEERS[name].precision == size["precision"]]
            self.assertEqual(list(size["workers"]), wanted, run["not_measured"])
            self.assertTrue(size["complete"])
            for entry in size["workers"].values():
                self.assertEqual((len(entry["host"]), len(entry["loss"])), (2, 2))
                self.assertGreater(min(entry["host"]), 0)
                self.assertEqual(np.shape(entry["losses"]), (1, training_peers.STEPS))
            self.assertGreater(sum(size["floors"].values()), 0)
        for name in names:
            self.assertRegex(text, rf"\n{name} ")
            self.assertGreater(min(run["starts"][name][0].values()), 0)

    def test_alone_on_the_cpu(self):
        text, (run,) = self.measure("--device", "cpu", "--peers", "")
        sizes = [(precision, batch, cached) for precision in ("bf16", "f32")
                 for batch in (1, 2) for cached in (True, False)]
        self.check_run(run, text, ["libser-bf16", "libser-f32"], sizes)
        entries = [size["workers"][f"libser-{size['precision']}"] for size in run["sizes"]]
        # a cache changes no bit, and on the CPU bf16 is f32
        self.assertEqual(entries[2]["losses"], entries[3]["losses"])
        self.assertEqual(entries[2]["losses"], entries[6]["losses"])
        self.assertNotEqual(entries[0]["losses"], entries[2]["losses"])
        self.assertLess(run["flop"]["cached"], run["flop"]["step"])
        # a second part keeps the first
        _, runs = self.measure("--device", "cpu", "--peers", "", "--append", "--only", "f32",
                                "--features", "step", "--batches", "1")
        self.assertEqual(runs[0], run)
        self.assertEqual([size["cached"] for size in runs[1]["sizes"]], [False])

    @unittest.skipUnless(bench_cases.EMULATED, "needs SER_EMULATED_MODULE")
    def test_alone_on_the_emulated_card(self):
        text, (run,) = self.measure(
            "--device", "cuda", "--peers", "", "--seconds", "0.1", "--batches", "1",
            "--only", "bf16", "--features", "cached", SER_MODULE_PATH=bench_cases.EMULATED)
        self.check_run(run, text, ["libser-bf16"], [("bf16", 1, True)])
        self.assertIn("cuda", run["facts"]["libser-bf16"]["device"])

    def test_wrong_losses_stop_the_run(self):
        with tempfile.TemporaryDirectory() as folder:
            asked = self.arguments("--device", "cpu", work=folder)
            arguments = training.parse(asked)
            with mock.patch.dict(os.environ):
                training.prepare(arguments, machine.Deadline(60))
            wrong = {name: np.full((4, 10), 2.0) for name in
                     ("losses", "norms", "plain_losses", "plain_norms")}
            np.savez(training.reference_path(arguments, 1), **wrong)
            text, (run,) = self.measure("--device", "cpu", "--peers", "", "--only", "f32",
                                         status=1, work=folder)
        self.assertIn("libser is wrong: libser-f32, f32, B=1, features cached: error of a", text)
        self.assertEqual(len(run["sizes"]), 1)

    def test_the_time_limit_keeps_what_was_measured(self):
        size = self.after_three_rounds(training.main)
        self.assertEqual(len(size["workers"]["libser-bf16"]["host"]), 3)

    @unittest.skipUnless(bench_cases.TORCH, "needs PyTorch and transformers")
    def test_with_pytorch_on_the_cpu(self):
        names = ["libser-bf16", "eager", "tuned", "graph", "libser-f32", "f32", "f32-graph",
                 "tf32-graph"]
        asked = ",".join(["compiled", *(name for name in names if not name.startswith("libser"))])
        text, (run,) = self.measure("--device", "cpu", "--peers", asked, "--skip-compiled",
                                     "--batches", "2")
        sizes = [(precision, 2, cached) for precision in ("bf16", "f32")
                 for cached in (True, False)]
        self.check_run(run, text, names, sizes)
        self.assertEqual(run["not_measured"]["compiled"], "--skip-compiled")
        for size in run["sizes"]:
            for name, entry in size["workers"].items():
                self.assertIsNone(training.objection(name, size["precision"], entry["error"],
                                                     size["plain"]))
                cached = size["cached"] and name != "eager"
                self.assertEqual(entry["facts"].get("cached", cached), cached)
        self.assertTrue(re.search(r"features cached .* the same bits", text))


@unittest.skipUnless(bench_cases.TORCH, "needs PyTorch and transformers")
class Network(unittest.TestCase):
    """training_network.py against transformers' modules, in float64."""

    @classmethod
    def setUpClass(cls):
        import torch
        import training_network

        cls.net, cls.torch = training_network, torch
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.arguments = training.parse(["--tiny", "--device", "cpu", "--work", folder.name])
        training.prepare(cls.arguments, machine.Deadline(120))

    def model(self):
        return self.net.load_model(self.arguments.model, self.arguments.start)

    def test_the_flat_arrays_hold_everything_once(self):
        torch, model = self.torch, self.model()
        flat = self.net.Flat(model, "cpu", torch.bfloat16)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.assertEqual(sum(leaf.numel() for leaf in flat.leaves),
                         sum(p.numel() for p in trained.values()))
        square = sum(float(p.detach().double().square().sum()) for p in trained.values())
        self.assertAlmostEqual(float(flat.values.double().square().sum()) / square, 1.0, places=5)
        decaying = sum(p.numel() for name, p in trained.items() if self.net.decays(name, p))
        self.assertGreaterEqual(flat.trained[0].numel(), decaying)
        self.assertLess(flat.trained[0].numel() - decaying, 64 * len(trained))
        # what is read follows the values; gradients find their places
        flat.values.fill_(3.0)
        flat.refresh()
        self.assertTrue(all(bool((leaf == 3).all()) for leaf in flat.leaves))
        flat.take([torch.full_like(leaf, i + 1.0) for i, leaf in enumerate(flat.leaves)])
        for i, slot in enumerate(flat.slots):
            self.assertTrue(bool((slot == i + 1.0).all()))

    def test_every_way_has_the_same_gradients(self):
        """Of positional convolution and layers; first against transformers' modules."""
        torch, model = self.torch, self.model().double()
        encoder = model.wav2vec2.encoder
        model.set_noise(self.net.QUIET)
        shape = self.net.Shape(model.wav2vec2.config, self.net.QUIET)
        x = torch.randn(2, 49, shape.hidden, dtype=torch.float64)
        parts = dict(self.net.named_parts(model))
        own = {
            "position": (lambda x, p: encoder.layer_norm(x + encoder.pos_conv_embed(x)),
                         {way: self.net.position_by(way)
                          for way in ("1d", "2d", "wide", "patches")}),
            "layer": (lambda x, p: encoder.layers[-1](x), {"layer": self.net.layer}),
        }
        for part, (wanted, ways) in own.items():
            p = [tensor.detach().requires_grad_() for tensor in parts[part]]
            y = torch.randn_like(x)
            begin = x.clone().requires_grad_()
            output = wanted(begin, p)
            (gradient,) = torch.autograd.grad(output, [begin], y)
            first = None
            for way, function in ways.items():
                start = x.clone().requires_grad_()
                found = function(shape, start, p)
                gradients = torch.autograd.grad(found, [start, *p], y)
                self.assertLess(float((found - output).detach().abs().max()), 1e-9, (part, way))
                self.assertLess(float((gradients[0] - gradient).abs().max()), 1e-9, (part, way))
                first = first or gradients
                for a, b in zip(first, gradients):
                    self.assertLess(float((a - b).abs().max()), 1e-8, (part, way))

    def test_masks_are_like_libsers(self):
        """0.05 x 249 / 10 = 1.245 spans of 10 frames a clip, 1 or 2."""
        self.torch.manual_seed(3)
        mask = self.net.span_mask(4000, 249, self.net.USUAL, "cpu")
        counts = mask.sum(1)
        self.assertEqual(int(counts.min()), 10)
        self.assertLessEqual(int(counts.max()), 20)
        share = float((counts > 10).double().mean())
        self.assertAlmostEqual(share, 0.245, delta=0.03)
        ends = mask.double().mean(0)
        self.assertGreater(float(ends.min()), 0)  # every frame can be masked
        edges = (mask[:, 1:] != mask[:, :-1]).sum(1) + mask[:, 0].int() + mask[:, -1].int()
        self.assertTrue(bool((edges % 2 == 0).all()))

    def test_noise_reaches_every_dropout(self):
        model = self.model()
        model.set_noise(self.net.USUAL)
        kinds = {m.p for name, m in model.named_modules()
                 if isinstance(m, self.torch.nn.Dropout) and "intermediate" not in name}
        self.assertEqual(kinds, {0.1})
        self.assertTrue(model.wav2vec2.config.apply_spec_augment)
        model.set_noise(self.net.QUIET)
        kinds = {m.p for m in model.modules() if isinstance(m, self.torch.nn.Dropout)}
        self.assertEqual(kinds, {0.0})


if __name__ == "__main__":
    unittest.main()
