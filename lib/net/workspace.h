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
#include "net/tape.h"

enum {
    SER_ARENA_BLOCKS = 32,
    SER_SLACK_ROWS = 16, /* behind every tensor, for loads of whole vectors */
    SER_HELD_TENSORS = 12,
};

typedef struct ser_arena_block {
    size_t start, end;
} ser_arena_block;

/* One device allocation, handed out first-fit. What is kept to the end of the pass is not among the
 * blocks: everything below `floor` that no block covers is taken for good. */
typedef struct ser_arena {
    void *memory;
    size_t size;
    size_t peak;                              /* end of the highest block since the last reset */
    size_t floor;                             /* end of what is kept */
    ser_arena_block blocks[SER_ARENA_BLOCKS]; /* in use, by address */
    int32_t count;
    bool keep; /* everything is kept: every stage can be read at the end */
} ser_arena;

/* What a pass is to do. */
typedef struct ser_run {
    int64_t batch, longest;
    const int64_t *counts;       /* samples of each clip; not read while planning */
    const float *const *samples; /* likewise; or clips */
    const ser_clips *clips;
    bool in_turn;                    /* a prediction that is prepared while another is under way */
    const ser_training_batch *input; /* NULL: prediction */
    ser_tape *tape;                  /* NULL: no backward half */
    ser_training *update;            /* the weights are updated at the end; NULL: they stay */
    const ser_step *step;            /* with a tape: what the device is to know of this step */
    bool features_only;              /* stop after the convolutions */
} ser_run;

enum { SER_RECORDINGS = 32 };

/* What two runs must have in common for one's recording to do the other's work. */
typedef struct ser_run_shape {
    int64_t batch, longest;                                     /* batch 0: none */
    int64_t mel_time, mel_channel, hidden_time, hidden_channel; /* spans per clip */
    int64_t scale;                                              /* of the loss, its bits */
    int64_t parts; /* which of the run's inputs and halves are there (recordings.c) */
} ser_run_shape;

/* A shape that has been run before, and its recorded work once it came a second time. */
typedef struct ser_recording {
    ser_run_shape shape;
    ser_graph *graph;  /* or NULL */
    bool refused;      /* it cannot be recorded: the queue's ops are called every time */
    uint64_t used;     /* when, in calls */
    ser_stages stages; /* where its outputs are */
} ser_recording;

struct ser_workspace {
    const ser_net *net;
    ser_queue *queue;
    ser_arena arena;
    int64_t batch, longest; /* the prediction that was planned last; 0: none is in place */
    /* The host's images of the inputs; NULL where device memory is the host's. Runs in turn write
     * one while the other may still be read. */
    void *images[2];
    int32_t image;                 /* the one at hand */
    size_t image_size, input_size; /* bytes: reserved for each, used by the last pass */
    float *results[2];             /* host copies of the outputs, likewise */
    size_t results_size[2];
    ser_recording recordings[SER_RECORDINGS];
    uint64_t calls;
    int32_t *valid; /* [valid_count]: row 0 samples, row 1 + i level i, then the batch size */
    size_t valid_count;
    bool keep_stages;
    ser_stages stages;
    ser_run prepared; /* the prediction to be launched; batch 0: none */
};

/* Device copies of what a batch brings; absent where it brings none. */
typedef struct ser_pass_input {
    ser_tensor pcm;            /* the clips one below the other */
    const ser_source *sources; /* instead: where the clips or their features stay */
    const ser_step *step;
    ser_tensor targets, mask;
    ser_tensor mel_warp, mel_offset;
    const int32_t *mel_time, *mel_channel, *hidden_time, *hidden_channel;
} ser_pass_input;

/* Where a prediction leaves what goes to the host, one behind the other; absent in training. */
typedef struct ser_pass_output {
    ser_tensor alpha, pooled, logits, probabilities;
} ser_pass_output;

typedef struct ser_pass {
    ser_workspace *workspace;
    const ser_net *net;
    const ser_arch *arch;
    ser_queue *queue;
    ser_geometry geometry;
    const ser_run *run;
    ser_tape *tape; /* of the run */
    ser_pass_input input;
    ser_pass_output output;
    /* What the branch may still read: given back when it has been joined. */
    ser_tensor held[SER_HELD_TENSORS];
    int32_t held_count;
    ser_tensor dlogits;  /* made by the loss, if there is a tape */
    ser_tensor mix_dots; /* see ser_layer_mix_args */
    int32_t *valid;      /* device copy of workspace->valid */
    int status;          /* first failure */
} ser_pass;

