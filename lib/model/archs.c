/* SPDX-License-Identifier: MIT */
#include "model/archs.h"

#include <stddef.h>
#include <string.h>

/* The model that libser ships: small enough to be trained from scratch on two CPU cores. */
static const char ser_mini[] =
    "{\"audio\": {\"sampling_rate\": 16000, \"normalize\": true,"
    "  \"trim\": {\"threshold_db\": 35.0, \"margin\": 0.1}, \"window\": 5.0, \"max_seconds\": "
    "30.0},"
    " \"padding\": \"exact\","
    " \"features\": {\"type\": \"logmel\","
    "  \"mel\": {\"frame\": 400, \"hop\": 160, \"fft\": 512, \"bins\": 80, \"low\": 50.0,"
    "   \"high\": 7600.0, \"floor\": 0.01},"
    "  \"conv_dim\": [96, 128, 128], \"conv_kernel\": [5, 3, 3], \"conv_stride\": [2, 2, 2],"
    "  \"conv_padding\": [2, 1, 1], \"conv_bias\": true, \"norm\": \"layer\"},"
    " \"encoder\": {\"hidden_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 4,"
    "  \"intermediate_size\": 256, \"norm\": \"pre\", \"layer_norm_eps\": 1e-5,"
    "  \"feature_norm\": true, \"position_kernel\": 15, \"position_groups\": 16},"
    " \"layer_mix\": false,"
    " \"pooling\": {\"type\": \"attention\", \"hidden\": 64},"
    " \"classifier\": {\"sizes\": [128], \"activation\": \"gelu\"}}";

static const struct {
    const char *name, *config;
} archs[] = {
    {"ser-mini", ser_mini},
};

const char *ser_builtin_config(const char *name)
{
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        if (strcmp(name, archs[i].name) == 0) {
            return archs[i].config;
        }
    }
    return NULL;
}

const char *ser_builtin_names(void)
{
    return "ser-mini";
}
