/* SPDX-License-Identifier: MIT */
#include "fixture.h"

static double *reference_of(const ser_attention_args *a)
{
    const int64_t channels = a->y.cols;
    const int64_t width = channels / a->heads;
    double *y = ser_mem_alloc((size_t)(a->y.rows * channels), sizeof *y);
    double *p = ser_mem_alloc((size_t)a->rows.padded, sizeof *p);
    for (int64_t b = 0; b < a->rows.batch; b++) {
        const float *clip = (const float *)a->qkv.data + b * a->rows.padded * 3 * channels;
        const int64_t frames = a->rows.valid[b];
        for (int64_t h = 0; h < a->heads; h++) {
            for (int64_t t = 0; t < frames; t++) {
                const float *q = clip + t * 3 * channels + h * width;
                double total = 0.0;
                double top = -HUGE_VAL;
                for (int64_t s = 0; s < frames; s++) {
                    const float *k = clip + s * 3 * channels + channels + h * width;
                    p[s] = 0.0;
                    for (int64_t i = 0; i < width; i++) {
                        p[s] += (double)q[i] * (double)k[i] * (double)a->scale;
                    }
                    top = fmax(top, p[s]);
                }
                for (int64_t s = 0; s < frames; s++) {
                    p[s] = exp(p[s] - top);
                    total += p[s];
                }
                double *out = y + (b * a->rows.padded + t) * channels + h * width;
                for (int64_t s = 0; s < frames; s++) {
                    const float *v = clip + s * 3 * channels + 2 * channels + h * width;
                    for (int64_t i = 0; i < width; i++) {
                        out[i] += p[s] / total * (double)v[i];
                    }
                }
            }
        }
    }
    ser_mem_free(p);
    return y;
}

static void check_size(int64_t padded, const int32_t valid[2], int32_t heads, int64_t channels,
                       float spread)
{
    ser_attention_args args = {.qkv = matrix(2 * padded, 3 * channels, 1, 0),
                               .rows = {.batch = 2, .padded = padded, .valid = valid},
                               .heads = heads,
                               .scale = spread / sqrtf((float)(channels / heads)),
                               .y = poisoned(2 * padded, channels)};
    fill_padding(&args.qkv, &args.rows, NAN);
    RUN(ser_attention_fwd, &args);
    double *reference = reference_of(&args);
    check_rows(&args.y, reference, &args.rows, false);
    ser_mem_free(reference);
    matrices_free();
}

START_TEST(test_agrees_with_plain_loops)
{
    check_size(250, (int32_t[]){249, 100}, 3, 192, 1.0F);
    check_size(1, (int32_t[]){1, 1}, 1, 8, 1.0F);
    check_size(49, (int32_t[]){1, 49}, 4, 20, 1.0F);
    check_size(600, (int32_t[]){599, 17}, 2, 32, 1.0F);
}
END_TEST

START_TEST(test_peaked_scores)
{
    check_size(70, (int32_t[]){70, 33}, 4, 64, 40.0F);
}
END_TEST

START_TEST(test_same_bits_at_any_padding)
{
    enum { FRAMES = 61, CHANNELS = 48 };
    const int32_t valid[] = {FRAMES};
    ser_tensor qkv = matrix(FRAMES + 9, 3 * CHANNELS, 1, 0);
    ser_attention_args args = {.qkv = ser_tensor_f32(qkv.data, FRAMES, 3 * CHANNELS),
                               .rows = {.batch = 1, .padded = FRAMES, .valid = valid},
                               .heads = 4,
                               .scale = 0.3F,
                               .y = poisoned(FRAMES, CHANNELS)};
    RUN(ser_attention_fwd, &args);
    ser_attention_args padded = args;
    padded.qkv = qkv;
    padded.rows.padded = FRAMES + 9;
    padded.y = poisoned(FRAMES + 9, CHANNELS);
    fixture_threads(1);
    RUN(ser_attention_fwd, &padded);
    ck_assert_mem_eq(args.y.data, padded.y.data, FRAMES * CHANNELS * sizeof(float));
}
END_TEST

