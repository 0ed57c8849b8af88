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
    float offset; /* of all scores alike */
    float p;      /* of dropout */
    twin_rows rows;
    twin qkv, y, lse, dy, dqkv;
    uint32_t *kept; /* on the GPU, or NULL */
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
                                .lse = on_gpu ? c->lse.gpu : c->lse.cpu,
                                .kept = on_gpu ? c->kept : NULL,
                                .dy = on_gpu ? c->dy.gpu : c->dy.cpu,
                                .dqkv = on_gpu ? c->dqkv.gpu : c->dqkv.cpu};
}

static int64_t rows_of(const call *c)
{
    return c->batch * c->padded;
}

static int64_t channels_of(const call *c)
{
    return c->heads * c->width;
}

static void outputs(call *c)
{
    c->dqkv = twin_output(rows_of(c), 3 * channels_of(c), c->type);
}

/* The first column of every q is 1 and of every k what shifts all scores by the offset. */
static void shift_scores(call *c)
{
    float *values = c->qkv.cpu.data;
    const int64_t channels = channels_of(c);
    const float shift = c->offset * sqrtf((float)c->width) / c->spread;
    for (int64_t i = 0; i < rows_of(c) * c->heads; i++) {
        float *head = values + i / c->heads * 3 * channels + i % c->heads * c->width;
        head[0] = 1.0F;
        head[channels] = shift;
    }
    c->qkv = twin_values(rows_of(c), 3 * channels, c->type, values);
}

/* Backward's inputs: y and lse are the CPU's forward pass, rounded to the type. */
static void prepare(call *c, const int32_t *valid)
{
    c->rows = twin_rows_of(c->batch, c->padded, valid);
    c->qkv = twin_input(rows_of(c), 3 * channels_of(c), c->type, 1, 1.0F, 0);
    if (c->offset != 0.0F) {
        shift_scores(c);
    }
    c->y = twin_output(rows_of(c), channels_of(c), SER_F32);
    c->lse = twin_output(rows_of(c), c->heads, SER_F32);
    c->dqkv = twin_absent();
    const ser_attention_args forward = args_of(c, false);
    RUN_CPU(ser_attention_fwd, &forward);
    c->y = twin_values(rows_of(c), channels_of(c), c->type, c->y.cpu.data);
    c->lse = twin_values(rows_of(c), c->heads, SER_F32, c->lse.cpu.data);
    c->dy = twin_input(rows_of(c), channels_of(c), c->type, 2, 1.0F, 0);
    twin_fill_padding(&c->qkv, &c->rows, NAN);
    twin_fill_padding(&c->y, &c->rows, NAN);
    twin_fill_padding(&c->lse, &c->rows, NAN);
    twin_fill_padding(&c->dy, &c->rows, NAN);
    outputs(c);
}

static void run_gpu(const call *c)
{
    const ser_attention_args args = args_of(c, true);
    RUN_GPU(ser_attention_bwd, &args);
}

static bool is_valid(const call *c, int64_t row)
{
    return row % c->padded < c->rows.cpu.valid[row / c->padded];
}

/* With an offset, the first column of dQ is the sum of a row of dS, which is 0, times the offset:
 * in bf16 dS' roundings are all there is. */
static bool is_noise(const call *c, int third, int64_t column)
{
    return c->offset != 0.0F && c->type == SER_BF16 && third == 0 && column % c->width == 0;
}

