/* SPDX-License-Identifier: MIT */
/* The parts of the encoder, each forward and backward: residual norms, projection, positions,
 * attention and feed-forward parts of a block. Private to lib/net. */
#ifndef SER_NET_ENCODER_H
#define SER_NET_ENCODER_H

#include "net/workspace.h"

/* LayerNorm of the residual stream: sum = x + dropout(h), y = LN(sum). */
typedef struct ser_residual {
    const ser_norm *norm;
    float p;     /* of the dropout of h */
    uint32_t op; /* which one it is */
} ser_residual;

/* With a tape (else NULL) its stats are saved, and sum must be given unless h is absent. */
void ser_residual_forward(ser_pass *pass, ser_residual r, ser_tensor x, ser_tensor h,
                          ser_tensor sum, ser_tensor y, ser_norm_tape *tape);

/* dy, or its two parts, and dsum come in; dx and dh may be absent: not wanted. Only with dropout do
 * they differ. */
typedef struct ser_residual_gradients {
    ser_tensor dy, dy2, dsum;
    ser_tensor dx, dh;
} ser_residual_gradients;
void ser_residual_backward(ser_pass *pass, ser_residual r, const ser_norm_tape *tape,
                           ser_residual_gradients g);

/* `tape` with a place for the statistics of `rows` rows; NULL if the backward half does not come to
 * `stage`. */
ser_norm_tape *ser_residual_tape(ser_pass *pass, int32_t stage, int64_t rows, ser_norm_tape *tape);

/* Whether the mix's own gradient reads every hidden state, also where nothing below is trained; a
 * tensor that may become a hidden state, which `stage` or the mix needs in the backward half. */
bool ser_pass_keeps_hidden(const ser_pass *pass);
ser_tensor ser_pass_save_hidden(ser_pass *pass, int32_t stage, int64_t rows, int64_t cols);

/* Features -> projected features -> input of block 0. Each takes over its input. */
ser_tensor ser_projection_forward(ser_pass *pass, ser_tensor features);
ser_tensor ser_projection_backward(ser_pass *pass, ser_tensor dy);
ser_tensor ser_position_forward(ser_pass *pass, ser_tensor x);
ser_tensor ser_position_backward(ser_pass *pass, ser_tensor dy);

/* The two parts of block `i`, without the residual: a new tensor from x; a new gradient of x. */
ser_tensor ser_block_attention(ser_pass *pass, int32_t i, ser_tensor x);
ser_tensor ser_block_attention_backward(ser_pass *pass, int32_t i, ser_tensor dy, bool wanted);
ser_tensor ser_block_feed_forward(ser_pass *pass, int32_t i, ser_tensor x);
ser_tensor ser_block_feed_forward_backward(ser_pass *pass, int32_t i, ser_tensor dy);

#endif
