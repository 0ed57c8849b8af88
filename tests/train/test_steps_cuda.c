/* SPDX-License-Identifier: MIT */
/* Steps on a card: recorded, submitted ahead, skipped, from samples that stay there, and when memory or
 * the card is at an end. */
#include "card_fixture.h"

#include <math.h>

#include "emulator.h"
#include "train/cache.h"

static void some_noise(void)
{
    options.hidden_dropout = 0.1F;
    options.attention_dropout = 0.1F;
    options.mask_time_probability = 0.3F;
    options.mask_time_length = 3;
}

/* All bits of the weights; `*kept` is freed. */
static void assert_weights(float **kept)
{
    size_t count;
    float *now = weights(&count);
    ck_assert_mem_eq(now, *kept, count * sizeof *now);
    free(now);
    free(*kept);
    *kept = NULL;
}

static float *keep_weights(void)
{
    size_t count;
    return weights(&count);
}

/* --- Recordings --- */

/* Six steps of one shape. */
static void six_steps(bool recorded, int kind, ser_step_result *results)
{
    const int expected = options.accumulate; /* with an update and without are two */
    start_on(card, kind, 1);
    for (int n = 0; n < 6; n++) {
        if (!recorded) {
            refuse_recordings();
        }
        results[n] = step_and_free(make_batch(BATCH * (n % 2), BATCH));
        const int most = options.layer_drop > 0.0F ? 1 : expected;
        const int least = n < 2 * expected - 1 || options.layer_drop > 0.0F ? 0 : most;
        const int count = count_recordings(BATCH);
        ck_assert_msg(recorded ? count >= least && count <= most : count == 0, "%d after step %d",
                      count, n);
    }
    emulator_reset();
}

START_TEST(recorded_steps_are_plain_steps)
{
    ser_step_result results[6], plain[6];
    precision = _i % 2 == 0 ? SER_PRECISION_F32 : SER_PRECISION_BF16;
    const int kind = _i % ALL_KINDS;
    some_noise();
    options.accumulate = _i == 3 ? 2 : 1;
    options.layer_drop = _i == 4 ? 0.4F : 0.0F;
    six_steps(true, kind, results);
    ck_assert_int_eq(count_recordings(BATCH), options.accumulate);
    float *recorded = keep_weights();
    six_steps(false, kind, plain);
    ck_assert_mem_eq(results, plain, sizeof plain);
    assert_weights(&recorded);
}
END_TEST

/* A replay that fails is told, which also shows that there was one; what follows is as if that step had
 * not been. */
START_TEST(steps_are_replayed)
{
    ser_step_result results[6];
    six_steps(true, LOGMEL, results);
    (void)step_and_free(make_batch(0, BATCH));
    float *wanted = keep_weights();
    six_steps(true, LOGMEL, results);
    ser_batch *batch = make_batch(0, BATCH);
    emulator_fail("cudaGraphLaunch", 1, cudaErrorNotSupported);
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_DEVICE, "a replay");
    ck_assert_int_eq(ser_trainer_steps(trainer), 6);
    ck_assert_int_eq(step(batch).step, 7);
    assert_weights(&wanted);
    ser_batch_free(&batch);
}
END_TEST

/* --- Shapes that change --- */

/* Clips of a batch from the first on: negative for an evaluation. Host memory for inputs and outputs is
 * double and used in turn; here a shape is recorded with one and then replayed with the other, which
 * has only seen smaller ones. */
static const int sizes[] = {3, -1, 3, -1, 3, -1, -2, 3, 3, 6, 2, 6, 3, -6, 1, 6, 2, -3, 4, 5};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static void run_sizes(bool recorded, double *losses)
{
    for (int n = 0; n < SIZES; n++) {
        float of[CLIPS] = {0.0F};
        if (!recorded) {
            refuse_recordings();
        }
        ser_batch *batch = make_batch(0, abs(sizes[n]));
        if (sizes[n] > 0) {
            losses[n] = step(batch).loss;
        } else {
            assert_ok(ser_trainer_evaluate(trainer, batch, of, NULL));
            losses[n] = (double)(of[0] + of[-sizes[n] - 1]);
        }
        ser_batch_free(&batch);
    }
    emulator_reset();
}

