/* SPDX-License-Identifier: MIT */
/* Transformers directories whose tensors lie in several files, or in none. */
#include "harness.h"

#include <sys/stat.h>
#include <unistd.h>

#include "builder.h"

#define W2V_CLASSIFIER "Wav2Vec2ForSequenceClassification"

/* The tensors of `hf` in two files, every other one in each, and an index; `edit` may change it. */
static int sharded(void (*edit)(json_t *map, const hf_model *hf))
{
    hf_model hf;
    ser_package p;
    char path[512];
    model_spec shard[2] = {{NULL, 0}, {NULL, 0}};
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    json_t *map = json_object();
    for (size_t i = 0; i < hf.spec.count; i++) {
        const tensor_spec *t = &hf.spec.list[i];
        spec_add(&shard[i % 2], t->name, t->rank, t->shape[0], t->shape[1], t->shape[2]);
        json_object_set_new(
            map, t->name, json_string(i % 2 == 0 ? "model-1.safetensors" : "model-2.safetensors"));
    }
    for (size_t i = 0; i < 2; i++) {
        blob b = spec_blob(&shard[i], NULL);
        hf_path(&hf, i == 0 ? "model-1.safetensors" : "model-2.safetensors", path);
        blob_write(&b, path);
        blob_free(&b);
        spec_free(&shard[i]);
    }
    if (edit != NULL) {
        edit(map, &hf);
    }
    json_t *root = json_pack("{s:{s:i}, s:o}", "metadata", "total_size", 1, "weight_map", map);
    hf_path(&hf, "model.safetensors.index.json", path);
    ck_assert_int_eq(json_dump_file(root, path, 0), 0);
    hf_write_json(&hf);
    int status = hf_open(&hf, &p);
    if (status == 0) {
        check_binding(&p, "classifier.0.weight", "projector.weight");
        check_binding(&p, "classifier.1.weight", "classifier.weight");
    }
    ser_package_clear(&p);
    json_decref(root);
    hf_free(&hf);
    return status;
}

static const char *bad_shard;

static void name_shard(json_t *map, const hf_model *hf)
{
    (void)hf;
    json_object_set_new(map, "projector.bias", json_string(bad_shard));
}

static void lose_shard(json_t *map, const hf_model *hf)
{
    char path[512];
    (void)map;
    hf_path(hf, "model-2.safetensors", path);
    ck_assert_int_eq(remove(path), 0);
}

static void link_shard(json_t *map, const hf_model *hf)
{
    char from[512];
    char to[512];
    (void)map;
    hf_path(hf, "model-2.safetensors", from);
    hf_path(hf, "elsewhere", to);
    ck_assert_int_eq(rename(from, to), 0);
    ck_assert_int_eq(symlink("elsewhere", from), 0);
}

static void directory_shard(json_t *map, const hf_model *hf)
{
    char path[512];
    lose_shard(map, hf);
    hf_path(hf, "model-2.safetensors", path);
    ck_assert_int_eq(mkdir(path, 0777), 0);
}

static void damage_shard(json_t *map, const hf_model *hf)
{
    char path[512];
    (void)map;
    hf_path(hf, "model-2.safetensors", path);
    ck_assert_int_eq(truncate(path, 100), 0);
}

/* the same tensor in both shards */
static void repeat_tensor(json_t *map, const hf_model *hf)
{
    char path[512];
    (void)map;
    model_spec all = {NULL, 0};
    for (size_t i = 0; i < hf->spec.count; i++) {
        const tensor_spec *t = &hf->spec.list[i];
        if (i % 2 == 1 || i == 0) {
            spec_add(&all, t->name, t->rank, t->shape[0], t->shape[1], t->shape[2]);
        }
    }
    blob b = spec_blob(&all, NULL);
    hf_path(hf, "model-2.safetensors", path);
    blob_write(&b, path);
    blob_free(&b);
    spec_free(&all);
}

static void wrong_shard(json_t *map, const hf_model *hf)
{
    const char *name = hf->spec.list[0].name;
    json_object_set_new(map, name, json_string("model-2.safetensors"));
}

static void forget_tensor(json_t *map, const hf_model *hf)
{
    json_object_del(map, hf->spec.list[0].name);
}

