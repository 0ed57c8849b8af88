# SPDX-License-Identifier: MIT
"""Command line of the window, and what is said where there can be none."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import Sequence

from .._version import __version__

# As the tools have them.
EXIT_OK = 0
EXIT_DEVICE = 4

# Largest factor that makes sense: a text of 10 points on a wall.
MAX_SCALE = 8.0

NO_TKINTER = (
    "this Python has no tkinter: install python3-tk (Debian, Ubuntu), python3-tkinter (Fedora) "
    "or tk (Arch)"
)
NO_DISPLAY = (
    "there is no display ({0}): start it from a graphical session, or use ser-record in a terminal"
)


def _scale(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= MAX_SCALE:
        raise argparse.ArgumentTypeError(f"must be 0.5 to {MAX_SCALE:g}, not {text}")
    return value


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="ser.gui",
        description="Record speech or open an audio file, and see which emotion it sounds like.",
        epilog="Nothing that is recorded leaves this machine.",
    )
    out.add_argument("file", nargs="?", help="audio file to open")
    out.add_argument("--source", help="microphone, as ser-record --source takes it")
    out.add_argument("--model", help="model file or transformers directory (default: $SER_MODEL, "
                     "or the one that is installed)")  # fmt: skip
    out.add_argument("--device", help='compute on "cpu", "cuda" or "cuda:N" (default: auto)')
    out.add_argument("--tool", help="path of ser-record (default: $SER_RECORD, or from PATH)")
    out.add_argument("--scale", type=_scale, help="size of text and all else (default: as the "
                     "desktop says; 2 is twice the usual)")  # fmt: skip
    out.add_argument("--version", action="version", version=f"ser.gui {__version__}")
    return out


def fail(text: str) -> int:
    print(f"ser.gui: {text}", file=sys.stderr)
    return EXIT_DEVICE


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    try:
        import tkinter
    except ImportError:
        return fail(NO_TKINTER)
    from .window import Window

    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ending.set())
    try:
        window = Window(chosen, ending)
    except tkinter.TclError as error:
        if os.environ.get("DISPLAY") and "display" not in str(error):
            raise
        return fail(NO_DISPLAY.format(error))
    window.run()
    return EXIT_OK
