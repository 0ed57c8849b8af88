/* SPDX-License-Identifier: MIT */
#include "builder.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/config.h"
#include "net/params.h"

static void *get(size_t count, size_t size)
{
    void *block = calloc(count > 0 ? count : 1, size);
    ck_assert_ptr_nonnull(block);
    return block;
}

blob blob_copy(const void *data, size_t size)
{
    blob b = {get(size, 1), size};
    if (size > 0) {
        memcpy(b.data, data, size);
    }
    return b;
}

blob blob_safetensors(const char *header, const void *payload, size_t payload_size)
{
    uint64_t length = strlen(header);
    blob b = {get(8 + (size_t)length + payload_size, 1), 8 + (size_t)length + payload_size};
    memcpy(b.data, &length, 8);
    memcpy(b.data + 8, header, (size_t)length);
    if (payload != NULL && payload_size > 0) {
        memcpy(b.data + 8 + length, payload, payload_size);
    }
    return b;
}

void blob_free(blob *b)
{
    free(b->data);
    *b = (blob){NULL, 0};
}

void blob_write(const blob *b, const char *path)
{
    FILE *file = fopen(path, "wb");
    ck_assert_msg(file != NULL, "cannot create %s", path);
    ck_assert_uint_eq(fwrite(b->data, 1, b->size, file), b->size);
    ck_assert_int_eq(fclose(file), 0);
}

void write_text(const char *path, const char *text)
{
    blob b = blob_copy(text, strlen(text));
    blob_write(&b, path);
    blob_free(&b);
}

bool directory_holds_only(const char *path, const char *only)
{
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    size_t others = 0;
    bool found = only == NULL;
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        if (only != NULL && strcmp(e->d_name, only) == 0) {
            found = true;
        } else if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            others++;
        }
    }
    (void)closedir(dir);
    return found && others == 0;
}

void spec_add(model_spec *spec, const char *name, int32_t rank, int64_t a, int64_t b, int64_t c)
{
    spec->list = realloc(spec->list, (spec->count + 1) * sizeof spec->list[0]);
    ck_assert_ptr_nonnull(spec->list);
    tensor_spec *t = &spec->list[spec->count++];
    *t = (tensor_spec){.dtype = "F32", .rank = rank, .shape = {a, b, c}};
    (void)snprintf(t->name, sizeof t->name, "%s", name);
}

tensor_spec *spec_get(model_spec *spec, const char *name)
{
    for (size_t i = 0; i < spec->count; i++) {
        if (strcmp(spec->list[i].name, name) == 0) {
            return &spec->list[i];
        }
    }
    ck_abort_msg("no tensor %s", name);
    return NULL;
}

void spec_remove(model_spec *spec, const char *name)
{
    tensor_spec *t = spec_get(spec, name);
    *t = spec->list[--spec->count];
}

void spec_free(model_spec *spec)
{
    free(spec->list);
    *spec = (model_spec){NULL, 0};
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text);
    size_t m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

float spec_value(const char *name, size_t i)
{
    uint64_t state = 1469598103934665603U; /* FNV-1a */
    for (const char *p = name; *p != '\0'; p++) {
        state = (state ^ (unsigned char)*p) * 1099511628211U;
    }
    state += i;
    float k = (float)(int)(harness_random(&state) * 64.0F); /* -63..63 */
    if (ends_with(name, ".std") || ends_with(name, "weight_g") || ends_with(name, "original0") ||
        ends_with(name, "norm.weight")) {
        return (64.0F + (k < 0.0F ? -k : k)) / 128.0F;
    }
    return k / 64.0F;
}

static size_t dtype_size(const char *dtype)
{
    static const char *const sizes[][2] = {{"F64", "8"}, {"I64", "8"},  {"F32", "4"}, {"I32", "4"},
                                           {"F16", "2"}, {"BF16", "2"}, {"U8", "1"},  {"I8", "1"}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (strcmp(dtype, sizes[i][0]) == 0) {
            return (size_t)atoi(sizes[i][1]);
        }
    }
    return 1;
}

/* Exact for the values of spec_value: at most 8 significant bits, exponent within -7..0. */
static uint16_t narrow(float x, bool half)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (!half) {
        return (uint16_t)(bits >> 16);
    }
    if ((bits & 0x7FFFFFFFU) == 0) {
        return 0;
    }
    uint32_t exponent = ((bits >> 23) & 0xFFU) - 127 + 15;
    return (uint16_t)((bits >> 16 & 0x8000U) | exponent << 10 | (bits >> 13 & 0x3FFU));
}

