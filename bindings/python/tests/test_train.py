# SPDX-License-Identifier: MIT
"""Fresh models, batches, steps, checkpoints."""

import concurrent.futures
import gc
import json
import os
import pathlib
import tempfile
import threading
import unittest

from helpers import GOLDEN, RATE, needs_numpy, numpy, tone, wav_bytes

import ser

LABELS = ["low", "middle", "high"]
CONFIG = json.loads("""{
  "features": {
    "type": "logmel",
    "mel": {"frame": 400, "hop": 160, "fft": 512, "bins": 16, "low": 50, "high": 7600,
      "floor": 1e-5},
    "conv_dim": [8], "conv_kernel": [3], "conv_stride": [2], "conv_padding": [1],
    "conv_bias": true, "norm": "layer"},
  "encoder": {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "norm": "pre", "position_kernel": 3, "position_groups": 2},
  "pooling": {"type": "attention"},
  "classifier": {"sizes": [], "activation": "none"}
}""")
PITCHES = [150.0, 600.0, 2000.0, 160.0, 640.0, 2200.0]
CLIPS = [wav_bytes(tone(0.25 + 0.02 * i, pitch=pitch)) for i, pitch in enumerate(PITCHES)]
CLIP_LABELS = LABELS * 2


def create(**options):
    return ser.Model.create(config=CONFIG, labels=LABELS, device="cpu", threads=1, **options)


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def trainer(self, model=None, **options):
        """A trainer of a fresh model; both are closed after the test."""
        model = model or create()
        self.addCleanup(model.close)
        trainer = ser.Trainer(model, **{"rate": 0.02, "steps": 40, **options})
        self.addCleanup(trainer.close)
        return trainer

    def weights(self, trainer):
        """The bytes of the model file: every weight, bit for bit."""
        trainer.save_model(self.folder / "weights.safetensors")
        return (self.folder / "weights.safetensors").read_bytes()

    def assert_status(self, name, call, *arguments, **options):
        with self.assertRaises(ser.SerError) as caught:
            call(*arguments, **options)
        self.assertEqual(caught.exception.name, "SER_ERR_" + name)
        return str(caught.exception)


class Creating(Case):
    def test_from_a_config(self):
        with create(seed=3) as model:
            self.assertEqual(model.labels, LABELS)
            self.assertEqual(model.path, "")
            self.assertFalse(model.config["layer_mix"])
            self.assertEqual(len(model.predict(CLIPS[0])), 3)
            model.save(self.folder / "a")
        text = json.dumps({**CONFIG, "labels": ["x", "y"]})
        for seed, name in ((3, "b"), (4, "c")):
            with ser.Model.create(config=text, labels=LABELS, seed=seed) as model:
                model.save(self.folder / name)
        a, b, c = ((self.folder / name).read_bytes() for name in "abc")
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)
        with create(layer_mix=True) as model:
            self.assertTrue(model.config["layer_mix"])

    def test_built_in(self):
        with ser.Model.create(config="ser-mini", labels=("calm", "angry")) as model:
            self.assertEqual(model.labels, ["calm", "angry"])

    def test_from_a_backbone(self):
        with ser.Model.create(GOLDEN / "base", labels=LABELS) as model:
            self.assertEqual(model.labels, LABELS)
            self.assertEqual(model.path, str(GOLDEN / "base"))
        with self.assertRaises(OSError):
            ser.Model.create(backbone=self.folder / "nothing", labels=LABELS)

    def test_wrong_arguments(self):
        for options, error in (
            ({"labels": LABELS}, TypeError),
            ({"backbone": "x", "config": "ser-mini", "labels": LABELS}, TypeError),
            ({"config": "ser-mini"}, TypeError),
            ({"config": "ser-mini", "labels": "low"}, TypeError),
            ({"config": "ser-mini", "labels": ["a", 1]}, TypeError),
            ({"config": "ser-mini", "labels": ["a"]}, ValueError),
            ({"config": "ser-mini", "labels": ["a", "a"]}, ValueError),
            ({"config": "ser-mini", "labels": ["a", "b\0"]}, ValueError),
            ({"config": "ser-mini", "labels": LABELS, "seed": 2**64}, ValueError),
            ({"config": "ser-mini", "labels": LABELS, "seed": 0.5}, TypeError),
            ({"config": "ser-mini\0", "labels": LABELS}, ValueError),
            ({"config": "{", "labels": LABELS}, ValueError),
            ({"config": {**CONFIG, "window": float("nan")}, "labels": LABELS}, ValueError),
            ({"config": {**CONFIG, "colour": 1}, "labels": LABELS}, ValueError),
        ):
            with self.assertRaises(error, msg=options):
                ser.Model.create(**options)


