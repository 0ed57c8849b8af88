# SPDX-License-Identifier: MIT
"""Models and prediction."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import weakref
from typing import Any, Callable, Iterator, Sequence

from . import _ffi
from ._errors import SerError
from ._input import Audio, fs_path, is_many, open_audio
from ._library import check, lib, options, set_option
from ._results import Prediction, flag_names
from ._stream import Stream

# Clips that are in memory together when a list is predicted.
_CHUNK = 64

_PRECISIONS = {
    "auto": _ffi.PRECISION_AUTO,
    "f32": _ffi.PRECISION_F32,
    "bf16": _ffi.PRECISION_BF16,
}
_KINDS = {"auto": _ffi.DEVICE_AUTO, "cpu": _ffi.DEVICE_CPU, "cuda": _ffi.DEVICE_CUDA}


def _set_precision(chosen: Any, name: str) -> None:
    if name not in _PRECISIONS:
        raise ValueError(f'precision must be "auto", "f32" or "bf16", not {name!r}')
    chosen.precision = _PRECISIONS[name]


def _open_device(name: str, threads: int) -> ctypes.c_void_p:
    kind, colon, index = str(name).partition(":")
    if kind not in _KINDS or (colon and not index.isdecimal()):
        raise ValueError(f'device must be "auto", "cpu", "cuda" or "cuda:N", not {name!r}')
    chosen = options(_ffi.device_options, "device_options")
    chosen.kind, chosen.index, chosen.threads = _KINDS[kind], int(index or 0), threads
    device = ctypes.c_void_p()
    check(lib.ser_device_open(ctypes.byref(chosen), ctypes.byref(device)))
    return device


def _given_labels(labels: Sequence[str]) -> list[bytes]:
    if isinstance(labels, (str, bytes)):
        raise TypeError("labels must be a list of names")
    labels = list(labels)
    if not all(isinstance(name, str) for name in labels):
        raise TypeError("labels must be strings")
    names = [name.encode() for name in labels]
    if any(b"\0" in name for name in names):
        raise ValueError("a label contains a null byte")
    return names


def config_text(config: Any, name: str) -> bytes:
    """JSON text as it is, a dict as JSON text."""
    text = config if isinstance(config, str) else json.dumps(config, allow_nan=False)
    if "\0" in text:
        raise ValueError(f"{name} contains a null character")
    return text.encode()


class _Handles:
    """The model and its idle predictors. A call takes one for itself and puts it back."""

    def __init__(self, model: ctypes.c_void_p) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()
        self.model: ctypes.c_void_p | None = model
        self.idle: list[ctypes.c_void_p] = []

    def check_process(self) -> None:
        # Before the lock, which another thread may have held when the process forked.
        if os.getpid() != self.pid:
            raise SerError(
                _ffi.ERR_BUSY, "this model was loaded before a fork: load it again in the child"
            )

    def check_open(self) -> ctypes.c_void_p:
        self.check_process()
        if self.model is None:
            raise ValueError("the model is closed")
        return self.model

    def take(self) -> ctypes.c_void_p:
        self.check_process()
        with self.lock:
            model = self.check_open()
            if self.idle:
                return self.idle.pop()
            predictor = ctypes.c_void_p()
            check(lib.ser_predictor_create(model, None, ctypes.byref(predictor)))
            return predictor

    def reference(self) -> ctypes.c_void_p:
        """A reference of the caller's own, which close() on another thread leaves valid."""
        self.check_process()
        with self.lock:
            return ctypes.c_void_p(lib.ser_model_ref(self.check_open()))

    def train(self, chosen: _ffi.trainer_options) -> ctypes.c_void_p:
        """A trainer, which has the model alone: the idle predictors go."""
        self.check_process()
        with self.lock:
            model = self.check_open()
            while self.idle:
                lib.ser_predictor_free(ctypes.byref(self.idle.pop()))
            trainer = ctypes.c_void_p()
            check(lib.ser_trainer_create(model, ctypes.byref(chosen), ctypes.byref(trainer)))
            return trainer

    def put(self, predictor: ctypes.c_void_p) -> None:
        if os.getpid() != self.pid:
            return
        with self.lock:
            if self.model is not None:
                self.idle.append(predictor)
                return
        lib.ser_predictor_free(ctypes.byref(predictor))

    def close(self) -> None:
        if os.getpid() != self.pid:
            return
        with self.lock:
            model, self.model = self.model, None
            idle, self.idle = self.idle, []
        for predictor in idle:
            lib.ser_predictor_free(ctypes.byref(predictor))
        if model is not None:
            lib.ser_model_free(ctypes.byref(model))