/* A damaged network must not look healthy: NaN goes through the softmax. */
START_TEST(test_nan_survives)
{
    const int32_t valid[] = {20};
    ser_attention_args args = {.qkv = matrix(20, 48, 1, 0),
                               .rows = {.batch = 1, .padded = 20, .valid = valid},
                               .heads = 2,
                               .scale = 0.3F,
                               .y = poisoned(20, 16)};
    ((float *)args.qkv.data)[5 * 48 + 16 + 3] = NAN; /* a key of head 0 in frame 5 */
    RUN(ser_attention_fwd, &args);
    for (int t = 0; t < 20; t++) {
        ck_assert(isnan(((float *)args.y.data)[t * 16]));
        ck_assert(isfinite(((float *)args.y.data)[t * 16 + 8]));
    }
}
END_TEST

static const ser_step step = {.seed = 5, .number = 11};

static ser_attention_args training_args(int64_t padded, const int32_t valid[2], int32_t heads,
                                        int64_t channels, float p)
{
    return (ser_attention_args){.qkv = matrix(2 * padded, 3 * channels, 1, 0),
                                .rows = {.batch = 2, .padded = padded, .valid = valid},
                                .heads = heads,
                                .scale = 1.5F / sqrtf((float)(channels / heads)),
                                .y = poisoned(2 * padded, channels),
                                .dropout = {.p = p, .op = 3, .step = &step},
                                .lse = poisoned(2 * padded, heads),
                                .dy = matrix(2 * padded, channels, 2, 0),
                                .dqkv = poisoned(2 * padded, 3 * channels)};
}

/* One head of one clip in double: where its slices begin, and the matrices of the formula. */
typedef struct head {
    const ser_attention_args *a;
    int64_t clip, head;
    int64_t frames, width, channels;
    const double *q, *k, *v; /* rows 3 channels apart */
    double *p;               /* [frames, frames] */
    double *factor;          /* [frames, frames] */
    double *lse;             /* [frames] */
} head;

