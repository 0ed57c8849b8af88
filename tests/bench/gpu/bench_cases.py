# SPDX-License-Identifier: MIT
"""What test_bench.py and test_training.py share: a benchmark run as a program, in a small way."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

import machine  # noqa: E402

TORCH = importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
EMULATED = os.environ.get("SER_EMULATED_MODULE")


class Runs(unittest.TestCase):
    """A subclass names the program, the kind of its results, and what every command has."""

    program = kind = None
    options = []

    @classmethod
    def setUpClass(cls):
        """One folder for all, so that PyTorch computes its reference once."""
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.work = pathlib.Path(folder.name)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.results = pathlib.Path(folder.name)

    def arguments(self, *more, work=None):
        return ["--tiny", "--work", str(work or self.work), "--results", str(self.results),
                *self.options, *more]

    def command(self, *more, work=None):
        return [sys.executable, HERE / self.program, *self.arguments(*more, work=work)]

    def environment(self, **more):
        return dict(os.environ, OMP_WAIT_POLICY="passive", **more)

    def measure(self, *more, status=0, work=None, **environment):
        """What the program prints, and the runs in its file."""
        done = subprocess.run(self.command(*more, work=work), capture_output=True, text=True,
                              env=self.environment(**environment))
        self.assertEqual(done.returncode, status, done.stderr[-3000:] + done.stdout[-2000:])
        return done.stdout, self.runs()

    def runs(self):
        (file,) = self.results.iterdir()
        self.assertRegex(file.name, rf"^gpu-{self.kind}-[a-z0-9-]+\.json$")
        return json.loads(file.read_text())["runs"]

    def after_three_rounds(self, main):
        """The first size of a run of five rounds that the time limit ends."""
        class ThreeRounds(machine.Deadline):
            def __init__(self, seconds):
                super().__init__(600)
                self.rounds = 0

            def check(self):
                self.rounds += 1
                if self.rounds > 3:
                    raise machine.TimeUp("--time-limit")

        self.addCleanup(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        asked = self.arguments("--device", "cpu", "--peers", "", "--rounds", "5")
        with mock.patch.object(machine, "Deadline", ThreeRounds), \
                contextlib.redirect_stderr(io.StringIO()), \
                contextlib.redirect_stdout(io.StringIO()) as text:
            self.assertEqual(main(asked), 0)
        self.assertIn("stopped by the time limit", text.getvalue())
        (run,) = self.runs()
        self.assertFalse(run["sizes"][0]["complete"])
        return run["sizes"][0]
