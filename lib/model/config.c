/* SPDX-License-Identifier: MIT */
#include "model/config.h"

#include <math.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/json.h"
#include "net/params.h"
#include "ops/ops.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* 16 GiB of f32: twice the largest published speech encoder. */
#define MAX_PARAMETERS (INT64_C(1) << 32)

static const int32_t sampling_rate = 16000;

const ser_front_end ser_default_front_end = {
    .normalize = true,
    .trim_margin = 0.1,
    .window = 5.0,
    .max_seconds = 30.0,
};

static const char *const padding_names[] = {"exact", "hf", NULL};
static const char *const feature_names[] = {"conv", "logmel", NULL};
static const char *const conv_norm_names[] = {"group", "layer", NULL};
static const char *const encoder_norm_names[] = {"post", "pre", NULL};
static const char *const pooling_names[] = {"attention", "mean", NULL};
static const char *const activation_names[] = {"none", "gelu", "relu", "tanh", NULL};

_Static_assert(SER_FEATURES_LOGMEL == 1 && SER_NORM_LAYER == 1 && SER_ENCODER_PRE_NORM == 1 &&
                   SER_POOLING_MEAN == 1 && SER_ACT_NONE == 0 && SER_ACT_GELU == 1 &&
                   SER_ACT_RELU == 2 && SER_ACT_TANH == 3,
               "the lists above are in the order of the constants");

static int read_trim(const ser_json *parent, json_t *object, ser_front_end *front_end)
{
    const ser_json json = {parent->name, "audio.trim.", object};
    const ser_json_field fields[] = {
        {"threshold_db", SER_JSON_DOUBLE, .min = 10, .max = 100,
         .value = &front_end->trim_threshold_db},
        {"margin", SER_JSON_DOUBLE, SER_JSON_OPTIONAL, 0, 1, .value = &front_end->trim_margin},
    };
    front_end->trim = true;
    return ser_json_read(&json, fields, COUNT(fields), true);
}

static int read_audio(const ser_json *parent, json_t *object, ser_config *config)
{
    const ser_json json = {parent->name, "audio.", object};
    ser_front_end *front_end = &config->front_end;
    json_t *trim = NULL;
    const ser_json_field fields[] = {
        {"sampling_rate", SER_JSON_INT32, SER_JSON_OPTIONAL, sampling_rate, sampling_rate,
         .value = &config->arch.sampling_rate},
        {"normalize", SER_JSON_BOOL, SER_JSON_OPTIONAL, .value = &front_end->normalize},
        {"trim", SER_JSON_OBJECT, SER_JSON_NULLABLE, .value = &trim},
        {"window", SER_JSON_DOUBLE, SER_JSON_OPTIONAL, 0.01, 3600, .value = &front_end->window},
        {"max_seconds", SER_JSON_DOUBLE, SER_JSON_OPTIONAL, 0.01, 3600,
         .value = &front_end->max_seconds},
    };
    if (object == NULL) {
        return 0;
    }
    int status = ser_json_read(&json, fields, COUNT(fields), true);
    return status == 0 && trim != NULL ? read_trim(&json, trim, front_end) : status;
}

static int read_mel(const ser_json *parent, json_t *object, ser_mel_arch *mel)
{
    const ser_json json = {parent->name, "features.mel.", object};
    const ser_json_field fields[] = {
        {"frame", SER_JSON_INT32, .min = 2, .max = SER_MAX_FFT, .value = &mel->frame},
        {"hop", SER_JSON_INT32, .min = 1, .max = SER_MAX_HOP, .value = &mel->hop},
        {"fft", SER_JSON_INT32, .min = 2, .max = SER_MAX_FFT, .value = &mel->fft},
        {"bins", SER_JSON_INT32, .min = 1, .max = SER_MAX_BINS, .value = &mel->bins},
        {"low", SER_JSON_FLOAT, .min = 0, .max = sampling_rate / 2, .value = &mel->low},
        {"high", SER_JSON_FLOAT, .min = 0, .max = sampling_rate / 2, .value = &mel->high},
        {"floor", SER_JSON_FLOAT, .min = 1e-20, .max = 1, .value = &mel->floor},
    };
    int status = ser_json_read(&json, fields, COUNT(fields), true);
    if (status != 0) {
        return status;
    }
    if (mel->fft < mel->frame) {
        return ser_fail(SER_ERR_DATA, "%s: features.mel.fft is %d, less than mel.frame, %d",
                        json.name, mel->fft, mel->frame);
    }
    if (!(mel->high - mel->low >= 1.0F)) {
        return ser_fail(SER_ERR_DATA, "%s: features.mel.high must be at least 1 Hz above mel.low",
                        json.name);
    }
    return 0;
}

