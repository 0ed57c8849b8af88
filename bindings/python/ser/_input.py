# SPDX-License-Identifier: MIT
"""Whatever a caller has for a clip, as a ser_audio handle."""

from __future__ import annotations

import array
import ctypes
import numbers
import os
from typing import Any

from ._library import check, lib

# Full scale of integer samples.
_SCALE = {"int16": 1 / 32768.0, "int32": 1 / 2147483648.0}

_BYTES = (bytes, bytearray, memoryview)


class Audio:
    """Owns one ser_audio."""

    def __init__(self, handle: ctypes.c_void_p) -> None:
        self.handle = handle

    @property
    def duration(self) -> float:
        return lib.ser_audio_duration(self.handle)

    def samples(self) -> memoryview:
        """The 16 kHz mono samples."""
        count = ctypes.c_size_t()
        pointer = lib.ser_audio_samples(self.handle, ctypes.byref(count))
        cells = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * count.value)).contents
        cells.owner = self  # which a view of them keeps alive
        return memoryview(cells).cast("B").cast("f")

    def __del__(self) -> None:
        lib.ser_audio_free(ctypes.byref(self.handle))


def fs_path(path: Any) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("path contains a null byte")
    return encoded


def is_many(x: Any) -> bool:
    """A list is many clips, unless it is a list of numbers."""
    return isinstance(x, (list, tuple)) and not (len(x) > 0 and isinstance(x[0], numbers.Real))


def open_audio(x: Any, sampling_rate: int | None) -> Audio:
    """Read one clip; `sampling_rate` is that of bare samples."""
    if isinstance(x, Audio):
        return x
    if isinstance(x, dict):
        return _from_dict(x, sampling_rate)
    reader = getattr(x, "read", None)
    encoded = isinstance(x, (str, os.PathLike, *_BYTES)) or callable(reader)
    if not encoded:
        return _from_samples(x, sampling_rate)
    if sampling_rate is not None:
        raise ValueError("sampling_rate is for arrays: a file knows its own")
    if isinstance(x, (str, os.PathLike)):
        return _opened(lib.ser_audio_read, fs_path(x))
    data = reader() if callable(reader) else x
    if not isinstance(data, _BYTES):
        raise TypeError("audio files must be opened in binary mode")
    data = bytes(data)
    return _opened(lib.ser_audio_read_memory, data, len(data))


def _from_dict(x: dict, sampling_rate: int | None) -> Audio:
    key = "raw" if "raw" in x else "array"
    if key not in x or "sampling_rate" not in x:
        raise ValueError('a dict needs "array" (or "raw") and "sampling_rate"')
    if sampling_rate is not None and sampling_rate != x["sampling_rate"]:
        raise ValueError(
            f'sampling_rate {sampling_rate} contradicts the dict\'s {x["sampling_rate"]}'
        )
    return _from_samples(x[key], x["sampling_rate"])


def _from_samples(x: Any, sampling_rate: int | None) -> Audio:
    if isinstance(x, (list, tuple)):
        if not all(isinstance(value, numbers.Real) for value in x):
            raise TypeError("a clip as a list must hold numbers only")
        pointer, frames, channels, keep = _from_floats(array.array("f", x))
    elif hasattr(x, "__array__"):
        pointer, frames, channels, keep = _from_numpy(x)
    elif isinstance(x, array.array) and x.typecode in "fd":
        pointer, frames, channels, keep = _from_floats(array.array("f", x))
    else:
        raise TypeError(
            f"cannot read {type(x).__name__} as audio: expected a path, bytes, a binary file, "
            "an array, a dict or a list of these"
        )
    if sampling_rate is None:
        raise ValueError("arrays need sampling_rate")
    if (
        isinstance(sampling_rate, bool)
        or not isinstance(sampling_rate, numbers.Real)
        or sampling_rate != int(sampling_rate)
    ):
        raise ValueError(f"sampling_rate must be a whole number of Hz, not {sampling_rate!r}")
    rate = min(max(int(sampling_rate), -1), 2**31 - 1)
    return _opened(lib.ser_audio_from_samples, pointer, frames, channels, rate, keep=keep)


