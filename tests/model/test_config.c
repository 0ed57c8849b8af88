/* SPDX-License-Identifier: MIT */
/* The configuration of our own model file, and the JSON reading beneath it. */
#include "harness.h"

#include <locale.h>
#include <math.h>

#include "builder.h"
#include "model/config.h"
#include "model/json.h"
#include "ops/ops.h"

static int parse_text(const char *text, ser_config *config)
{
    int64_t live = ser_mem_live();
    int status = ser_config_parse("model: config", text, strlen(text), config);
    if (status != 0) {
        ck_assert_ptr_null(config->labels);
        ck_assert_int_eq(ser_mem_live(), live);
        ck_assert(strncmp(ser_fail_text(), "model: config: ", 15) == 0);
    }
    return status;
}

/* "encoder.hidden_size" in `config` becomes the JSON `value`; NULL removes it. */
static void change(json_t *config, const char *path, const char *value)
{
    char part[128];
    json_t *object = config;
    for (const char *dot = strchr(path, '.'); dot != NULL; dot = strchr(path, '.')) {
        (void)snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
        object = json_object_get(object, part);
        ck_assert_msg(json_is_object(object), "%s", part);
        path = dot + 1;
    }
    if (value == NULL) {
        ck_assert_int_eq(json_object_del(object, path), 0);
        return;
    }
    json_t *parsed = json_loads(value, JSON_DECODE_ANY, NULL);
    ck_assert_msg(parsed != NULL, "bad test value %s", value);
    ck_assert_int_eq(json_object_set_new(object, path, parsed), 0);
}

static int parse_json(json_t *json, ser_config *config)
{
    char *text = json_dumps(json, JSON_COMPACT);
    int status = parse_text(text, config);
    free(text);
    return status;
}

/* Parse the small log-mel (or waveform) configuration with one change. */
static int changed(bool logmel, const char *path, const char *value)
{
    ser_config config;
    json_t *json = own_config(logmel);
    change(json, path, value);
    int status = parse_json(json, &config);
    ser_config_clear(&config);
    json_decref(json);
    return status;
}

START_TEST(reads_every_field)
{
    ser_config c;
    json_t *json = own_config(true);
    change(json, "padding", "\"hf\"");
    change(json, "layer_mix", "true");
    assert_ok(parse_json(json, &c));
    const ser_arch *a = &c.arch;
    ck_assert_uint_eq(c.label_count, 3);
    ck_assert_str_eq(c.labels[1], "happy");
    ck_assert_int_eq(a->sampling_rate, 16000);
    ck_assert(c.front_end.normalize && c.front_end.trim && c.pad_as_hf);
    ck_assert_double_eq(c.front_end.trim_threshold_db, 35.0);
    ck_assert_double_eq(c.front_end.trim_margin, 0.1);
    ck_assert_double_eq(c.front_end.window, 5.0);
    ck_assert_double_eq(c.front_end.max_seconds, 30.0);
    ck_assert_int_eq(a->features, SER_FEATURES_LOGMEL);
    ck_assert_int_eq(a->mel.frame, 400);
    ck_assert_int_eq(a->mel.hop, 160);
    ck_assert_int_eq(a->mel.fft, 512);
    ck_assert_int_eq(a->mel.bins, 7);
    ck_assert(a->mel.low == 50.0F && a->mel.high == 7600.0F && a->mel.floor == 1e-7F);
    ck_assert_int_eq(a->conv_count, 2);
    ck_assert_int_eq(a->conv_dim[1], 8);
    ck_assert_int_eq(a->conv_kernel[0], 5);
    ck_assert_int_eq(a->conv_stride[1], 2);
    ck_assert_int_eq(a->conv_padding[0], 2);
    ck_assert(a->conv_bias && a->conv_norm == SER_NORM_LAYER);
    ck_assert_int_eq(a->hidden_size, 12);
    ck_assert_int_eq(a->layers, 2);
    ck_assert_int_eq(a->heads, 3);
    ck_assert_int_eq(a->intermediate_size, 20);
    ck_assert_int_eq(a->encoder_norm, SER_ENCODER_PRE_NORM);
    ck_assert(a->layer_norm_eps == 1e-5F && a->feature_norm);
    ck_assert_int_eq(a->position_kernel, 5);
    ck_assert_int_eq(a->position_groups, 4);
    ck_assert(a->layer_mix);
    ck_assert_int_eq(a->pooling, SER_POOLING_ATTENTION);
    ck_assert_int_eq(a->pooling_hidden, 9);
    ck_assert_int_eq(a->classifier_count, 2);
    ck_assert_int_eq(a->classifier_size[0], 10);
    ck_assert_int_eq(a->classifier_size[1], 3);
    ck_assert_int_eq(a->classifier_activation, SER_ACT_GELU);
    ck_assert_str_eq(c.training, "{\"epochs\": 3}");
    ser_config_clear(&c);
    json_decref(json);
}
END_TEST