/* dQ, dK and dV are of different size: each is held against its own largest value. */
static void check_third(const call *c, const float *got, int third, double tolerance)
{
    const float *expected = c->dqkv.cpu.data;
    const int64_t channels = channels_of(c);
    double largest = 0.0;
    double worst = 0.0;
    bool holds = true; /* an assertion that holds costs a write to a file */
    for (int64_t i = 0; i < rows_of(c) * channels; i++) {
        const int64_t row = i / channels;
        const int64_t at = row * 3 * channels + third * channels + i % channels;
        if (!is_valid(c, row)) {
            holds = holds && got[at] == 0.0F;
            continue;
        }
        if (is_noise(c, third, i % channels)) {
            holds = holds && isfinite(got[at]);
            continue;
        }
        largest = fmax(largest, fabs((double)expected[at]));
        const double error = fabs((double)got[at] - (double)expected[at]);
        worst = error <= worst ? worst : error; /* NaN too */
    }
    ck_assert_msg(holds, "a padding row is not zero, or a gradient not finite");
    if (!(worst <= tolerance * largest)) {
        ck_abort_msg("d%c: off by %g, largest value %g, width %d, padded %d, type %d", "qkv"[third],
                     worst, largest, (int)c -> width, (int)c -> padded, (int)c -> type);
    }
}

/*
 * f32: two summation orders and 2^x in place of e^x. Scores s round to 6e-8 s, and so do the
 * probabilities' exponents: beyond the usual few, that is added. bf16: the probabilities and their
 * gradients are rounded before the second products, the sums after them.
 */
static double tolerance_for(const call *c)
{
    const double score = fmax((double)c->spread * 2.0, fabs((double)c->offset));
    return tolerance_of(c->type) + (score > 10.0 ? 1e-6 * score : 0.0);
}

static void check_gpu(const call *c)
{
    const float *got = gpu_values(&c->dqkv.gpu);
    for (int third = 0; third < 3; third++) {
        check_third(c, got, third, tolerance_for(c));
    }
    twin_check_slack("dqkv", &c->dqkv);
}

static void check_both(call *c)
{
    const ser_attention_args args = args_of(c, false);
    RUN_CPU(ser_attention_bwd, &args);
    run_gpu(c);
    check_gpu(c);
}

static void check_call(call c, const int32_t valid[2])
{
    for (c.type = SER_F32; c.type <= SER_BF16; c.type++) {
        prepare(&c, valid);
        check_both(&c);
        twins_free();
    }
}

static void check_size(int64_t padded, const int32_t valid[2], int32_t heads, int64_t width,
                       float spread, float p)
{
    check_call(
        (call){
            .batch = 2, .padded = padded, .heads = heads, .width = width, .spread = spread, .p = p},
        valid);
}

START_TEST(test_widths)
{
    const int64_t widths[] = {64, 80, 136, 20, 3, 2};
    const int64_t tensor_widths[] = {48, 32, 24, 8, 128}; /* in f32 nothing new */
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        check_size(69, (int32_t[]){68, 3}, 2, widths[i], 1.0F, 0.0F);
    }
    for (size_t i = 0; i < sizeof tensor_widths / sizeof *tensor_widths; i++) {
        call c = {.batch = 2,
                  .padded = 69,
                  .heads = 2,
                  .width = tensor_widths[i],
                  .type = SER_BF16,
                  .spread = 1.0F};
        prepare(&c, (int32_t[]){68, 3});
        check_both(&c);
        twins_free();
    }
}
END_TEST

START_TEST(test_lengths)
{
    check_size(7, (int32_t[]){3, 7}, 2, 80, 1.0F, 0.0F);
    check_size(49, (int32_t[]){49, 16}, 2, 20, 1.0F, 0.0F);
    check_size(64, (int32_t[]){64, 63}, 1, 48, 1.0F, 0.0F);
    check_size(130, (int32_t[]){128, 65}, 1, 16, 1.0F, 0.0F);
    check_size(250, (int32_t[]){249, 100}, 1, 64, 1.0F, 0.0F);
}
END_TEST

/* One frame: its probability is 1, so dV is dy, and no score moves anything. What is left of dQ and
 * dK is the rounding of dP - D. */
