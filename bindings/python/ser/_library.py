# SPDX-License-Identifier: MIT
"""The loaded library, its failures as exceptions and its log as Python's."""

from __future__ import annotations

import ctypes
import logging

from . import _ffi
from ._errors import error_of

lib = _ffi.load()
logger = logging.getLogger("ser")
logger.addHandler(logging.NullHandler())


@_ffi.log_handler
def _log(level: int, text: bytes, user: object) -> None:
    logger.log(level, "%s", text.decode("utf-8", "replace"))  # the levels have the same numbers


lib.ser_log_set_handler(_log, None)


def check(status: int) -> int:
    """Raise what a negative status stands for. On the thread of the call: the text is its own."""
    if status < 0:
        raise error_of(status, lib.ser_error_message().decode("utf-8", "replace"))
    return status


def options(structure: type, name: str):
    """An option structure with the library's defaults."""
    out = structure()
    getattr(lib, f"ser_{name}_init")(ctypes.byref(out), ctypes.sizeof(out))
    return out


def version() -> str:
    """Version of the loaded library, such as "0.1.0"."""
    return lib.ser_version_string().decode()
