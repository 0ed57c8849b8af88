/* SPDX-License-Identifier: MIT */
/*
 * y = x + GELU(conv(x) + bias), grouped over channels, stride 1. Each group's channels are copied
 * to rows of their own with kernel - 1 zero rows around them; on these the convolution is a product
 * of overlapping rows, kernel * C / groups long, one row of C / groups apart.
 */
#include <string.h>

#include "ops/cpu/cpu.h"

/* Floats of one group's zero-framed copy of one clip. */
static int64_t slice_size(const ser_pos_conv_args *args)
{
    const int64_t width = args->w->spec.rows;
    return cpu_ceil_div((args->rows.padded + args->kernel - 1) * width, 16) * 16;
}

/* The channels of group g of a clip's `valid` rows, with zero rows before and after. */
typedef struct slice {
    int64_t valid, before, after, width;
    float *to;
} slice;

static slice slice_of(const ser_pos_conv_args *args, int64_t clip, int64_t before, float *to)
{
    return (slice){.valid = args->rows.valid[clip],
                   .before = before,
                   .after = args->kernel - 1 - before,
                   .width = args->w->spec.rows,
                   .to = to};
}

static void clear_frame(const slice *s)
{
    memset(s->to, 0, (size_t)(s->before * s->width) * sizeof(float));
    memset(s->to + (s->before + s->valid) * s->width, 0,
           (size_t)(s->after * s->width) * sizeof(float));
}

/* x points to the group's channels in the clip's first row. */
static void copy_rows(const slice *s, const float *x, int64_t channels)
{
    clear_frame(s);
    float *to = s->to + s->before * s->width;
    for (int64_t t = 0; t < s->valid; t++) {
        memcpy(to + t * s->width, x + t * channels, (size_t)s->width * sizeof(float));
    }
}

/* The slices of all groups of a clip of x. */
static void copy_clip(const ser_queue *queue, const ser_pos_conv_args *args, int64_t clip,
                      float *slices)
{
    const int64_t channels = args->x.cols;
    const int64_t pitch = slice_size(args);
    const float *x = (const float *)args->x.data + clip * args->rows.padded * channels;
    const double values = (double)(args->rows.valid[clip] * channels);
    const int threads = cpu_threads_for(queue, values * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t g = 0; g < args->groups; g++) {
        const slice s = slice_of(args, clip, args->kernel / 2, slices + g * pitch);
        copy_rows(&s, x + g * s.width, channels);
    }
}

int ser_cpu_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t channels = args->x.cols;
    const int64_t width = args->w->spec.rows;
    const bool saves = args->z.data != NULL;
    float *slices = (float *)((char *)queue->scratch + ser_gemm_weight_scratch(queue, args->w));
    for (int64_t b = 0; b < args->rows.batch; b++) {
        const int64_t first = b * args->rows.padded * channels;
        const int64_t valid = args->rows.valid[b];
        const float *x = (const float *)args->x.data + first;
        float *y = (float *)args->y.data + first;
        float *z = saves ? (float *)args->z.data + first : y;
        copy_clip(queue, args, b, slices);
        gemm_call call = {
            .a = slices,
            .lda = width,
            .a_pitch = slice_size(args),
            .bias = args->bias.data,
            .bias_pitch = width,
            .c = z,
            .ldc = channels,
            .c_pitch = width,
            .entries = args->groups,
            .max_rows = valid,
            .activation = saves ? SER_ACT_NONE : SER_ACT_GELU,
        };
        int status = ser_gemm_run_weight(queue, args->w, &call);
        if (status != 0) {
            return status;
        }
        if (saves) {
            kernels->bias_act(z, NULL, valid * channels, SER_ACT_GELU, y);
        }
        kernels->add(x, y, valid * channels, y);
    }
    ser_cpu_zero_padding(&args->y, &args->rows);
    if (saves) {
        ser_cpu_zero_padding(&args->z, &args->rows);
    }
    return 0;
}

/*
 * Backward: dz = dy GELU'(z), and with b = kernel / 2
 *   dx[s, i] = dy[s, i] + sum over k and o of dz[s + b - k, o] w[o, k, i],  dw += dz^T x
 * The sum is the same kind of product on zero-framed slices of dz, with the taps in reverse.
 */
typedef struct backward_plan {
    size_t dz, x; /* slices */
    size_t packed, plain;
    size_t size;
} backward_plan;

static gemm_transpose reversed_weight(const ser_pos_conv_args *args)
{
    return (gemm_transpose){.weight = args->w,
                            .width = args->w->spec.rows,
                            .first = args->kernel - 1,
                            .step = -1,
                            .taps = args->kernel};
}

static backward_plan plan_backward(const ser_queue *queue, const ser_pos_conv_args *args)
{
    backward_plan plan = {.size = cpu_round(ser_gemm_tn_scratch(queue))};
    const int64_t slices = slice_size(args) * args->groups;
    if (args->dx.rows > 0) {
        const gemm_transpose t = reversed_weight(args);
        const int64_t packed =
            ser_gemm_transposed_size(cpu_queue_of(queue)->kernels, &t) * args->groups;
        const size_t product = cpu_round(ser_gemm_scratch(queue));
        plan.size = product > plan.size ? product : plan.size;
        plan.packed = cpu_carve(&plan.size, packed, sizeof(float));
        plan.plain = cpu_carve(&plan.size, ser_gemm_plain_size(args->w), sizeof(float));
    }
    plan.dz = cpu_carve(&plan.size, slices, sizeof(float));
    plan.x = cpu_carve(&plan.size, args->dw.rows > 0 ? slices : 0, sizeof(float));
    return plan;
}

