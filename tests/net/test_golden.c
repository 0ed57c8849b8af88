/* SPDX-License-Identifier: MIT */
/* Every stage of the network against PyTorch: golden/README.md describes the files. */
#include "harness.h"

#include <math.h>

#include "model/model.h"
#include "model/safetensors.h"

static const char *const goldens[] = {
    "base",
    "base_padded",
    "large",
    "large_padded",
    "hubert",
    "hubert_large",
    "backbone",
    "sharded",
    "old_names",
    "float16",
    "bfloat16",
    "attention_pool",
    "attention_pool_hf",
    "logmel",
    "logmel_post",
};

enum {
    GOLDENS = sizeof goldens / sizeof goldens[0],
    MAX_CLIPS = 8,
    MAX_KINDS = 40, /* of stages: of 24 blocks, and what is around them */
    MAX_STAGES = MAX_CLIPS * 24,
};

/* $SER_TEST_DEVICE=cuda runs the same on a card, or on its emulation; $SER_TEST_PRECISION=bf16. */
static bool on_cuda(void)
{
    const char *device = getenv("SER_TEST_DEVICE");
    return device != NULL && strcmp(device, "cuda") == 0;
}

static bool in_bf16(void)
{
    const char *precision = getenv("SER_TEST_PRECISION");
    return precision != NULL && strcmp(precision, "bf16") == 0;
}

/* PyTorch's own float32 error here is 3e-6 at most; a wrong formula (tanh GELU) shows at 5e-4. */
static const double tolerance = 2e-5;

/* bf16 only: sums of squares over the elements of a stage. */
typedef struct stage_error {
    char name[64]; /* stage.N.KIND */
    char kind[24];
    double ours, pytorch; /* differences from the golden */
    double size;          /* the golden */
} stage_error;

typedef struct golden {
    const char *name;
    ser_safetensors file;
    ser_safetensors pytorch; /* bf16 only: its errors */
    stage_error stages[MAX_STAGES];
    int stage_count;
    ser_device *device;
    ser_model *model;
    ser_workspace *workspace;
    int clips;
    bool batch, hf; /* all clips at once; the padding counts as speech */
    float *samples[MAX_CLIPS];
    int64_t counts[MAX_CLIPS];
} golden;

static void open_tensors(const char *folder, const char *name, ser_safetensors *tensors)
{
    char path[4096];
    ser_file file;
    int directory;
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, name);
    assert_ok(ser_file_open(path, &file, &directory));
    assert_ok(ser_safetensors_open(&file, SER_DEFAULT_HEADER, tensors));
}

static float *read_tensor(const golden *g, const char *name, const ser_tensor_entry **entry)
{
    *entry = ser_safetensors_find(&g->file, name);
    if (*entry == NULL) {
        return NULL;
    }
    float *values = malloc((size_t)((*entry)->elements + 1) * sizeof *values);
    assert_ok(ser_safetensors_read(&g->file, *entry, values));
    return values;
}

static float read_number(const golden *g, const char *format, int clip)
{
    char name[64];
    const ser_tensor_entry *entry;
    snprintf(name, sizeof name, format, clip);
    float *values = read_tensor(g, name, &entry);
    ck_assert_msg(values != NULL && entry->elements == 1, "%s: no %s", g->name, name);
    float value = values[0];
    free(values);
    return value;
}

static void read_clips(golden *g)
{
    int64_t longest = 0;
    for (int i = 0; i < g->clips; i++) {
        char name[64];
        const ser_tensor_entry *entry;
        snprintf(name, sizeof name, "input.%d", i);
        g->samples[i] = read_tensor(g, name, &entry);
        ck_assert_msg(g->samples[i] != NULL, "%s: no %s", g->name, name);
        g->counts[i] = (int64_t)entry->elements;
        longest = g->counts[i] > longest ? g->counts[i] : longest;
    }
    for (int i = 0; g->batch && g->hf && i < g->clips; i++) {
        float *padded = calloc((size_t)longest, sizeof *padded);
        memcpy(padded, g->samples[i], (size_t)g->counts[i] * sizeof *padded);
        free(g->samples[i]);
        g->samples[i] = padded;
        g->counts[i] = longest;
    }
}

static void load_model(golden *g, const char *path)
{
    static const char *const labels[] = {"a", "b"};
    ser_model_options options;
    ser_model_options_init(&options, sizeof options);
    options.precision = in_bf16() ? SER_PRECISION_BF16 : SER_PRECISION_F32;
    assert_ok(ser_device_create(on_cuda() ? SER_DEVICE_CUDA : SER_DEVICE_CPU, 0, 2, &g->device));
    if (ser_safetensors_find(&g->file, "stage.0.logits") != NULL) {
        assert_ok(ser_model_open(g->device, path, &options, &g->model));
    } else {
        assert_ok(ser_model_from_backbone(g->device, path, labels, 2, &options, &g->model));
    }
}

