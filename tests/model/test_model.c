/* SPDX-License-Identifier: MIT */
/* The public functions of ser/model.h, from files to a network and back. */
#include "harness.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder.h"
#include "model/model.h"

static const char *const four_labels[] = {"calm", "angry", "happy", "sad"};

static ser_model *load_blob(ser_device *device, const blob *b)
{
    ser_model *model;
    assert_ok(ser_model_load_memory(device, b->data, b->size, NULL, &model));
    return model;
}

static blob read_file(const char *path)
{
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    FILE *file = fopen(path, "rb");
    unsigned char *data = malloc((size_t)st.st_size + 1);
    ck_assert_uint_eq(fread(data, 1, (size_t)st.st_size, file), (size_t)st.st_size);
    (void)fclose(file);
    blob b = blob_copy(data, (size_t)st.st_size);
    free(data);
    return b;
}

/* A parameter of the network, by its name in the model file. To be freed. */
static float *values_of(const ser_model *model, const char *name, size_t *count)
{
    const ser_params *params = ser_net_params(model->net);
    for (size_t i = 0; i < params->count; i++) {
        if (strcmp(params->list[i].name, name) == 0) {
            *count = (size_t)ser_param_elements(&params->list[i]);
            float *values = malloc(*count * sizeof *values);
            assert_ok(ser_net_get(model->net, i, values));
            return values;
        }
    }
    ck_abort_msg("no parameter %s", name);
    return NULL;
}

static void expect_values(const ser_model *model, const char *name, const char *tensor)
{
    size_t count;
    float *values = values_of(model, name, &count);
    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(values[i] == spec_value(tensor, i), "%s[%zu] is %g", name, i,
                      (double)values[i]);
    }
    free(values);
}

START_TEST(loads_and_describes)
{
    ser_device *device = open_cpu();
    ser_model *model;
    blob b = small_model(true);
    const char *path = harness_tmpfile("model.safetensors");
    blob_write(&b, path);
    assert_ok(ser_model_load(device, path, NULL, &model));
    ser_device_free(&device); /* the model keeps its own reference */
    ck_assert_uint_eq(ser_model_label_count(model), 3);
    ck_assert_str_eq(ser_model_label(model, 0), "neutral");
    ck_assert_str_eq(ser_model_label(model, 2), "sad");
    ck_assert_ptr_null(ser_model_label(model, 3));
    ck_assert_ptr_null(ser_model_label(model, SIZE_MAX));
    ck_assert_str_eq(ser_model_path(model), path);
    ck_assert_double_eq(ser_model_window(model), 5.0);
    ck_assert_double_eq(ser_model_max_seconds(model), 30.0);
    const ser_params *params = ser_net_params(model->net);
    uint64_t total = 0;
    for (size_t i = 0; i < params->count; i++) {
        total += (uint64_t)ser_param_elements(&params->list[i]);
        expect_values(model, params->list[i].name, params->list[i].name);
    }
    ck_assert_uint_eq(ser_model_parameter_count(model), total);
    json_t *config = json_loads(ser_model_config(model), JSON_REJECT_DUPLICATES, NULL);
    ck_assert_int_eq(
        json_integer_value(json_object_get(json_object_get(config, "training"), "epochs")), 3);
    json_decref(config);
    ck_assert_ptr_eq(ser_model_ref(model), model);
    ser_model *second = model;
    ser_model_free(&model);
    ck_assert_ptr_null(model);
    ck_assert_uint_eq(ser_model_label_count(second), 3);
    ser_model_free(&second);
    ser_model_free(&second);
    ser_model_free(NULL);
    blob_free(&b);
}
END_TEST

START_TEST(from_memory)
{
    int64_t live = ser_mem_live();
    ser_device *device = open_cpu();
    blob b = small_model(false);
    ser_model *model = load_blob(device, &b);
    blob_free(&b); /* only read during the call */
    ck_assert_str_eq(ser_model_path(model), "");
    expect_values(model, "classifier.1.bias", "classifier.1.bias");
    ser_model_free(&model);
    ser_device_free(&device);
    ck_assert_int_eq(ser_mem_live(), live);
}
END_TEST

