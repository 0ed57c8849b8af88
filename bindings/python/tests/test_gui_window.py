# SPDX-License-Identifier: MIT
"""What the window looks like and how it behaves, on a display of its own; the program around it."""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

from gui_support import (
    CLIP,
    LACKING,
    WindowCase,
    environment,
    fake_tool,
    make_window,
    pixels,
    predicted,
    run_tests,
    set_up_module,
    shoot,
)
from helpers import BINDING, tone, wav_bytes

import ser

if LACKING is None:
    import tkinter
    import tkinter.font

    from gui_screenshot import PICTURE, make
    from ser.gui import app, theme, timeline, worker
    from ser.gui.layout import Dialogs
    from ser.gui.window import CAUTIONS


setUpModule = set_up_module


class Behaviour(WindowCase):
    def test_never_waits(self):
        """While a prediction takes as long as it likes, the window lives, and can be closed."""
        begun, go_on = threading.Event(), threading.Event()

        def slow(model, audio):
            begun.set()
            go_on.wait(60)
            raise ValueError("given up")

        window = self.start()
        with mock.patch.object(worker.Worker, "_whole", staticmethod(slow)):
            window.open(str(CLIP))
            self.pump(begun.is_set)
            ticks = []
            window.root.after(10, lambda: ticks.append(1))
            self.pump(lambda: ticks)
            self.assertIn("Computing", window.status)
            self.pump(lambda: window.layout.timeline.find_withtag("wave"))
            window.close()
            self.assertTrue(window.over)
            self.assertFalse(window.worker.finish(0))
            go_on.set()

    def test_long_predictions_are_given_up(self):
        path = self.folder / "long.wav"
        path.write_bytes(wav_bytes(tone(20.0) * 30))
        window, seen = self.start(path), []
        window._on_progress = lambda number, done, whole: seen.append(done)
        self.pump(lambda: seen)
        window.open(str(CLIP))
        self.answered()
        self.assertLess(seen[-1], 600.0)
        self.assertEqual(window.layout.bars.values, predicted(CLIP).probabilities)

    def test_attention_of_long_clips(self):
        """No more points than a screen has columns; the highest is kept, at its time."""
        found, frames = predicted(CLIP), 180000  # as of an hour
        step = (found.duration - found.frame_start) / frames
        weights = [1.0] * frames
        weights[123457] = 2.0
        found = dataclasses.replace(found, frame_step=step, attention=tuple(weights))
        with mock.patch.object(worker.Model, "predict_details", lambda *_: found):
            window = self.start(CLIP)
            self.answered()
        line = window.layout.timeline
        points = line.attention_points
        self.assertLessEqual(len(points), worker.COLUMNS)
        self.assertGreater(len(points), worker.COLUMNS // 2)
        self.assertEqual(points, sorted(points))
        most = (found.frame_start + 123457 * step, 2.0 * frames)
        self.assertEqual(max(points, key=lambda point: point[1]), most)
        self.assertEqual(len({weight for _, weight in points}), 2)
        self.assertEqual(len(line.coords("attention")), 2 * len(points) + 4)

    def test_keyboard_only(self):
        window = self.start(tool=fake_tool(self.folder, "loud"))
        self.pump(lambda: window.microphones.names)
        layout, root = window.layout, window.root
        self.assertIs(root.focus_get(), layout.record)
        order = []
        for _ in range(4):
            order.append(root.focus_get())
            self.press("<Tab>", root.focus_get())
        self.assertEqual(order, [layout.record, layout.open, layout.microphone, layout.model])
        self.assertIs(root.focus_get(), layout.record)
        window.dialogs.open_clip.return_value = ""
        layout.open.focus_force()
        self.press("<space>", layout.open)  # presses that button, and does not record
        self.assertIsNone(window.recorder)
        self.press("<Return>", layout.open)
        self.assertEqual(window.dialogs.open_clip.call_count, 2)
        layout.record.focus_force()
        self.press("<space>", layout.record)
        self.assertIsNotNone(window.recorder)
        self.press("<Control-o>")
        self.assertIn("Stop the recording first", window.status)
        self.pump(lambda: layout.meter.words)
        self.press("<Return>", layout.record)
        self.answered()

    def test_contrast(self):
        def luminance(colour):
            parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

        def contrast(one, other):
            low, high = sorted((luminance(one), luminance(other)))
            return (high + 0.05) / (low + 0.05)

        for text in (theme.INK, theme.SOFT, theme.RECORD, theme.ACCENT):
            for behind in (theme.PAGE, theme.CARD):
                self.assertGreaterEqual(contrast(text, behind), 4.5, (text, behind))
        self.assertGreaterEqual(contrast(theme.CARD, theme.RECORD), 4.5)
        for shape in (theme.ACCENT, theme.OTHER, theme.ATTENTION, theme.RECORD):
            self.assertGreaterEqual(contrast(shape, theme.CARD), 3.0, shape)
        self.assertGreaterEqual(contrast(theme.OTHER, theme.TRACK), 2.8)
        self.assertGreaterEqual(contrast(theme.EDGE, theme.PAGE), 3.0)

    def test_dialogs(self):
        """Tk's own, each of them cancelled."""
        window = self.start(scale=2)
        call, dialogs = window.root.tk.call, Dialogs(window.root)

        def cancel():
            shown = [w for w in map(str, window.root.tk.splitlist(call("winfo", "children", ".")))
                     if w.startswith(".__tk") and int(call("winfo", "viewable", w))]  # fmt: skip
            if not shown:
                window.root.after(20, cancel)
                return
            seen.append(shown[0])
            inside = ".cancel" if "messagebox" in shown[0] else ".contents.f2.cancel"
            call(shown[0] + inside, "invoke")

        seen = []
        for ask, empty in (
            (dialogs.open_clip, ("", ())),
            (lambda: dialogs.save_clip("a.wav"), ("", ())),
            (dialogs.model_file, ("", ())),
            (dialogs.model_folder, ("", ())),
            (dialogs.save_first, (None,)),
        ):
            window.root.after(20, cancel)
            self.assertIn(ask(), empty)
        self.assertEqual(len(seen), 5)
        for name in ("TkDefaultFont", "TkMenuFont", "TkTextFont"):  # they are written in these
            face = tkinter.font.nametofont(name, window.root)
            self.assertEqual(face.cget("size"), -2 * theme.BODY)

    def test_mistakes_are_told(self):
        window = self.start()
        window.root.after(0, lambda: 1 // 0)
        with mock.patch("traceback.print_exception") as printed:
            self.pump(lambda: "Internal error" in window.status)
        self.assertEqual(printed.call_count, 1)
        self.assertIsInstance(window.faults.pop(), ZeroDivisionError)

    def test_time(self):
        for seconds, step, text in ((0, 1, "0"), (0.26, 0.1, "0.3"), (59, 1, "59"),
                                    (60, 1, "1:00"), (3725.5, 1, "62:05")):  # fmt: skip
            self.assertEqual(timeline.time_text(seconds, step), text)

    def test_scrolling_and_memory(self):
        """Of a long recording the last half minute is seen, and not much more is kept."""
        window = self.start()
        line = window.layout.timeline
        line.begin()
        for i in range(1, 20 * 600):
            line.add_level(0.05 * i, -0.1, 0.1)
            if i % 20 == 0:
                line.add_attention((0.05 * i - 5, 0.5, (0.1,) * 10))
        line.draw()
        self.assertLess(len(line._times), 20 * 120)
        self.assertLess(len(line._spans), 120)
        texts = [line.itemcget(item, "text") for item in line.find_withtag("tick")]
        self.assertIn("9:50", texts)
        self.assertNotIn("0 s", texts)
        points = line.attention_points
        self.assertEqual(points, sorted(points))  # newer windows replace older ones


class Looks(WindowCase):
    LONG = "A very long message about something that has gone wrong. " * 4

    def check_room(self):
        """No text is cut off or lies on another."""
        root = self.window.root
        root.update()
        self.assertLessEqual(root.winfo_reqwidth(), root.winfo_width())
        widgets = [root]
        for widget in widgets:
            widgets += widget.winfo_children()
            if not widget.winfo_ismapped() or widget is root:
                continue
            if widget.winfo_class() in ("TButton", "TLabel", "TCombobox"):
                self.assertGreaterEqual(widget.winfo_width(), widget.winfo_reqwidth(), str(widget))
                room = widget.winfo_height()
                self.assertGreaterEqual(room, widget.winfo_reqheight(), str(widget))
            if widget.winfo_class() == "TButton":
                text = self.window.layout.look.bold.measure(widget.cget("text"))
                self.assertGreaterEqual(widget.winfo_width(), text + self.window.layout.look.em)
            if widget.winfo_class() == "TCombobox":
                text = self.window.layout.look.body.measure(widget.get())
                self.assertGreaterEqual(widget.winfo_width(), text + self.window.layout.look.em * 2)
            if widget.winfo_class() == "Canvas":
                self.check_canvas(widget)

    def check_canvas(self, canvas):
        boxes = {}
        for item in canvas.find_all():
            if canvas.type(item) != "text" or not canvas.itemcget(item, "text"):
                continue
            left, top, right, bottom = canvas.bbox(item)
            text = canvas.itemcget(item, "text")
            self.assertGreaterEqual((left, top), (-2, -2), text)
            self.assertLessEqual(right, canvas.winfo_width() + 2, text)
            self.assertLessEqual(bottom, canvas.winfo_height() + 2, text)
            for other, box in boxes.items():
                apart = (
                    right - 2 <= box[0] or box[2] - 2 <= left
                    or bottom - 2 <= box[1] or box[3] - 2 <= top
                )  # fmt: skip
                self.assertTrue(apart, (text, other))
            boxes[text, item] = (left, top, right, bottom)

    def test_at_every_scale(self):
        sizes = {}
        for scale in (1, 1.5, 2, 2.5):
            with self.subTest(scale):
                window = self.start(scale=scale)
                self.pump(lambda: window.microphones.names and window.layout.bars.labels)
                self.check_room()
                window.open(str(CLIP))
                self.answered()
                self.check_room()
                sizes[scale] = window.root.winfo_width()
                window._problem(self.LONG)
                window.layout.warn("\n".join(sorted(CAUTIONS.values(), key=len)[-2:]))
                self.check_room()
                window.layout.warn("")
                smallest = window.root.minsize()
                window.root.geometry("{}x{}".format(*smallest))
                self.check_room()
                window.close()
                window.worker.finish(60)
        self.assertAlmostEqual(sizes[2] / sizes[1], 2.0, delta=0.1)

    def test_long_names(self):
        window = self.start(CLIP, scale=2)
        self.answered()
        names = ["x", "somewhat-disappointed-but-hopeful", "W" * 80, "Überrascht 😀"]
        scores = dict(zip(names, (0.1, 0.2, 0.6, 0.1)))
        window.layout.bars.show(scores)
        window.layout.show_headline("W" * 80)
        self.check_room()
        bars = window.layout.bars
        bars.show({f"class {i}": (i + 1) / 1830 for i in range(60)})
        self.check_room()
        texts = [bars.itemcget(item, "text") for item in bars.find_withtag("name")]
        self.assertIn("class 59", texts)
        self.assertNotIn("class 0", texts)
        last = bars.itemcget(bars.find_all()[-1], "text")
        self.assertEqual(last, f"and {60 - len(texts)} more")

    def test_desktop_asks(self):
        """Where no scale is given, it is that of Xft.dpi."""
        tool = fake_tool(self.folder, "lost")
        xrdb = self.folder / "xrdb"
        for text, scale in (("Xft.dpi:\t192", 2.0), ("Xft.dpi: none", 1.0), ("", 1.0)):
            xrdb.write_text(f"#!/bin/sh\necho '{text}'\n")
            xrdb.chmod(0o755)
            root = tkinter.Tk()
            root.tk.call("tk", "scaling", 96 / 72)  # which an earlier window has changed
            root.update_idletasks()
            root.destroy()
            with environment(PATH=f"{self.folder}:{os.environ['PATH']}"):
                self.windows.append(make_window("--tool", tool))
            self.assertEqual(self.windows[-1].layout.look.scale, scale)

    def test_screenshot(self):
        """docs/gui.png is the window as it is; gui_screenshot.py makes it anew."""
        fresh = self.folder / "gui.png"
        make(fresh)
        width, height, colours = pixels(PICTURE)
        self.assertEqual(len(colours), 3 * width * height)
        seen = {colours[i : i + 3] for i in range(0, len(colours), 3)}
        self.assertGreater(len(seen), 40)
        for colour in (theme.PAGE, theme.CARD, theme.RECORD, theme.ACCENT, theme.ATTENTION):
            self.assertIn(bytes.fromhex(colour[1:]), seen, colour)
        # Fonts differ between machines, and with them its size in pixels.
        now = pixels(fresh)
        self.assertAlmostEqual(now[0] / width, 1.0, delta=0.25)
        self.assertAlmostEqual(now[1] / height, 1.0, delta=0.25)

    def test_shot_shows_the_bars(self):
        window = self.start(CLIP)
        self.answered()
        path = self.folder / "shot.png"
        shoot(window, path)
        width, _, colours = pixels(path)
        bars = window.layout.bars
        box = bars.bbox(bars.find_withtag("name")[list(bars.labels).index(bars.best)])
        y = bars.winfo_rooty() - window.root.winfo_rooty() + (box[1] + box[3]) // 2
        row = colours[3 * width * y : 3 * width * (y + 1)]
        left = bars.winfo_rootx() - window.root.winfo_rootx()
        accent = bytes.fromhex(theme.ACCENT[1:])
        length = sum(row[3 * x : 3 * x + 3] == accent for x in range(left, width))
        rails = sum(row[3 * x : 3 * x + 3] == bytes.fromhex(theme.TRACK[1:])
                    for x in range(left, width))  # fmt: skip
        self.assertAlmostEqual(length / (length + rails), bars.values[bars.best], delta=0.05)


class Program(unittest.TestCase):
    """python3 -m ser.gui as a user starts it."""

    def run_it(self, *arguments, code=None, **env):
        with environment(PYTHONPATH=BINDING, **env):
            command = ["-c", code] if code else ["-m", "ser.gui"]
            return subprocess.run(
                [sys.executable, *command, *map(str, arguments)],
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip

    def test_no_display(self):
        for display in (None, ":4711"):
            done = self.run_it(CLIP, DISPLAY=display)
            self.assertEqual(done.returncode, app.EXIT_DEVICE, done.stderr)
            self.assertIn("ser.gui: there is no display", done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_no_tkinter(self):
        code = """
import runpy, sys
sys.modules["tkinter"] = None
sys.argv = ["ser.gui"]
runpy.run_module("ser.gui", run_name="__main__")
"""
        done = self.run_it(code=code)
        self.assertEqual(done.returncode, app.EXIT_DEVICE)
        self.assertIn("python3-tk", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_command_line(self):
        self.assertIn("--source", self.run_it("--help").stdout)
        self.assertIn(ser.__version__, self.run_it("--version").stdout)
        for bad in (["--scale", "0"], ["--scale", "x"], ["--scale", "nan"], ["--nonsense"],
                    ["a", "b"]):  # fmt: skip
            done = self.run_it(*bad)
            self.assertEqual(done.returncode, 2, bad)
            self.assertNotIn("Traceback", done.stderr)

    def test_signals_end_it(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with tempfile.TemporaryDirectory() as folder:
                tool = fake_tool(folder, "loud")
                with environment(PYTHONPATH=BINDING, TMPDIR=folder):
                    child = subprocess.Popen(
                        [sys.executable, "-m", "ser.gui", "--tool", str(tool), str(CLIP)],
                        stderr=subprocess.PIPE, text=True,
                    )  # fmt: skip
                end = time.monotonic() + 60
                while not any(p.startswith("ser-gui-") for p in os.listdir(folder)):
                    self.assertLess(time.monotonic(), end)
                    time.sleep(0.05)
                child.send_signal(number)
                _, errors = child.communicate(timeout=60)
                self.assertEqual((child.returncode, errors), (0, ""), number)
                self.assertEqual(os.listdir(folder), ["ser-record"])


if __name__ == "__main__":
    run_tests()
