/* SPDX-License-Identifier: MIT */
/*
 * Whole predictions by the CUDA backend, emulated: against the CPU, from recordings, with mixed
 * lengths, changing shapes, several queues, and when recording or memory fails.
 */
#include <pthread.h>

#include "emulator.h"
#include "net/workspace.h"
#include "ops/cuda/cuda.h"
#include "random_net.h"

enum { CLIPS = 3, LABELS_AT_MOST = 16, SEED = 40 };

static random_net reference, card;

static void open_nets(int kind, int32_t type)
{
    random_net_open(kind, SEED, &reference);
    random_net_open_on(&ser_cuda_ops, type, kind, SEED, &card);
}

static void close_nets(void)
{
    random_net_close(&card);
    random_net_close(&reference);
    ck_assert_int_eq(ser_mem_live(), 0);
    ck_assert_uint_eq(emulator_live(), 0);
}

static void setup(void)
{
    emulator_reset();
}

static ser_workspace *workspace_of(const random_net *net)
{
    ser_workspace *workspace;
    assert_ok(ser_workspace_create(net->net, 1, 400, 1, false, &workspace));
    return workspace;
}

/* Up to CLIPS clips. */
typedef struct batch {
    int64_t count;
    float *samples[CLIPS];
    int64_t counts[CLIPS];
} batch;

static batch batch_of(int64_t count, const int64_t *counts, uint64_t seed)
{
    batch b = {.count = count};
    for (int64_t i = 0; i < count; i++) {
        b.counts[i] = counts[i];
        b.samples[i] = malloc((size_t)counts[i] * sizeof(float));
        random_clip(b.samples[i], counts[i], seed + (uint64_t)i);
    }
    return b;
}

static void batch_free(batch *b)
{
    for (int64_t i = 0; i < b->count; i++) {
        free(b->samples[i]);
    }
}

static int try_predict(ser_workspace *w, const batch *b, const ser_stages **stages)
{
    return ser_net_forward(w->net, w, b->count, (const float *const *)(uintptr_t)b->samples,
                           b->counts, stages);
}

/* Everything that a prediction gives about its clips: pooled, logits, probabilities. */
typedef struct answer {
    int64_t values;
    float *data;
} answer;

static answer predict(ser_workspace *w, const batch *b)
{
    const ser_stages *s;
    assert_ok(try_predict(w, b, &s));
    const int64_t hidden = s->pooled.cols;
    const int64_t labels = s->logits.cols;
    answer a = {.values = b->count * (hidden + 2 * labels)};
    a.data = malloc((size_t)a.values * sizeof(float));
    float *to = a.data;
    memcpy(to, s->outputs.pooled, (size_t)(b->count * hidden) * sizeof(float));
    to += b->count * hidden;
    memcpy(to, s->outputs.logits, (size_t)(b->count * labels) * sizeof(float));
    to += b->count * labels;
    memcpy(to, s->outputs.probabilities, (size_t)(b->count * labels) * sizeof(float));
    for (int64_t i = 0; i < b->count; i++) {
        float sum = 0.0F;
        for (int64_t t = 0; t < s->valid_host[i]; t++) {
            sum += s->outputs.alpha[i * s->rows.padded + t];
        }
        ck_assert_msg(fabsf(sum - 1.0F) < 1e-4F, "alpha of clip %d sums to %g", (int)i,
                      (double)sum);
    }
    return a;
}

static void check_close(const answer *got, const answer *wanted, double tolerance)
{
    ck_assert_int_eq(got->values, wanted->values);
    double error = harness_relative_error(got->data, wanted->data, (size_t)wanted->values);
    ck_assert_msg(error < tolerance, "off by %g", error);
}

static void check_same(const answer *got, const answer *wanted)
{
    ck_assert_int_eq(got->values, wanted->values);
    ck_assert_mem_eq(got->data, wanted->data, (size_t)wanted->values * sizeof(float));
}

static void check_kind(int kind, int32_t type, double tolerance)
{
    batch b = batch_of(CLIPS, (int64_t[]){5000, 900, 3111}, 7);
    open_nets(kind, type);
    ser_workspace *w = workspace_of(&reference);
    ser_workspace *v = workspace_of(&card);
    answer wanted = predict(w, &b);
    answer got = predict(v, &b);
    check_close(&got, &wanted, tolerance);
    for (int64_t i = 0; i < CLIPS; i++) { /* alone, in other padding */
        batch one = {.count = 1, .samples = {b.samples[i]}, .counts = {b.counts[i]}};
        answer alone_wanted = predict(w, &one);
        answer alone = predict(v, &one);
        check_close(&alone, &alone_wanted, tolerance);
        free(alone.data);
        free(alone_wanted.data);
    }
    free(got.data);
    free(wanted.data);
    ser_workspace_free(v);
    ser_workspace_free(w);
    close_nets();
    batch_free(&b);
}

START_TEST(test_agrees_with_the_cpu)
{
    for (int kind = 0; kind < NET_KINDS; kind++) {
        check_kind(kind, SER_F32, 2e-5);
        check_kind(kind, SER_BF16, 4e-2); /* a handful of roundings of 2^-9 each */
    }
}
END_TEST