/* What is saved is what was loaded, and saving again gives the same bytes. */
START_TEST(saves_and_reads_back)
{
    ser_device *device = open_cpu();
    char first[4096];
    char second[4096];
    (void)snprintf(first, sizeof first, "%s", harness_tmpfile("first.safetensors"));
    (void)snprintf(second, sizeof second, "%s", harness_tmpfile("second.safetensors"));
    for (int logmel = 0; logmel < 2; logmel++) {
        ser_model *again;
        blob b = small_model(logmel != 0);
        ser_model *model = load_blob(device, &b);
        assert_ok(ser_model_save(model, first));
        assert_ok(ser_model_load(device, first, NULL, &again));
        assert_ok(ser_model_save(again, second));
        blob x = read_file(first);
        blob y = read_file(second);
        ck_assert_uint_eq(x.size, y.size);
        ck_assert_mem_eq(x.data, y.data, x.size);
        ck_assert_str_eq(ser_model_config(model), ser_model_config(again));
        const ser_params *params = ser_net_params(again->net);
        for (size_t i = 0; i < params->count; i++) {
            expect_values(again, params->list[i].name, params->list[i].name);
        }
        blob_free(&x);
        blob_free(&y);
        blob_free(&b);
        ser_model_free(&model);
        ser_model_free(&again);
    }
    ser_device_free(&device);
}
END_TEST

/* As the reference writer lays it out: blanks up to 8 bytes, data in the order of names. */
START_TEST(layout_of_a_saved_file)
{
    ser_device *device = open_cpu();
    blob b = small_model(true);
    ser_model *model = load_blob(device, &b);
    const char *path = harness_tmpfile("layout.safetensors");
    assert_ok(ser_model_save(model, path));
    blob saved = read_file(path);
    uint64_t n;
    memcpy(&n, saved.data, 8);
    ck_assert_uint_eq(n % 8, 0);
    ck_assert(saved.data[8] == '{');
    json_t *header =
        json_loadb((const char *)saved.data + 8, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(header);
    json_t *metadata = json_object_get(header, "__metadata__");
    ck_assert_str_eq(json_string_value(json_object_get(metadata, "format")), "ser");
    ck_assert_str_eq(json_string_value(json_object_get(metadata, "version")), "1");
    ck_assert_str_eq(json_string_value(json_object_get(metadata, "config")),
                     ser_model_config(model));
    json_object_del(header, "__metadata__");
    const char *name;
    json_t *tensor;
    char last[160] = "";
    json_int_t end = 0;
    json_object_foreach(header, name, tensor)
    {
        json_t *offsets = json_object_get(tensor, "data_offsets");
        ck_assert_int_lt(strcmp(last, name), 0);
        ck_assert_int_eq(json_integer_value(json_array_get(offsets, 0)), end);
        ck_assert_str_eq(json_string_value(json_object_get(tensor, "dtype")), "F32");
        end = json_integer_value(json_array_get(offsets, 1));
        (void)snprintf(last, sizeof last, "%s", name);
    }
    ck_assert_uint_eq((uint64_t)end, ser_model_parameter_count(model) * 4);
    ck_assert_uint_eq(8 + n + (uint64_t)end, saved.size);
    json_decref(header);
    blob_free(&saved);
    blob_free(&b);
    ser_model_free(&model);
    ser_device_free(&device);
}
END_TEST

START_TEST(failed_save_keeps_the_old_file)
{
    ser_device *device = open_cpu();
    blob b = small_model(true);
    ser_model *model = load_blob(device, &b);
    char dir[4096];
    char path[4200];
    struct rlimit old;
    (void)snprintf(dir, sizeof dir, "%s", harness_tmpfile("full"));
    ck_assert_int_eq(mkdir(dir, 0777), 0);
    (void)snprintf(path, sizeof path, "%s/m.safetensors", dir);
    write_text(path, "old");
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    rlim_t sizes[] = {0, 100, 4000, b.size - 100};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct rlimit limit = {.rlim_cur = sizes[i], .rlim_max = old.rlim_max};
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        int status = ser_model_save(model, path);
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_fails(status, SER_ERR_IO, "cannot write: File too large");
        ck_assert(directory_holds_only(dir, "m.safetensors"));
        blob kept = read_file(path);
        ck_assert_uint_eq(kept.size, 3);
        blob_free(&kept);
    }
    (void)signal(SIGXFSZ, handler);
    assert_ok(ser_model_save(model, path));
    ck_assert(directory_holds_only(dir, "m.safetensors"));
    blob_free(&b);
    ser_model_free(&model);
    ser_device_free(&device);
}
END_TEST

