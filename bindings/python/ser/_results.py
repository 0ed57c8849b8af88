# SPDX-License-Identifier: MIT
"""Answers with all their details."""

from __future__ import annotations

import dataclasses

from . import _ffi

# As ser-predict spells them.
_FLAGS = {
    _ffi.AUDIO_TRUNCATED: "truncated",
    _ffi.AUDIO_SILENT: "silent",
    _ffi.AUDIO_CLIPPED: "clipped",
    _ffi.AUDIO_DC_OFFSET: "dc_offset",
    _ffi.AUDIO_NONFINITE: "nonfinite",
    _ffi.AUDIO_CANCELLED: "cancelled",
    _ffi.AUDIO_SHORT: "short",
    _ffi.PREDICTION_WINDOWED: "windowed",
    _ffi.STREAM_GATED: "gated",
    _ffi.STREAM_LAST: "last",
}


def flag_names(bits: int) -> tuple[str, ...]:
    """Names of the bits of a `flags` field."""
    return tuple(name for bit, name in _FLAGS.items() if bits & bit)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What Model.predict_details() says of one clip."""

    label: str  #: the likeliest class
    score: float  #: its probability
    probabilities: dict[str, float]  #: of every class, in the order of Model.labels
    start: float  #: seconds into the clip where the part that was used begins (silence is trimmed)
    end: float  #: and where it ends
    duration: float  #: seconds
    flags: tuple[str, ...]  #: such as "silent", "clipped", "short", "windowed"
    attention: tuple[float, ...] | None  #: weight of each frame, sum 1; None if windowed
    frame_start: float  #: seconds into the clip of the centre of attention frame 0
    frame_step: float  #: seconds between attention frames


@dataclasses.dataclass(frozen=True)
class StreamResult:
    """The answer of one window of a ser.Stream. Times are seconds from the first sample."""

    index: int  #: number of the window, from 0
    start: float  #: where the window begins
    end: float  #: and where it ends
    label: str | None  #: the likeliest class; None if gated
    score: float | None  #: its probability
    probabilities: dict[str, float] | None  #: of every class, in the order of Model.labels
    flags: tuple[str, ...]  #: such as "silent", "clipped", "gated", "last"
    peak: float  #: largest magnitude; 1 is full scale
    rms: float  #: root mean square
    attention: tuple[float, ...] | None  #: weight of each frame of this window, sum 1
    frame_start: float  #: time of the centre of attention frame 0
    frame_step: float  #: seconds between attention frames
