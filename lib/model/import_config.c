/* SPDX-License-Identifier: MIT */
/* The JSON files of a transformers directory. Defaults are those of its Wav2Vec2Config. */
#include <string.h>

#include "base/fail.h"
#include "model/import.h"
#include "model/json.h"
#include "ops/ops.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { OPTIONAL = SER_JSON_OPTIONAL, NULLABLE = SER_JSON_NULLABLE };

static const char *const model_types[] = {"wav2vec2", "hubert", NULL};
static const char *const prefixes[] = {"wav2vec2.", "hubert."};
static const char *const activations[] = {"gelu", NULL};
static const char *const conv_norms[] = {"group", "layer", NULL};

/* Classes whose weights are known. The last two are not transformers' own, but what people have
 * called classifiers of their own under model_type wav2vec2; their tensors decide. */
static const struct {
    const char *name;
    bool classifier;
} architectures[] = {
    {"Wav2Vec2ForSequenceClassification", true},
    {"HubertForSequenceClassification", true},
    {"Wav2Vec2Model", false},
    {"Wav2Vec2ForPreTraining", false},
    {"Wav2Vec2ForCTC", false},
    {"HubertModel", false},
    {"HubertForCTC", false},
    {"Wav2Vec2ForMaskedLM", false},
    {"Wav2Vec2ForAudioFrameClassification", false},
    {"Wav2Vec2ForXVector", false},
    {"Wav2Vec2ForSpeechClassification", true},
    {"HubertForSpeechClassification", true},
};

static int read_architecture(const char *name, const json_t *array, bool *classifier)
{
    const json_t *first = json_array_get(array, 0);
    *classifier = false;
    if (first == NULL) {
        return 0; /* not said: weights alone, a backbone */
    }
    for (size_t i = 0; i < COUNT(architectures) && json_is_string(first); i++) {
        if (strcmp(json_string_value(first), architectures[i].name) == 0) {
            *classifier = architectures[i].classifier;
            return 0;
        }
    }
    char preview[SER_JSON_PREVIEW_SIZE];
    return ser_fail(SER_ERR_UNSUPPORTED,
                    "%s: architectures[0] is %s; supported are Wav2Vec2 and Hubert ...Model, "
                    "...ForPreTraining, ...ForCTC and ...ForSequenceClassification",
                    name, ser_json_preview(first, preview));
}

static void set_default_convs(ser_arch *arch)
{
    static const int32_t kernel[] = {10, 3, 3, 3, 3, 2, 2};
    static const int32_t stride[] = {5, 2, 2, 2, 2, 2, 2};
    arch->conv_count = COUNT(kernel);
    for (size_t i = 0; i < COUNT(kernel); i++) {
        arch->conv_dim[i] = 512;
        arch->conv_kernel[i] = kernel[i];
        arch->conv_stride[i] = stride[i];
    }
}

static int read_convs(const ser_json *json, ser_arch *arch)
{
    set_default_convs(arch);
    int32_t layers = 0;
    ser_json_ints dim = {arch->conv_dim, SER_MAX_CONVS, arch->conv_count};
    ser_json_ints kernel = {arch->conv_kernel, SER_MAX_CONVS, arch->conv_count};
    ser_json_ints stride = {arch->conv_stride, SER_MAX_CONVS, arch->conv_count};
    const ser_json_field fields[] = {
        {"conv_dim", SER_JSON_INTS, OPTIONAL, 1, SER_MAX_CHANNELS, .value = &dim},
        {"conv_kernel", SER_JSON_INTS, OPTIONAL, 1, SER_MAX_KERNEL, .value = &kernel},
        {"conv_stride", SER_JSON_INTS, OPTIONAL, 1, SER_MAX_STRIDE, .value = &stride},
        {"conv_bias", SER_JSON_BOOL, OPTIONAL, .value = &arch->conv_bias},
        {"feat_extract_norm", SER_JSON_CHOICE, OPTIONAL, .choices = conv_norms,
         .choice_status = SER_ERR_UNSUPPORTED, .value = &arch->conv_norm},
        {"num_feat_extract_layers", SER_JSON_INT32, OPTIONAL, 1, SER_MAX_CONVS, .value = &layers},
    };
    int status = ser_json_read(json, fields, COUNT(fields), false);
    if (status != 0) {
        return status;
    }
    const int32_t lengths[] = {dim.count, kernel.count, stride.count};
    status = ser_config_check_lengths(json->name, "", lengths, COUNT(lengths));
    arch->conv_count = dim.count;
    if (status == 0 && layers != 0 && layers != dim.count) {
        return ser_fail(SER_ERR_DATA,
                        "%s: num_feat_extract_layers is %d, but conv_dim has %d entries",
                        json->name, layers, dim.count);
    }
    return status;
}

