# SPDX-License-Identifier: MIT
"""The widgets and where they stand; what they do is in window.py."""

from __future__ import annotations

import tkinter as tk
from tkinter import filedialog, messagebox, ttk

from .panels import Bars, Meter
from .theme import PAGE, Theme, shorten
from .timeline import Timeline

RECORD_TEXT = "●  Record"
STOP_TEXT = "■  Stop"


class Dialogs:
    """What is asked of the user; tests answer in its place."""

    AUDIO = (
        ("Audio", "*.wav *.flac *.mp3 *.ogg *.opus *.aiff *.aif *.au *.caf *.w64 *.rf64"),
        ("All files", "*"),
    )

    def __init__(self, root: tk.Tk) -> None:
        self._root = root

    def open_clip(self) -> str:
        return filedialog.askopenfilename(
            parent=self._root, title="Open an audio file", filetypes=self.AUDIO
        )

    def save_clip(self, name: str) -> str:
        return filedialog.asksaveasfilename(
            parent=self._root, title="Save the recording", initialfile=name,
            defaultextension=".wav", filetypes=(("WAV", "*.wav"),),
        )  # fmt: skip

    def model_file(self) -> str:
        return filedialog.askopenfilename(
            parent=self._root, title="Choose a model file",
            filetypes=(("Models", "*.safetensors"), ("All files", "*")),
        )  # fmt: skip

    def model_folder(self) -> str:
        return filedialog.askdirectory(
            parent=self._root, title="Choose a transformers directory", mustexist=True
        )

    def save_first(self) -> bool | None:
        """Whether to save the recording that is about to be thrown away; None: do not go on."""
        return messagebox.askyesnocancel(
            "Save the recording?",
            "The recording is not saved and would be thrown away.\n\nSave it first?",
            parent=self._root, icon="warning",
        )  # fmt: skip


class Layout:
    """All widgets of the window.

    Tools in a row at the top; below it sound on the left, the answer on the right; at the foot a
    line that tells what happens.
    """

    def __init__(self, root: tk.Tk, look: Theme) -> None:
        self.look = look
        root.configure(background=PAGE)
        outer = ttk.Frame(root, padding=look.em)
        outer.grid(sticky="nsew")
        root.rowconfigure(0, weight=1)
        root.columnconfigure(0, weight=1)
        outer.rowconfigure(1, weight=1)
        outer.columnconfigure(0, weight=3)
        outer.columnconfigure(1, weight=2)
        self._tools(outer)
        self._sound(outer)
        self._answer(outer)
        self._foot(outer)

    def _tools(self, outer: ttk.Frame) -> None:
        look = self.look
        row = ttk.Frame(outer)
        row.grid(row=0, column=0, columnspan=2, sticky="ew", pady=(0, look.em))
        row.columnconfigure(3, weight=1)
        self.record = ttk.Button(row, text=RECORD_TEXT, style="Record.TButton", width=11)
        self.open = ttk.Button(row, text="Open…")
        self.save = ttk.Button(row, text="Save…")
        for column, button in enumerate((self.record, self.open, self.save)):
            button.grid(row=0, column=column, padx=(0, look.gap), sticky="ns")
        self.microphone = self._choice(row, 4, "Microphone", 24)
        self.model = self._choice(row, 6, "Model", 18)

    def _choice(self, row: ttk.Frame, column: int, name: str, width: int) -> ttk.Combobox:
        look = self.look
        ttk.Label(row, text=name, style="Soft.TLabel").grid(
            row=0, column=column, padx=(look.em, look.gap)
        )
        box = ttk.Combobox(row, state="readonly", width=width, font=look.body)
        box.grid(row=0, column=column + 1, sticky="ns")
        return box

    def _card(self, outer: ttk.Frame, column: int, padx: tuple[int, int]) -> ttk.Frame:
        card = ttk.Frame(outer, style="Card.TFrame", padding=self.look.em)
        card.grid(row=1, column=column, sticky="nsew", padx=padx)
        card.columnconfigure(0, weight=1)
        return card

    def _sound(self, outer: ttk.Frame) -> None:
        look = self.look
        card = self._card(outer, 0, (0, look.em))
        card.rowconfigure(1, weight=1)
        self.meter = Meter(card, look)
        self.meter.grid(row=0, sticky="ew", pady=(0, look.gap))
        self.timeline = Timeline(card, look)
        self.timeline.grid(row=1, sticky="nsew")

    def _answer(self, outer: ttk.Frame) -> None:
        look = self.look
        card = self._card(outer, 1, (0, 0))
        card.rowconfigure(3, weight=1)
        self.headline = ttk.Label(card, style="Headline.Card.TLabel")
        self.detail = ttk.Label(card, style="Soft.Card.TLabel", wraplength=look.em * 22)
        self.caution = ttk.Label(card, style="Warning.Card.TLabel", wraplength=look.em * 22)
        self.bars = Bars(card, look)
        self.headline.grid(row=0, sticky="w")
        self.detail.grid(row=1, sticky="w")
        self.caution.grid(row=2, sticky="w")
        self.caution.grid_remove()
        self.bars.grid(row=3, sticky="nsew", pady=(look.em, 0))
        card.bind("<Configure>", self._wrap)

    def show_headline(self, text: str) -> None:
        """Large, as far as there is room."""
        width = self.bars.winfo_width()
        room = width if width > 1 else self.bars.winfo_reqwidth()
        self.headline.configure(text=shorten(text, self.look.headline, room))

    def warn(self, text: str) -> None:
        """A caution beside the answer; no place is kept for an empty one."""
        self.caution.configure(text=text)
        (self.caution.grid if text else self.caution.grid_remove)()

    def _foot(self, outer: ttk.Frame) -> None:
        look = self.look
        row = ttk.Frame(outer)
        row.grid(row=2, column=0, columnspan=2, sticky="ew", pady=(look.gap, 0))
        row.columnconfigure(0, weight=1)
        self.status = ttk.Label(row, style="TLabel")
        self.keys = ttk.Label(
            row, text="Space record · Ctrl+O open · Ctrl+S save", style="Soft.TLabel"
        )
        self.status.grid(row=0, column=0, sticky="w")
        self.keys.grid(row=0, column=1, sticky="ne", padx=(look.em, 0))
        row.bind("<Configure>", self._wrap)

    def _wrap(self, event: tk.Event) -> None:
        """Texts break where their card or row ends."""
        if event.widget is self.status.master:
            room = event.width - self.keys.winfo_reqwidth() - 2 * self.look.em
            self.status.configure(wraplength=max(room, 10 * self.look.em))
            return
        for label in (self.detail, self.caution):
            label.configure(wraplength=max(event.width - 2 * self.look.em, 10 * self.look.em))
