# SPDX-License-Identifier: MIT
"""libser: emotion in speech.

    import ser

    with ser.Model.load() as model:
        print(model.predict("clip.wav", top_k=2))

The library is found at $SER_LIBRARY, beside this package, or where the system has libser.so.0.
Its log goes to `logging.getLogger("ser")`.
"""

from ._errors import SerError, SerMemoryError, SerOSError, SerValueError
from ._library import version
from ._model import Model
from ._version import __version__

__all__ = [
    "Model",
    "SerError",
    "SerMemoryError",
    "SerOSError",
    "SerValueError",
    "__version__",
    "version",
]
