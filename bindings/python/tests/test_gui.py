# SPDX-License-Identifier: MIT
"""Opening files and recording in the window, driven by events on a display of its own.

$SER_RECORD is the program that records; where a microphone would have to fail, another takes its
place. Without Xvfb, tkinter or ffmpeg the tests are skipped (as a program: exit code 77)."""

import os
import threading
import unittest
from unittest import mock

from gui_support import (
    CLIP,
    LACKING,
    MICROPHONES,
    WindowCase,
    fake_tool,
    predicted,
    run_tests,
    set_up_module,
)
from helpers import MODEL, RATE, tone, wav_bytes

import ser

if LACKING is None:
    from ser.gui import recorder, worker


setUpModule = set_up_module

needs_recorder = unittest.skipUnless(os.environ.get("SER_RECORD"), "needs $SER_RECORD")


def gone(pid):
    """Whether a process has ended (and was waited for)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Opening(WindowCase):
    def test_empty(self):
        window = self.start()
        self.pump(lambda: window.layout.bars.labels and window.microphones.names)
        with ser.Model.load() as model:
            self.assertEqual(window.layout.bars.labels, model.labels)
        self.assertIn("Press Record", self.message())
        self.assertIn("Ctrl+O", self.message())
        names = [device["description"] for device in MICROPHONES]
        self.assertEqual(window.microphones.names, ["Default", *names])
        self.assertEqual(window.layout.microphone.get(), "Default")
        self.assertEqual(window.layout.model.get(), "ser-mini (default)")
        self.assertTrue(window.layout.save.instate(["disabled"]))
        self.assertEqual(window.layout.bars.values, {})
        self.press("<Control-s>")
        self.assertIn("Only a recording", window.status)

    def test_file_as_argument(self):
        window = self.start(CLIP)
        self.answered()
        expected = predicted(CLIP)
        self.assertEqual(window.layout.bars.values, expected.probabilities)
        self.assertEqual(window.layout.bars.best, expected.label)
        self.assertEqual(str(window.layout.headline.cget("text")), expected.label)
        self.assertIn(f"{100 * expected.score:.1f} %", str(window.layout.detail.cget("text")))
        self.assertIn("clip.wav", window.root.title())
        points = window.layout.timeline.attention_points
        self.assertEqual(len(points), len(expected.attention))
        self.assertEqual(points[3][0], expected.frame_start + 3 * expected.frame_step)
        self.assertAlmostEqual(points[3][1], expected.attention[3] * len(points), places=6)
        self.check_drawing(expected)

    def check_drawing(self, expected):
        """Waveform and attention have one time axis; its peak is where the model says."""
        line = self.window.layout.timeline
        per_second = line.winfo_width() / expected.duration
        shape = line.coords("attention")
        xs, ys = shape[0::2], shape[1::2]
        best = max(range(len(expected.attention)), key=expected.attention.__getitem__)
        at = expected.frame_start + best * expected.frame_step
        self.assertAlmostEqual(xs[ys.index(min(ys))], at * per_second, delta=1.0)
        wave = line.coords("wave")
        self.assertLess(max(wave[1::2]), min(ys))  # above the attention
        self.assertLess(max(wave[0::2]), line.winfo_width() + 1)
        audio = worker.open_audio(str(CLIP), None).samples()
        loudest = max(range(len(audio)), key=lambda i: abs(audio[i])) / RATE
        middle = line.coords("wave")[1::2]
        centre = (max(middle) + min(middle)) / 2
        top = max(range(len(middle)), key=lambda i: abs(middle[i] - centre))
        self.assertAlmostEqual(wave[0::2][top], loudest * per_second, delta=3.0)

    def test_open_with_the_keyboard(self):
        window = self.start()
        window.dialogs.open_clip.return_value = ""
        self.press("<Control-o>")
        self.assertIsNone(window.clip)
        window.dialogs.open_clip.return_value = str(CLIP)
        self.press("<Control-o>")
        self.answered()
        self.assertEqual(window.layout.bars.best, predicted(CLIP).label)

    def test_long_files_in_windows(self):
        """As the library does it for a clip that is longer than one piece, with its progress."""
        path = self.folder / "long.wav"
        path.write_bytes(wav_bytes(tone(33.7)))
        seen = []
        window = self.start()
        real = window._on_progress
        window._on_progress = lambda *a: (seen.append(a[1:]), real(*a))
        window.open(str(path))
        self.answered()
        expected = predicted(path)
        self.assertIsNone(expected.attention)
        for label, value in expected.probabilities.items():
            self.assertAlmostEqual(window.layout.bars.values[label], value, places=5)
        self.assertEqual([done for done, _ in seen][-1], 33.7)
        self.assertEqual(len(seen), 7)
        points = window.layout.timeline.attention_points
        self.assertGreater(points[-1][0], 33.0)
        self.assertEqual(points, sorted(points))

    def test_files_that_are_none(self):
        window = self.start()
        for name, content in (("empty.wav", b""), ("text.wav", b"not audio"), ("none.wav", None)):
            path = self.folder / name
            if content is not None:
                path.write_bytes(content)
            window.open(str(path))
            self.pump(lambda: not window.busy)
            self.assertIn(f"{name} could not be shown", self.message())
            self.assertIn(name, window.status)
            self.assertIn("⚠", window.status)
            self.assertEqual(window.layout.bars.values, {})
        window.open(str(CLIP))
        self.answered()
        self.assertEqual((self.message(), window.status), ("", ""))

    def test_the_last_file_wins(self):
        other = self.folder / "other.wav"
        other.write_bytes(wav_bytes(tone(1.0)))
        window = self.start()
        for path in (CLIP, other, CLIP, other):
            window.open(str(path))
        self.answered()
        shown = predicted(other).probabilities
        self.assertEqual(window.layout.bars.values, shown)
        late = worker.Answer("sad", {"sad": 1.0}, frozenset(), [])
        window._on_answer(window._number - 1, late)  # posted before it was given up
        self.assertEqual(window.layout.bars.values, shown)

    def test_cautions(self):
        path = self.folder / "silence.wav"
        path.write_bytes(wav_bytes([0] * RATE))
        window = self.start(path)
        self.answered()
        self.assertIn("silence", str(window.layout.caution.cget("text")))
        self.assertTrue(window.layout.caution.winfo_ismapped())
        window.open(str(CLIP))
        self.answered()
        self.assertFalse(window.layout.caution.winfo_ismapped())

    def test_model_can_be_chosen(self):
        window = self.start(CLIP)
        self.answered()
        before = window.layout.bars.values
        window.dialogs.model_file.return_value = str(MODEL)
        window.layout.model.set("Choose a file…")
        self.press("<<ComboboxSelected>>", window.layout.model)
        self.pump(lambda: window.layout.bars.labels == ["neutral", "happy", "sad"])
        self.answered()
        self.assertEqual(window.layout.bars.values, predicted(CLIP, MODEL).probabilities)
        self.assertEqual(window.layout.model.get(), "logmel.model")
        window.layout.model.set("ser-mini (default)")
        self.press("<<ComboboxSelected>>", window.layout.model)
        self.pump(lambda: window.layout.bars.values == before)
        window.dialogs.model_folder.return_value = ""
        window.layout.model.set("Choose a folder…")
        self.press("<<ComboboxSelected>>", window.layout.model)
        self.assertEqual(window.layout.model.get(), "ser-mini (default)")

    def test_no_model(self):
        window = self.start("--model", "/does/not/exist.safetensors")
        self.pump(lambda: "⚠" in window.status)
        self.assertIn("/does/not/exist.safetensors", window.status)
        window.open(str(CLIP))
        self.pump(lambda: "could not be shown" in self.message())
        self.assertTrue(window.layout.timeline.message.startswith("clip.wav"))


class Recording(WindowCase):
    @needs_recorder
    def test_until_the_source_ends(self):
        window = self.real("--source", f"file:{CLIP}")
        self.press("<space>")
        self.pump(lambda: window.recorder and window.layout.meter.words)
        self.assertEqual(str(window.layout.record.cget("text")), "■  Stop")
        self.assertTrue(window.layout.open.instate(["disabled"]))
        self.assertRegex(window.layout.meter.words, "dB|no sound")
        self.pump(lambda: window.recorder is None)
        self.answered()
        self.assertEqual(window.layout.bars.best, predicted(CLIP).label)
        self.assertEqual(str(window.layout.record.cget("text")), "●  Record")
        self.assertEqual(window.status, "Not saved yet.")
        self.check_saving()

    def check_saving(self):
        window, path = self.window, self.folder / "saved.wav"
        shown = window.layout.bars.values
        for told, status in (("", "Not saved yet."), (str(self.folder / "a.mp3"), "ends in .wav"),
                             ("/does/not/exist/a.wav", "Not saved")):  # fmt: skip
            window.dialogs.save_clip.return_value = told
            self.press("<Control-s>")
            self.pump(lambda status=status: status in window.status)
        window.dialogs.save_clip.return_value = str(path)
        path.write_bytes(b"the old one")
        self.press("<Control-s>")
        self.pump(lambda: window.status == f"Saved as {path}")
        self.assertEqual(predicted(path).probabilities, shown)
        self.assertEqual(sorted(os.listdir(self.folder)), ["saved.wav"])
        self.assertTrue(window.layout.save.instate(["disabled"]))
        self.press("<Control-w>")  # without a question
        self.assertTrue(window.over)

    @needs_recorder
    def test_until_it_is_stopped(self):
        """Windows are answered meanwhile; what is kept is what was heard."""
        path = self.folder / "long.wav"
        path.write_bytes(wav_bytes(tone(60.0)))
        window = self.real("--source", f"file:{path}")
        self.press("<space>")
        self.pump(lambda: window.layout.bars.values)
        self.assertIn("while recording", str(window.layout.detail.cget("text")))
        self.assertEqual(window.layout.headline.cget("text"), window.layout.bars.best)
        self.assertTrue(window.layout.timeline.find_withtag("wave"))
        self.pump(lambda: window.layout.timeline.find_withtag("attention"))
        self.press("<Escape>")
        self.pump(lambda: window.recorder is None)
        self.answered()
        expected = predicted(window.clip)
        self.assertTrue(5.0 <= expected.duration < 30.0, expected.duration)
        self.assertEqual(window.layout.bars.values, expected.probabilities)
        self.assertEqual(len(window.layout.timeline.attention_points), len(expected.attention))

    @needs_recorder
    def test_closed_while_it_records(self):
        path = self.folder / "long.wav"
        path.write_bytes(wav_bytes(tone(60.0)))
        for answer, stays in ((None, True), (False, False), (True, False)):
            with self.subTest(answer):
                window = self.real("--source", f"file:{path}")
                window.dialogs.save_first.side_effect = None
                window.dialogs.save_first.return_value = answer
                window.dialogs.save_clip.return_value = str(self.folder / "kept.wav")
                self.press("<space>")
                self.pump(lambda: window.layout.meter.words)
                pid = window.recorder.pid
                self.press("<Control-q>")
                if stays:
                    self.answered()
                    self.assertFalse(window.over)
                    self.assertTrue(window.unsaved)
                    window.dialogs.save_first.return_value = False
                    window.close()
                self.pump(lambda: window.over)
                self.assertTrue(gone(pid))
                self.assertFalse(os.path.exists(window.folder.name))
                window.worker.finish(60)
        self.assertGreater(predicted(self.folder / "kept.wav").duration, 0.05)

    def test_shutdown_while_it_records(self):
        window = self.start(tool=fake_tool(self.folder, "stubborn"))
        self.press("<space>")
        self.pump(lambda: window.layout.meter.words)
        pid = window.recorder.pid
        window.request_shutdown()
        self.pump(lambda: window.over)
        self.assertTrue(gone(pid))

    @needs_recorder
    def test_no_model(self):
        window = self.real("--source", f"file:{CLIP}", "--model", "/does/not/exist")
        self.press("<space>")
        self.pump(lambda: window.recorder is None and "/does/not/exist" in self.message())
        self.assertIn("⚠", window.status)

    @needs_recorder
    def test_no_such_source(self):
        window = self.real("--source", "file:/does/not/exist.wav")
        self.press("<space>")
        self.pump(lambda: window.recorder is None and "/does/not/exist.wav" in self.message())

    def test_no_microphone(self):
        window = self.start(tool=fake_tool(self.folder, "no microphone", devices=()))
        self.pump(lambda: "No microphone found: PulseAudio (refused)" in self.message())
        self.assertIn("Plug one in", self.message())
        self.assertIn("Ctrl+O", self.message())
        self.assertEqual(window.layout.microphone.get(), "None found")
        self.press("<space>")
        self.pump(lambda: window.recorder is None and "Start PulseAudio" in self.message())
        self.assertIn("⚠", window.status)
        fake_tool(self.folder, "no microphone")  # one is plugged in, and the list is opened
        window.root.tk.call(str(window.layout.microphone.cget("postcommand")))
        self.pump(lambda: len(window.microphones.names) == 3)

    def test_microphone_that_is_chosen(self):
        seen = []
        window = self.start()
        self.pump(lambda: window.microphones.names)
        with mock.patch.object(recorder, "command_line", side_effect=lambda *a: seen.append(a) or
                               ["/does/not/exist"]):  # fmt: skip
            window.layout.microphone.set("USB Microphone")
            self.press("<<ComboboxSelected>>", window.layout.microphone)
            self.assertIn("USB Microphone", window.status)
            self.press("<space>")
            self.assertIn("cannot be run", window.status)
        self.assertEqual(seen[0][2], "alsa:hw:1")
        self.assertEqual(
            recorder.command_line("T", "C", "S", "M", "cpu"),
            "T --continuous --quiet --format jsonl --levels --attention --output C --source S "
            "--model M --device cpu".split(),
        )

    def test_no_tool(self):
        window = self.start("--tool", "/does/not/exist/ser-record")
        self.pump(lambda: "/does/not/exist/ser-record was not found" in self.message())
        self.assertIn("--tool", self.message())
        self.press("<space>")
        self.assertIn("was not found", window.status)
        self.assertIsNone(window.recorder)

    def test_microphone_that_is_lost(self):
        window = self.start(tool=fake_tool(self.folder, "lost"))
        self.press("<space>")
        self.pump(lambda: window.recorder is None and window.clip)
        self.answered()
        self.assertIn("it was pulled out", window.status)
        self.assertEqual(window.layout.bars.values, predicted(CLIP).probabilities)
        self.assertTrue(window.unsaved)
        window.dialogs.save_first.side_effect = None
        window.dialogs.save_first.return_value = False
        window.close()
        self.assertTrue(window.over)

    def test_tool_that_does_not_end(self):
        window = self.start(tool=fake_tool(self.folder, "stubborn"))
        with mock.patch.object(recorder, "PATIENCE", 0.2):
            self.press("<space>")
            self.pump(lambda: window.layout.meter.words)
            self.press("<space>")
            self.pump(lambda: window.recorder is None)
        self.answered()
        self.assertEqual(window.layout.bars.values, predicted(CLIP).probabilities)

    def test_tool_that_talks_nonsense(self):
        window = self.start(tool=fake_tool(self.folder, "garbage"))
        self.press("<space>")
        self.pump(lambda: window.recorder is None and "Nothing was recorded" in self.message())

    def test_clipping_is_said_in_words(self):
        window = self.start(tool=fake_tool(self.folder, "loud"))
        self.press("<space>")
        self.pump(lambda: window.layout.meter.words == "clipping: too loud")
        self.press("<space>")
        self.answered()

    def test_saving_takes_its_time(self):
        """What happens meanwhile does not mix with it."""
        go_on = threading.Event()
        real = worker.shutil.copyfileobj
        window = self.start(tool=fake_tool(self.folder, "lost"))
        self.press("<space>")
        self.pump(lambda: window.recorder is None and window.clip)
        self.answered()
        window.dialogs.save_clip.return_value = str(self.folder / "kept.wav")
        with mock.patch.object(
            worker.shutil, "copyfileobj", lambda *a: (go_on.wait(60), real(*a))
        ):
            self.press("<Control-s>")
            self.press("<Control-s>")
            self.press("<space>")
            self.assertIsNone(window.recorder)
            self.assertIn("Still saving", window.status)
            self.press("<Control-w>")  # waits, and does not ask
            self.assertFalse(window.over)
            go_on.set()
            self.pump(lambda: window.over)
        self.assertEqual((self.folder / "kept.wav").read_bytes(), CLIP.read_bytes())
        self.assertEqual(window.dialogs.save_clip.call_count, 1)

    def test_shutdown_while_it_saves(self):
        """Whether the copy has not begun or is under way, it is completed first."""
        for owner, name in ((worker.Worker, "_save"), (worker.shutil, "copyfileobj")):
            with self.subTest(name):
                self.check_shutdown(owner, name)

    def check_shutdown(self, owner, name):
        """While owner.name waits."""
        begun, go_on, real = threading.Event(), threading.Event(), getattr(owner, name)
        window = self.start(tool=fake_tool(self.folder, "lost"))
        self.press("<space>")
        self.pump(lambda: window.recorder is None and window.clip)
        self.answered()
        path = self.folder / f"{name}.wav"
        window.dialogs.save_clip.return_value = str(path)
        with mock.patch.object(owner, name, lambda *a: (begun.set(), go_on.wait(60), real(*a))):
            self.press("<Control-s>")
            self.pump(begun.is_set)
            threading.Timer(0.5, go_on.set).start()
            window.request_shutdown()
            self.pump(lambda: window.over)
        self.assertEqual(path.read_bytes(), CLIP.read_bytes())
        self.assertEqual([p for p in os.listdir(self.folder) if p.endswith(".part")], [])

    def test_long_recordings_are_not_lost(self):
        long = self.folder / "long.wav"
        long.write_bytes(wav_bytes(tone(12.0)))
        window = self.start(tool=fake_tool(self.folder, "long", LONG=long))
        self.press("<space>")
        self.pump(lambda: window.recorder is None and window.clip)
        self.answered()
        window.dialogs.save_first.side_effect = None
        window.dialogs.save_first.return_value = None
        self.press("<space>")
        self.assertIsNone(window.recorder)
        window.open(str(CLIP))
        self.assertNotEqual(window.clip, str(CLIP))
        self.assertEqual(window.dialogs.save_first.call_count, 2)
        window.dialogs.save_first.return_value = True
        window.dialogs.save_clip.return_value = str(self.folder / "kept.wav")
        self.press("<space>")
        self.pump(lambda: window.recorder is not None)  # once it is saved
        self.assertEqual((self.folder / "kept.wav").read_bytes(), long.read_bytes())
        window.dialogs.save_first.return_value = False


if __name__ == "__main__":
    run_tests()
