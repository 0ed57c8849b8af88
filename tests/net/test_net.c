/* SPDX-License-Identifier: MIT */
#include "random_net.h"

#include <math.h>

#include "net/workspace.h"

static random_net fixture;
static ser_workspace *workspace;

static void open_net(int kind)
{
    random_net_open(kind, 100, &fixture);
}

static void close_net(void)
{
    ser_workspace_free(workspace);
    workspace = NULL;
    random_net_close(&fixture);
}

/* What a clip's prediction consists of, copied from the stages. */
typedef struct outcome {
    int64_t frames;
    float *last;     /* [frames, hidden] */
    float *features; /* [frames, channels] */
    float *alpha;    /* [frames] */
    float pooled[64];
    float logits[8];
    float probabilities[8];
} outcome;

static float *fetch(const ser_tensor *tensor)
{
    float *host = malloc((size_t)(tensor->rows * tensor->cols) * sizeof *host);
    assert_ok(ser_workspace_download(workspace, tensor, 0, tensor->rows, host));
    return host;
}

/* Rows of one clip out of a stage. */
static void copy_rows(const ser_tensor *tensor, int64_t first, int64_t rows, float *to)
{
    float *host = fetch(tensor);
    memcpy(to, host + first * tensor->cols, (size_t)(rows * tensor->cols) * sizeof *to);
    free(host);
}

static float *clip_rows(const ser_stages *s, const ser_tensor *tensor, int64_t clip, int64_t frames)
{
    float *to = malloc((size_t)(frames * tensor->cols) * sizeof *to);
    copy_rows(tensor, clip * s->rows.padded, frames, to);
    return to;
}

static outcome outcome_of(const ser_stages *s, int64_t clip)
{
    outcome o = {.frames = s->valid_host[clip]};
    o.last = clip_rows(s, &s->last, clip, o.frames);
    o.features = clip_rows(s, &s->features, clip, o.frames);
    o.alpha = clip_rows(s, &s->alpha, clip, o.frames);
    copy_rows(&s->pooled, clip, 1, o.pooled);
    copy_rows(&s->logits, clip, 1, o.logits);
    copy_rows(&s->probabilities, clip, 1, o.probabilities);
    return o;
}

static void free_outcome(outcome *o)
{
    free(o->last);
    free(o->features);
    free(o->alpha);
}

static void assert_same_bits(const outcome *a, const outcome *b)
{
    const ser_arch *arch = ser_net_arch(fixture.net);
    size_t frames = (size_t)a->frames;
    ck_assert_int_eq(a->frames, b->frames);
    size_t channels = (size_t)arch->conv_dim[arch->conv_count - 1];
    size_t hidden = (size_t)arch->hidden_size;
    ck_assert_mem_eq(a->features, b->features, frames * channels * sizeof(float));
    ck_assert_mem_eq(a->last, b->last, frames * hidden * sizeof(float));
    ck_assert_mem_eq(a->alpha, b->alpha, frames * sizeof(float));
    ck_assert_mem_eq(a->pooled, b->pooled, hidden * sizeof(float));
    ck_assert_mem_eq(a->logits, b->logits, sizeof a->logits);
    ck_assert_mem_eq(a->probabilities, b->probabilities, sizeof a->probabilities);
}

/* NaN in all the memory that a pass works in, slack included. */
static void poison(void)
{
    memset(workspace->arena.memory, 0xFF, workspace->arena.size);
    if (workspace->queue->scratch != NULL) {
        memset(workspace->queue->scratch, 0xFF, workspace->queue->scratch_size);
    }
}

static const ser_stages *forward(int64_t batch, const float *const *samples, const int64_t *counts)
{
    const ser_stages *stages = NULL;
    const ser_run run = {.batch = batch,
                         .longest = counts[0] > counts[batch - 1] ? counts[0] : counts[batch - 1]};
    assert_ok(ser_workspace_plan(workspace, &run));
    poison();
    assert_ok(ser_net_forward(fixture.net, workspace, batch, samples, counts, &stages));
    return stages;
}

enum { CLIPS = 6 };
static const int64_t clip_counts[CLIPS] = {16001, 400, 401, 3217, 80000, 720};

static void make_clips(const float *clips[CLIPS])
{
    for (int i = 0; i < CLIPS; i++) {
        float *samples = malloc((size_t)clip_counts[i] * sizeof *samples);
        random_clip(samples, clip_counts[i], (uint64_t)i + 1);
        clips[i] = samples;
    }
}

static void free_clips(const float *clips[CLIPS])
{
    for (int i = 0; i < CLIPS; i++) {
        free((void *)(uintptr_t)clips[i]);
    }
}

