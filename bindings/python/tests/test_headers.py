# SPDX-License-Identifier: MIT
"""_ffi.py against include/ser, the version script and the loaded library."""

import ctypes
import re
import unittest

from helpers import ROOT

import ser
from ser import _ffi
from ser._library import lib
from ser._library import options as library_options


class Headers(unittest.TestCase):
    HANDLES = "device audio reader model predictor stream trainer batch".split()
    STRUCTS = (
        "device_options audio_options audio_info model_options predictor_options prediction "
        "stream_options stream_result augment_options trainer_options clip step_result"
    ).split()
    SCALARS = {
        "void": None,
        "int": ctypes.c_int,
        "int16_t": ctypes.c_int16,
        "int32_t": ctypes.c_int32,
        "int64_t": ctypes.c_int64,
        "uint64_t": ctypes.c_uint64,
        "uint8_t": ctypes.c_uint8,
        "size_t": ctypes.c_size_t,
        "double": ctypes.c_double,
        "float": ctypes.c_float,
    }

    @classmethod
    def setUpClass(cls):
        texts = [path.read_text() for path in sorted((ROOT / "include" / "ser").glob("*.h"))]
        text = re.sub(r"/\*.*?\*/", " ", "\n".join(texts), flags=re.S)
        cls.text = re.sub(r"^\s*#.*?(?<!\\)$", " ", text, flags=re.M | re.S)
        cls.raw = "\n".join(texts)

    def expected(self, declaration, result=False):
        """The ctypes type of "const float *samples" and the like."""
        words = re.sub(r"\bconst\b", " ", declaration).replace("*", " * ").split()
        base, stars = words[0], words.count("*")
        name = base[4:] if base.startswith("ser_") else base
        if base == "ser_log_handler":
            return _ffi.log_handler
        if name in self.HANDLES:
            return {1: ctypes.c_void_p, 2: ctypes.POINTER(ctypes.c_void_p)}[stars]
        if name in self.STRUCTS:
            structure = getattr(_ffi, name)
            return {0: structure, 1: ctypes.POINTER(structure)}[stars]
        if base == "char":
            return {1: ctypes.c_char_p, 2: ctypes.POINTER(ctypes.c_char_p)}[stars]
        if base == "void" and stars:
            return ctypes.c_void_p
        scalar = self.SCALARS[base]
        return ctypes.POINTER(scalar) if stars else scalar

    def functions(self):
        for match in re.finditer(r"SER_API\s+([^;(]*?)\b(ser_\w+)\s*\(([^;]*?)\)\s*;", self.text):
            result, name, arguments = match.groups()
            arguments = [] if arguments.strip() == "void" else arguments.split(",")
            yield name, result.strip(), [argument.strip() for argument in arguments]

    def test_every_function_has_the_headers_signature(self):
        seen = set()
        for name, result, arguments in self.functions():
            seen.add(name)
            self.assertIn(name[4:], _ffi.FUNCTIONS)
            ours_result, ours = _ffi.FUNCTIONS[name[4:]]
            with self.subTest(name):
                self.assertIs(ours_result, self.expected(result))
                self.assertEqual(
                    [t.__name__ for t in ours],
                    [self.expected(argument).__name__ for argument in arguments],
                )
                self.assertEqual(ours, [self.expected(argument) for argument in arguments])
        self.assertGreater(len(seen), 40)
        self.assertEqual(seen, {"ser_" + name for name in _ffi.FUNCTIONS})

    def test_the_version_script_exports_the_same(self):
        script = (ROOT / "lib" / "ser.map").read_text()
        exported = set(re.findall(r"\b(ser_\w+);", script))
        self.assertEqual(exported, {"ser_" + name for name in _ffi.FUNCTIONS})

    def test_every_constant(self):
        constants = {}
        for body in re.findall(r"enum\s*\{(.*?)\}", self.text, flags=re.S):
            for name, value in re.findall(r"SER_(\w+)\s*=\s*([^,}]+)", body):
                constants[name] = eval(value, {"__builtins__": {}})
        constants["SAMPLING_RATE"] = int(re.search(r"#define SER_SAMPLING_RATE (\d+)", self.raw)[1])
        self.assertGreater(len(constants), 30)
        ours = {
            name: value
            for name, value in vars(_ffi).items()
            if name.isupper() and isinstance(value, int)
        }
        self.assertEqual(ours, constants)

    def test_every_structure(self):
        found = set()
        for name, body in re.findall(
            r"typedef struct ser_(\w+)\s*\{(.*?)\}\s*ser_\w+;", self.text, flags=re.S
        ):
            found.add(name)
            fields = []
            for declaration in filter(None, (part.strip() for part in body.split(";"))):
                kind, names = re.fullmatch(
                    r"((?:const\s+)?\w+\s+\**)(\w+(?:\s*,\s*\w+)*)", declaration
                ).groups()
                fields += [(field, self.expected(kind)) for field in re.split(r"\s*,\s*", names)]
            self.assertEqual(getattr(_ffi, name)._fields_, fields, name)
        self.assertEqual(found, set(self.STRUCTS))

    def test_the_library_agrees_on_the_layout(self):
        defaults = {
            "device_options": {"kind": 0, "index": 0, "threads": 0, "reserved": 0},
            "audio_options": {
                "offset": 0,
                "length": 0,
                "max_seconds": 3600,
                "channel": -1,
                "nonfinite": 0,
                "strict": 0,
                "any_format": 0,
            },
            "model_options": {
                "precision": 0,
                "strict": 0,
                "seed": 0,
                "max_header_size": 16 << 20,
                "layer_mix": 0,
                "reserved": 0,
            },
            "predictor_options": {
                "max_batch": 0,
                "threads": 0,
                "max_seconds": 0,
                "window": 0,
                "padding": 0,
                "reserved": 0,
            },
            "stream_options": {
                "sampling_rate": 16000,
                "channels": 1,
                "channel": -1,
                "nonfinite": 0,
                "window": 0,
                "hop": 0,
                "smoothing": 0,
                "gate": 0,
                "threads": 0,
                "reserved": 0,
            },
            "trainer_options": {
                "seed": 0,
                "steps": 1000,
                "warmup_steps": -1,
                "schedule": _ffi.SCHEDULE_LINEAR,
                "accumulate": 1,
                "layer_decay": 1,
                "mask_time_length": 10,
                "freeze_features": 1,
                "freeze": None,
                "cache_bytes": 2 << 30,
                "max_skipped": 10,
            },
        }
        for name, values in defaults.items():
            kind = getattr(_ffi, name)
            size = ctypes.sizeof(kind)
            buffer = (ctypes.c_ubyte * (size + 16))(*([0xAA] * (size + 16)))
            options = kind.from_buffer(buffer)
            getattr(lib, f"ser_{name}_init")(ctypes.byref(options), size)
            with self.subTest(name):
                self.assertEqual(options.struct_size, size)
                self.assertEqual({field: getattr(options, field) for field in values}, values)
                self.assertEqual(bytes(buffer[size:]), b"\xaa" * 16)
        trainer = library_options(_ffi.trainer_options, "trainer_options")
        self.assertEqual(trainer.augment.struct_size, ctypes.sizeof(_ffi.augment_options))

    def test_version(self):
        parts = [
            re.search(rf"#define SER_VERSION_{part}\s+(\d+)", self.raw)[1]
            for part in ("MAJOR", "MINOR", "PATCH")
        ]
        self.assertEqual(ser.__version__, ".".join(parts))
        self.assertEqual(ser.version(), ser.__version__)
        self.assertEqual(
            lib.ser_version_number(),
            sum(int(part) * scale for part, scale in zip(parts, (1000000, 1000, 1))),
        )
        self.assertEqual(_ffi.SONAME, "libser.so." + parts[0])


if __name__ == "__main__":
    unittest.main()