class Steps(Case):
    @needs_numpy
    def test_the_loss_falls(self):
        trainer = self.trainer()
        batch = trainer.batch(CLIPS, CLIP_LABELS, augment=False)
        trainer.observe(batch)
        trainer.settle()
        self.assertEqual(trainer.steps, 0)
        first = trainer.step(batch)
        for epoch in range(1, 40):
            last = trainer.step(trainer.batch(CLIPS, CLIP_LABELS, epoch))
        self.assertLess(last.loss, 0.3 * first.loss)
        self.assertEqual((first.step, last.step, trainer.steps), (1, 40, 40))
        self.assertEqual((last.updated, last.skipped, last.bad_clip), (True, False, None))
        self.assertGreater(first.gradient_norm, 0.0)
        self.assertLess(last.rate, first.head_rate * 1.01)
        losses, probabilities = trainer.evaluate(batch)
        self.assertEqual((losses.shape, losses.dtype), ((6,), numpy.float32))
        self.assertEqual((probabilities.shape, probabilities.dtype), ((6, 3), numpy.float32))
        numpy.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
        expected = -numpy.log(probabilities[range(6), [0, 1, 2] * 2])
        numpy.testing.assert_allclose(losses, expected, atol=1e-5)
        trainer.close()
        for i, clip in enumerate(CLIPS):
            self.assertEqual(trainer.model.predict(clip)[0]["label"], CLIP_LABELS[i])
        numpy.testing.assert_allclose(trainer.model.predict_proba(CLIPS), probabilities, atol=1e-6)

    def test_accumulate(self):
        trainer = self.trainer(accumulate=2)
        batch = trainer.batch(CLIPS, CLIP_LABELS)
        half, whole = trainer.step(batch), trainer.step(batch)
        self.assertEqual((half.updated, half.step, half.gradient_norm), (False, 0, 0.0))
        self.assertEqual((whole.updated, whole.step), (True, 1))

    def test_options_arrive(self):
        model = create()
        every = self.trainer(model)
        count = every.trained_parameters
        self.assertIn(str(count), repr(every))
        self.assertIs(every.model, model)
        every.close()
        for freeze in ("classifier.*", ["classifier.*", "pooling.*"]):
            with ser.Trainer(model, freeze=freeze, freeze_features=True) as trainer:
                self.assertLess(trainer.trained_parameters, count)
        for schedule, last in (("constant", 0.01), ("linear", 0.005), ("cosine", 0.005)):
            options = {"schedule": schedule, "steps": 2, "warmup_steps": 0, "head_rate": 0.5}
            with ser.Trainer(model, rate=0.01, **options) as trainer:
                batch = trainer.batch(CLIPS[:1], [0])
                trainer.step(batch)
                trainer.set_rate(2)
                result = trainer.step(batch)
            self.assertAlmostEqual(result.rate, 2 * last, places=6)
            self.assertAlmostEqual(result.head_rate, 100 * last, places=4)

    def test_threads_do_not_matter(self):
        augment = {"gain_db": 6, "noise_probability": 1, "noise_snr_low": 10, "noise_snr_high": 20}

        def run(map_function):
            trainer = self.trainer(seed=5, augment=augment)
            batches = list(
                map_function(lambda epoch: trainer.batch(CLIPS, CLIP_LABELS, epoch), range(12))
            )
            losses = [trainer.step(batch).loss for batch in batches]
            return losses, self.weights(trainer)

        expected = run(map)
        self.assertEqual(len(set(expected[0])), 12)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.assertEqual(run(pool.map), expected)

    def test_skipped_steps(self):
        trainer = self.trainer(max_skipped=2)
        # Of three labels for one clip, one at least costs ln 3 or more: too much for a float.
        batch = trainer.batch(CLIPS[:1] * 3, [0, 1, 2], weights=[3.4e38] * 3, ids=[2**63 - 1] * 3)
        result = trainer.step(batch)
        self.assertEqual((result.skipped, result.updated, result.step), (True, False, 0))
        self.assertEqual(result.bad_clip, 2**63 - 1)
        text = self.assert_status("NUMERIC", trainer.step, batch)
        self.assertIn(str(2**63 - 1), text)

    def test_observe_in_time(self):
        trainer = self.trainer()
        self.assert_status("ARGUMENT", trainer.settle)
        augmented = trainer.batch(CLIPS, CLIP_LABELS)
        self.assertIn("augmented", self.assert_status("ARGUMENT", trainer.observe, augmented))
        before = self.weights(trainer)
        trainer.observe(trainer.batch(CLIPS, augment=False))
        trainer.settle()
        self.assertNotEqual(self.weights(trainer), before)
        trainer.step(augmented)
        self.assert_status("ARGUMENT", trainer.observe, trainer.batch(CLIPS, augment=False))

    @needs_numpy
    def test_average(self):
        trainer = self.trainer(average=0.9)
        batch = trainer.batch(CLIPS, CLIP_LABELS, augment=False)
        for _ in range(5):
            trainer.step(batch)
        plain = trainer.evaluate(batch)[1]
        with trainer.use_average() as same, trainer.use_average():
            self.assertIs(same, trainer)
            average = trainer.evaluate(batch)[1]
            self.assert_status("ARGUMENT", trainer.step, batch)
        self.assertFalse(numpy.allclose(average, plain))
        with self.assertRaises(KeyError):
            with trainer.use_average():
                with trainer.use_average():
                    pass
                self.assertTrue((trainer.evaluate(batch)[1] == average).all())
                raise KeyError
        self.assertTrue((trainer.evaluate(batch)[1] == plain).all())
        trainer.step(batch)
        with trainer.use_average():
            average = trainer.evaluate(batch)[1]
            trainer.close()
        got = trainer.model.predict_proba(CLIPS)
        numpy.testing.assert_allclose(got, average, atol=1e-6)

    def test_cancel(self):
        trainer = self.trainer()
        batch = trainer.batch(CLIPS, CLIP_LABELS)
        thread = threading.Thread(target=trainer.cancel)
        thread.start()
        thread.join()
        self.assert_status("CANCELLED", trainer.step, batch)
        self.assertEqual(trainer.step(batch).step, 1)
        trainer.close()
        trainer.cancel()