static void fill_values(const tensor_spec *t, size_t elements, unsigned char *out)
{
    for (size_t i = 0; i < elements; i++) {
        float x = spec_value(t->name, i);
        if (strcmp(t->dtype, "F32") == 0) {
            memcpy(out + 4 * i, &x, 4);
        } else if (strcmp(t->dtype, "F16") == 0 || strcmp(t->dtype, "BF16") == 0) {
            uint16_t y = narrow(x, t->dtype[0] == 'F');
            memcpy(out + 2 * i, &y, 2);
        }
    }
}

blob spec_blob(const model_spec *spec, json_t *metadata)
{
    json_t *root = json_object();
    size_t total = 0;
    if (metadata != NULL) {
        json_object_set(root, "__metadata__", metadata);
    }
    unsigned char *payload = NULL;
    for (size_t i = 0; i < spec->count; i++) {
        const tensor_spec *t = &spec->list[i];
        size_t elements = 1;
        json_t *shape = json_array();
        for (int32_t j = 0; j < t->rank; j++) {
            elements *= (size_t)t->shape[j];
            json_array_append_new(shape, json_integer(t->shape[j]));
        }
        size_t size = elements * dtype_size(t->dtype);
        payload = realloc(payload, total + size + 1);
        ck_assert_ptr_nonnull(payload);
        memset(payload + total, 0, size);
        fill_values(t, elements, payload + total);
        json_object_set_new(root, t->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", t->dtype, "shape", shape,
                                      "data_offsets", (json_int_t)total,
                                      (json_int_t)(total + size)));
        total += size;
    }
    char *header = json_dumps(root, JSON_COMPACT);
    blob b = blob_safetensors(header, payload, total);
    free(header);
    free(payload);
    json_decref(root);
    return b;
}