START_TEST(transformers_classifier_becomes_one_file)
{
    ser_device *device = open_cpu();
    ser_model *model;
    ser_model *again;
    hf_model hf;
    hf_create(&hf, "hubert", "HubertForSequenceClassification", "hubert.", true);
    hf_write(&hf);
    assert_ok(ser_model_load(device, hf.dir, NULL, &model));
    ck_assert_str_eq(ser_model_path(model), hf.dir);
    expect_values(model, "classifier.0.weight", "projector.weight");
    const char *path = harness_tmpfile("imported.safetensors");
    assert_ok(ser_model_save(model, path));
    assert_ok(ser_model_load(device, path, NULL, &again));
    expect_values(again, "classifier.1.weight", "classifier.weight");
    expect_values(again, "wav2vec2.encoder.layers.1.attention.out_proj.weight",
                  "hubert.encoder.layers.1.attention.out_proj.weight");
    ck_assert_str_eq(ser_model_config(model), ser_model_config(again));
    ser_model_free(&again);
    ser_model_free(&model);
    ser_device_free(&device);
    hf_free(&hf);
}
END_TEST

/* Put `value` at position `index` of a tensor of the file in `b`. */
static void patch(blob *b, const char *tensor, size_t index, float value)
{
    ser_package p;
    assert_ok(ser_package_open_memory(b->data, b->size, SER_DEFAULT_HEADER, &p));
    const ser_tensor_ref *ref = ser_tensors_find(&p.tensors, tensor);
    ck_assert_ptr_nonnull(ref);
    memcpy(b->data + ref->entry->offset + 4 * index, &value, 4);
    ser_package_clear(&p);
}

typedef struct seen {
    int count;
    char text[512];
} seen;

static void keep(int32_t level, const char *text, void *user)
{
    seen *s = user;
    (void)level;
    s->count++;
    (void)snprintf(s->text, sizeof s->text, "%s", text);
}

START_TEST(ST12_nan_and_infinite_weights)
{
    static const char name[] = "wav2vec2.encoder.layers.0.attention.v_proj.weight";
    ser_device *device = open_cpu();
    ser_model_options options;
    ser_model *model;
    seen s = {0};
    blob b = small_model(true);
    patch(&b, name, 3, NAN);
    patch(&b, name, 4, -INFINITY);
    patch(&b, "classifier.1.bias", 0, INFINITY);
    ser_log_set_handler(keep, &s);
    assert_ok(ser_model_load_memory(device, b.data, b.size, NULL, &model));
    ck_assert_int_eq(s.count, 1);
    ck_assert(strstr(s.text, "3 NaN or infinite weights, the first in \"wav2vec2.encoder.layers.0."
                             "attention.v_proj.weight\"") != NULL);
    size_t count;
    float *values = values_of(model, name, &count);
    ck_assert(isnan(values[3]) && isinf(values[4]));
    free(values);
    ser_model_free(&model);
    ser_model_options_init(&options, sizeof options);
    options.strict = 1;
    assert_fails(ser_model_load_memory(device, b.data, b.size, &options, &model), SER_ERR_DATA,
                 "v_proj.weight\" has 2 NaN or infinite values");
    ck_assert_ptr_null(model);
    ck_assert_int_eq(s.count, 1);
    ser_log_set_handler(NULL, NULL);
    blob_free(&b);
    ser_device_free(&device);
}
END_TEST

START_TEST(mel_deviation_must_be_positive)
{
    static const float wrong[] = {0.0F, -0.0F, -1.0F, -INFINITY};
    ser_device *device = open_cpu();
    ser_model *model;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        blob b = small_model(true);
        patch(&b, "wav2vec2.feature_extractor.mel.std", 2, wrong[i]);
        assert_fails(ser_model_load_memory(device, b.data, b.size, NULL, &model), SER_ERR_DATA,
                     "mel.std\"[2] is ");
        blob_free(&b);
    }
    ser_device_free(&device);
}
END_TEST

static ser_model *create(ser_device *device, const char *dir, uint64_t seed)
{
    ser_model *model;
    ser_model_options options;
    ser_model_options_init(&options, sizeof options);
    options.seed = seed;
    assert_ok(ser_model_create(device, dir, four_labels, 4, &options, &model));
    return model;
}