class Batches(Case):
    def test_what_a_clip_may_be(self):
        trainer = self.trainer()
        path = self.folder / "clip.wav"
        path.write_bytes(CLIPS[0])
        floats = [value / 32768.0 for value in tone(0.25, pitch=PITCHES[0])]
        batch = trainer.batch([path, str(path), CLIPS[0], {"raw": floats, "sampling_rate": RATE}])
        self.assertEqual(len(batch), 4)
        self.assertEqual(len(set(batch.ids)), 1)  # the same sound
        self.assertIn("4", repr(batch))
        self.assertEqual(trainer.batch([floats], sampling_rate=RATE).ids, batch.ids[:1])
        self.assertEqual(len(set(trainer.batch(CLIPS).ids)), len(CLIPS))
        self.assertTrue(all(0 < number < 2**63 for number in trainer.batch(CLIPS).ids))
        self.assertEqual(trainer.batch(CLIPS[:3], ids=[7, 0, None]).ids[:2], [7, 0])
        self.assertEqual(trainer.batch(CLIPS[:1], ids=[None]).ids, batch.ids[:1])

    @needs_numpy
    def test_arrays(self):
        trainer = self.trainer()
        arrays = [numpy.array(tone(0.25, pitch=pitch), numpy.int16) for pitch in PITCHES[:2]]
        batch = trainer.batch(
            arrays,
            numpy.array([0, 2]),
            numpy.int64(3),
            sampling_rate=RATE,
            weights=numpy.array([1, 2], numpy.float32),
            targets=numpy.eye(3)[[0, 2]],
            classes=numpy.array([[1, 0, 1]] * 2, bool),
            ids=numpy.array([1, 2]),
        )
        losses, probabilities = trainer.evaluate(batch)
        self.assertTrue((probabilities[:, 1] == 0.0).all())
        expected = -numpy.log(probabilities[[0, 1], [0, 2]]) * [1, 2]
        numpy.testing.assert_allclose(losses, expected, atol=1e-5)

    @needs_numpy
    def test_labels_weights_targets_classes(self):
        trainer = self.trainer(label_smoothing=0.0)

        def losses(*arguments, **options):
            clips = CLIPS[:1] * len(arguments[0])
            return trainer.evaluate(trainer.batch(clips, *arguments, augment=False, **options))[0]

        low, middle, high = (float(loss) for loss in losses(LABELS))
        self.assertEqual(list(losses([0, 1, -1, None])), [low, middle, 0.0, 0.0])
        weighted = losses(["low"] * 2, weights=[None, 2.5])
        numpy.testing.assert_allclose(weighted, [low, 2.5 * low], rtol=1e-5)
        soft = losses([None, "high"], targets=[[0, 0.5, 0.5], None])
        numpy.testing.assert_allclose(soft, [(middle + high) / 2, high], rtol=1e-5)
        some = losses(["low"] * 2, classes=[(True, False, True), None])
        p = numpy.exp([-low, -high])
        numpy.testing.assert_allclose(some, [-numpy.log(p[0] / p.sum()), low], rtol=1e-4)

    @needs_numpy
    def test_class_weights(self):
        trainer = self.trainer(class_weights=(1.0, 2.0, 0.5))
        batch = trainer.batch(CLIPS[:1] * 3, LABELS, augment=False)
        losses, probabilities = trainer.evaluate(batch)
        expected = -numpy.log(probabilities[0]) * [1.0, 2.0, 0.5]
        numpy.testing.assert_allclose(losses, expected, rtol=1e-4)

    def test_wrong_arguments(self):
        trainer = self.trainer()
        for clips, options, error, text in (
            (CLIPS[0], {}, TypeError, "clips must be a list"),
            ([], {}, ValueError, "count is 0"),
            ([None], {}, TypeError, "cannot read"),
            ([self.folder / "nothing.wav"], {}, OSError, "nothing.wav"),
            ([[0.5] * 500], {}, ValueError, "sampling_rate"),
            (CLIPS[:1], {"labels": "low"}, TypeError, "labels must be a list"),
            (CLIPS[:1], {"labels": 1}, TypeError, "labels must be a list"),
            (CLIPS[:2], {"labels": ["low"]}, ValueError, "1 entries for 2 clips"),
            (CLIPS[:2], {"labels": ["low", "angry"]}, ValueError, r"labels\[1\] is 'angry'"),
            (CLIPS[:1], {"labels": [3]}, ValueError, r"labels\[0\] is 3, not within -1..2"),
            (CLIPS[:1], {"labels": [1.0]}, TypeError, "whole number"),
            (CLIPS[:1], {"weights": [0]}, ValueError, "above 0"),
            (CLIPS[:1], {"weights": [1e-60]}, ValueError, "above 0"),
            (CLIPS[:1], {"weights": [float("nan")]}, ValueError, "above 0"),
            (CLIPS[:1], {"weights": ["heavy"]}, TypeError, ""),
            (CLIPS[:1], {"targets": [[1, 0]]}, ValueError, r"targets\[0\] has 2 entries"),
            (CLIPS[:1], {"targets": [1.0]}, TypeError, r"targets\[0\]"),
            (CLIPS[:1], {"targets": [[0, 0, 2]]}, ValueError, r"targets\[2\]"),
            (CLIPS[:1], {"classes": [[1] * 4]}, ValueError, r"classes\[0\] has 4 entries"),
            (CLIPS[:1], {"classes": [[0] * 3]}, ValueError, "leave every one out"),
            (CLIPS[:1], {"ids": [-1]}, ValueError, r"ids\[0\] is -1"),
            (CLIPS[:1], {"ids": [2**63]}, ValueError, r"ids\[0\]"),
            (CLIPS[:1], {"epoch": -1}, ValueError, "epoch"),
            (CLIPS[:1], {"epoch": 2**40}, ValueError, "epoch"),
            (CLIPS[:1], {"epoch": 0.5}, TypeError, "epoch"),
        ):
            with self.subTest(text), self.assertRaisesRegex(error, text):
                trainer.batch(clips, **options)
        unlabelled = trainer.batch(CLIPS[:1])
        self.assertIn("neither a label", self.assert_status("ARGUMENT", trainer.step, unlabelled))

    @needs_numpy
    def test_other_trainers(self):
        trainer, other = self.trainer(), self.trainer()
        batch = other.batch(CLIPS, CLIP_LABELS)
        for call in (trainer.step, trainer.evaluate, trainer.observe):
            with self.assertRaisesRegex(ValueError, "another trainer"):
                call(batch)
            with self.assertRaises(TypeError):
                call(None)
        other.close()
        for _ in range(8):  # whose addresses may be those of the one that is gone
            with ser.Trainer(other.model) as third, self.assertRaises(ValueError):
                third.step(batch)