static void open_golden(golden *g, const char *folder, const char *name)
{
    char path[4096];
    *g = (golden){.name = name};
    open_tensors(folder, name, &g->file);
    if (in_bf16()) {
        open_tensors(folder, "bf16_errors", &g->pytorch);
    }
    g->clips = atoi(ser_safetensors_metadata(&g->file, "clips"));
    g->batch = strcmp(ser_safetensors_metadata(&g->file, "mode"), "batch") == 0;
    g->hf = strcmp(ser_safetensors_metadata(&g->file, "padding"), "hf") == 0;
    ck_assert_int_ge(g->clips, 1);
    ck_assert_int_le(g->clips, MAX_CLIPS);
    read_clips(g);
    snprintf(path, sizeof path, "%s/%s", folder, ser_safetensors_metadata(&g->file, "model"));
    load_model(g, path);
    assert_ok(ser_workspace_create(g->model->net, 1, 400, 2, true, &g->workspace));
}

static void close_golden(golden *g)
{
    ser_workspace_free(g->workspace);
    ser_model_release(g->model);
    ser_device_release(g->device);
    ser_safetensors_close(&g->file);
    if (in_bf16()) {
        ser_safetensors_close(&g->pytorch);
    }
    for (int i = 0; i < g->clips; i++) {
        free(g->samples[i]);
    }
}

/*
 * --- bf16: no worse than 1.1 times PyTorch ---
 *
 * bf16_errors.safetensors has PyTorch's own error in bf16 for every stage (golden/README.md).
 * Errors are |x - golden| / |golden|, Euclidean norms; of a kind of stage ("hidden.1", "logits") in
 * one golden, over all its clips as one vector. What is demanded:
 *
 *   1. of every kind, root mean square over all goldens:           1.1 times PyTorch's
 *   2. of every golden, root mean square over its hidden states:   1.1 times PyTorch's
 *   3. of every single stage:   SINGLE times PyTorch's there, or in all clips, whichever is larger
 *
 * A single stage cannot be held to 1.1: both errors are draws, the same roundings falling one way or
 * the other, and of two logits PyTorch's may be next to nothing. Between two ways of PyTorch itself
 * (bf16 weights, autocast) the ratio goes up to 5 here, and on other clips to 70. The third
 * demand is there for a clip that goes wrong alone. Over 5,600 stages of other random models and
 * clips, the ratio as it is taken there came to at most 2.5 for hidden states and 5.1 for what
 * follows them, for libser and PyTorch's autocast alike.
 */
static const double ALLOWED = 1.1;
static const double SINGLE = 3.0;
static const double SINGLE_HEAD = 6.0;

/* After the hidden states there are few numbers. */
static bool is_head(const char *kind)
{
    return strcmp(kind, "alpha") == 0 || strcmp(kind, "pooled") == 0 ||
           strcmp(kind, "logits") == 0 || strcmp(kind, "probabilities") == 0;
}

static double pytorch_error(const golden *g, const char *stage)
{
    char name[128];
    float value;
    snprintf(name, sizeof name, "%s/%s", g->name, stage);
    const ser_tensor_entry *entry = ser_safetensors_find(&g->pytorch, name);
    ck_assert_msg(entry != NULL && entry->elements == 1, "no %s: run golden/bf16_errors.py", name);
    assert_ok(ser_safetensors_read(&g->pytorch, entry, &value));
    return (double)value;
}

static void note_stage(golden *g, const char *name, const char *kind, const float *got,
                       const float *wanted, int64_t count)
{
    ck_assert_int_lt(g->stage_count, MAX_STAGES);
    stage_error *e = &g->stages[g->stage_count++];
    *e = (stage_error){.size = 0.0};
    snprintf(e->name, sizeof e->name, "%s", name);
    snprintf(e->kind, sizeof e->kind, "%s", kind);
    for (int64_t i = 0; i < count; i++) {
        const double difference = (double)got[i] - (double)wanted[i];
        e->ours += difference * difference;
        e->size += (double)wanted[i] * (double)wanted[i];
    }
    const double relative = pytorch_error(g, name);
    e->pytorch = relative * relative * e->size;
}

