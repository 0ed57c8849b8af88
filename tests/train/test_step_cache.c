/* SPDX-License-Identifier: MIT */
/* Steps from the features of frozen convolutions that are kept. */
#include "trainer_fixture.h"

#include "model/model.h"
#include "ops/device.h"
#include "train/cache.h"
#include "train/inputs.h"

/* Features are computed clip by clip where they are kept, else for the whole batch. On a GPU, products
 * of these two sizes may add up in another order: then what has passed eps of AdamW is compared. */
static void assert_same_run(const float *with, const float *without, size_t count)
{
    if (on_cuda()) {
        ck_assert_double_lt(difference(with, without, count), 1e-5);
    } else {
        ck_assert_mem_eq(with, without, count * sizeof *with);
    }
}

static float *run_with_cache(uint64_t bytes, bool with_ids, size_t *count, uint64_t *held)
{
    ser_clip clips[CLIPS];
    ser_batch *batches[2];
    float losses[3];
    options.cache_bytes = bytes;
    make_model(WAVE, 1);
    make_trainer();
    for (int i = 0; i < CLIPS; i++) {
        clips[i] = clip_of(i);
        clips[i].id = with_ids ? clips[i].id : 0;
    }
    clips[5].id =
        clips[4].id * (with_ids ? 1 : 0); /* two clips of one id: the second is not kept */
    assert_ok(ser_batch_create(trainer, clips, 3, 0, 0, &batches[0]));
    assert_ok(ser_batch_create(trainer, clips + 3, 3, 0, 0, &batches[1]));
    for (int i = 0; i < 4; i++) {
        step(batches[i % 2]);
    }
    assert_ok(ser_trainer_evaluate(trainer, batches[1], losses, NULL));
    *held = trainer->cache != NULL ? ser_clip_cache_bytes(trainer->cache) : 0;
    ser_batch_free(&batches[0]);
    ser_batch_free(&batches[1]);
    return weights(count);
}

START_TEST(cached_features_change_nothing)
{
    size_t count;
    uint64_t held;
    options.eps = on_cuda() ? 1e-2F : options.eps; /* else roundings of a gradient of 0 are steps */
    float *without = run_with_cache(0, true, &count, &held);
    ck_assert_uint_eq(held, 0);
    float *with = run_with_cache(1 << 20, true, &count, &held);
    assert_same_run(with, without, count);
    uint64_t all = held;
    ck_assert_uint_gt(all, 0);
    free(with);
    with = run_with_cache(all / 2, true, &count, &held); /* some fit */
    assert_same_run(with, without, count);
    ck_assert(held > 0 && held < all);
    free(with);
    with = run_with_cache(1 << 20, false, &count, &held); /* id 0: not cached */
    assert_same_run(with, without, count);
    ck_assert_uint_eq(held, 0);
    free(with);
    free(without);
}
END_TEST

/* Add 1 to a float in device memory. */
static void nudge(const float *memory)
{
    const ser_device *of = model->device;
    ser_queue *queue;
    float value;
    assert_ok(of->ops->queue_create(of->context, 1, &queue));
    assert_ok(of->ops->download(queue, &value, memory, sizeof value));
    assert_ok(of->ops->sync(queue));
    value += 1.0F;
    assert_ok(of->ops->upload(queue, (void *)(uintptr_t)memory, &value, sizeof value));
    assert_ok(of->ops->sync(queue));
    of->ops->queue_free(queue);
}

START_TEST(cached_features_are_used)
{
    float before[3], after[3];
    make_model(WAVE, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 3);
    assert_ok(ser_trainer_evaluate(trainer, batch, before, NULL));
    ser_source source;
    ck_assert_uint_eq(batch->keys[1], ser_inputs_key(batch, 1));
    ck_assert(ser_clip_cache_find(trainer->cache, batch->keys[1], batch->lengths[1], &source));
    ck_assert_int_eq(source.type, SER_SOURCE_F32);
    nudge((const float *)source.data + 5);
    assert_ok(ser_trainer_evaluate(trainer, batch, after, NULL));
    ck_assert(before[0] == after[0] && before[1] != after[1] && before[2] == after[2]);
    ser_batch_free(&batch);
}
END_TEST

/* Training and validation may both count from 1: another clip of that number and length is another. */
START_TEST(a_number_given_twice_is_no_mistake)
{
    float before[3], after[3];
    make_model(WAVE, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 3);
    assert_ok(ser_trainer_evaluate(trainer, batch, before, NULL));
    for (int64_t i = 0; i < batch->lengths[1]; i++) {
        batch->samples[1][i] = -batch->samples[1][i] * (float)(1 + i % 3);
    }
    ck_assert_uint_ne(ser_inputs_key(batch, 1), batch->keys[1]);
    batch->keys[1] = ser_inputs_key(batch, 1);
    assert_ok(ser_trainer_evaluate(trainer, batch, after, NULL));
    ck_assert(before[0] == after[0] && before[1] != after[1] && before[2] == after[2]);
    ser_batch_free(&batch);
}
END_TEST

START_TEST(a_failed_pass_leaves_no_features)
{
    float wanted[3], losses[3];
    int failures = 0;
    options.cache_bytes = 0;
    make_model(WAVE, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 3);
    assert_ok(ser_trainer_evaluate(trainer, batch, wanted, NULL));
    ser_batch_free(&batch);
    options.cache_bytes = 1 << 20;
    for (uint64_t n = 1; n < 40; n++) { /* a cache without memory is no failure */
        make_trainer();                 /* with a workspace that has to grow */
        batch = make_batch(0, 3);
        ser_mem_fail_at(n, false);
        int status = ser_trainer_evaluate(trainer, batch, losses, NULL);
        ser_mem_fail_at(0, false);
        ck_assert(status == 0 || status == SER_ERR_MEMORY);
        assert_ok(ser_trainer_evaluate(trainer, batch, losses, NULL));
        ck_assert_mem_eq(losses, wanted, sizeof losses);
        ser_batch_free(&batch);
        failures += status != 0;
    }
    ck_assert(failures > 3); /* once something is cached, it is given up, and all is tried again */
    ck_assert(failures < 39);
}
END_TEST

/* Where the device's memory is another, what is kept instead is samples. */
START_TEST(only_frozen_features_are_cached)
{
    options.freeze_features = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        make_model(kind, 1);
        make_trainer();
        ck_assert_int_eq(trainer->cache != NULL, on_cuda());
        ck_assert(!trainer->caches_features);
    }
    options.freeze_features = 1;
    make_model(WAVE, 1);
    make_trainer();
    ck_assert(trainer->cache != NULL && trainer->caches_features);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("step_cache");
    TCase *tc = tcase_create("step_cache");
    tcase_add_checked_fixture(tc, trainer_setup, trainer_teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, cached_features_change_nothing);
    tcase_add_test(tc, cached_features_are_used);
    tcase_add_test(tc, a_number_given_twice_is_no_mistake);
    tcase_add_test(tc, a_failed_pass_leaves_no_features);
    tcase_add_test(tc, only_frozen_features_are_cached);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
