# SPDX-License-Identifier: MIT
"""libser: emotion in speech.

    import ser

    with ser.Model.load() as model:
        print(model.predict("clip.wav", top_k=2))

ser.Model.create makes models to be trained, ser.Trainer trains them, ser.Stream takes live audio.

The library is found at $SER_LIBRARY, beside this package, or where the system has libser.so.0.
Its log goes to `logging.getLogger("ser")`.
"""

from ._errors import SerError, SerMemoryError, SerOSError, SerValueError
from ._library import version
from ._model import Model
from ._results import Prediction, StreamResult
from ._stream import Stream
from ._train import Batch, StepResult, Trainer
from ._version import __version__

__all__ = [
    "Batch",
    "Model",
    "Prediction",
    "SerError",
    "SerMemoryError",
    "SerOSError",
    "SerValueError",
    "StepResult",
    "Stream",
    "StreamResult",
    "Trainer",
    "__version__",
    "version",
]