START_TEST(shapes_change)
{
    double wanted[SIZES], plain[SIZES], recorded[SIZES];
    options.eps = 1e-2F; /* see test_training_cuda.c */
    start_on(host, _i, 1);
    run_sizes(true, wanted);
    start_on(card, _i, 1);
    run_sizes(false, plain);
    float *weights_of = keep_weights();
    start_on(card, _i, 1);
    run_sizes(true, recorded);
    ck_assert_mem_eq(recorded, plain, sizeof plain);
    assert_weights(&weights_of);
    for (int n = 0; n < SIZES; n++) {
        ck_assert_msg(fabs(recorded[n] / wanted[n] - 1.0) < 2e-5, "%d: %g %g", n, recorded[n],
                      wanted[n]);
    }
}
END_TEST

/* --- Ahead --- */

/* What the network reads of a clip becomes NaN. */
static void poison(ser_batch *batch, int clip)
{
    for (int64_t i = 0; i < batch->lengths[clip]; i++) {
        batch->samples[clip][i] = NAN;
    }
    if (batch->keys != NULL) {
        batch->keys[clip] = ser_inputs_key(batch, clip);
    }
}

/* Another shape now and then, and a clip of NaN. */
static ser_batch *make_varied(int n)
{
    ser_batch *batch = n % 4 == 3 ? make_batch(1, 5) : make_batch(BATCH * (n % 2), BATCH);
    if (n == 5 || n == 10) {
        poison(batch, 1);
    }
    return batch;
}

static void collect(ser_step_result *results, int *collected, bool all)
{
    int32_t found = 1;
    do {
        ser_step_result result = {.struct_size = sizeof result};
        assert_ok(ser_train_collect(trainer, &result, &found));
        if (found != 0) {
            results[(*collected)++] = result;
        }
    } while (all && found != 0);
}

START_TEST(ahead_is_one_by_one)
{
    enum { STEPS = 13 };
    ser_step_result one[STEPS], ahead[STEPS];
    int collected = 0;
    some_noise();
    options.accumulate = _i == 0 ? 1 : 2;
    options.average = 0.9F;
    start_on(card, _i, 1);
    for (int n = 0; n < STEPS; n++) {
        one[n] = step_and_free(make_varied(n));
        ck_assert_int_eq(one[n].skipped, n == 5 || n == 10);
    }
    float *wanted = keep_weights();
    start_on(card, _i, 1);
    for (int n = 0; n < STEPS; n++) {
        ser_batch *batch = make_varied(n);
        assert_ok(ser_train_submit(trainer, batch));
        ser_batch_free(&batch);
        if (n % 3 == 2) {
            collect(ahead, &collected, false);
        }
    }
    collect(ahead, &collected, true);
    ck_assert_int_eq(collected, STEPS);
    for (int n = 0; n < STEPS; n++) {
        ck_assert_int_eq(isnan(ahead[n].loss), isnan(one[n].loss));
        ahead[n].loss = isnan(one[n].loss) ? one[n].loss : ahead[n].loss; /* one NaN or another */
        ck_assert_mem_eq(&ahead[n], &one[n], sizeof one[n]);
    }
    assert_weights(&wanted);
}
END_TEST

/* --- NaN --- */

static ser_step_result poisoned_step(int first, int clip)
{
    ser_batch *batch = make_batch(first, BATCH);
    poison(batch, clip);
    return step_and_free(batch);
}

/* Before anything is recorded, while it is, and from the recording. */
START_TEST(clips_of_nan)
{
    ser_step_result last;
    options.average = 0.5F;
    start_on(card, _i, 1);
    for (int n = 0; n < 4; n++) {
        last = step_and_free(make_batch(BATCH * (n % 2), BATCH));
    }
    float *wanted = keep_weights();
    start_on(card, _i, 1);
    for (int n = 0; n < 4; n++) {
        float *before = keep_weights();
        ser_step_result bad = poisoned_step(BATCH * (n % 2), n % BATCH);
        ck_assert(bad.skipped == 1 && bad.updated == 0 && bad.step == n && isnan(bad.loss));
        ck_assert_int_eq(bad.bad_clip, 100 + BATCH * (n % 2) + n % BATCH);
        assert_weights(&before);
        ser_step_result good = step_and_free(make_batch(BATCH * (n % 2), BATCH));
        ck_assert(good.updated == 1 && good.step == n + 1);
        ck_assert(n < 3 || (good.loss == last.loss && good.gradient_norm == last.gradient_norm));
    }
    ck_assert_int_eq(count_recordings(BATCH), 1);
    assert_weights(&wanted);
}
END_TEST

