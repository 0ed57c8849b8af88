/* SPDX-License-Identifier: MIT */
/**
 * @file
 * libser: emotion in speech. Include this one header.
 *
 * The whole path, without error checks:
 *
 *     ser_device *device;        ser_device_open(NULL, &device);
 *     ser_model *model;          ser_model_load(device, NULL, NULL, &model);
 *     ser_predictor *predictor;  ser_predictor_create(model, NULL, &predictor);
 *     ser_audio *audio;          ser_audio_read("clip.wav", NULL, &audio);
 *     float p[8];                ser_predict(predictor, audio, p, 8);
 *     printf("%s %.2f\n", ser_model_label(model, 0), p[0]);
 *
 * Live audio, one answer per window as soon as it is complete (examples/6_stream.c):
 *
 *     ser_stream *stream;        ser_stream_create(model, NULL, &stream);
 *     ser_stream_push(stream, samples, frames);
 *     ser_stream_result result = {.struct_size = sizeof result};
 *     int32_t found;             ser_stream_next(stream, &result, &found);
 *
 * Training, with clips and labels of one's own (examples/4_train.c):
 *
 *     ser_model_create(device, "wav2vec2-base", labels, 4, NULL, &model);
 *     ser_trainer *trainer;      ser_trainer_create(model, NULL, &trainer);
 *     for (int64_t i = 0; i < 1000; i++) {
 *         ser_batch *batch;      ser_batch_create(trainer, clips[i], 8, 0, 1, &batch);
 *         ser_step_result done = {.struct_size = sizeof done};
 *         ser_train_step(trainer, batch, &done);
 *         ser_batch_free(&batch);
 *     }
 *     ser_trainer_save_model(trainer, "best.safetensors", 1.0, NULL);
 *
 * Rules that hold everywhere:
 * - A function that can fail returns int: 0 or a negative SER_ERR_* whose text is in
 *   ser_error_message(). No input makes the library abort, exit or print.
 * - An object that comes through an out-pointer is the caller's to free; what is returned directly
 *   is borrowed from the object it was asked of. Every _free takes the handle's address, nulls it
 *   and accepts NULL.
 * - Buffers given to a call are only used during the call.
 * - Option structs are filled by their _init function; NULL means defaults. A program built against
 *   a newer header works with an older library until it sets an option that the library does not
 *   know.
 * - Different handles may be used from different threads at any time; each type says what one
 *   handle allows.
 * - After fork(), the child opens its own devices, models and predictors; those of the parent
 *   answer SER_ERR_BUSY.
 */
#ifndef SER_SER_H
#define SER_SER_H

#include <ser/audio.h>
#include <ser/common.h>
#include <ser/device.h>
#include <ser/model.h>
#include <ser/predict.h>
#include <ser/stream.h>
#include <ser/train.h>
#include <ser/version.h>

#endif
