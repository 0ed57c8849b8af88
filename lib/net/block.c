/* SPDX-License-Identifier: MIT */
/* The parts of a block: residual norms, attention, feed-forward. Each forward half is followed by its
 * backward half. */
#include "net/encoder.h"

#include <math.h>

static const ser_tensor ABSENT = {0};

/* --- LayerNorm of the residual stream: sum = x + dropout(h), y = LN(sum) --- */

/* In a pass that reaches `stage`, stats are saved in `tape` (else NULL), and sum must be given. */
void ser_residual_forward(ser_pass *pass, ser_residual r, ser_tensor x, ser_tensor h,
                          ser_tensor sum, ser_tensor y, ser_norm_tape *tape)
{
    ser_residual_norm_args args = {
        .x = x,
        .h = h,
        .rows = ser_pass_frame_rows(pass),
        .gamma = r.norm->gamma,
        .beta = r.norm->beta,
        .eps = pass->arch->layer_norm_eps,
        .sum = sum,
        .y = y,
    };
    if (tape != NULL) {
        args.dropout = ser_pass_dropout_key(pass, h.rows > 0 ? r.p : 0.0F, r.op);
        args.stats = tape->stats;
        tape->sum = h.rows > 0 ? sum : x;
    }
    if (pass->status == 0) {
        pass->status = ser_residual_norm_fwd(pass->queue, &args);
    }
}

void ser_residual_backward(ser_pass *pass, ser_residual r, const ser_norm_tape *tape,
                           ser_residual_gradients g)
{
    const ser_residual_norm_args args = {
        .x = tape->sum,
        .rows = ser_pass_frame_rows(pass),
        .gamma = r.norm->gamma,
        .beta = r.norm->beta,
        .eps = pass->arch->layer_norm_eps,
        .sum = tape->sum,
        .stats = tape->stats,
        .dropout = ser_pass_dropout_key(pass, r.p, r.op),
        .dy = g.dy,
        .dy2 = g.dy2,
        .dsum = g.dsum,
        .dx = g.dx,
        .dh = g.dh,
        .dgamma = r.norm->dgamma,
        .dbeta = r.norm->dbeta,
    };
    if (pass->status == 0) {
        pass->status = ser_residual_norm_bwd(pass->queue, &args);
    }
}

bool ser_pass_keeps_hidden(const ser_pass *pass)
{
    return pass->tape != NULL && pass->net->layer_mix_gradient.rows > 0;
}

ser_tensor ser_pass_save_hidden(ser_pass *pass, int32_t stage, int64_t rows, int64_t cols)
{
    const int32_t head = ser_stage_head(pass->arch);
    return ser_pass_save(pass, ser_pass_keeps_hidden(pass) ? head : stage, rows, cols);
}

/* A place for the statistics of a LayerNorm of `stage`; NULL if the backward half does not come
 * there. */
ser_norm_tape *ser_residual_tape(ser_pass *pass, int32_t stage, int64_t rows, ser_norm_tape *tape)
{
    if (!ser_pass_reaches(pass, stage)) {
        return NULL;
    }
    *tape = (ser_norm_tape){.stats = ser_pass_save_as(pass, SER_F32, stage, rows, 2)};
    return tape;
}

/* --- Attention of a block, without the residual --- */

/* Both directions. */
static ser_attention_args attention_args(const ser_pass *pass, int32_t i, ser_tensor qkv,
                                         ser_tensor context)
{
    const float head_size = (float)(pass->arch->hidden_size / pass->arch->heads);
    ser_attention_args args = {
        .qkv = qkv,
        .rows = ser_pass_frame_rows(pass),
        .heads = pass->arch->heads,
        .scale = 1.0F / sqrtf(head_size),
        .y = context,
    };
    if (ser_pass_reaches(pass, ser_stage_block(pass->arch, i))) {
        args.dropout = ser_pass_dropout_key(pass, pass->tape->options->attention_dropout,
                                            ser_dropout_of_block(i, SER_DROPOUT_ATTENTION));
        args.lse = pass->tape->blocks[i].lse;
        args.kept = pass->tape->blocks[i].kept;
    }
    return args;
}

/* For the bits of attention's dropout. In bf16 drawing them costs backward as much as its products;
 * in f32 the products are most of it, and the CPU does not write them. */
static uint32_t *take_kept(ser_pass *pass)
{
    if (pass->net->type != SER_BF16 || !(pass->tape->options->attention_dropout > 0.0F)) {
        return NULL;
    }
    const ser_rows rows = ser_pass_frame_rows(pass);
    const int64_t words = ser_attention_kept_words(rows.batch, rows.padded, pass->arch->heads);
    return ser_pass_take_bytes(pass, (size_t)words * sizeof(uint32_t));
}