static double row_dot(const double *x, const double *y, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

static head head_of(const ser_attention_args *a, const double *qkv, int64_t clip, int64_t index)
{
    head h = {.a = a,
              .clip = clip,
              .head = index,
              .frames = a->rows.valid[clip],
              .width = a->y.cols / a->heads,
              .channels = a->y.cols};
    const size_t pairs = (size_t)(h.frames * h.frames);
    h.q = qkv + clip * a->rows.padded * 3 * h.channels + index * h.width;
    h.k = h.q + h.channels;
    h.v = h.k + h.channels;
    h.p = ser_mem_alloc(pairs, sizeof *h.p);
    h.factor = ser_mem_alloc(pairs, sizeof *h.factor);
    h.lse = ser_mem_alloc((size_t)h.frames, sizeof *h.lse);
    for (int64_t i = 0; i < h.frames; i++) {
        double top = -HUGE_VAL;
        double total = 0.0;
        double *p = h.p + i * h.frames;
        for (int64_t j = 0; j < h.frames; j++) {
            p[j] = (double)a->scale *
                   row_dot(h.q + i * 3 * h.channels, h.k + j * 3 * h.channels, h.width);
            top = fmax(top, p[j]);
        }
        for (int64_t j = 0; j < h.frames; j++) {
            total += exp(p[j] - top);
        }
        h.lse[i] = top + log(total);
        for (int64_t j = 0; j < h.frames; j++) {
            const int64_t query = (clip * a->heads + index) * a->rows.padded + i;
            p[j] = exp(p[j] - h.lse[i]);
            h.factor[i * h.frames + j] =
                dropout_factor(&a->dropout, (uint64_t)(query * a->rows.padded + j));
        }
    }
    return h;
}

static void head_free(head *h)
{
    ser_mem_free(h->p);
    ser_mem_free(h->factor);
    ser_mem_free(h->lse);
}

/* y of frame i of a head, added to `to`. */
static void output_of(const head *h, int64_t i, double *to)
{
    for (int64_t j = 0; j < h->frames; j++) {
        const double p = h->p[i * h->frames + j] * h->factor[i * h->frames + j];
        for (int64_t c = 0; c < h->width; c++) {
            to[c] += p * h->v[j * 3 * h->channels + c];
        }
    }
}

/* loss = sum of dy y over the valid rows */
static const ser_attention_args *differentiated;
static double *qkv64, *dy64;

static double loss(void)
{
    const ser_attention_args *a = differentiated;
    double total = 0.0;
    for (int64_t task = 0; task < a->rows.batch * a->heads; task++) {
        head h = head_of(a, qkv64, task / a->heads, task % a->heads);
        for (int64_t i = 0; i < h.frames; i++) {
            double y[64] = {0};
            output_of(&h, i, y);
            total += row_dot(
                y, dy64 + (h.clip * a->rows.padded + i) * h.channels + h.head * h.width, h.width);
        }
        head_free(&h);
    }
    return total;
}

static void check_differences_of(int64_t padded, const int32_t valid[2], int32_t heads,
                                 int64_t channels, float p)
{
    ser_attention_args args = training_args(padded, valid, heads, channels, p);
    fill_padding(&args.qkv, &args.rows, NAN);
    RUN(ser_attention_fwd, &args);
    fill_padding(&args.y, &args.rows, NAN);
    fill_padding(&args.lse, &args.rows, NAN);
    fill_padding(&args.dy, &args.rows, NAN);
    RUN(ser_attention_bwd, &args);
    qkv64 = doubles(&args.qkv);
    dy64 = doubles(&args.dy);
    differentiated = &args;
    check_row_differences("dqkv", loss, qkv64, &args.dqkv, &args.rows, true);
    matrices_free();
}

START_TEST(test_gradients)
{
    check_differences_of(7, (int32_t[]){7, 3}, 2, 10, 0.0F);
    check_differences_of(7, (int32_t[]){7, 4}, 2, 10, 0.3F);
    check_differences_of(9, (int32_t[]){1, 9}, 1, 3, 0.5F);
    check_differences_of(1, (int32_t[]){1, 1}, 3, 9, 0.0F);
}
END_TEST

/* dq, dk, dv of one head by the formula in double; a scratch row of gradients per query. */
static void head_gradient(const head *h, const double *dy, double *dqkv)
{
    const int64_t pitch = 3 * h->channels;
    double *dq = dqkv + h->clip * h->a->rows.padded * pitch + h->head * h->width;
    double *ds = ser_mem_alloc((size_t)h->frames, sizeof *ds);
    for (int64_t i = 0; i < h->frames; i++) {
        const double *out =
            dy + (h->clip * h->a->rows.padded + i) * h->channels + h->head * h->width;
        const double *p = h->p + i * h->frames;
        const double *factor = h->factor + i * h->frames;
        double mean = 0.0;
        for (int64_t j = 0; j < h->frames; j++) {
            ds[j] = factor[j] * row_dot(out, h->v + j * pitch, h->width);
            mean += p[j] * ds[j];
        }
        for (int64_t j = 0; j < h->frames; j++) {
            const double score = (double)h->a->scale * p[j] * (ds[j] - mean);
            for (int64_t c = 0; c < h->width; c++) {
                dq[i * pitch + c] += score * h->k[j * pitch + c];
                dq[j * pitch + h->channels + c] += score * h->q[i * pitch + c];
                dq[j * pitch + 2 * h->channels + c] += factor[j] * p[j] * out[c];
            }
        }
    }
    ser_mem_free(ds);
}

static void check_large(int64_t padded, const int32_t valid[2], int32_t heads, int64_t channels,
                        float p, float spread)
{
    ser_attention_args args = training_args(padded, valid, heads, channels, p);
    args.scale *= spread;
    RUN(ser_attention_fwd, &args);
    RUN(ser_attention_bwd, &args);
    const double *qkv = doubles(&args.qkv);
    const double *dy = doubles(&args.dy);
    double *y = ser_mem_alloc((size_t)(2 * padded * channels), sizeof *y);
    double *lse = ser_mem_alloc((size_t)(2 * padded * heads), sizeof *lse);
    double *dqkv = ser_mem_alloc((size_t)(2 * padded * 3 * channels), sizeof *dqkv);
    for (int64_t task = 0; task < 2 * heads; task++) {
        head h = head_of(&args, qkv, task / heads, task % heads);
        for (int64_t i = 0; i < h.frames; i++) {
            const int64_t r = h.clip * padded + i;
            output_of(&h, i, y + r * channels + h.head * h.width);
            lse[r * heads + h.head] = h.lse[i];
        }
        head_gradient(&h, dy, dqkv);
        head_free(&h);
    }
    check_rows(&args.y, y, &args.rows, true);
    check_rows(&args.lse, lse, &args.rows, true);
    check_rows(&args.dqkv, dqkv, &args.rows, true);
    ser_mem_free(y);
    ser_mem_free(lse);
    ser_mem_free(dqkv);
    matrices_free();
}

START_TEST(test_large_gradients)
{
    check_large(250, (int32_t[]){249, 100}, 2, 128, 0.1F, 1.0F);
    check_large(100, (int32_t[]){97, 48}, 3, 21, 0.0F, 1.0F);
    check_large(530, (int32_t[]){529, 2}, 1, 16, 0.1F, 1.0F);
    check_large(70, (int32_t[]){70, 33}, 2, 64, 0.1F, 30.0F); /* nearly one-hot probabilities */
}
END_TEST

START_TEST(test_training_agrees_with_prediction)
{
    const int32_t valid[] = {50, 31};
    ser_attention_args training = training_args(50, valid, 4, 32, 0.0F);
    ser_attention_args prediction = {.qkv = training.qkv,
                                     .rows = training.rows,
                                     .heads = 4,
                                     .scale = training.scale,
                                     .y = poisoned(100, 32)};
    RUN(ser_attention_fwd, &training);
    RUN(ser_attention_fwd, &prediction);
    ck_assert_mem_eq(training.y.data, prediction.y.data, 100 * 32 * sizeof(float));
}
END_TEST

START_TEST(test_same_bits_with_any_threads)
{
    const int32_t valid[] = {400, 77};
    ser_attention_args args = training_args(400, valid, 4, 64, 0.1F);
    RUN(ser_attention_fwd, &args);
    RUN(ser_attention_bwd, &args);
    ser_attention_args alone = args;
    alone.y = poisoned(800, 64);
    alone.lse = poisoned(800, 4);
    alone.dqkv = poisoned(800, 192);
    fixture_threads(1);
    RUN(ser_attention_fwd, &alone);
    RUN(ser_attention_bwd, &alone);
    ck_assert_mem_eq(args.y.data, alone.y.data, 800 * 64 * sizeof(float));
    ck_assert_mem_eq(args.dqkv.data, alone.dqkv.data, 800 * 192 * sizeof(float));
}
END_TEST

/* Bits of dropout are for backends that read them (ops.h). */
START_TEST(test_kept_is_left_alone)
{
    const int32_t valid[] = {50, 31};
    ser_attention_args args = training_args(50, valid, 4, 32, 0.3F);
    RUN(ser_attention_fwd, &args);
    RUN(ser_attention_bwd, &args);
    ser_attention_args given = args;
    uint32_t word = 0x5A5A5A5A;
    given.kept = &word;
    given.y = poisoned(100, 32);
    given.lse = poisoned(100, 4);
    given.dqkv = poisoned(100, 96);
    RUN(ser_attention_fwd, &given);
    RUN(ser_attention_bwd, &given);
    ck_assert_uint_eq(word, 0x5A5A5A5A);
    ck_assert_mem_eq(args.dqkv.data, given.dqkv.data, 100 * 96 * sizeof(float));
}
END_TEST

/* Long clips: memory grows with their length, not with its square. */
START_TEST(test_scratch_is_linear)
{
    ser_attention_args args = {.qkv = {NULL, 1000, 384, SER_F32},
                               .rows = {.batch = 1, .padded = 1000},
                               .heads = 2,
                               .scale = 1.0F,
                               .y = {NULL, 1000, 128, SER_F32},
                               .dqkv = {NULL, 1000, 384, SER_F32}};
    const size_t size = ser_cpu_ops.scratch(queue, SER_OP_ATTENTION, &args);
    args.rows.padded = args.qkv.rows = args.y.rows = args.dqkv.rows = 4000;
    ck_assert_uint_le(ser_cpu_ops.scratch(queue, SER_OP_ATTENTION, &args), 4 * size);
}
END_TEST

OP_SUITE("attention", test_agrees_with_plain_loops, test_peaked_scores,
         test_same_bits_at_any_padding, test_nan_survives, test_gradients, test_large_gradients,
         test_training_agrees_with_prediction, test_same_bits_with_any_threads,
         test_kept_is_left_alone, test_scratch_is_linear)