static void check_fresh(const ser_model *model, const char *stem, int rows, int cols)
{
    char name[64];
    size_t count;
    (void)snprintf(name, sizeof name, "%s.bias", stem);
    float *values = values_of(model, name, &count);
    ck_assert_uint_eq(count, (size_t)rows);
    for (size_t i = 0; i < count; i++) {
        ck_assert(values[i] == 0.0F);
    }
    free(values);
    (void)snprintf(name, sizeof name, "%s.weight", stem);
    values = values_of(model, name, &count);
    ck_assert_uint_eq(count, (size_t)(rows * cols));
    double limit = sqrt(6.0 / (rows + cols));
    double squares = 0.0;
    for (size_t i = 0; i < count; i++) {
        ck_assert(fabs((double)values[i]) <= limit * 1.000001);
        squares += (double)values[i] * (double)values[i];
    }
    double expected = limit * limit / 3.0; /* variance of a uniform number */
    ck_assert_double_eq_tol(squares / (double)count / expected, 1.0, count > 1000 ? 0.1 : 0.7);
    free(values);
}

START_TEST(creates_a_fresh_head)
{
    ser_device *device = open_cpu();
    hf_model hf;
    hf_create(&hf, "wav2vec2", "Wav2Vec2ForPreTraining", "wav2vec2.", false);
    hf_write(&hf);
    ser_model *a = create(device, hf.dir, 1);
    ser_model *b = create(device, hf.dir, 1);
    ser_model *c = create(device, hf.dir, 2);
    ck_assert_uint_eq(ser_model_label_count(a), 4);
    ck_assert_str_eq(ser_model_label(a, 3), "sad");
    check_fresh(a, "pooling.score", 1, 12);
    check_fresh(a, "classifier.0", 256, 12);
    check_fresh(a, "classifier.1", 128, 256);
    check_fresh(a, "classifier.2", 4, 128);
    expect_values(a, "wav2vec2.encoder.layers.0.attention.q_proj.weight",
                  "wav2vec2.encoder.layers.0.attention.q_proj.weight");
    for (int i = 0; i < 3; i++) {
        char name[64];
        size_t count;
        (void)snprintf(name, sizeof name, "classifier.%d.weight", i);
        float *x = values_of(a, name, &count);
        float *y = values_of(b, name, &count);
        float *z = values_of(c, name, &count);
        ck_assert_mem_eq(x, y, count * sizeof *x);
        ck_assert_mem_ne(x, z, count * sizeof *x);
        free(x);
        free(y);
        free(z);
    }
    /* it is saved and loaded like any other */
    ser_model *again;
    const char *path = harness_tmpfile("fresh.safetensors");
    assert_ok(ser_model_save(a, path));
    assert_ok(ser_model_load(device, path, NULL, &again));
    check_fresh(again, "classifier.1", 128, 256);
    ser_model_free(&again);
    ser_model_free(&a);
    ser_model_free(&b);
    ser_model_free(&c);
    ser_device_free(&device);
    hf_free(&hf);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    ser_device *device = open_cpu();
    hf_model hf;
    hf_create(&hf, "wav2vec2", "Wav2Vec2Model", "", false);
    hf_write(&hf);
    const char *path = harness_tmpfile("faults.safetensors");
    int64_t live = ser_mem_live();
    for (int sticky = 0; sticky < 2; sticky++) {
        int status = SER_ERR_MEMORY;
        for (uint64_t n = 1; status != 0; n++) {
            ser_model *model;
            ser_mem_fail_at(n, sticky != 0);
            status = ser_model_create(device, hf.dir, four_labels, 4, NULL, &model);
            ck_assert_int_eq(status == 0, model != NULL);
            if (status == 0) {
                status = ser_model_save(model, path);
            }
            ser_mem_fail_at(0, false);
            ck_assert_msg(status == 0 || status == SER_ERR_MEMORY, "%d %s", status,
                          ser_error_message());
            ser_model_free(&model);
            ck_assert_int_eq(ser_mem_live(), live);
            ck_assert_uint_lt(n, 5000);
        }
    }
    ser_device_free(&device);
    hf_free(&hf);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model");
    TCase *tcase = tcase_create("model");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, loads_and_describes);
    tcase_add_test(tcase, from_memory);
    tcase_add_test(tcase, saves_and_reads_back);
    tcase_add_test(tcase, layout_of_a_saved_file);
    tcase_add_test(tcase, failed_save_keeps_the_old_file);
    tcase_add_test(tcase, transformers_classifier_becomes_one_file);
    tcase_add_test(tcase, ST12_nan_and_infinite_weights);
    tcase_add_test(tcase, mel_deviation_must_be_positive);
    tcase_add_test(tcase, creates_a_fresh_head);
    tcase_add_test(tcase, every_allocation_may_fail);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
