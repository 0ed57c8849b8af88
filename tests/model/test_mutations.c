/* SPDX-License-Identifier: MIT */
/*
 * Thousands of damaged model files and configurations, the same ones in every run: bytes changed at
 * random, and, because most of those die at the first check, JSON values exchanged for nasty ones
 * in files that are otherwise whole.
 */
#include "harness.h"

#include "builder.h"
#include "fuzz_model.h"

static uint64_t state;

static size_t pick(size_t count)
{
    double unit = ((double)harness_random(&state) + 1.0) / 2.0;
    size_t i = (size_t)(unit * (double)count);
    return i < count ? i : count - 1;
}

static void run(uint8_t route, const void *data, size_t size)
{
    blob b = {malloc(size + 1),
              size + 1}; /* exactly as long, so that a sanitizer sees every overrun */
    ck_assert_ptr_nonnull(b.data);
    b.data[0] = route;
    memcpy(b.data + 1, data, size);
    (void)LLVMFuzzerTestOneInput(b.data, b.size);
    blob_free(&b);
}

static void move_piece(blob *b, size_t from, size_t to)
{
    memmove(b->data + to, b->data + from, pick(b->size - (to > from ? to : from)));
}

/* One to four changes: a bit, a byte, a run of bytes, a cut, a doubled piece. */
static void damage(blob *b)
{
    for (size_t changes = 1 + pick(4); changes > 0 && b->size > 0; changes--) {
        size_t at = pick(3) == 0 ? pick(b->size) : pick(b->size < 600 ? b->size : 600);
        switch (pick(6)) {
        case 0: b->data[at] ^= (unsigned char)(1U << pick(8)); break;
        case 1: b->data[at] = (unsigned char)pick(256); break;
        case 2: b->data[at] = (unsigned char)"0123456789{}[]\",:.-eE \\u"[pick(24)]; break;
        case 3: memset(b->data + at, (int)pick(256), b->size - at < 8 ? b->size - at : 8); break;
        case 4: b->size -= pick(b->size); break;
        default: move_piece(b, at, pick(b->size)); break;
        }
    }
}

static void damage_bytes(uint8_t route, const void *data, size_t size, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        blob b = blob_copy(data, size);
        damage(&b);
        run(route, b.data, b.size);
        blob_free(&b);
    }
}

static json_t *nasty_value(void)
{
    static const char *const values =
        "0 -1 1 3 8 16384 65536 2147483647 2147483648 4294967296 9223372036854775807 "
        "-9223372036854775808 1.5 1e308 -0.0 true null \"\" \"F16\" \"1\" [] {} [0] [0,0] "
        "[1,2,3,4,5,6,7,8,9] {\"0\":\"a\"} \"\\u0000a\"";
    enum { COUNT = 27 };
    char text[32];
    const char *from = values;
    for (size_t skip = pick(COUNT); skip > 0; skip--) {
        from = strchr(from, ' ') + 1;
    }
    (void)snprintf(text, sizeof text, "%.*s", (int)strcspn(from, " "), from);
    json_t *value = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    ck_assert_ptr_nonnull(value);
    return value;
}

/* Exchange, remove or rename something somewhere below `value`. */
static void mutate(json_t *value)
{
    size_t count = json_is_object(value) ? json_object_size(value) : json_array_size(value);
    if (count == 0) {
        return;
    }
    size_t target = pick(count);
    if (json_is_array(value)) {
        json_t *item = json_array_get(value, target);
        if (json_is_string(item) || json_is_number(item) || pick(2) == 0) {
            json_array_set_new(value, target, nasty_value());
        } else {
            mutate(item);
        }
        return;
    }
    void *at = json_object_iter(value);
    for (size_t i = 0; i < target; i++) {
        at = json_object_iter_next(value, at);
    }
    char key[256];
    (void)snprintf(key, sizeof key, "%s", json_object_iter_key(at));
    json_t *item = json_object_iter_value(at);
    size_t what = pick(10);
    if (json_is_object(item) && what < 8) {
        mutate(item);
    } else if (json_is_array(item) && what < 6) {
        mutate(item);
    } else if (what == 9) {
        json_t *kept = json_incref(item);
        json_object_del(value, key);
        key[pick(strlen(key) + 1)] = 'x';
        json_object_set_new(value, key, kept);
    } else if (what == 8) {
        json_object_del(value, key);
    } else {
        json_object_set_new(value, key, nasty_value());
    }
}