json_t *own_config(bool logmel)
{
    static const char *const text =
        "{'labels': ['neutral', 'happy', 'sad'],"
        " 'audio': {'sampling_rate': 16000, 'normalize': true,"
        "           'trim': {'threshold_db': 35.0, 'margin': 0.1}, 'window': 5.0, 'max_seconds': "
        "30.0},"
        " 'padding': 'exact',"
        " 'features': {'type': 'logmel',"
        "   'mel': {'frame': 400, 'hop': 160, 'fft': 512, 'bins': 7, 'low': 50.0, 'high': 7600.0,"
        "           'floor': 1e-7},"
        "   'conv_dim': [6, 8], 'conv_kernel': [5, 3], 'conv_stride': [2, 2], 'conv_padding': [2, "
        "1],"
        "   'conv_bias': true, 'norm': 'layer'},"
        " 'encoder': {'hidden_size': 12, 'num_hidden_layers': 2, 'num_attention_heads': 3,"
        "   'intermediate_size': 20, 'norm': 'pre', 'layer_norm_eps': 1e-5, 'feature_norm': true,"
        "   'position_kernel': 5, 'position_groups': 4},"
        " 'layer_mix': false, 'pooling': {'type': 'attention', 'hidden': 9},"
        " 'classifier': {'sizes': [10], 'activation': 'gelu'}, 'training': {'epochs': 3}}";
    char quoted[2048];
    size_t n = strlen(text);
    ck_assert_uint_lt(n, sizeof quoted);
    for (size_t i = 0; i <= n; i++) {
        quoted[i] = text[i] == '\'' ? '"' : text[i];
    }
    json_t *config = json_loads(quoted, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(config);
    if (!logmel) {
        json_t *features = json_object_get(config, "features");
        json_object_del(features, "mel");
        json_object_set_new(features, "type", json_string("conv"));
        json_object_set_new(features, "conv_padding", json_pack("[i, i]", 0, 0));
        json_object_set_new(features, "norm", json_string("group"));
    }
    return config;
}

void own_spec(json_t *config, model_spec *spec)
{
    char *text = json_dumps(config, 0);
    ser_config parsed;
    ser_params params;
    assert_ok(ser_config_parse("config", text, strlen(text), &parsed));
    assert_ok(ser_params_plan(&parsed.arch, &params));
    *spec = (model_spec){NULL, 0};
    for (size_t i = 0; i < params.count; i++) {
        const ser_param *p = &params.list[i];
        spec_add(spec, p->name, p->rank, p->shape[0], p->shape[1], p->shape[2]);
    }
    ser_params_clear(&params);
    ser_config_clear(&parsed);
    free(text);
}

blob own_blob(json_t *config, const model_spec *spec)
{
    char *text = json_dumps(config, 0);
    json_t *metadata =
        json_pack("{s:s, s:s, s:s}", "format", "ser", "version", "1", "config", text);
    blob b = spec_blob(spec, metadata);
    json_decref(metadata);
    free(text);
    return b;
}

blob own_model(json_t *config)
{
    model_spec spec;
    own_spec(config, &spec);
    blob b = own_blob(config, &spec);
    spec_free(&spec);
    return b;
}

/* Written out by hand from what transformers saves, so as not to repeat the library's own list. */
static void hf_tensors(hf_model *hf, const char *prefix, bool large)
{
    static const char *const names[] = {"attention.k_proj", "attention.v_proj", "attention.q_proj",
                                        "attention.out_proj"};
    char name[160];
    model_spec *s = &hf->spec;
#define ADD(rank, a, b, c, ...)                                                                    \
    do {                                                                                           \
        int used_ = snprintf(name, sizeof name, "%s", prefix);                                     \
        (void)snprintf(name + used_, sizeof name - (size_t)used_, __VA_ARGS__);                    \
        spec_add(s, name, rank, a, b, c);                                                          \
    } while (0)
    ADD(1, 12, 0, 0, "masked_spec_embed");
    for (int i = 0; i < 2; i++) {
        ADD(3, i == 0 ? 6 : 8, i == 0 ? 1 : 6, i == 0 ? 10 : 3,
            "feature_extractor.conv_layers.%d.conv.weight", i);
        if (large) {
            ADD(1, i == 0 ? 6 : 8, 0, 0, "feature_extractor.conv_layers.%d.conv.bias", i);
        }
        if (large || i == 0) {
            ADD(1, i == 0 ? 6 : 8, 0, 0, "feature_extractor.conv_layers.%d.layer_norm.weight", i);
            ADD(1, i == 0 ? 6 : 8, 0, 0, "feature_extractor.conv_layers.%d.layer_norm.bias", i);
        }
    }
    ADD(1, 8, 0, 0, "feature_projection.layer_norm.weight");
    ADD(1, 8, 0, 0, "feature_projection.layer_norm.bias");
    ADD(2, 12, 8, 0, "feature_projection.projection.weight");
    ADD(1, 12, 0, 0, "feature_projection.projection.bias");
    ADD(1, 12, 0, 0, "encoder.pos_conv_embed.conv.bias");
    ADD(3, 1, 1, 4, "encoder.pos_conv_embed.conv.parametrizations.weight.original0");
    ADD(3, 12, 6, 4, "encoder.pos_conv_embed.conv.parametrizations.weight.original1");
    ADD(1, 12, 0, 0, "encoder.layer_norm.weight");
    ADD(1, 12, 0, 0, "encoder.layer_norm.bias");
    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < 4; j++) {
            ADD(2, 12, 12, 0, "encoder.layers.%d.%s.weight", i, names[j]);
            ADD(1, 12, 0, 0, "encoder.layers.%d.%s.bias", i, names[j]);
        }
        ADD(1, 12, 0, 0, "encoder.layers.%d.layer_norm.weight", i);
        ADD(1, 12, 0, 0, "encoder.layers.%d.layer_norm.bias", i);
        ADD(2, 20, 12, 0, "encoder.layers.%d.feed_forward.intermediate_dense.weight", i);
        ADD(1, 20, 0, 0, "encoder.layers.%d.feed_forward.intermediate_dense.bias", i);
        ADD(2, 12, 20, 0, "encoder.layers.%d.feed_forward.output_dense.weight", i);
        ADD(1, 12, 0, 0, "encoder.layers.%d.feed_forward.output_dense.bias", i);
        ADD(1, 12, 0, 0, "encoder.layers.%d.final_layer_norm.weight", i);
        ADD(1, 12, 0, 0, "encoder.layers.%d.final_layer_norm.bias", i);
    }
#undef ADD
}

