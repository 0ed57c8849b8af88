# SPDX-License-Identifier: MIT
"""The version of the headers that _ffi.py was written from."""

__version__ = "0.1.0"