class Model:
    """A loaded model. Any number of threads may use it at once; each call runs without the GIL.

    A clip is any of

    - a path, the bytes of an audio file, or a file opened in binary mode
    - samples: a list of numbers, or an array (frames,) or (frames, channels) of float (full scale
      1.0), int16 or int32; these need `sampling_rate`
    - a dict {"array" or "raw": samples, "sampling_rate": Hz}

    and a list of clips gives a list (or array) of results. While a ser.Trainer has the model, it
    refuses to predict and to be saved (SerError, SER_ERR_BUSY).
    """

    def __init__(
        self, path: Any = None, device: str = "auto", threads: int = 0, precision: str = "auto"
    ) -> None:
        chosen = options(_ffi.model_options, "model_options")
        _set_precision(chosen, precision)
        given = ctypes.byref(chosen)
        if isinstance(path, (bytes, bytearray, memoryview)):
            data = bytes(path)
            self._open(device, threads, lib.ser_model_load_memory, data, len(data), given)
        else:
            name = None if path is None else fs_path(path)
            self._open(device, threads, lib.ser_model_load, name, given)

    def _open(self, device: str, threads: int, function: Any, *arguments: Any) -> None:
        """Take the model that `function`(device, *arguments, out) makes."""
        opened = _open_device(device, threads)
        model = ctypes.c_void_p()
        try:
            check(function(opened, *arguments, ctypes.byref(model)))
            self._device = lib.ser_device_name(opened).decode()
        finally:
            lib.ser_device_free(ctypes.byref(opened))
        self._handles = _Handles(model)
        self._finalizer = weakref.finalize(self, self._handles.close)
        count = lib.ser_model_label_count(model)
        self._labels = [lib.ser_model_label(model, i).decode() for i in range(count)]
        self._path = os.fsdecode(lib.ser_model_path(model))
        self._config = lib.ser_model_config(model).decode()
        self._parameters = lib.ser_model_parameter_count(model)
        self._window = lib.ser_model_window(model)
        self._max_seconds = lib.ser_model_max_seconds(model)

    @classmethod
    def load(
        cls, path: Any = None, device: str = "auto", threads: int = 0, precision: str = "auto"
    ) -> Model:
        """Load a model file, a transformers directory or the bytes of a model file.

        Without a path: $SER_MODEL, or the small model that is installed with the library. `device`
        is "auto", "cpu", "cuda" or "cuda:N"; `threads` are the CPU threads per call, 0 for all.
        `precision` is "f32", "bf16", or "auto": bf16 on a GPU, f32 on the CPU.
        """
        return cls(path, device, threads, precision)

    @classmethod
    def create(
        cls,
        backbone: Any = None,
        *,
        config: Any = None,
        labels: Sequence[str],
        seed: int = 0,
        layer_mix: bool = False,
        device: str = "auto",
        threads: int = 0,
        precision: str = "auto",
    ) -> Model:
        """An untrained model for ser.Trainer, with 2 to 1000 distinct `labels`.

        Either `backbone`, a transformers directory whose pre-trained network gets a fresh head, or
        `config`, an architecture with random weights: "ser-mini", or a dict or JSON text as
        models/FORMAT.md describes. `seed` draws what is fresh; with `layer_mix` the head sees a
        learned mix of all hidden states instead of the last. `device`, `threads` and `precision` as
        for load(): in bf16 a GPU trains with f32 weights, moments and sums.
        """
        if (backbone is None) == (config is None):
            raise TypeError("create() takes either a backbone or a config")
        names = _given_labels(labels)
        chosen = options(_ffi.model_options, "model_options")
        set_option(chosen, "seed", seed)
        chosen.layer_mix = bool(layer_mix)
        if backbone is not None:
            function, source = lib.ser_model_create, fs_path(backbone)
        else:
            function = lib.ser_model_create_from_config
            source = config_text(config, "config")
        array = (ctypes.c_char_p * len(names))(*names)
        model = cls.__new__(cls)
        _set_precision(chosen, precision)
        model._open(device, threads, function, source, array, len(names), ctypes.byref(chosen))
        return model

    # --- Facts

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of predict_proba."""
        return list(self._labels)

    @property
    def config(self) -> dict:
        """The configuration in the model file."""
        return json.loads(self._config)

    @property
    def path(self) -> str:
        """Where the model came from; "" if from memory."""
        return self._path

    @property
    def device(self) -> str:
        """Where it runs, such as "cpu (avx2, 2 threads)"."""
        return self._device

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return self._parameters

    @property
    def window(self) -> float:
        """Seconds per window for audio longer than `max_seconds`."""
        return self._window

    @property
    def max_seconds(self) -> float:
        """The longest audio, in seconds, that is taken in one piece."""
        return self._max_seconds

    @property
    def closed(self) -> bool:
        return self._handles.model is None

    def __repr__(self) -> str:
        state = "closed" if self.closed else self._device
        return f"<ser.Model {self._path!r}, {len(self._labels)} labels, {state}>"

    # --- Prediction

    def predict(
        self, x: Any, sampling_rate: int | None = None, top_k: int | None = None
    ) -> list[dict] | list[list[dict]]:
        """[{"label", "score"}, …] of a clip, most probable first; a list of these for a list."""
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        many, rows = self._run(x, sampling_rate, self._probabilities)
        results = [self._ranked(row, top_k) for row in rows]
        return results if many else results[0]

    def predict_proba(self, x: Any, sampling_rate: int | None = None) -> Any:
        """Probabilities in the order of `labels`: float32 (classes,); (n, classes) for a list."""
        return self._array(x, sampling_rate, self._probabilities, len(self._labels))

    def embed(self, x: Any, sampling_rate: int | None = None) -> Any:
        """The pooled hidden state: float32 (hidden,); (n, hidden) for a list."""
        size = self.config["encoder"]["hidden_size"]
        return self._array(x, sampling_rate, self._embeddings, size)

    def predict_details(
        self, x: Any, sampling_rate: int | None = None
    ) -> Prediction | list[Prediction]:
        """ser.Prediction of a clip: probabilities, attention, flags; a list for a list."""
        many, results = self._run(x, sampling_rate, self._details)
        return results if many else results[0]

    def stream(
        self,
        sampling_rate: int = 16000,
        channels: int = 1,
        window: float | None = None,
        hop: float | None = None,
        **others: Any,
    ) -> Stream:
        """A ser.Stream, for live audio; `others` are its further options."""
        return Stream(self, sampling_rate, channels, window, hop, **others)

    def predict_windows(
        self,
        path: Any,
        window: float | None = None,
        hop: float | None = None,
        top_k: int | None = None,
    ) -> Iterator[dict]:
        """{"start", "end", "scores"} of one window after the other of a file of any length.

        Windows are `window` seconds long (default: the model's) and start every `hop` seconds
        (default: `window`). Memory stays near two windows. Use the iterator on one thread.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        window = self.window if window is None else window
        return self._windows(fs_path(path), window, window if hop is None else hop, top_k)

    def save(self, path: Any) -> None:
        """Write the model as one file; `path` always holds a whole one, the old or the new."""
        name, model = fs_path(path), self._handles.reference()
        try:
            check(lib.ser_model_save(model, name))
        finally:
            lib.ser_model_free(ctypes.byref(model))

    def close(self) -> None:
        """Free the model. Calls on other threads finish first; later ones raise ValueError."""
        self._finalizer()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # --- Inside

    def _ranked(self, row: Sequence[float], top_k: int | None) -> list[dict]:
        order = sorted(range(len(row)), key=lambda i: -row[i])[:top_k]
        return [{"label": self._labels[i], "score": row[i]} for i in order]

    def _array(self, x: Any, sampling_rate: int | None, pick: Callable, size: int) -> Any:
        import numpy

        many, rows = self._run(x, sampling_rate, pick)
        out = numpy.array(rows, dtype=numpy.float32).reshape(len(rows), size)
        return out if many else out[0]

    def _run(self, x: Any, sampling_rate: int | None, pick: Callable) -> tuple[bool, list]:
        """Whether `x` is a list of clips, and one row of floats per clip."""
        many = is_many(x)
        clips = x if many else [x]
        self._handles.check_open()
        rows: list = []
        for start in range(0, len(clips), _CHUNK):
            audios = [open_audio(clip, sampling_rate) for clip in clips[start : start + _CHUNK]]
            predictor = self._handles.take()
            try:
                rows += pick(predictor, audios)
            finally:
                self._handles.put(predictor)
        return many, rows

    def _probabilities(self, predictor: ctypes.c_void_p, audios: list[Audio]) -> list[list[float]]:
        classes = len(self._labels)
        handles = (ctypes.c_void_p * len(audios))(*(audio.handle for audio in audios))
        out = (ctypes.c_float * (classes * len(audios)))()
        check(lib.ser_predict_batch(predictor, handles, len(audios), out, len(out)))
        return [out[i : i + classes] for i in range(0, len(out), classes)]

    def _embeddings(self, predictor: ctypes.c_void_p, audios: list[Audio]) -> list[list[float]]:
        self._probabilities(predictor, audios)
        out = []
        for i in range(len(audios)):
            details = self._prediction(predictor, i)
            if not details.embedding:
                raise ValueError(
                    f"clip {i}: only up to {self.max_seconds:g} s have one embedding, "
                    "longer audio is taken in windows"
                )
            out.append(details.embedding[: details.embedding_count])
        return out

    def _details(self, predictor: ctypes.c_void_p, audios: list[Audio]) -> list[Prediction]:
        rows = self._probabilities(predictor, audios)
        out = []
        for i, (audio, row) in enumerate(zip(audios, rows)):
            details = self._prediction(predictor, i)
            best = max(range(len(row)), key=row.__getitem__)
            attention = details.attention
            out.append(
                Prediction(
                    label=self._labels[best],
                    score=row[best],
                    probabilities=dict(zip(self._labels, row)),
                    start=details.start,
                    end=details.end,
                    duration=audio.duration,
                    flags=flag_names(details.flags),
                    attention=tuple(attention[: details.attention_count]) if attention else None,
                    frame_start=details.frame_start,
                    frame_step=details.frame_step,
                )
            )
        return out

    @staticmethod
    def _prediction(predictor: ctypes.c_void_p, index: int) -> _ffi.prediction:
        details = _ffi.prediction()
        details.struct_size = ctypes.sizeof(details)
        check(lib.ser_predictor_get_prediction(predictor, index, ctypes.byref(details)))
        return details

    def _windows(self, path: bytes, window: float, hop: float, top_k: int | None) -> Iterator[dict]:
        reader = ctypes.c_void_p()
        check(lib.ser_reader_open(path, None, ctypes.byref(reader)))
        try:
            while True:
                handle, start = ctypes.c_void_p(), ctypes.c_double()
                check(
                    lib.ser_reader_next(
                        reader, window, hop, ctypes.byref(handle), ctypes.byref(start)
                    )
                )
                if not handle:
                    return
                audio = Audio(handle)
                predictor = self._handles.take()
                try:
                    row = self._probabilities(predictor, [audio])[0]
                finally:
                    self._handles.put(predictor)
                yield {
                    "start": start.value,
                    "end": start.value + audio.duration,
                    "scores": self._ranked(row, top_k),
                }
        finally:
            lib.ser_reader_free(ctypes.byref(reader))