static stage_error sum_of_kind(const golden *g, const char *kind)
{
    stage_error sum = {.size = 0.0};
    for (int i = 0; i < g->stage_count; i++) {
        const stage_error *e = &g->stages[i];
        if (strcmp(e->kind, kind) == 0) {
            sum.ours += e->ours;
            sum.pytorch += e->pytorch;
            sum.size += e->size;
        }
    }
    return sum;
}

/* Sums of squared relative errors, over goldens or over the kinds of one. */
typedef struct tally {
    char kind[24];
    double ours, pytorch;
} tally;

static void add_to(tally *t, const stage_error *sum)
{
    t->ours += sum->ours / sum->size;
    t->pytorch += sum->pytorch / sum->size;
}

static void demand(const char *of, const char *kind, const tally *t)
{
    const double ratio = sqrt(t->ours / t->pytorch);
    if (getenv("SER_GOLDEN_VERBOSE") != NULL) {
        printf("%-18s %-24s %.2f times PyTorch's\n", of, kind, ratio);
    }
    ck_assert_msg(ratio <= ALLOWED, "%s: %s: error %.2f times PyTorch's", of, kind, ratio);
}

static void check_single(const golden *g, const stage_error *e)
{
    const stage_error all = sum_of_kind(g, e->kind);
    const double ours = sqrt(e->ours / e->size);
    const double pytorch = sqrt(e->pytorch / e->size);
    const double typical = fmax(pytorch, sqrt(all.pytorch / all.size));
    if (getenv("SER_GOLDEN_VERBOSE") != NULL) {
        printf("%-18s %-24s %.1e, PyTorch %.1e\n", g->name, e->name, ours, pytorch);
    }
    ck_assert_msg(ours <= (is_head(e->kind) ? SINGLE_HEAD : SINGLE) * typical,
                  "%s: %s is off by %g, PyTorch by %g", g->name, e->name, ours, typical);
}

static tally *tally_of(tally *kinds, const char *kind)
{
    int i = 0;
    while (kinds[i].kind[0] != '\0' && strcmp(kinds[i].kind, kind) != 0) {
        i++;
    }
    ck_assert_int_lt(i, MAX_KINDS);
    snprintf(kinds[i].kind, sizeof kinds[i].kind, "%s", kind);
    return &kinds[i];
}

/* Demands 2 and 3; `kinds`, of all goldens so far, ends with one that has no name. */
static void judge(const golden *g, tally *kinds)
{
    tally hidden = {.ours = 0.0};
    for (int i = 0; i < g->stage_count; i++) {
        const stage_error *e = &g->stages[i];
        const bool first = strncmp(e->name, "stage.0.", 8) == 0; /* each clip has the same kinds */
        const stage_error sum = sum_of_kind(g, e->kind);
        check_single(g, e);
        if (first) {
            add_to(tally_of(kinds, e->kind), &sum);
        }
        if (first && !is_head(e->kind)) {
            add_to(&hidden, &sum);
        }
    }
    demand(g->name, "hidden states", &hidden);
}

/* --- Stages --- */

static void check_stage(golden *g, const char *name, const char *kind, const float *got,
                        const float *wanted, int64_t count)
{
    if (in_bf16()) {
        note_stage(g, name, kind, got, wanted, count);
        return;
    }
    const double error = harness_relative_error(got, wanted, (size_t)count);
    ck_assert_msg(error < tolerance, "%s: %s is off by %g", g->name, name, error);
    if (getenv("SER_GOLDEN_VERBOSE") != NULL) {
        printf("%-18s %-24s %.1e\n", g->name, name, error);
    }
}

/* Rows first + r * stride of a stage against the golden; `count` rows belong to the clip. */
static int compare(golden *g, int clip, const char *stage, const ser_tensor *tensor, int64_t first,
                   int64_t count, int64_t stride)
{
    char name[64];
    const ser_tensor_entry *entry;
    snprintf(name, sizeof name, "stage.%d.%s", clip, stage);
    float *wanted = read_tensor(g, name, &entry);
    if (wanted == NULL) {
        return 0;
    }
    ck_assert_msg(tensor->data != NULL, "%s: %s was not computed", g->name, name);
    int64_t cols = tensor->cols;
    int64_t rows = (count - 1) / stride + 1;
    ck_assert_msg((int64_t)entry->elements == rows * cols,
                  "%s: %s has %llu elements, not %lld x %lld", g->name, name,
                  (unsigned long long)entry->elements, (long long)rows, (long long)cols);
    float *all = malloc((size_t)(tensor->rows * cols) * sizeof *all);
    float *got = malloc((size_t)(rows * cols) * sizeof *got);
    assert_ok(ser_workspace_download(g->workspace, tensor, 0, tensor->rows, all));
    for (int64_t r = 0; r < rows; r++) {
        memcpy(got + r * cols, all + (first + r * stride) * cols, (size_t)cols * sizeof *got);
    }
    check_stage(g, name, stage, got, wanted, rows * cols);
    free(got);
    free(all);
    free(wanted);
    return 1;
}

