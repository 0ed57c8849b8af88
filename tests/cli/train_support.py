# SPDX-License-Identifier: MIT
"""What the tests of ser-train share: small corpora of tones, a tiny architecture, running it.

The program under test is $SER_TRAIN.
"""

import array
import json
import math
import os
import random
import signal
import subprocess
import time
import unittest

import support
from support import config, environment, path, write_wav

TRAIN = os.environ.get("SER_TRAIN", "ser-train")
TIMEOUT = 240
RATE = 16000
# RAVDESS actors of six different EmoBox folds: 1, 5, 4, 2, 6, 3.
ACTORS = (1, 2, 3, 4, 6, 8)
EMOTIONS = {"happy": 3, "sad": 4, "angry": 5}
LABELS = list(EMOTIONS)
FILES = {
    "config.json",
    "metrics.jsonl",
    "best.safetensors",
    "report.json",
    "README.md",
    "confusion.csv",
    "confusion.svg",
    "curves.svg",
    "heldout.csv",
}


def sanitized():
    """Whether the program is built with AddressSanitizer, which makes everything slow."""
    with open(TRAIN, "rb") as f:
        return b"__asan_init" in f.read()


def voice(emotion, seed, seconds=0.4):
    """A buzz whose pitch and rhythm depend on the emotion and, a little, on the seed."""
    numbers = random.Random(seed)
    pitch = {3: 400.0, 4: 150.0, 5: 900.0}[emotion] * numbers.uniform(0.8, 1.25)
    rhythm = {3: 8.0, 4: 2.0, 5: 5.0}[emotion]
    count = int(RATE * (seconds + numbers.uniform(0.0, 0.1)))
    samples = array.array("h")
    for i in range(count):
        t = i / RATE
        level = 0.2 + 0.1 * math.sin(2 * math.pi * rhythm * t)
        samples.append(
            int(32767 * (level * math.sin(2 * math.pi * pitch * t) + numbers.uniform(-0.02, 0.02)))
        )
    return samples


def ravdess_name(emotion, statement, repetition, actor):
    return "Actor_%02d/03-01-%02d-01-%02d-%02d-%02d.wav" % (
        actor,
        emotion,
        statement,
        repetition,
        actor,
    )


def ravdess_clips(actors=ACTORS):
    """(name, emotion) of 3 emotions, 2 statements, 2 takes for each actor."""
    return [
        (ravdess_name(number, statement, take, actor), emotion)
        for actor in actors
        for emotion, number in EMOTIONS.items()
        for statement in (1, 2)
        for take in (1, 2)
    ]


def write_corpus(name="corpus", actors=ACTORS):
    if not os.path.exists(path(name)):
        for seed, (file, emotion) in enumerate(ravdess_clips(actors), 1):
            write_wav(name + "/" + file, voice(EMOTIONS[emotion], seed))
    return path(name)


def write_arch():
    name = path("arch.json")
    if not os.path.exists(name):
        with open(name, "w") as f:
            json.dump(config(LABELS), f)
    return name


def base():
    """Options of a small run that go before all others."""
    return ["--dataset", "ravdess", write_corpus(), "--arch", write_arch(), "--batch-size", "8",
            "--device", "cpu", "--threads", "1", "--epochs", "3"]


class Train:
    """A run of ser-train: code, out, err."""

    def __init__(self, *arguments, env=None, **options):
        self.start(*arguments, env=env, **options)
        self.finish()

    def start(self, *arguments, env=None, **options):
        self.process = subprocess.Popen(
            [TRAIN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env or environment(),
            **options
        )

    def finish(self):
        out, err = self.process.communicate(timeout=TIMEOUT)
        self.code = self.process.returncode
        self.out = out.decode("utf-8", "surrogateescape")
        self.err = err.decode("utf-8", "surrogateescape")
        return self


class Started(Train):
    """A run that goes on while the test does something else."""

    def __init__(self, *arguments, **options):
        self.start(*arguments, **options)

    def wait_for(self, check, seconds=60):
        end = time.monotonic() + seconds
        while not check():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise AssertionError("ended too early: %s" % self.finish().err)
            time.sleep(0.002)

    def send(self, number):
        self.process.send_signal(number)


def lines(run, name="metrics.jsonl"):
    """Parsed lines of a file of the run directory; NaN and infinity are no JSON."""

    def refuse(word):
        raise ValueError("not JSON: " + word)

    with open(os.path.join(run, name), encoding="utf-8") as f:
        return [json.loads(line, parse_constant=refuse) for line in f]


def epochs_done(run):
    """Lines of metrics.jsonl about epochs, also while the run writes it."""
    try:
        with open(os.path.join(run, "metrics.jsonl"), "rb") as f:
            return f.read().count(b'"kind":"epoch"')
    except FileNotFoundError:
        return 0


def content(*names):
    with open(os.path.join(*names), "rb") as f:
        return f.read()


def parsed(*names):
    return json.loads(content(*names))


def checkpoints(run):
    """Names of the checkpoints, oldest first."""
    names = [n for n in os.listdir(os.path.join(run, "checkpoints")) if n[5:].isdigit()]
    return sorted(names, key=lambda n: int(n[5:]))


class TrainCase(unittest.TestCase):
    maxDiff = None

    def train_ok(self, *arguments, **options):
        run = Train(*base(), *arguments, **options)
        self.assertEqual(run.code, 0, run.err)
        return run

    def train_fails(self, code, message, *arguments, **options):
        run = Train(*base(), *arguments, **options)
        self.assertEqual(run.code, code, run.err)
        self.assertIn(message, run.err)
        return run

    def usage_fails(self, message, *arguments):
        run = Train(*arguments)
        self.assertEqual(run.code, 2, run.err)
        self.assertIn(message, run.err)
        self.assertIn("Try 'ser-train --help'", run.err)
        self.assertEqual(run.out, "")
        return run

    def same_model(self, a, b):
        """Two runs end with the same bits: best model, and the state to go on from."""
        self.assertEqual(content(a, "best.safetensors"), content(b, "best.safetensors"))
        self.assertEqual(checkpoints(a)[-1], checkpoints(b)[-1])
        folder = os.path.join("checkpoints", checkpoints(a)[-1])
        self.assertEqual(
            sorted(os.listdir(os.path.join(a, folder))), sorted(os.listdir(os.path.join(b, folder)))
        )
        for name in os.listdir(os.path.join(a, folder)):
            self.assertEqual(content(a, folder, name), content(b, folder, name), name)


KILL = signal.SIGKILL