static void assert_finite(const outcome *o)
{
    for (int64_t i = 0; i < o->frames * ser_net_arch(fixture.net)->hidden_size; i++) {
        ck_assert(isfinite(o->last[i]));
    }
    float sum = 0.0F;
    for (int64_t i = 0; i < o->frames; i++) {
        sum += o->alpha[i];
    }
    ck_assert_float_eq_tol(sum, 1.0F, 1e-5F);
}

START_TEST(a_clip_gives_the_same_bits_alone_and_in_any_batch)
{
    const float *clips[CLIPS];
    outcome alone[CLIPS];
    make_clips(clips);
    open_net(_i);
    assert_ok(ser_workspace_create(fixture.net, 1, 400, 1, true, &workspace));
    for (int i = 0; i < CLIPS; i++) {
        alone[i] = outcome_of(forward(1, &clips[i], &clip_counts[i]), 0);
        ck_assert_int_eq(alone[i].frames,
                         ser_arch_frames(ser_net_arch(fixture.net), clip_counts[i]));
        assert_finite(&alone[i]);
    }
    /* all of them, the longest last, the shortest between two long ones */
    static const int orders[][CLIPS] = {{0, 1, 2, 3, 4, 5}, {0, 1, 3, 2, 5, 4}, {4, 5, 2, 1, 0, 3}};
    for (int k = 0; k < 3; k++) {
        const float *samples[CLIPS];
        int64_t counts[CLIPS];
        for (int i = 0; i < CLIPS; i++) {
            samples[i] = clips[orders[k][i]];
            counts[i] = clip_counts[orders[k][i]];
        }
        const ser_stages *stages = NULL;
        const ser_run run = {.batch = CLIPS, .longest = 80000};
        assert_ok(ser_workspace_plan(workspace, &run));
        poison();
        assert_ok(ser_net_forward(fixture.net, workspace, CLIPS, samples, counts, &stages));
        for (int i = 0; i < CLIPS; i++) {
            outcome o = outcome_of(stages, i);
            assert_same_bits(&o, &alone[orders[k][i]]);
            free_outcome(&o);
        }
    }
    for (int i = 0; i < CLIPS; i++) {
        free_outcome(&alone[i]);
    }
    close_net();
    free_clips(clips);
}
END_TEST

START_TEST(reused_memory_gives_the_same_bits_as_kept_stages)
{
    const float *clips[CLIPS];
    make_clips(clips);
    open_net(_i);
    float wanted[8] = {0};
    float got[8] = {0};
    const ser_stages *stages;
    assert_ok(ser_workspace_create(fixture.net, 2, 16001, 1, true, &workspace));
    size_t kept_size = workspace->arena.size;
    stages = forward(2, clips, clip_counts);
    copy_rows(&stages->logits, 0, 1, wanted);
    ser_workspace_free(workspace);
    assert_ok(ser_workspace_create(fixture.net, 2, 16001, 2, false, &workspace));
    ck_assert_uint_lt(workspace->arena.size, kept_size);
    stages = forward(2, clips, clip_counts);
    copy_rows(&stages->logits, 0, 1, got);
    ck_assert_mem_eq(got, wanted, sizeof wanted);
    ck_assert_ptr_null(stages->hidden);
    float nothing;
    assert_fails(ser_workspace_download(workspace, &stages->features, 0, 1, &nothing),
                 SER_ERR_INTERNAL, "not kept");
    close_net();
    free_clips(clips);
}
END_TEST

START_TEST(a_smaller_batch_allocates_nothing)
{
    const float *clips[CLIPS];
    make_clips(clips);
    open_net(_i);
    const ser_stages *stages;
    assert_ok(ser_workspace_create(fixture.net, CLIPS, 80000, 1, false, &workspace));
    ser_mem_fail_at(1, true);
    for (int64_t batch = 1; batch <= CLIPS; batch++) {
        int status = ser_net_forward(fixture.net, workspace, batch, clips, clip_counts, &stages);
        if (status != 0) {
            ser_mem_fail_at(0, false);
            assert_ok(status);
        }
    }
    ser_mem_fail_at(0, false);
    close_net();
    free_clips(clips);
}
END_TEST

START_TEST(a_larger_batch_makes_the_workspace_grow_or_fail_cleanly)
{
    const float *clips[CLIPS];
    make_clips(clips);
    open_net(NET_BASE);
    const ser_stages *stages;
    assert_ok(ser_workspace_create(fixture.net, 1, 400, 1, false, &workspace));
    for (uint64_t nth = 1;; nth++) {
        ser_mem_fail_at(nth, false);
        int status = ser_net_forward(fixture.net, workspace, CLIPS, clips, clip_counts, &stages);
        ser_mem_fail_at(0, false);
        if (status == 0) {
            break;
        }
        ck_assert_int_eq(status, SER_ERR_MEMORY);
        ck_assert_uint_lt(nth, 20);
    }
    assert_ok(ser_net_forward(fixture.net, workspace, 1, clips, clip_counts, &stages));
    close_net();
    free_clips(clips);
}
END_TEST

