/* SPDX-License-Identifier: MIT */
/* Stage 5: pooled vector -> logits and probabilities. */
#include "net/workspace.h"

void ser_classifier_forward(ser_pass *pass, ser_tensor pooled)
{
    const ser_arch *arch = pass->arch;
    ser_stages *stages = &pass->workspace->stages;
    ser_rows rows = ser_pass_clip_rows(pass);
    ser_tensor x = pooled;
    for (int32_t i = 0; i < arch->classifier_count; i++) {
        bool last = i + 1 == arch->classifier_count;
        ser_tensor y = ser_pass_linear(pass, x, rows, &pass->net->classifier[i],
                                       last ? SER_ACT_NONE : arch->classifier_activation);
        if (i > 0) { /* the pooled vector is a result of its own */
            ser_pass_give(pass, x);
        }
        x = y;
    }
    ser_tensor probabilities = ser_pass_take(pass, x.rows, x.cols);
    const ser_cross_entropy_args args = {
        .logits = x,
        .probabilities = probabilities,
    };
    if (pass->status == 0) {
        pass->status = ser_cross_entropy_fwd(pass->queue, &args);
    }
    stages->logits = x;
    stages->probabilities = probabilities;
}
