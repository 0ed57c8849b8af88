/* SPDX-License-Identifier: MIT */
/* The weights of a network by name: one list that loading, saving and (later) training share. */
#ifndef SER_NET_PARAMS_H
#define SER_NET_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/arch.h"

enum { SER_PARAM_NAME_SIZE = 96 };

/* What a parameter is to the network; params.c lists them in file order, weights.c places them. */
enum ser_param_role {
    SER_PARAM_MEL_MEAN,
    SER_PARAM_MEL_STD,
    SER_PARAM_CONV_WEIGHT,
    SER_PARAM_CONV_BIAS,
    SER_PARAM_CONV_GAMMA,
    SER_PARAM_CONV_BETA,
    SER_PARAM_FEATURE_GAMMA,
    SER_PARAM_FEATURE_BETA,
    SER_PARAM_PROJECTION_WEIGHT,
    SER_PARAM_PROJECTION_BIAS,
    SER_PARAM_POSITION_G,
    SER_PARAM_POSITION_V,
    SER_PARAM_POSITION_BIAS,
    SER_PARAM_ENCODER_GAMMA,
    SER_PARAM_ENCODER_BETA,
    SER_PARAM_Q_WEIGHT,
    SER_PARAM_Q_BIAS,
    SER_PARAM_K_WEIGHT,
    SER_PARAM_K_BIAS,
    SER_PARAM_V_WEIGHT,
    SER_PARAM_V_BIAS,
    SER_PARAM_OUT_WEIGHT,
    SER_PARAM_OUT_BIAS,
    SER_PARAM_ATTENTION_GAMMA,
    SER_PARAM_ATTENTION_BETA,
    SER_PARAM_FFN_IN_WEIGHT,
    SER_PARAM_FFN_IN_BIAS,
    SER_PARAM_FFN_OUT_WEIGHT,
    SER_PARAM_FFN_OUT_BIAS,
    SER_PARAM_FINAL_GAMMA,
    SER_PARAM_FINAL_BETA,
    SER_PARAM_LAYER_MIX,
    SER_PARAM_POOL_HIDDEN_WEIGHT,
    SER_PARAM_POOL_HIDDEN_BIAS,
    SER_PARAM_POOL_SCORE_WEIGHT,
    SER_PARAM_POOL_SCORE_BIAS,
    SER_PARAM_CLASSIFIER_WEIGHT,
    SER_PARAM_CLASSIFIER_BIAS,
};

typedef struct ser_param {
    char name[SER_PARAM_NAME_SIZE]; /* as in the model file */
    int64_t shape[3];
    int32_t rank;
    int32_t role;  /* enum ser_param_role */
    int32_t index; /* which conv, block or classifier layer; else 0 */
    bool head;     /* layer_mix.*, pooling.*, classifier.*: not part of a backbone */
} ser_param;

typedef struct ser_params {
    ser_param *list; /* owned */
    size_t count;
} ser_params;

/* List every parameter of `arch` in the order of models/FORMAT.md. Free with ser_params_clear. */
int ser_params_plan(const ser_arch *arch, ser_params *params);
void ser_params_clear(ser_params *params);

int64_t ser_param_elements(const ser_param *param);

#endif