/* A bad batch drops what was accumulated for its update. */
START_TEST(nan_while_accumulating)
{
    options.accumulate = 2;
    options.max_skipped = 3;
    start_on(card, _i, 1);
    for (int n = 0; n < 6; n++) {
        (void)step_and_free(make_batch(BATCH * (n % 2), BATCH));
    }
    float *wanted = keep_weights();
    start_on(card, _i, 1);
    for (int n = 0; n < 6; n += 2) {
        if (n == 2) {
            ck_assert_int_eq(poisoned_step(BATCH, 0).bad_clip, 103); /* the first of an update */
        }
        (void)step_and_free(make_batch(BATCH, BATCH));
        ck_assert_int_eq(poisoned_step(0, 2).bad_clip, 102); /* would complete the update */
        ck_assert_int_eq(step_and_free(make_batch(0, BATCH)).updated, 0);
        ck_assert_int_eq(step_and_free(make_batch(BATCH, BATCH)).updated, 1);
    }
    assert_weights(&wanted);
    ck_assert_int_eq(poisoned_step(BATCH, 0).bad_clip, 103);
    ck_assert_int_eq(poisoned_step(0, 0).bad_clip, 100);
    ser_batch *batch = make_batch(0, BATCH);
    poison(batch, 1);
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_NUMERIC,
                 "3 steps in a row gave NaN or infinity (limit max_skipped, 3): the loss of clips "
                 "103, 100, 101");
    ser_batch_free(&batch);
}
END_TEST

/* --- Samples that stay on the card --- */

/* Not normalised, so that what 16 bits held they still hold. */
static void start_plain(ser_device *on, int kind)
{
    char config[4096];
    snprintf(config, sizeof config, "{\"audio\": {\"normalize\": false}, %s",
             tiny_config(kind) + 1);
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    device = on;
    make_model_of(config, 1);
    make_trainer();
}

/* Clips 0..5 in turn, twice; loss of each step. Bytes on the card at the end. */
static uint64_t run_samples(int kind, uint64_t cache, double *losses)
{
    options.cache_bytes = cache;
    start_plain(card, kind);
    for (int n = 0; n < 6; n++) {
        losses[n] = step_and_free(make_batch(BATCH * (n % 2), BATCH)).loss;
    }
    return trainer->cache != NULL ? ser_clip_cache_bytes(trainer->cache) : 0;
}

static int64_t source_type(const ser_batch *batch, int clip)
{
    ser_source source = {.type = -1};
    ck_assert(
        ser_clip_cache_find(trainer->cache, batch->keys[clip], batch->lengths[clip], &source));
    return source.type;
}

START_TEST(samples_stay)
{
    double with[6], without[6], partly[6];
    size_t samples[CLIPS];
    uint64_t bytes = 0;
    const int kind = _i == 0 ? LOGMEL : LARGE;
    options.freeze_features = 0;
    for (int i = 0; i < CLIPS; i++) {
        samples[i] = LONGEST - 397 * (size_t)(i % BATCH);
        set_tone(i, samples[i], i != 4); /* whole numbers but for clip 4 */
        bytes += samples[i] * (i != 4 ? sizeof(int16_t) : sizeof(float));
    }
    ck_assert_uint_eq(run_samples(kind, 0, without), 0);
    ck_assert_ptr_null(trainer->cache);
    float *wanted = keep_weights();
    ck_assert_uint_eq(run_samples(kind, 1 << 20, with), bytes);
    ck_assert(!trainer->caches_features);
    ser_batch *batch = make_batch(BATCH, BATCH);
    ck_assert_int_eq(source_type(batch, 0), SER_SOURCE_I16);
    ck_assert_int_eq(source_type(batch, 1), SER_SOURCE_F32);
    ck_assert_int_eq(source_type(batch, 2), SER_SOURCE_I16);
    ser_batch_free(&batch);
    ck_assert_mem_eq(with, without, sizeof with);
    assert_weights(&wanted);
    /* Room for all but the last clip of the second batch: that batch comes from the host. */
    wanted = keep_weights();
    const uint64_t less = bytes - samples[5] * sizeof(int16_t);
    ck_assert_uint_eq(run_samples(kind, less, partly), less);
    ck_assert_mem_eq(partly, without, sizeof partly);
    assert_weights(&wanted);
}
END_TEST

/* --- Memory --- */

static ser_batch *make_large(int count)
{
    ser_clip clips[32];
    ser_batch *batch;
    for (int i = 0; i < count; i++) {
        clips[i] = clip_of(0);
        clips[i].id = 200 + (uint64_t)i;
    }
    assert_ok(ser_batch_create(trainer, clips, (size_t)count, 0, 0, &batch));
    return batch;
}

/* Where a batch of `count` is too large, how many would fit? */
static int ask_how_many(int count)
{
    int64_t fit = -1;
    ser_batch *batch = make_large(count);
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_MEMORY,
                 "are too many for one batch");
    const char *at = strstr(ser_error_message(), "here, ");
    ck_assert_msg(at != NULL && strstr(at, " fit") != NULL, "%s", ser_error_message());
    fit = strtoll(at + 6, NULL, 10);
    ser_batch_free(&batch);
    return (int)fit;
}

