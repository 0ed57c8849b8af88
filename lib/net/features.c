/* SPDX-License-Identifier: MIT */
/* Stage 2: samples -> features, by waveform convolutions or by log-mel frames and convolutions. */
#include "net/workspace.h"

/* The batch's clips, or what the frozen convolutions made of them earlier, from where they stay. */
static void gather(ser_pass *pass, ser_rows rows, ser_tensor y)
{
    const ser_gather_args args = {.sources = pass->input.sources, .rows = rows, .y = y};
    if (pass->status == 0) {
        pass->status = ser_gather(pass->queue, &args);
    }
}

static ser_tensor cached(ser_pass *pass)
{
    const int32_t level = pass->arch->conv_count;
    ser_tensor x = ser_pass_save_level(pass, level, level, pass->arch->conv_dim[level - 1]);
    gather(pass, ser_pass_level_rows(pass, level), x);
    return x;
}

/* --- Log-mels --- */

static ser_tensor log_mel(ser_pass *pass, ser_tensor pcm)
{
    const ser_net *net = pass->net;
    const ser_mel_arch *mel = &pass->arch->mel;
    ser_tensor y = ser_pass_save_level(pass, 0, 0, mel->bins);
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

static ser_tensor warp(ser_pass *pass, ser_tensor x)
{
    ser_tensor y = ser_pass_save_level(pass, 0, 0, x.cols);
    const ser_mel_warp_args args = {
        .x = x,
        .rows = ser_pass_level_rows(pass, 0),
        .warp = pass->input.mel_warp,
        .offset = pass->input.mel_offset,
        .y = y,
    };
    if (pass->status == 0) {
        pass->status = ser_mel_warp_fwd(pass->queue, &args);
    }
    ser_pass_give(pass, x);
    return y;
}

static ser_tensor augmented(ser_pass *pass, ser_tensor x)
{
    const ser_training_batch *input = pass->run->input;
    if (input == NULL) {
        return x;
    }
    if (input->mel_warp != NULL) {
        x = warp(pass, x);
    }
    ser_pass_mask(pass, x, ser_pass_level_rows(pass, 0), pass->input.mel_time,
                  input->mel_time.count, pass->input.mel_channel, input->mel_channel.count);
    return x;
}

/* --- Convolutions: y = GELU(norm(conv(x) + bias)) --- */

/* Both directions of the convolution on the waveform. */
static ser_wave_conv_args wave_args(const ser_pass *pass, ser_tensor pcm)
{
    const ser_arch *arch = pass->arch;
    const ser_conv_layer *layer = &pass->net->convs[0];
    return (ser_wave_conv_args){
        .pcm = pcm,
        .rows_in = ser_pass_level_rows(pass, 0),
        .rows_out = ser_pass_level_rows(pass, 1),
        .kernel = arch->conv_kernel[0],
        .stride = arch->conv_stride[0],
        .norm = arch->conv_norm == SER_NORM_GROUP ? SER_CONV_NORM_CLIP : SER_CONV_NORM_LAYER,
        .w = pass->net->wave,
        .bias = layer->conv.bias,
        .gamma = layer->norm.gamma,
        .beta = layer->norm.beta,
    };
}

static ser_tensor wave_conv(ser_pass *pass, ser_tensor pcm)
{
    const int64_t channels = pass->arch->conv_dim[0];
    ser_wave_conv_args args = wave_args(pass, pcm);
    args.y = ser_pass_save_level(pass, 1, 1, channels);
    if (ser_pass_reaches(pass, 0)) {
        args.z = ser_pass_save(pass, 0, args.y.rows, channels);
        pass->tape->convs[0] = (ser_conv_tape){.x = pcm, .z = args.z};
    }
    if (pass->status == 0) {
        pass->status = ser_wave_conv_fwd(pass->queue, &args);
    }
    return args.y;
}

static void wave_conv_backward(ser_pass *pass, ser_tensor dy)
{
    const ser_conv_layer *layer = &pass->net->convs[0];
    ser_wave_conv_args args = wave_args(pass, pass->tape->convs[0].x);
    args.z = pass->tape->convs[0].z;
    args.dy = dy;
    args.dw = layer->conv.dw;
    args.dbias = layer->conv.dbias;
    args.dgamma = layer->norm.dgamma;
    args.dbeta = layer->norm.dbeta;
    if (pass->status == 0) {
        pass->status = ser_wave_conv_bwd(pass->queue, &args);
    }
}

/* Both directions of convolution `index`, which reads level `index`. */
static ser_conv_args conv_args(const ser_pass *pass, int32_t index, ser_tensor x)
{
    const ser_arch *arch = pass->arch;
    const ser_conv_layer *layer = &pass->net->convs[index];
    bool layer_norm = arch->conv_norm == SER_NORM_LAYER;
    return (ser_conv_args){
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
    };
}

static ser_tensor conv(ser_pass *pass, int32_t index, ser_tensor x)
{
    const int64_t channels = pass->arch->conv_dim[index];
    ser_conv_args args = conv_args(pass, index, x);
    args.y = ser_pass_save_level(pass, index + 1, index + 1, channels);
    if (ser_pass_reaches(pass, index)) {
        args.z = ser_pass_save(pass, index, args.y.rows, channels);
        pass->tape->convs[index] = (ser_conv_tape){.x = x, .z = args.z};
    }
    if (pass->status == 0) {
        pass->status = ser_conv_fwd(pass->queue, &args);
    }
    return args.y;
}

/* The gradient of the convolution's input, absent if nothing below it is trained. */
static ser_tensor conv_backward(ser_pass *pass, int32_t index, ser_tensor dy)
{
    const ser_conv_layer *layer = &pass->net->convs[index];
    ser_tensor x = pass->tape->convs[index].x;
    ser_conv_args args = conv_args(pass, index, x);
    args.z = pass->tape->convs[index].z;
    args.dy = dy;
    args.dw = layer->conv.dw;
    args.dbias = layer->conv.dbias;
    args.dgamma = layer->norm.dgamma;
    args.dbeta = layer->norm.dbeta;
    if (index > 0 && ser_pass_reaches(pass, index - 1)) {
        args.dx = ser_pass_take_level(pass, index, x.cols);
    }
    if (pass->status == 0) {
        pass->status = ser_conv_bwd(pass->queue, &args);
    }
    return args.dx;
}

ser_tensor ser_features_forward(ser_pass *pass)
{
    ser_stages *stages = &pass->workspace->stages;
    bool on_samples = pass->arch->features == SER_FEATURES_CONV;
    const ser_training_batch *input = pass->run->input;
    if (input != NULL && input->sources != NULL && input->features) {
        return cached(pass);
    }
    ser_tensor pcm = pass->input.pcm;
    if (input != NULL && input->sources != NULL) {
        gather(pass, ser_pass_sample_rows(pass), pcm);
    }
    ser_tensor x = on_samples ? wave_conv(pass, pcm) : log_mel(pass, pcm);
    if (!on_samples) {
        x = augmented(pass, x);
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

void ser_features_backward(ser_pass *pass, ser_tensor dfeatures)
{
    bool on_samples = pass->arch->features == SER_FEATURES_CONV;
    ser_tensor dy = dfeatures;
    for (int32_t i = pass->arch->conv_count - 1; i >= pass->tape->first; i--) {
        ser_tensor dx = {0};
        if (on_samples && i == 0) {
            wave_conv_backward(pass, dy);
        } else {
            dx = conv_backward(pass, i, dy);
        }
        ser_pass_give(pass, dy);
        dy = dx;
    }
}
