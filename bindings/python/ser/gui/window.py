# SPDX-License-Identifier: MIT
"""The window: what its parts do together.

Tk is called on the main thread only. The recorder's and the worker's threads put messages into a
queue, which is emptied every TICK milliseconds; `_on_NAME` takes the message ("NAME", ...).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import tempfile
import threading
import tkinter as tk
from typing import Any, Callable

from . import recorder as recording
from .choices import Microphones, Models
from .layout import RECORD_TEXT, STOP_TEXT, Dialogs, Layout
from .recorder import Recorder
from .theme import Theme
from .timeline import time_text
from .worker import Answer, Wave, Worker

TICK = 40
TITLE = "ser: emotion in speech"

# Seconds of a recording that is not saved from which on the next one asks first. Shorter ones are
# said again sooner than the question is answered. Closing the window always asks.
WORTH_ASKING = 10.0

# Seconds that a computation may go on for after the window has been closed.
LAST_WORK = 10.0

HEADER = 44  # bytes of a WAV file without sound

EMPTY = "Press Record (or Space) and speak,\nor open an audio file (Ctrl+O)."

CAUTIONS = {
    "silent": "Nothing but silence: the answer means nothing. Check the microphone.",
    "clipped": "The sound is clipped: record it less loud.",
    "short": "The clip is very short.",
    "truncated": "The file is damaged or ends early; the rest was used.",
    "cancelled": "The channels cancel each other.",
    "dc_offset": "The sound has a strong DC offset.",
}


class Window:
    """State: nothing or a clip is shown, or something is being recorded, or predicted."""

    def __init__(
        self, chosen: argparse.Namespace, ending: threading.Event | None = None
    ) -> None:
        """With the options of app.parser(); once `ending` is set it closes without a question."""
        self._ending = ending or threading.Event()
        self.root = tk.Tk(className="Ser")
        self.root.withdraw()
        self.root.title(TITLE)
        self.layout = Layout(self.root, Theme(self.root, chosen.scale))
        self.dialogs = Dialogs(self.root)
        self.folder = tempfile.TemporaryDirectory(prefix="ser-gui-")
        self._recording = os.path.join(self.folder.name, "recording.wav")
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self.worker = Worker(self._post, chosen.device)
        self.recorder: Recorder | None = None
        self.microphones = Microphones(
            self.layout.microphone, chosen.tool, chosen.source, self._post
        )
        self.models = Models(self.layout.model, chosen.model)
        self._device = chosen.device
        self._number = 0  # of the last job for the worker
        self.clip: str | None = None
        self._clip_name = ""
        self._duration = 0.0
        self.unsaved = False
        self._computing = False
        self._alarm = False  # whether the line at the foot tells a problem
        self._window = 0.0  # seconds per answer while recording; 0: not known yet
        self._recorded = 0.0  # seconds so far
        self._afterwards: Callable[[], None] | None = None  # once what is unsaved has been saved
        self._saving: str | None = None  # the recording that is being copied
        self._asking = False  # a question is on the screen
        self._closing = False  # once the recording has ended
        self.over = False
        self.faults: list[BaseException] = []
        self._connect()
        self._begin(chosen.file)

    def run(self) -> None:
        self.root.mainloop()
        self.worker.finish(LAST_WORK)

    # --- Setting up

    def _connect(self) -> None:
        root, layout = self.root, self.layout
        root.protocol("WM_DELETE_WINDOW", self.close)
        root.report_callback_exception = self._fault
        layout.record.configure(command=self.toggle)
        layout.open.configure(command=self.ask_open)
        layout.save.configure(command=self.save)
        layout.model.bind("<<ComboboxSelected>>", lambda _: self._choose_model())
        layout.microphone.bind("<<ComboboxSelected>>", lambda _: self._choose_microphone())
        for keys, action in (
            ("oO", self.ask_open),
            ("sS", self.save),
            ("wW", self.close),
            ("qQ", self.close),
        ):
            for key in keys:  # with Caps Lock, too
                root.bind(f"<Control-{key}>", lambda _, action=action: action())
        root.bind("<Escape>", lambda _: self.stop())
        root.bind("<space>", self._space)
        root.bind_class("TButton", "<Return>", lambda event: event.widget.invoke())

    def _begin(self, file: str | None) -> None:
        layout, root = self.layout, self.root
        self._nothing(EMPTY)
        self._update_buttons()
        self.microphones.find()
        self._load_model()
        if file is not None:
            self.open(file)
        root.update_idletasks()
        root.minsize(root.winfo_reqwidth(), root.winfo_reqheight())
        root.geometry(f"{root.winfo_reqwidth()}x{root.winfo_reqheight()}")  # whatever texts come
        layout.record.focus_set()
        root.deiconify()
        self._timer = root.after(TICK, self._tick)

    def _nothing(self, message: str) -> None:
        self.layout.timeline.show_message(message)
        self.layout.show_headline(" ")
        self.root.title(TITLE)
        self.layout.detail.configure(text="The answer will be here.")
        self.layout.warn("")
        self.layout.bars.clear()

    # --- Messages

    def _post(self, *message: Any) -> None:
        self._messages.put(message)

    def _tick(self) -> None:
        if self._ending.is_set():
            self._finish()
            return
        self._timer = self.root.after(TICK, self._tick)
        drawn = False
        with contextlib.suppress(queue.Empty):
            while not self.over:
                name, *rest = self._messages.get_nowait()
                drawn |= name == "heard"
                getattr(self, "_on_" + name)(*rest)
        if self.over:
            return
        if self.recorder is not None:
            if self.recorder.stopping:
                self.recorder.stop()  # more firmly when it takes long
            if drawn:
                self.layout.timeline.draw()

    def _fault(self, kind: type, error: BaseException, trace: Any) -> None:
        """A mistake in this program: it is printed, and the window goes on."""
        import traceback

        self.faults.append(error)
        traceback.print_exception(kind, error, trace)
        self._problem(f"Internal error: {error!r}. Please report it.")

    def _say(self, text: str) -> None:
        self._alarm = False
        self.layout.status.configure(text=text, style="TLabel")

    def _problem(self, text: str) -> None:
        """What is said until something else is done."""
        self._alarm = True
        self.layout.status.configure(text="⚠ " + text, style="Problem.TLabel")

    @property
    def status(self) -> str:
        """What the line at the foot says."""
        return str(self.layout.status.cget("text"))

    # --- What to record from, and what to predict with

    def _on_devices(self, devices: list[dict], message: str) -> None:
        self.microphones.show(devices)
        if self.clip is not None or self.recorder is not None:
            return  # something else is looked at; the box tells
        if not devices and (not self.microphones.told or self.microphones.tool is None):
            text = message or "No microphone was found: connect one, and open the list above again."
            text = text.replace("\n", "\n\n") + "\n\nAudio files can be opened (Ctrl+O)."
            self.layout.timeline.show_message(text)
        else:
            self.layout.timeline.show_message(EMPTY)

    def _choose_microphone(self) -> None:
        self.layout.microphone.selection_clear()
        self._say(f"The next recording is from: {self.layout.microphone.get()}")

    def _choose_model(self) -> None:
        if not self.models.choose(self.dialogs):
            return
        if self.clip is not None:
            self._predict()
        else:
            self._load_model()

    def _load_model(self) -> None:
        self._number += 1
        self.worker.load(self._number, self.models.path)

    def _on_model(self, number: int, path: str, labels: list[str], window: float) -> None:
        self._window = window
        if self.models.path is None:
            self.models.set_default(path)
        if number == self._number and self.clip is None and self.recorder is None:
            self.layout.bars.set_labels(labels)

    # --- Recording

    def toggle(self) -> None:
        """Record, or stop."""
        if self.recorder is None:
            self.record()
        else:
            self.stop()

    def _space(self, event: tk.Event) -> None:
        if event.widget.winfo_class() not in ("TButton", "TCombobox", "Listbox"):  # have their own
            self.toggle()

    def record(self) -> None:
        if not self._may_go_on(self.record):
            return
        if self._saving is not None:
            self._say("Still saving the last recording…")
            return
        tool = self.microphones.tool
        if tool is None:
            self._problem(self.microphones.no_tool)
            return
        self._forget_clip()
        for path in (self._recording, self._recording + ".part"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        source = self.microphones.source
        command = recording.command_line(
            tool, self._recording, source, self.models.path, self._device
        )
        try:
            self.recorder = Recorder(command, self._post)
        except OSError as error:
            self._problem(f"{tool} cannot be run: {error}")
            return
        self._recorded = 0.0
        self._nothing("")
        first = f"\nThe first answer comes after {self._window:g} s." if self._window else ""
        self.layout.detail.configure(text="Listening…" + first)
        self.layout.timeline.begin()
        self._say("Recording. Press Space or Stop to end.")
        self._update_buttons()

    def stop(self) -> None:
        if self.recorder is not None and not self.recorder.stopping:
            self.recorder.stop()
            self._say("Ending the recording…")
            self._update_buttons()

    def _on_heard(self, which: Recorder, event: dict[str, Any]) -> None:
        if which is not self.recorder:
            return
        kind = event.get("event")
        if kind == "level":
            self._recorded = float(event["time"])
            peak, rms = (_decibels(event.get(name)) for name in ("peak_db", "rms_db"))
            self.layout.meter.show(peak, rms, bool(event.get("clipped")))
            self.layout.timeline.add_level(
                self._recorded, float(event.get("low") or 0.0), float(event.get("high") or 0.0)
            )
            self.root.title(f"● {time_text(self._recorded)} - {TITLE}")
        elif kind == "start":
            self.layout.bars.set_labels(event.get("labels") or [])
        elif kind == "window":
            self._show_window(event)
        elif kind == "gap":
            self._problem(f"The microphone was away for {float(event['seconds']):.1f} s.")
        elif kind == "end" and event.get("overruns"):
            self._problem("Sound came faster than it was taken: some is missing.")

    def _show_window(self, event: dict[str, Any]) -> None:
        scores = event.get("scores")
        if scores:
            known = self.layout.bars.labels
            ordered = [name for name in known if name in scores] or list(scores)
            self.layout.bars.show({name: scores[name] for name in ordered})
            self.layout.show_headline(max(scores, key=scores.__getitem__))
            start, end = (time_text(float(event[name])) for name in ("start", "end"))
            self.layout.detail.configure(text=f"from {start} to {end} s, while recording")
        attention = event.get("attention")
        if attention:
            weights = tuple(map(float, attention["weights"]))
            span = (float(attention["start"]), float(attention["step"]), weights)
            self.layout.timeline.add_attention(span)

    def _on_note(self, which: Recorder, text: str) -> None:
        if which is self.recorder:
            self._problem(text)

    def _on_ended(self, which: Recorder, code: int, messages: str) -> None:
        if which is not self.recorder:
            return
        asked = which.stopping
        self.recorder = None
        self.layout.meter.clear()
        if self._kept():
            self.clip, self._clip_name = self._recording, "recording.wav"
            self.unsaved, self._duration = True, self._recorded
            self._predict()
            if messages and not (asked and code in (0, 130)):
                self._problem(messages)
        else:
            self._nothing(messages or "Nothing was recorded.\n\nPress Record to try again.")
            self._problem("Nothing was recorded.")
        self._update_buttons()
        if self._closing:
            self._closing = False
            self.close()

    def _kept(self) -> bool:
        """Whether there is sound in the file, which has another name after an unkind end."""
        if os.path.exists(self._recording + ".part") and not os.path.exists(self._recording):
            os.rename(self._recording + ".part", self._recording)
        return os.path.exists(self._recording) and os.path.getsize(self._recording) > HEADER

    # --- Clips

    def ask_open(self) -> None:
        if self.recorder is not None:
            self._say("Stop the recording first (Space).")
            return
        path = self.dialogs.open_clip()
        if path:
            self.open(path)

    def open(self, path: str) -> None:
        """Show a file and what the model says of it."""
        if not self._may_go_on(lambda: self.open(path)):
            return
        self._forget_clip()
        self.clip, self._clip_name, self.unsaved = path, os.path.basename(path), False
        self._predict()
        self._update_buttons()

    def _forget_clip(self) -> None:
        self.worker.cancel()
        self._computing = False
        self.clip, self.unsaved, self._duration = None, False, 0.0

    def _predict(self) -> None:
        self._number += 1
        self._nothing(f"Reading {self._clip_name}…")
        self.layout.detail.configure(text=self._clip_name)
        self._computing = True
        self._say("Computing…")
        self.worker.predict(self._number, self.clip, self.models.path)

    @property
    def busy(self) -> bool:
        """Whether something is being recorded or computed."""
        return self.recorder is not None or self._computing

    def _on_wave(self, number: int, wave: Wave) -> None:
        if number == self._number:
            self._duration = wave.duration
            self.layout.timeline.show_wave(wave)

    def _on_progress(self, number: int, done: float, whole: float) -> None:
        if number == self._number and not self._alarm:
            self._say(f"Computing… {time_text(done)} of {time_text(whole)}")

    def _on_answer(self, number: int, answer: Answer) -> None:
        if number != self._number:
            return
        layout = self.layout
        layout.bars.show(answer.probabilities)
        layout.show_headline(answer.label)
        share = 100 * answer.probabilities[answer.label]
        layout.detail.configure(
            text=f"{share:.1f} % · {self._clip_name} · {time_text(self._duration, 0.1)} s"
        )
        layout.warn("\n".join(text for flag, text in CAUTIONS.items() if flag in answer.flags))
        layout.timeline.show_attention(answer.attention)
        self.root.title(f"{self._clip_name} - {TITLE}")
        self._computing = False
        if not self._alarm:
            self._say("Not saved yet." if self.unsaved else "")

    def _on_failed(self, number: int, what: str, message: str) -> None:
        if what == "save":
            self._saving = self._afterwards = None
            self._problem(f"Not saved: {message}")
        elif number == self._number:
            if what == "clip":
                self._computing = False
                self._nothing(f"{self._clip_name} could not be shown.\n\n{message}")
            self._problem(message)

    # --- Saving

    def save(self) -> None:
        if self.recorder is not None:
            self._say("Stop the recording first (Space).")
        elif self._saving is not None:
            self._say("Saving…")
            return
        elif not self.unsaved:
            self._say("Only a recording that is not saved yet can be saved.")
        else:
            path = self.dialogs.save_clip("recording.wav")
            if path and not path.lower().endswith(".wav"):
                self._problem("A recording is saved as WAV: choose a name that ends in .wav.")
            elif path:
                self._saving = self.clip
                self.worker.save(self._number, self.clip, path)
                return
        self._afterwards = None

    def _on_saved(self, number: int, path: str) -> None:
        if self._saving == self.clip:  # which another file may have replaced meanwhile
            self.unsaved = False
            self._clip_name = os.path.basename(path)
        self._saving = None
        self._say(f"Saved as {path}")
        self._update_buttons()
        afterwards, self._afterwards = self._afterwards, None
        if afterwards is not None:
            afterwards()

    def _may_go_on(self, afterwards: Callable[[], None]) -> bool:
        """Whether something else may be shown now."""
        if self.unsaved and self._duration >= WORTH_ASKING:
            return self._saved_or_given_up(afterwards)
        return True

    def _saved_or_given_up(self, afterwards: Callable[[], None]) -> bool:
        """Ask what becomes of the recording. False: not now, or `afterwards` once it is saved."""
        if self._saving is not None:
            self._afterwards = afterwards
        if self._saving is not None or self._asking:
            return False
        self._asking = True
        try:
            answer = self.dialogs.save_first()
        finally:
            self._asking = False
        if answer:
            self._afterwards = afterwards
            self.save()
        return answer is False

    # --- The end

    def close(self) -> None:
        """As the window's close button: asks before a recording is thrown away."""
        if self.recorder is not None:
            self._closing = True
            self.stop()
        elif not self.unsaved or self._saved_or_given_up(self.close):
            self._finish()

    def request_shutdown(self) -> None:
        """End without questions, at the next tick."""
        self._ending.set()

    def _finish(self) -> None:
        self.over = True
        self.root.after_cancel(self._timer)
        self.root.withdraw()
        self.root.update_idletasks()
        if self.recorder is not None:
            self.recorder.kill()
        self.worker.cancel()
        self.worker.finish_saving()  # out of the folder that is removed now
        self.folder.cleanup()
        self.root.destroy()

    def _update_buttons(self) -> None:
        layout, on = self.layout, self.recorder is not None
        layout.record.configure(text=STOP_TEXT if on else RECORD_TEXT)
        layout.open.state(["disabled" if on else "!disabled"])
        layout.save.state(["!disabled" if self.unsaved and not on else "disabled"])
        for box in (layout.model, layout.microphone):
            box.configure(state="disabled" if on else "readonly")


def _decibels(value: Any) -> float:
    """JSON has no number for the level of silence."""
    return float(value) if isinstance(value, (int, float)) else -200.0