int ser_config_check_lengths(const char *name, const char *path, const int32_t *lengths,
                             size_t count)
{
    if (lengths[0] < 1) {
        return ser_fail(SER_ERR_DATA, "%s: %sconv_dim must have 1..%d entries", name, path,
                        SER_MAX_CONVS);
    }
    for (size_t i = 1; i < count; i++) {
        if (lengths[i] != lengths[0]) {
            return ser_fail(
                SER_ERR_DATA,
                "%s: %sconv_dim, conv_kernel, conv_stride and conv_padding must have the "
                "same length (%d and %d)",
                name, path, lengths[0], lengths[i]);
        }
    }
    return 0;
}

static int check_features(const char *name, const ser_arch *arch)
{
    for (int32_t i = 0; i < arch->conv_count; i++) {
        int32_t most = arch->conv_kernel[i] / 2;
        if (i == 0 && arch->features == SER_FEATURES_CONV) {
            most = 0; /* the first layer reads the waveform as it is */
        }
        if (arch->conv_padding[i] > most) {
            return ser_fail(SER_ERR_DATA,
                            "%s: features.conv_padding[%d] is %d, must be within 0..%d", name, i,
                            arch->conv_padding[i], most);
        }
    }
    if (arch->features == SER_FEATURES_LOGMEL && arch->conv_norm != SER_NORM_LAYER) {
        return ser_fail(SER_ERR_DATA, "%s: features.norm must be \"layer\" with type \"logmel\"",
                        name);
    }
    return 0;
}

static int read_features(const ser_json *parent, json_t *object, ser_arch *arch)
{
    const ser_json json = {parent->name, "features.", object};
    json_t *mel = NULL;
    ser_json_ints dim = {arch->conv_dim, SER_MAX_CONVS, 0};
    ser_json_ints kernel = {arch->conv_kernel, SER_MAX_CONVS, 0};
    ser_json_ints stride = {arch->conv_stride, SER_MAX_CONVS, 0};
    ser_json_ints padding = {arch->conv_padding, SER_MAX_CONVS, -1};
    const ser_json_field fields[] = {
        {"type", SER_JSON_CHOICE, .choices = feature_names, .value = &arch->features},
        {"mel", SER_JSON_OBJECT, SER_JSON_OPTIONAL, .value = &mel},
        {"conv_dim", SER_JSON_INTS, .min = 1, .max = SER_MAX_CHANNELS, .value = &dim},
        {"conv_kernel", SER_JSON_INTS, .min = 1, .max = SER_MAX_KERNEL, .value = &kernel},
        {"conv_stride", SER_JSON_INTS, .min = 1, .max = SER_MAX_STRIDE, .value = &stride},
        {"conv_padding", SER_JSON_INTS, SER_JSON_OPTIONAL, 0, SER_MAX_KERNEL / 2,
         .value = &padding},
        {"conv_bias", SER_JSON_BOOL, .value = &arch->conv_bias},
        {"norm", SER_JSON_CHOICE, .choices = conv_norm_names, .value = &arch->conv_norm},
    };
    int status = ser_json_read(&json, fields, COUNT(fields), true);
    if (status != 0) {
        return status;
    }
    const int32_t lengths[] = {dim.count, kernel.count, stride.count,
                               padding.count < 0 ? dim.count : padding.count};
    status = ser_config_check_lengths(json.name, json.path, lengths, COUNT(lengths));
    if (status != 0) {
        return status;
    }
    arch->conv_count = dim.count;
    if ((mel != NULL) != (arch->features == SER_FEATURES_LOGMEL)) {
        return ser_fail(SER_ERR_DATA, "%s: features.mel %s", json.name,
                        mel == NULL ? "is missing" : "belongs to type \"logmel\" only");
    }
    status = mel != NULL ? read_mel(&json, mel, &arch->mel) : 0;
    return status != 0 ? status : check_features(json.name, arch);
}