static void invent_tensor(json_t *map, const hf_model *hf)
{
    (void)hf;
    json_object_set_new(map, "nothing", json_string("model-1.safetensors"));
}

static void number_shard(json_t *map, const hf_model *hf)
{
    (void)hf;
    json_object_set_new(map, "projector.bias", json_integer(2));
}

static void no_map(json_t *map, const hf_model *hf)
{
    (void)hf;
    json_object_clear(map);
}

START_TEST(ST15_shards)
{
    static const char *const names[] = {
        "../model-1.safetensors", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b",
        "./model-1.safetensors"};
    assert_ok(sharded(NULL));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        bad_shard = names[i];
        assert_fails(sharded(name_shard), SER_ERR_FORMAT, "is not a plain file name");
    }
    bad_shard = "absent.safetensors";
    assert_fails(sharded(name_shard), SER_ERR_IO, "absent.safetensors: cannot open: No such file");
    assert_fails(sharded(lose_shard), SER_ERR_IO, "model-2.safetensors: cannot open: No such file");
    assert_fails(sharded(link_shard), SER_ERR_IO, "a symbolic link");
    assert_fails(sharded(directory_shard), SER_ERR_IO, "not a regular file");
    assert_fails(sharded(damage_shard), SER_ERR_FORMAT,
                 "model-2.safetensors: not a safetensors file");
    assert_fails(sharded(repeat_tensor), SER_ERR_FORMAT, "is in two shards");
    assert_fails(sharded(wrong_shard), SER_ERR_FORMAT, "is not in its shard, model-2.safetensors");
    assert_fails(sharded(forget_tensor), SER_ERR_FORMAT, "tensors, but the shards hold");
    assert_fails(sharded(invent_tensor), SER_ERR_FORMAT, "\"nothing\" is not in its shard");
    assert_fails(sharded(number_shard), SER_ERR_FORMAT, "weight_map.projector.bias must be a text");
    assert_fails(sharded(no_map), SER_ERR_FORMAT, "weight_map must be an object");
}
END_TEST

START_TEST(ST15_too_many_shards)
{
    hf_model hf;
    ser_package p;
    char path[512];
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    json_t *map = json_object();
    for (int i = 0; i <= SER_MAX_SHARDS; i++) {
        char name[32];
        char base[32];
        (void)snprintf(name, sizeof name, "t%d", i);
        (void)snprintf(base, sizeof base, "s%d.safetensors", i);
        json_object_set_new(map, name, json_string(base));
        model_spec one = {NULL, 0};
        spec_add(&one, name, 1, 1, 0, 0);
        blob b = spec_blob(&one, NULL);
        hf_path(&hf, base, path);
        blob_write(&b, path);
        blob_free(&b);
        spec_free(&one);
    }
    json_t *root = json_pack("{s:o}", "weight_map", map);
    hf_path(&hf, "model.safetensors.index.json", path);
    ck_assert_int_eq(json_dump_file(root, path, 0), 0);
    json_decref(root);
    hf_write_json(&hf);
    assert_fails(hf_open(&hf, &p), SER_ERR_CAPACITY, "more than 256 shards");
    hf_free(&hf);
}
END_TEST

START_TEST(ST17_formats_are_told_by_the_name)
{
    hf_model hf;
    ser_package p;
    char path[512];
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    hf_write_json(&hf);
    assert_fails(hf_open(&hf, &p), SER_ERR_IO, "neither model.safetensors nor");
    hf_path(&hf, "pytorch_model.bin", path);
    write_text(path, "rubbish");
    assert_fails(hf_open(&hf, &p), SER_ERR_FORMAT, "pytorch_model.bin: not a zip archive of torch");
    /* and never looked at when the safetensors file is bad */
    hf_path(&hf, "model.safetensors", path);
    write_text(path, "PK\3\4 and more");
    assert_fails(hf_open(&hf, &p), SER_ERR_FORMAT, "not a safetensors file");
    hf_free(&hf);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("shards");
    TCase *tcase = tcase_create("shards");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, ST15_shards);
    tcase_add_test(tcase, ST15_too_many_shards);
    tcase_add_test(tcase, ST17_formats_are_told_by_the_name);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