static void compare_clip(golden *g, int clip, int row, const ser_stages *s)
{
    int64_t frames = s->valid_host[row];
    int64_t stride = (int64_t)read_number(g, "stride.%d", clip);
    int64_t first = row * s->rows.padded;
    ck_assert_int_eq(frames, (int64_t)read_number(g, "frames.%d", clip));
    int found = 0;
    if (s->mel.data != NULL) {
        found += compare(g, clip, "mel", &s->mel, row * s->mel_rows.padded, s->mel_valid_host[row],
                         stride);
    }
    found += compare(g, clip, "features", &s->features, first, frames, stride);
    found += compare(g, clip, "projected", &s->projected, first, frames, stride);
    for (int32_t l = 0; l < s->hidden_count; l++) {
        char stage[32];
        snprintf(stage, sizeof stage, "hidden.%d", l);
        found += compare(g, clip, stage, &s->hidden[l], first, frames, stride);
    }
    ck_assert_int_ge(found, 3 + s->hidden_count - 1); /* all of them must be in the file */
    found = compare(g, clip, "alpha", &s->alpha, first, frames, stride);
    ck_assert(found == 1 || ser_net_arch(g->model->net)->pooling == SER_POOLING_MEAN ||
              ser_safetensors_find(&g->file, "stage.0.logits") == NULL);
    found = compare(g, clip, "pooled", &s->pooled, row, 1, 1);
    found += compare(g, clip, "logits", &s->logits, row, 1, 1);
    found += compare(g, clip, "probabilities", &s->probabilities, row, 1, 1);
    ck_assert_int_eq(found, ser_safetensors_find(&g->file, "stage.0.logits") != NULL ? 3 : 0);
}

/* `kinds`: bf16 only. */
static void run_golden(const char *folder, const char *name, tally *kinds)
{
    golden g;
    const ser_stages *stages;
    open_golden(&g, folder, name);
    const float *const *samples = (const float *const *)(uintptr_t)g.samples;
    if (g.batch) {
        assert_ok(ser_net_forward(g.model->net, g.workspace, g.clips, samples, g.counts, &stages));
    }
    for (int i = 0; i < g.clips; i++) {
        if (!g.batch) {
            assert_ok(
                ser_net_forward(g.model->net, g.workspace, 1, samples + i, g.counts + i, &stages));
        }
        compare_clip(&g, i, g.batch ? i : 0, stages);
    }
    if (in_bf16()) {
        judge(&g, kinds);
    }
    close_golden(&g);
}

START_TEST(stages_match)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", harness_data("golden"));
    int64_t live = ser_mem_live();
    run_golden(folder, goldens[_i], NULL);
    ck_assert_int_eq(ser_mem_live(), live);
}
END_TEST

/* All of them in one test: some demands are on sums over the goldens. */
START_TEST(bf16_is_as_close_as_pytorch)
{
    char folder[4096];
    tally kinds[MAX_KINDS + 1] = {{.ours = 0.0}};
    snprintf(folder, sizeof folder, "%s", harness_data("golden"));
    int64_t live = ser_mem_live();
    for (int i = 0; i < GOLDENS; i++) {
        run_golden(folder, goldens[i], kinds);
    }
    for (int i = 0; kinds[i].kind[0] != '\0'; i++) {
        demand("all goldens", kinds[i].kind, &kinds[i]);
    }
    ck_assert_int_eq(ser_mem_live(), live);
}
END_TEST

/* A full-size model, by hand: SER_GOLDEN_FULL is the folder that make_golden.py --full wrote. */
START_TEST(full_size_stages_match)
{
    if (getenv("SER_GOLDEN_FULL") != NULL) {
        tally kinds[MAX_KINDS + 1] = {{.ours = 0.0}};
        run_golden(getenv("SER_GOLDEN_FULL"), "full", kinds);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("golden");
    TCase *tc = tcase_create("stages");
    tcase_set_timeout(tc, in_bf16() ? 600 : 120);
    if (in_bf16()) {
        tcase_add_test(tc, bf16_is_as_close_as_pytorch);
    } else {
        tcase_add_loop_test(tc, stages_match, 0, GOLDENS);
    }
    tcase_add_test(tc, full_size_stages_match);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
