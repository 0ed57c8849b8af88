# SPDX-License-Identifier: MIT
"""What is drawn of an answer and of the level: two canvases that redraw themselves."""

from __future__ import annotations

import math
import tkinter as tk

from . import theme
from .theme import Theme, shorten

# The meter's scale, in dB of full scale; below QUIET there is hardly a voice in it.
FLOOR = -60.0
QUIET = -50.0


class Bars(tk.Canvas):
    """A bar with its name and percentage for every class; the likeliest one stands out by weight
    and a mark as well as by colour."""

    def __init__(self, parent: tk.Misc, look: Theme) -> None:
        super().__init__(parent, background=theme.CARD, highlightthickness=0,
                         width=look.em * 22, height=look.line * 12)  # fmt: skip
        self._look = look
        self._labels: list[str] = []
        self._values: dict[str, float] = {}
        self.bind("<Configure>", lambda _: self._draw())

    def set_labels(self, labels: list[str]) -> None:
        self._labels, self._values = list(labels), {}
        self.configure(height=max(self._row * len(labels), self._look.line * 6))
        self._draw()

    def show(self, values: dict[str, float]) -> None:
        if list(values) != self._labels:
            self.set_labels(list(values))
        self._values = dict(values)
        self._draw()

    def clear(self) -> None:
        self._values = {}
        self._draw()

    @property
    def labels(self) -> list[str]:
        return list(self._labels)

    @property
    def values(self) -> dict[str, float]:
        """What is shown; empty before there is an answer."""
        return dict(self._values)

    @property
    def best(self) -> str | None:
        return max(self._values, key=self._values.__getitem__) if self._values else None

    @property
    def _row(self) -> int:
        return round(self._look.line * 1.85)

    def _draw(self) -> None:
        self.delete("all")
        look, width, height = self._look, self.winfo_width(), self.winfo_height()
        if not self._labels or width < 4 * look.em:
            return
        shown, more = self._fitting(int(height / (1.15 * look.line)))
        row = min(1.4 * self._row, height / (len(shown) + (more > 0)))
        mark = look.bold.measure("▸ ")
        room = max(width // 2 - mark, 0)
        names = {name: shorten(name, look.bold, room) for name in shown}
        left = mark + max(look.bold.measure(name) for name in names.values()) + look.gap
        right = width - look.bold.measure("100.0 %") - look.gap
        for i, name in enumerate(shown):
            self._bar(name, names[name], (i + 0.5) * row, mark, left, right, name == self.best)
        if more > 0:
            self.create_text(mark, (len(shown) + 0.5) * row, text=f"and {more} more", anchor="w",
                             font=look.body, fill=theme.SOFT)  # fmt: skip

    def _fitting(self, rows: int) -> tuple[list[str], int]:
        """The likeliest classes if there is no room for all, in their usual order, and how many
        are left out."""
        if len(self._labels) <= rows:
            return self._labels, 0
        ranked = sorted(self._labels, key=lambda name: -self._values.get(name, 0.0))
        kept = set(ranked[: max(rows - 1, 1)])
        return [name for name in self._labels if name in kept], len(self._labels) - len(kept)

    def _bar(
        self, name: str, text: str, y: float, mark: int, left: float, right: float, best: bool
    ) -> None:
        look, width, half = self._look, self.winfo_width(), self._look.line * 0.36
        face, ink = (look.bold, theme.INK) if best else (look.body, theme.SOFT)
        if best:
            self.create_text(0, y, text="▸", anchor="w", font=face, fill=theme.ACCENT)
        self.create_text(mark, y, text=text, anchor="w", font=face, fill=ink, tags=("name",))
        self.create_rectangle(left, y - half, right, y + half, fill=theme.TRACK, width=0)
        if name not in self._values:
            return
        value = self._values[name]
        length = max((right - left) * value, look.stroke)
        colour = theme.ACCENT if best else theme.OTHER
        self.create_rectangle(left, y - half, left + length, y + half, fill=colour, width=0)
        self.create_text(width, y, text=f"{100 * value:.1f} %", anchor="e", font=face, fill=ink,
                         tags=("percent",))  # fmt: skip


class Meter(tk.Canvas):
    """The level of what is being recorded: bar (RMS), line (peak), and in words."""

    WORDS = ("clipping: too loud", "very quiet")

    def __init__(self, parent: tk.Misc, look: Theme) -> None:
        super().__init__(parent, background=theme.CARD, highlightthickness=0,
                         width=look.em * 20, height=round(look.line * 1.4))  # fmt: skip
        self._look = look
        self._level: tuple[float, float] | None = None
        self._clipped = 0
        self._quiet = 0
        self.bind("<Configure>", lambda _: self._draw())

    def show(self, peak_db: float, rms_db: float, clipped: bool) -> None:
        self._level = (peak_db, rms_db)
        self._clipped = 20 if clipped else max(self._clipped - 1, 0)  # to be readable for a while
        self._quiet = self._quiet + 1 if peak_db < QUIET else 0
        self._draw()

    def clear(self) -> None:
        self._level, self._clipped, self._quiet = None, 0, 0
        self._draw()

    @property
    def words(self) -> str:
        """What the level is called."""
        if self._level is None:
            return ""
        if self._clipped:
            return self.WORDS[0]
        if self._quiet >= 20:
            return self.WORDS[1]
        peak = self._level[0]
        return f"{peak:.0f} dB".replace("-", "−") if peak > -100.0 else "no sound"

    def _draw(self) -> None:
        self.delete("all")
        look, width, middle = self._look, self.winfo_width(), self.winfo_height() / 2
        half, caption = look.line * 0.3, look.body.measure("Level") + look.gap
        right = width - max(look.body.measure(text) for text in self.WORDS) - look.gap
        self.create_text(0, middle, text="Level", anchor="w", font=look.body, fill=theme.SOFT)
        if right <= caption:
            return
        self.create_rectangle(caption, middle - half, right, middle + half, fill=theme.TRACK,
                              width=0)  # fmt: skip
        if self._level is None:
            return
        peak, rms = (caption + (right - caption) * self._share(level) for level in self._level)
        colour = theme.RECORD if self._clipped else theme.ACCENT
        self.create_rectangle(caption, middle - half, rms, middle + half, fill=colour, width=0)
        self.create_line(peak, middle - half, peak, middle + half, fill=theme.INK,
                         width=2 * look.stroke)  # fmt: skip
        ink = theme.RECORD if self._clipped else theme.INK
        self.create_text(width, middle, text=self.words, anchor="e", font=look.body, fill=ink)

    @staticmethod
    def _share(level: float) -> float:
        if not math.isfinite(level):
            return 0.0
        return min(max((level - FLOOR) / -FLOOR, 0.0), 1.0)