static int read_encoder(const ser_json *parent, json_t *object, ser_arch *arch)
{
    const ser_json json = {parent->name, "encoder.", object};
    const ser_json_field fields[] = {
        {"hidden_size", SER_JSON_INT32, .min = 1, .max = SER_MAX_HIDDEN,
         .value = &arch->hidden_size},
        {"num_hidden_layers", SER_JSON_INT32, .min = 1, .max = SER_MAX_LAYERS,
         .value = &arch->layers},
        {"num_attention_heads", SER_JSON_INT32, .min = 1, .max = SER_MAX_HIDDEN,
         .value = &arch->heads},
        {"intermediate_size", SER_JSON_INT32, .min = 1, .max = SER_MAX_INTERMEDIATE,
         .value = &arch->intermediate_size},
        {"norm", SER_JSON_CHOICE, .choices = encoder_norm_names, .value = &arch->encoder_norm},
        {"layer_norm_eps", SER_JSON_FLOAT, SER_JSON_OPTIONAL, SER_MIN_NORM_EPS, SER_MAX_NORM_EPS,
         .value = &arch->layer_norm_eps},
        {"feature_norm", SER_JSON_BOOL, SER_JSON_OPTIONAL, .value = &arch->feature_norm},
        {"position_kernel", SER_JSON_INT32, .min = 1, .max = SER_MAX_POSITION_KERNEL,
         .value = &arch->position_kernel},
        {"position_groups", SER_JSON_INT32, .min = 1, .max = SER_MAX_HIDDEN,
         .value = &arch->position_groups},
    };
    return ser_json_read(&json, fields, COUNT(fields), true);
}

static int read_pooling(const ser_json *parent, json_t *object, ser_arch *arch)
{
    const ser_json json = {parent->name, "pooling.", object};
    const ser_json_field fields[] = {
        {"type", SER_JSON_CHOICE, .choices = pooling_names, .value = &arch->pooling},
        {"hidden", SER_JSON_INT32, SER_JSON_OPTIONAL, 0, SER_MAX_HIDDEN,
         .value = &arch->pooling_hidden},
    };
    int status = ser_json_read(&json, fields, COUNT(fields), true);
    if (status == 0 && arch->pooling == SER_POOLING_MEAN && arch->pooling_hidden != 0) {
        return ser_fail(SER_ERR_DATA, "%s: pooling.hidden belongs to type \"attention\" only",
                        json.name);
    }
    return status;
}

/* `labels` outputs follow the hidden sizes. */
static int read_classifier(const ser_json *parent, json_t *object, size_t labels, ser_arch *arch)
{
    const ser_json json = {parent->name, "classifier.", object};
    ser_json_ints sizes = {arch->classifier_size, SER_MAX_CLASSIFIER - 1, 0};
    const ser_json_field fields[] = {
        {"sizes", SER_JSON_INTS, .min = 1, .max = SER_MAX_CLASSIFIER_SIZE, .value = &sizes},
        {"activation", SER_JSON_CHOICE, .choices = activation_names,
         .value = &arch->classifier_activation},
    };
    int status = ser_json_read(&json, fields, COUNT(fields), true);
    if (status == 0) {
        arch->classifier_size[sizes.count] = (int32_t)labels;
        arch->classifier_count = sizes.count + 1;
    }
    return status;
}

