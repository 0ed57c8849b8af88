# SPDX-License-Identifier: MIT
"""What the tests of the tools share: a tiny model, audio files, running a program.

The program under test is $SER_PREDICT. Everything else is made here, in one temporary directory.
"""

import array
import atexit
import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest
import wave

# The tools leave a signal ignored that was so when they started, as under nohup.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

PREDICT = os.environ.get("SER_PREDICT", "ser-predict")
LABELS = ["neutral", "happy", "very sad", 'an"gry', "\u00e4rger, laut"]
WINDOW, MAX_SECONDS = 1.5, 4.0
TIMEOUT = 120

root = tempfile.mkdtemp(prefix="ser-cli-")
atexit.register(shutil.rmtree, root, True)


def path(*names):
    return os.path.join(root, *names)


A, B, C, LONG, TEXT = map(path, ("a.wav", "b.wav", "c.wav", "long.wav", "text.wav"))


def sanitized():
    """Whether the program is built with AddressSanitizer, whose memory use says nothing."""
    with open(PREDICT, "rb") as f:
        return b"__asan_init" in f.read()


def config(labels, window=WINDOW, max_seconds=MAX_SECONDS, padding="exact"):
    return {
        "padding": padding,
        "labels": labels,
        "audio": {"normalize": True, "window": window, "max_seconds": max_seconds},
        "features": {
            "type": "logmel",
            "mel": {
                "frame": 400,
                "hop": 160,
                "fft": 512,
                "bins": 12,
                "low": 50.0,
                "high": 8000.0,
                "floor": 1e-7,
            },
            "conv_dim": [16],
            "conv_kernel": [3],
            "conv_stride": [2],
            "conv_padding": [1],
            "conv_bias": True,
            "norm": "layer",
        },
        "encoder": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "norm": "pre",
            "position_kernel": 3,
            "position_groups": 2,
        },
        "pooling": {"type": "attention", "hidden": 8},
        "classifier": {"sizes": [8], "activation": "gelu"},
    }


def shapes(labels):
    """Tensors of config(), by the table of models/FORMAT.md."""
    base = "wav2vec2."
    layer = base + "encoder.layers.0."
    conv = base + "feature_extractor.conv_layers.0."
    result = {
        base + "feature_extractor.mel.mean": [12],
        base + "feature_extractor.mel.std": [12],
        conv + "conv.weight": [16, 12, 3],
        base + "encoder.pos_conv_embed.conv.weight_g": [1, 1, 3],
        base + "encoder.pos_conv_embed.conv.weight_v": [16, 8, 3],
    }
    linears = {
        base + "feature_projection.projection": (16, 16),
        layer + "feed_forward.intermediate_dense": (32, 16),
        layer + "feed_forward.output_dense": (16, 32),
        "pooling.hidden": (8, 16),
        "pooling.score": (1, 8),
        "classifier.0": (8, 16),
        "classifier.1": (labels, 8),
    }
    for which in "qkv":
        linears[layer + "attention.%s_proj" % which] = (16, 16)
    linears[layer + "attention.out_proj"] = (16, 16)
    for name, (rows, columns) in linears.items():
        result[name + ".weight"] = [rows, columns]
        result[name + ".bias"] = [rows]
    result[conv + "conv.bias"] = [16]
    result[base + "encoder.pos_conv_embed.conv.bias"] = [16]
    for name in (
        conv + "layer_norm",
        base + "feature_projection.layer_norm",
        base + "encoder.layer_norm",
        layer + "layer_norm",
        layer + "final_layer_norm",
    ):
        result[name + ".weight"] = [16]
        result[name + ".bias"] = [16]
    return result


def write_model(name, labels=LABELS, poison=None, **front_end):
    """A model with random weights, large enough that different clips get different labels."""
    numbers = random.Random(7)
    header = {
        "__metadata__": {
            "format": "ser",
            "version": "1",
            "config": json.dumps(config(labels, **front_end)),
        }
    }
    data = b""
    for tensor, shape in sorted(shapes(len(labels)).items()):
        count = math.prod(shape)
        values = [numbers.gauss(0, 0.8) for _ in range(count)]
        if tensor.endswith("mel.std") or ("norm.weight" in tensor) or tensor.endswith("weight_g"):
            values = [1.0] * count
        if tensor == poison:
            values = [math.nan] * count
        block = struct.pack("<%df" % count, *values)
        header[tensor] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(block)],
        }
        data += block
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path(name), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    return path(name)


