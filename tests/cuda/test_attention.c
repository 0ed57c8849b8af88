/* SPDX-License-Identifier: MIT */
#include "fixture.h"

static const ser_step step = {.seed = UINT64_C(0x123456789ABCDEF), .number = 11};

/* One call on both sides; outputs are poisoned, padding holds NaN. */
typedef struct call {
    int64_t batch, padded;
    int32_t heads;
    int64_t width;
    int32_t type;
    float spread; /* of the scores, about */
    float p;      /* of dropout */
    twin_rows rows;
    twin qkv, y, lse;
} call;

static ser_attention_args args_of(const call *c, bool on_gpu)
{
    const ser_step *there = c->p > 0.0F && on_gpu ? gpu_copy(&step, sizeof step) : &step;
    return (ser_attention_args){.qkv = on_gpu ? c->qkv.gpu : c->qkv.cpu,
                                .rows = on_gpu ? c->rows.gpu : c->rows.cpu,
                                .heads = c->heads,
                                .scale = c->spread / sqrtf((float)c->width),
                                .y = on_gpu ? c->y.gpu : c->y.cpu,
                                .dropout = {.p = c->p, .op = 3, .step = there},
                                .lse = on_gpu ? c->lse.gpu : c->lse.cpu};
}

static void outputs(call *c)
{
    c->y = twin_output(c->batch * c->padded, c->heads * c->width, c->type);
    c->lse = twin_output(c->batch * c->padded, c->heads, SER_F32);
}

static void prepare(call *c, const int32_t *valid)
{
    c->rows = twin_rows_of(c->batch, c->padded, valid);
    c->qkv = twin_input(c->batch * c->padded, 3 * c->heads * c->width, c->type, 1, 1.0F, 0);
    twin_fill_padding(&c->qkv, &c->rows, NAN);
    outputs(c);
}

static void run_gpu(const call *c)
{
    const ser_attention_args args = args_of(c, true);
    RUN_GPU(ser_attention_fwd, &args);
}

/*
 * y: with bf16 the probabilities are rounded before the product and y after it. lse is f32 always:
 * two summation orders, and 2^x in place of e^x. Scores of +-100 round to 4e-6, and so do the
 * exponents of the probabilities: f32 has ten times its usual difference then.
 */
static void check_both(call *c)
{
    const ser_attention_args args = args_of(c, false);
    RUN_CPU(ser_attention_fwd, &args);
    run_gpu(c);
    const double tolerance = tolerance_of(c->type);
    twin_check("y", &c->y, &c->rows, c->spread > 1.0F ? fmax(tolerance, 2e-4) : tolerance, true);
    twin_check("lse", &c->lse, &c->rows, F32_TOLERANCE, true);
    twin_check_slack("y", &c->y);
    twin_check_slack("lse", &c->lse);
}

static void check_size(int64_t padded, const int32_t valid[2], int32_t heads, int64_t width,
                       float spread, float p)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        call c = {.batch = 2,
                  .padded = padded,
                  .heads = heads,
                  .width = width,
                  .type = type,
                  .spread = spread,
                  .p = p};
        prepare(&c, valid);
        check_both(&c);
        twins_free();
    }
}

START_TEST(test_widths)
{
    const int64_t widths[] = {64, 80, 48, 32, 24, 8, 128, 136, 20, 3, 1};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        check_size(71, (int32_t[]){70, 17}, 2, widths[i], 1.0F, 0.0F);
    }
}
END_TEST

START_TEST(test_lengths)
{
    check_size(1, (int32_t[]){1, 1}, 3, 64, 1.0F, 0.0F);
    check_size(7, (int32_t[]){3, 7}, 2, 80, 1.0F, 0.0F);
    check_size(49, (int32_t[]){49, 16}, 4, 20, 1.0F, 0.0F);
    check_size(64, (int32_t[]){64, 63}, 1, 48, 1.0F, 0.0F);
    check_size(130, (int32_t[]){128, 65}, 1, 16, 1.0F, 0.0F);
    check_size(250, (int32_t[]){249, 100}, 1, 64, 1.0F, 0.0F);
    check_size(520, (int32_t[]){1, 519}, 1, 24, 1.0F, 0.0F);
}
END_TEST

START_TEST(test_peaked_scores)
{
    check_size(70, (int32_t[]){70, 33}, 2, 64, 40.0F, 0.0F);
    check_size(130, (int32_t[]){129, 1}, 1, 3, 40.0F, 0.0F);
}
END_TEST

