# SPDX-License-Identifier: MIT
"""The thread that reads clips, predicts and saves, so that the window need not wait."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import shutil
import threading
from typing import Any, Callable

from .._errors import SerError
from .._input import Audio, open_audio
from .._model import Model

RATE = 16000

# Pairs of lowest and highest sample that draw a waveform, and points that draw the attention: more
# than a screen has columns.
COLUMNS = 4096

# A stretch of attention: time of the first frame's centre, seconds between frames, weights.
Span = tuple[float, float, tuple[float, ...]]

# Attention at a time; 1 is an even share.
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Wave:
    """A clip to be drawn: column i ends at times[i] and reaches from lows[i] to highs[i]."""

    duration: float
    times: list[float]
    lows: list[float]
    highs: list[float]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model says of a clip."""

    label: str
    probabilities: dict[str, float]
    flags: frozenset[str]
    attention: list[Point]


def wave_of(audio: Audio, columns: int = COLUMNS) -> Wave:
    samples = audio.samples()
    count = len(samples)
    columns = min(columns, count)
    edges = [i * count // columns for i in range(columns + 1)]
    parts = [samples[a:b] for a, b in zip(edges, edges[1:])]
    return Wave(
        count / RATE,
        [edge / RATE for edge in edges[1:]],
        [min(part) for part in parts],
        [max(part) for part in parts],
    )


def points_of(spans: list[Span], columns: int = COLUMNS) -> list[Point]:
    """The frames of all spans, each span up to where the next one begins; of more than `columns`
    the highest of every few neighbours, at its own time."""
    points: list[Point] = []
    ends = [start for start, _, _ in spans[1:]] + [float("inf")]
    for (start, step, weights), end in zip(spans, ends):
        for k, weight in enumerate(weights):
            if (time := start + k * step) >= end:
                break
            points.append((time, weight * len(weights)))
    group = -(-len(points) // columns)
    if group <= 1:
        return points
    parts = (points[i : i + group] for i in range(0, len(points), group))
    return [max(part, key=lambda point: point[1]) for part in parts]


class Cancelled(Exception):
    """The answer is no longer wanted."""


class Worker:
    """Does one job after the other; what is found is posted with the job's number.

    ("model", number, path, labels, seconds of a window), ("wave", number, Wave),
    ("progress", number, seconds done, seconds in all), ("answer", number, Answer),
    ("saved", number, path), ("failed", number, what, message)
    """

    def __init__(self, post: Callable[..., None], device: str | None) -> None:
        self._post = post
        self._device = device or "auto"
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._model: Model | None = None
        self._model_path: str | None = None
        self._wanted = 0
        self._saver: threading.Thread | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def load(self, number: int, model: str | None) -> None:
        self._jobs.put(("model", number, self._load, model))

    def predict(self, number: int, path: str, model: str | None) -> None:
        """Read and predict a clip; earlier ones that are not finished are given up."""
        self._wanted = number
        self._jobs.put(("clip", number, self._predict, path, model))

    def save(self, number: int, source: str, target: str) -> None:
        """Copy a file, beside whatever else is being done, after the copy that may be going on."""
        self.finish_saving()
        job = ("save", number, self._save, source, target)
        self._saver = threading.Thread(target=self._do, args=job, daemon=True)
        self._saver.start()

    def finish_saving(self) -> None:
        """Wait for the copy, however long it takes: the source may be all there is."""
        if self._saver is not None:
            self._saver.join()

    def cancel(self) -> None:
        """Give up the clip that is being predicted."""
        self._wanted = -1

    def finish(self, timeout: float) -> bool:
        """Give up what is left and wait for the thread; False if it is still computing."""
        self.cancel()
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._do(*job)
        if self._model is not None:
            self._model.close()

    def _do(self, what: str, number: int, function: Callable, *arguments: Any) -> None:
        try:
            function(number, *arguments)
        except Cancelled:
            pass
        except (SerError, OSError, ValueError, MemoryError) as error:
            self._post("failed", number, what, str(error) or type(error).__name__)

    def _load(self, number: int, path: str | None) -> Model:
        if self._model is None or self._model_path != path:
            model = Model.load(path, device=self._device)
            if self._model is not None:
                self._model.close()
            self._model, self._model_path = model, path
        model = self._model
        self._post("model", number, model.path, model.labels, model.window)
        return model

    def _check(self, number: int) -> None:
        if self._wanted != number:
            raise Cancelled

    def _predict(self, number: int, path: str, model_path: str | None) -> None:
        self._check(number)
        audio = open_audio(path, None)
        self._check(number)
        self._post("wave", number, wave_of(audio))
        self._check(number)
        model = self._load(number, model_path)
        if audio.duration <= model.max_seconds:
            answer = self._whole(model, audio)
        else:
            answer = self._windows(number, model, audio)
        self._check(number)
        self._post("answer", number, answer)

    @staticmethod
    def _whole(model: Model, audio: Audio) -> Answer:
        found = model.predict_details(audio)
        span = (found.frame_start, found.frame_step, found.attention)
        points = points_of([span])
        return Answer(found.label, found.probabilities, frozenset(found.flags), points)

    def _windows(self, number: int, model: Model, audio: Audio) -> Answer:
        """The mean over windows, weighted by their length, as ser_predict forms it; here one by
        one, to tell how far it is, to be stopped, and for the attention within each."""
        sums, flags, spans = dict.fromkeys(model.labels, 0.0), set(), []
        samples, step = audio.samples(), round(model.window * RATE)
        with model.stream(sampling_rate=RATE) as stream:
            for start in range(0, len(samples), step):
                stream.push(samples[start : start + step])
                if start + step >= len(samples):
                    stream.flush()
                for part in stream:
                    self._check(number)
                    self._post("progress", number, part.end, audio.duration)
                    for label, value in part.probabilities.items():
                        sums[label] += value * (part.end - part.start) / audio.duration
                    flags.update(part.flags)
                    if part.attention:
                        spans.append((part.frame_start, part.frame_step, part.attention))
        best = max(sums, key=sums.__getitem__)
        return Answer(best, sums, frozenset(flags - {"last"}), points_of(spans))

    def _save(self, number: int, source: str, target: str) -> None:
        """`target` is the old file or the whole new one, never a part."""
        folder, name = os.path.split(os.path.abspath(target))
        part = os.path.join(folder, f".{name}.{os.getpid()}.part")
        try:
            with open(source, "rb") as old, open(part, "xb") as new:
                shutil.copyfileobj(old, new)
                new.flush()
                os.fsync(new.fileno())
            os.replace(part, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
            raise
        self._post("saved", number, target)
