# SPDX-License-Identifier: MIT
"""include/ser/*.h for ctypes: constants, structures, functions, in the order of the headers.

ctypes releases the GIL for the length of each call.
"""

import ctypes
import os
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int16,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint64,
    c_void_p,
)

SONAME = "libser.so.0"

# --- common.h

OK = 0
ERR_ARGUMENT = -1
ERR_MEMORY = -2
ERR_IO = -10
ERR_FORMAT = -11
ERR_VERSION = -12
ERR_DATA = -13
ERR_MISMATCH = -14
ERR_UNSUPPORTED = -20
ERR_CAPACITY = -21
ERR_BUSY = -22
ERR_DEVICE = -30
ERR_NUMERIC = -40
ERR_CANCELLED = -50
ERR_INTERNAL = -90

LOG_DEBUG = 10
LOG_INFO = 20
LOG_WARNING = 30
LOG_ERROR = 40
LOG_SILENT = 100

log_handler = CFUNCTYPE(None, c_int32, c_char_p, c_void_p)

# --- device.h

DEVICE_AUTO = 0
DEVICE_CPU = 1
DEVICE_CUDA = 2


class device_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("index", c_int32),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


# --- audio.h

SAMPLING_RATE = 16000

NONFINITE_REFUSE = 0
NONFINITE_ZERO = 1

AUDIO_TRUNCATED = 1 << 0
AUDIO_SILENT = 1 << 1
AUDIO_CLIPPED = 1 << 2
AUDIO_DC_OFFSET = 1 << 3
AUDIO_NONFINITE = 1 << 4
AUDIO_CANCELLED = 1 << 5
AUDIO_SHORT = 1 << 6


class audio_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("offset", c_double),
        ("length", c_double),
        ("max_seconds", c_double),
        ("channel", c_int32),
        ("nonfinite", c_int32),
        ("strict", c_int32),
        ("any_format", c_int32),
    ]


class audio_info(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("frames", c_int64),
        ("sampling_rate", c_int32),
        ("channels", c_int32),
        ("flags", c_int32),
        ("clipped_ratio", c_float),
        ("dc_offset", c_float),
        ("peak", c_float),
        ("rms", c_float),
        ("nonfinite", c_int32),
    ]


# --- model.h

PRECISION_AUTO = 0
PRECISION_F32 = 1
PRECISION_BF16 = 2


class model_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("precision", c_int32),
        ("strict", c_int32),
        ("seed", c_uint64),
        ("max_header_size", c_uint64),
        ("layer_mix", c_int32),
        ("reserved", c_int32),
    ]


# --- predict.h


class predictor_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("max_batch", c_int32),
        ("threads", c_int32),
        ("max_seconds", c_double),
        ("window", c_double),
        ("padding", c_int32),
        ("reserved", c_int32),
    ]


PADDING_MODEL, PADDING_EXACT, PADDING_HF = range(3)
PREDICTION_WINDOWED = 1 << 16


class prediction(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("start", c_double),
        ("end", c_double),
        ("frame_start", c_double),
        ("frame_step", c_double),
        ("attention", POINTER(c_float)),
        ("attention_count", c_size_t),
        ("logits", POINTER(c_float)),
        ("logits_count", c_size_t),
        ("embedding", POINTER(c_float)),
        ("embedding_count", c_size_t),
        ("flags", c_int32),
        ("reserved", c_int32),
    ]


# --- stream.h

STREAM_GATED = 1 << 20
STREAM_LAST = 1 << 21


class stream_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("sampling_rate", c_int32),
        ("channels", c_int32),
        ("channel", c_int32),
        ("nonfinite", c_int32),
        ("window", c_double),
        ("hop", c_double),
        ("smoothing", c_double),
        ("gate", c_double),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class stream_result(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("index", c_int64),
        ("start", c_double),
        ("end", c_double),
        ("probabilities", POINTER(c_float)),
        ("label_count", c_size_t),
        ("label", c_int32),
        ("flags", c_int32),
        ("peak", c_float),
        ("rms", c_float),
        ("attention", POINTER(c_float)),
        ("attention_count", c_size_t),
        ("frame_start", c_double),
        ("frame_step", c_double),
    ]


# --- train.h

SCHEDULE_CONSTANT = 0
SCHEDULE_LINEAR = 1
SCHEDULE_COSINE = 2


