/* SPDX-License-Identifier: MIT */
/* Stage 3: features -> hidden states: projection, positions, blocks. */
#include "net/workspace.h"

#include <math.h>

/* y = LN(x + h), sum = x + h; h and sum may be absent. */
static void residual_norm(ser_pass *pass, ser_tensor x, ser_tensor h, const ser_norm *norm,
                          ser_tensor sum, ser_tensor y)
{
    const ser_residual_norm_args args = {
        .x = x,
        .h = h,
        .rows = ser_pass_frame_rows(pass),
        .gamma = norm->gamma,
        .beta = norm->beta,
        .eps = pass->arch->layer_norm_eps,
        .sum = sum,
        .y = y,
    };
    if (pass->status == 0) {
        pass->status = ser_residual_norm_fwd(pass->queue, &args);
    }
}

static ser_tensor normed(ser_pass *pass, ser_tensor x, const ser_norm *norm)
{
    ser_tensor y = ser_pass_take(pass, x.rows, x.cols);
    residual_norm(pass, x, (ser_tensor){0}, norm, (ser_tensor){0}, y);
    return y;
}

static ser_tensor project(ser_pass *pass, ser_tensor features)
{
    ser_tensor x = features;
    if (pass->arch->feature_norm) {
        x = normed(pass, features, &pass->net->feature_norm);
        ser_pass_give(pass, features);
    }
    ser_tensor y =
        ser_pass_linear(pass, x, ser_pass_frame_rows(pass), &pass->net->projection, SER_ACT_NONE);
    ser_pass_give(pass, x);
    ser_pass_show(pass, &pass->workspace->stages.projected, y);
    return y;
}

static ser_tensor position(ser_pass *pass, ser_tensor x)
{
    const ser_net *net = pass->net;
    ser_tensor y = ser_pass_take(pass, x.rows, x.cols);
    const ser_pos_conv_args args = {
        .x = x,
        .rows = ser_pass_frame_rows(pass),
        .kernel = net->arch.position_kernel,
        .groups = net->arch.position_groups,
        .w = net->position.w,
        .bias = net->position.bias,
        .y = y,
    };
    if (pass->status == 0) {
        pass->status = ser_pos_conv_fwd(pass->queue, &args);
    }
    ser_pass_give(pass, x);
    if (net->arch.encoder_norm == SER_ENCODER_POST_NORM) {
        residual_norm(pass, y, (ser_tensor){0}, &net->encoder_norm, (ser_tensor){0}, y);
    }
    ser_pass_show(pass, &pass->workspace->stages.positioned, y);
    return y;
}

/* A new tensor: attention of a block without the residual. */
static ser_tensor attention(ser_pass *pass, const ser_block *block, ser_tensor x)
{
    ser_rows rows = ser_pass_frame_rows(pass);
    ser_tensor qkv = ser_pass_linear(pass, x, rows, &block->qkv, SER_ACT_NONE);
    ser_tensor context = ser_pass_take(pass, x.rows, x.cols);
    float head_size = (float)(pass->arch->hidden_size / pass->arch->heads);
    const ser_attention_args args = {
        .qkv = qkv,
        .rows = rows,
        .heads = pass->arch->heads,
        .scale = 1.0F / sqrtf(head_size),
        .y = context,
    };
    if (pass->status == 0) {
        pass->status = ser_attention_fwd(pass->queue, &args);
    }
    ser_pass_give(pass, qkv);
    ser_tensor y = ser_pass_linear(pass, context, rows, &block->out, SER_ACT_NONE);
    ser_pass_give(pass, context);
    return y;
}

/* A new tensor: feed-forward part of a block without the residual. */
static ser_tensor feed_forward(ser_pass *pass, const ser_block *block, ser_tensor x)
{
    ser_rows rows = ser_pass_frame_rows(pass);
    ser_tensor wide = ser_pass_linear(pass, x, rows, &block->ffn_in, SER_ACT_GELU);
    ser_tensor y = ser_pass_linear(pass, wide, rows, &block->ffn_out, SER_ACT_NONE);
    ser_pass_give(pass, wide);
    return y;
}

/* Hidden state `index`, as transformers counts them: into the learned mix and the stages. */
static void note_hidden(ser_pass *pass, int32_t index, ser_tensor x, ser_tensor mix)
{
    if (pass->workspace->keep_stages) {
        pass->workspace->stages.hidden[index] = x;
    }
    const ser_layer_mix_args args = {
        .x = x,
        .rows = ser_pass_frame_rows(pass),
        .w = pass->net->layer_mix,
        .index = index,
        .y = mix,
    };
    if (pass->arch->layer_mix && pass->status == 0) {
        pass->status = ser_layer_mix_fwd(pass->queue, &args);
    }
}

/* x = LN(x + attention(x)); x = LN(x + ffn(x)). */
static ser_tensor post_norm_blocks(ser_pass *pass, ser_tensor x, ser_tensor mix)
{
    ser_tensor none = {0};
    note_hidden(pass, 0, x, mix);
    for (int32_t i = 0; i < pass->arch->layers; i++) {
        const ser_block *block = &pass->net->blocks[i];
        ser_tensor h = attention(pass, block, x);
        residual_norm(pass, x, h, &block->attention_norm, none, h);
        ser_pass_give(pass, x);
        x = feed_forward(pass, block, h);
        residual_norm(pass, h, x, &block->final_norm, none, x);
        ser_pass_give(pass, h);
        note_hidden(pass, i + 1, x, mix);
    }
    return x;
}

/*
 * x = x + attention(LN(x)); x = x + ffn(LN(x)); after the last block LN(x). Every sum is normed by
 * what comes next while it is at hand, so `n` is always LN(x) for the next step.
 */
static ser_tensor pre_norm_blocks(ser_pass *pass, ser_tensor x, ser_tensor mix)
{
    const ser_net *net = pass->net;
    int32_t layers = pass->arch->layers;
    ser_tensor n =
        normed(pass, x, layers > 0 ? &net->blocks[0].attention_norm : &net->encoder_norm);
    note_hidden(pass, 0, layers > 0 ? x : n, mix);
    for (int32_t i = 0; i < layers; i++) {
        const ser_block *block = &net->blocks[i];
        bool last = i + 1 == layers;
        const ser_norm *next = last ? &net->encoder_norm : &net->blocks[i + 1].attention_norm;
        ser_tensor h = attention(pass, block, n);
        residual_norm(pass, x, h, &block->final_norm, h, n);
        ser_pass_give(pass, x);
        x = feed_forward(pass, block, n);
        residual_norm(pass, h, x, next, x, n);
        ser_pass_give(pass, h);
        note_hidden(pass, i + 1, last ? n : x, mix);
    }
    ser_pass_give(pass, x);
    return n;
}

ser_tensor ser_transformer_forward(ser_pass *pass, ser_tensor features)
{
    ser_tensor x = position(pass, project(pass, features));
    ser_tensor mix = pass->arch->layer_mix ? ser_pass_take(pass, x.rows, x.cols) : (ser_tensor){0};
    x = pass->arch->encoder_norm == SER_ENCODER_POST_NORM ? post_norm_blocks(pass, x, mix)
                                                          : pre_norm_blocks(pass, x, mix);
    ser_pass_show(pass, &pass->workspace->stages.last, x);
    if (!pass->arch->layer_mix) {
        return x;
    }
    ser_pass_give(pass, x);
    return mix;
}