static ser_recording *recording_of(ser_workspace *w, int64_t count)
{
    for (size_t i = 0; i < SER_RECORDINGS; i++) {
        if (w->recordings[i].shape.batch == count) {
            return &w->recordings[i];
        }
    }
    return NULL;
}

/* The first time plain, the second recorded, then replayed: the same bits, also for other clips. */
START_TEST(test_a_recording_gives_the_same_bits)
{
    open_nets(_i / 2, _i % 2 == 0 ? SER_F32 : SER_BF16);
    batch b = batch_of(2, (int64_t[]){4000, 1700}, 7);
    batch other = batch_of(2, (int64_t[]){3990, 2800}, 70); /* of the same rounded shape */
    ser_workspace *plain = workspace_of(&card);
    ser_workspace *w = workspace_of(&card);
    answer wanted_other = predict(plain, &other);
    answer first = predict(w, &b);
    ck_assert_ptr_nonnull(recording_of(w, 2));
    ck_assert_ptr_null(recording_of(w, 2)->graph);
    answer second = predict(w, &b);
    ck_assert_ptr_nonnull(recording_of(w, 2)->graph);
    answer third = predict(w, &other);
    answer fourth = predict(w, &b);
    check_same(&second, &first);
    check_same(&third, &wanted_other);
    check_same(&fourth, &first);
    answer *const all[] = {&wanted_other, &first, &second, &third, &fourth};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
    ser_workspace_free(w);
    ser_workspace_free(plain);
    close_nets();
    batch_free(&b);
    batch_free(&other);
}
END_TEST

/* More shapes than are remembered, growing, so that memory is renewed while recordings exist. */
START_TEST(test_many_shapes)
{
    open_nets(NET_LOGMEL, SER_F32);
    ser_workspace *w = workspace_of(&card);
    ser_workspace *v = workspace_of(&reference);
    for (int turn = 0; turn < 3; turn++) {
        for (int64_t i = 0; i < SER_RECORDINGS + 2; i++) {
            batch b = batch_of(1, (int64_t[]){900 + 400 * i + turn}, (uint64_t)(100 * turn + i));
            answer got = predict(w, &b);
            answer wanted = predict(v, &b);
            check_close(&got, &wanted, 2e-5);
            free(got.data);
            free(wanted.data);
            batch_free(&b);
        }
    }
    ser_workspace_free(v);
    ser_workspace_free(w);
    close_nets();
}
END_TEST

/* --- Threads --- */

typedef struct job {
    uint64_t seed;
    int failures;
} job;

static void *run_job(void *argument)
{
    job *j = argument;
    ser_workspace *w = NULL;
    batch b = batch_of(2, (int64_t[]){2000, 1500}, j->seed);
    const ser_stages *s;
    float first[LABELS_AT_MOST];
    j->failures += ser_workspace_create(card.net, 1, 400, 1, false, &w) != 0;
    for (int turn = 0; turn < 4 && j->failures == 0; turn++) {
        j->failures += try_predict(w, &b, &s) != 0;
        const size_t size = (size_t)s->logits.cols * sizeof(float);
        if (turn == 0) {
            memcpy(first, s->outputs.logits, size);
        }
        j->failures += memcmp(first, s->outputs.logits, size) != 0;
    }
    ser_workspace_free(w);
    batch_free(&b);
    return NULL;
}

START_TEST(test_queues_of_several_threads)
{
    enum { THREADS = 3 };
    pthread_t threads[THREADS];
    job jobs[THREADS];
    open_nets(NET_LOGMEL, SER_BF16);
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job){.seed = (uint64_t)i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_int_eq(jobs[i].failures, 0);
    }
    close_nets();
}
END_TEST

/* --- Failures --- */

/* What cannot be recorded is run plainly every time, with the same answer. */
START_TEST(test_without_recording)
{
    static const char *const functions[] = {"cudaStreamBeginCapture", "cudaStreamEndCapture",
                                            "cudaGraphInstantiate"};
    open_nets(NET_LOGMEL, SER_F32);
    batch b = batch_of(1, (int64_t[]){2000}, 7);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        ser_workspace *w = workspace_of(&card);
        answer first = predict(w, &b);
        emulator_fail(functions[i], 1, cudaErrorNotSupported);
        answer second = predict(w, &b);
        ck_assert(recording_of(w, 1)->refused);
        answer third = predict(w, &b);
        check_same(&second, &first);
        check_same(&third, &first);
        free(first.data);
        free(second.data);
        free(third.data);
        ser_workspace_free(w);
    }
    close_nets();
    batch_free(&b);
}
END_TEST

