# SPDX-License-Identifier: MIT
"""Models, inputs, results, errors."""

import array
import gc
import io
import json
import os
import pathlib
import pickle
import tempfile
import unittest

from helpers import GOLDEN, MODEL, RATE, needs_numpy, numpy, read_golden, tone, wav_bytes

import ser
from ser import _ffi
from ser._library import check, lib


class Loading(unittest.TestCase):
    def test_facts(self):
        with ser.Model.load(MODEL) as model:
            self.assertEqual(model.labels, ["neutral", "happy", "sad"])
            self.assertEqual(model.config["encoder"]["hidden_size"], 8)
            self.assertEqual(model.path, str(MODEL))
            self.assertGreater(model.parameter_count, 1000)
            self.assertGreater(model.window, 0)
            self.assertGreaterEqual(model.max_seconds, model.window)
            self.assertTrue(model.device)
            self.assertIn("logmel.model.safetensors", repr(model))
            model.labels.append("angry")
            self.assertEqual(len(model.labels), 3)

    def test_bytes_are_a_model(self):
        clip = wav_bytes(tone(1.0))
        with ser.Model.load(MODEL) as file, ser.Model.load(MODEL.read_bytes()) as memory:
            self.assertEqual(memory.path, "")
            self.assertEqual(file.predict(clip), memory.predict(clip))

    def test_path_types(self):
        for path in (MODEL, str(MODEL), GOLDEN / "base", str(GOLDEN / "base")):
            with ser.Model.load(path, device="cpu", threads=1) as model:
                self.assertGreaterEqual(len(model.labels), 3)

    def test_save(self):
        with tempfile.TemporaryDirectory() as folder, ser.Model.load(MODEL) as model:
            path = pathlib.Path(folder) / "copy.safetensors"
            model.save(path)
            with ser.Model.load(path) as copy:
                clip = wav_bytes(tone(1.0))
                self.assertEqual(copy.predict(clip), model.predict(clip))
            with self.assertRaises(OSError):
                model.save(pathlib.Path(folder) / "missing" / "copy.safetensors")

    def test_errors(self):
        with self.assertRaises(OSError) as caught:
            ser.Model.load("/does/not/exist.safetensors")
        self.assertIsInstance(caught.exception, ser.SerError)
        self.assertEqual(caught.exception.status, _ffi.ERR_IO)
        self.assertEqual(caught.exception.name, "SER_ERR_IO")
        self.assertIn("/does/not/exist.safetensors", str(caught.exception))
        with self.assertRaises(ValueError) as caught:
            ser.Model.load(b"not a model at all")
        self.assertIsInstance(caught.exception, ser.SerValueError)
        for device in ("gpu", "cuda:", "cuda:x", "cpu:-1", ""):
            with self.assertRaises(ValueError, msg=device):
                ser.Model.load(MODEL, device=device)
        with self.assertRaises(ser.SerError):
            ser.Model.load(MODEL, device="cuda:4711")
        with self.assertRaises(ValueError):
            ser.Model.load(MODEL, device="cpu", threads=-1)
        for precision in ("f16", "", None):
            with self.assertRaises(ValueError, msg=precision):
                ser.Model.load(MODEL, precision=precision)
        with self.assertRaises(ValueError):
            ser.Model.load("a\0b")
        with self.assertRaises(TypeError):
            ser.Model.load(3.5)

    def test_every_status_is_some_exception(self):
        for name, status in vars(_ffi).items():
            if name.startswith("ERR_"):
                with self.assertRaises(ser.SerError) as caught:
                    check(status)
                self.assertEqual(caught.exception.name, lib.ser_status_name(status).decode())
        with self.assertRaises(MemoryError):
            check(_ffi.ERR_MEMORY)
        self.assertEqual(check(0), 0)

    def test_errors_can_be_pickled(self):
        error = pickle.loads(pickle.dumps(ser.SerOSError(_ffi.ERR_IO, "no such file")))
        self.assertEqual(
            (type(error), error.status, str(error)), (ser.SerOSError, _ffi.ERR_IO, "no such file")
        )

    def test_close(self):
        model = ser.Model.load(MODEL)
        clip = wav_bytes(tone(0.5))
        model.predict(clip)
        self.assertFalse(model.closed)
        model.close()
        model.close()
        self.assertTrue(model.closed)
        self.assertIn("closed", repr(model))
        self.assertEqual(len(model.labels), 3)
        for call in (
            lambda: model.predict(clip),
            lambda: model.save("x"),
            lambda: model.predict([]),
            lambda: next(model.predict_windows("x.wav")),
        ):
            with self.assertRaises((ValueError, OSError)):
                call()

    def test_nothing_is_kept(self):
        """Memory stays level over many loads and predictions."""

        def resident():
            gc.collect()
            return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )

        clip = wav_bytes(tone(2.0))

        def cycle(count):
            for _ in range(count):
                with ser.Model.load(MODEL, threads=1) as model:
                    model.predict([clip, clip])
                    del model

        cycle(20)
        before = resident()
        cycle(200)
        self.assertLess(resident() - before, 12 << 20)