/* The file with its header exchanged for `header`. */
static blob with_header(const blob *b, json_t *header)
{
    uint64_t n;
    memcpy(&n, b->data, 8);
    char *text = json_dumps(header, JSON_COMPACT);
    ck_assert_ptr_nonnull(text);
    blob result = blob_safetensors(text, b->data + 8 + n, b->size - 8 - (size_t)n);
    free(text);
    return result;
}

static json_t *header_of(const blob *b)
{
    uint64_t n;
    memcpy(&n, b->data, 8);
    return json_loadb((const char *)b->data + 8, (size_t)n, 0, NULL);
}

START_TEST(bytes_of_model_files)
{
    state = 1;
    for (int logmel = 0; logmel < 2; logmel++) {
        blob b = small_model(logmel != 0);
        run(FUZZ_MODEL_FILE, b.data, b.size);
        damage_bytes(FUZZ_MODEL_FILE, b.data, b.size, 1500);
        for (size_t size = 0; size < b.size; size += 1 + size / 50) {
            run(FUZZ_MODEL_FILE, b.data, size); /* cut everywhere */
        }
        blob_free(&b);
    }
}
END_TEST

START_TEST(headers_of_model_files)
{
    state = 2;
    blob b = small_model(true);
    for (int i = 0; i < 1500; i++) {
        json_t *header = header_of(&b);
        for (size_t changes = 1 + pick(3); changes > 0; changes--) {
            mutate(header);
        }
        blob mutant = with_header(&b, header);
        run(FUZZ_MODEL_FILE, mutant.data, mutant.size);
        blob_free(&mutant);
        json_decref(header);
    }
    blob_free(&b);
}
END_TEST

/* Configurations that change meaning under tensors that do not: as far as a network, where they
 * load. */
START_TEST(configs_within_model_files)
{
    state = 3;
    ser_device *device = open_cpu();
    json_t *config = own_config(true);
    model_spec spec;
    own_spec(config, &spec);
    int loaded = 0;
    for (int i = 0; i < 1500; i++) {
        ser_model *model;
        json_t *mutant = json_deep_copy(config);
        mutate(mutant);
        char *text = json_dumps(mutant, 0);
        blob b = text != NULL ? own_blob(mutant, &spec) : (blob){calloc(1, 1), 0};
        int status = ser_model_load_memory(device, b.data, b.size, NULL, &model);
        ck_assert_msg(status != SER_ERR_INTERNAL && status != SER_ERR_MEMORY, "%s: %s", text,
                      ser_error_message());
        loaded += status == 0;
        ser_model_free(&model);
        blob_free(&b);
        free(text);
        json_decref(mutant);
    }
    ck_assert_int_gt(loaded, 10); /* a changed window, say, is still a model */
    spec_free(&spec);
    json_decref(config);
    ser_device_free(&device);
}
END_TEST

static void mutate_text(uint8_t route, json_t *json, int rounds)
{
    char *text = json_dumps(json, JSON_INDENT(1));
    run(route, text, strlen(text));
    damage_bytes(route, text, strlen(text), rounds);
    free(text);
    for (int i = 0; i < rounds; i++) {
        json_t *mutant = json_deep_copy(json);
        for (size_t changes = 1 + pick(3); changes > 0; changes--) {
            mutate(mutant);
        }
        text = json_dumps(mutant, JSON_COMPACT);
        run(route, text, strlen(text));
        free(text);
        json_decref(mutant);
    }
}

START_TEST(json_texts)
{
    state = 4;
    for (int logmel = 0; logmel < 2; logmel++) {
        json_t *config = own_config(logmel != 0);
        mutate_text(FUZZ_CONFIG, config, 1000);
        json_decref(config);
    }
    hf_model hf;
    hf_create(&hf, "wav2vec2", "Wav2Vec2ForSequenceClassification", "wav2vec2.", false);
    mutate_text(FUZZ_IMPORT, hf.config, 1500);
    mutate_text(FUZZ_PREPROCESSOR, hf.preprocessor, 500);
    hf_free(&hf);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mutations");
    TCase *tcase = tcase_create("mutations");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, bytes_of_model_files);
    tcase_add_test(tcase, headers_of_model_files);
    tcase_add_test(tcase, configs_within_model_files);
    tcase_add_test(tcase, json_texts);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
