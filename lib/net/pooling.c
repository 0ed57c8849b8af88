/* SPDX-License-Identifier: MIT */
/* Stage 4: hidden states -> one vector per clip, by learned attention over the frames or as their
 * mean. */
#include "net/workspace.h"

ser_tensor ser_pooling_forward(ser_pass *pass, ser_tensor x)
{
    const ser_net *net = pass->net;
    ser_rows rows = ser_pass_frame_rows(pass);
    bool hidden = net->pool_hidden.w != NULL;
    ser_tensor u = hidden ? ser_pass_linear(pass, x, rows, &net->pool_hidden, SER_ACT_TANH) : x;
    ser_tensor alpha = ser_pass_take(pass, x.rows, 1);
    ser_tensor y = ser_pass_take(pass, rows.batch, x.cols);
    const ser_attn_pool_args args = {
        .x = x,
        .u = u,
        .rows = rows,
        .w = net->score_weight,
        .b = net->score_bias,
        .alpha = alpha,
        .y = y,
    };
    if (pass->status == 0) {
        pass->status = ser_attn_pool_fwd(pass->queue, &args);
    }
    if (hidden) {
        ser_pass_give(pass, u);
    }
    ser_pass_give(pass, x);
    pass->workspace->stages.alpha = alpha;
    pass->workspace->stages.pooled = y;
    return y;
}