START_TEST(test_single_frames)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        call c = {.batch = 2, .padded = 3, .heads = 3, .width = 64, .type = type, .spread = 1.0F};
        prepare(&c, (int32_t[]){1, 1});
        run_gpu(&c);
        const float *got = gpu_values(&c.dqkv.gpu);
        const float *dy = c.dy.cpu.data;
        double worst = 0.0;
        for (int64_t i = 0; i < 6 * 192; i++) {
            const double expected = i / 192 % 3 == 0 ? (double)dy[i] : 0.0;
            const float *row = got + i / 192 * 3 * 192 + i % 192; /* of dQ; dK and dV follow */
            const double error =
                fabs((double)row[0]) + fabs((double)row[192]) + fabs((double)row[384] - expected);
            worst = error <= worst ? worst : error;
        }
        ck_assert_double_le(worst, tolerance_of(type));
        twins_free();
    }
}
END_TEST

START_TEST(test_peaked_scores)
{
    check_size(70, (int32_t[]){70, 33}, 2, 64, 40.0F, 0.0F);
    check_size(130, (int32_t[]){129, 2}, 1, 3, 40.0F, 0.0F);
}
END_TEST

/* e^score is beyond float either way; the keys that the clip does not have stay away from it. */
START_TEST(test_scores_beyond_exp)
{
    const float offsets[] = {-500.0F, 500.0F};
    for (int i = 0; i < 2; i++) {
        call c = {.batch = 2,
                  .padded = 71,
                  .heads = 2,
                  .width = 16,
                  .spread = 2.0F,
                  .offset = offsets[i]};
        check_call(c, (int32_t[]){70, 9});
        c.width = 5;
        check_call(c, (int32_t[]){70, 9});
    }
}
END_TEST

/* Rows of the mask begin anywhere in a block of random numbers; with 64, always at its start. */
START_TEST(test_dropout)
{
    check_size(67, (int32_t[]){67, 40}, 3, 64, 1.0F, 0.1F);
    check_size(64, (int32_t[]){9, 64}, 2, 80, 1.0F, 0.1F);
    check_size(146, (int32_t[]){146, 2}, 1, 20, 1.0F, 0.5F);
    check_size(131, (int32_t[]){131, 2}, 1, 96, 1.0F, 0.3F);
    check_size(70, (int32_t[]){2, 69}, 2, 32, 1.0F, 0.5F);
    check_size(9, (int32_t[]){9, 2}, 2, 16, 1.0F, 0.9999999F); /* nothing stays */
}
END_TEST

/* Enough blocks for the large tiles, where a card has memory for them. The first clip has the bits
 * of the small ones; it drops the same elements alone. */
START_TEST(test_large_tiles)
{
    enum { PADDED = 131, HEADS = 37, WIDTH = 40, COLS = HEADS * WIDTH };
    call c = {.batch = 2,
              .padded = PADDED,
              .heads = HEADS,
              .width = WIDTH,
              .type = SER_BF16,
              .spread = 2.0F,
              .p = 0.1F};
    prepare(&c, (int32_t[]){131, 5});
    check_both(&c);
    const uint16_t *together = gpu_bytes(&c.dqkv.gpu);
    call alone = c;
    alone.batch = alone.rows.gpu.batch = 1;
    alone.qkv = twin_part(c.qkv, 0, PADDED);
    alone.y = twin_part(c.y, 0, PADDED);
    alone.lse = twin_part(c.lse, 0, PADDED);
    alone.dy = twin_part(c.dy, 0, PADDED);
    outputs(&alone);
    run_gpu(&alone);
    ck_assert_mem_eq(together, gpu_bytes(&alone.dqkv.gpu), PADDED * 3 * COLS * sizeof(uint16_t));
}
END_TEST

/* y of the GPU's forward pass; dqkv of its backward pass. */
static const void *forward_bytes(call c)
{
    c.y = twin_output(rows_of(&c), channels_of(&c), c.type);
    c.lse = twin_output(rows_of(&c), c.heads, SER_F32);
    c.dqkv = twin_absent();
    const ser_attention_args args = args_of(&c, true);
    RUN_GPU(ser_attention_fwd, &args);
    return gpu_bytes(&c.y.gpu);
}