START_TEST(hidden_states_are_counted_as_in_transformers)
{
    const float *clips[CLIPS];
    make_clips(clips);
    open_net(_i);
    const ser_arch *arch = ser_net_arch(fixture.net);
    assert_ok(ser_workspace_create(fixture.net, 1, 16001, 1, true, &workspace));
    const ser_stages *s = forward(1, clips, clip_counts);
    ck_assert_int_eq(s->hidden_count, arch->layers + 1);
    ck_assert_ptr_eq(s->hidden[0].data, s->positioned.data);
    ck_assert_ptr_eq(s->hidden[arch->layers].data, s->last.data);
    size_t values = (size_t)(s->valid_host[0] * arch->hidden_size);
    for (int32_t l = 0; l <= arch->layers; l++) {
        float *state = fetch(&s->hidden[l]);
        double sum = 0.0;
        for (size_t i = 0; i < values; i++) {
            sum += (double)state[i] * (double)state[i];
        }
        ck_assert_double_gt(sum, 0.1 * (double)values); /* each is there: none is zeros or NaN */
        ck_assert_double_lt(sum, 100.0 * (double)values);
        free(state);
    }
    ck_assert_int_eq(s->mel.data != NULL, arch->features == SER_FEATURES_LOGMEL);
    ck_assert_int_eq(s->projected.cols, arch->hidden_size);
    close_net();
    free_clips(clips);
}
END_TEST

START_TEST(the_mix_weighs_all_hidden_states)
{
    const float *clips[CLIPS];
    make_clips(clips);
    open_net(NET_LARGE); /* pools by the mean, so pooled = sum_l softmax(w)_l mean_t hidden_l */
    const ser_arch *arch = ser_net_arch(fixture.net);
    assert_ok(ser_workspace_create(fixture.net, 1, 16001, 1, true, &workspace));
    const ser_stages *s = forward(1, clips, clip_counts);
    size_t index = random_find(fixture.net, SER_PARAM_LAYER_MIX, 0);
    float *w = random_param(fixture.net, index, 100 + index);
    double total = 0.0;
    for (int32_t l = 0; l <= arch->layers; l++) {
        total += exp((double)w[l]);
    }
    double wanted[64] = {0.0};
    for (int32_t l = 0; l <= arch->layers; l++) {
        float *state = fetch(&s->hidden[l]);
        double weight = exp((double)w[l]) / total / s->valid_host[0];
        for (int64_t i = 0; i < s->valid_host[0] * arch->hidden_size; i++) {
            wanted[i % arch->hidden_size] += weight * (double)state[i];
        }
        free(state);
    }
    float *pooled = fetch(&s->pooled);
    double error = harness_relative_error64(pooled, wanted, (size_t)arch->hidden_size);
    ck_assert_double_lt(error, 1e-5);
    free(pooled);
    free(w);
    close_net();
    free_clips(clips);
}
END_TEST

START_TEST(a_backbone_stops_at_the_last_hidden_state)
{
    const float *clips[CLIPS];
    make_clips(clips);
    ser_arch arch = random_arch(NET_BASE);
    arch.classifier_count = 0;
    random_net_create(&arch, &fixture);
    for (size_t i = 0; i < ser_net_params(fixture.net)->count; i++) {
        float *values = random_param(fixture.net, i, 100 + i);
        assert_ok(ser_net_set(fixture.net, i, values));
        free(values);
    }
    assert_ok(ser_net_finish(fixture.net));
    assert_ok(ser_workspace_create(fixture.net, 1, 16001, 1, true, &workspace));
    const ser_stages *s = forward(1, clips, clip_counts);
    ck_assert_ptr_nonnull(s->last.data);
    ck_assert_ptr_null(s->logits.data);
    close_net();
    free_clips(clips);
}
END_TEST

