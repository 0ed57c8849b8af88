/* SPDX-License-Identifier: MIT */
/*
 * pytorch_model.bin: files that PyTorch wrote (golden/torch_bin.py) against the same tensors in
 * safetensors files, PK8 and PK9. Archives made by hand are in test_torch_archive.c.
 */
#include "harness.h"

#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "model/package.h"
#include "model/torch_bin.h"
#include "zipper.h"

static const char convert[] = "python3 -c \"import torch, safetensors.torch as s; s.save_file({k: "
                              "v.clone().contiguous() for k, v in ";

#ifdef SER_HAVE_LIBZIP

static void check_same(const ser_safetensors *a, const ser_tensor_entry *x,
                       const ser_safetensors *b, const ser_tensor_entry *y)
{
    ck_assert_int_eq(x->rank, y->rank);
    ck_assert_uint_eq(x->elements, y->elements);
    for (int32_t d = 0; d < x->rank; d++) {
        ck_assert_uint_eq(x->shape[d], y->shape[d]);
    }
    float *p = ser_mem_alloc((size_t)x->elements, sizeof *p);
    float *q = ser_mem_alloc((size_t)x->elements, sizeof *q);
    assert_ok(ser_safetensors_read(a, x, p));
    assert_ok(ser_safetensors_read(b, y, q));
    ck_assert_msg(memcmp(p, q, (size_t)x->elements * sizeof *p) == 0, "%s", x->name);
    ser_mem_free(p);
    ser_mem_free(q);
}

START_TEST(tensors_of_all_kinds)
{
    static const char *const others[][2] = {{"double", "F64"}, {"long", "I64"}, {"int", "I32"},
                                            {"short", "I16"},  {"char", "I8"},  {"byte", "U8"},
                                            {"bool", "BOOL"}};
    static const char *const strided[] = {"permuted", "slice", "shared.column", "half.permuted"};
    blob bin = golden_blob("views.bin");
    blob plain = golden_blob("views.safetensors");
    ser_file file;
    ser_safetensors a;
    ser_safetensors b;
    float value;
    assert_ok(torch_open(&bin, &a));
    assert_ok(ser_file_wrap(plain.data, plain.size, "views.safetensors", &file));
    assert_ok(ser_safetensors_open(&file, SER_DEFAULT_HEADER, &b));
    ck_assert_uint_eq(a.count, b.count + sizeof others / sizeof others[0]);
    for (size_t i = 0; i < b.count; i++) {
        const ser_tensor_entry *entry = ser_safetensors_find(&a, b.list[i].name);
        ck_assert_msg(entry != NULL, "%s", b.list[i].name);
        check_same(&a, entry, &b, &b.list[i]);
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const ser_tensor_entry *entry = ser_safetensors_find(&a, others[i][0]);
        ck_assert_str_eq(entry->dtype, others[i][1]);
        assert_fails(ser_safetensors_read(&a, entry, &value), SER_ERR_UNSUPPORTED, others[i][1]);
    }
    for (size_t i = 0; i < sizeof strided / sizeof strided[0]; i++) {
        ck_assert(ser_safetensors_find(&a, strided[i])->strided);
    }
    ck_assert(!ser_safetensors_find(&a, "unit")->strided); /* 1s may have any stride */
    ser_safetensors_close(&a);
    ser_safetensors_close(&b);
    blob_free(&bin);
    blob_free(&plain);
}
END_TEST

/* --- Directories ----------------------------------------------------------------------------- */

static const char *golden_path(const char *name, char path[512])
{
    char below[300];
    (void)snprintf(below, sizeof below, "golden/torch_bin/%s", name);
    (void)snprintf(path, 512, "%s", harness_data(below));
    return path;
}

static void copy_into(const char *golden, const char *dir, const char *base)
{
    char path[700];
    blob b = golden_blob(golden);
    (void)snprintf(path, sizeof path, "%s/%s", dir, base);
    blob_write(&b, path);
    blob_free(&b);
}

/* A directory of its own with the configuration of a golden model. */
static void make_directory(const char *golden, char dir[256])
{
    static unsigned serial;
    char name[300];
    (void)snprintf(dir, 256, "%s/bin-%u", harness_tmpdir(), serial++);
    ck_assert_int_eq(mkdir(dir, 0777), 0);
    (void)snprintf(name, sizeof name, "%s/config.json", golden);
    copy_into(name, dir, "config.json");
    (void)snprintf(name, sizeof name, "%s/preprocessor_config.json", golden);
    copy_into(name, dir, "preprocessor_config.json");
}