START_TEST(defaults_of_optional_keys)
{
    ser_config c;
    json_t *json = own_config(false);
    static const char *const optional[] = {"audio",
                                           "padding",
                                           "layer_mix",
                                           "training",
                                           "features.conv_padding",
                                           "encoder.layer_norm_eps",
                                           "encoder.feature_norm",
                                           "pooling.hidden"};
    for (size_t i = 0; i < sizeof optional / sizeof optional[0]; i++) {
        change(json, optional[i], NULL);
    }
    assert_ok(parse_json(json, &c));
    ck_assert_int_eq(c.arch.sampling_rate, 16000);
    ck_assert(c.front_end.normalize && !c.front_end.trim && !c.pad_as_hf && !c.arch.layer_mix);
    ck_assert_double_eq(c.front_end.window, 5.0);
    ck_assert_double_eq(c.front_end.max_seconds, 30.0);
    ck_assert_int_eq(c.arch.conv_padding[0] + c.arch.conv_padding[1], 0);
    ck_assert(c.arch.layer_norm_eps == 1e-5F && c.arch.feature_norm);
    ck_assert_int_eq(c.arch.pooling_hidden, 0);
    ck_assert_ptr_null(c.training);
    ser_config_clear(&c);
    change(json, "audio", "{\"trim\": {\"threshold_db\": 20}}");
    assert_ok(parse_json(json, &c));
    ck_assert(c.front_end.trim);
    ck_assert_double_eq(c.front_end.trim_margin, 0.1);
    ser_config_clear(&c);
    json_decref(json);
    assert_ok(changed(true, "audio.trim", "null"));
}
END_TEST

START_TEST(required_keys)
{
    static const char *const required[] = {"labels",
                                           "features",
                                           "encoder",
                                           "pooling",
                                           "classifier",
                                           "features.type",
                                           "features.mel",
                                           "features.conv_dim",
                                           "features.conv_kernel",
                                           "features.conv_stride",
                                           "features.conv_bias",
                                           "features.norm",
                                           "features.mel.frame",
                                           "features.mel.hop",
                                           "features.mel.fft",
                                           "features.mel.bins",
                                           "features.mel.low",
                                           "features.mel.high",
                                           "features.mel.floor",
                                           "encoder.hidden_size",
                                           "encoder.num_hidden_layers",
                                           "encoder.num_attention_heads",
                                           "encoder.intermediate_size",
                                           "encoder.norm",
                                           "encoder.position_kernel",
                                           "encoder.position_groups",
                                           "pooling.type",
                                           "classifier.sizes",
                                           "classifier.activation",
                                           "audio.trim.threshold_db"};
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        char text[128];
        (void)snprintf(text, sizeof text, "%s is missing", required[i]);
        assert_fails(changed(true, required[i], NULL), SER_ERR_DATA, text);
    }
}
END_TEST

