/* SPDX-License-Identifier: MIT */
/* Stage 5: pooled vector -> logits, probabilities and, for training, the loss. f32 in every network:
 * it is tiny, and its rounding would show in the answer. */
#include "net/workspace.h"

static ser_drop drop_of(const ser_pass *pass, int32_t layer)
{
    return (ser_drop){.activation = pass->arch->classifier_activation,
                      .p = pass->tape->options->classifier_dropout,
                      .op = (uint32_t)(SER_DROPOUT_CLASSIFIER + layer)};
}

/* The layer between two others: dropout(act(W x + b)). */
static ser_tensor inner_layer(ser_pass *pass, int32_t i, ser_tensor x, ser_rows rows)
{
    const ser_affine *layer = &pass->net->classifier[i];
    if (pass->tape == NULL) {
        return ser_pass_linear(pass, x, rows, layer, pass->arch->classifier_activation);
    }
    const int32_t stage = ser_stage_head(pass->arch);
    const int64_t outputs = pass->arch->classifier_size[i];
    ser_tensor z = ser_pass_save_as(pass, SER_F32, stage, x.rows, outputs);
    ser_tensor y = ser_pass_save_as(pass, SER_F32, stage, x.rows, outputs);
    ser_pass_linear_to(pass, x, rows, layer, SER_ACT_NONE, z);
    ser_pass_dropout(pass, z, rows, drop_of(pass, i), y);
    pass->tape->classifier_z[i] = z;
    return y;
}

/* [rows, labels] */
static ser_tensor take_output(ser_pass *pass, ser_tensor place, int64_t rows)
{
    const ser_arch *arch = pass->arch;
    return place.data != NULL ? place
                              : ser_pass_take_as(pass, SER_F32, rows,
                                                 arch->classifier_size[arch->classifier_count - 1]);
}

/* Softmax, and with targets the loss; with a tape also its gradient. */
static void loss(ser_pass *pass, ser_tensor logits)
{
    const ser_training_batch *input = pass->run->input;
    ser_stages *stages = &pass->workspace->stages;
    ser_cross_entropy_args args = {
        .logits = logits,
        .mask = pass->input.mask,
        .probabilities = take_output(pass, pass->output.probabilities, logits.rows),
        .targets = pass->input.targets,
    };
    if (args.targets.rows > 0) {
        args.loss = ser_pass_take_as(pass, SER_F32, logits.rows, 1);
    }
    if (pass->status == 0) {
        pass->status = ser_cross_entropy_fwd(pass->queue, &args);
    }
    if (pass->tape != NULL) {
        args.scale = input->scale;
        args.dlogits = ser_pass_take_as(pass, SER_F32, logits.rows, logits.cols);
        if (pass->status == 0) {
            pass->status = ser_cross_entropy_bwd(pass->queue, &args);
        }
        pass->dlogits = args.dlogits;
    }
    stages->logits = logits;
    stages->probabilities = args.probabilities;
    stages->loss = args.loss;
}

void ser_classifier_forward(ser_pass *pass, ser_tensor pooled)
{
    const ser_arch *arch = pass->arch;
    const int32_t last = arch->classifier_count - 1;
    ser_rows rows = ser_pass_clip_rows(pass);
    ser_tensor x = pooled;
    for (int32_t i = 0; i <= last; i++) {
        if (pass->tape != NULL) {
            pass->tape->classifier_x[i] = x;
        }
        ser_tensor y;
        if (i < last) {
            y = inner_layer(pass, i, x, rows);
        } else {
            y = take_output(pass, pass->output.logits, x.rows);
            ser_pass_linear_to(pass, x, rows, &pass->net->classifier[i], SER_ACT_NONE, y);
        }
        if (i > 0) { /* the pooled vector is a result of its own */
            ser_pass_give(pass, x);
        }
        x = y;
    }
    loss(pass, x);
}

ser_tensor ser_classifier_backward(ser_pass *pass, ser_tensor dlogits)
{
    ser_rows rows = ser_pass_clip_rows(pass);
    ser_tensor dy = dlogits;
    for (int32_t i = pass->arch->classifier_count - 1; i >= 0; i--) {
        ser_tensor x = pass->tape->classifier_x[i];
        ser_tensor dx = ser_pass_take_as(pass, SER_F32, x.rows, x.cols);
        ser_pass_linear_backward(pass, x, rows, &pass->net->classifier[i], dy, dx);
        if (i > 0) {
            ser_pass_dropout_backward(pass, pass->tape->classifier_z[i - 1], rows,
                                      drop_of(pass, i - 1), dx, dx);
        }
        ser_pass_give(pass, dy);
        dy = dx;
    }
    return dy;
}
