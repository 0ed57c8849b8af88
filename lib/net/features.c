/* SPDX-License-Identifier: MIT */
/* Stage 2: samples -> features, by waveform convolutions or by log-mel frames and convolutions. */
#include "net/workspace.h"

/* The clips one below the other, zeros behind each. */
static void upload_clips(ser_pass *pass, ser_tensor pcm)
{
    const ser_ops *ops = pass->queue->ops;
    int64_t padded = pass->geometry.samples;
    for (int64_t b = 0; b < pass->geometry.batch && pass->status == 0; b++) {
        float *clip = (float *)pcm.data + b * padded;
        int64_t count = pass->counts[b];
        pass->status =
            ops->upload(pass->queue, clip, pass->samples[b], (size_t)count * sizeof(float));
        if (pass->status == 0 && count < padded) {
            pass->status =
                ops->zero(pass->queue, clip + count, (size_t)(padded - count) * sizeof(float));
        }
    }
}

static ser_tensor samples(ser_pass *pass)
{
    ser_tensor pcm = pass->arch->features == SER_FEATURES_CONV
                         ? ser_pass_take_level(pass, 0, 1)
                         : ser_pass_take(pass, pass->geometry.batch * pass->geometry.samples, 1);
    if (pass->status == 0 && !pass->queue->planning) {
        upload_clips(pass, pcm);
    }
    return pcm;
}

static ser_tensor log_mel(ser_pass *pass, ser_tensor pcm)
{
    const ser_net *net = pass->net;
    const ser_mel_arch *mel = &pass->arch->mel;
    ser_tensor y = ser_pass_take_level(pass, 0, mel->bins);
    const ser_log_mel_args args = {
        .pcm = pcm,
        .rows_in = ser_pass_sample_rows(pass),
        .rows_out = ser_pass_level_rows(pass, 0),
        .frame = mel->frame,
        .hop = mel->hop,
        .floor = mel->floor,
        .dft = net->dft,
        .mel = net->mel,
        .mean = net->mel_mean,
        .std = net->mel_std,
        .y = y,
    };
    if (pass->status == 0) {
        pass->status = ser_log_mel_fwd(pass->queue, &args);
    }
    return y;
}

static ser_tensor wave_conv(ser_pass *pass, ser_tensor pcm)
{
    const ser_arch *arch = pass->arch;
    const ser_conv_layer *layer = &pass->net->convs[0];
    bool clip_norm = arch->conv_norm == SER_NORM_GROUP;
    ser_tensor y = ser_pass_take_level(pass, 1, arch->conv_dim[0]);
    const ser_wave_conv_args args = {
        .pcm = pcm,
        .rows_in = ser_pass_level_rows(pass, 0),
        .rows_out = ser_pass_level_rows(pass, 1),
        .kernel = arch->conv_kernel[0],
        .stride = arch->conv_stride[0],
        .norm = clip_norm ? SER_CONV_NORM_CLIP : SER_CONV_NORM_LAYER,
        .w = pass->net->wave,
        .bias = layer->conv.bias,
        .gamma = layer->norm.gamma,
        .beta = layer->norm.beta,
        .y = y,
    };
    if (pass->status == 0) {
        pass->status = ser_wave_conv_fwd(pass->queue, &args);
    }
    return y;
}

static ser_tensor conv(ser_pass *pass, int32_t index, ser_tensor x)
{
    const ser_arch *arch = pass->arch;
    const ser_conv_layer *layer = &pass->net->convs[index];
    bool layer_norm = arch->conv_norm == SER_NORM_LAYER;
    ser_tensor y = ser_pass_take_level(pass, index + 1, arch->conv_dim[index]);
    const ser_conv_args args = {
        .x = x,
        .rows_in = ser_pass_level_rows(pass, index),
        .rows_out = ser_pass_level_rows(pass, index + 1),
        .kernel = arch->conv_kernel[index],
        .stride = arch->conv_stride[index],
        .padding = arch->conv_padding[index],
        .norm = layer_norm ? SER_CONV_NORM_LAYER : SER_CONV_NORM_NONE,
        .w = layer->conv.w,
        .bias = layer->conv.bias,
        .gamma = layer->norm.gamma,
        .beta = layer->norm.beta,
        .y = y,
    };
    if (pass->status == 0) {
        pass->status = ser_conv_fwd(pass->queue, &args);
    }
    return y;
}

ser_tensor ser_features_forward(ser_pass *pass)
{
    ser_stages *stages = &pass->workspace->stages;
    bool on_samples = pass->arch->features == SER_FEATURES_CONV;
    ser_tensor pcm = samples(pass);
    ser_tensor x = on_samples ? wave_conv(pass, pcm) : log_mel(pass, pcm);
    ser_pass_give(pass, pcm);
    if (!on_samples) {
        ser_pass_show(pass, &stages->mel, x);
        stages->mel_rows = ser_pass_level_rows(pass, 0);
        stages->mel_valid_host = pass->workspace->valid + pass->geometry.batch;
    }
    for (int32_t i = on_samples ? 1 : 0; i < pass->arch->conv_count; i++) {
        ser_tensor y = conv(pass, i, x);
        ser_pass_give(pass, x);
        x = y;
    }
    ser_pass_show(pass, &stages->features, x);
    return x;
}
