/* SPDX-License-Identifier: MIT */
#include "net/tape.h"

int32_t ser_stage_of(const ser_arch *arch, const ser_param *param)
{
    switch (param->role) {
    case SER_PARAM_MEL_MEAN:
    case SER_PARAM_MEL_STD: return 0;
    case SER_PARAM_CONV_WEIGHT:
    case SER_PARAM_CONV_BIAS:
    case SER_PARAM_CONV_GAMMA:
    case SER_PARAM_CONV_BETA: return param->index;
    case SER_PARAM_FEATURE_GAMMA:
    case SER_PARAM_FEATURE_BETA:
    case SER_PARAM_PROJECTION_WEIGHT:
    case SER_PARAM_PROJECTION_BIAS: return ser_stage_projection(arch);
    case SER_PARAM_POSITION_G:
    case SER_PARAM_POSITION_V:
    case SER_PARAM_POSITION_BIAS: return ser_stage_position(arch);
    case SER_PARAM_ENCODER_GAMMA:
    case SER_PARAM_ENCODER_BETA:
        return arch->encoder_norm == SER_ENCODER_POST_NORM ? ser_stage_position(arch)
                                                           : ser_stage_end(arch);
    case SER_PARAM_LAYER_MIX: return ser_stage_end(arch); /* it reads what the stages made */
    default: return param->head ? ser_stage_head(arch) : ser_stage_block(arch, param->index);
    }
}