class Files(Case):
    def run_steps(self, trainer, epochs):
        return [trainer.step(trainer.batch(CLIPS, CLIP_LABELS, epoch)).loss for epoch in epochs]

    def test_restored_runs_have_the_same_bits(self):
        options = {"seed": 9, "average": 0.5, "augment": {"gain_db": 6.0}}
        straight = self.trainer(**options)
        losses = self.run_steps(straight, range(10))
        expected = self.weights(straight)
        before = self.trainer(**options)
        self.assertEqual(self.run_steps(before, range(4)), losses[:4])
        before.save(self.folder / "checkpoint", note="epoch 4 · größer")
        after = self.trainer(create(seed=77), **options)
        self.run_steps(after, range(20, 22))
        self.assertEqual(after.restore(self.folder / "checkpoint"), "epoch 4 · größer")
        self.assertEqual(after.steps, 4)
        self.assertEqual(self.run_steps(after, range(4, 10)), losses[4:])
        self.assertEqual(self.weights(after), expected)

    def test_save_and_restore(self):
        trainer = self.trainer(accumulate=2)
        path = self.folder / "checkpoint"
        trainer.save(path)
        self.assertIsNone(trainer.restore(str(path)))
        trainer.save(path, "")
        self.assertEqual(trainer.restore(path), "")
        self.run_steps(trainer, range(1))
        self.assert_status("UNSUPPORTED", trainer.save, path)
        with self.assertRaises(OSError):
            trainer.restore(self.folder / "nothing")
        with self.assertRaises(OSError):
            self.trainer().save(self.folder / "no" / "where")
        for note, error in (("a\0b", ValueError), ("x" * (2 << 20), ValueError), (3, TypeError)):
            with self.assertRaises(error):
                trainer.save(path, note)
        for call in (trainer.save, trainer.restore, trainer.save_model):
            with self.assertRaises(ValueError):
                call("a\0b")
            with self.assertRaises(ValueError):
                call("")
        with self.assertRaises(ser.SerValueError):
            self.trainer(freeze="classifier.*").restore(path)

    @needs_numpy
    def test_save_model(self):
        trainer = self.trainer()
        self.run_steps(trainer, range(3))
        path = self.folder / "model.safetensors"
        expected = trainer.evaluate(trainer.batch(CLIPS, augment=False))[1]
        for training in ({"note": "größer", "uar": 0.5}, '{"note": "größer", "uar": 0.5}'):
            trainer.save_model(path, temperature=numpy.float32(2), training=training)
            with ser.Model.load(path) as model:
                self.assertEqual(model.config["training"], {"note": "größer", "uar": 0.5})
                flat = numpy.sqrt(expected)
                flat /= flat.sum(axis=1, keepdims=True)
                numpy.testing.assert_allclose(model.predict_proba(CLIPS), flat, atol=1e-5)
        for options in (
            {"temperature": 0},
            {"temperature": float("nan")},
            {"training": "[]"},
            {"training": "{"},
            {"training": [1]},
            {"training": {"uar": float("nan")}},
            {"training": "{}\0"},
        ):
            with self.assertRaises(ValueError, msg=options):
                trainer.save_model(path, **options)
        with self.assertRaises(OSError):
            trainer.save_model(self.folder / "no" / "where")