/* A batch that does not fit is refused; a smaller one works in the same workspace. */
START_TEST(test_a_batch_too_large)
{
    const ser_stages *stages;
    open_nets(NET_LOGMEL, SER_F32);
    batch b = batch_of(1, (int64_t[]){2000}, 7);
    batch large = batch_of(CLIPS, (int64_t[]){60000, 60000, 60000}, 7);
    ser_workspace *w = workspace_of(&card);
    answer first = predict(w, &b);
    answer second = predict(w, &b);
    emulator_memory_limit(emulator_memory_used() + 1000);
    assert_fails(try_predict(w, &large, &stages), SER_ERR_MEMORY, "MiB are needed at once");
    emulator_memory_limit(0);
    answer third = predict(w, &b);
    check_same(&second, &first);
    check_same(&third, &first);
    answer all = predict(w, &large);
    free(first.data);
    free(second.data);
    free(third.data);
    free(all.data);
    ser_workspace_free(w);
    close_nets();
    batch_free(&b);
    batch_free(&large);
}
END_TEST

/* However much of a large batch still fits: it is refused or done, and a smaller one then works with
 * no more memory than it had. */
START_TEST(test_a_batch_that_nearly_fits)
{
    enum { STEPS = 12 };
    const ser_stages *stages;
    int refused = 0;
    open_nets(NET_LOGMEL, SER_F32);
    batch b = batch_of(1, (int64_t[]){2000}, 7);
    batch large = batch_of(2, (int64_t[]){9000, 9000}, 7);
    ser_workspace *w = workspace_of(&card);
    const size_t without = emulator_memory_used();
    answer all = predict(w, &large);
    const size_t all_of_it = emulator_memory_used() - without;
    ser_workspace_free(w);
    w = workspace_of(&card);
    answer first = predict(w, &b);
    const size_t used = emulator_memory_used();
    for (size_t i = 0; i <= STEPS; i++) {
        emulator_memory_limit(used + i * all_of_it / STEPS);
        const int status = try_predict(w, &large, &stages);
        if (status == 0) {
            break;
        }
        refused++;
        ck_assert_int_eq(status, SER_ERR_MEMORY);
        ck_assert_msg(strstr(ser_fail_text(), "are needed at once") != NULL, "%s", ser_fail_text());
        for (int turn = 0; turn < 3; turn++) { /* plain, recorded, replayed */
            answer again = predict(w, &b);
            check_same(&again, &first);
            free(again.data);
        }
        ck_assert_uint_le(emulator_memory_used(), used);
    }
    ck_assert_int_gt(refused, 2);
    ck_assert_int_le(refused, STEPS);
    emulator_memory_limit(0);
    free(all.data);
    free(first.data);
    ser_workspace_free(w);
    close_nets();
    batch_free(&b);
    batch_free(&large);
}
END_TEST

/* Everything is freed while the device is dead, not after it has come back. */
START_TEST(test_a_dead_device_can_be_left)
{
    const ser_stages *stages;
    open_nets(NET_LOGMEL, SER_BF16);
    batch b = batch_of(1, (int64_t[]){2000}, 7);
    ser_workspace *w = workspace_of(&card);
    for (int turn = 0; turn < 3; turn++) {
        answer a = predict(w, &b);
        free(a.data);
    }
    emulator_fail("cudaGraphLaunch", 1, cudaErrorLaunchFailure);
    assert_fails(try_predict(w, &b, &stages), SER_ERR_DEVICE, "cannot be used any more");
    batch other = batch_of(2, (int64_t[]){2000, 1000}, 7); /* plain again */
    assert_fails(try_predict(w, &other, &stages), SER_ERR_DEVICE, "cannot be used any more");
    ser_workspace_free(w);
    random_net_close(&card);
    random_net_close(&reference);
    ck_assert_int_eq(ser_mem_live(), 0);
    ck_assert_uint_eq(emulator_live(), 0);
    batch_free(&b);
    batch_free(&other);
}
END_TEST

START_TEST(test_a_device_that_dies)
{
    const ser_stages *stages;
    open_nets(NET_LOGMEL, SER_F32);
    batch b = batch_of(1, (int64_t[]){2000}, 7);
    ser_workspace *w = workspace_of(&card);
    answer first = predict(w, &b);
    emulator_fail("cudaStreamSynchronize", 1, cudaErrorIllegalAddress);
    assert_fails(try_predict(w, &b, &stages), SER_ERR_DEVICE, "cannot be used any more");
    assert_fails(try_predict(w, &b, &stages), SER_ERR_DEVICE, "cannot be used any more");
    emulator_reset(); /* so that its memory can be counted */
    ser_workspace_free(w);
    close_nets();
    free(first.data);
    batch_free(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("prediction_cuda");
    TCase *tcase = tcase_create("prediction");
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, test_agrees_with_the_cpu);
    tcase_add_loop_test(tcase, test_a_recording_gives_the_same_bits, 0, 2 * NET_KINDS);
    tcase_add_test(tcase, test_many_shapes);
    tcase_add_test(tcase, test_queues_of_several_threads);
    tcase_add_test(tcase, test_without_recording);
    tcase_add_test(tcase, test_a_batch_too_large);
    tcase_add_test(tcase, test_a_batch_that_nearly_fits);
    tcase_add_test(tcase, test_a_device_that_dies);
    tcase_add_test(tcase, test_a_dead_device_can_be_left);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