size_t ser_cpu_pos_conv_scratch(const ser_queue *queue, const ser_pos_conv_args *args)
{
    const size_t forward = ser_gemm_weight_scratch(queue, args->w) +
                           (size_t)(slice_size(args) * args->groups) * sizeof(float);
    const size_t backward = args->dy.rows > 0 ? plan_backward(queue, args).size : 0;
    return backward > forward ? backward : forward;
}

/* dz of one clip in its slices. */
static void tail_gradient(const ser_queue *queue, const ser_pos_conv_args *args, int64_t clip,
                          float *slices)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t channels = args->dy.cols;
    const int64_t pitch = slice_size(args);
    const int64_t first = clip * args->rows.padded * channels;
    const double values = (double)(args->rows.valid[clip] * channels);
    const int threads = cpu_threads_for(queue, values * 2.0 * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t g = 0; g < args->groups; g++) {
        const int64_t before = args->kernel - 1 - args->kernel / 2;
        const slice s = slice_of(args, clip, before, slices + g * pitch);
        clear_frame(&s);
        for (int64_t t = 0; t < s.valid; t++) {
            const int64_t at = first + t * channels + g * s.width;
            kernels->training->dropout_bwd(
                &(ser_dropout_row){.n = s.width,
                                   .activation = SER_ACT_GELU,
                                   .x = (const float *)args->z.data + at,
                                   .dy = (const float *)args->dy.data + at,
                                   .y = s.to + (s.before + t) * s.width});
        }
    }
}

/* What one clip adds to dw and dbias; dz points to the first row behind the zeros. */
static void weight_gradients(const ser_queue *queue, const ser_pos_conv_args *args, int64_t clip,
                             const float *dz, float *x)
{
    const int64_t width = args->dy.cols / args->groups;
    const int64_t pitch = slice_size(args);
    if (args->dbias.data != NULL) {
        for (int64_t g = 0; g < args->groups; g++) {
            const gemm_columns columns = {.x = dz + g * pitch,
                                          .ld = width,
                                          .n = width,
                                          .entries = 1,
                                          .rows = args->rows.valid + clip,
                                          .max_rows = args->rows.valid[clip],
                                          .sum = (float *)args->dbias.data + g * width};
            ser_gemm_sum_columns(queue, &columns);
        }
    }
    if (args->dw.data != NULL) {
        copy_clip(queue, args, clip, x);
        const gemm_tn_call call = {.a = dz,
                                   .lda = width,
                                   .a_group = pitch,
                                   .b = x,
                                   .ldb = width,
                                   .b_group = pitch,
                                   .c = args->dw.data,
                                   .c_group = width * args->kernel * width,
                                   .n = width,
                                   .k = args->kernel * width,
                                   .groups = args->groups,
                                   .entries = 1,
                                   .max_rows = args->rows.valid[clip]};
        ser_gemm_tn_run(queue, &call);
    }
}

static void data_gradient(const ser_queue *queue, const ser_pos_conv_args *args, int64_t clip,
                          const float *slices, const float *packed)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t channels = args->dy.cols;
    const int64_t width = channels / args->groups;
    const int64_t valid = args->rows.valid[clip];
    const int64_t first = clip * args->rows.padded * channels;
    const gemm_transpose t = reversed_weight(args);
    float *dx = (float *)args->dx.data + first;
    const gemm_call call = {
        .a = slices,
        .lda = width,
        .a_pitch = slice_size(args),
        .b = packed,
        .b_pitch = ser_gemm_transposed_size(kernels, &t),
        .c = dx,
        .ldc = channels,
        .c_pitch = width,
        .n = width,
        .k = args->kernel * width,
        .entries = args->groups,
        .max_rows = valid,
    };
    ser_gemm_run(queue, &call);
    kernels->add(dx, (const float *)args->dy.data + first, valid * channels, dx);
}

int ser_cpu_pos_conv_bwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    const backward_plan plan = plan_backward(queue, args);
    const gemm_transpose t = reversed_weight(args);
    const int64_t before = args->kernel - 1 - args->kernel / 2;
    char *scratch = queue->scratch;
    float *dz = (float *)(void *)(scratch + plan.dz);
    float *packed = (float *)(void *)(scratch + plan.packed);
    float *plain = (float *)(void *)(scratch + plan.plain);
    if (args->dx.data != NULL) {
        int status = ser_gemm_plain(queue, args->w, plain);
        if (status != 0) {
            return status;
        }
        ser_gemm_transpose(queue, &t, plain, packed);
    }
    for (int64_t b = 0; b < args->rows.batch; b++) {
        tail_gradient(queue, args, b, dz);
        weight_gradients(queue, args, b, dz + before * t.width,
                         (float *)(void *)(scratch + plan.x));
        if (args->dx.data != NULL) {
            data_gradient(queue, args, b, dz, packed);
        }
    }
    if (args->dx.data != NULL) {
        ser_cpu_zero_padding(&args->dx, &args->rows);
    }
    return 0;
}