static int read_encoder(const ser_json *json, bool hubert, ser_arch *arch)
{
    bool stable = false;
    int32_t activation = 0;
    const ser_json_field fields[] = {
        {"hidden_size", SER_JSON_INT32, OPTIONAL, 1, SER_MAX_HIDDEN, .value = &arch->hidden_size},
        {"num_hidden_layers", SER_JSON_INT32, OPTIONAL, 1, SER_MAX_LAYERS, .value = &arch->layers},
        {"num_attention_heads", SER_JSON_INT32, OPTIONAL, 1, SER_MAX_HIDDEN, .value = &arch->heads},
        {"intermediate_size", SER_JSON_INT32, OPTIONAL, 1, SER_MAX_INTERMEDIATE,
         .value = &arch->intermediate_size},
        {"layer_norm_eps", SER_JSON_FLOAT, OPTIONAL, SER_MIN_NORM_EPS, SER_MAX_NORM_EPS,
         .value = &arch->layer_norm_eps},
        {"do_stable_layer_norm", SER_JSON_BOOL, OPTIONAL, .value = &stable},
        {"num_conv_pos_embeddings", SER_JSON_INT32, OPTIONAL, 1, SER_MAX_POSITION_KERNEL,
         .value = &arch->position_kernel},
        {"num_conv_pos_embedding_groups", SER_JSON_INT32, OPTIONAL, 1, SER_MAX_HIDDEN,
         .value = &arch->position_groups},
        {"hidden_act", SER_JSON_CHOICE, OPTIONAL, .choices = activations,
         .choice_status = SER_ERR_UNSUPPORTED, .value = &activation},
        {"feat_extract_activation", SER_JSON_CHOICE, OPTIONAL, .choices = activations,
         .choice_status = SER_ERR_UNSUPPORTED, .value = &activation},
        {"feat_proj_layer_norm", hubert ? SER_JSON_BOOL : SER_JSON_IGNORED, OPTIONAL,
         .value = &arch->feature_norm},
    };
    int status = ser_json_read(json, fields, COUNT(fields), false);
    arch->encoder_norm = stable ? SER_ENCODER_PRE_NORM : SER_ENCODER_POST_NORM;
    return status;
}

/* Values that change nothing here, but that no sound configuration has out of range. */
static int check_dropouts(const ser_json *json)
{
    static const char *const keys[] = {"hidden_dropout",    "activation_dropout",
                                       "attention_dropout", "feat_proj_dropout",
                                       "final_dropout",     "layerdrop"};
    double dropout = 0.0;
    for (size_t i = 0; i < COUNT(keys); i++) {
        const ser_json_field field = {keys[i], SER_JSON_DOUBLE, OPTIONAL,
                                      0,       0.999999,        .value = &dropout};
        int status = ser_json_read(json, &field, 1, false);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

/* Parts of a network that libser does not have. */
static int refuse_foreign_parts(const ser_json *json)
{
    bool adapter = false;
    bool batch_norm = false;
    int32_t attention_adapter = 0;
    const ser_json_field fields[] = {
        {"add_adapter", SER_JSON_BOOL, NULLABLE, .value = &adapter},
        {"conv_pos_batch_norm", SER_JSON_BOOL, NULLABLE, .value = &batch_norm},
        {"adapter_attn_dim", SER_JSON_INT32, NULLABLE, 1, SER_MAX_HIDDEN,
         .value = &attention_adapter},
    };
    int status = ser_json_read(json, fields, COUNT(fields), false);
    if (status != 0) {
        return status;
    }
    if (adapter || attention_adapter != 0) {
        return ser_fail(SER_ERR_UNSUPPORTED, "%s: %s: adapters are not supported", json->name,
                        adapter ? "add_adapter" : "adapter_attn_dim");
    }
    if (batch_norm) {
        return ser_fail(
            SER_ERR_UNSUPPORTED,
            "%s: conv_pos_batch_norm: only a weight-normalised positional convolution is "
            "supported",
            json->name);
    }
    return 0;
}

/* ...ForSequenceClassification: projector and classifier have nothing between them, and the mean
 * over the frames, which stands between them there, may as well come first. */
static int read_head(const ser_json *json, ser_config *config)
{
    ser_arch *arch = &config->arch;
    const char *problem = "";
    arch->classifier_size[0] = 256;
    const ser_json_field fields[] = {
        {"use_weighted_layer_sum", SER_JSON_BOOL, OPTIONAL, .value = &arch->layer_mix},
        {"classifier_proj_size", SER_JSON_INT32, OPTIONAL, 1, SER_MAX_CLASSIFIER_SIZE,
         .value = &arch->classifier_size[0]},
        {"problem_type", SER_JSON_STRING, NULLABLE, .value = &problem},
    };
    int status = ser_json_read(json, fields, COUNT(fields), false);
    if (status != 0) {
        return status;
    }
    if (strcmp(problem, "regression") == 0 || strcmp(problem, "multi_label_classification") == 0) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "%s: problem_type is \"%s\"; only one label per clip is "
                        "supported",
                        json->name, problem);
    }
    status = ser_import_read_labels(json->name, json->object, config);
    arch->pooling = SER_POOLING_MEAN;
    arch->classifier_activation = SER_ACT_NONE;
    arch->classifier_size[1] = (int32_t)config->label_count;
    arch->classifier_count = 2;
    return status;
}