static const void *backward_bytes(call *c)
{
    outputs(c);
    run_gpu(c);
    return gpu_bytes(&c->dqkv.gpu);
}

/* The bits of dropout that forward leaves give backward what drawing them again does, and nothing
 * is written behind them; other bits give something else: it does read them. */
static void check_kept(call c, const int32_t *valid)
{
    enum { GUARD = 64 };
    prepare(&c, valid);
    const size_t words = (size_t)ser_attention_kept_words(c.batch, c.padded, c.heads);
    const size_t element = c.type == SER_BF16 ? 2 : 4;
    const size_t size = (size_t)(rows_of(&c) * channels_of(&c)) * element;
    uint32_t *bits = malloc((words + GUARD) * sizeof *bits);
    ck_assert_ptr_nonnull(bits);
    memset(bits, 0x5A, (words + GUARD) * sizeof *bits);
    const void *y = forward_bytes(c);
    const void *drawn = backward_bytes(&c);
    c.kept = gpu_copy(bits, (words + GUARD) * sizeof *bits);
    ck_assert_mem_eq(forward_bytes(c), y, size);
    ck_assert_mem_eq(backward_bytes(&c), drawn, 3 * size);

    const ser_tensor kept = ser_tensor_f32(c.kept, 1, (int64_t)words + GUARD);
    const uint32_t *left = gpu_bytes(&kept);
    ck_assert_mem_eq(left + words, bits + words, GUARD * sizeof *bits);
    for (size_t i = 0; i < words; i++) {
        bits[i] = ~left[i];
    }
    assert_ok(gpu.ops->upload(gpu.queue, c.kept, bits, words * sizeof *bits));
    ck_assert_mem_ne(backward_bytes(&c), drawn, 3 * size);
    free(bits);
    twins_free();
}

static void check_kept_widths(int32_t type, const int64_t *widths, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        check_kept((call){.batch = 2,
                          .padded = 131,
                          .heads = 1,
                          .width = widths[i],
                          .type = type,
                          .spread = 1.0F,
                          .p = 0.3F},
                   (int32_t[]){40, 131});
    }
}

START_TEST(test_kept_bits)
{
    const int64_t tensor_widths[] = {64, 24, 80, 128, 20};
    check_kept_widths(SER_BF16, tensor_widths, 5);
    check_kept_widths(SER_F32, (int64_t[]){20, 136, 3}, 3);
    call c = {.batch = 2, .heads = 2, .width = 64, .type = SER_BF16, .spread = 1.0F, .p = 0.3F};
    c.padded = 128; /* rows of the mask begin with a block of random numbers */
    check_kept(c, (int32_t[]){97, 128});
    c.padded = 66; /* enough blocks for the large tiles */
    c.heads = 133;
    c.width = 40;
    check_kept(c, (int32_t[]){66, 1});
}
END_TEST

/* Without dropout there are no bits: nothing is written, nothing is read. */
START_TEST(test_kept_without_dropout)
{
    call c = {.batch = 1, .padded = 70, .heads = 2, .width = 64, .type = SER_BF16, .spread = 1.0F};
    prepare(&c, (int32_t[]){70});
    const size_t words = (size_t)ser_attention_kept_words(1, c.padded, c.heads);
    uint32_t *zeros = calloc(words, sizeof *zeros);
    ck_assert_ptr_nonnull(zeros);
    c.kept = gpu_copy(zeros, words * sizeof *zeros);
    forward_bytes(c);
    check_both(&c);
    const ser_tensor kept = ser_tensor_f32(c.kept, 1, (int64_t)words);
    ck_assert_mem_eq(gpu_bytes(&kept), zeros, words * sizeof *zeros);
    free(zeros);
}
END_TEST

