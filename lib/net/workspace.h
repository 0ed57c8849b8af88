/* SPDX-License-Identifier: MIT */
/*
 * The memory of a forward pass, and the steps that a pass is made of. Private to lib/net.
 *
 * The same code plans and runs. While the workspace is planning, the arena hands out offsets
 * instead of addresses and notes the largest, and ops only note their scratch; after that both are
 * allocated at once. A pass remembers its first failure, and later steps do nothing.
 */
#ifndef SER_NET_WORKSPACE_H
#define SER_NET_WORKSPACE_H

#include "net/geometry.h"
#include "net/graph.h"

enum { SER_ARENA_BLOCKS = 32 };

typedef struct ser_arena_block {
    size_t start, end;
} ser_arena_block;

/* One device allocation, handed out first-fit. */
typedef struct ser_arena {
    void *memory;
    size_t size;
    size_t peak; /* end of the highest block since the last reset */
    ser_arena_block
        blocks[SER_ARENA_BLOCKS]; /* in use, by address; with `keep` only the last one */
    int32_t count;
    bool keep; /* blocks are never used twice: every stage can be read at the end */
} ser_arena;

struct ser_workspace {
    const ser_net *net;
    ser_queue *queue;
    ser_arena arena;
    int64_t batch, longest; /* what was planned last; 0: nothing is in place */
    int32_t *valid; /* [valid_count]: row 0 samples, row 1 + i level i, then the batch size */
    size_t valid_count;
    bool keep_stages;
    ser_stages stages;
};

typedef struct ser_pass {
    ser_workspace *workspace;
    const ser_net *net;
    const ser_arch *arch;
    ser_queue *queue;
    ser_geometry geometry;
    const float *const *samples; /* NULL while planning */
    const int64_t *counts;
    int32_t *valid; /* device copy of workspace->valid */
    int status;     /* first failure */
} ser_pass;

/* Start a pass: empty the arena, bring the valid lengths to the device. */
void ser_pass_begin(ser_pass *pass);

/* f32 [rows, cols] with some slack behind it; absent after a failure. */
ser_tensor ser_pass_take(ser_pass *pass, int64_t rows, int64_t cols);

/* The matrix of a level, with the zero rows before it and the slack that its convolution needs. */
ser_tensor ser_pass_take_level(ser_pass *pass, int32_t level, int64_t cols);

/* The tensor is not read any more. */
void ser_pass_give(ser_pass *pass, ser_tensor tensor);

/* Note a stage that a workspace with keep_stages shows. */
void ser_pass_show(ser_pass *pass, ser_tensor *stage, ser_tensor tensor);

/* Rows of the waveform, of a level, and of a [batch, C] matrix. */
ser_rows ser_pass_sample_rows(const ser_pass *pass);
ser_rows ser_pass_level_rows(const ser_pass *pass, int32_t level);
ser_rows ser_pass_frame_rows(const ser_pass *pass);
ser_rows ser_pass_clip_rows(const ser_pass *pass);

/* A new y = act(x W^T + b). */
ser_tensor ser_pass_linear(ser_pass *pass, ser_tensor x, ser_rows rows, const ser_affine *layer,
                           int32_t activation);

/* The stages of the graph. Each takes over its input and gives its output. */
ser_tensor ser_features_forward(ser_pass *pass);                  /* [batch * frames, channels] */
ser_tensor ser_transformer_forward(ser_pass *pass, ser_tensor x); /* [batch * frames, hidden] */
ser_tensor ser_pooling_forward(ser_pass *pass, ser_tensor x);     /* [batch, hidden] */
void ser_classifier_forward(ser_pass *pass, ser_tensor x);

/* Make the workspace ready for `batch` clips, the longest of `longest` samples (net.c). */
int ser_workspace_plan(ser_workspace *workspace, int64_t batch, int64_t longest);

#endif