ser_tensor ser_block_attention(ser_pass *pass, int32_t i, ser_tensor x)
{
    const ser_block *block = &pass->net->blocks[i];
    const int32_t stage = ser_stage_block(pass->arch, i);
    ser_rows rows = ser_pass_frame_rows(pass);
    ser_tensor qkv = ser_pass_save(pass, stage, x.rows, 3 * x.cols);
    ser_tensor context = ser_pass_save(pass, stage, x.rows, x.cols);
    if (ser_pass_reaches(pass, stage)) {
        ser_block_tape *tape = &pass->tape->blocks[i];
        tape->attention_x = x;
        tape->qkv = qkv;
        tape->context = context;
        tape->lse = ser_pass_save_as(pass, SER_F32, stage, x.rows, pass->arch->heads);
        tape->kept = take_kept(pass);
    }
    ser_pass_linear_to(pass, x, rows, &block->qkv, SER_ACT_NONE, qkv);
    const ser_attention_args args = attention_args(pass, i, qkv, context);
    if (pass->status == 0) {
        pass->status = ser_attention_fwd(pass->queue, &args);
    }
    ser_pass_give(pass, qkv);
    ser_tensor y = ser_pass_save(pass, stage, x.rows, x.cols);
    ser_pass_linear_to(pass, context, rows, &block->out, SER_ACT_NONE, y);
    ser_pass_give(pass, context);
    return y;
}

/* A new gradient of the block's input; absent unless `wanted`. The branch may still read dy. */
ser_tensor ser_block_attention_backward(ser_pass *pass, int32_t i, ser_tensor dy, bool wanted)
{
    const ser_block *block = &pass->net->blocks[i];
    const ser_block_tape *tape = &pass->tape->blocks[i];
    ser_rows rows = ser_pass_frame_rows(pass);
    ser_tensor dcontext = ser_pass_take(pass, dy.rows, dy.cols);
    ser_pass_linear_backward_apart(pass, tape->context, rows, &block->out, dy, dcontext);
    ser_attention_args args = attention_args(pass, i, tape->qkv, tape->context);
    args.dy = dcontext;
    args.dqkv = ser_pass_take(pass, dy.rows, 3 * dy.cols);
    if (pass->status == 0) {
        pass->status = ser_attention_bwd(pass->queue, &args);
    }
    ser_pass_give(pass, dcontext);
    ser_tensor dx = wanted ? ser_pass_take(pass, dy.rows, dy.cols) : ABSENT;
    ser_pass_linear_backward_apart(pass, tape->attention_x, rows, &block->qkv, args.dqkv, dx);
    ser_pass_hold(pass, args.dqkv);
    return dx;
}

/* --- Feed-forward part of a block, without the residual --- */

static ser_drop inner_drop(const ser_pass *pass, int32_t i)
{
    return (ser_drop){.activation = SER_ACT_GELU,
                      .p = pass->tape->options->activation_dropout,
                      .op = ser_dropout_of_block(i, SER_DROPOUT_ACTIVATION)};
}

ser_tensor ser_block_feed_forward(ser_pass *pass, int32_t i, ser_tensor x)
{
    const ser_block *block = &pass->net->blocks[i];
    const int32_t stage = ser_stage_block(pass->arch, i);
    ser_rows rows = ser_pass_frame_rows(pass);
    ser_tensor wide;
    ser_tensor y;
    if (ser_pass_reaches(pass, stage)) {
        ser_block_tape *tape = &pass->tape->blocks[i];
        tape->ffn_x = x;
        tape->inner = ser_pass_save(pass, stage, x.rows, pass->arch->intermediate_size);
        y = ser_pass_save(pass, stage, x.rows, x.cols); /* before `wide`, to leave no hole */
        wide = ser_pass_take(pass, x.rows, pass->arch->intermediate_size);
        ser_pass_linear_to(pass, x, rows, &block->ffn_in, SER_ACT_NONE, tape->inner);
        ser_pass_dropout(pass, tape->inner, rows, inner_drop(pass, i), wide);
    } else {
        wide = ser_pass_linear(pass, x, rows, &block->ffn_in, SER_ACT_GELU);
        y = ser_pass_take(pass, x.rows, x.cols);
    }
    ser_pass_linear_to(pass, wide, rows, &block->ffn_out, SER_ACT_NONE, y);
    ser_pass_give(pass, wide);
    return y;
}

/* A new gradient of its input. dropout(GELU(inner)) is made again instead of having been kept, in
 * the sweep that reads `inner` for its gradient. Joins the branch behind the first product: only
 * then is there room for two wide matrices. Afterwards the branch may still read dy. */
ser_tensor ser_block_feed_forward_backward(ser_pass *pass, int32_t i, ser_tensor dy)
{
    const ser_block *block = &pass->net->blocks[i];
    const ser_block_tape *tape = &pass->tape->blocks[i];
    ser_rows rows = ser_pass_frame_rows(pass);
    ser_tensor wide = ser_pass_take(pass, dy.rows, tape->inner.cols); /* at first, its gradient */
    ser_pass_linear_backward_data(pass, rows, &block->ffn_out, dy, wide);
    ser_pass_join(pass);
    ser_tensor dwide = ser_pass_take(pass, dy.rows, tape->inner.cols);
    ser_pass_dropout_backward_again(pass, tape->inner, rows, inner_drop(pass, i), wide, dwide,
                                    wide);
    ser_pass_linear_backward_sums(pass, wide, rows, &block->ffn_out, dy);
    ser_pass_hold(pass, wide);
    ser_tensor dx = ser_pass_take(pass, dy.rows, dy.cols);
    ser_pass_linear_backward_apart(pass, tape->ffn_x, rows, &block->ffn_in, dwide, dx);
    ser_pass_hold(pass, dwide);
    return dx;
}
