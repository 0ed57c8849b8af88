/* SPDX-License-Identifier: MIT */
/* Every stage of the network against PyTorch: golden/README.md describes the files. */
#include "harness.h"

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

enum { GOLDENS = sizeof goldens / sizeof goldens[0], MAX_CLIPS = 8 };

/* PyTorch's own float32 error here is 3e-6 at most; a wrong formula (tanh GELU) shows at 5e-4. */
static const double tolerance = 2e-5;

typedef struct golden {
    const char *name;
    ser_safetensors file;
    ser_device *device;
    ser_model *model;
    ser_workspace *workspace;
    int clips;
    bool batch, hf; /* all clips at once; the padding counts as speech */
    float *samples[MAX_CLIPS];
    int64_t counts[MAX_CLIPS];
} golden;

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
    assert_ok(ser_device_create(SER_DEVICE_CPU, 0, 2, &g->device));
    if (ser_safetensors_find(&g->file, "stage.0.logits") != NULL) {
        assert_ok(ser_model_open(g->device, path, &options, &g->model));
    } else {
        assert_ok(ser_model_from_backbone(g->device, path, labels, 2, &options, &g->model));
    }
}

static void open_golden(golden *g, const char *folder, const char *name)
{
    char path[4096];
    ser_file file;
    int directory;
    *g = (golden){.name = name};
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, name);
    assert_ok(ser_file_open(path, &file, &directory));
    assert_ok(ser_safetensors_open(&file, SER_DEFAULT_HEADER, &g->file));
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
    for (int i = 0; i < g->clips; i++) {
        free(g->samples[i]);
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
    double error = harness_relative_error(got, wanted, (size_t)(rows * cols));
    ck_assert_msg(error < tolerance, "%s: %s is off by %g", g->name, name, error);
    if (getenv("SER_GOLDEN_VERBOSE") != NULL) {
        printf("%-18s %-24s %.1e\n", g->name, name, error);
    }
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

static void run_golden(const char *folder, const char *name)
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
    close_golden(&g);
}

START_TEST(stages_match)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", harness_data("golden"));
    int64_t live = ser_mem_live();
    run_golden(folder, goldens[_i]);
    ck_assert_int_eq(ser_mem_live(), live);
}
END_TEST

/* A full-size model, by hand: SER_GOLDEN_FULL is the folder that make_golden.py --full wrote. */
START_TEST(full_size_stages_match)
{
    if (getenv("SER_GOLDEN_FULL") != NULL) {
        run_golden(getenv("SER_GOLDEN_FULL"), "full");
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("golden");
    TCase *tc = tcase_create("stages");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, stages_match, 0, GOLDENS);
    tcase_add_test(tc, full_size_stages_match);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
