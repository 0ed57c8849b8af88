# SPDX-License-Identifier: MIT
"""Live audio through ser.Stream; details of predictions."""

import array
import os
import pathlib
import random
import tempfile
import threading
import unittest

from helpers import MODEL, RATE, needs_numpy, numpy, tone, wav_bytes

import ser
from ser import _ffi
from ser._results import _FLAGS


def floats(values):
    return array.array("f", [value / 32768.0 for value in values])


class Streaming(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = ser.Model.load(MODEL, device="cpu", threads=1)
        cls.values = tone(4.3)
        cls.samples = array.array("h", cls.values)
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name) / "clip.wav"
        cls.path.write_bytes(wav_bytes(cls.values))
        cls.expected = list(cls.model.predict_windows(cls.path, window=1.0, hop=0.4))

    @classmethod
    def tearDownClass(cls):
        cls.model.close()
        cls.folder.cleanup()

    def streamed(self, parts, **options):
        """All windows of a stream into which `parts` are pushed."""
        options = {"window": 1.0, "hop": 0.4, **options}
        out = []
        with self.model.stream(**options) as stream:
            for part in parts:
                stream.push(part)
                out += stream
            stream.flush()
            out += stream
        return out

    def check_expected(self, results):
        self.assertEqual([r.index for r in results], list(range(len(self.expected))))
        for result, part in zip(results, self.expected):
            self.assertEqual((result.start, result.end), (part["start"], part["end"]))
            scores = {entry["label"]: entry["score"] for entry in part["scores"]}
            self.assertEqual(result.probabilities, scores)
            self.assertEqual((result.label, result.score), tuple(part["scores"][0].values()))

    def test_equal_to_predict_windows(self):
        results = self.streamed([self.samples])
        self.check_expected(results)
        self.assertEqual(list(results[0].probabilities), self.model.labels)
        self.assertIn("last", results[-1].flags)
        self.assertNotIn("last", results[0].flags)
        for result in results:
            self.assertAlmostEqual(sum(result.attention), 1.0, places=4)
            self.assertGreaterEqual(result.frame_start, result.start)
            last = result.frame_start + result.frame_step * (len(result.attention) - 1)
            self.assertLess(last, result.end + result.frame_step)
            self.assertTrue(0 < result.rms < result.peak <= 1)

    def test_push_sizes(self):
        for size in (7, 160, 4096):
            self.check_expected(
                self.streamed(
                    self.samples[i : i + size] for i in range(0, len(self.samples), size)
                )
            )
        draw, at, parts = random.Random(9), 0, []
        while at < len(self.samples):
            size = draw.choice((0, 1, 3, 500, 20000))
            parts.append(self.samples[at : at + size])
            at += size
        self.check_expected(self.streamed(parts))

    def test_kinds_of_samples(self):
        parts = floats(self.values)
        for x in (
            self.samples,
            self.samples.tobytes(),
            bytearray(self.samples.tobytes()),
            memoryview(self.samples),
            memoryview(self.samples.tobytes()),
            parts,
            memoryview(parts),
            array.array("d", parts),
            list(parts),
            tuple(parts),
        ):
            with self.subTest(type(x).__name__):
                self.check_expected(self.streamed([x]))

    @needs_numpy
    def test_arrays(self):
        short = numpy.array(self.values, dtype=numpy.int16)
        single = short.astype(numpy.float32) / 32768.0
        for x in (
            short,
            single,
            single.astype(numpy.float64),
            single.astype(">f4"),
            short.astype(">i2"),
            short.astype(numpy.int32) << 16,
            numpy.repeat(short, 2)[::2],
            short[:, None],
        ):
            with self.subTest((x.dtype, x.shape)):
                self.check_expected(self.streamed([x]))
        stereo = numpy.stack([short, short], axis=1)
        self.check_expected(self.streamed([stereo], channels=2))
        self.check_expected(self.streamed([stereo.reshape(-1)], channels=2))
        self.check_expected(self.streamed([numpy.stack([short * 0, short], axis=1)], channels=2,
                                          channel=1))  # fmt: skip

    def test_other_rates(self):
        values = tone(3.1, rate=44100)
        path = pathlib.Path(self.folder.name) / "fast.wav"
        path.write_bytes(wav_bytes(values, rate=44100))
        expected = list(self.model.predict_windows(path, window=1.0, hop=0.5))
        samples = array.array("h", values)
        results = self.streamed(
            (samples[i : i + 441] for i in range(0, len(samples), 441)),
            sampling_rate=44100, hop=0.5,
        )  # fmt: skip
        self.assertEqual(
            [(r.start, r.end, r.label, r.score) for r in results],
            [(p["start"], p["end"], *p["scores"][0].values()) for p in expected],
        )

    def test_next_and_iteration(self):
        with self.model.stream(window=1.0) as stream:
            self.assertIsNone(stream.next())
            stream.push(self.samples[: RATE // 2])
            self.assertEqual(list(stream), [])
            stream.push(self.samples[RATE // 2 : 3 * RATE])
            self.assertEqual(stream.next().index, 0)
            self.assertEqual([r.index for r in stream], [1, 2])
            self.assertEqual(list(stream), [])
            stream.flush()
            self.assertIsNone(stream.next())
            with self.assertRaises(ValueError):
                stream.push(self.samples)
            stream.reset()
            stream.push(self.samples[:RATE])
            self.assertEqual([(r.index, r.start) for r in stream], [(0, 0.0)])

    def test_results_outlive_the_stream(self):
        results = self.streamed([self.samples])
        self.assertEqual({type(r.attention) for r in results}, {tuple})
        kept = [(tuple(r.probabilities.values()), r.attention) for r in results]
        self.streamed([array.array("h", tone(2.0, pitch=310.0))])
        self.assertEqual(kept, [(tuple(r.probabilities.values()), r.attention) for r in results])
        with self.assertRaises(AttributeError):
            results[0].label = "other"

    def test_gate(self):
        quiet = array.array("h", [0, 1] * (RATE // 2))
        loud, soft = self.streamed([self.samples[:RATE] + quiet], hop=1.0, gate=-50.0)[:2]
        self.assertEqual(loud.label, self.expected[0]["scores"][0]["label"])
        self.assertIn("gated", soft.flags)
        self.assertEqual((soft.label, soft.score, soft.probabilities), (None, None, None))
        self.assertIsNone(soft.attention)

    def test_smoothing(self):
        plain = self.streamed([self.samples])
        smooth = self.streamed([self.samples], smoothing=2.0)
        self.assertEqual(smooth[0].probabilities, plain[0].probabilities)
        self.assertNotEqual(smooth[1].probabilities, plain[1].probabilities)
        self.assertAlmostEqual(sum(smooth[-1].probabilities.values()), 1.0, places=5)

    def test_nonfinite(self):
        bad = [0.1] * (RATE - 1) + [float("nan")]
        with self.model.stream(window=1.0) as stream:
            with self.assertRaises(ser.SerError) as caught:
                stream.push(bad)
            self.assertEqual(caught.exception.name, "SER_ERR_DATA")
        self.assertIn("nonfinite", self.streamed([bad], hop=1.0, nonfinite="zero")[0].flags)

    def test_bad_options(self):
        for options, error in (
            ({"sampling_rate": 100}, ValueError),
            ({"sampling_rate": 44100.5}, TypeError),
            ({"sampling_rate": 1 << 40}, ValueError),
            ({"channels": 0}, ValueError),
            ({"channels": 2, "channel": 2}, ValueError),
            ({"window": 0.001}, ValueError),
            ({"window": "1"}, TypeError),
            ({"window": 1.0, "hop": 2.0}, ValueError),
            ({"hop": -1.0}, ValueError),
            ({"smoothing": -1.0}, ValueError),
            ({"gate": 3.0}, ValueError),
            ({"nonfinite": "ignore"}, ValueError),
            ({"threads": -1}, ValueError),
            ({"speed": 2}, TypeError),
        ):
            with self.assertRaises(error, msg=options):
                self.model.stream(**options)

    def test_bad_samples(self):
        with self.model.stream(channels=2, window=1.0) as stream:
            for x, error in (
                (b"123", ValueError),
                (b"123456", ValueError),
                (array.array("h", [1, 2, 3]), ValueError),
                ([0.1, 0.2, 0.3], ValueError),
                ([0.1, "0.2"], TypeError),
                (array.array("i", [1, 2]), TypeError),
                ("clip.wav", TypeError),
                (None, TypeError),
                (17, TypeError),
                ({"array": [0.1]}, TypeError),
            ):
                with self.assertRaises(error, msg=x):
                    stream.push(x)
            stream.push([])
            stream.push(b"")
            stream.flush()
            self.assertEqual(list(stream), [])

    @needs_numpy
    def test_bad_arrays(self):
        with self.model.stream(channels=2) as stream:
            for x, error in (
                (numpy.zeros((5, 3), numpy.float32), ValueError),
                (numpy.zeros(5, numpy.float32), ValueError),
                (numpy.zeros((2, 2, 2), numpy.float32), ValueError),
                (numpy.float32(1.0), ValueError),
                (numpy.zeros(4, bool), TypeError),
                (numpy.zeros(4, numpy.uint8), TypeError),
                (numpy.zeros(4, complex), TypeError),
            ):
                with self.assertRaises(error, msg=(x.dtype, x.shape)):
                    stream.push(x)

    def test_close(self):
        stream = self.model.stream()
        self.assertFalse(stream.closed)
        stream.close()
        stream.close()
        self.assertTrue(stream.closed)
        for call in (lambda: stream.push([0.0]), stream.next, stream.flush, stream.reset):
            with self.assertRaisesRegex(ValueError, "closed"):
                call()

    def test_outlives_its_model(self):
        model = ser.Model.load(MODEL, device="cpu", threads=1)
        with model.stream(window=1.0) as stream:
            model.close()
            stream.push(self.samples[:RATE])
            expected = self.model.predict(wav_bytes(self.values[:RATE]))
            self.assertEqual(stream.next().score, expected[0]["score"])
        with self.assertRaisesRegex(ValueError, "closed"):
            model.stream()

    def test_not_while_training(self):
        with ser.Model.load(MODEL, device="cpu") as model, ser.Trainer(model):
            with self.assertRaises(ser.SerError) as caught:
                model.stream()
            self.assertEqual(caught.exception.name, "SER_ERR_BUSY")

    def test_threads(self):
        """Streams beside each other, and one that is pushed on another thread."""
        results = [None] * 4

        def run(i):
            results[i] = self.streamed(
                self.samples[k : k + 1000] for k in range(0, len(self.samples), 1000)
            )

        threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for found in results:
            self.check_expected(found)

        with self.model.stream(window=1.0, hop=0.4) as stream:
            found, done = [], threading.Event()

            def push():
                for k in range(0, len(self.samples), 100):
                    stream.push(self.samples[k : k + 100])
                stream.flush()
                done.set()

            thread = threading.Thread(target=push)
            thread.start()
            while not done.is_set():
                found += stream
            thread.join()
            found += stream
            self.check_expected(found)

    def test_close_while_another_thread_computes(self):
        for _ in range(5):
            stream = self.model.stream(window=1.0, hop=0.05)
            stream.push(self.samples)
            begun = threading.Event()

            def take():
                try:
                    while stream.next() is not None:
                        begun.set()
                except ValueError as error:
                    self.assertIn("closed", str(error))

            thread = threading.Thread(target=take)
            thread.start()
            begun.wait(30)
            stream.close()
            thread.join()

    def test_fork(self):
        with self.model.stream() as stream:
            with stream._handles.lock:  # as another thread might hold it
                pid = os.fork()
                if pid == 0:
                    try:
                        stream.push([0.0])
                    except ser.SerError as error:
                        stream.close()
                        os._exit(0 if error.name == "SER_ERR_BUSY" else 1)
                    os._exit(2)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)


class Details(unittest.TestCase):
    def test_predict_details(self):
        clip = wav_bytes(tone(1.5))
        with ser.Model.load(MODEL, device="cpu", threads=1) as model:
            found = model.predict_details(clip)
            scores = {entry["label"]: entry["score"] for entry in model.predict(clip)}
            self.assertEqual(found.probabilities, scores)
            self.assertEqual(list(found.probabilities), model.labels)
            self.assertEqual(found.score, max(scores.values()))
            self.assertEqual(scores[found.label], found.score)
            self.assertEqual(found.duration, 1.5)
            self.assertTrue(0 <= found.start < found.end <= 1.5)
            self.assertAlmostEqual(sum(found.attention), 1.0, places=4)
            self.assertEqual(found.flags, ())
            self.assertTrue(0 < found.frame_start < found.frame_start + found.frame_step < 1.5)
            silence, other = model.predict_details([[0.0] * RATE, tone(1.0)], sampling_rate=RATE)
            self.assertIn("silent", silence.flags)
            self.assertEqual(other.duration, 1.0)
            long = model.predict_details(floats(tone(31.0)), sampling_rate=RATE)
            self.assertIn("windowed", long.flags)
            self.assertIsNone(long.attention)

    def test_every_flag_has_a_name(self):
        bits = {
            value
            for name, value in vars(_ffi).items()
            if name.startswith(("AUDIO_", "STREAM_")) or name == "PREDICTION_WINDOWED"
        }
        self.assertEqual(set(_FLAGS), {bit for bit in bits if isinstance(bit, int)})


if __name__ == "__main__":
    unittest.main()