START_TEST(a_batch_too_large)
{
    enum { MOST = 24 };
    const int kind = _i == 0 ? WAVE : _i == 1 ? LOGMEL : LARGE;
    options.cache_bytes = _i == 0 ? 0 : options.cache_bytes;
    start_on(card, kind, 1);
    (void)step_and_free(make_large(2));
    const size_t two = emulator_memory_used();
    (void)step_and_free(make_large(4));
    const size_t room = 4 * (emulator_memory_used() - two);
    float *wanted = NULL;
    int fit = 0;
    for (int limited = 1; limited >= 0; limited--) {
        start_on(card, kind, 1);
        for (int n = 0; n < 3; n++) {
            (void)step_and_free(make_large(2));
        }
        if (limited != 0) {
            emulator_memory_limit(two + room);
            fit = ask_how_many(MOST);
            ck_assert_int_gt(fit, 2);
            ck_assert_int_lt(fit, MOST);
            ck_assert_int_eq(ask_how_many(fit + 1), fit);
        }
        for (int n = 0; n < 3; n++) {
            ck_assert_int_eq(step_and_free(make_large(fit)).updated, 1);
        }
        ck_assert_int_eq(step_and_free(make_large(2)).step, 7);
        emulator_memory_limit(0);
        if (limited != 0) {
            wanted = keep_weights();
        }
    }
    assert_weights(&wanted);
}
END_TEST

/* What stays of clips makes room for a batch that would not fit beside it; no bit depends on that. */
START_TEST(the_cache_gives_way)
{
    enum { LARGE_BATCH = 6 };
    float *wanted = NULL;
    size_t peak = 0;
    uint64_t cached = 0;
    for (int limited = 0; limited < 2; limited++) {
        start_on(card, LOGMEL, 1);
        (void)step_and_free(make_batch(0, BATCH));
        (void)step_and_free(make_batch(3, BATCH));
        ck_assert_uint_gt(ser_clip_cache_bytes(trainer->cache), 0);
        if (limited != 0) {
            emulator_memory_limit(peak - (size_t)cached / 2);
        }
        ck_assert_int_eq(step_and_free(make_large(LARGE_BATCH)).step, 3);
        if (limited == 0) {
            peak = emulator_memory_used();
            cached = ser_clip_cache_bytes(trainer->cache);
            wanted = keep_weights();
        } else {
            ck_assert_uint_eq(ser_clip_cache_bytes(trainer->cache), 0);
        }
    }
    assert_weights(&wanted);
    ck_assert_int_eq(step_and_free(make_batch(0, BATCH)).step, 4);
    emulator_memory_limit(0);
}
END_TEST

/* The average can be used when a batch that did not fit has taken the memory for its exchange. */
START_TEST(the_average_after_a_batch_too_large)
{
    options.average = 0.5F;
    options.cache_bytes = 0;
    start_on(card, WAVE, 1);
    (void)step_and_free(make_large(1));
    emulator_memory_limit(emulator_memory_used() + (1 << 12));
    ser_batch *batch = make_large(2);
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_MEMORY, "1 fit");
    ser_batch_free(&batch);
    set_tone(0, 12 * LONGEST, false);
    batch = make_batch(0, 1); /* not even one: nothing is left of what it took */
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_MEMORY, "memory");
    ser_batch_free(&batch);
    assert_ok(ser_trainer_use_average(trainer, 1));
    assert_ok(ser_trainer_use_average(trainer, 0));
    emulator_memory_limit(0);
}
END_TEST

/* A batch is refused while a step is under way, whose result is there all the same. */
START_TEST(a_batch_too_large_behind_a_step)
{
    enum { MOST = 24 };
    ser_step_result wanted[2], got[2];
    int collected = 0;
    options.cache_bytes = 0;
    start_on(card, LOGMEL, 1);
    wanted[0] = step_and_free(make_large(1));
    const size_t used = emulator_memory_used();
    wanted[1] = step_and_free(make_large(4));
    const size_t most = emulator_memory_used() - used;
    float *kept = keep_weights();
    start_on(card, LOGMEL, 1);
    ser_batch *batches[] = {make_large(1), make_large(MOST), make_large(4)};
    assert_ok(ser_train_submit(trainer, batches[0]));
    emulator_memory_limit(emulator_memory_used() + most + (1 << 12));
    assert_fails(ser_train_submit(trainer, batches[1]), SER_ERR_MEMORY, " fit");
    assert_ok(ser_train_submit(trainer, batches[2]));
    collect(got, &collected, true);
    ck_assert_int_eq(collected, 2);
    ck_assert_mem_eq(got, wanted, sizeof got);
    assert_weights(&kept);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        ser_batch_free(&batches[i]);
    }
}
END_TEST

