/* SPDX-License-Identifier: MIT */
/*
 * The layout of every public struct and the value of every public constant on 64-bit machines. What
 * is here has been promised: structs grow at their end, new lines are added, none is changed.
 */
#include <ser/ser.h>

#define AT(type, member, offset)                                                                   \
    _Static_assert(offsetof(type, member) == (offset), #type "." #member " has moved")
#define SIZE(type, size)    _Static_assert(sizeof(type) == (size), #type " has another size")
#define IS(constant, value) _Static_assert((constant) == (value), #constant " has another value")

#if UINTPTR_MAX == UINT64_MAX

AT(ser_device_options, struct_size, 0);
AT(ser_device_options, kind, 8);
AT(ser_device_options, index, 12);
AT(ser_device_options, threads, 16);
AT(ser_device_options, reserved, 20);
SIZE(ser_device_options, 24);

AT(ser_audio_options, struct_size, 0);
AT(ser_audio_options, offset, 8);
AT(ser_audio_options, length, 16);
AT(ser_audio_options, max_seconds, 24);
AT(ser_audio_options, channel, 32);
AT(ser_audio_options, nonfinite, 36);
AT(ser_audio_options, strict, 40);
AT(ser_audio_options, any_format, 44);
SIZE(ser_audio_options, 48);

AT(ser_audio_info, struct_size, 0);
AT(ser_audio_info, frames, 8);
AT(ser_audio_info, sampling_rate, 16);
AT(ser_audio_info, channels, 20);
AT(ser_audio_info, flags, 24);
AT(ser_audio_info, clipped_ratio, 28);
AT(ser_audio_info, dc_offset, 32);
AT(ser_audio_info, peak, 36);
AT(ser_audio_info, rms, 40);
AT(ser_audio_info, nonfinite, 44);
SIZE(ser_audio_info, 48);

AT(ser_model_options, struct_size, 0);
AT(ser_model_options, precision, 8);
AT(ser_model_options, strict, 12);
AT(ser_model_options, seed, 16);
AT(ser_model_options, max_header_size, 24);
SIZE(ser_model_options, 32);

AT(ser_predictor_options, struct_size, 0);
AT(ser_predictor_options, max_batch, 8);
AT(ser_predictor_options, threads, 12);
AT(ser_predictor_options, max_seconds, 16);
AT(ser_predictor_options, window, 24);
SIZE(ser_predictor_options, 32);

AT(ser_prediction, struct_size, 0);
AT(ser_prediction, start, 8);
AT(ser_prediction, end, 16);
AT(ser_prediction, frame_start, 24);
AT(ser_prediction, frame_step, 32);
AT(ser_prediction, attention, 40);
AT(ser_prediction, attention_count, 48);
AT(ser_prediction, logits, 56);
AT(ser_prediction, logits_count, 64);
AT(ser_prediction, embedding, 72);
AT(ser_prediction, embedding_count, 80);
AT(ser_prediction, flags, 88);
AT(ser_prediction, reserved, 92);
SIZE(ser_prediction, 96);

#endif

IS(SER_OK, 0);
IS(SER_ERR_ARGUMENT, -1);
IS(SER_ERR_MEMORY, -2);
IS(SER_ERR_IO, -10);
IS(SER_ERR_FORMAT, -11);
IS(SER_ERR_VERSION, -12);
IS(SER_ERR_DATA, -13);
IS(SER_ERR_MISMATCH, -14);
IS(SER_ERR_UNSUPPORTED, -20);
IS(SER_ERR_CAPACITY, -21);
IS(SER_ERR_BUSY, -22);
IS(SER_ERR_DEVICE, -30);
IS(SER_ERR_NUMERIC, -40);
IS(SER_ERR_CANCELLED, -50);
IS(SER_ERR_INTERNAL, -90);

IS(SER_LOG_DEBUG, 10);
IS(SER_LOG_INFO, 20);
IS(SER_LOG_WARNING, 30);
IS(SER_LOG_ERROR, 40);
IS(SER_LOG_SILENT, 100);

IS(SER_DEVICE_AUTO, 0);
IS(SER_DEVICE_CPU, 1);
IS(SER_DEVICE_CUDA, 2);

IS(SER_SAMPLING_RATE, 16000);
IS(SER_NONFINITE_REFUSE, 0);
IS(SER_NONFINITE_ZERO, 1);
IS(SER_AUDIO_TRUNCATED, 1);
IS(SER_AUDIO_SILENT, 2);
IS(SER_AUDIO_CLIPPED, 4);
IS(SER_AUDIO_DC_OFFSET, 8);
IS(SER_AUDIO_NONFINITE, 16);
IS(SER_AUDIO_CANCELLED, 32);
IS(SER_AUDIO_SHORT, 64);

IS(SER_PRECISION_AUTO, 0);
IS(SER_PRECISION_F32, 1);
IS(SER_PRECISION_BF16, 2);

IS(SER_PREDICTION_WINDOWED, 65536);

int main(void)
{
    return 0;
}