static int open_package(const char *dir, bool backbone, ser_package *package)
{
    static const char *const labels[] = {"x", "y"};
    static const ser_head head = {.labels = labels, .label_count = 2};
    int64_t live = ser_mem_live();
    int status = backbone ? ser_package_open_backbone(dir, &head, SER_DEFAULT_HEADER, package)
                          : ser_package_open(dir, SER_DEFAULT_HEADER, package);
    if (status != 0) {
        ck_assert_int_eq(ser_mem_live(), live);
    }
    return status;
}

/* The same parameters, bit for bit, as from a safetensors file. */
static void check_model(const char *golden, bool backbone)
{
    char dir[256];
    char path[512];
    ser_package bin;
    ser_package plain;
    char name[300];
    make_directory(golden, dir);
    (void)snprintf(name, sizeof name, "%s.safetensors", golden);
    copy_into(name, dir, "model.safetensors");
    assert_ok(open_package(golden_path(golden, path), backbone, &bin));
    assert_ok(open_package(dir, backbone, &plain));
    size_t bound = 0;
    ck_assert_uint_eq(bin.params.count, plain.params.count);
    for (size_t i = 0; i < bin.params.count; i++) {
        const ser_tensor_ref *x = &bin.bound[i];
        const ser_tensor_ref *y = &plain.bound[i];
        ck_assert_int_eq(x->entry == NULL, y->entry == NULL);
        if (x->entry != NULL) {
            check_same(x->file, x->entry, y->file, y->entry);
            bound++;
        }
    }
    ck_assert_uint_gt(bound, 30);
    ser_package_clear(&bin);
    ser_package_clear(&plain);
}

START_TEST(models_equal_those_of_safetensors)
{
    check_model("pretraining", true);
    check_model("bare", true); /* in two shards */
    check_model("classifier", false);
    check_model("classifier", true);
    check_model("half", false);
}
END_TEST

static void predict(ser_device *device, const char *dir, float probabilities[3])
{
    float samples[8000];
    ser_audio *audio;
    ser_model *model;
    ser_predictor *predictor;
    harness_fill(samples, 8000, 5, 0.5F);
    assert_ok(ser_audio_from_samples(samples, 8000, 1, 16000, NULL, &audio));
    assert_ok(ser_model_load(device, dir, NULL, &model));
    assert_ok(ser_predictor_create(model, NULL, &predictor));
    assert_ok(ser_predict(predictor, audio, probabilities, 3));
    ser_predictor_free(&predictor);
    ser_model_free(&model);
    ser_audio_free(&audio);
}

START_TEST(through_the_public_interface)
{
    static const char *const labels[] = {"x", "y"};
    char dir[256];
    char path[512];
    float p[2][3];
    ser_model *model;
    ser_device *device = open_cpu();
    make_directory("classifier", dir);
    copy_into("classifier.safetensors", dir, "model.safetensors");
    predict(device, golden_path("classifier", path), p[0]);
    predict(device, dir, p[1]);
    ck_assert_int_eq(memcmp(p[0], p[1], sizeof p[0]), 0);
    assert_ok(ser_model_create(device, golden_path("pretraining", path), labels, 2, NULL, &model));
    ser_model_free(&model);
    ser_device_free(&device);
}
END_TEST

START_TEST(safetensors_come_first_and_nothing_comes_second)
{
    char dir[256];
    char path[512];
    ser_package p;
    make_directory("classifier", dir);
    assert_fails(open_package(dir, false, &p), SER_ERR_IO,
                 "neither model.safetensors nor pytorch_model.bin");
    (void)snprintf(path, sizeof path, "%s/pytorch_model.bin", dir);
    write_text(path, "rubbish");
    assert_fails(open_package(dir, false, &p), SER_ERR_FORMAT,
                 "pytorch_model.bin: not a zip archive of torch.save()");
    copy_into("classifier.safetensors", dir, "model.safetensors");
    assert_ok(open_package(dir, false, &p));
    ser_package_clear(&p);
    /* PK9: a safetensors file that is refused is not made up for by another one */
    copy_into("classifier/pytorch_model.bin", dir, "pytorch_model.bin");
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    write_text(path, "rubbish!");
    assert_fails(open_package(dir, false, &p), SER_ERR_FORMAT, "not a safetensors file");
    ck_assert_int_eq(remove(path), 0);
    assert_ok(open_package(dir, false, &p));
    ser_package_clear(&p);
}
END_TEST

typedef struct log_lines {
    int count;
    char last[512];
} log_lines;

static void keep_line(int32_t level, const char *line, void *user)
{
    log_lines *lines = user;
    if (level == SER_LOG_INFO && strstr(line, "not needed") != NULL) {
        lines->count++;
        (void)snprintf(lines->last, sizeof lines->last, "%s", line);
    }
}