class Life(Case):
    def test_wrong_options(self):
        model = create()
        self.addCleanup(model.close)
        for options, error, text in (
            ({"step": 3}, TypeError, "no option 'step'"),
            ({"struct_size": 3}, TypeError, "struct_size"),
            ({"augment": {"pitch": 1}}, TypeError, "augment.pitch"),
            ({"augment": {"gain_db": "loud"}}, TypeError, "augment.gain_db"),
            ({"augment": {"gain_db": 100}}, ValueError, "augment.gain_db is 100"),
            ({"augment": 3}, TypeError, ""),
            ({"steps": 0}, ValueError, "steps is 0"),
            ({"steps": 2.5}, TypeError, "steps must be a whole number"),
            ({"accumulate": 2**32 + 1}, ValueError, "accumulate"),
            ({"seed": -1}, ValueError, "seed"),
            ({"rate": "fast"}, TypeError, "rate must be a number"),
            ({"rate": float("nan")}, ValueError, "rate"),
            ({"rate": 1e300}, ValueError, "rate"),
            ({"schedule": "step"}, ValueError, "constant, linear, cosine"),
            ({"schedule": 1}, ValueError, "schedule"),
            ({"class_weights": [1, 2]}, ValueError, "2 entries for 3 labels"),
            ({"class_weights": [0, 0, 0]}, ValueError, "all 0"),
            ({"class_weights": 1.0}, TypeError, "class_weights"),
            ({"freeze": "a\0"}, ValueError, "freeze"),
            ({"freeze": 3}, TypeError, ""),
        ):
            with self.subTest(text), self.assertRaisesRegex(error, text):
                ser.Trainer(model, **options)
        with self.assertRaises(TypeError):
            ser.Trainer("model.safetensors")
        self.assertEqual(len(model.predict(CLIPS[0])), 3)  # nobody has it

    def test_the_model_is_taken_and_given_back(self):
        with create() as model:
            first = model.predict(CLIPS[0])  # leaves an idle predictor
            with ser.Trainer(model, rate=0.1, steps=2) as trainer:
                self.assert_status("BUSY", ser.Trainer, model)
                self.assert_status("BUSY", model.predict, CLIPS[0])
                self.assert_status("BUSY", model.save, self.folder / "model")
                for _ in range(2):
                    trainer.step(trainer.batch(CLIPS, CLIP_LABELS))
            self.assertNotEqual(model.predict(CLIPS[0]), first)
            predictor = model._handles.take()
            self.assert_status("BUSY", ser.Trainer, model)
            model._handles.put(predictor)
            with self.assertRaises(KeyError), ser.Trainer(model):
                raise KeyError
            trainer = ser.Trainer(model)
            del trainer
            gc.collect()
            model.predict(CLIPS[0])
        with self.assertRaisesRegex(ValueError, "closed"):
            ser.Trainer(model)

    def test_the_model_may_be_closed_first(self):
        trainer = self.trainer()
        trainer.model.close()
        trainer.step(trainer.batch(CLIPS, CLIP_LABELS))
        self.assertEqual(trainer.steps, 1)

    @needs_numpy
    def test_use_after_close(self):
        trainer = self.trainer()
        batch = trainer.batch(CLIPS, CLIP_LABELS)
        self.assertFalse(trainer.closed)
        trainer.close()
        trainer.close()
        self.assertTrue(trainer.closed)
        self.assertIn("closed", repr(trainer))
        self.assertGreater(trainer.trained_parameters, 0)
        path = self.folder / "x"
        for call in (
            lambda: trainer.batch(CLIPS),
            lambda: trainer.step(batch),
            lambda: trainer.evaluate(batch),
            lambda: trainer.observe(batch),
            lambda: trainer.settle(),
            lambda: trainer.use_average().__enter__(),
            lambda: trainer.set_rate(1),
            lambda: trainer.save(path),
            lambda: trainer.restore(path),
            lambda: trainer.save_model(path),
            lambda: trainer.steps,
        ):
            with self.assertRaisesRegex(ValueError, "closed"):
                call()
        self.assertFalse(path.exists())
        self.assertEqual(len(batch), len(CLIPS))

    def test_close_while_others_work(self):
        trainer = self.trainer()
        own = trainer.batch(CLIPS, CLIP_LABELS)
        failures, started = [], threading.Barrier(5)

        def work(call):
            call()
            started.wait(30)
            try:
                while True:
                    call()
            except ValueError as error:
                if "closed" not in str(error):
                    failures.append(error)
            except BaseException as error:  # a thread must not fail in silence
                failures.append(error)

        calls = [lambda: trainer.batch(CLIPS), lambda: trainer.step(own)] * 2
        threads = [threading.Thread(target=work, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        started.wait(30)
        trainer.close()
        for thread in threads:
            thread.join(30)
        self.assertEqual(failures, [])
        self.assertFalse(any(thread.is_alive() for thread in threads))
        trainer.model.predict(CLIPS[0])

    def test_restore_waits_for_batches(self):
        trainer = self.trainer()
        trainer.save(self.folder / "checkpoint")
        order, inside = [], threading.Event()

        def restore():
            inside.set()
            trainer.restore(self.folder / "checkpoint")
            order.append("restored")

        thread = threading.Thread(target=restore)
        with trainer._handles.reading():
            thread.start()
            inside.wait(30)
            thread.join(0.05)
            order.append("batch made")
        thread.join(30)
        self.assertEqual(order, ["batch made", "restored"])

    def test_nothing_is_kept(self):
        """Memory stays level over many trainers, batches and failures."""

        def resident():
            gc.collect()
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")

        clips = [wav_bytes(tone(1.0) * 8), CLIPS[0]]  # 0.5 MB as floats
        model = create()
        self.addCleanup(model.close)

        def cycle(count):
            for _ in range(count):
                trainer = ser.Trainer(model)
                kept = trainer.batch(clips, LABELS[:2], augment=False)
                trainer.observe(kept)
                trainer.cancel()
                for call in (
                    lambda: trainer.batch(clips, [0, 1], targets=[[1, 0, 0], [0, 0, 7]]),
                    lambda: trainer.batch([*clips, b"not audio"]),
                    lambda: trainer.step(kept),
                    lambda: ser.Trainer(model),
                ):
                    with self.assertRaises(ser.SerError):
                        call()
                trainer.close()

        cycle(10)
        before = resident()
        cycle(40)
        self.assertLess(resident() - before, 12 << 20)


if __name__ == "__main__":
    unittest.main()
