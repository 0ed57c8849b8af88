/* SPDX-License-Identifier: MIT */
/*
 * Fresh weights. Norms start as the identity, the mix of layers as the plain mean.
 *
 *   head        uniform within sqrt(6 / (inputs + outputs)) of 0 (Glorot and Bengio 2010), biases 0
 *   backbone    weights and biases uniform within 1 / sqrt(fan-in) of 0, as PyTorch's layers start
 *   positions   v uniform with the deviation 2 / sqrt(kernel * hidden) of fairseq's normal numbers, and
 *               g its norm per tap, so that the folded weight is v; bias 0
 */
#include "model/fresh.h"

#include <math.h>
#include <stddef.h>

#include <ser/common.h>

#include "base/mem.h"
#include "base/rng.h"

static void fill(float *values, size_t count, float value)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = value;
    }
}

static void draw(const ser_param *param, uint64_t seed, double limit, float *values)
{
    uint64_t stream = ser_rng_stream(SER_RNG_INIT, (uint32_t)param->role, (uint32_t)param->index);
    ser_rng_uniform(seed, stream, 0, -(float)limit, (float)limit, values,
                    (size_t)ser_param_elements(param));
}

static double fan_in(const ser_param *weight)
{
    return (double)(ser_param_elements(weight) / weight->shape[0]);
}

/* v is [hidden, hidden / groups, kernel]; a uniform number within +-a has the deviation a / sqrt 3. */
static void draw_position(const ser_param *v, uint64_t seed, float *values)
{
    draw(v, seed, sqrt(12.0 / (double)(v->shape[0] * v->shape[2])), values);
}

static int norms_per_tap(const ser_param *v, uint64_t seed, float *norms)
{
    size_t count = (size_t)ser_param_elements(v);
    size_t taps = (size_t)v->shape[2];
    float *values = ser_mem_alloc_raw(count, sizeof *values);
    if (values == NULL) {
        return SER_ERR_MEMORY;
    }
    draw_position(v, seed, values);
    for (size_t k = 0; k < taps; k++) {
        double sum = 0.0;
        for (size_t i = k; i < count; i += taps) {
            sum += (double)values[i] * (double)values[i];
        }
        norms[k] = (float)sqrt(sum);
    }
    ser_mem_free(values);
    return 0;
}

static void draw_other(const ser_params *params, size_t index, uint64_t seed, float *values)
{
    const ser_param *param = &params->list[index];
    if (param->rank >= 2) {
        draw(param, seed,
             param->head ? sqrt(6.0 / (double)(param->shape[0] + param->shape[1]))
                         : 1.0 / sqrt(fan_in(param)),
             values);
    } else if (param->head) {
        fill(values, (size_t)ser_param_elements(param), 0.0F);
    } else {
        draw(param, seed, 1.0 / sqrt(fan_in(param - 1)), values); /* a bias follows its weight */
    }
}

int ser_fresh_values(const ser_params *params, size_t index, uint64_t seed, float *values)
{
    const ser_param *param = &params->list[index];
    size_t count = (size_t)ser_param_elements(param);
    switch (param->role) {
    case SER_PARAM_MEL_STD:
    case SER_PARAM_CONV_GAMMA:
    case SER_PARAM_FEATURE_GAMMA:
    case SER_PARAM_ENCODER_GAMMA:
    case SER_PARAM_ATTENTION_GAMMA:
    case SER_PARAM_FINAL_GAMMA: fill(values, count, 1.0F); break;
    case SER_PARAM_MEL_MEAN:
    case SER_PARAM_CONV_BETA:
    case SER_PARAM_FEATURE_BETA:
    case SER_PARAM_ENCODER_BETA:
    case SER_PARAM_ATTENTION_BETA:
    case SER_PARAM_FINAL_BETA:
    case SER_PARAM_POSITION_BIAS: fill(values, count, 0.0F); break;
    case SER_PARAM_POSITION_G: return norms_per_tap(param + 1, seed, values);
    case SER_PARAM_POSITION_V: draw_position(param, seed, values); break;
    default: draw_other(params, index, seed, values); break;
    }
    return 0;
}