class augment_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("speed_probability", c_float),
        ("speed", c_float),
        ("gain_db", c_float),
        ("noise_probability", c_float),
        ("noise_snr_low", c_float),
        ("noise_snr_high", c_float),
        ("silence_probability", c_float),
        ("silence", c_float),
        ("crop_probability", c_float),
        ("crop", c_float),
        ("lowpass_probability", c_float),
        ("lowpass_low", c_float),
        ("max_seconds", c_float),
        ("mel_warp", c_float),
        ("mel_tilt", c_float),
        ("mel_ripple", c_float),
        ("mel_channel_spans", c_int32),
        ("mel_channel_width", c_int32),
        ("mel_time_spans", c_int32),
        ("mel_time_width", c_int32),
    ]


class trainer_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("seed", c_uint64),
        ("steps", c_int64),
        ("warmup_steps", c_int64),
        ("schedule", c_int32),
        ("accumulate", c_int32),
        ("rate", c_float),
        ("head_rate", c_float),
        ("layer_decay", c_float),
        ("weight_decay", c_float),
        ("beta1", c_float),
        ("beta2", c_float),
        ("eps", c_float),
        ("clip_norm", c_float),
        ("average", c_float),
        ("label_smoothing", c_float),
        ("class_weights", POINTER(c_float)),
        ("projection_dropout", c_float),
        ("hidden_dropout", c_float),
        ("attention_dropout", c_float),
        ("activation_dropout", c_float),
        ("classifier_dropout", c_float),
        ("layer_drop", c_float),
        ("mask_time_probability", c_float),
        ("mask_time_length", c_int32),
        ("mask_channel_probability", c_float),
        ("mask_channel_length", c_int32),
        ("freeze_features", c_int32),
        ("freeze_layers", c_int32),
        ("freeze", c_char_p),
        ("cache_bytes", c_uint64),
        ("max_skipped", c_int32),
        ("augment", augment_options),
    ]


class clip(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("audio", c_void_p),
        ("id", c_uint64),
        ("label", c_int32),
        ("weight", c_float),
        ("targets", POINTER(c_float)),
        ("classes", POINTER(c_uint8)),
    ]


class step_result(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("step", c_int64),
        ("updated", c_int32),
        ("skipped", c_int32),
        ("loss", c_double),
        ("gradient_norm", c_double),
        ("rate", c_double),
        ("head_rate", c_double),
        ("correct", c_int32),
        ("bad_clip", c_int64),
    ]


# --- Functions: name without "ser_" -> (result, arguments). Handles and untyped data are c_void_p.

_handle = c_void_p
_out = POINTER(c_void_p)