/* Start a pass: empty the arena, give inputs and outputs their places at its start (inputs.c). */
void ser_pass_begin(ser_pass *pass);

/* Write the inputs of the run into the host image at hand, which one transfer moves to their places.
 */
void ser_pass_fill(ser_pass *pass);
/* Write the run's step alone: it may change after the rest. */
void ser_pass_fill_step(ser_pass *pass);

/* Host memory for the inputs that ser_pass_begin has laid out (planning passes), as `images` images:
 * two for runs in turn. */
int ser_inputs_reserve(ser_workspace *workspace, int32_t images);
void ser_inputs_free(ser_workspace *workspace);

/* [rows, cols] of the network's type with some slack behind it; absent after a failure. */
ser_tensor ser_pass_take(ser_pass *pass, int64_t rows, int64_t cols);
/* The same of another type. */
ser_tensor ser_pass_take_as(ser_pass *pass, int32_t type, int64_t rows, int64_t cols);

/* Memory for an input or output, kept to the end of the pass; `front` rows before it and `back`
 * behind. */
ser_tensor ser_pass_take_place(ser_pass *pass, int64_t rows, int64_t cols, int64_t front,
                               int64_t back);
void *ser_pass_take_bytes(ser_pass *pass, size_t size);

/* The matrix of a level, with the zero rows before it and the slack that its convolution needs. */
ser_tensor ser_pass_take_level(ser_pass *pass, int32_t level, int64_t cols);

/* The same, but kept to the end of the pass where `stage` needs it in the backward half. */
ser_tensor ser_pass_save(ser_pass *pass, int32_t stage, int64_t rows, int64_t cols);
ser_tensor ser_pass_save_as(ser_pass *pass, int32_t type, int32_t stage, int64_t rows,
                            int64_t cols);
ser_tensor ser_pass_save_level(ser_pass *pass, int32_t stage, int32_t level, int64_t cols);

/* Whether the backward half reaches `stage`: something is trained there or below. */
bool ser_pass_reaches(const ser_pass *pass, int32_t stage);

/* The tensor is not read any more (nothing happens to one that is kept). */
void ser_pass_give(ser_pass *pass, ser_tensor tensor);

/* The tensor is neither written nor read by the queue any more, but its branch may read it. */
void ser_pass_hold(ser_pass *pass, ser_tensor tensor);
/* What the branch has got is done before what the queue gets next. */
void ser_pass_join(ser_pass *pass);

/* Note a stage that a workspace with keep_stages shows. */
void ser_pass_show(ser_pass *pass, ser_tensor *stage, ser_tensor tensor);

/* Rows of the waveform, of a level, and of a [batch, C] matrix. */
ser_rows ser_pass_sample_rows(const ser_pass *pass);
ser_rows ser_pass_level_rows(const ser_pass *pass, int32_t level);
ser_rows ser_pass_frame_rows(const ser_pass *pass);
ser_rows ser_pass_clip_rows(const ser_pass *pass);

/* `place` if it is there, else like ser_pass_save_as. */
ser_tensor ser_pass_take_output(ser_pass *pass, ser_tensor place, int32_t stage, int64_t rows,
                                int64_t cols);

/* A new y = act(x W^T + b), of x's type; the same into a tensor that is there; gradients of the latter with
 * activation NONE, dx absent where it is not wanted. */
ser_tensor ser_pass_linear(ser_pass *pass, ser_tensor x, ser_rows rows, const ser_affine *layer,
                           int32_t activation);
void ser_pass_linear_to(ser_pass *pass, ser_tensor x, ser_rows rows, const ser_affine *layer,
                        int32_t activation, ser_tensor y);
void ser_pass_linear_backward(ser_pass *pass, ser_tensor x, ser_rows rows, const ser_affine *layer,
                              ser_tensor dy, ser_tensor dx);