/* What is printed reads back as the same, and prints as the same. */
START_TEST(prints_what_it_reads)
{
    for (int kind = 0; kind < 4; kind++) {
        ser_config c;
        ser_config d;
        json_t *json = own_config(kind % 2 == 0);
        if (kind >= 2) {
            change(json, "audio.trim", "null");
            change(json, "encoder.layer_norm_eps", "3.25e-7");
            change(json, "encoder.norm", "\"post\"");
            change(json, "encoder.feature_norm", "false");
            change(json, "pooling", "{\"type\": \"mean\"}");
            change(json, "classifier", "{\"sizes\": [], \"activation\": \"none\"}");
            change(json, "padding", "\"hf\"");
            change(json, "labels",
                   "[\"zornig\", \"tr\xC3\xBC"
                   "be \\\"\"]");
            change(json, "training", "{\"uar\": 0.62, \"deep\": [{\"a\": null}]}");
        }
        if (kind == 3) {
            change(json, "audio.window", "1.2345678901234567"); /* needs all 17 digits */
        }
        assert_ok(parse_json(json, &c));
        char *once = ser_config_print(&c);
        ck_assert_ptr_nonnull(once);
        assert_ok(parse_text(once, &d));
        char *twice = ser_config_print(&d);
        ck_assert_str_eq(once, twice);
        ck_assert_mem_eq(&c.arch, &d.arch, sizeof c.arch);
        ck_assert_mem_eq(&c.front_end, &d.front_end, sizeof c.front_end);
        ck_assert_int_eq(c.pad_as_hf, d.pad_as_hf);
        for (size_t i = 0; i < c.label_count; i++) {
            ck_assert_str_eq(c.labels[i], d.labels[i]);
        }
        ck_assert(kind >= 2 || strstr(once, "\"layer_norm_eps\": 1e-5,") != NULL);
        ck_assert_msg(kind != 2 || strstr(once, "\"layer_norm_eps\": 3.25e-7,") != NULL, "%s",
                      once);
        ser_mem_free(once);
        ser_mem_free(twice);
        ser_config_clear(&c);
        ser_config_clear(&d);
        json_decref(json);
    }
}
END_TEST

START_TEST(JC1_duplicates_and_limits)
{
    ser_config c;
    assert_fails(parse_text("{\"labels\": [], \"labels\": []}", &c), SER_ERR_FORMAT, "duplicate");
    assert_fails(parse_text("{\"training\": {\"a\": 1, \"a\": 2}}", &c), SER_ERR_FORMAT,
                 "duplicate");
    /* nesting, in a value that is not looked at */
    enum { DEPTH = 100000 };
    char *text = malloc(2 * DEPTH + 64);
    ck_assert_ptr_nonnull(text);
    size_t n = (size_t)sprintf(text, "{\"training\":");
    memset(text + n, '[', DEPTH);
    memset(text + n + DEPTH, ']', DEPTH);
    memcpy(text + n + 2 * DEPTH, "}", 2);
    assert_fails(parse_text(text, &c), SER_ERR_FORMAT, "depth");
    free(text);
    /* more values than any configuration has */
    size_t count = SER_JSON_MAX_VALUES;
    text = malloc(2 * count + 64);
    n = (size_t)sprintf(text, "{\"training\":{\"x\":[0");
    for (size_t i = 0; i < count; i++, n += 2) {
        memcpy(text + n, ",0", 2);
    }
    memcpy(text + n, "]}}", 4);
    assert_fails(parse_text(text, &c), SER_ERR_CAPACITY, "JSON values, limit 200000");
    free(text);
}
END_TEST

