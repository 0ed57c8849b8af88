/* SPDX-License-Identifier: MIT */
/* Features -> input of block 0: projection and positions. Each forward half is followed by its
 * backward half. */
#include "net/encoder.h"

static const ser_tensor ABSENT = {0};

/* --- Projection --- */

static ser_drop projection_drop(const ser_pass *pass)
{
    return (ser_drop){.p = pass->tape->options->projection_dropout, .op = SER_DROPOUT_PROJECTION};
}

static void mask_hidden(ser_pass *pass, ser_tensor x)
{
    const ser_training_batch *input = pass->run->input;
    if (input != NULL) {
        ser_pass_mask(pass, x, ser_pass_frame_rows(pass), pass->input.hidden_time,
                      input->hidden_time.count, pass->input.hidden_channel,
                      input->hidden_channel.count);
    }
}

ser_tensor ser_projection_forward(ser_pass *pass, ser_tensor features)
{
    const ser_net *net = pass->net;
    const int32_t stage = ser_stage_projection(pass->arch);
    ser_tensor x = features;
    if (pass->arch->feature_norm) {
        const ser_residual r = {.norm = &net->feature_norm};
        x = ser_pass_save(pass, stage, features.rows, features.cols);
        ser_norm_tape *tape = pass->tape != NULL
                                  ? ser_residual_tape(pass, stage, x.rows, &pass->tape->feature)
                                  : NULL;
        ser_residual_forward(pass, r, features, ABSENT, ABSENT, x, tape);
        ser_pass_give(pass, features);
    }
    ser_tensor y = ser_pass_save(pass, stage + 1, x.rows, pass->arch->hidden_size);
    ser_pass_linear_to(pass, x, ser_pass_frame_rows(pass), &net->projection, SER_ACT_NONE, y);
    if (ser_pass_reaches(pass, stage)) {
        pass->tape->projection_x = x;
        ser_pass_dropout(pass, y, ser_pass_frame_rows(pass), projection_drop(pass), y);
    }
    mask_hidden(pass, y);
    ser_pass_give(pass, x);
    ser_pass_show(pass, &pass->workspace->stages.projected, y);
    return y;
}

ser_tensor ser_projection_backward(ser_pass *pass, ser_tensor dy)
{
    const ser_net *net = pass->net;
    const ser_tape *tape = pass->tape;
    const ser_rows rows = ser_pass_frame_rows(pass);
    const bool below = ser_pass_reaches(pass, ser_stage_projection(pass->arch) - 1);
    const bool norm = pass->arch->feature_norm;
    ser_tensor x = tape->projection_x;
    mask_hidden(pass, dy);
    ser_pass_dropout_backward(pass, dy, rows, projection_drop(pass), dy, dy);
    ser_tensor dx =
        below || norm ? ser_pass_take_level(pass, pass->arch->conv_count, x.cols) : ABSENT;
    ser_pass_linear_backward(pass, x, rows, &net->projection, dy, dx);
    ser_pass_give(pass, dy);
    if (norm) {
        ser_residual_backward(pass, (ser_residual){.norm = &net->feature_norm}, &tape->feature,
                              (ser_residual_gradients){.dy = dx, .dx = below ? dx : ABSENT});
    }
    if (!below) {
        ser_pass_give(pass, dx);
        return ABSENT;
    }
    return dx;
}

/* --- Positions --- */

static ser_drop start_drop(const ser_pass *pass)
{
    return (ser_drop){.p = pass->tape->options->hidden_dropout, .op = SER_DROPOUT_START};
}

/* Both directions. */
static ser_pos_conv_args position_args(const ser_pass *pass, ser_tensor x)
{
    const ser_net *net = pass->net;
    return (ser_pos_conv_args){
        .x = x,
        .rows = ser_pass_frame_rows(pass),
        .kernel = net->arch.position_kernel,
        .groups = net->arch.position_groups,
        .w = net->position.w,
        .bias = net->position.bias,
    };
}

ser_tensor ser_position_forward(ser_pass *pass, ser_tensor x)
{
    const ser_net *net = pass->net;
    const int32_t stage = ser_stage_position(pass->arch);
    const bool trains = ser_pass_reaches(pass, stage);
    const bool post_norm = net->arch.encoder_norm == SER_ENCODER_POST_NORM;
    ser_pos_conv_args args = position_args(pass, x);
    args.z = trains ? ser_pass_save(pass, stage, x.rows, x.cols) : ABSENT;
    args.y = post_norm ? ser_pass_save(pass, stage, x.rows, x.cols)
                       : ser_pass_save_hidden(pass, stage + 1, x.rows, x.cols);
    if (pass->status == 0) {
        pass->status = ser_pos_conv_fwd(pass->queue, &args);
    }
    ser_pass_give(pass, x);
    ser_tensor y = args.y;
    if (post_norm) {
        ser_norm_tape *tape =
            trains ? ser_residual_tape(pass, stage, x.rows, &pass->tape->start) : NULL;
        bool apart = ser_pass_reaches(pass, stage + 1) || ser_pass_keeps_hidden(pass);
        y = apart ? ser_pass_save_hidden(pass, stage + 1, x.rows, x.cols) : args.y;
        ser_residual_forward(pass, (ser_residual){.norm = &net->encoder_norm}, args.y, ABSENT,
                             ABSENT, y, tape);
        if (apart) {
            ser_pass_give(pass, args.y);
        }
    }
    if (trains) {
        pass->tape->position_x = x;
        pass->tape->position_z = args.z;
        ser_pass_dropout(pass, y, ser_pass_frame_rows(pass), start_drop(pass), y);
    }
    ser_pass_show(pass, &pass->workspace->stages.positioned, y);
    return y;
}

/* w = g v / |v|: from the gradient of the folded weight to those of g and v. */
static void weight_norm_backward(ser_pass *pass)
{
    const ser_net *net = pass->net;
    ser_weight_norm_args args = ser_net_position_fold(net);
    args.dw = net->position.dw;
    args.dg = net->position_dg;
    args.dv = net->position_dv;
    if (pass->status == 0 && net->position.dw.rows > 0) {
        pass->status = ser_weight_norm_bwd(pass->queue, &args);
    }
}

ser_tensor ser_position_backward(ser_pass *pass, ser_tensor dy)
{
    const ser_net *net = pass->net;
    const ser_tape *tape = pass->tape;
    const ser_ops *ops = pass->queue->ops;
    ser_pass_dropout_backward(pass, dy, ser_pass_frame_rows(pass), start_drop(pass), dy, dy);
    if (net->arch.encoder_norm == SER_ENCODER_POST_NORM) {
        ser_residual_backward(pass, (ser_residual){.norm = &net->encoder_norm}, &tape->start,
                              (ser_residual_gradients){.dy = dy, .dx = dy});
    }
    ser_pos_conv_args args = position_args(pass, tape->position_x);
    args.z = tape->position_z;
    args.dy = dy;
    args.dw = net->position.dw;
    args.dbias = net->position.dbias;
    if (ser_pass_reaches(pass, ser_stage_position(pass->arch) - 1)) {
        args.dx = ser_pass_take(pass, dy.rows, dy.cols);
    }
    if (pass->status == 0 && args.dw.rows > 0 && !pass->queue->planning) {
        pass->status = ops->zero(pass->queue, args.dw.data,
                                 (size_t)(args.dw.rows * args.dw.cols) * sizeof(float));
    }
    if (pass->status == 0) {
        pass->status = ser_pos_conv_bwd(pass->queue, &args);
    }
    weight_norm_backward(pass);
    ser_pass_give(pass, dy);
    return args.dx;
}
