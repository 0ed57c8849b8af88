/* SPDX-License-Identifier: MIT */
/* Our own model files up to the network: metadata, version, tensors. */
#include "harness.h"

#include "builder.h"
#include "model/package.h"

static int open_blob(const blob *b)
{
    ser_package p;
    int64_t live = ser_mem_live();
    int status = ser_package_open_memory(b->data, b->size, SER_DEFAULT_HEADER, &p);
    ser_package_clear(&p);
    ck_assert_int_eq(ser_mem_live(), live);
    return status;
}

START_TEST(opens_from_file_and_memory)
{
    for (int logmel = 0; logmel < 2; logmel++) {
        ser_package p;
        json_t *config = own_config(logmel != 0);
        blob b = own_model(config);
        const char *path = harness_tmpfile("own.safetensors");
        blob_write(&b, path);
        assert_ok(ser_package_open(path, SER_DEFAULT_HEADER, &p));
        for (size_t i = 0; i < p.params.count; i++) {
            check_binding(&p, p.params.list[i].name, p.params.list[i].name);
        }
        ck_assert_str_eq(p.config.labels[2], "sad");
        ck_assert_str_eq(p.tensors.name, path);
        ser_package_clear(&p);
        assert_ok(ser_package_open_memory(b.data, b.size, SER_DEFAULT_HEADER, &p));
        check_binding(&p, "classifier.1.bias", "classifier.1.bias");
        ser_package_clear(&p);
        blob_free(&b);
        json_decref(config);
    }
}
END_TEST

START_TEST(newer_spelling_of_the_weight_norm)
{
    static const char stem[] = "wav2vec2.encoder.pos_conv_embed.conv.";
    ser_package p;
    model_spec spec;
    char old[128];
    char new[128];
    json_t *config = own_config(true);
    own_spec(config, &spec);
    for (int i = 0; i < 2; i++) {
        (void)snprintf(old, sizeof old, "%sweight_%c", stem, i == 0 ? 'g' : 'v');
        (void)snprintf(new, sizeof new, "%sparametrizations.weight.original%d", stem, i);
        (void)strcpy(spec_get(&spec, old)->name, new);
    }
    blob b = own_blob(config, &spec);
    assert_ok(ser_package_open_memory(b.data, b.size, SER_DEFAULT_HEADER, &p));
    check_binding(&p, old, new);
    ser_package_clear(&p);
    blob_free(&b);
    spec_free(&spec);
    json_decref(config);
}
END_TEST

/* The model with these values of format, version and config (NULL: key absent; "": the good
 * config). */
static int with_metadata(const char *format, const char *version, const char *config_text)
{
    model_spec spec;
    json_t *config = own_config(true);
    char *good = json_dumps(config, 0);
    own_spec(config, &spec);
    json_t *metadata = json_object();
    if (format != NULL) {
        json_object_set_new(metadata, "format", json_string(format));
    }
    if (version != NULL) {
        json_object_set_new(metadata, "version", json_string(version));
    }
    if (config_text != NULL) {
        json_object_set_new(metadata, "config",
                            json_string(config_text[0] != '\0' ? config_text : good));
    }
    blob b = spec_blob(&spec, metadata);
    int status = open_blob(&b);
    blob_free(&b);
    json_decref(metadata);
    spec_free(&spec);
    free(good);
    json_decref(config);
    return status;
}

START_TEST(JC9_metadata)
{
    static const char *const versions[] = {"",      " 1",      "1 ",  "1.0",
                                           "+1",    "-1",      "0x1", "01",
                                           "1e0",   "one",     "0",   "99999999999999999999",
                                           "1\x01", "\xD9\xA1"};
    assert_ok(with_metadata("ser", "1", ""));
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        assert_fails(with_metadata("ser", versions[i], ""), SER_ERR_FORMAT, "is not a number");
    }
    assert_fails(with_metadata("ser", NULL, ""), SER_ERR_FORMAT, "version \"\" is not a number");
    assert_fails(with_metadata("ser", "2", ""), SER_ERR_VERSION,
                 "format version 2; this libser reads up to 1");
    assert_fails(with_metadata("ser", "999999", "junk"), SER_ERR_VERSION, "format version 999999");
    assert_fails(with_metadata("pt", "1", ""), SER_ERR_FORMAT,
                 "not a model of libser (format is \"pt\"");
    assert_fails(with_metadata(NULL, "1", ""), SER_ERR_FORMAT,
                 "not a model of libser (format is \"\"");
    assert_fails(with_metadata("SER", "1", ""), SER_ERR_FORMAT, "not a model of libser");
    assert_fails(with_metadata("ser", "1", NULL), SER_ERR_FORMAT, "__metadata__ has no config");
    assert_fails(with_metadata("ser", "1", "{"), SER_ERR_FORMAT, "model in memory: config: line 1");
    assert_fails(with_metadata("ser", "1", "{}"), SER_ERR_DATA, "config: labels is missing");
}
END_TEST

