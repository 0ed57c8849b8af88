/* SPDX-License-Identifier: MIT */
/* Stage 4: hidden states -> one vector per clip, by learned attention over the frames or as their
 * mean. */
#include "net/workspace.h"

static const ser_drop TANH = {.activation = SER_ACT_TANH};

/* What the score looks at: x itself, or tanh(W x + b). */
static ser_tensor scored(ser_pass *pass, ser_tensor x, ser_rows rows)
{
    const ser_affine *hidden = &pass->net->pool_hidden;
    if (hidden->w == NULL) {
        return x;
    }
    if (pass->tape == NULL) {
        return ser_pass_linear(pass, x, rows, hidden, SER_ACT_TANH);
    }
    const int32_t stage = ser_stage_head(pass->arch);
    const int64_t outputs = ser_weight_get_spec(hidden->w)->rows;
    ser_tensor z = ser_pass_save_as(pass, x.type, stage, x.rows, outputs);
    ser_tensor u = ser_pass_save_as(pass, x.type, stage, x.rows, outputs);
    ser_pass_linear_to(pass, x, rows, hidden, SER_ACT_NONE, z);
    ser_pass_dropout(pass, z, rows, TANH, u);
    pass->tape->pool_z = z;
    return u;
}

/* Both directions. */
static ser_attn_pool_args pool_args(const ser_pass *pass, ser_tensor x, ser_tensor u,
                                    ser_tensor alpha)
{
    return (ser_attn_pool_args){
        .x = x,
        .u = u,
        .rows = ser_pass_frame_rows(pass),
        .w = pass->net->score_weight,
        .b = pass->net->score_bias,
        .alpha = alpha,
    };
}

ser_tensor ser_pooling_forward(ser_pass *pass, ser_tensor x)
{
    const int32_t stage = ser_stage_head(pass->arch);
    ser_rows rows = ser_pass_frame_rows(pass);
    ser_tensor u = scored(pass, x, rows);
    ser_tensor alpha = ser_pass_take_output(pass, pass->output.alpha, stage, x.rows, 1);
    ser_attn_pool_args args = pool_args(pass, x, u, alpha);
    args.y = ser_pass_take_output(pass, pass->output.pooled, stage, rows.batch, x.cols);
    if (pass->status == 0) {
        pass->status = ser_attn_pool_fwd(pass->queue, &args);
    }
    if (pass->tape != NULL) {
        pass->tape->pool_x = x;
        pass->tape->pool_u = u;
        pass->tape->alpha = alpha;
    }
    if (u.data != x.data) {
        ser_pass_give(pass, u);
    }
    ser_pass_give(pass, x);
    pass->workspace->stages.alpha = alpha;
    pass->workspace->stages.pooled = args.y;
    return args.y;
}

ser_tensor ser_pooling_backward(ser_pass *pass, ser_tensor dpooled)
{
    const ser_net *net = pass->net;
    const ser_tape *tape = pass->tape;
    const bool hidden = net->pool_hidden.w != NULL;
    const bool below = ser_pass_reaches(pass, ser_stage_end(pass->arch));
    ser_tensor x = tape->pool_x;
    ser_tensor u = tape->pool_u;
    ser_rows rows = ser_pass_frame_rows(pass);
    ser_attn_pool_args args = pool_args(pass, x, u, tape->alpha);
    args.dy = dpooled;
    args.dx = ser_pass_take_as(pass, x.type, x.rows, x.cols);
    args.du = hidden ? ser_pass_take_as(pass, u.type, u.rows, u.cols) : (ser_tensor){0};
    args.dw = net->score_dweight;
    args.db = net->score_dbias;
    if (pass->status == 0) {
        pass->status = ser_attn_pool_bwd(pass->queue, &args);
    }
    ser_pass_give(pass, dpooled);
    if (hidden) {
        ser_tensor dx = below ? ser_pass_take_as(pass, x.type, x.rows, x.cols) : (ser_tensor){0};
        ser_pass_dropout_backward(pass, tape->pool_z, rows, TANH, args.du, args.du);
        ser_pass_linear_backward(pass, x, rows, &net->pool_hidden, args.du, dx);
        ser_pass_give(pass, args.du);
        if (below) {
            ser_pass_add(pass, args.dx, dx, rows);
            ser_pass_give(pass, dx);
        }
    }
    if (!below) {
        ser_pass_give(pass, args.dx);
        return (ser_tensor){0};
    }
    return args.dx;
}