FUNCTIONS = {
    "status_name": (c_char_p, [c_int]),
    "error_message": (c_char_p, []),
    "version_string": (c_char_p, []),
    "version_number": (c_int32, []),
    "log_set_handler": (None, [log_handler, c_void_p]),
    "log_set_level": (None, [c_int32]),
    "device_options_init": (None, [POINTER(device_options), c_size_t]),
    "device_count": (c_int, [c_int32]),
    "device_open": (c_int, [POINTER(device_options), _out]),
    "device_kind": (c_int32, [_handle]),
    "device_name": (c_char_p, [_handle]),
    "device_free": (None, [_out]),
    "audio_options_init": (None, [POINTER(audio_options), c_size_t]),
    "audio_read": (c_int, [c_char_p, POINTER(audio_options), _out]),
    "audio_read_memory": (c_int, [c_void_p, c_size_t, POINTER(audio_options), _out]),
    "audio_from_samples": (
        c_int,
        [POINTER(c_float), c_size_t, c_int32, c_int32, POINTER(audio_options), _out],
    ),
    "audio_samples": (POINTER(c_float), [_handle, POINTER(c_size_t)]),
    "audio_duration": (c_double, [_handle]),
    "audio_get_info": (c_int, [_handle, POINTER(audio_info)]),
    "audio_free": (None, [_out]),
    "reader_open": (c_int, [c_char_p, POINTER(audio_options), _out]),
    "reader_next": (c_int, [_handle, c_double, c_double, _out, POINTER(c_double)]),
    "reader_at_end": (c_int, [_handle]),
    "reader_get_info": (c_int, [_handle, POINTER(audio_info)]),
    "reader_free": (None, [_out]),
    "model_options_init": (None, [POINTER(model_options), c_size_t]),
    "model_load": (c_int, [_handle, c_char_p, POINTER(model_options), _out]),
    "model_load_memory": (c_int, [_handle, c_void_p, c_size_t, POINTER(model_options), _out]),
    "model_create": (
        c_int,
        [_handle, c_char_p, POINTER(c_char_p), c_size_t, POINTER(model_options), _out],
    ),
    "model_create_from_config": (
        c_int,
        [_handle, c_char_p, POINTER(c_char_p), c_size_t, POINTER(model_options), _out],
    ),
    "model_save": (c_int, [_handle, c_char_p]),
    "model_label_count": (c_size_t, [_handle]),
    "model_label": (c_char_p, [_handle, c_size_t]),
    "model_parameter_count": (c_uint64, [_handle]),
    "model_config": (c_char_p, [_handle]),
    "model_path": (c_char_p, [_handle]),
    "model_window": (c_double, [_handle]),
    "model_max_seconds": (c_double, [_handle]),
    "model_ref": (_handle, [_handle]),
    "model_free": (None, [_out]),
    "predictor_options_init": (None, [POINTER(predictor_options), c_size_t]),
    "predictor_create": (c_int, [_handle, POINTER(predictor_options), _out]),
    "predict": (c_int, [_handle, _handle, POINTER(c_float), c_size_t]),
    "predict_batch": (c_int, [_handle, POINTER(c_void_p), c_size_t, POINTER(c_float), c_size_t]),
    "predictor_get_prediction": (c_int, [_handle, c_size_t, POINTER(prediction)]),
    "predictor_free": (None, [_out]),
    "stream_options_init": (None, [POINTER(stream_options), c_size_t]),
    "stream_create": (c_int, [_handle, POINTER(stream_options), _out]),
    "stream_push": (c_int, [_handle, POINTER(c_float), c_size_t]),
    "stream_push_s16": (c_int, [_handle, POINTER(c_int16), c_size_t]),
    "stream_next": (c_int, [_handle, POINTER(stream_result), POINTER(c_int32)]),
    "stream_flush": (c_int, [_handle]),
    "stream_reset": (c_int, [_handle]),
    "stream_free": (None, [_out]),
    "trainer_options_init": (None, [POINTER(trainer_options), c_size_t]),
    "trainer_create": (c_int, [_handle, POINTER(trainer_options), _out]),
    "batch_create": (c_int, [_handle, POINTER(clip), c_size_t, c_int64, c_int32, _out]),
    "batch_free": (None, [_out]),
    "trainer_observe": (c_int, [_handle, _handle]),
    "trainer_settle": (c_int, [_handle]),
    "train_collect": (c_int, [_handle, POINTER(step_result), POINTER(c_int32)]),
    "train_step": (c_int, [_handle, _handle, POINTER(step_result)]),
    "train_submit": (c_int, [_handle, _handle]),
    "trainer_evaluate": (c_int, [_handle, _handle, POINTER(c_float), POINTER(c_float)]),
    "trainer_use_average": (c_int, [_handle, c_int32]),
    "trainer_set_rate": (c_int, [_handle, c_double]),
    "trainer_cancel": (None, [_handle]),
    "trainer_steps": (c_int64, [_handle]),
    "trainer_trained_count": (c_uint64, [_handle]),
    "trainer_save": (c_int, [_handle, c_char_p, c_char_p]),
    "trainer_restore": (c_int, [_handle, c_char_p, POINTER(c_char_p)]),
    "trainer_save_model": (c_int, [_handle, c_char_p, c_double, c_char_p]),
    "trainer_free": (None, [_out]),
}


def _candidates():
    """Where the library may be: as told, beside this file (wheels), where the system has it."""
    told = os.environ.get("SER_LIBRARY")
    if told:
        return [told]
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), SONAME)
    return [beside, SONAME] if os.path.exists(beside) else [SONAME]


def load():
    """Open the library and give every function its signature; ImportError says what was tried."""
    reasons = []
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
            for function, (result, arguments) in FUNCTIONS.items():
                symbol = getattr(library, "ser_" + function)
                symbol.restype, symbol.argtypes = result, arguments
            return library
        except OSError as error:
            reasons.append(str(error))
        except AttributeError as error:
            reasons.append(f"{name} is older than this package: {error}")
    raise ImportError(
        "cannot load libser: "
        + "; ".join(reasons)
        + " (install libser, or set SER_LIBRARY to its path)"
    )
