/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/config.h"
#include "model/json.h"
#include "ops/ops.h"

/* The shortest decimal that reads back as the same float, so that 1e-5 is not printed
 * as 9.99999975e-6. */
static double shortest(float x)
{
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) {
            return strtod(text, NULL);
        }
    }
    return (double)x;
}

/* Digits that jansson must print so that x reads back as it is. */
static size_t digits_for(double x)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%.15g", x);
    return strtod(text, NULL) == x ? 15 : 17;
}

static json_t *int_array(const int32_t *values, int32_t count)
{
    json_t *array = json_array();
    for (int32_t i = 0; i < count; i++) {
        if (json_array_append_new(array, json_integer(values[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *print_labels(const ser_config *config)
{
    json_t *array = json_array();
    for (size_t i = 0; i < config->label_count; i++) {
        if (json_array_append_new(array, json_string(config->labels[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *print_audio(const ser_config *config)
{
    const ser_front_end *f = &config->front_end;
    json_t *trim = f->trim ? json_pack("{s:f, s:f}", "threshold_db", f->trim_threshold_db, "margin",
                                       f->trim_margin)
                           : json_null();
    return json_pack("{s:i, s:b, s:o, s:f, s:f}", "sampling_rate", config->arch.sampling_rate,
                     "normalize", f->normalize, "trim", trim, "window", f->window, "max_seconds",
                     f->max_seconds);
}

static json_t *print_mel(const ser_mel_arch *mel)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:f, s:f, s:f}", "frame", mel->frame, "hop", mel->hop,
                     "fft", mel->fft, "bins", mel->bins, "low", shortest(mel->low), "high",
                     shortest(mel->high), "floor", shortest(mel->floor));
}

static json_t *print_features(const ser_arch *arch)
{
    bool logmel = arch->features == SER_FEATURES_LOGMEL;
    json_t *object = json_pack("{s:s}", "type", logmel ? "logmel" : "conv");
    json_t *rest = json_pack(
        "{s:o, s:o, s:o, s:o, s:b, s:s}", "conv_dim", int_array(arch->conv_dim, arch->conv_count),
        "conv_kernel", int_array(arch->conv_kernel, arch->conv_count), "conv_stride",
        int_array(arch->conv_stride, arch->conv_count), "conv_padding",
        int_array(arch->conv_padding, arch->conv_count), "conv_bias", arch->conv_bias, "norm",
        arch->conv_norm == SER_NORM_GROUP ? "group" : "layer");
    int failed = logmel ? json_object_set_new(object, "mel", print_mel(&arch->mel)) : 0;
    if (failed != 0 || json_object_update(object, rest) != 0) {
        json_decref(object);
        object = NULL;
    }
    json_decref(rest);
    return object;
}

static json_t *print_encoder(const ser_arch *arch)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:s, s:f, s:b, s:i, s:i}", "hidden_size",
                     arch->hidden_size, "num_hidden_layers", arch->layers, "num_attention_heads",
                     arch->heads, "intermediate_size", arch->intermediate_size, "norm",
                     arch->encoder_norm == SER_ENCODER_PRE_NORM ? "pre" : "post", "layer_norm_eps",
                     shortest(arch->layer_norm_eps), "feature_norm", arch->feature_norm,
                     "position_kernel", arch->position_kernel, "position_groups",
                     arch->position_groups);
}

static json_t *print_pooling(const ser_arch *arch)
{
    return arch->pooling == SER_POOLING_MEAN
               ? json_pack("{s:s}", "type", "mean")
               : json_pack("{s:s, s:i}", "type", "attention", "hidden", arch->pooling_hidden);
}

static json_t *print_classifier(const ser_arch *arch)
{
    static const char *const names[] = {[SER_ACT_NONE] = "none",
                                        [SER_ACT_GELU] = "gelu",
                                        [SER_ACT_RELU] = "relu",
                                        [SER_ACT_TANH] = "tanh"};
    int32_t hidden = arch->classifier_count > 0 ? arch->classifier_count - 1 : 0;
    return json_pack("{s:o, s:s}", "sizes", int_array(arch->classifier_size, hidden), "activation",
                     names[arch->classifier_activation]);
}

static json_t *print_training(const ser_config *config)
{
    return config->training != NULL ? json_loads(config->training, 0, NULL) : json_object();
}

static json_t *print_tree(const ser_config *config)
{
    return json_pack("{s:o, s:o, s:s, s:o, s:o, s:b, s:o, s:o, s:o}", "labels",
                     print_labels(config), "audio", print_audio(config), "padding",
                     config->pad_as_hf ? "hf" : "exact", "features", print_features(&config->arch),
                     "encoder", print_encoder(&config->arch), "layer_mix", config->arch.layer_mix,
                     "pooling", print_pooling(&config->arch), "classifier",
                     print_classifier(&config->arch), "training", print_training(config));
}

char *ser_config_print(const ser_config *config)
{
    const ser_front_end *f = &config->front_end;
    const double reals[] = {f->trim_threshold_db, f->trim_margin, f->window, f->max_seconds};
    size_t digits = 15;
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        digits = digits_for(reals[i]) > digits ? 17 : digits;
    }
    json_t *tree = print_tree(config);
    size_t length = tree != NULL ? json_dumpb(tree, NULL, 0, JSON_REAL_PRECISION(digits)) : 0;
    char *text = NULL;
    if (length == 0) {
        (void)ser_fail(SER_ERR_MEMORY, "out of memory for the text of a configuration");
    } else {
        text = ser_mem_alloc(length + 1, 1);
    }
    if (text != NULL) {
        (void)json_dumpb(tree, text, length, JSON_REAL_PRECISION(digits));
    }
    json_decref(tree);
    return text;
}
