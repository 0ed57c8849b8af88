# SPDX-License-Identifier: MIT
"""The loaded library, its failures as exceptions and its log as Python's."""

from __future__ import annotations

import ctypes
import logging
import numbers
import operator
from typing import Any

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


def set_option(structure: ctypes.Structure, field: str, value: Any, part: str = "") -> None:
    """A number into a field; ctypes alone would cut it to the field's width in silence."""
    kind, name = dict(structure._fields_).get(field), part + field
    if kind is None or field == "struct_size":
        raise TypeError(f"there is no option {name!r}")
    if kind in (ctypes.c_float, ctypes.c_double):
        if not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a number, not {value!r}")
        setattr(structure, field, float(value))
        return
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if kind(number).value != number:
        raise ValueError(f"{name} is {number}, which does not fit {ctypes.sizeof(kind)} bytes")
    setattr(structure, field, number)


def version() -> str:
    """Version of the loaded library, such as "0.1.0"."""
    return lib.ser_version_string().decode()
