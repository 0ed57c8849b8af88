# SPDX-License-Identifier: MIT
"""Waveform above, attention below, on one time axis."""

from __future__ import annotations

import bisect
import tkinter as tk

from . import theme
from .theme import Theme
from .worker import Point, Span, Wave, points_of

# Seconds that are seen while it is recorded: at first, and at most.
SHORTEST = 6.0
LONGEST = 30.0

# Seconds that are kept while it is recorded.
KEPT = 2 * LONGEST

# A waveform with a lower peak than this is not drawn higher: noise shall look like noise.
LOWEST_PEAK = 0.05

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)


def time_text(seconds: float, step: float = 1.0) -> str:
    """As "0.5", "12" or "1:05"."""
    if seconds < 60:
        return f"{seconds:.1f}" if step < 1 else f"{seconds:.0f}"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Timeline(tk.Canvas):
    """Shows a clip, what is being recorded, or a message in their place."""

    def __init__(self, parent: tk.Misc, look: Theme) -> None:
        super().__init__(parent, background=theme.CARD, highlightthickness=0,
                         width=look.em * 34, height=look.line * 16)  # fmt: skip
        self._look = look
        self.message = ""
        self._live = False
        self._reset()
        self.bind("<Configure>", lambda _: self.draw())

    def _reset(self) -> None:
        self._times: list[float] = []
        self._lows: list[float] = []
        self._highs: list[float] = []
        self._end = 0.0
        self._spans: list[Span] = []
        self._points: list[Point] = []

    # --- What to show

    def show_message(self, text: str) -> None:
        self._reset()
        self.message, self._live = text, False
        self.draw()

    def begin(self) -> None:
        """Nothing yet, to be added to."""
        self._reset()
        self.message, self._live = "", True
        self.draw()

    def add_level(self, time: float, low: float, high: float) -> None:
        """What was heard from the last call's time to this one's. draw() shows it."""
        self._times.append(time)
        self._lows.append(low)
        self._highs.append(high)
        self._end = max(self._end, time)
        old = bisect.bisect_left(self._times, self._end - KEPT)
        if old > 1000:  # now and then
            for values in (self._times, self._lows, self._highs):
                del values[:old]

    def add_attention(self, span: Span) -> None:
        """A window's; what an earlier one had said of its time is replaced."""
        self._spans = [old for old in self._spans if _until(old) > self._end - KEPT]
        self._spans.append(span)
        self._points = points_of(self._spans)

    def show_wave(self, wave: Wave) -> None:
        self._reset()
        self.message, self._live = "", False
        self._times, self._lows, self._highs = wave.times, wave.lows, wave.highs
        self._end = wave.duration
        self.draw()

    def show_attention(self, points: list[Point]) -> None:
        self._points = points
        self.draw()

    @property
    def attention_points(self) -> list[Point]:
        """What is drawn, in the order of time."""
        return self._points

    # --- Drawing

    def draw(self) -> None:
        self.delete("all")
        width, height, look = self.winfo_width(), self.winfo_height(), self._look
        if width < 4 * look.em or height < 5 * look.line:
            return
        if self.message:
            self._draw_message(width, height)
            return
        axis = height - 1.5 * look.line
        lane = max(axis * 0.30, 2.5 * look.line)  # of the attention
        begin, end = self._visible()
        self._begin, self._per_second, self._right = begin, width / (end - begin), width
        self._draw_axis(begin, end, axis)
        self._draw_wave(begin, end, look.line * 1.3, axis - lane - look.gap)
        self._draw_attention(begin, end, axis - lane, axis)

    def _visible(self) -> tuple[float, float]:
        if not self._live:
            return 0.0, max(self._end, 1e-3)
        span = min(max(self._end, SHORTEST), LONGEST)
        return max(self._end - span, 0.0), max(self._end, span)

    def _x(self, time: float) -> float:
        return min(max((time - self._begin) * self._per_second, 0.0), float(self._right))

    def _draw_message(self, width: int, height: int) -> None:
        look = self._look
        self.create_text(width / 2, height / 2, text=self.message, font=look.large, fill=theme.INK,
                         justify="center", width=width - 4 * look.em)  # fmt: skip

    def _draw_axis(self, begin: float, end: float, y: float) -> None:
        look = self._look
        apart = look.small.measure("00:00 s") * 1.6 / self._per_second
        step = next((s for s in STEPS if s >= apart), STEPS[-1] * max(round(apart / 3600), 1))
        self.create_line(0, y, self._right, y, fill=theme.LINE, width=look.stroke)
        count = int(begin // step)
        while (time := count * step) <= end + 1e-9:
            x = self._x(time)
            text = time_text(time, step) + (" s" if time < 60 else "")
            half = look.small.measure(text) / 2
            if time >= begin:
                self.create_line(x, 0, x, y, fill=theme.TRACK, width=look.stroke)
                middle = min(max(x, half), self._right - half)
                self.create_text(middle, y + 0.75 * look.line, text=text, font=look.small,
                                 fill=theme.SOFT, tags=("tick",))  # fmt: skip
            count += 1

    def _caption(self, y: float, text: str, right: str = "") -> None:
        """A line of text over a lane; what stands at the right gives way."""
        look = self._look
        face = look.small
        self.create_text(0, y, text=text, anchor="nw", font=face, fill=theme.SOFT, tags=("text",))
        if face.measure(text) + face.measure(right) + 2 * look.em < self._right:
            self.create_text(self._right, y, text=right, anchor="ne", font=face, fill=theme.INK,
                             tags=("text",))  # fmt: skip

    def _draw_wave(self, begin: float, end: float, top: float, bottom: float) -> None:
        self._caption(0, "Waveform", time_text(self._end, 0.1) + (" s" if self._end < 60 else ""))
        middle, half = (top + bottom) / 2, max((bottom - top) / 2, 1.0)
        self.create_line(0, middle, self._right, middle, fill=theme.LINE, width=self._look.stroke)
        first = max(bisect.bisect_left(self._times, begin) - 1, 0)
        count = len(self._times) - first
        if count < 1:
            return
        group = -(-count // self._right)  # columns that share a pixel
        peak = max(max(self._highs), -min(self._lows), LOWEST_PEAK)
        upper: list[float] = []
        lower: list[tuple[float, float]] = []
        left = self._times[first - 1] if first > 0 else 0.0
        for i in range(first, len(self._times), group):
            until = self._times[min(i + group, len(self._times)) - 1]
            x, left = self._x((left + until) / 2), until
            high, low = max(self._highs[i : i + group]), min(self._lows[i : i + group])
            thin = self._look.stroke / 2  # silence is a line
            upper += (x, middle - max(half * high / peak, thin))
            lower.append((x, middle - min(half * low / peak, -thin)))
        points = upper + [value for point in reversed(lower) for value in point]
        if len(points) >= 6:
            self._shape(points, theme.ACCENT, "wave")

    def _draw_attention(self, begin: float, end: float, top: float, bottom: float) -> None:
        points = [p for p in self._points if begin <= p[0] <= end]
        if not points:
            self._caption(top, "Attention", "" if self._live else "none yet")
            return
        most_at, most = max(points, key=lambda p: p[1])
        self._caption(top, "Attention: how much each moment counts",
                      f"most at {most_at:.1f} s")  # fmt: skip
        top += self._look.line * 1.3
        outline = [self._x(points[0][0]), bottom]
        for time, weight in points:
            outline += (self._x(time), bottom - (bottom - top) * weight / most)
        outline += (self._x(points[-1][0]), bottom)
        x, line = self._x(most_at), self._look.line
        for upper, lower in ((1.3 * line, top - 1.3 * line - self._look.gap), (top, bottom)):
            self.create_line(x, upper, x, lower, fill=theme.ATTENTION, dash=(4, 4),
                             width=self._look.stroke, tags=("most",))  # fmt: skip
        if len(outline) >= 6:
            self._shape(outline, theme.ATTENTION, "attention")

    def _shape(self, points: list[float], colour: str, name: str) -> None:
        """A filled polygon; with an outline, since what is thinner than a pixel is not filled."""
        self.create_polygon(points, fill=colour, outline=colour, width=1, tags=(name,))


def _until(span: Span) -> float:
    start, step, weights = span
    return start + step * len(weights)
