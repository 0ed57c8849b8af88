/* SPDX-License-Identifier: MIT */
/* What ser_training points to. Private to lib/net. */
#ifndef SER_NET_TRAINING_STATE_H
#define SER_NET_TRAINING_STATE_H

#include "net/tape.h"
#include "net/training.h"
#include "net/workspace.h"

/* The place of a parameter that is not trained. */
#define SER_NOWHERE SIZE_MAX

/* Device memory that an update writes. */
typedef struct ser_update_state {
    double sum; /* of the squared gradient */
    int32_t skipped;
} ser_update_state;

struct ser_training {
    ser_net *net;
    ser_training_options options; /* its arrays are owned copies */
    ser_workspace *workspace;
    ser_tape tape;
    bool tied; /* the network's tensors are views of the arrays */
    bool folds_position;

    size_t *offsets; /* [params count] of each parameter in the arrays; SIZE_MAX: frozen */
    void **homes;    /* [params count] the network's own memory of vectors */
    size_t count;    /* floats per array, gaps included */
    uint64_t trained;
    uint64_t updates;
    uint64_t memory; /* bytes */

    /* device memory */
    float *w, *gradient, *m, *v;
    float *average;    /* or NULL */
    uint16_t *rounded; /* w in bf16, where the network has that type; else NULL */
    float *position_dw;
    ser_adamw_range *ranges;
    int32_t range_count;
    ser_update_state *update;

    /* the step that was launched last */
    ser_update_state *report; /* host memory: what its update wrote */
    ser_outputs outputs;
    int64_t clips;
    float gradient_scale;
    bool updates_weights;
};

/* Give every trained parameter its place (training->offsets, count, tape.first ...). `*ranges`, to be
 * freed, has one entry per parameter with a place. */
int ser_training_lay_out(ser_training *training, ser_adamw_range **ranges);

/* Make gradients, and vectors that are kept as they are, views of the arrays; the reverse. */
void ser_training_tie(ser_training *training);
int ser_training_untie(ser_training *training);

/* Queue a copy of f32 within the device. */
int ser_training_copy(ser_training *training, float *to, const float *from, size_t elements);

/* In place, between PyTorch's layout of a parameter, where the rows of a convolution are (channel,
 * tap), and that of the arrays, (tap, channel). */
int ser_training_permute(const ser_net *net, size_t index, float *values, bool to_flat);

/* ser_workspace_prepare; what does not fit is answered with how many such clips would. */
int ser_training_make_room(ser_training *training, const ser_run *run);

/* Packed matrices follow the flat weights. */
int ser_training_repack(ser_training *training);

#endif