/* A clip's bits alone, at another padding, beside other clips, and again. */
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
    const size_t size = (size_t)(3 * c.heads * width) * (type == SER_BF16 ? 2 : 4) * FRAMES;
    const char *together = (const char *)gpu_bytes(&c.dqkv.gpu) + size / FRAMES * (FRAMES + MORE);

    call alone = c;
    alone.batch = 1;
    alone.padded = FRAMES;
    alone.rows = twin_rows_of(1, FRAMES, (int32_t[]){FRAMES});
    alone.qkv = twin_part(c.qkv, FRAMES + MORE, FRAMES);
    alone.y = twin_part(c.y, FRAMES + MORE, FRAMES);
    alone.lse = twin_part(c.lse, FRAMES + MORE, FRAMES);
    alone.dy = twin_part(c.dy, FRAMES + MORE, FRAMES);
    for (int again = 0; again < 2; again++) {
        outputs(&alone);
        run_gpu(&alone);
        ck_assert_mem_eq(together, gpu_bytes(&alone.dqkv.gpu), size);
    }
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

/* loss = sum of dy y over the valid rows, y by the GPU's forward pass */
static double loss_of(call *c)
{
    const ser_attention_args args = args_of(c, true);
    RUN_GPU(ser_attention_fwd, &args);
    const float *y = gpu_values(&c->y.gpu);
    const float *dy = c->dy.cpu.data;
    double loss = 0.0;
    for (int64_t i = 0; i < rows_of(c) * channels_of(c); i++) {
        loss += is_valid(c, i / channels_of(c)) ? (double)y[i] * (double)dy[i] : 0.0;
    }
    return loss;
}

/* The central difference with respect to element `at` of qkv. Two evaluations in float and a step
 * of 2^-5: rounding and the third derivative leave about 1e-4. */
static double difference_of(call *c, int64_t at)
{
    const float h = 0.03125F;
    const twin before = c->qkv;
    float *values = c->qkv.cpu.data;
    const float value = values[at];
    double loss[2];
    for (int i = 0; i < 2; i++) {
        values[at] = i == 0 ? value - h : value + h;
        c->qkv = twin_values(rows_of(c), 3 * channels_of(c), SER_F32, values);
        c->y = twin_output(rows_of(c), channels_of(c), SER_F32);
        loss[i] = loss_of(c);
        c->qkv = before;
    }
    values[at] = value;
    return (loss[1] - loss[0]) / (2.0 * (double)h);
}

static void check_differences(call c, const int32_t *valid)
{
    c.batch = 1;
    c.type = SER_F32;
    c.spread = 1.5F;
    prepare(&c, valid);
    run_gpu(&c);
    const float *got = gpu_values(&c.dqkv.gpu);
    const int64_t cols = 3 * channels_of(&c);
    for (int64_t at = 0; at < valid[0] * cols; at++) {
        ck_assert_double_eq_tol((double)got[at], difference_of(&c, at), 1e-3);
    }
    twins_free();
}

START_TEST(test_differences_of_forward)
{
    check_differences((call){.padded = 4, .heads = 1, .width = 3}, (int32_t[]){3});
    check_differences((call){.padded = 3, .heads = 2, .width = 2, .p = 0.4F}, (int32_t[]){3});
}
END_TEST

/* A damaged network must not look healthy. dy of head 0 has a NaN in frame 66: in dV it reaches the
 * column of every key, in dQ the frame's row, in dK everything. Head 1 is untouched. */
static void check_nan(int32_t type, int64_t width, float p)
{
    enum { FRAMES = 70, DAMAGED = 66 };
    call c = {.batch = 1,
              .padded = FRAMES,
              .heads = 2,
              .width = width,
              .type = type,
              .spread = 1.0F,
              .p = p};
    prepare(&c, (int32_t[]){FRAMES});
    const int64_t channels = channels_of(&c);
    ((float *)c.dy.cpu.data)[DAMAGED * channels + width - 1] = NAN;
    c.dy = twin_values(FRAMES, channels, type, c.dy.cpu.data);
    run_gpu(&c);
    const float *got = gpu_values(&c.dqkv.gpu);
    bool untouched = true;
    for (int64_t t = 0; t < FRAMES; t++) {
        const float *row = got + t * 3 * channels;
        ck_assert_int_eq(isnan(row[0]) != 0, t == DAMAGED);
        ck_assert(isnan(row[channels]));
        ck_assert(isnan(row[2 * channels + width - 1]));
        ck_assert(isfinite(row[2 * channels + width - 2]));
        for (int64_t i = width; i < 3 * channels; i++) {
            untouched = untouched && (i % channels < width || isfinite(row[i]));
        }
    }
    ck_assert(untouched);
    twins_free();
}

