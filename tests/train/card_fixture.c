/* SPDX-License-Identifier: MIT */
#include "card_fixture.h"

#include <math.h>

#include "base/fork.h"
#include "emulator.h"
#include "net/training_state.h"
#include "ops/cuda/cuda.h"
#include "ops/device.h"

ser_device *host, *card;

bool is_emulated(void)
{
    return getenv("SER_TEST_CUDA") == NULL;
}

static ser_device *open_emulated(void)
{
    const char *name;
    ser_device *d = ser_mem_alloc(1, sizeof *d);
    ck_assert_ptr_nonnull(d);
    atomic_init(&d->references, 1);
    d->kind = SER_DEVICE_CUDA;
    d->threads = 1;
    d->fork_generation = ser_fork_generation();
    d->ops = &ser_cuda_ops;
    assert_ok(d->ops->open(0, &d->context, &name));
    d->name = ser_mem_strdup(name);
    return d;
}

void set_tone(int i, size_t count, bool whole_numbers)
{
    float *samples = malloc(count * sizeof *samples);
    const double hertz = 250.0 * pow(3.0, i % LABELS) * (1.0 + 0.02 * i);
    harness_fill(samples, count, (uint64_t)i + 1, 0.02F);
    for (size_t t = 0; t < count; t++) {
        samples[t] += 0.3F * (float)sin(2.0 * 3.14159265 * hertz * (double)t / 16000.0);
        samples[t] = whole_numbers ? rintf(samples[t] * 32768.0F) / 32768.0F : samples[t];
    }
    ser_audio_free(&tones[i]);
    assert_ok(ser_audio_from_samples(samples, count, 1, 16000, NULL, &tones[i]));
    free(samples);
}

void card_setup(void)
{
    static const size_t lengths[CLIPS] = {LONGEST, 2311, 3200, 1777, LONGEST, 3599};
    emulator_reset();
    trainer_setup();
    host = device;
    if (is_emulated()) {
        card = open_emulated();
    } else {
        assert_ok(ser_device_create(SER_DEVICE_CUDA, 0, 1, &card));
    }
    for (int i = 0; i < CLIPS; i++) {
        set_tone(i, lengths[i], false);
    }
}

void card_teardown(void)
{
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    ser_device_free(&card);
    device = host;
    trainer_teardown();
    ck_assert_uint_eq(emulator_live(), 0);
}

void start_on(ser_device *on, int kind, uint64_t seed)
{
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    device = on;
    make_model(kind, seed);
    make_trainer();
}

ser_step_result step_and_free(ser_batch *batch)
{
    ser_step_result result = step(batch);
    ser_batch_free(&batch);
    return result;
}

void refuse_recordings(void)
{
    enum { MOST = 12 }; /* of a step and the features of its clips */
    emulator_reset();
    for (int n = 1; n <= MOST; n++) {
        emulator_fail("cudaStreamBeginCapture", n, cudaErrorNotSupported);
    }
}

int count_recordings(int64_t count)
{
    const ser_workspace *w = trainer->training->workspace;
    int found = 0;
    for (size_t i = 0; i < SER_RECORDINGS; i++) {
        found += w->recordings[i].shape.batch == count && w->recordings[i].graph != NULL;
    }
    return found;
}