START_TEST(forward_refuses_what_it_cannot_do)
{
    float samples[400] = {0.0F};
    const float *clip = samples;
    int64_t count = 399;
    const ser_stages *stages = NULL;
    open_net(NET_BASE);
    assert_ok(ser_workspace_create(fixture.net, 1, 400, 1, false, &workspace));
    assert_fails(ser_net_forward(fixture.net, workspace, 1, &clip, &count, &stages),
                 SER_ERR_INTERNAL, "clip 0 has 399 samples");
    assert_fails(ser_net_forward(fixture.net, workspace, 0, &clip, &count, &stages),
                 SER_ERR_INTERNAL, "batch of 0");
    ck_assert_ptr_null(stages);
    ser_workspace *huge = NULL;
    assert_fails(ser_workspace_create(fixture.net, 1 << 20, INT64_C(1) << 31, 1, false, &huge),
                 SER_ERR_MEMORY, "out of memory");
    ck_assert_ptr_null(huge);
    close_net();

    ser_arch arch = random_arch(NET_BASE);
    random_net_create(&arch, &fixture);
    assert_ok(ser_workspace_create(fixture.net, 1, 400, 1, false, &workspace));
    count = 400;
    assert_fails(ser_net_forward(fixture.net, workspace, 1, &clip, &count, &stages),
                 SER_ERR_INTERNAL, "forward before finish");
    close_net();
}
END_TEST

START_TEST(memory_of_a_full_size_clip_is_modest)
{
    /* wav2vec2-base but for the number of blocks, which the peak does not depend on */
    ser_arch arch = random_arch(NET_BASE);
    for (int32_t i = 0; i < arch.conv_count; i++) {
        arch.conv_dim[i] = 512;
    }
    arch.hidden_size = 768;
    arch.heads = 12;
    arch.intermediate_size = 3072;
    arch.layers = 1;
    arch.position_kernel = 128;
    arch.position_groups = 16;
    random_net_create(&arch, &fixture);
    assert_ok(ser_workspace_create(fixture.net, 1, 80000, 2, false, &workspace));
    size_t megabyte = 1000 * 1000;
    ck_assert_uint_lt(workspace->arena.size, 52 * megabyte); /* 32.8 + 16.4 and the samples */
    ck_assert_uint_lt(workspace->arena.size + workspace->queue->scratch_size, 150 * megabyte);
    close_net();
}
END_TEST

static int build_and_run(const float *clip, int64_t count, ser_net **net)
{
    ser_arch arch = random_arch(NET_LOGMEL);
    const ser_stages *stages;
    ser_workspace *w = NULL;
    int status = ser_net_create(&ser_cpu_ops, fixture.context, 1, &arch, SER_F32, net);
    for (size_t i = 0; status == 0 && i < ser_net_params(*net)->count; i++) {
        float values[4096];
        random_values(&ser_net_params(*net)->list[i], i, values);
        status = ser_net_set(*net, i, values);
    }
    status = status == 0 ? ser_net_finish(*net) : status;
    status = status == 0 ? ser_workspace_create(*net, 1, count, 1, true, &w) : status;
    status = status == 0 ? ser_net_forward(*net, w, 1, &clip, &count, &stages) : status;
    ser_workspace_free(w);
    return status;
}

START_TEST(every_failing_allocation_is_survived)
{
    const char *name;
    float clip[1000];
    random_clip(clip, 1000, 3);
    assert_ok(ser_cpu_ops.open(0, &fixture.context, &name));
    int64_t live = ser_mem_live();
    int status = SER_ERR_MEMORY;
    for (uint64_t nth = 1; status != 0; nth++) {
        ser_net *net = NULL;
        ser_mem_fail_at(nth, true);
        status = build_and_run(clip, 1000, &net);
        ser_mem_fail_at(0, false);
        ck_assert_msg(status == 0 || status == SER_ERR_MEMORY, "%s", ser_fail_text());
        ser_net_free(net);
        ck_assert_int_eq(ser_mem_live(), live);
        ck_assert_uint_lt(nth, 2000);
    }
    ser_cpu_ops.close(fixture.context);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("net");
    TCase *tc = tcase_create("forward");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, a_clip_gives_the_same_bits_alone_and_in_any_batch, 0, NET_KINDS);
    tcase_add_loop_test(tc, reused_memory_gives_the_same_bits_as_kept_stages, 0, NET_KINDS);
    tcase_add_loop_test(tc, a_smaller_batch_allocates_nothing, 0, NET_KINDS);
    tcase_add_test(tc, a_larger_batch_makes_the_workspace_grow_or_fail_cleanly);
    tcase_add_loop_test(tc, hidden_states_are_counted_as_in_transformers, 0, NET_KINDS);
    tcase_add_test(tc, the_mix_weighs_all_hidden_states);
    tcase_add_test(tc, a_backbone_stops_at_the_last_hidden_state);
    tcase_add_test(tc, forward_refuses_what_it_cannot_do);
    tcase_add_test(tc, memory_of_a_full_size_clip_is_modest);
    tcase_add_test(tc, every_failing_allocation_is_survived);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