START_TEST(what_pretraining_alone_needs_is_listed_once)
{
    log_lines lines = {.count = 0};
    char path[512];
    ser_package p;
    ser_log_handler_set(keep_line, &lines);
    ser_log_level_set(SER_LOG_INFO);
    assert_ok(open_package(golden_path("pretraining", path), true, &p));
    ser_log_handler_set(NULL, NULL);
    ser_package_clear(&p);
    ck_assert_int_eq(lines.count, 1);
    ck_assert_msg(strstr(lines.last, "8 tensors not needed: project_hid.*; project_q.*; "
                                     "quantizer.*; masked_spec_embed") != NULL,
                  "%s", lines.last);
}
END_TEST

/* Exchange a text within the archive's pickle by one of the same length. */
static blob with_text(const char *golden, const char *from, const char *to)
{
    static char names[128][64];
    zip_part parts[128];
    blob good = golden_blob(golden);
    blob pickle = {NULL, 0};
    size_t count = zip_take_apart(&good, parts, names, 128);
    for (size_t i = 0; i < count; i++) {
        if (strstr(parts[i].name, "/data.pkl") != NULL) {
            pickle = blob_copy(parts[i].data, parts[i].size);
            char *at = memmem(pickle.data, pickle.size, from, strlen(from));
            ck_assert_ptr_nonnull(at);
            memcpy(at, to, strlen(to));
            parts[i].data = pickle.data;
        }
    }
    blob b = zip_write(parts, count);
    blob_free(&pickle);
    blob_free(&good);
    return b;
}