START_TEST(JC2_not_json)
{
    static const char *const texts[] = {
        "",
        " ",
        "\xEF\xBB\xBF{}",
        "{\"a\": 1,}",
        "{\"a\": NaN}",
        "{} {}",
        "{\"a\": 1",
        "{\"a\": Infinity}",
        "{\"a\": -Infinity}",
        "// text\n{}",
        "/* */ {}",
        "{'a': 1}",
        "\xFF\xFE{",
        "[1, 2]",
        "null",
        "{\"a\": .5}",
        "{\"a\": 01}",
        "{\"a\": 0x10}",
        "{\"a\": tru}",
        "{\"\xFF\": 1}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        ser_config c;
        assert_fails(parse_text(texts[i], &c), SER_ERR_FORMAT, "line 1, column ");
    }
    ser_config c;
    assert_fails(parse_text("{\n  \"labels\": [],\n  NaN\n}", &c), SER_ERR_FORMAT,
                 "line 3, column 5");
    const char utf16[] = "{\0\"\0a\0\"\0:\0001\0}\0";
    assert_fails(ser_config_parse("model: config", utf16, sizeof utf16 - 1, &c), SER_ERR_FORMAT,
                 "line 1");
}
END_TEST

typedef struct bad {
    const char *path, *value, *message;
} bad;

START_TEST(JC3_types_and_ranges)
{
    static const char *const integers[] = {
        "encoder.hidden_size",       "encoder.num_hidden_layers", "encoder.num_attention_heads",
        "encoder.intermediate_size", "encoder.position_kernel",   "encoder.position_groups",
        "features.mel.frame",        "features.mel.hop",          "features.mel.fft",
        "features.mel.bins"};
    static const char *const wrong[] = {"\"12\"", "12.0", "true",       "null",
                                        "-1",     "0",    "1000000000", "9223372036854775807",
                                        "[]",     "{}"};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        for (size_t j = 0; j < sizeof wrong / sizeof wrong[0]; j++) {
            char text[160];
            (void)snprintf(text, sizeof text, "%s is %s, must be an integer within ", integers[i],
                           wrong[j]);
            assert_fails(changed(true, integers[i], wrong[j]), SER_ERR_DATA, text);
        }
    }
    /* 2^63 does not even parse: the text's place instead of the path */
    ser_config c;
    assert_fails(parse_text("{\"padding\": 9223372036854775808}", &c), SER_ERR_DATA,
                 "too big integer");
    assert_fails(parse_text("{\"padding\": 1e999}", &c), SER_ERR_DATA, "real number overflow");
}
END_TEST

