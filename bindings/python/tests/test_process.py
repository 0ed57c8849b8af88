# SPDX-License-Identifier: MIT
"""Threads, fork, other processes, installation."""

import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from helpers import BINDING, GOLDEN, MODEL, needs_numpy, tone, wav_bytes

import ser
from ser import _library


@unittest.skipUnless("SER_EMULATED_MODULE" in os.environ, "needs the emulated GPU of the build")
class Gpu(unittest.TestCase):
    """In a process of its own: a module that was loaded stays loaded."""

    CODE = """
import sys
import helpers, ser
clip = helpers.wav_bytes(helpers.tone(1.0))
with ser.Model.load(helpers.MODEL, device="cpu") as cpu:
    wanted = list(cpu.predict_proba(clip))
for precision, delta in (("f32", 1e-5), ("bf16", 2e-2), ("auto", 2e-2)):
    with ser.Model.load(helpers.MODEL, device="cuda", precision=precision) as gpu:
        assert gpu.device.startswith("cuda:0 ("), gpu.device
        for turn in range(3):
            got = list(gpu.predict_proba(clip))
            assert max(abs(a - b) for a, b in zip(got, wanted)) < delta, (precision, got, wanted)
clips = [(helpers.tone(0.5 + 0.1 * i, pitch=200.0 + 70.0 * i), 16000) for i in range(3)]
losses = {}
for device, precision in (("cpu", "auto"), ("cuda", "f32"), ("auto", "auto")):
    with ser.Model.create(config="ser-mini", labels=["a", "b"], device=device,
                          precision=precision) as fresh:
        assert fresh.device.startswith("cpu" if device == "cpu" else "cuda:0 ("), fresh.device
        with ser.Trainer(fresh, steps=4, rate=1e-3) as trainer:
            batch = trainer.batch([a for a, _ in clips], ["a", "b", "a"], sampling_rate=16000)
            trainer.submit(batch)
            trainer.submit(batch)
            losses[precision if device == "cuda" else device] = [
                trainer.collect().loss, trainer.step(batch).loss, trainer.collect().loss]
            assert trainer.collect() is None
for kind, delta in (("f32", 1e-4), ("auto", 5e-2)):
    assert all(abs(a - b) < delta for a, b in zip(losses[kind], losses["cpu"])), losses
print("done")
"""

    def test_predictions(self):
        env = dict(os.environ, SER_MODULE_PATH=os.environ["SER_EMULATED_MODULE"])
        env["PYTHONPATH"] = os.pathsep.join((str(pathlib.Path(__file__).parent), str(BINDING)))
        done = subprocess.run([sys.executable, "-c", self.CODE], env=env, text=True,
                              capture_output=True, timeout=120)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "done\n", ""))


class Threads(unittest.TestCase):
    @needs_numpy
    def test_eight_threads_are_one(self):
        clips = [wav_bytes(tone(0.4 + 0.1 * i, pitch=150.0 + 20 * i)) for i in range(8)]
        with ser.Model.load(GOLDEN / "attention_pool.model.safetensors", threads=1) as model:
            expected = [model.predict_proba(clip) for clip in clips]
            failures, barrier = [], threading.Barrier(8)

            def work(first):
                barrier.wait()
                try:
                    for i in range(24):
                        k = (first + i) % 8
                        if not (model.predict_proba(clips[k]) == expected[k]).all():
                            failures.append((first, i))
                except BaseException as error:  # a thread must not fail in silence
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(failures, [])
            self.assertLessEqual(len(model._handles.idle), 9)

    def test_calls_run_without_the_gil(self):
        clip = wav_bytes(tone(2.0) * 10)
        span, ticks = [], []
        with ser.Model.load(GOLDEN / "attention_pool.model.safetensors", threads=1) as model:
            audio = ser._model.open_audio(clip, None)
            predictor = model._handles.take()

            def work():
                clips = [audio] * 8
                span.append(time.monotonic())
                model._probabilities(predictor, clips)
                span.append(time.monotonic())

            thread = threading.Thread(target=work)
            thread.start()
            while thread.is_alive():
                ticks.append(time.monotonic())
                time.sleep(0.001)
            thread.join()
            model._handles.put(predictor)
        begin, end = span
        quarter = (end - begin) / 4
        self.assertGreater(end - begin, 0.02, "too fast to tell")
        self.assertTrue(any(begin + quarter < tick < end - quarter for tick in ticks))

    def test_close_while_others_predict(self):
        clip = wav_bytes(tone(1.0))
        model = ser.Model.load(MODEL, threads=1)
        failures, started = [], threading.Event()

        def work():
            try:
                while True:
                    model.predict(clip)
                    started.set()
            except ValueError as error:
                if "closed" not in str(error):
                    failures.append(error)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait(30)
        model.close()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


