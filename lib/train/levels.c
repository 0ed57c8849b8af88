/* SPDX-License-Identifier: MIT */
/*
 * The model computes z[t, k] = (x[t, k] - mean[k] - m) / std[k], where m is the mean of x - mean over
 * the clip. With mean 0 and std 1 that is y = x - (mean of x over the clip). As m takes out whatever
 * all bins have in common, the mean of y[k] over all clips serves as mean[k] just as that of x[k]
 * would, and the deviation of z is that of y.
 *
 * The log-mels come from a network of their own, which is as small as can be behind them: the model's
 * own is being trained.
 */
#include "train/levels.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/fail.h"
#include "base/mem.h"
#include "net/net.h"

static const double least_deviation = 1e-3; /* nats; below it a bin says nothing */

struct ser_levels {
    ser_net *net;
    ser_workspace *workspace;
    size_t bins;
    double *sums;       /* [2, bins]: of y, of y^2 */
    double *batch_sums; /* the same of one batch */
    double frames;
};

static ser_arch probe_arch(const ser_arch *arch)
{
    return (ser_arch){
        .sampling_rate = arch->sampling_rate,
        .features = SER_FEATURES_LOGMEL,
        .mel = arch->mel,
        .conv_count = 1,
        .conv_dim = {1},
        .conv_kernel = {1},
        .conv_stride = {1},
        .conv_norm = SER_NORM_LAYER,
        .hidden_size = 1,
        .layers = 1,
        .heads = 1,
        .intermediate_size = 1,
        .encoder_norm = SER_ENCODER_PRE_NORM,
        .layer_norm_eps = 1e-5F,
        .position_kernel = 1,
        .position_groups = 1,
    };
}

/* Mean 0 and deviation 1; the rest does not matter. */
static int set_weights(ser_net *net, float *values, size_t bins)
{
    const ser_params *params = ser_net_params(net);
    int status = 0;
    for (size_t i = 0; i < params->count && status == 0; i++) {
        float value = params->list[i].role == SER_PARAM_MEL_MEAN ? 0.0F : 1.0F;
        for (size_t k = 0; k < bins; k++) {
            values[k] = value;
        }
        status = ser_net_set(net, i, values);
    }
    return status == 0 ? ser_net_finish(net) : status;
}

static int make_probe(ser_levels *l, const ser_device *device, const ser_arch *arch)
{
    const ser_arch probe = probe_arch(arch);
    float *values =
        ser_mem_alloc(l->bins, sizeof *values); /* the largest parameter: [1, bins, 1] */
    if (values == NULL) {
        return SER_ERR_MEMORY;
    }
    int status =
        ser_net_create(device->ops, device->context, device->threads, &probe, SER_F32, &l->net);
    if (status == 0) {
        status = set_weights(l->net, values, l->bins);
    }
    ser_mem_free(values);
    if (status == 0) {
        status = ser_workspace_create(l->net, 1, ser_arch_min_samples(&probe), device->threads,
                                      true, &l->workspace);
    }
    return status;
}

int ser_levels_create(const ser_device *device, const ser_arch *arch, ser_levels **levels)
{
    ser_levels *l = ser_mem_alloc(1, sizeof *l);
    *levels = NULL;
    if (l == NULL) {
        return SER_ERR_MEMORY;
    }
    l->bins = (size_t)arch->mel.bins;
    l->sums = ser_mem_alloc(2 * l->bins, sizeof *l->sums);
    l->batch_sums = ser_mem_alloc(2 * l->bins, sizeof *l->batch_sums);
    bool made = l->sums != NULL && l->batch_sums != NULL;
    int status = made ? make_probe(l, device, arch) : SER_ERR_MEMORY;
    if (status != 0) {
        ser_levels_free(l);
        return status;
    }
    *levels = l;
    return 0;
}

void ser_levels_free(ser_levels *levels)
{
    if (levels == NULL) {
        return;
    }
    ser_workspace_free(levels->workspace);
    ser_net_free(levels->net);
    ser_mem_free(levels->sums);
    ser_mem_free(levels->batch_sums);
    ser_mem_free(levels);
}

/* One clip's frames, y [frames, bins]; false if one is not finite. */
static bool add_clip(ser_levels *l, const float *y, int32_t frames)
{
    double *sums = l->batch_sums;
    for (int32_t t = 0; t < frames; t++) {
        for (size_t k = 0; k < l->bins; k++) {
            double value = (double)y[(size_t)t * l->bins + k];
            sums[k] += value;
            sums[l->bins + k] += value * value;
        }
    }
    for (size_t k = 0; k < 2 * l->bins; k++) {
        if (!isfinite(sums[k])) {
            return false;
        }
    }
    return true;
}

static int add_mel(ser_levels *l, const ser_stages *stages, const float *mel, const uint64_t *ids,
                   int64_t count)
{
    double frames = 0.0;
    for (size_t k = 0; k < 2 * l->bins; k++) {
        l->batch_sums[k] = 0.0;
    }
    for (int64_t b = 0; b < count; b++) {
        int32_t valid = stages->mel_valid_host[b];
        if (!add_clip(l, mel + (size_t)(b * stages->mel_rows.padded) * l->bins, valid)) {
            return ser_fail(SER_ERR_NUMERIC,
                            "ser_trainer_observe: clip %llu: its log-mels are not finite",
                            (unsigned long long)ids[b]);
        }
        frames += valid;
    }
    for (size_t k = 0; k < 2 * l->bins; k++) {
        l->sums[k] += l->batch_sums[k];
    }
    l->frames += frames;
    return 0;
}

int ser_levels_add(ser_levels *levels, const float *const *samples, const int64_t *lengths,
                   const uint64_t *ids, int64_t count)
{
    const ser_stages *stages;
    int status = ser_net_forward(levels->net, levels->workspace, count, samples, lengths, &stages);
    if (status != 0) {
        return status;
    }
    float *mel = ser_mem_alloc_raw((size_t)(stages->mel.rows * stages->mel.cols), sizeof *mel);
    if (mel == NULL) {
        return SER_ERR_MEMORY;
    }
    status = ser_workspace_download(levels->workspace, &stages->mel, 0, stages->mel.rows, mel);
    if (status == 0) {
        status = add_mel(levels, stages, mel, ids, count);
    }
    ser_mem_free(mel);
    return status;
}

void ser_levels_result(const ser_levels *levels, float *mean, float *std)
{
    for (size_t k = 0; k < levels->bins; k++) {
        double m = levels->sums[k] / levels->frames;
        double variance = levels->sums[levels->bins + k] / levels->frames - m * m;
        double deviation = sqrt(fmax(variance, 0.0));
        mean[k] = (float)m;
        std[k] = deviation >= least_deviation ? (float)deviation : 1.0F;
    }
}
