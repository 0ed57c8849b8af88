# SPDX-License-Identifier: MIT
"""What the tests of the binding share: sounds, golden files, places."""

import array
import io
import json
import math
import pathlib
import struct
import sys
import unittest
import wave

BINDING = pathlib.Path(__file__).resolve().parents[1]
ROOT = BINDING.parents[1]
GOLDEN = ROOT / "tests" / "golden"
MODEL = GOLDEN / "logmel.model.safetensors"
RATE = 16000

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(BINDING))

try:
    import numpy
except ImportError:
    numpy = None

needs_numpy = unittest.skipIf(numpy is None, "needs NumPy")


def tone(seconds, rate=RATE, pitch=220.0):
    """A harmonic sound with syllables, as int16 values."""
    out = []
    for i in range(round(seconds * rate)):
        t = i / rate
        level = 0.3 * max(math.sin(2 * math.pi * 3.0 * t), 0.02)
        out.append(
            round(
                32767
                * level
                * sum(math.sin(2 * math.pi * pitch * h * t) / h for h in (1, 2, 3))
                / 2
            )
        )
    return out


def wav_bytes(values, rate=RATE, channels=1):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(array.array("h", values).tobytes())
    return out.getvalue()


def read_golden(name):
    """Tensors of a golden file: {name: list of numbers}, F32 and F16."""
    data = (GOLDEN / name).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    out = {}
    for key, entry in json.loads(data[8 : 8 + size]).items():
        if key != "__metadata__":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            code, width = {"F32": ("f", 4), "F16": ("e", 2)}[entry["dtype"]]
            out[key] = list(struct.unpack(f"<{(end - begin) // width}{code}", data[begin:end]))
    return out
