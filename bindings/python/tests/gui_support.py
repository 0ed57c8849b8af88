# SPDX-License-Identifier: MIT
"""What the tests of the window share: a display of its own, a window that is driven by events, and
a program in place of ser-record."""

import contextlib
import gc
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

from helpers import ROOT

import ser

CLIP = ROOT / "examples" / "clip.wav"
MODEL = ROOT / "models" / "ser-mini.safetensors"
SCREEN = (2600, 1800)
TIMEOUT = 120.0

FAKE = '''#!{python}
import json, os, shutil, signal, sys, time
if "--list-devices" in sys.argv:
    for device in {devices!r}:
        print(json.dumps(device))
    sys.exit(0 if {devices!r} else print("ser-record: no microphone found: PulseAudio (refused)"
             "\\nser-record: plug one in", file=sys.stderr) or 4)
clip = sys.argv[sys.argv.index("--output") + 1]
def level(i):
    print(json.dumps(dict(event="level", time=0.05 * i, peak_db=-12.5, rms_db=-20.0, low=-0.2,
                          high=0.25, clipped=0)), flush=True)
{body}
'''

MICROPHONES = (
    {"source": "pulse:mic", "description": "Built-in Microphone", "default": True},
    {"source": "alsa:hw:1", "description": "USB Microphone", "default": False},
)

# Bodies of the program: what it does instead of recording.
BODIES = {
    "no microphone": """
print("ser-record: no microphone: tried PulseAudio (Connection refused)", file=sys.stderr)
print("ser-record: start PulseAudio or PipeWire", file=sys.stderr)
sys.exit(4)
""",
    "lost": """
for i in range(1, 20): level(i)
shutil.copyfile(CLIP, clip)
print("ser-record: the microphone was lost: it was pulled out", file=sys.stderr)
sys.exit(6)
""",
    "stubborn": """
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
shutil.copyfile(CLIP, clip + ".part")
level(1)
while True: time.sleep(0.1)
""",
    "garbage": """
print("not JSON")
print("[1, 2]")
print("{}")
print(json.dumps(dict(event="level", time=0.05, peak_db=None, rms_db=None, low=None, high=None)))
print(json.dumps(dict(event="level", time=0.1, peak_db=-100.0, rms_db=-100.0, low=0, high=0,
                      clipped=0)))
print(json.dumps(dict(event="window", start=0, end=5, label=None, score=None, scores={},
                      flags=["gated"], attention=None)))
print(json.dumps(dict(event="gap", time=1.0, seconds=2.5)))
print(json.dumps(dict(event="of another release")))
sys.stdout.buffer.write(b"\\xff\\xfe\\n")
sys.exit(0)
""",
    "long": """
shutil.copyfile(LONG, clip)
level(300)
""",
    "loud": """
for i in range(1, 4): print(json.dumps(dict(event="level", time=0.05 * i, peak_db=0.0, rms_db=-3.0,
                                            low=-1, high=1, clipped=7)), flush=True)
signal.signal(signal.SIGINT, lambda *_: (shutil.copyfile(CLIP, clip), os._exit(0)))
while True: time.sleep(0.1)
""",
}


def have_tkinter():
    try:
        import tkinter  # noqa: F401
    except ImportError:
        return False
    return True


# Why the window cannot be tried here, or None.
LACKING = next(
    (
        text
        for found, text in (
            (have_tkinter(), "needs tkinter (python3-tk)"),
            (shutil.which("Xvfb"), "needs Xvfb (xvfb)"),
            (shutil.which("ffmpeg"), "needs ffmpeg"),
        )
        if not found
    ),
    None,
)


