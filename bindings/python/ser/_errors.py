# SPDX-License-Identifier: MIT
"""Status codes as exceptions."""

from __future__ import annotations

from . import _ffi


class SerError(Exception):
    """A call into libser failed: `status` is the SER_ERR_* number, `name` that constant's name."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.name = _NAMES.get(status, str(status))

    def __reduce__(self):
        return type(self), (self.status, str(self))


class SerOSError(SerError, OSError):
    """A file cannot be opened, read or written."""


class SerValueError(SerError, ValueError):
    """An argument or the content of a file makes no sense, or is not supported."""


class SerMemoryError(SerError, MemoryError):
    """The host or the device is out of memory."""


_NAMES = {value: "SER_" + name for name, value in vars(_ffi).items() if name.startswith("ERR_")}

_CLASSES = {
    _ffi.ERR_MEMORY: SerMemoryError,
    _ffi.ERR_IO: SerOSError,
    _ffi.ERR_ARGUMENT: SerValueError,
    _ffi.ERR_FORMAT: SerValueError,
    _ffi.ERR_VERSION: SerValueError,
    _ffi.ERR_DATA: SerValueError,
    _ffi.ERR_MISMATCH: SerValueError,
    _ffi.ERR_UNSUPPORTED: SerValueError,
    _ffi.ERR_CAPACITY: SerValueError,
}


def error_of(status: int, message: str) -> SerError:
    return _CLASSES.get(status, SerError)(status, message)
