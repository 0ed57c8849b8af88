# SPDX-License-Identifier: MIT
"""Sizes, fonts and colours. Every size is a multiple of a font's, so that all grows with it."""

from __future__ import annotations

import contextlib
import subprocess
import tkinter as tk
from tkinter import font, ttk

# Text on what lies behind it has a contrast of at least 4.5, lines and bars that carry meaning one
# of at least 3 (WCAG 2.1, 1.4.3 and 1.4.11).
PAGE = "#f4f5f7"
CARD = "#ffffff"
INK = "#1b2330"
SOFT = "#555f70"
LINE = "#d9dde4"
EDGE = "#858e9c"  # of what can be pressed
FAINT = "#6f7887"  # text of what cannot
ACCENT = "#1d5fb8"
OTHER = "#7f8da3"  # bars of the classes that are not the likeliest
TRACK = "#eef0f4"
ATTENTION = "#b35c00"
RECORD = "#b3261e"
RECORD_ACTIVE = "#8c1d18"
FOCUS = "#1d5fb8"

# Pixels of the body text at scale 1, which is 96 dots per inch.
BODY = 13


def desktop_scale(root: tk.Tk) -> float:
    """What the desktop asks for: Xft.dpi or the screen's own, as a factor of 96 dots per inch."""
    told = root.winfo_fpixels("1i")
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        query = subprocess.run(["xrdb", "-query"], capture_output=True, text=True, timeout=5)
        lines = [line.partition(":") for line in query.stdout.splitlines()]
        told = float(next((value for name, _, value in lines if name == "Xft.dpi"), told))
    return min(max(told / 96.0, 1.0), 4.0)


class Theme:
    """Fonts and measures for one root window, whose ttk styles it sets."""

    def __init__(self, root: tk.Tk, scale: float | None) -> None:
        self.scale = scale or desktop_scale(root)
        root.tk.call("tk", "scaling", self.scale * 96.0 / 72.0)
        self._named = {}
        for name in font.names(root):
            if name.startswith("Tk"):  # dialogs and menus
                font.nametofont(name, root).configure(size=-self._pixels(BODY))
        self.body = self._font(root, BODY)
        self.bold = self._font(root, BODY, "bold")
        self.small = self._font(root, 12)
        self.large = self._font(root, 15)
        self.headline = self._font(root, 30, "bold")
        self.em = self.body.measure("m")
        self.line = self.body.metrics("linespace")
        self.gap = max(self.em * 3 // 4, 1)
        self.stroke = max(round(self.scale), 1)
        self._styles(root)

    def _pixels(self, at_one: float) -> int:
        return max(round(at_one * self.scale), 6)

    def _font(self, root: tk.Tk, at_one: float, weight: str = "normal") -> font.Font:
        family = font.nametofont("TkDefaultFont", root).actual("family")
        return font.Font(root, family=family, size=-self._pixels(at_one), weight=weight)

    def _styles(self, root: tk.Tk) -> None:
        style = ttk.Style(root)
        style.theme_use("clam")
        style.configure(".", background=PAGE, foreground=INK, font=self.body, bordercolor=LINE,
                        lightcolor=CARD, darkcolor=CARD, focuscolor=FOCUS,
                        troughcolor=TRACK, focusthickness=self.stroke)  # fmt: skip
        for name in ("TFrame", "TLabel"):
            style.configure("Card." + name, background=CARD)
        style.configure("Soft.TLabel", foreground=SOFT)
        style.configure("Soft.Card.TLabel", foreground=SOFT, background=CARD)
        style.configure("Headline.Card.TLabel", font=self.headline, background=CARD)
        style.configure("Warning.Card.TLabel", foreground=RECORD, background=CARD)
        style.configure("Problem.TLabel", foreground=RECORD)
        self._buttons(style)
        self._boxes(root, style)

    def _buttons(self, style: ttk.Style) -> None:
        padding = (self.em, self.gap * 3 // 5)
        style.configure("TButton", background=CARD, foreground=INK, padding=padding,
                        relief="raised", borderwidth=self.stroke, bordercolor=EDGE,
                        anchor="center")  # fmt: skip
        style.map("TButton",
                  background=[("disabled", PAGE), ("pressed", LINE), ("active", TRACK)],
                  foreground=[("disabled", FAINT)], bordercolor=[("disabled", LINE)],
                  lightcolor=[("disabled", PAGE), ("pressed", LINE), ("active", TRACK)],
                  darkcolor=[("disabled", PAGE), ("pressed", LINE), ("active", TRACK)])  # fmt: skip
        style.configure("Record.TButton", background=RECORD, foreground=CARD, font=self.bold,
                        bordercolor=RECORD, lightcolor=RECORD, darkcolor=RECORD,
                        focuscolor=CARD)  # fmt: skip
        style.map("Record.TButton",
                  background=[("pressed", RECORD_ACTIVE), ("active", RECORD_ACTIVE)],
                  lightcolor=[("active", RECORD_ACTIVE)], darkcolor=[("active", RECORD_ACTIVE)],
                  foreground=[("disabled", CARD)])  # fmt: skip

    def _boxes(self, root: tk.Tk, style: ttk.Style) -> None:
        style.configure("TCombobox", fieldbackground=CARD, background=CARD, arrowcolor=SOFT,
                        arrowsize=self.em * 3 // 2, padding=(self.gap * 2 // 3, self.gap * 3 // 5),
                        selectbackground=CARD, selectforeground=INK,
                        bordercolor=EDGE)  # fmt: skip
        style.map("TCombobox", fieldbackground=[("readonly", CARD)],
                  selectbackground=[("readonly", CARD)], selectforeground=[("readonly", INK)],
                  bordercolor=[("focus", FOCUS)], lightcolor=[("focus", FOCUS)],
                  background=[("readonly", CARD)])  # fmt: skip
        root.option_add("*TCombobox*Listbox.font", self.body)
        root.option_add("*TCombobox*Listbox.background", CARD)
        root.option_add("*TCombobox*Listbox.foreground", INK)
        root.option_add("*TCombobox*Listbox.selectBackground", ACCENT)
        root.option_add("*TCombobox*Listbox.selectForeground", CARD)


def shorten(text: str, face: font.Font, width: float) -> str:
    """The text, or as much of its beginning as fits with an ellipsis."""
    if face.measure(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if face.measure(text[:middle] + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"