def _from_floats(samples: array.array):
    buffer = (ctypes.c_float * len(samples)).from_buffer(samples) if len(samples) else None
    return buffer, len(samples), 1, samples


def _from_numpy(x: Any):
    import numpy

    samples = numpy.asarray(x)
    if samples.dtype.kind != "f" and samples.dtype.name not in _SCALE:
        raise TypeError(f"samples must be float, int16 or int32, not {samples.dtype}")
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples must be (frames,) or (frames, channels), not {samples.shape}")
    if samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
        raise ValueError(f"samples must be (frames, channels): {samples.shape} looks transposed")
    scale = _SCALE.get(samples.dtype.name)
    if scale is not None:
        samples = samples * scale
    samples = numpy.ascontiguousarray(samples, dtype=numpy.float32)
    channels = samples.shape[1] if samples.ndim == 2 else 1
    return (
        samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
        samples.shape[0],
        channels,
        samples,
    )


def _opened(function: Any, *arguments: Any, keep: Any = None) -> Audio:
    """Call a reader of audio; `keep` is what the arguments point into."""
    handle = ctypes.c_void_p()
    check(function(*arguments, None, ctypes.byref(handle)))
    return Audio(handle)


def interleaved(x: Any, channels: int) -> tuple[str, Any, int, Any]:
    """Samples of a stream: "f" or "h", a pointer to them, the number of frames, and their owner."""
    if isinstance(x, _BYTES) and memoryview(x).format in "Bbc":
        return _raw(array.array("h"), bytes(x), channels)
    if hasattr(x, "__array__"):
        return _numpy_frames(x, channels)
    if isinstance(x, (list, tuple)):
        if not all(isinstance(value, numbers.Real) for value in x):
            raise TypeError("samples as a list must be numbers")
        return _counted("f", array.array("f", x), channels)
    try:
        view = memoryview(x)
    except TypeError:
        raise TypeError(
            f"cannot read {type(x).__name__} as samples: expected an array, numbers or bytes"
        ) from None
    if view.format in ("h", "f"):
        return _raw(array.array(view.format), view.tobytes(), channels)
    if view.format != "d":
        raise TypeError(f'samples must have the type code "f", "d" or "h", not "{view.format}"')
    return _counted("f", array.array("f", view.tolist()), channels)


def _raw(out: array.array, data: bytes, channels: int) -> tuple[str, Any, int, Any]:
    frame = out.itemsize * channels
    if len(data) % frame != 0:
        raise ValueError(
            f"{len(data)} bytes are no whole frames: {channels} channels of {out.itemsize} bytes "
            f"are {frame}"
        )
    out.frombytes(data)
    return _counted(out.typecode, out, channels)


def _counted(kind: str, samples: array.array, channels: int) -> tuple[str, Any, int, Any]:
    if len(samples) % channels != 0:
        raise ValueError(f"{len(samples)} samples are no whole frames of {channels} channels")
    cell = ctypes.c_int16 if kind == "h" else ctypes.c_float
    buffer = (cell * len(samples)).from_buffer(samples) if len(samples) else None
    return kind, buffer, len(samples) // channels, samples


def _numpy_frames(x: Any, channels: int) -> tuple[str, Any, int, Any]:
    import numpy

    samples = numpy.asarray(x)
    if samples.dtype.kind != "f" and samples.dtype.name not in _SCALE:
        raise TypeError(f"samples must be float, int16 or int32, not {samples.dtype}")
    if samples.ndim == 2 and samples.shape[1] != channels or samples.ndim not in (1, 2):
        raise ValueError(f"samples must be (frames, {channels}) or flat, not {samples.shape}")
    if samples.size % channels != 0:
        raise ValueError(f"{samples.size} samples are no whole frames of {channels} channels")
    kind, cell = ("h", ctypes.c_int16) if samples.dtype.name == "int16" else ("f", ctypes.c_float)
    if samples.dtype.name == "int32":
        samples = samples * _SCALE["int32"]
    samples = numpy.ascontiguousarray(samples, dtype=numpy.int16 if kind == "h" else numpy.float32)
    pointer = samples.ctypes.data_as(ctypes.POINTER(cell))
    return kind, pointer, samples.size // channels, samples