class Process(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.clip = pathlib.Path(cls.folder.name) / "clip.wav"
        cls.clip.write_bytes(wav_bytes(tone(1.0)))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def run_python(self, code, **environment):
        """Run `code` after `import ser`, with `path` and `clip` set."""
        environ = dict(
            os.environ, PYTHONPATH=str(BINDING), PYTHONDONTWRITEBYTECODE="1", **environment
        )
        code = f"path, clip = {str(MODEL)!r}, {str(self.clip)!r}\n{code}"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has forked
            process.communicate()
            self.fail("hangs")
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def test_fork(self):
        done = self.run_python("""
import os, ser
model = ser.Model.load(path)
before = model.predict(clip)
model._handles.lock.acquire()    # as another thread might hold it
pid = os.fork()
if pid == 0:
    try:
        model.predict(clip)
    except ser.SerError as error:
        assert error.name == "SER_ERR_BUSY" and "fork" in str(error), error
    else:
        os._exit(3)
    model.close()
    with ser.Model.load(path) as own:
        same = own.predict(clip) == before
    os._exit(0 if same else 4)
model._handles.lock.release()
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 0, status
assert model.predict(clip) == before
""")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_fork_of_a_trainer(self):
        done = self.run_python("""
import os, ser
model = ser.Model.load(path)
trainer = ser.Trainer(model)
batch = trainer.batch([clip], [0])
trainer._handles.work.acquire()  # as another thread might hold it
pid = os.fork()
if pid == 0:
    for call in (lambda: trainer.step(batch), lambda: trainer.batch([clip]), trainer.cancel):
        try:
            call()
        except ser.SerError as error:
            assert error.name == "SER_ERR_BUSY" and "fork" in str(error), error
        else:
            os._exit(3)
    trainer.close()
    del batch, trainer
    with ser.Model.load(path) as own, ser.Trainer(own) as other:
        step = other.step(other.batch([clip], [0])).step
    os._exit(0 if step == 1 else 4)
trainer._handles.work.release()
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 0, status
assert trainer.step(batch).step == 1
""")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_without_numpy(self):
        done = self.run_python("""
import sys
sys.modules["numpy"] = None
import ser
with ser.Model.load(path) as model:
    scores = model.predict(clip)
    assert model.predict([0.5, -0.5] * 8000, sampling_rate=16000)
    assert model.predict([clip, open(clip, "rb").read()]) == [scores, scores]
    try:
        model.predict_proba(clip)
    except ImportError:
        print("as told")
""")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "as told\n", ""))

    def test_library_that_is_not_there(self):
        done = self.run_python("import ser", SER_LIBRARY="/does/not/exist.so")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("ImportError: cannot load libser: /does/not/exist.so", done.stderr)
        self.assertIn("SER_LIBRARY", done.stderr)

    def test_library_that_is_another(self):
        done = self.run_python("import ser", SER_LIBRARY="libc.so.6")
        self.assertIn("is older than this package", done.stderr)

    def test_exit_with_open_models(self):
        done = self.run_python("""
import threading, ser
model = ser.Model.load(path)
def work():
    try:
        for _ in range(50):
            model.predict(clip)
    except Exception:  # Python itself is being taken down around a daemon thread
        pass
threading.Thread(target=work, daemon=True).start()
model.predict(clip)
windows = model.predict_windows(clip, window=0.5)
next(windows)
trainer = ser.Trainer(ser.Model.load(path))
batch = trainer.batch([clip], [0])
trainer.step(batch)
""")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_exit_while_a_thread_trains(self):
        done = self.run_python("""
import threading, ser
trainer = ser.Trainer(ser.Model.load(path))
batch = trainer.batch([clip], [0])
started = threading.Event()
def work():
    try:
        while True:
            trainer.step(batch)
            started.set()
    except Exception as error:
        assert "closed" in str(error), error
threading.Thread(target=work, daemon=True).start()
started.wait(30)
""")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_log_goes_to_logging(self):
        with self.assertLogs("ser", logging.WARNING) as caught:
            _library._log(logging.WARNING, "a line".encode(), None)
        self.assertEqual(caught.output, ["WARNING:ser:a line"])


class Install(unittest.TestCase):
    def python(self, *arguments, **options):
        return subprocess.run(
            [sys.executable, *arguments], text=True, capture_output=True, timeout=300, **options
        )

    def test_pip_install(self):
        """pip install of a copy (pip builds in the source folder), offline; run from elsewhere."""
        found = self.python(
            "-W", "ignore", "-c", "import setuptools, pip; print(setuptools.__version__)"
        )
        wheel = self.python("-c", "import wheel")
        needed = 61 if wheel.returncode == 0 else 71
        if found.returncode != 0 or int(found.stdout.split(".")[0]) < needed:
            self.skipTest("needs pip and setuptools, 61 with wheel or 71")
        with tempfile.TemporaryDirectory() as folder:
            source, target = pathlib.Path(folder) / "source", pathlib.Path(folder) / "site"
            shutil.copytree(
                BINDING, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
            )
            done = self.python(
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-build-isolation",
                "--no-index",
                "--no-deps",
                "--disable-pip-version-check",
                "--target",
                str(target),
                str(source),
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertTrue((target / "ser" / "py.typed").exists())
            self.assertTrue((target / "ser" / "gui" / "__main__.py").exists())
            self.assertTrue((target / "bin" / "ser-gui").exists())
            self.assertTrue((target / f"libser-{ser.__version__}.dist-info").is_dir())
            done = self.python(
                "-c",
                "import ser; print(ser.__file__, ser.version())",
                cwd=folder,
                env=dict(os.environ, PYTHONPATH=str(target)),
            )
            self.assertIn(str(target), done.stdout, done.stderr)


if __name__ == "__main__":
    unittest.main()
