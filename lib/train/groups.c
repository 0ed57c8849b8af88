/* SPDX-License-Identifier: MIT */
#include "train/groups.h"

#include <math.h>
#include <string.h>

#include "base/fail.h"

enum { BELOW_BLOCKS = -1 }; /* the depth of what lies before block 0 */

static bool is_conv(const ser_param *param)
{
    return param->role >= SER_PARAM_CONV_WEIGHT && param->role <= SER_PARAM_CONV_BETA;
}

static bool is_block(const ser_param *param)
{
    return param->role >= SER_PARAM_Q_WEIGHT && param->role <= SER_PARAM_FINAL_BETA;
}

static bool is_mel(const ser_param *param)
{
    return param->role == SER_PARAM_MEL_MEAN || param->role == SER_PARAM_MEL_STD;
}

/* The block that a parameter of the backbone belongs to. */
static int32_t depth_of(const ser_arch *arch, const ser_param *param)
{
    bool last_norm =
        arch->encoder_norm == SER_ENCODER_PRE_NORM &&
        (param->role == SER_PARAM_ENCODER_GAMMA || param->role == SER_PARAM_ENCODER_BETA);
    if (is_block(param)) {
        return param->index;
    }
    return last_norm ? arch->layers - 1 : BELOW_BLOCKS;
}

static bool is_frozen(const ser_arch *arch, const ser_trainer_options *options,
                      const ser_param *param)
{
    if (is_mel(param)) {
        return true;
    }
    if (options->freeze_features != 0 && arch->features == SER_FEATURES_CONV && is_conv(param)) {
        return true;
    }
    if (param->head || options->freeze_layers == 0) {
        return false;
    }
    return options->freeze_layers < 0 || depth_of(arch, param) < options->freeze_layers;
}

static float rate_of(const ser_arch *arch, const ser_trainer_options *options,
                     const ser_param *param)
{
    if (is_frozen(arch, options, param)) {
        return 0.0F;
    }
    if (param->head) {
        return options->head_rate > 0.0F ? options->head_rate : options->rate;
    }
    int32_t below_top = arch->layers - 1 - depth_of(arch, param);
    return (float)((double)options->rate * pow((double)options->layer_decay, below_top));
}

static float decay_of(const ser_trainer_options *options, const ser_param *param)
{
    bool matrix = param->rank >= 2 && param->role != SER_PARAM_POSITION_G;
    return matrix ? options->weight_decay : 0.0F;
}

/* Backtracks to the last '*' only, so the time is bounded by the product of the lengths. */
bool ser_pattern_matches(const char *name, const char *pattern, size_t length)
{
    const char *end = pattern + length;
    const char *star = NULL;
    const char *resume = NULL;
    while (*name != '\0') {
        if (pattern < end && *pattern == '*') {
            star = ++pattern;
            resume = name;
        } else if (pattern < end && (*pattern == '?' || *pattern == *name)) {
            pattern++;
            name++;
        } else if (star != NULL) {
            pattern = star;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (pattern < end && *pattern == '*') {
        pattern++;
    }
    return pattern == end;
}

static int freeze_pattern(const ser_params *params, const char *pattern, size_t length,
                          float *rates)
{
    bool found = false;
    for (size_t i = 0; i < params->count; i++) {
        if (ser_pattern_matches(params->list[i].name, pattern, length)) {
            rates[i] = 0.0F;
            found = true;
        }
    }
    if (found) {
        return 0;
    }
    return ser_fail(SER_ERR_ARGUMENT,
                    "ser_trainer_options: freeze: \"%.*s\" matches no parameter; their names are "
                    "like %s",
                    length < 100 ? (int)length : 100, pattern, params->list[0].name);
}

static int freeze_names(const ser_params *params, const char *patterns, float *rates)
{
    static const char blanks[] = " \t\n";
    int status = 0;
    while (status == 0) {
        size_t length = strcspn(patterns, ",");
        const char *first = patterns + strspn(patterns, blanks);
        const char *end = patterns + length;
        while (end > first && strchr(blanks, end[-1]) != NULL) {
            end--;
        }
        status = freeze_pattern(params, first, end > first ? (size_t)(end - first) : 0, rates);
        if (patterns[length] == '\0') {
            break;
        }
        patterns += length + 1;
    }
    return status;
}

int ser_groups_plan(const ser_arch *arch, const ser_params *params,
                    const ser_trainer_options *options, float *rates, float *decays)
{
    if (options->freeze_layers > arch->layers) {
        return ser_fail(SER_ERR_ARGUMENT,
                        "ser_trainer_options: freeze_layers is %d, the model has %d blocks",
                        options->freeze_layers, arch->layers);
    }
    for (size_t i = 0; i < params->count; i++) {
        rates[i] = rate_of(arch, options, &params->list[i]);
        decays[i] = decay_of(options, &params->list[i]);
    }
    bool named = options->freeze != NULL && options->freeze[0] != '\0';
    int status = named ? freeze_names(params, options->freeze, rates) : 0;
    if (status != 0) {
        return status;
    }
    for (size_t i = 0; i < params->count; i++) {
        if (rates[i] > 0.0F) {
            return 0;
        }
    }
    return ser_fail(SER_ERR_ARGUMENT,
                    "ser_trainer_options: nothing is left to train: the rates are "
                    "0, or freeze, freeze_layers and freeze_features take all");
}