class Predicting(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = ser.Model.load(MODEL, device="cpu", threads=1)
        cls.values = tone(1.5)
        cls.wav = wav_bytes(cls.values)
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name) / "clip.wav"
        cls.path.write_bytes(cls.wav)
        cls.result = cls.model.predict(cls.path)

    @classmethod
    def tearDownClass(cls):
        cls.model.close()
        cls.folder.cleanup()

    def test_shape_of_a_result(self):
        self.assertEqual({entry["label"] for entry in self.result}, set(self.model.labels))
        scores = [entry["score"] for entry in self.result]
        self.assertEqual(scores, sorted(scores, reverse=True))
        self.assertAlmostEqual(sum(scores), 1.0, places=5)
        self.assertTrue(all(type(score) is float for score in scores))
        self.assertEqual(json.loads(json.dumps(self.result)), self.result)

    def test_files(self):
        for x in (
            str(self.path),
            os.fsencode(self.path).decode(),
            self.wav,
            bytearray(self.wav),
            memoryview(self.wav),
            io.BytesIO(self.wav),
        ):
            self.assertEqual(self.model.predict(x), self.result, type(x))
        with open(self.path, "rb") as file:
            self.assertEqual(self.model.predict(file), self.result)

    def test_lists_of_numbers(self):
        floats = [value / 32768.0 for value in self.values]
        for x in (floats, tuple(floats), array.array("f", floats), array.array("d", floats)):
            self.assertEqual(self.model.predict(x, sampling_rate=RATE), self.result, type(x))
        self.assertEqual(self.model.predict({"raw": floats, "sampling_rate": RATE}), self.result)

    @needs_numpy
    def test_arrays(self):
        short = numpy.array(self.values, dtype=numpy.int16)
        floats = short.astype(numpy.float32) / 32768.0
        stereo = numpy.stack([short, short], axis=1)
        for x in (
            short,
            short.astype(numpy.int32) << 16,
            floats,
            floats.astype(numpy.float64),
            floats.astype(">f4"),
            numpy.repeat(floats, 2)[::2],
            short[:, None],
            stereo,
            numpy.asfortranarray(stereo),
        ):
            self.assertEqual(
                self.model.predict(x, sampling_rate=RATE), self.result, (x.dtype, x.shape)
            )
        for key in ("array", "raw"):
            self.assertEqual(self.model.predict({key: short, "sampling_rate": RATE}), self.result)
        self.assertEqual(self.model.predict(short, sampling_rate=float(RATE)), self.result)
        silent = numpy.stack([short, -short], axis=1)
        self.assertNotEqual(self.model.predict(silent, sampling_rate=RATE), self.result)
        unchanged = short.copy()
        self.model.predict(short, sampling_rate=RATE)
        self.assertTrue((short == unchanged).all())

    def test_other_rates(self):
        for rate in (8000, 44100, 48000):
            there = wav_bytes(tone(1.5, rate=rate), rate=rate)
            floats = [value / 32768.0 for value in tone(1.5, rate=rate)]
            self.assertEqual(
                self.model.predict(there), self.model.predict(floats, sampling_rate=rate)
            )

    def test_lists_in_lists_out(self):
        other = wav_bytes(tone(0.7, pitch=300.0))
        alone = [self.model.predict(x) for x in (self.path, other)]
        together = self.model.predict([self.path, other, io.BytesIO(self.wav)])
        self.assertEqual(together, alone + alone[:1])
        self.assertEqual(self.model.predict((self.wav,)), [self.result])
        self.assertEqual(self.model.predict([]), [])
        floats = [value / 32768.0 for value in self.values]
        mixed = self.model.predict(
            [self.path, floats, {"raw": floats, "sampling_rate": RATE}][1:], sampling_rate=RATE
        )
        self.assertEqual(mixed, [self.result] * 2)

    def test_long_lists(self):
        results = self.model.predict([self.wav] * 150)
        self.assertEqual(results, [self.result] * 150)

    def test_top_k(self):
        self.assertEqual(self.model.predict(self.wav, top_k=2), self.result[:2])
        self.assertEqual(self.model.predict(self.wav, top_k=99), self.result)
        self.assertEqual(self.model.predict([self.wav], top_k=1), [self.result[:1]])
        for k in (0, -1):
            with self.assertRaises(ValueError):
                self.model.predict(self.wav, top_k=k)

    @needs_numpy
    def test_predict_proba(self):
        one = self.model.predict_proba(self.wav)
        self.assertEqual((one.shape, one.dtype), ((3,), numpy.float32))
        self.assertEqual(
            {self.model.labels[i]: float(p) for i, p in enumerate(one)},
            {entry["label"]: entry["score"] for entry in self.result},
        )
        many = self.model.predict_proba([self.wav, self.path])
        self.assertEqual(many.shape, (2, 3))
        self.assertTrue((many == one).all())
        self.assertEqual(self.model.predict_proba([]).shape, (0, 3))

    @needs_numpy
    def test_golden(self):
        golden = read_golden("logmel.safetensors")
        clips = [golden[f"raw.{i}"] for i in range(3)]
        got = self.model.predict_proba(clips, sampling_rate=RATE)
        embedded = self.model.embed(clips, sampling_rate=RATE)
        self.assertEqual(embedded.shape, (3, 8))
        for i in range(3):
            numpy.testing.assert_allclose(got[i], golden[f"stage.{i}.probabilities"], atol=1e-5)
            numpy.testing.assert_allclose(embedded[i], golden[f"stage.{i}.pooled"], atol=1e-4)
            numpy.testing.assert_array_equal(
                self.model.embed(clips[i], sampling_rate=RATE), embedded[i]
            )
        self.assertEqual(self.model.embed([]).shape, (0, 8))

    @needs_numpy
    def test_one_embedding_per_piece(self):
        long = numpy.tile(numpy.array(self.values, numpy.int16), 25)
        self.assertEqual(len(self.model.predict(long, sampling_rate=RATE)), 3)
        with self.assertRaisesRegex(ValueError, "only up to 30 s"):
            self.model.embed(long, sampling_rate=RATE)

    def test_windows(self):
        path = pathlib.Path(self.folder.name) / "long.wav"
        path.write_bytes(wav_bytes(tone(3.25)))
        parts = list(self.model.predict_windows(path, window=1.0, hop=0.5, top_k=2))
        self.assertEqual([part["start"] for part in parts][:3], [0.0, 0.5, 1.0])
        self.assertEqual(parts[0]["end"], 1.0)
        self.assertAlmostEqual(parts[-1]["end"], 3.25, places=3)
        self.assertTrue(all(len(part["scores"]) == 2 for part in parts))
        first = wav_bytes(tone(3.25)[:RATE])
        self.assertEqual(parts[0]["scores"], self.model.predict(first, top_k=2))
        self.assertEqual(len(list(self.model.predict_windows(path))), 1)
        next(self.model.predict_windows(path))  # abandoned half way
        with self.assertRaises(OSError):
            next(self.model.predict_windows("/does/not/exist.wav"))
        with self.assertRaises(ValueError):
            next(self.model.predict_windows(path, window=1.0, hop=2.0))
        with self.assertRaises(ValueError):
            self.model.predict_windows(path, top_k=0)

    def test_bad_input(self):
        floats = [0.0, 0.5, -0.5] * 400
        for x, rate, error in (
            ("/does/not/exist.wav", None, OSError),
            (b"this is not audio", None, ValueError),
            (b"", None, ValueError),
            (floats, None, ValueError),
            (floats, 0, ValueError),
            (floats, -16000, ValueError),
            (floats, 1e12, ValueError),
            (floats, 44100.5, ValueError),
            (floats, "16000", ValueError),
            (floats, True, ValueError),
            (self.wav, RATE, ValueError),
            (str(self.path), RATE, ValueError),
            ({"array": floats}, None, ValueError),
            ({"sampling_rate": RATE}, None, ValueError),
            ({"array": floats, "sampling_rate": RATE}, 8000, ValueError),
            ([floats, None], RATE, TypeError),
            ([1.0, "two"], RATE, TypeError),
            ([float("nan")] * 500, RATE, ValueError),
            (io.StringIO("text"), None, TypeError),
            (array.array("h", [1, 2]), RATE, TypeError),
            (None, None, TypeError),
            (object(), RATE, TypeError),
            (17, RATE, TypeError),
        ):
            with self.assertRaises(error, msg=(str(x)[:60], rate)):
                self.model.predict(x, sampling_rate=rate)
        self.assertEqual(self.model.predict(self.wav), self.result)

    @needs_numpy
    def test_bad_arrays(self):
        for x, error in (
            (numpy.zeros((2, 16000), numpy.float32), ValueError),
            (numpy.zeros((2, 3, 4), numpy.float32), ValueError),
            (numpy.float32(1.0), ValueError),
            (numpy.zeros(0, numpy.float32), ValueError),
            (numpy.zeros(500, numpy.uint8), TypeError),
            (numpy.zeros(500, bool), TypeError),
            (numpy.zeros(500, complex), TypeError),
            (numpy.array(["a", "b"]), TypeError),
            (numpy.array([None, 1.0]), TypeError),
            (numpy.full(500, numpy.inf, numpy.float32), ValueError),
        ):
            with self.assertRaises(error, msg=(x.dtype, x.shape)):
                self.model.predict(x, sampling_rate=RATE)


if __name__ == "__main__":
    unittest.main()
