# SPDX-License-Identifier: MIT
"""A window to press Record in: `python3 -m ser.gui`.

It needs tkinter and a display, and ser-record for the microphone. Sound comes in through
`ser-record`, answers from ser.Model; both work beside the window's own thread, which alone calls
Tk and reads what they have posted (window.py).
"""
