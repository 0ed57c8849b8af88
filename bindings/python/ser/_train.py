# SPDX-License-Identifier: MIT
"""Training."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import math
import operator
import os
import threading
import weakref
from typing import Any, Callable, Iterator, Sequence

from . import _ffi
from ._errors import SerError
from ._input import Audio, fs_path, open_audio
from ._library import check, lib, options, set_option
from ._model import Model, config_text

_SCHEDULES = {
    "constant": _ffi.SCHEDULE_CONSTANT,
    "linear": _ffi.SCHEDULE_LINEAR,
    "cosine": _ffi.SCHEDULE_COSINE,
}


class _Handles:
    """The trainer and who is in it: one call at a time, but for batches, cancelling, closing."""

    def __init__(self, trainer: ctypes.c_void_p) -> None:
        self.pid = os.getpid()
        self.trainer: ctypes.c_void_p | None = trainer
        self.work = threading.RLock()
        self.changed = threading.Condition()  # of `trainer` and `readers`; taken after `work`
        self.readers: set[object] = set()  # calls that are making batches

    def check_process(self) -> None:
        # Before the locks, which another thread may have held when the process forked.
        if os.getpid() != self.pid:
            raise SerError(_ffi.ERR_BUSY, "this trainer was made before a fork")

    def check_open(self) -> ctypes.c_void_p:
        self.check_process()
        if self.trainer is None:
            raise ValueError("the trainer is closed")
        return self.trainer

    @contextlib.contextmanager
    def reading(self) -> Iterator[ctypes.c_void_p]:
        """For making batches: many at once, beside a step."""
        self.check_process()
        call = object()
        try:
            with self.changed:
                trainer = self.check_open()
                self.readers.add(call)
            yield trainer
        finally:
            with self.changed:
                self.readers.discard(call)
                self.changed.notify_all()

    @contextlib.contextmanager
    def working(self) -> Iterator[ctypes.c_void_p]:
        """For what one call at a time may do."""
        self.check_process()
        with self.work:
            yield self.check_open()

    @contextlib.contextmanager
    def alone(self) -> Iterator[ctypes.c_void_p]:
        """For what changes what batches are made from."""
        with self.working() as trainer, self.changed:
            self.changed.wait_for(lambda: not self.readers)
            yield trainer

    def cancel(self) -> None:
        self.check_process()
        with self.changed:
            if self.trainer is not None:
                lib.ser_trainer_cancel(self.trainer)

    def close(self) -> None:
        if os.getpid() != self.pid:
            return
        with self.changed:
            trainer, self.trainer = self.trainer, None  # no new calls from here on
        if trainer is None:
            return
        try:
            with self.work, self.changed:
                self.changed.wait_for(lambda: not self.readers)
                lib.ser_trainer_free(ctypes.byref(trainer))
        except BaseException:  # interrupted while waiting
            self.trainer = trainer if trainer else None
            raise


class Batch:
    """Clips made ready for a step, in host memory; from Trainer.batch(), for that trainer only."""

    def __init__(self, owner: _Handles, ids: list[int]) -> None:
        self._handle = ctypes.c_void_p()
        self._owner = owner
        self._ids = ids

    @property
    def ids(self) -> list[int]:
        """The clips' numbers, as messages and StepResult.bad_clip name them."""
        return list(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"<ser.Batch of {len(self)} clips>"

    def __del__(self) -> None:
        lib.ser_batch_free(ctypes.byref(self._handle))


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What Trainer.step() did."""

    step: int  #: updates done so far
    updated: bool  #: False: gradients were only accumulated
    skipped: bool  #: NaN or infinity in loss or gradient: nothing changed
    loss: float  #: weighted mean over the batch's clips, nats
    gradient_norm: float  #: before clipping; 0 while accumulating
    rate: float  #: learning rate of the backbone at this step
    head_rate: float  #: and of layer mix, pooling and classifier
    correct: int  #: clips whose likeliest class was their label
    bad_clip: int | None  #: id of the first clip whose loss is not finite


def _step_result(result: Any) -> StepResult:
    return StepResult(
        step=result.step,
        updated=bool(result.updated),
        skipped=bool(result.skipped),
        loss=result.loss,
        gradient_norm=result.gradient_norm,
        rate=result.rate,
        head_rate=result.head_rate,
        correct=result.correct,
        bad_clip=None if result.bad_clip == -1 else result.bad_clip,
    )


class Trainer:
    """Trains one model, which predicts again once the trainer is closed.

        model = ser.Model.create(config="ser-mini", labels=["calm", "angry"])
        with ser.Trainer(model, steps=1000, rate=1e-3) as trainer:
            for epoch in range(100):
                for paths, labels in parts_of_the_training_clips:
                    print(trainer.step(trainer.batch(paths, labels, epoch)).loss)
            trainer.save_model("model.safetensors")

    The same calls with the same options give the same bits, whatever the threads. batch() may run
    on any number of threads at once, also while a step runs; the others wait for each other.

    Options (include/ser/train.h says more; what is not given has the library's default):

    - seed (0): of all randomness
    - steps (1000), warmup_steps (a tenth of them), schedule ("linear"; "constant", "cosine")
    - accumulate (1): batches per update
    - rate (3e-5), head_rate (as rate), layer_decay (1): learning rates of the backbone, of all
      above it, and of each block relative to the one above
    - weight_decay (0.01), beta1 (0.9), beta2 (0.999), eps (1e-8): AdamW
    - clip_norm (1): largest norm of the gradient, 0 for any
    - average (0): decay of a moving average of the weights
    - label_smoothing (0), class_weights (all 1): a list of one weight per label
    - projection_dropout, hidden_dropout, attention_dropout, classifier_dropout (0.1 each),
      activation_dropout, layer_drop (0 each)
    - mask_time_probability (0.05), mask_time_length (10 frames), mask_channel_probability (0),
      mask_channel_length (10 channels)
    - freeze_features (True): the convolutions on the waveform stay as they are
    - freeze_layers (0): that many blocks do, with all below them; -1 for the whole backbone
    - freeze: patterns of parameter names that do: "encoder.*.bias" and the like, one or a list
    - cache_bytes (2 GiB): memory of the device for outputs of frozen convolutions, or samples
    - max_skipped (10): steps in a row that may be skipped before SER_ERR_NUMERIC
    - augment: a dict, all 0 if not given:
      speed_probability, speed (0.1: up to 10 % either way); gain_db; noise_probability,
      noise_snr_low, noise_snr_high (dB); silence_probability, silence (s); crop_probability,
      crop (s); lowpass_probability, lowpass_low (Hz); max_seconds; and of log-mels mel_warp,
      mel_tilt, mel_ripple, mel_channel_spans, mel_channel_width (bins), mel_time_spans,
      mel_time_width (frames)
    """

    def __init__(self, model: Model, **given: Any) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model must be a ser.Model, not {type(model).__name__}")
        self._model = model
        self._labels = model.labels
        trainer = model._handles.train(_chosen_options(given, len(self._labels)))
        self._handles = _Handles(trainer)
        self._finalizer = weakref.finalize(self, self._handles.close)
        self._trained = lib.ser_trainer_trained_count(trainer)
        self._averages = 0  # how many use_average() are around the calls

    # --- Facts

    @property
    def model(self) -> Model:
        """What is trained."""
        return self._model

    @property
    def steps(self) -> int:
        """Updates done so far."""
        with self._handles.working() as trainer:
            return lib.ser_trainer_steps(trainer)

    @property
    def trained_parameters(self) -> int:
        """Number of weights that are trained; the model's others are frozen."""
        return self._trained

    @property
    def closed(self) -> bool:
        return self._handles.trainer is None

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._trained} trained parameters"
        return f"<ser.Trainer, {state}>"

    # --- Batches

    def batch(
        self,
        clips: Sequence[Any],
        labels: Sequence[Any] | None = None,
        epoch: int = 0,
        augment: bool = True,
        *,
        sampling_rate: int | None = None,
        weights: Sequence[float] | None = None,
        targets: Sequence[Any] | None = None,
        classes: Sequence[Any] | None = None,
        ids: Sequence[int] | None = None,
    ) -> Batch:
        """Read 1 to 4096 clips and make them ready: the audio front end, and the augmentation.

        `clips` is a list of what ser.Model takes; `sampling_rate` (Hz) is that of bare samples. All
        others are lists (or arrays) of one entry per clip:

        - labels: a name, an index into the model's labels, or None for a clip without
        - weights: of the clip in the loss, above 0 (default: 1)
        - targets: (classes,) soft labels in 0..1 instead of the label, or None
        - classes: (classes,) flags, true for the classes that the clip's corpus has: its softmax
          runs over these; or None for all
        - ids: the clip's own number, 0 .. 2**63 - 1: seeds its augmentation together with `epoch`,
          names its cached features (0: not cached) and stands in messages (default: a hash of the
          clip's samples)

        Augmentation changes with `epoch`; `augment=False` is for evaluate() and observe().
        """
        if not isinstance(clips, (list, tuple)):
            raise TypeError("clips must be a list")
        self._handles.check_open()
        epoch = _within(epoch, "epoch", 0, 2**31 - 1)
        entries = _Entries(self._labels, len(clips))
        entries.fill("label", "labels", labels, entries.label)
        entries.fill("weight", "weights", weights, _weight)
        entries.fill("targets", "targets", targets, entries.targets)
        entries.fill("classes", "classes", classes, entries.classes)
        audios = [open_audio(clip, sampling_rate) for clip in clips]  # until the call is over
        entries.fill("audio", "clips", audios, _address)
        entries.fill("id", "ids", audios, _hash)
        entries.fill("id", "ids", ids, _id)
        batch = Batch(self._handles, [entry.id for entry in entries.array])
        out = ctypes.byref(batch._handle)
        with self._handles.reading() as trainer:
            check(
                lib.ser_batch_create(trainer, entries.array, len(clips), epoch, bool(augment), out)
            )
        return batch

    # --- Training

    def step(self, batch: Batch) -> StepResult:
        """Forward, backward and, on every `accumulate`-th call, an update of the weights.

        SerError with SER_ERR_NUMERIC after `max_skipped` skipped steps in a row, with
        SER_ERR_CANCELLED after cancel().
        """
        result = _ffi.step_result()
        result.struct_size = ctypes.sizeof(result)
        with self._handles.working() as trainer:
            check(lib.ser_train_step(trainer, self._own(batch), ctypes.byref(result)))
        return _step_result(result)

    def submit(self, batch: Batch) -> None:
        """step() without its result: returns once the step is under way.

        A GPU computes while the caller makes the next batch ready; collect() gives the result. At
        most 64 results may wait. What a step fails with after its submission is raised by the next
        call that waits for it.
        """
        with self._handles.working() as trainer:
            check(lib.ser_train_submit(trainer, self._own(batch)))

    def collect(self) -> StepResult | None:
        """Result of the oldest step that was submitted and not collected, or None; waits for it."""
        result = _ffi.step_result()
        result.struct_size = ctypes.sizeof(result)
        found = ctypes.c_int32()
        with self._handles.working() as trainer:
            check(lib.ser_train_collect(trainer, ctypes.byref(result), ctypes.byref(found)))
        return _step_result(result) if found.value else None

    def evaluate(self, batch: Batch) -> tuple[Any, Any]:
        """Losses (clips,) and probabilities (clips, classes), float32, in the order of the batch.

        A clip's loss (nats) is weighted as in training, and 0 without a label. Nothing is changed.
        """
        import numpy

        handle = self._own(batch)
        losses = numpy.zeros(len(batch), numpy.float32)
        probabilities = numpy.zeros((len(batch), len(self._labels)), numpy.float32)
        floats = ctypes.POINTER(ctypes.c_float)
        with self._handles.working() as trainer:
            check(
                lib.ser_trainer_evaluate(
                    trainer,
                    handle,
                    losses.ctypes.data_as(floats),
                    probabilities.ctypes.data_as(floats),
                )
            )
        return losses, probabilities

    def observe(self, batch: Batch) -> None:
        """Measure the log-mels of a batch made with `augment=False`, for settle()."""
        with self._handles.working() as trainer:
            check(lib.ser_trainer_observe(trainer, self._own(batch)))

    def settle(self) -> None:
        """Write mean and deviation of all that was observed into a fresh log-mel model.

        Before the first step, and before batches with augmentation are made. A model on the
        waveform has nothing to measure: both do nothing.
        """
        with self._handles.alone() as trainer:
            check(lib.ser_trainer_settle(trainer))

    @contextlib.contextmanager
    def use_average(self) -> Iterator[Trainer]:
        """`with trainer.use_average():` evaluates with the moving average of the weights.

        step() is refused meanwhile. A trainer that is closed within leaves the average in the
        model. Nothing happens without the option `average`.
        """
        self._count_average(1)
        try:
            yield self
        finally:
            if not self.closed:
                self._count_average(-1)

    def set_rate(self, factor: float) -> None:
        """Multiply all learning rates with `factor` (0..1e6), on top of the schedule."""
        with self._handles.working() as trainer:
            check(lib.ser_trainer_set_rate(trainer, float(factor)))

    def cancel(self) -> None:
        """Make the running or next step raise, once. From any thread."""
        self._handles.cancel()

    # --- Files

    def save(self, path: Any, note: str | None = None) -> None:
        """Write a checkpoint: directory `path` appears complete or not at all.

        `note` is any text of up to 1 MiB, such as the position in the epoch, for restore() to
        return. Between updates only.
        """
        name, text = fs_path(path), _text(note, "note")
        with self._handles.working() as trainer:
            check(lib.ser_trainer_save(trainer, name, text))

    def restore(self, path: Any) -> str | None:
        """Go on from a checkpoint of the same architecture and options; returns its note.

        After an error the trainer is unchanged.
        """
        name, note = fs_path(path), ctypes.c_char_p()
        with self._handles.alone() as trainer:
            check(lib.ser_trainer_restore(trainer, name, ctypes.byref(note)))
            text = note.value
        return None if text is None else text.decode()

    def save_model(self, path: Any, temperature: float = 1.0, training: Any = None) -> None:
        """Write the model as one file, with the moving average of the weights where there is one.

        Logits are divided by `temperature` (0.001..1000). `training` is a summary for people in the
        file's config: a dict or the JSON text of one.
        """
        name = fs_path(path)
        summary = None if training is None else config_text(training, "training")
        with self._handles.working() as trainer:
            check(lib.ser_trainer_save_model(trainer, name, float(temperature), summary))

    def close(self) -> None:
        """Give the model back with its weights. Calls on other threads finish first; later ones
        raise ValueError."""
        self._handles.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # --- Inside

    def _own(self, batch: Batch) -> ctypes.c_void_p:
        # The library knows its batches by an address that a later trainer may have.
        if not isinstance(batch, Batch):
            raise TypeError(f"batch must be a ser.Batch, not {type(batch).__name__}")
        if batch._owner is not self._handles:
            raise ValueError("the batch belongs to another trainer")
        return batch._handle

    def _count_average(self, change: int) -> None:
        with self._handles.working() as trainer:
            count = self._averages + change
            check(lib.ser_trainer_use_average(trainer, count > 0))
            self._averages = count


class _Entries:
    """The array of ser_clip for a batch, filled list by list."""

    def __init__(self, labels: list[str], count: int) -> None:
        self.names = labels
        self.array = (_ffi.clip * count)()
        for entry in self.array:
            entry.struct_size, entry.label = ctypes.sizeof(entry), -1

    def fill(self, field: str, name: str, values: Any, convert: Callable) -> None:
        """`field` of every clip from the list that the caller knows as `name`; None leaves it."""
        if values is None:
            return
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise TypeError(f"{name} must be a list of one entry per clip")
        if len(values) != len(self.array):
            raise ValueError(f"{name} has {len(values)} entries for {len(self.array)} clips")
        for i, (entry, value) in enumerate(zip(self.array, values)):
            if value is not None:
                setattr(entry, field, convert(value, f"{name}[{i}]"))

    def label(self, value: Any, name: str) -> int:
        if isinstance(value, str):
            if value not in self.names:
                raise ValueError(f"{name} is {value!r}, none of {', '.join(self.names)}")
            return self.names.index(value)
        return _within(value, name, -1, len(self.names) - 1)

    def targets(self, row: Any, name: str) -> ctypes.Array:
        return _row(row, name, len(self.names), ctypes.c_float, float)

    def classes(self, row: Any, name: str) -> ctypes.Array:
        return _row(row, name, len(self.names), ctypes.c_uint8, bool)


def _row(row: Any, name: str, size: int, kind: Any, convert: Callable) -> ctypes.Array:
    if isinstance(row, (str, bytes)) or not hasattr(row, "__len__"):
        raise TypeError(f"{name} must be a list of one number per label")
    if len(row) != size:
        raise ValueError(f"{name} has {len(row)} entries for {size} labels")
    return (kind * size)(*(convert(value) for value in row))


def _within(value: Any, name: str, least: int, most: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if not least <= number <= most:
        raise ValueError(f"{name} is {number}, not within {least}..{most}")
    return number


def _weight(value: Any, name: str) -> float:
    # 0 would mean 1 to the library, and so would what is 0 as a float.
    weight = ctypes.c_float(value).value
    if not (weight > 0.0 and math.isfinite(weight)):
        raise ValueError(f"{name} is {value}, must be above 0 and finite")
    return weight


def _id(value: Any, name: str) -> int:
    return _within(value, name, 0, 2**63 - 1)


def _address(audio: Audio, name: str) -> int | None:
    return audio.handle.value


def _hash(audio: Audio, name: str) -> int:
    """A number of the clip's own, never 0, the same in every run."""
    count = ctypes.c_size_t()
    samples = lib.ser_audio_samples(audio.handle, ctypes.byref(count))
    size = count.value * ctypes.sizeof(ctypes.c_float)
    data = ctypes.cast(samples, ctypes.POINTER(ctypes.c_ubyte * size)).contents
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1 or 1


def _text(text: str | None, name: str) -> bytes | None:
    if text is None:
        return None
    if "\0" in text:
        raise ValueError(f"{name} contains a null character")
    return text.encode()


def _chosen_options(given: dict[str, Any], labels: int) -> _ffi.trainer_options:
    chosen = options(_ffi.trainer_options, "trainer_options")
    for name, value in given.items():
        if name == "schedule":
            if value not in _SCHEDULES:
                raise ValueError(f"schedule must be one of {', '.join(_SCHEDULES)}, not {value!r}")
            chosen.schedule = _SCHEDULES[value]
        elif name == "class_weights":
            if value is not None:
                chosen.class_weights = _row(value, name, labels, ctypes.c_float, float)
        elif name == "freeze":
            patterns = value if value is None or isinstance(value, str) else ",".join(value)
            chosen.freeze = _text(patterns, name)
        elif name == "augment":
            for key, number in dict(value or {}).items():
                set_option(chosen.augment, key, number, "augment.")
        else:
            set_option(chosen, name, value)
    return chosen
