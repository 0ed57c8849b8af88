# SPDX-License-Identifier: MIT
"""Make docs/gui.png, or the file that is named: the window with the bundled clip, twice its size.

    SER_LIBRARY=build/lib/libser.so.0 python3 bindings/python/tests/gui_screenshot.py
"""

import sys
import tempfile

from gui_support import CLIP, MODEL, Display, environment, fake_tool, make_window, pump, shoot
from helpers import ROOT

PICTURE = ROOT / "docs" / "gui.png"
SCALE = 2


def make(path):
    """Needs a display."""
    with tempfile.TemporaryDirectory() as folder, environment(SER_MODEL=MODEL):
        tool = fake_tool(folder, "no microphone")
        window = make_window("--scale", SCALE, "--tool", tool, CLIP)
        pump(window, lambda: window.layout.bars.values and window.microphones.names)
        shoot(window, path)
        window.close()
        window.worker.finish(60)


if __name__ == "__main__":
    display = Display()
    try:
        with environment(DISPLAY=display.name):
            make(sys.argv[1] if len(sys.argv) > 1 else PICTURE)
    finally:
        display.stop()