def tone(seconds, seed=0, rate=16000, amplitude=0.3):
    """A wandering tone with noise: int16 samples, different for every seed."""
    numbers = random.Random(seed)
    phase, pitch = 0.0, 100.0 + 37.0 * (seed % 50)
    samples = array.array("h")
    for i in range(int(round(seconds * rate))):
        if i % (rate // 4) == 0:
            pitch *= 2.0 ** numbers.uniform(-0.6, 0.6)
            pitch = min(max(pitch, 60.0), 3000.0)
        phase += 2.0 * math.pi * pitch / rate
        samples.append(
            int(32767 * amplitude * (0.8 * math.sin(phase) + 0.2 * numbers.uniform(-1, 1)))
        )
    return samples


def write_wav(name, samples, channels=1, rate=16000):
    target = name if isinstance(name, bytes) else path(name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as raw, wave.open(raw, "wb") as f:
        f.setnchannels(channels)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(samples.tobytes())
    return target


def environment(**changes):
    """The test's environment: our model, no colour or locale of the user. None removes."""
    env = {
        key: value
        for key, value in os.environ.items()
        if key
        not in (
            "NO_COLOR",
            "FORCE_COLOR",
            "CLICOLOR_FORCE",
            "COLUMNS",
            "LANG",
            "LANGUAGE",
            "POSIXLY_CORRECT",
        )
        and not key.startswith("LC_")
    }
    env.update(LC_ALL="C", SER_MODEL=path("model.safetensors"), TERM="xterm", OMP_NUM_THREADS="1")
    env.update(changes)
    return {key: value for key, value in env.items() if value is not None}


class Run:
    """A finished run: code, out, err (text; bytes that are not UTF-8 as Python escapes them)."""

    def __init__(self, *arguments, input=None, env=None, **options):
        options.setdefault("stdin", subprocess.DEVNULL if input is None else None)
        if input is not None:
            del options["stdin"]
            options["input"] = input
        options.setdefault("stdout", subprocess.PIPE)
        done = subprocess.run(
            [PREDICT, *arguments],
            stderr=subprocess.PIPE,
            env=env or environment(),
            timeout=TIMEOUT,
            **options
        )
        self.code = done.returncode
        self.out = (done.stdout or b"").decode("utf-8", "surrogateescape")
        self.err = done.stderr.decode("utf-8", "surrogateescape")

    def objects(self):
        return [json.loads(line) for line in self.out.splitlines()]


class Case(unittest.TestCase):
    maxDiff = None

    def run_ok(self, *arguments, **options):
        """Run with exit code 0 and nothing on standard error."""
        run = Run(*arguments, **options)
        self.assertEqual((run.code, run.err), (0, ""), arguments)
        return run

    def run_fails(self, code, message, *arguments, **options):
        """Run with this exit code, and a message that contains this text."""
        run = Run(*arguments, **options)
        self.assertEqual(run.code, code, (arguments, run.err))
        self.assertIn(message, run.err)
        for line in run.err.splitlines():
            self.assertTrue(
                line.startswith(("ser-predict: ", "Try 'ser-predict --help'", "Usage: ")), line
            )
        return run

    def usage_fails(self, message, *arguments):
        run = self.run_fails(2, message, *arguments)
        self.assertEqual(run.out, "")
        self.assertIn("Try 'ser-predict --help'", run.err)
        return run


def prepare():
    """The files that most tests use."""
    if not os.path.exists(path("model.safetensors")):
        write_model("model.safetensors")
        write_wav("a.wav", tone(1.0, 1))
        write_wav("b.wav", tone(2.0, 2))
        write_wav("c.wav", tone(1.7, 3))
        write_wav("long.wav", tone(10.0, 4))
        with open(TEXT, "w") as f:
            f.write("This is not audio.\n" * 20)
