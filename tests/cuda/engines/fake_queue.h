/* SPDX-License-Identifier: MIT */
/*
 * A queue without a device for the files behind convolutions.h: memory is the host's, cuDNN is
 * fake_cudnn.h's, and events read its clock, which its runs move forward and nothing else does but
 * what a test does itself.
 */
#ifndef SER_TESTS_CUDA_FAKE_QUEUE_H
#define SER_TESTS_CUDA_FAKE_QUEUE_H

#include "fake_cudnn.h"
#include "ops/cuda/convolutions.h"

typedef struct fake_device {
    cuda_queue queue;
    ser_context context;
    fake_cudnn *cudnn;
    bool no_events;      /* creating one fails */
    int32_t events;      /* that are alive */
    int32_t cleared;     /* how often the scratch was */
    int32_t measuring;   /* how deep */
    void (*wait)(void);  /* happens while one waits for others who measure, once */
    int32_t lines;       /* of the log */
    char line[1024];     /* the last one */
    char lines_of[8192]; /* all */
} fake_device;

extern fake_device device;

/* Checked fixture: a new queue, SER_CUDNN=1, no directory for choices; close sees that nothing is
 * left. */
void open_queue(void);
void close_queue(void);

/* Choices are kept from now on, in a new directory. */
void keep_choices(void);

/* What another process sees: a new queue, and the choices from their file. */
void start_again(void);

/* --- Calls --- */

enum { BATCH = 3, IN = 8, OUT = 16, KERNEL = 3, STRIDE = 2, ROWS = 7, PADDING = 1 };

extern uint16_t x_memory[], w_memory[], bias_memory[], y_memory[];
extern const int32_t valid_in[BATCH], valid_out[BATCH];

/* bf16 on the host; values lie zero in front of and between the clips, NaN behind the matrix. */
float of_bf16(uint16_t half);
void fill_memory(void);

/* A call on that memory. */
cuda_convolution small_call(void);

/* One of layer 1 of wav2vec 2.0, or of its feed-forward layers, on memory that is not there: to be
 * recorded only. */
cuda_convolution large_call(int64_t batch);
cuda_convolution linear_call(int64_t batch);

/* --- The other way --- */

typedef struct other_way {
    const double *costs; /* milliseconds, by run; the last one stays */
    int32_t count;
    int32_t runs;
    bool fails;
} other_way;

/* Whether `call` is to be run fused. */
bool ready(const cuda_convolution *call, other_way *other);

#endif