START_TEST(anything_else_is_an_error)
{
    static const char *const edits[][3] = {
        {"project_q.weight", "project_x.weight", "project_x.weight is unknown"},
        {"wav2vec2.feature_projection.projection.bias",
         "wav2vec2.feature_projection.projection.xxxx",
         "wav2vec2.feature_projection.projection.bias is missing"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        char dir[256];
        char path[512];
        ser_package p;
        make_directory("pretraining", dir);
        blob b = with_text("pretraining/pytorch_model.bin", edits[i][0], edits[i][1]);
        (void)snprintf(path, sizeof path, "%s/pytorch_model.bin", dir);
        blob_write(&b, path);
        blob_free(&b);
        assert_fails(open_package(dir, true, &p), SER_ERR_MISMATCH, edits[i][2]);
    }
    char path[512];
    ser_package p;
    assert_fails(open_package(golden_path("pretraining", path), false, &p), SER_ERR_DATA,
                 "a backbone without a classifier");
}
END_TEST

START_TEST(shards_are_plain_files_of_the_directory)
{
    char dir[256];
    char path[512];
    ser_package p;
    make_directory("bare", dir);
    (void)snprintf(path, sizeof path, "%s/pytorch_model.bin.index.json", dir);
    write_text(path, "{\"weight_map\": {\"a\": \"../pytorch_model.bin\"}}");
    assert_fails(open_package(dir, true, &p), SER_ERR_FORMAT,
                 "pytorch_model.bin.index.json: shard \"../pytorch_model.bin\" is not a plain");
    copy_into("bare/pytorch_model.bin.index.json", dir, "pytorch_model.bin.index.json");
    assert_fails(open_package(dir, true, &p), SER_ERR_IO, "-of-00002.bin: cannot open");
    copy_into("bare/pytorch_model-00001-of-00002.bin", dir, "pytorch_model-00001-of-00002.bin");
    copy_into("bare/pytorch_model-00001-of-00002.bin", dir, "pytorch_model-00002-of-00002.bin");
    assert_fails(open_package(dir, true, &p), SER_ERR_FORMAT, "is not in its shard");
}
END_TEST

/* --- Files that are not read (PK8), and failures of the machine -------------------------------- */

START_TEST(PK8_other_formats_of_PyTorch)
{
    static const struct {
        const char *name;
        int status;
        const char *part;
    } files[] = {
        {"legacy.bin", SER_ERR_UNSUPPORTED, "the format of PyTorch before 1.6"},
        {"script.bin", SER_ERR_UNSUPPORTED, "a TorchScript program"},
        {"protocol4.bin", SER_ERR_UNSUPPORTED, "data.pkl: pickle protocol 4; 2 is read"},
        {"module.bin", SER_ERR_UNSUPPORTED, "data.pkl: global \"torch.nn.modules.linear.Linear\""},
        {"complex.bin", SER_ERR_UNSUPPORTED, "data.pkl: global \"torch.ComplexFloatStorage\""},
        {"nested.bin", SER_ERR_FORMAT, "data.pkl: \"state_dict\" is no tensor: not a state dict"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        assert_fails(torch_status(golden_blob(files[i].name)), files[i].status, files[i].part);
        ck_assert_int_eq(strstr(ser_fail_text(), convert) != NULL, i < 2);
    }
    assert_fails(torch_status(golden_blob("script.bin")), SER_ERR_UNSUPPORTED,
                 "torch.jit.load('pytorch_model.bin', map_location='cpu').state_dict().items()}, "
                 "'model.safetensors', {'format': 'pt'})\"");
    assert_fails(torch_status(blob_copy("", 0)), SER_ERR_FORMAT, "not a zip archive of torch");
    assert_fails(torch_status(blob_copy("version https://git-lfs", 23)), SER_ERR_FORMAT,
                 "a Git LFS pointer");
}
END_TEST

START_TEST(a_file_that_shrinks)
{
    char path[512];
    ser_file file;
    ser_safetensors tensors;
    float values[256];
    int directory;
    blob b = golden_blob("views.bin");
    (void)snprintf(path, sizeof path, "%s", harness_tmpfile("shrinks.bin"));
    blob_write(&b, path);
    assert_ok(ser_file_open(path, &file, &directory));
    assert_ok(ser_torch_bin_open(&file, SER_DEFAULT_HEADER, &tensors));
    ck_assert_int_eq(truncate(path, 100), 0);
    assert_fails(ser_safetensors_read(&tensors, ser_safetensors_find(&tensors, "plain"), values),
                 SER_ERR_IO, "has become shorter");
    assert_fails(ser_safetensors_read(&tensors, ser_safetensors_find(&tensors, "permuted"), values),
                 SER_ERR_IO, "has become shorter");
    ser_safetensors_close(&tensors);
    /* before the archive is read */
    blob_write(&b, path);
    assert_ok(ser_file_open(path, &file, &directory));
    ck_assert_int_eq(truncate(path, (off_t)b.size - 8), 0);
    assert_fails(ser_torch_bin_open(&file, SER_DEFAULT_HEADER, &tensors), SER_ERR_IO,
                 "has become shorter");
    blob_free(&b);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    blob b = golden_blob("views.bin");
    ser_safetensors t;
    int64_t live = ser_mem_live();
    for (uint64_t n = 2;; n++) { /* 1 is the test's own wrapping of the memory */
        ser_file file;
        ser_mem_fail_at(n, false);
        assert_ok(ser_file_wrap(b.data, b.size, "file.bin", &file));
        int status = ser_torch_bin_open(&file, SER_DEFAULT_HEADER, &t);
        ser_mem_fail_at(0, false);
        if (status == 0) {
            ck_assert_uint_gt(n, 10);
            break;
        }
        ck_assert_msg(status == SER_ERR_MEMORY, "%" PRIu64 ": %s", n, ser_fail_text());
        ck_assert_int_eq(ser_mem_live(), live);
    }
    ser_safetensors_close(&t);
    ck_assert_int_eq(ser_mem_live(), live);
    blob_free(&b);
}
END_TEST

#else

START_TEST(a_libser_without_libzip)
{
    assert_fails(torch_status(golden_blob("views.bin")), SER_ERR_UNSUPPORTED,
                 "this libser was built without libzip");
    ck_assert_ptr_nonnull(strstr(ser_fail_text(), convert));
    assert_fails(torch_status(golden_blob("legacy.bin")), SER_ERR_UNSUPPORTED,
                 "the format of PyTorch before 1.6");
}
END_TEST

#endif

int main(void)
{
    Suite *suite = suite_create("torch_bin");
    TCase *tcase = tcase_create("torch_bin");
    tcase_set_timeout(tcase, 60);
#ifdef SER_HAVE_LIBZIP
    tcase_add_test(tcase, tensors_of_all_kinds);
    tcase_add_test(tcase, models_equal_those_of_safetensors);
    tcase_add_test(tcase, through_the_public_interface);
    tcase_add_test(tcase, safetensors_come_first_and_nothing_comes_second);
    tcase_add_test(tcase, what_pretraining_alone_needs_is_listed_once);
    tcase_add_test(tcase, anything_else_is_an_error);
    tcase_add_test(tcase, shards_are_plain_files_of_the_directory);
    tcase_add_test(tcase, PK8_other_formats_of_PyTorch);
    tcase_add_test(tcase, a_file_that_shrinks);
    tcase_add_test(tcase, every_allocation_may_fail);
#else
    tcase_add_test(tcase, a_libser_without_libzip);
#endif
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
