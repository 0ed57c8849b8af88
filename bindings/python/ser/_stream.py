# SPDX-License-Identifier: MIT
"""Live audio."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Iterator

from . import _ffi
from ._errors import SerError
from ._input import interleaved
from ._library import check, lib, options, set_option
from ._results import StreamResult, flag_names

if TYPE_CHECKING:
    from ._model import Model


class _Handles:
    """The stream; one call at a time."""

    def __init__(self, stream: ctypes.c_void_p) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.stream: ctypes.c_void_p | None = stream

    @contextlib.contextmanager
    def working(self) -> Iterator[ctypes.c_void_p]:
        # Before the lock, which another thread may have held when the process forked.
        if os.getpid() != self.pid:
            raise SerError(_ffi.ERR_BUSY, "this stream was made before a fork")
        with self.lock:
            if self.stream is None:
                raise ValueError("the stream is closed")
            yield self.stream

    def close(self) -> None:
        if os.getpid() != self.pid:
            return
        with self.lock:
            stream, self.stream = self.stream, None
            if stream is not None:
                lib.ser_stream_free(ctypes.byref(stream))


class Stream:
    """Live audio: push samples as they come, take the answer of each window as it is complete.

        with model.stream(sampling_rate=48000, channels=2, hop=1.0) as stream:
            while data := microphone.read(4096):
                stream.push(data)
                for result in stream:
                    print(result.start, result.end, result.label)
            stream.flush()
            for result in stream:
                ...

    - sampling_rate, channels: of the source
    - window (the model's): seconds per window; hop (window): one starts every so many seconds
    - smoothing (0): time constant, in seconds, of an exponential mean over the probabilities
    - gate (0): windows whose level is below this many dBFS, such as -50, are not computed
    - channel (-1): take this one, from 0, instead of the mean of all
    - nonfinite ("refuse"): what to do with NaN and infinity; or "zero"
    - threads (0): of the CPU; 0 as the model was loaded

    The answers do not depend on how the audio was cut into pushes; on the CPU they are those of
    Model.predict_windows() to the last bit. Calls on several threads wait for one another.
    """

    def __init__(
        self,
        model: Model,
        sampling_rate: int = 16000,
        channels: int = 1,
        window: float | None = None,
        hop: float | None = None,
        *,
        smoothing: float = 0.0,
        gate: float = 0.0,
        channel: int = -1,
        nonfinite: str = "refuse",
        threads: int = 0,
    ) -> None:
        kinds = {"refuse": _ffi.NONFINITE_REFUSE, "zero": _ffi.NONFINITE_ZERO}
        if nonfinite not in kinds:
            raise ValueError(f'nonfinite must be "refuse" or "zero", not {nonfinite!r}')
        chosen = options(_ffi.stream_options, "stream_options")
        chosen.nonfinite = kinds[nonfinite]
        for name, value in (
            ("sampling_rate", sampling_rate),
            ("channels", channels),
            ("channel", channel),
            ("window", 0.0 if window is None else window),
            ("hop", 0.0 if hop is None else hop),
            ("smoothing", smoothing),
            ("gate", gate),
            ("threads", threads),
        ):
            set_option(chosen, name, value)
        stream, reference = ctypes.c_void_p(), model._handles.reference()
        try:
            check(lib.ser_stream_create(reference, ctypes.byref(chosen), ctypes.byref(stream)))
        finally:
            lib.ser_model_free(ctypes.byref(reference))
        self._labels = model.labels
        self._channels = chosen.channels
        self._handles = _Handles(stream)
        self._finalizer = weakref.finalize(self, self._handles.close)

    def push(self, samples: Any) -> None:
        """Take in any number of samples; nothing is computed yet.

        Numbers or an array of float (full scale 1.0), int16 or int32, (frames, channels) or
        interleaved; bytes are interleaved 16-bit samples of this machine's byte order.
        """
        kind, pointer, frames, keep = interleaved(samples, self._channels)
        push = lib.ser_stream_push_s16 if kind == "h" else lib.ser_stream_push
        with self._handles.working() as stream:
            check(push(stream, pointer, frames))
        del keep  # what `pointer` points into

    def next(self) -> StreamResult | None:
        """Compute the next window; None if its audio is not there yet."""
        result, found = _ffi.stream_result(), ctypes.c_int32()
        result.struct_size = ctypes.sizeof(result)
        with self._handles.working() as stream:
            check(lib.ser_stream_next(stream, ctypes.byref(result), ctypes.byref(found)))
            return self._read(result) if found.value else None

    def __iter__(self) -> Iterator[StreamResult]:
        """The windows whose audio is there. Iterate again after the next push."""
        while (result := self.next()) is not None:
            yield result

    def flush(self) -> None:
        """The audio has ended: what is left becomes the last window, to be taken as the others."""
        with self._handles.working() as stream:
            check(lib.ser_stream_flush(stream))

    def reset(self) -> None:
        """Begin anew with the same options: time, smoothing and what was pushed are forgotten."""
        with self._handles.working() as stream:
            check(lib.ser_stream_reset(stream))

    def close(self) -> None:
        """Free the stream. A call on another thread finishes first; later ones raise ValueError."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        return self._handles.stream is None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _read(self, result: _ffi.stream_result) -> StreamResult:
        """A copy, since the pointers are valid until the next call only."""
        row, attention = result.probabilities, result.attention
        shares = dict(zip(self._labels, row[: result.label_count])) if row else None
        label = self._labels[result.label] if shares else None
        return StreamResult(
            index=result.index,
            start=result.start,
            end=result.end,
            label=label,
            score=shares[label] if shares else None,
            probabilities=shares,
            flags=flag_names(result.flags),
            peak=result.peak,
            rms=result.rms,
            attention=tuple(attention[: result.attention_count]) if attention else None,
            frame_start=result.frame_start,
            frame_step=result.frame_step,
        )