START_TEST(test_nan_survives)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        check_nan(type, 64, 0.0F);
        check_nan(type, 20, 0.1F);
    }
    check_nan(SER_BF16, 64, 0.1F);
}
END_TEST

/* Lengths and the step's number are read when the work is done, not when it is queued. */
START_TEST(test_recorded_work_reads_lengths_and_step_anew)
{
    enum { PADDED = 70 };
    call c = {.batch = 2,
              .padded = PADDED,
              .heads = 1,
              .width = 16,
              .type = SER_BF16,
              .spread = 1.0F,
              .p = 0.2F};
    const int32_t before[] = {3, PADDED};
    const ser_step other = {.seed = 9, .number = 2};
    prepare(&c, (int32_t[]){66, 7});
    ser_attention_args args = args_of(&c, true);
    const size_t size = sizeof before;
    assert_ok(gpu.ops->upload(gpu.queue, (void *)(uintptr_t)args.rows.valid, before, size));
    void *number = (void *)(uintptr_t)args.dropout.step;
    assert_ok(gpu.ops->upload(gpu.queue, number, &other, sizeof other));
    RUN_GPU(ser_attention_bwd, &args);
    ser_graph *graph = NULL;
    assert_ok(gpu.ops->capture_begin(gpu.queue));
    assert_ok(ser_attention_bwd(gpu.queue, &args));
    assert_ok(gpu.ops->capture_end(gpu.queue, false, &graph));

    const int32_t *now = c.rows.cpu.valid;
    assert_ok(gpu.ops->upload(gpu.queue, (void *)(uintptr_t)args.rows.valid, now, size));
    assert_ok(gpu.ops->upload(gpu.queue, number, &step, sizeof step));
    assert_ok(gpu.ops->replay(gpu.queue, graph));
    assert_ok(gpu.ops->sync(gpu.queue));
    const ser_attention_args expected = args_of(&c, false);
    RUN_CPU(ser_attention_bwd, &expected);
    check_gpu(&c);
    gpu.ops->graph_free(gpu.context, graph);
}
END_TEST

/* Memory grows with the frames, not with their square, and forward needs none. */
START_TEST(test_scratch_is_linear)
{
    ser_attention_args args = {.qkv = {NULL, 1024, 384, SER_BF16},
                               .rows = {.batch = 1, .padded = 1024},
                               .heads = 2,
                               .scale = 1.0F,
                               .y = {NULL, 1024, 128, SER_BF16}};
    ck_assert_uint_eq(gpu.ops->scratch(gpu.queue, SER_OP_ATTENTION, &args), 0);
    args.dqkv = args.qkv;
    const size_t size = gpu.ops->scratch(gpu.queue, SER_OP_ATTENTION, &args);
    ck_assert_uint_gt(size, 0);
    args.rows.padded = args.qkv.rows = args.y.rows = args.dqkv.rows = 4096;
    ck_assert_uint_le(gpu.ops->scratch(gpu.queue, SER_OP_ATTENTION, &args), 4 * size);
}
END_TEST

CUDA_SUITE("attention_backward", test_widths, test_lengths, test_single_frames, test_peaked_scores,
           test_scores_beyond_exp, test_dropout, test_large_tiles, test_kept_bits,
           test_kept_without_dropout, test_same_bits_alone_and_in_a_batch,
           test_differences_of_forward, test_nan_survives,
           test_recorded_work_reads_lengths_and_step_anew, test_scratch_is_linear)