START_TEST(JC3_other_values)
{
    static const bad list[] = {
        {"audio.sampling_rate", "8000",
         "audio.sampling_rate is 8000, must be an integer within 16000..16000"},
        {"audio.normalize", "1", "audio.normalize is 1, must be true or false"},
        {"audio.trim", "[]", "audio.trim is [], must be an object"},
        {"audio.trim.threshold_db", "9.5",
         "audio.trim.threshold_db is 9.5, must be a number within 10..100"},
        {"audio.trim.threshold_db", "1e300", "within 10..100"},
        {"audio.trim.margin", "1.5", "audio.trim.margin is 1.5, must be a number within 0..1"},
        {"audio.trim.margin", "\"0\"", "audio.trim.margin"},
        {"audio.window", "0", "audio.window is 0, must be a number within 0.01..3600"},
        {"audio.window", "31", "audio.window is 31 s, longer than audio.max_seconds, 30 s"},
        {"audio.window", "0.02", "a frame needs 400 samples, more than a window of 0.02 s"},
        {"audio.max_seconds", "1e9", "audio.max_seconds is 1e9, must be"},
        {"padding", "\"HF\"", "padding is \"HF\", must be one of \"exact\",\"hf\""},
        {"padding", "null", "padding is null"},
        {"features.type", "\"mfcc\"",
         "features.type is \"mfcc\", must be one of \"conv\",\"logmel\""},
        {"features.type", "\"conv\"", "features.mel belongs to type \"logmel\" only"},
        {"features.norm", "\"group\"", "features.norm must be \"layer\" with type \"logmel\""},
        {"features.norm", "\"batch\"", "must be one of \"group\",\"layer\""},
        {"features.conv_bias", "0", "must be true or false"},
        {"features.mel.low", "-1", "features.mel.low"},
        {"features.mel.high", "8000.5",
         "features.mel.high is 8000.5, must be a number within 0..8000"},
        {"features.mel.high", "50.5", "features.mel.high must be at least 1 Hz above mel.low"},
        {"features.mel.floor", "0", "features.mel.floor"},
        {"features.mel.fft", "399", "features.mel.fft is 399, less than mel.frame, 400"},
        {"features.conv_dim", "[]", "conv_dim must have 1..16 entries"},
        {"features.conv_dim", "[6]", "must have the same length (1 and 2)"},
        {"features.conv_dim", "[6, 0]",
         "features.conv_dim[1] is 0, must be an integer within 1..16384"},
        {"features.conv_dim", "[6, 8.0]", "features.conv_dim[1] is 8.0"},
        {"features.conv_dim", "\"6,8\"",
         "features.conv_dim must be an array of at most 16 integers"},
        {"features.conv_dim", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "at most 16 integers"},
        {"features.conv_kernel", "[5, 3, 3]", "same length"},
        {"features.conv_kernel", "[5, 1025]", "features.conv_kernel[1] is 1025"},
        {"features.conv_stride", "[2, 0]", "features.conv_stride[1] is 0"},
        {"features.conv_stride", "[1024, 1024]",
         "features.conv_stride: one frame every 167772160 samples"},
        {"features.conv_padding", "[2]", "same length"},
        {"features.conv_padding", "[3, 1]", "features.conv_padding[0] is 3, must be within 0..2"},
        {"features.conv_padding", "[-1, 1]", "features.conv_padding[0] is -1"},
        {"encoder.num_attention_heads", "5",
         "encoder.hidden_size, 12, is no multiple of encoder.num_attention_heads, 5"},
        {"encoder.position_groups", "5", "is no multiple of encoder.position_groups, 5"},
        {"encoder.layer_norm_eps", "0", "encoder.layer_norm_eps is 0"},
        {"encoder.layer_norm_eps", "-1e-5", "encoder.layer_norm_eps"},
        {"encoder.norm", "\"both\"", "must be one of \"post\",\"pre\""},
        {"encoder.feature_norm", "\"true\"", "must be true or false"},
        {"layer_mix", "1", "layer_mix is 1, must be true or false"},
        {"pooling.type", "\"max\"", "must be one of \"attention\",\"mean\""},
        {"pooling.type", "\"mean\"", "pooling.hidden belongs to type \"attention\" only"},
        {"pooling.hidden", "-1", "pooling.hidden is -1"},
        {"classifier.sizes", "[0]", "classifier.sizes[0] is 0"},
        {"classifier.sizes", "[1,1,1,1,1,1,1,1]", "at most 7 integers"},
        {"classifier.activation", "\"swish\"", "one of \"none\",\"gelu\",\"relu\",\"tanh\""},
        {"training", "[]", "training is [], must be an object"},
        {"features", "null", "features is null, must be an object"},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_fails(changed(true, list[i].path, list[i].value), SER_ERR_DATA, list[i].message);
    }
    assert_fails(changed(false, "features.conv_padding", "[1, 0]"), SER_ERR_DATA,
                 "features.conv_padding[0] is 1, must be within 0..0");
    assert_ok(changed(false, "features.conv_padding", "[0, 1]"));
}
END_TEST