static int read_all(const ser_json *json, bool want_head, ser_import *import)
{
    static const ser_config_paths paths = {"hidden_size", "num_attention_heads",
                                           "num_conv_pos_embedding_groups", "conv_stride"};
    ser_arch *arch = &import->config.arch;
    int32_t model_type = 0;
    json_t *classes = NULL;
    const ser_json_field fields[] = {
        {"model_type", SER_JSON_CHOICE, .choices = model_types,
         .choice_status = SER_ERR_UNSUPPORTED, .value = &model_type},
        {"architectures", SER_JSON_ARRAY, NULLABLE, .value = &classes},
    };
    int status = ser_json_read(json, fields, COUNT(fields), false);
    if (status != 0 ||
        (status = read_architecture(json->name, classes, &import->classifier)) != 0 ||
        (status = refuse_foreign_parts(json)) != 0 || (status = check_dropouts(json)) != 0 ||
        (status = read_convs(json, arch)) != 0 ||
        (status = read_encoder(json, model_type == 1, arch)) != 0) {
        return status;
    }
    import->prefix = prefixes[model_type];
    if (want_head && import->classifier && (status = read_head(json, &import->config)) != 0) {
        return status;
    }
    return ser_config_check(json->name, &paths, &import->config);
}

int ser_import_read_config(const char *name, const char *text, size_t length, bool want_head,
                           ser_import *import)
{
    *import = (ser_import){.prefix = prefixes[0]};
    import->config.front_end = ser_default_front_end;
    import->config.arch = (ser_arch){
        .sampling_rate = 16000,
        .features = SER_FEATURES_CONV,
        .conv_norm = SER_NORM_GROUP,
        .hidden_size = 768,
        .layers = 12,
        .heads = 12,
        .intermediate_size = 3072,
        .layer_norm_eps = 1e-5F,
        .feature_norm = true,
        .position_kernel = 128,
        .position_groups = 16,
    };
    json_t *root = NULL;
    int status = ser_json_parse(name, text, length, SER_JSON_MAX_VALUES, &root);
    if (status == 0) {
        const ser_json json = {name, "", root};
        status = read_all(&json, want_head, import);
    }
    json_decref(root);
    if (status != 0) {
        ser_config_clear(&import->config);
    }
    return status;
}

static int read_preprocessor(const ser_json *json, ser_front_end *front_end)
{
    int32_t rate = 16000;
    int32_t size = 1;
    bool mask =
        false; /* decides how transformers pads a batch: see import.h for why we do not follow */
    const char *type = "Wav2Vec2FeatureExtractor";
    const ser_json_field fields[] = {
        {"feature_extractor_type", SER_JSON_STRING, NULLABLE, .value = &type},
        {"sampling_rate", SER_JSON_INT32, OPTIONAL, 16000, 16000, .value = &rate},
        {"feature_size", SER_JSON_INT32, OPTIONAL, 1, 1, .value = &size},
        {"do_normalize", SER_JSON_BOOL, OPTIONAL, .value = &front_end->normalize},
        {"return_attention_mask", SER_JSON_BOOL, OPTIONAL, .value = &mask},
    };
    int status = ser_json_read(json, fields, COUNT(fields), false);
    if (status == 0 && strcmp(type, "Wav2Vec2FeatureExtractor") != 0) {
        char preview[SER_JSON_PREVIEW_SIZE];
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "%s: %sfeature_extractor_type is \"%s\", only Wav2Vec2FeatureExtractor is "
                        "supported",
                        json->name, json->path, ser_text_preview(type, preview, sizeof preview));
    }
    return status;
}

int ser_import_read_preprocessor(const char *name, const char *text, size_t length, bool nested,
                                 ser_front_end *front_end)
{
    json_t *root = NULL;
    int status = ser_json_parse(name, text, length, SER_JSON_MAX_VALUES, &root);
    if (status != 0) {
        return status;
    }
    ser_json json = {name, nested ? "feature_extractor." : "", root};
    if (nested) {
        const ser_json top = {name, "", root};
        const ser_json_field field = {"feature_extractor", SER_JSON_OBJECT, NULLABLE,
                                      .value = &json.object};
        json.object = NULL;
        status = ser_json_read(&top, &field, 1, false);
    }
    if (status == 0 && json.object != NULL) {
        status = read_preprocessor(&json, front_end);
    }
    json_decref(root);
    return status;
}