static int read_labels(const ser_json *json, json_t *array, ser_config *config)
{
    size_t count = json_array_size(array);
    if (count < SER_MIN_LABELS || count > SER_MAX_LABELS) {
        return ser_fail(SER_ERR_DATA, "%s: labels has %zu entries, must have %d..%d", json->name,
                        count, SER_MIN_LABELS, SER_MAX_LABELS);
    }
    const char **labels = ser_mem_alloc(count, sizeof labels[0]);
    if (labels == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = 0;
    for (size_t i = 0; i < count && status == 0; i++) {
        labels[i] = json_string_value(json_array_get(array, i));
        if (labels[i] == NULL) {
            status = ser_fail(SER_ERR_DATA, "%s: labels[%zu] must be a text", json->name, i);
        }
    }
    if (status == 0) {
        status = ser_config_set_labels(config, labels, count, SER_ERR_DATA, json->name, "labels");
    }
    ser_mem_free(labels);
    return status;
}

static int keep_training(json_t *object, ser_config *config)
{
    if (object == NULL || json_object_size(object) == 0) {
        return 0;
    }
    size_t length = json_dumpb(object, NULL, 0, JSON_REAL_PRECISION(15));
    config->training = ser_mem_alloc(length + 1, 1);
    if (length == 0 || config->training == NULL) {
        return ser_fail(SER_ERR_MEMORY, "out of memory for the training summary");
    }
    (void)json_dumpb(object, config->training, length, JSON_REAL_PRECISION(15));
    return 0;
}

/* Labels that replace those of the text. */
typedef struct label_list {
    const char *const *names;
    size_t count;
} label_list;

static int set_fresh_labels(const label_list *fresh, ser_config *config)
{
    return ser_config_set_labels(config, fresh->names, fresh->count, SER_ERR_ARGUMENT,
                                 "ser_model_create_from_config", "labels");
}

static int read_config(const ser_json *json, const label_list *fresh, ser_config *config)
{
    ser_arch *arch = &config->arch;
    json_t *labels = NULL;
    json_t *audio = NULL;
    json_t *features = NULL;
    json_t *encoder = NULL;
    json_t *pooling = NULL;
    json_t *classifier = NULL;
    json_t *training = NULL;
    int32_t padding = 0;
    const ser_json_field fields[] = {
        {"labels", SER_JSON_ARRAY, fresh != NULL ? SER_JSON_OPTIONAL : 0, .value = &labels},
        {"audio", SER_JSON_OBJECT, SER_JSON_OPTIONAL, .value = &audio},
        {"padding", SER_JSON_CHOICE, SER_JSON_OPTIONAL, .choices = padding_names,
         .value = &padding},
        {"features", SER_JSON_OBJECT, .value = &features},
        {"encoder", SER_JSON_OBJECT, .value = &encoder},
        {"layer_mix", SER_JSON_BOOL, SER_JSON_OPTIONAL, .value = &arch->layer_mix},
        {"pooling", SER_JSON_OBJECT, .value = &pooling},
        {"classifier", SER_JSON_OBJECT, .value = &classifier},
        {"training", SER_JSON_OBJECT, SER_JSON_OPTIONAL, .value = &training},
    };
    int status = ser_json_read(json, fields, COUNT(fields), true);
    if (status != 0 ||
        (status = fresh != NULL ? set_fresh_labels(fresh, config)
                                : read_labels(json, labels, config)) != 0 ||
        (status = read_audio(json, audio, config)) != 0 ||
        (status = read_features(json, features, arch)) != 0 ||
        (status = read_encoder(json, encoder, arch)) != 0 ||
        (status = read_pooling(json, pooling, arch)) != 0 ||
        (status = read_classifier(json, classifier, config->label_count, arch)) != 0) {
        return status;
    }
    config->pad_as_hf = padding == 1;
    return fresh == NULL ? keep_training(training, config) : 0;
}

/* Sum over all parameters; each is below 2^48 within the limits of config.h. */
static int count_parameters(const ser_arch *arch, int64_t *total)
{
    ser_params params;
    int status = ser_params_plan(arch, &params);
    if (status != 0) {
        return status;
    }
    *total = 0;
    for (size_t i = 0; i < params.count; i++) {
        *total += ser_param_elements(&params.list[i]);
    }
    ser_params_clear(&params);
    return 0;
}

static int check_times(const char *name, const char *strides, const ser_config *config)
{
    const ser_front_end *front_end = &config->front_end;
    int64_t hop = ser_arch_hop(&config->arch);
    int64_t least = ser_arch_min_samples(&config->arch);
    if (hop > SER_MAX_HOP) {
        return ser_fail(SER_ERR_DATA, "%s: %s: one frame every %lld samples, limit %d", name,
                        strides, (long long)hop, SER_MAX_HOP);
    }
    if (front_end->window > front_end->max_seconds) {
        return ser_fail(SER_ERR_DATA,
                        "%s: audio.window is %g s, longer than audio.max_seconds, %g s", name,
                        front_end->window, front_end->max_seconds);
    }
    if ((double)least > front_end->window * sampling_rate) {
        return ser_fail(SER_ERR_DATA,
                        "%s: %s: a frame needs %lld samples, more than a window of %g s", name,
                        strides, (long long)least, front_end->window);
    }
    return 0;
}

int ser_config_check(const char *name, const ser_config_paths *paths, const ser_config *config)
{
    const ser_arch *arch = &config->arch;
    if (arch->hidden_size % arch->heads != 0) {
        return ser_fail(SER_ERR_DATA, "%s: %s, %d, is no multiple of %s, %d", name, paths->hidden,
                        arch->hidden_size, paths->heads, arch->heads);
    }
    if (arch->hidden_size % arch->position_groups != 0) {
        return ser_fail(SER_ERR_DATA, "%s: %s, %d, is no multiple of %s, %d", name, paths->hidden,
                        arch->hidden_size, paths->groups, arch->position_groups);
    }
    int status = check_times(name, paths->strides, config);
    int64_t parameters = 0;
    if (status == 0) {
        status = count_parameters(arch, &parameters);
    }
    if (status == 0 && parameters > MAX_PARAMETERS) {
        return ser_fail(SER_ERR_DATA, "%s: the sizes give %lld parameters, limit %lld", name,
                        (long long)parameters, (long long)MAX_PARAMETERS);
    }
    return status;
}

static int parse(const char *name, const char *text, size_t length, const label_list *fresh,
                 ser_config *config)
{
    static const ser_config_paths paths = {"encoder.hidden_size", "encoder.num_attention_heads",
                                           "encoder.position_groups", "features.conv_stride"};
    *config = (ser_config){
        .arch = {.sampling_rate = sampling_rate, .layer_norm_eps = 1e-5F, .feature_norm = true},
        .front_end = ser_default_front_end,
    };
    json_t *root = NULL;
    int status = ser_json_parse(name, text, length, SER_JSON_MAX_VALUES, &root);
    if (status == 0) {
        const ser_json json = {name, "", root};
        status = read_config(&json, fresh, config);
    }
    if (status == 0) {
        status = ser_config_check(name, &paths, config);
    }
    json_decref(root);
    if (status != 0) {
        ser_config_clear(config);
    }
    return status;
}

int ser_config_parse(const char *name, const char *text, size_t length, ser_config *config)
{
    return parse(name, text, length, NULL, config);
}

int ser_config_parse_fresh(const char *name, const char *text, const char *const *labels,
                           size_t label_count, ser_config *config)
{
    const label_list fresh = {labels, label_count};
    return parse(name, text, strlen(text), &fresh, config);
}

void ser_config_clear(ser_config *config)
{
    for (size_t i = 0; config->labels != NULL && i < config->label_count; i++) {
        ser_mem_free(config->labels[i]);
    }
    ser_mem_free(config->labels);
    ser_mem_free(config->training);
    *config = (ser_config){0};
}