START_TEST(JC3_labels)
{
    static const bad list[] = {
        {"labels", "[]", "labels has 0 entries, must have 2..1000"},
        {"labels", "[\"one\"]", "labels has 1 entries"},
        {"labels", "\"a,b\"", "labels is \"a,b\", must be an array"},
        {"labels", "[\"a\", 2]", "labels[1] must be a text"},
        {"labels", "[\"a\", \"\"]", "labels[1] is empty"},
        {"labels", "[\"a\", \"b\", \"a\"]", "labels[0] and [2] are both \"a\""},
        {"labels", "[\"a\", \"b\\u001b[2J\"]", "labels[1] contains control characters"},
        {"labels", "[\"a\\n\", \"b\"]", "labels[0] contains control characters"},
        {"labels", "[\"a\", \"\\u0085\"]", "labels[1] contains control characters"},
        {"labels", "[\"a\", \"\\u007f\"]", "labels[1] contains control characters"},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_fails(changed(true, list[i].path, list[i].value), SER_ERR_DATA, list[i].message);
    }
    assert_ok(changed(true, "labels", "[\"\\u00e4rgerlich\", \"\\u60b2\\u3057\\u3044\"]"));
    char long_label[300];
    (void)snprintf(long_label, sizeof long_label, "[\"a\", \"%0255d\"]", 1);
    assert_ok(changed(true, "labels", long_label));
    (void)snprintf(long_label, sizeof long_label, "[\"a\", \"%0256d\"]", 1);
    assert_fails(changed(true, "labels", long_label), SER_ERR_DATA,
                 "labels[1] is longer than 255 bytes");
    char many[16000] = "[";
    size_t n = 1;
    for (int i = 0; i <= SER_MAX_LABELS; i++) {
        n += (size_t)snprintf(many + n, sizeof many - n, "%s\"l%d\"", i > 0 ? "," : "", i);
    }
    memcpy(many + n, "]", 2);
    assert_fails(changed(true, "labels", many), SER_ERR_DATA, "labels has 1001 entries");
}
END_TEST

START_TEST(JC4_products)
{
    json_t *json = own_config(true);
    ser_config c;
    change(json, "encoder.hidden_size", "16384");
    change(json, "encoder.num_attention_heads", "64");
    change(json, "encoder.intermediate_size", "131072");
    change(json, "encoder.num_hidden_layers", "256");
    assert_fails(parse_json(json, &c), SER_ERR_DATA, "parameters, limit 4294967296");
    change(json, "encoder.num_hidden_layers", "1");
    change(json, "encoder.intermediate_size", "16384");
    assert_ok(parse_json(json, &c)); /* 1.6 G: large, but allowed */
    ser_config_clear(&c);
    json_decref(json);
}
END_TEST

START_TEST(JC7_unknown_keys)
{
    static const bad list[] = {
        {"label", "[]", "model: config: label: unknown key; did you mean \"labels\"?"},
        {"audio.normalise", "true", "audio.normalise: unknown key; did you mean \"normalize\"?"},
        {"audio.trim.treshold_db", "35",
         "audio.trim.treshold_db: unknown key; did you mean \"threshold_db\"?"},
        {"features.mel.n_bins", "7", "features.mel.n_bins: unknown key; did you mean \"bins\"?"},
        {"encoder.num_heads", "3", "encoder.num_heads: unknown key"},
        {"encoder.hiden_size", "3", "did you mean \"hidden_size\"?"},
        {"pooling.xyzzy", "3", "pooling.xyzzy: unknown key"},
        {"classifier.size", "[]", "did you mean \"sizes\"?"},
        {"x\x1b[0m", "1", "x?[0m: unknown key"},
        {"", "1", "unknown key"},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_fails(changed(true, list[i].path, list[i].value), SER_ERR_DATA, list[i].message);
    }
    assert_fails(changed(true, "pooling.xyzzy", "3"), SER_ERR_DATA, "xyzzy: unknown key");
    ck_assert(strstr(ser_fail_text(), "did you mean") == NULL);
    char key[5001];
    memset(key, 'k', sizeof key);
    key[sizeof key - 1] = '\0';
    assert_fails(changed(true, key, "3"), SER_ERR_DATA, "unknown key");
    assert_ok(changed(true, "training", "{\"anything\": {\"goes\": [1, null, \"x\"]}}"));
}
END_TEST