void hf_create(hf_model *hf, const char *type, const char *architecture, const char *prefix,
               bool large)
{
    static unsigned serial;
    *hf = (hf_model){.spec = {NULL, 0}};
    (void)snprintf(hf->dir, sizeof hf->dir, "%s/hf-%u", harness_tmpdir(), serial++);
    ck_assert_int_eq(mkdir(hf->dir, 0777), 0);
    hf->config = json_pack(
        "{s:s, s:[s], s:s, s:s, s:[i, i], s:[i, i], s:[i, i], s:b, s:s, s:b, s:i, s:i, "
        "s:i, s:i, s:i, "
        "s:i, s:f, s:i, s:b, s:{s:s, s:s, s:s}, s:{s:i, s:i, s:i}, s:i, s:f, s:n}",
        "model_type", type, "architectures", architecture, "hidden_act", "gelu",
        "feat_extract_activation", "gelu", "conv_dim", 6, 8, "conv_kernel", 10, 3, "conv_stride", 5,
        2, "conv_bias", large, "feat_extract_norm", large ? "layer" : "group",
        "do_stable_layer_norm", large, "hidden_size", 12, "num_hidden_layers", 2,
        "num_attention_heads", 3, "intermediate_size", 20, "num_conv_pos_embeddings", 4,
        "num_conv_pos_embedding_groups", 2, "layer_norm_eps", 1e-5, "classifier_proj_size", 7,
        "use_weighted_layer_sum", 0, "id2label", "0", "neutral", "1", "happy", "2", "sad",
        "label2id", "neutral", 0, "happy", 1, "sad", 2, "num_feat_extract_layers", 2,
        "hidden_dropout", 0.1, "adapter_attn_dim");
    ck_assert_ptr_nonnull(hf->config);
    hf->preprocessor = json_pack("{s:b, s:s, s:i, s:s, s:f, s:b, s:i}", "do_normalize", 1,
                                 "feature_extractor_type", "Wav2Vec2FeatureExtractor",
                                 "feature_size", 1, "padding_side", "right", "padding_value", 0.0,
                                 "return_attention_mask", large, "sampling_rate", 16000);
    hf_tensors(hf, prefix, large);
    if (ends_with(architecture, "ForSequenceClassification")) {
        spec_add(&hf->spec, "projector.weight", 2, 7, 12, 0);
        spec_add(&hf->spec, "projector.bias", 1, 7, 0, 0);
        spec_add(&hf->spec, "classifier.weight", 2, 3, 7, 0);
        spec_add(&hf->spec, "classifier.bias", 1, 3, 0, 0);
    }
}

void hf_path(const hf_model *hf, const char *base, char path[512])
{
    (void)snprintf(path, 512, "%s/%s", hf->dir, base);
}

static void write_json(const hf_model *hf, const char *base, json_t *value)
{
    char path[512];
    hf_path(hf, base, path);
    (void)remove(path);
    if (value != NULL) {
        ck_assert_int_eq(json_dump_file(value, path, JSON_INDENT(2)), 0);
    }
}

void hf_write_json(const hf_model *hf)
{
    write_json(hf, "config.json", hf->config);
    write_json(hf, "preprocessor_config.json", hf->preprocessor);
}

void hf_write(const hf_model *hf)
{
    char path[512];
    json_t *metadata = json_pack("{s:s}", "format", "pt");
    blob b = spec_blob(&hf->spec, metadata);
    hf_write_json(hf);
    hf_path(hf, "model.safetensors", path);
    blob_write(&b, path);
    blob_free(&b);
    json_decref(metadata);
}

void hf_free(hf_model *hf)
{
    json_decref(hf->config);
    json_decref(hf->preprocessor);
    spec_free(&hf->spec);
}

int hf_open(const hf_model *hf, ser_package *package)
{
    int64_t live = ser_mem_live();
    int status = ser_package_open(hf->dir, SER_DEFAULT_HEADER, package);
    if (status != 0) {
        ck_assert_int_eq(ser_mem_live(), live);
    }
    return status;
}

void check_binding(const ser_package *package, const char *param, const char *tensor)
{
    for (size_t i = 0; i < package->params.count; i++) {
        const ser_param *p = &package->params.list[i];
        if (strcmp(p->name, param) != 0) {
            continue;
        }
        const ser_tensor_ref *ref = &package->bound[i];
        float values[1024];
        size_t count = (size_t)ser_param_elements(p);
        ck_assert_uint_le(count, sizeof values / sizeof values[0]);
        ck_assert_str_eq(ref->entry->name, tensor);
        assert_ok(ser_safetensors_read(ref->file, ref->entry, values));
        for (size_t j = 0; j < count; j++) {
            ck_assert(values[j] == spec_value(tensor, j));
        }
        return;
    }
    ck_abort_msg("no parameter %s", param);
}

ser_device *open_cpu(void)
{
    ser_device *device;
    ser_device_options options;
    ser_device_options_init(&options, sizeof options);
    options.kind = SER_DEVICE_CPU;
    options.threads = 1;
    assert_ok(ser_device_open(&options, &device));
    return device;
}

blob small_model(bool logmel)
{
    json_t *config = own_config(logmel);
    blob b = own_model(config);
    json_decref(config);
    return b;
}