START_TEST(no_metadata)
{
    blob b = blob_safetensors("{}", NULL, 0);
    assert_fails(open_blob(&b), SER_ERR_FORMAT, "not a model of libser");
    blob_free(&b);
}
END_TEST

static int edited(void (*edit)(model_spec *spec))
{
    model_spec spec;
    json_t *config = own_config(true);
    own_spec(config, &spec);
    edit(&spec);
    blob b = own_blob(config, &spec);
    int status = open_blob(&b);
    blob_free(&b);
    spec_free(&spec);
    json_decref(config);
    return status;
}

static void drop(model_spec *s)
{
    spec_remove(s, "pooling.score.bias");
}

static void add_head(model_spec *s)
{
    spec_add(s, "classifier.2.weight", 2, 3, 3, 0);
}

static void add_foreign_head(model_spec *s)
{
    spec_add(s, "projector.weight", 2, 3, 3, 0);
}

static void add_mask(model_spec *s)
{
    spec_add(s, "wav2vec2.masked_spec_embed", 1, 12, 0, 0);
}

static void misshape(model_spec *s)
{
    spec_get(s, "wav2vec2.feature_extractor.mel.std")->shape[0] = 8;
}

static void empty(model_spec *s)
{
    spec_get(s, "classifier.1.bias")->shape[0] = 0;
}

static void scalar(model_spec *s)
{
    spec_get(s, "pooling.score.bias")->rank = 0;
}

static void rank_8(model_spec *s)
{
    tensor_spec *t = spec_get(s, "pooling.score.bias");
    t->rank = 8;
    for (int i = 0; i < 8; i++) {
        t->shape[i] = 1;
    }
}

static void doubles(model_spec *s)
{
    (void)strcpy(spec_get(s, "classifier.1.bias")->dtype, "F64");
}

START_TEST(ST10_tensors_do_not_fit)
{
    assert_ok(edited(add_mask));
    assert_fails(edited(drop), SER_ERR_MISMATCH, "pooling.score.bias is missing");
    assert_fails(edited(add_head), SER_ERR_MISMATCH, "classifier.2.weight is unknown");
    assert_fails(edited(add_foreign_head), SER_ERR_MISMATCH, "projector.weight is unknown");
    assert_fails(edited(misshape), SER_ERR_MISMATCH, "mel.std has the shape [8], not [7]");
    assert_fails(edited(doubles), SER_ERR_UNSUPPORTED, "tensor \"classifier.1.bias\" is F64");
}
END_TEST

START_TEST(ST7_legal_shapes_of_other_sizes)
{
    assert_fails(edited(empty), SER_ERR_MISMATCH, "classifier.1.bias has the shape [0], not [3]");
    assert_fails(edited(scalar), SER_ERR_MISMATCH, "pooling.score.bias has the shape [], not [1]");
    assert_fails(edited(rank_8), SER_ERR_MISMATCH,
                 "has the shape [1, 1, 1, 1, 1, 1, 1, 1], not [1]");
}
END_TEST

START_TEST(header_limit_is_an_option)
{
    ser_package p;
    json_t *config = own_config(true);
    blob b = own_model(config);
    uint64_t n;
    memcpy(&n, b.data, 8);
    assert_ok(ser_package_open_memory(b.data, b.size, n, &p));
    ser_package_clear(&p);
    assert_fails(ser_package_open_memory(b.data, b.size, n - 1, &p), SER_ERR_CAPACITY,
                 "max_header_size");
    blob_free(&b);
    json_decref(config);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    json_t *config = own_config(true);
    blob b = own_model(config);
    int status = SER_ERR_MEMORY;
    for (uint64_t n = 1; status != 0; n++) {
        ser_mem_fail_at(n, false);
        status = open_blob(&b);
        ser_mem_fail_at(0, false);
        ck_assert(status == 0 || status == SER_ERR_MEMORY);
        ck_assert_uint_lt(n, 200);
    }
    blob_free(&b);
    json_decref(config);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("package");
    TCase *tcase = tcase_create("package");
    tcase_add_test(tcase, opens_from_file_and_memory);
    tcase_add_test(tcase, newer_spelling_of_the_weight_norm);
    tcase_add_test(tcase, JC9_metadata);
    tcase_add_test(tcase, no_metadata);
    tcase_add_test(tcase, ST10_tensors_do_not_fit);
    tcase_add_test(tcase, ST7_legal_shapes_of_other_sizes);
    tcase_add_test(tcase, header_limit_is_an_option);
    tcase_add_test(tcase, every_allocation_may_fail);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