/* --- The card fails --- */

/* Somewhere in a step, once: the step is told as failed and leaves nothing. */
START_TEST(a_launch_that_fails)
{
    start_on(card, _i, 1);
    (void)step_and_free(make_batch(0, BATCH));
    (void)step_and_free(make_batch(0, 2));
    float *wanted = keep_weights();
    start_on(card, _i, 1);
    (void)step_and_free(make_batch(0, BATCH));
    ser_batch *batch = make_batch(0, 2);
    const uint64_t before = emulator_launches();
    emulator_fail("cudaLaunchKernelEx", 40, cudaErrorLaunchOutOfResources);
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_DEVICE, "cuda:0");
    ck_assert_uint_lt(emulator_launches(), before + 40);
    ck_assert_int_eq(ser_trainer_steps(trainer), 1);
    ck_assert_int_eq(step(batch).step, 2);
    assert_weights(&wanted);
    ser_batch_free(&batch);
}
END_TEST

/* Everything is freed while the device is dead: card_teardown counts. */
START_TEST(a_card_that_dies)
{
    static const struct {
        const char *function;
        int nth, steps;
        cudaError_t error;
    } deaths[] = {
        {"cudaLaunchKernelEx", 30, 0, cudaErrorLaunchFailure},
        {"cudaLaunchKernelEx", 30, 1, cudaErrorIllegalAddress},
        {"cudaGraphLaunch", 1, 3, cudaErrorLaunchFailure},
        {"cudaMemcpyAsync", 1, 3, cudaErrorIllegalAddress},
        {"cudaStreamSynchronize", 1, 3, cudaErrorECCUncorrectable},
    };
    enum { DEATHS = sizeof deaths / sizeof deaths[0] };
    ser_step_result result = {.struct_size = sizeof result};
    int32_t found;
    options.average = 0.5F;
    start_on(card, _i / DEATHS, 1);
    for (int n = 0; n < deaths[_i % DEATHS].steps; n++) {
        (void)step_and_free(make_batch(0, BATCH));
    }
    ser_batch *batch = make_batch(0, BATCH);
    emulator_fail(deaths[_i % DEATHS].function, deaths[_i % DEATHS].nth, deaths[_i % DEATHS].error);
    int status = ser_train_submit(trainer, batch);
    if (status == 0) {
        status = ser_train_collect(trainer, &result, &found);
    }
    ck_assert_int_eq(status, SER_ERR_DEVICE);
    ck_assert_ptr_nonnull(strstr(ser_error_message(), "cannot be used any more"));
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_DEVICE, "cannot be used any more");
    assert_fails(ser_trainer_evaluate(trainer, batch, NULL, NULL), SER_ERR_DEVICE, "any more");
    assert_fails(ser_trainer_save(trainer, harness_tmpfile("dead"), NULL), SER_ERR_DEVICE,
                 "any more");
    ck_assert_int_eq(ser_trainer_steps(trainer), deaths[_i % DEATHS].steps);
    ser_batch_free(&batch);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("steps_cuda");
    TCase *tcase = tcase_create("steps");
    tcase_add_checked_fixture(tcase, card_setup, card_teardown);
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, ahead_is_one_by_one, 0, ALL_KINDS);
    tcase_add_loop_test(tcase, clips_of_nan, 0, ALL_KINDS);
    tcase_add_loop_test(tcase, nan_while_accumulating, 0, KINDS);
    tcase_add_loop_test(tcase, samples_stay, 0, 2);
    if (is_emulated()) { /* a real card cannot be made to fail */
        tcase_add_loop_test(tcase, recorded_steps_are_plain_steps, 0, 5);
        tcase_add_test(tcase, steps_are_replayed);
        tcase_add_loop_test(tcase, shapes_change, 0, KINDS);
        tcase_add_loop_test(tcase, a_batch_too_large, 0, 3);
        tcase_add_test(tcase, a_batch_too_large_behind_a_step);
        tcase_add_test(tcase, the_cache_gives_way);
        tcase_add_test(tcase, the_average_after_a_batch_too_large);
        tcase_add_loop_test(tcase, a_launch_that_fails, 0, KINDS);
        tcase_add_loop_test(tcase, a_card_that_dies, 0, 10);
    }
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