/* Numbers are read and written with a point, whatever the program's locale says (G8). */
START_TEST(locale_does_not_matter)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE",
                                        "fr_FR"};
    ser_config c;
    json_t *json = own_config(true);
    change(json, "audio.trim.margin", "0.25");
    char *text = json_dumps(json, 0);
    bool changed_locale = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !changed_locale; i++) {
        changed_locale = setlocale(LC_NUMERIC, names[i]) != NULL;
    }
    assert_ok(parse_text(text, &c));
    ck_assert_double_eq(c.front_end.trim_margin, 0.25);
    char *printed = ser_config_print(&c);
    ck_assert(strstr(printed, "\"margin\": 0.25") != NULL);
    ck_assert(strstr(printed, "\"floor\": 1e-7") != NULL);
    (void)setlocale(LC_NUMERIC, "C");
    ser_mem_free(printed);
    ser_config_clear(&c);
    free(text);
    json_decref(json);
}
END_TEST

START_TEST(previews_are_short_and_clean)
{
    char buffer[SER_JSON_PREVIEW_SIZE];
    json_t *value = json_loads("[\"a\\u001bb\", 1.5, {\"k\": null}]", 0, NULL);
    ck_assert_str_eq(ser_json_preview(value, buffer), "[\"a\\u001Bb\",1.5,{\"k\":null}]");
    json_decref(value);
    char text[4096];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    value = json_string(text);
    ck_assert_str_eq(ser_json_preview(value, buffer), "\"...");
    json_decref(value);
    char small[8];
    ck_assert_str_eq(ser_text_preview("ab\ncd", small, sizeof small), "ab?cd");
    ck_assert_str_eq(ser_text_preview("123456789", small, sizeof small), "1234567");
    ck_assert_str_eq(ser_text_preview("123456\xC3\xA4", small, sizeof small), "123456");
    ck_assert_str_eq(ser_text_preview("12345\xC3\xA4", small, sizeof small), "12345\xC3\xA4");
}
END_TEST

static int parse_and_print(const char *text)
{
    ser_config c;
    int status = ser_config_parse("config", text, strlen(text), &c);
    if (status == 0) {
        char *printed = ser_config_print(&c);
        status = printed != NULL ? 0 : SER_ERR_MEMORY;
        ser_mem_free(printed);
        ser_config_clear(&c);
    }
    return status;
}

START_TEST(every_allocation_may_fail)
{
    json_t *json = own_config(true);
    char *text = json_dumps(json, 0);
    int64_t live = ser_mem_live();
    int status = SER_ERR_MEMORY;
    for (uint64_t n = 1; status != 0; n++) {
        ser_mem_fail_at(n, false);
        status = parse_and_print(text);
        ser_mem_fail_at(0, false);
        ck_assert(status == 0 || status == SER_ERR_MEMORY);
        ck_assert_int_eq(ser_mem_live(), live);
        ck_assert_uint_lt(n, 100);
    }
    free(text);
    json_decref(json);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tcase = tcase_create("config");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, reads_every_field);
    tcase_add_test(tcase, defaults_of_optional_keys);
    tcase_add_test(tcase, required_keys);
    tcase_add_test(tcase, prints_what_it_reads);
    tcase_add_test(tcase, JC1_duplicates_and_limits);
    tcase_add_test(tcase, JC2_not_json);
    tcase_add_test(tcase, JC3_types_and_ranges);
    tcase_add_test(tcase, JC3_other_values);
    tcase_add_test(tcase, JC3_labels);
    tcase_add_test(tcase, JC4_products);
    tcase_add_test(tcase, JC7_unknown_keys);
    tcase_add_test(tcase, locale_does_not_matter);
    tcase_add_test(tcase, previews_are_short_and_clean);
    tcase_add_test(tcase, every_allocation_may_fail);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