class Display:
    """An X server that nobody sees, on a number that was free."""

    def __init__(self):
        reading, writing = os.pipe()
        self._server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(writing), "-screen", "0", "%dx%dx24" % SCREEN, "-nolisten",
             "tcp", "-dpi", "96"],
            pass_fds=(writing,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(writing)
        with open(reading) as lines:  # a server that cannot finish its line gives up
            number = lines.readline().strip()
        if not number:
            self.stop()
            raise RuntimeError("Xvfb did not start")
        self.name = f":{number}"

    def stop(self):
        self._server.terminate()
        self._server.wait()


def fake_tool(folder, body, devices=MICROPHONES, **values):
    """Path of a program that takes the place of ser-record."""
    text = "\n".join(f"{name} = {str(value)!r}" for name, value in {"CLIP": CLIP, **values}.items())
    path = pathlib.Path(folder) / "ser-record"
    code = FAKE.format(python=sys.executable, devices=list(devices), body=text + BODIES[body])
    path.write_text(code)
    path.chmod(0o755)
    return path


def make_window(*arguments):
    from ser.gui.app import parser
    from ser.gui.window import Window

    return Window(parser().parse_args([str(argument) for argument in arguments]))


def pump(window, until, timeout=TIMEOUT):
    """Let the window work until something is so."""
    end = time.monotonic() + timeout
    while not until():
        if time.monotonic() > end:
            raise AssertionError(f"it did not come to that; the window says {window.status!r}")
        window.root.update()
        time.sleep(0.01)


def shoot(window, path):
    """The window as a PNG file."""
    root = window.root
    for _ in range(3):
        root.update()
    size = f"{root.winfo_width()}x{root.winfo_height()}"
    place = f"{os.environ['DISPLAY']}+{root.winfo_rootx()},{root.winfo_rooty()}"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "x11grab", "-draw_mouse", "0", "-video_size", size,
         "-i", place, "-frames:v", "1", "-pix_fmt", "rgb24", str(path)],
        check=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT,
    )  # fmt: skip


def pixels(path):
    """(width, height, RGB bytes) of a PNG file."""
    head = pathlib.Path(path).read_bytes()[:24]
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        raise AssertionError(f"{path} is no PNG file")
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT,
    )  # fmt: skip
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"), done.stdout


@contextlib.contextmanager
def environment(**values):
    """os.environ with some values for a while; None takes one out."""
    before = dict(os.environ)
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = str(value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def set_up_module():
    """A display for the tests of a module; unittest's cleanup takes it away."""
    if LACKING:
        raise unittest.SkipTest(LACKING)
    display = Display()
    unittest.addModuleCleanup(display.stop)
    os.environ["DISPLAY"] = display.name
    os.environ["SER_MODEL"] = str(MODEL)


def run_tests():
    """The program of a module of tests."""
    if LACKING:
        print(f"skipped: {LACKING}")
        sys.exit(77)
    unittest.main()


def predicted(path, model=None):
    with ser.Model.load(model) as loaded:
        return loaded.predict_details(path)


class WindowCase(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.window = None
        self.windows = []

    def tearDown(self):
        for window in self.windows:
            if not window.over:
                window.request_shutdown()
                pump(window, lambda window=window: window.over)
            self.assertTrue(window.worker.finish(60))
            self.assertEqual(window.faults, [])
            self.assertFalse(os.path.exists(window.folder.name))
        self.window = window = None
        self.windows.clear()
        gc.collect()  # what is of Tk ends on its own thread, not on that of the next worker

    def start(self, *arguments, tool=None, scale=1):
        """A window that has asked for microphones and loaded its model."""
        tool = tool or fake_tool(self.folder, "no microphone")
        self.window = window = make_window("--scale", scale, "--tool", tool, *arguments)
        self.windows.append(window)
        window.dialogs = mock.Mock()
        window.dialogs.save_first.side_effect = AssertionError("a question was not expected")
        window.layout.record.focus_force()  # there is no window manager to do that
        window.root.update()
        return window

    def real(self, *arguments):
        return self.start(*arguments, tool=os.environ["SER_RECORD"])

    def pump(self, until):
        pump(self.window, until)

    def answered(self):
        self.pump(lambda: not self.window.busy and self.window.layout.bars.values)

    def press(self, keys, widget=None):
        (widget or self.window.root).event_generate(keys)
        self.window.root.update()

    def message(self):
        return self.window.layout.timeline.message