/* Rows of the mask begin anywhere in a block of random numbers; with 64, always at its start. */
START_TEST(test_dropout)
{
    check_size(67, (int32_t[]){67, 40}, 3, 64, 1.0F, 0.1F);
    check_size(64, (int32_t[]){9, 64}, 2, 80, 1.0F, 0.1F);
    check_size(146, (int32_t[]){146, 2}, 1, 20, 1.0F, 0.5F);
    check_size(131, (int32_t[]){131, 2}, 1, 96, 1.0F, 0.3F);
    check_size(9, (int32_t[]){9, 2}, 2, 16, 1.0F, 0.9999999F); /* nothing stays */
}
END_TEST

/* Enough blocks for the large tiles, where a card has memory for them. The first clip has the bits
 * of the small ones; it drops the same elements alone. */
START_TEST(test_large_tiles)
{
    enum { PADDED = 131, HEADS = 90, WIDTH = 40, COLS = HEADS * WIDTH };
    call c = {.batch = 2,
              .padded = PADDED,
              .heads = HEADS,
              .width = WIDTH,
              .type = SER_BF16,
              .spread = 2.0F,
              .p = 0.1F};
    prepare(&c, (int32_t[]){131, 5});
    check_both(&c);
    const uint16_t *together = gpu_bytes(&c.y.gpu);
    call alone = c;
    alone.batch = alone.rows.gpu.batch = 1;
    alone.qkv = twin_part(c.qkv, 0, PADDED);
    outputs(&alone);
    run_gpu(&alone);
    ck_assert_mem_eq(together, gpu_bytes(&alone.y.gpu), PADDED * COLS * sizeof(uint16_t));
}
END_TEST

/* A clip's bits alone, at another padding, and beside other clips. */
static void check_batch(int32_t type, int64_t width)
{
    enum { FRAMES = 70, MORE = 9 };
    call c = {.batch = 3,
              .padded = FRAMES + MORE,
              .heads = 2,
              .width = width,
              .type = type,
              .spread = 2.0F};
    prepare(&c, (int32_t[]){5, FRAMES, FRAMES + MORE});
    run_gpu(&c);
    const size_t size = (size_t)(c.heads * width) * (type == SER_BF16 ? 2 : 4) * FRAMES;
    const char *together = (const char *)gpu_bytes(&c.y.gpu) + size / FRAMES * (FRAMES + MORE);
    const float *lse = (const float *)gpu_bytes(&c.lse.gpu) + 2 * (FRAMES + MORE);

    call alone = c;
    alone.batch = 1;
    alone.padded = FRAMES;
    alone.rows = twin_rows_of(1, FRAMES, (int32_t[]){FRAMES});
    alone.qkv = twin_part(c.qkv, FRAMES + MORE, FRAMES);
    for (int again = 0; again < 2; again++) {
        outputs(&alone);
        run_gpu(&alone);
        ck_assert_mem_eq(together, gpu_bytes(&alone.y.gpu), size);
        ck_assert_mem_eq(lse, gpu_bytes(&alone.lse.gpu), FRAMES * 2 * sizeof(float));
    }

    alone.lse = twin_absent(); /* as prediction has it */
    alone.y = twin_output(FRAMES, c.heads * width, type);
    run_gpu(&alone);
    ck_assert_mem_eq(together, gpu_bytes(&alone.y.gpu), size);
    twins_free();
}

START_TEST(test_same_bits_alone_and_in_a_batch)
{
    check_batch(SER_BF16, 64);
    check_batch(SER_BF16, 20);
    check_batch(SER_F32, 20);
    check_batch(SER_F32, 3);
}
END_TEST

/* A damaged network must not look healthy. `at`: which of q, k, v of head 0 holds a NaN, in frame
 * 66. A query's NaN stays in its row, the others reach every row; head 1 is untouched. */
