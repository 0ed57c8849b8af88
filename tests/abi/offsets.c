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
AT(ser_model_options, layer_mix, 32);
AT(ser_model_options, reserved, 36);
SIZE(ser_model_options, 40);

AT(ser_predictor_options, struct_size, 0);
AT(ser_predictor_options, max_batch, 8);
AT(ser_predictor_options, threads, 12);
AT(ser_predictor_options, max_seconds, 16);
AT(ser_predictor_options, window, 24);
AT(ser_predictor_options, padding, 32);
AT(ser_predictor_options, reserved, 36);
SIZE(ser_predictor_options, 40);

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

AT(ser_stream_options, struct_size, 0);
AT(ser_stream_options, sampling_rate, 8);
AT(ser_stream_options, channels, 12);
AT(ser_stream_options, channel, 16);
AT(ser_stream_options, nonfinite, 20);
AT(ser_stream_options, window, 24);
AT(ser_stream_options, hop, 32);
AT(ser_stream_options, smoothing, 40);
AT(ser_stream_options, gate, 48);
AT(ser_stream_options, threads, 56);
AT(ser_stream_options, reserved, 60);
SIZE(ser_stream_options, 64);

AT(ser_stream_result, struct_size, 0);
AT(ser_stream_result, index, 8);
AT(ser_stream_result, start, 16);
AT(ser_stream_result, end, 24);
AT(ser_stream_result, probabilities, 32);
AT(ser_stream_result, label_count, 40);
AT(ser_stream_result, label, 48);
AT(ser_stream_result, flags, 52);
AT(ser_stream_result, peak, 56);
AT(ser_stream_result, rms, 60);
AT(ser_stream_result, attention, 64);
AT(ser_stream_result, attention_count, 72);
AT(ser_stream_result, frame_start, 80);
AT(ser_stream_result, frame_step, 88);
SIZE(ser_stream_result, 96);

AT(ser_augment_options, struct_size, 0);
AT(ser_augment_options, speed_probability, 8);
AT(ser_augment_options, speed, 12);
AT(ser_augment_options, gain_db, 16);
AT(ser_augment_options, noise_probability, 20);
AT(ser_augment_options, noise_snr_low, 24);
AT(ser_augment_options, noise_snr_high, 28);
AT(ser_augment_options, silence_probability, 32);
AT(ser_augment_options, silence, 36);
AT(ser_augment_options, crop_probability, 40);
AT(ser_augment_options, crop, 44);
AT(ser_augment_options, lowpass_probability, 48);
AT(ser_augment_options, lowpass_low, 52);
AT(ser_augment_options, max_seconds, 56);
AT(ser_augment_options, mel_warp, 60);
AT(ser_augment_options, mel_tilt, 64);
AT(ser_augment_options, mel_ripple, 68);
AT(ser_augment_options, mel_channel_spans, 72);
AT(ser_augment_options, mel_channel_width, 76);
AT(ser_augment_options, mel_time_spans, 80);
AT(ser_augment_options, mel_time_width, 84);
SIZE(ser_augment_options, 88);

AT(ser_trainer_options, struct_size, 0);
AT(ser_trainer_options, seed, 8);
AT(ser_trainer_options, steps, 16);
AT(ser_trainer_options, warmup_steps, 24);
AT(ser_trainer_options, schedule, 32);
AT(ser_trainer_options, accumulate, 36);
AT(ser_trainer_options, rate, 40);
AT(ser_trainer_options, head_rate, 44);
AT(ser_trainer_options, layer_decay, 48);
AT(ser_trainer_options, weight_decay, 52);
AT(ser_trainer_options, beta1, 56);
AT(ser_trainer_options, beta2, 60);
AT(ser_trainer_options, eps, 64);
AT(ser_trainer_options, clip_norm, 68);
AT(ser_trainer_options, average, 72);
AT(ser_trainer_options, label_smoothing, 76);
AT(ser_trainer_options, class_weights, 80);
AT(ser_trainer_options, projection_dropout, 88);
AT(ser_trainer_options, hidden_dropout, 92);
AT(ser_trainer_options, attention_dropout, 96);
AT(ser_trainer_options, activation_dropout, 100);
AT(ser_trainer_options, classifier_dropout, 104);
AT(ser_trainer_options, layer_drop, 108);
AT(ser_trainer_options, mask_time_probability, 112);
AT(ser_trainer_options, mask_time_length, 116);
AT(ser_trainer_options, mask_channel_probability, 120);
AT(ser_trainer_options, mask_channel_length, 124);
AT(ser_trainer_options, freeze_features, 128);
AT(ser_trainer_options, freeze_layers, 132);
AT(ser_trainer_options, freeze, 136);
AT(ser_trainer_options, cache_bytes, 144);
AT(ser_trainer_options, max_skipped, 152);
AT(ser_trainer_options, augment, 160);
SIZE(ser_trainer_options, 248);

AT(ser_clip, struct_size, 0);
AT(ser_clip, audio, 8);
AT(ser_clip, id, 16);
AT(ser_clip, label, 24);
AT(ser_clip, weight, 28);
AT(ser_clip, targets, 32);
AT(ser_clip, classes, 40);
SIZE(ser_clip, 48);

AT(ser_step_result, struct_size, 0);
AT(ser_step_result, step, 8);
AT(ser_step_result, updated, 16);
AT(ser_step_result, skipped, 20);
AT(ser_step_result, loss, 24);
AT(ser_step_result, gradient_norm, 32);
AT(ser_step_result, rate, 40);
AT(ser_step_result, head_rate, 48);
AT(ser_step_result, correct, 56);
AT(ser_step_result, bad_clip, 64);
SIZE(ser_step_result, 72);

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

IS(SER_STREAM_GATED, 1048576);
IS(SER_STREAM_LAST, 2097152);

IS(SER_SCHEDULE_CONSTANT, 0);
IS(SER_SCHEDULE_LINEAR, 1);
IS(SER_SCHEDULE_COSINE, 2);

int main(void)
{
    return 0;
}