/* The same, dw and dbias by the queue's branch: x and dy must stay as they are until the join. */
void ser_pass_linear_backward_apart(ser_pass *pass, ser_tensor x, ser_rows rows,
                                    const ser_affine *layer, ser_tensor dy, ser_tensor dx);
/* The two halves of it, for where x is made in between: dx, and dw and dbias by the branch. */
void ser_pass_linear_backward_data(ser_pass *pass, ser_rows rows, const ser_affine *layer,
                                   ser_tensor dy, ser_tensor dx);
void ser_pass_linear_backward_sums(ser_pass *pass, ser_tensor x, ser_rows rows,
                                   const ser_affine *layer, ser_tensor dy);

/* y = dropout(act(x)); dx from dy; dx and y again in one sweep. Training passes only. */
typedef struct ser_drop {
    int32_t activation;
    float p;
    uint32_t op;
} ser_drop;
ser_dropout ser_pass_dropout_key(const ser_pass *pass, float p, uint32_t op);
void ser_pass_dropout(ser_pass *pass, ser_tensor x, ser_rows rows, ser_drop drop, ser_tensor y);
void ser_pass_dropout_backward(ser_pass *pass, ser_tensor x, ser_rows rows, ser_drop drop,
                               ser_tensor dy, ser_tensor dx);
void ser_pass_dropout_backward_again(ser_pass *pass, ser_tensor x, ser_rows rows, ser_drop drop,
                                     ser_tensor dy, ser_tensor dx, ser_tensor y);

/* x += h on the valid rows. */
void ser_pass_add(ser_pass *pass, ser_tensor x, ser_tensor h, ser_rows rows);

/* Zeros in spans of x; nothing without a list. */
void ser_pass_mask(ser_pass *pass, ser_tensor x, ser_rows rows, const int32_t *time,
                   int32_t time_spans, const int32_t *channel, int32_t channel_spans);

/* The stages of the graph. Each takes over its input and gives its output. */
ser_tensor ser_features_forward(ser_pass *pass);                  /* [batch * frames, channels] */
ser_tensor ser_transformer_forward(ser_pass *pass, ser_tensor x); /* [batch * frames, hidden] */
ser_tensor ser_pooling_forward(ser_pass *pass, ser_tensor x);     /* [batch, hidden] */
void ser_classifier_forward(ser_pass *pass, ser_tensor x);

/* Their backward halves, from the logits down: each takes over the gradient of its output and gives
 * that of its input, absent once no stage below is reached. */
ser_tensor ser_classifier_backward(ser_pass *pass, ser_tensor dlogits);
ser_tensor ser_pooling_backward(ser_pass *pass, ser_tensor dpooled);
ser_tensor ser_transformer_backward(ser_pass *pass, ser_tensor dhidden);
void ser_features_backward(ser_pass *pass, ser_tensor dfeatures);

/* The whole of a run without its transfers (net.c): plan it and make room, or do what was planned.
 * The latter does not wait. */
int ser_workspace_plan(ser_workspace *workspace, const ser_run *run);
int ser_workspace_run(ser_workspace *workspace, const ser_run *run);

/*
 * A run from inputs in host memory to outputs in host memory, recorded where that can be
 * (recordings.c). Prepare makes room and writes the inputs into their host image, beside the run
 * that was launched before; launch queues the work. The outputs are there after a sync, and stay until
 * the next launch; those of runs in turn until the next but one is prepared.
 */
int ser_workspace_prepare(ser_workspace *workspace, const ser_run *run);
int ser_workspace_launch(ser_workspace *workspace, const ser_run *run);
void ser_recordings_free(ser_workspace *workspace);
void ser_results_free(ser_workspace *workspace);

/* Both, with a sync. */
int ser_workspace_predict(ser_workspace *workspace, const ser_run *run);

/* The length in samples to which clips are padded so that few shapes are recorded; the same, but
 * `longest` itself on backends that cannot record. */
int64_t ser_rounded_length(int64_t longest);
int64_t ser_workspace_rounded(const ser_workspace *workspace, int64_t longest);

/* AdamW with what the backward half has added up, and everything that follows from new weights; or
 * only its plan (training.c). */
int ser_training_apply(ser_training *training, const ser_step *step);

/* A pass with its geometry, before it begins. */
ser_pass ser_pass_of(ser_workspace *workspace, const ser_run *run);

#endif