static void check_nan(int32_t type, int64_t width, float p, int at)
{
    enum { FRAMES = 70, DAMAGED = 66 };
    const int64_t channels = 2 * width;
    float *values = malloc((size_t)(FRAMES * 3 * channels) * sizeof *values);
    ck_assert_ptr_nonnull(values);
    harness_fill(values, (size_t)(FRAMES * 3 * channels), 1, 1.0F);
    values[(DAMAGED * 3 + at) * channels + width - 1] = NAN;
    call c = {.batch = 1,
              .padded = FRAMES,
              .heads = 2,
              .width = width,
              .type = type,
              .spread = 1.0F,
              .p = p};
    prepare(&c, (int32_t[]){FRAMES});
    c.qkv = twin_values(FRAMES, 3 * channels, type, values);
    run_gpu(&c);
    const float *y = gpu_values(&c.y.gpu);
    for (int64_t t = 0; t < FRAMES; t++) {
        ck_assert_int_eq(isnan(y[t * channels + width - 1]) != 0, at > 0 || t == DAMAGED);
        bool finite = true;
        for (int64_t i = width; i < channels; i++) {
            finite = finite && isfinite(y[t * channels + i]);
        }
        ck_assert(finite);
    }
    free(values);
    twins_free();
}

START_TEST(test_nan_survives)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (int at = 0; at < 3; at++) {
            check_nan(type, 64, 0.0F, at);
            check_nan(type, 20, 0.1F, at);
        }
        check_nan(type, 64, 0.1F, 1);
        check_nan(type, 64, 0.1F, 2);
    }
}
END_TEST

/* Scores of -inf in the whole first block of keys, then finite ones: weights of zero, not NaN. */
START_TEST(test_infinite_scores)
{
    enum { FRAMES = 70, WIDTH = 8, LOST = 64 };
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        float values[FRAMES * 3 * WIDTH];
        harness_fill(values, sizeof values / sizeof *values, 1, 1.0F);
        for (int t = 0; t < FRAMES; t++) {
            values[t * 3 * WIDTH] = 1.0F;
            values[t * 3 * WIDTH + WIDTH] = t < LOST ? -HUGE_VALF : 0.0F;
        }
        call c = {
            .batch = 1, .padded = FRAMES, .heads = 1, .width = WIDTH, .type = type, .spread = 1.0F};
        prepare(&c, (int32_t[]){FRAMES});
        c.qkv = twin_values(FRAMES, 3 * WIDTH, type, values);
        check_both(&c);
        twins_free();
    }
}
END_TEST

/* Lengths are read when the work is done, not when it is queued. */
START_TEST(test_recorded_work_reads_lengths_anew)
{
    enum { PADDED = 70 };
    call c = {
        .batch = 2, .padded = PADDED, .heads = 1, .width = 16, .type = SER_BF16, .spread = 1.0F};
    const int32_t now[] = {66, 7};
    prepare(&c, (int32_t[]){3, PADDED});
    run_gpu(&c);
    ser_attention_args args = args_of(&c, true);
    ser_graph *graph = NULL;
    assert_ok(gpu.ops->capture_begin(gpu.queue));
    assert_ok(ser_attention_fwd(gpu.queue, &args));
    assert_ok(gpu.ops->capture_end(gpu.queue, false, &graph));

    c.qkv = twin_input(2 * PADDED, 3 * 16, SER_BF16, 1, 1.0F, 0); /* what the NaNs hid */
    memcpy((void *)(uintptr_t)c.rows.cpu.valid, now, sizeof now);
    const twin_rows later = twin_rows_of(2, PADDED, now);
    twin_fill_padding(&c.qkv, &later, NAN);
    const size_t size = 2 * PADDED * 3 * 16 * sizeof(uint16_t);
    assert_ok(gpu.ops->upload(gpu.queue, args.qkv.data, gpu_bytes(&c.qkv.gpu), size));
    assert_ok(gpu.ops->upload(gpu.queue, (void *)(uintptr_t)args.rows.valid, now, sizeof now));
    assert_ok(gpu.ops->replay(gpu.queue, graph));
    assert_ok(gpu.ops->sync(gpu.queue));
    const ser_attention_args expected = args_of(&c, false);
    RUN_CPU(ser_attention_fwd, &expected);
    twin_check("y", &c.y, &later, BF16_TOLERANCE, true);
    twin_check("lse", &c.lse, &later, F32_TOLERANCE, true);
    gpu.ops->graph_free(gpu.context, graph);
}
END_TEST

CUDA_SUITE("attention", test_widths, test_lengths, test_peaked_scores, test_dropout,
           test_large_tiles, test_same_bits_alone_and_in_a_batch, test_nan_survives,
           test_infinite_scores, test_recorded_work_reads_lengths_anew)
