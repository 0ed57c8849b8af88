/* SPDX-License-Identifier: MIT */
/*
 * What the files of the CUDA backend share. C files call the runtime and its libraries; .cu files
 * hold the kernels and the op functions around them.
 *
 * The whole folder is compiled a second time, without the toolkit, against tests/emulation: there
 * the kernels run on the CPU, and products.h is served by plain loops.
 */
#ifndef SER_OPS_CUDA_CUDA_H
#define SER_OPS_CUDA_CUDA_H

#include <cuda_runtime.h>

#include "ops/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SER_CUDA_NAME_SIZE = 320 };

typedef struct ser_products ser_products; /* the matrix product library of a device (products.h) */
typedef struct ser_convolutions ser_convolutions; /* of a queue (convolutions.h) */

struct ser_context {
    int32_t index;
    int32_t failed; /* cudaError_t that poisoned the device, 0: none; atomic */
    int32_t multiprocessors;
    int32_t major, minor; /* compute capability */
    size_t shared_limit;  /* bytes of shared memory that a block may have */
    char name[SER_CUDA_NAME_SIZE];
    ser_products *products;
};

/* Whether kernels that can start before the one in front has finished are launched so (launch.cuh).
 * What their code was compiled for, and so whether it waits, the first of them shows. */
enum cuda_early { CUDA_EARLY_OFF, CUDA_EARLY_UNKNOWN, CUDA_EARLY_ON };

/* A stream with its scratch. */
typedef struct cuda_queue {
    ser_queue base;
    cudaStream_t stream;
    struct cuda_queue *beside;    /* its branch, or whose branch it is; NULL: alone */
    cudaEvent_t forked, finished; /* with a branch: where it may start, where it has got to */
    bool forks;                   /* work of the branch has not been joined */
    bool capturing;               /* work is recorded, nothing may be measured or allocated */
    enum cuda_early early;
    ser_convolutions *convolutions; /* or NULL: none was needed yet */
} cuda_queue;

/* A matrix [groups * rows, cols] row-major, f32 as it was set and, if the spec's type asks for it,
 * rounded to bf16. */
struct ser_weight {
    ser_weight_spec spec; /* first, see ser_weight_get_spec */
    float *f32;           /* device memory, our own or lent */
    void *bf16;           /* the same, or NULL */
    float *own_f32;
    void *own_bf16;
};

static inline cuda_queue *cuda_queue_of(ser_queue *queue)
{
    return (cuda_queue *)queue;
}

static inline size_t cuda_element_size(int32_t type)
{
    return type == SER_BF16 ? 2 : 4;
}

static inline int64_t cuda_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* The weight's elements in the type of the activations they are multiplied with. */
static inline const void *cuda_weight_data(const ser_weight *weight, int32_t type)
{
    return type == SER_BF16 ? weight->bf16 : (const void *)weight->f32;
}

/* A part of `size` bytes of a scratch that is being laid out: returns its offset, 256-byte aligned. */
static inline size_t cuda_carve(size_t *total, size_t size)
{
    const size_t at = (*total + 255) / 256 * 256;
    *total = at + size;
    return at;
}

/* 0, or the failure that `error` means, with a text that names the device and `what` was tried. An
 * error that poisons the CUDA context marks the device as failed (status.c). */
int ser_cuda_status(ser_context *context, cudaError_t error, const char *what);

/* Whether `kernel`, and with it all kernels here, may start early. */
bool ser_cuda_starts_early(ser_queue *queue, const void *kernel);
/* From now on none does: what failed may have been that. */
void ser_cuda_refuse_early(ser_queue *queue);

/* Make the device the calling thread's and refuse one that has failed; every op begins with it. */
int ser_cuda_enter(ser_context *context);

/* The same for memory, naming what was asked for and what is free. */
int ser_cuda_alloc(ser_context *context, size_t size, void **memory);
void ser_cuda_free(ser_context *context, void *memory);

/* Whether things of the device can be released: it works, or it failed and its runtime answers every
 * call with that error, but forgets what it is given. Not in a process forked from its own. */
bool ser_cuda_can_release(const ser_context *context);

/* The queue (queue.c). */
int ser_cuda_queue_create(ser_context *context, int32_t threads, ser_queue **queue);
void ser_cuda_queue_free(ser_queue *queue);
int ser_cuda_copy(ser_queue *queue, void *to, const void *from, size_t size,
                  enum cudaMemcpyKind kind);
int ser_cuda_upload(ser_queue *queue, void *device, const void *host, size_t size);
int ser_cuda_download(ser_queue *queue, void *host, const void *device, size_t size);
int ser_cuda_zero(ser_queue *queue, void *device, size_t size);
int ser_cuda_sync(ser_queue *queue);
int ser_cuda_branch(ser_queue *queue);
int ser_cuda_fork(ser_queue *queue);
int ser_cuda_join(ser_queue *queue);
int ser_cuda_capture_begin(ser_queue *queue);
int ser_cuda_capture_end(ser_queue *queue, bool failed, ser_graph **graph);
int ser_cuda_replay(ser_queue *queue, ser_graph *graph);
void ser_cuda_graph_free(ser_context *context, ser_graph *graph);

/* Scratch of the ops that need some; of the others it is 0. */
size_t ser_cuda_log_mel_scratch(const ser_queue *queue, const ser_log_mel_args *args);
size_t ser_cuda_wave_conv_scratch(const ser_queue *queue, const ser_wave_conv_args *args);
size_t ser_cuda_conv_scratch(const ser_queue *queue, const ser_conv_args *args);
size_t ser_cuda_linear_scratch(const ser_queue *queue, const ser_linear_args *args);
size_t ser_cuda_pos_conv_scratch(const ser_queue *queue, const ser_pos_conv_args *args);
size_t ser_cuda_weight_norm_scratch(const ser_queue *queue, const ser_weight_norm_args *args);
size_t ser_cuda_residual_norm_scratch(const ser_queue *queue, const ser_residual_norm_args *args);
size_t ser_cuda_attention_scratch(const ser_queue *queue, const ser_attention_args *args);
size_t ser_cuda_layer_mix_scratch(const ser_queue *queue, const ser_layer_mix_args *args);
size_t ser_cuda_attn_pool_scratch(const ser_queue *queue, const ser_attn_pool_args *args);
size_t ser_cuda_sum_squares_scratch(const ser_queue *queue, const ser_sum_squares_args *args);

/* The ops, one file each. */
int ser_cuda_gather(ser_queue *queue, const ser_gather_args *args);
int ser_cuda_log_mel_fwd(ser_queue *queue, const ser_log_mel_args *args);
int ser_cuda_mel_warp_fwd(ser_queue *queue, const ser_mel_warp_args *args);
int ser_cuda_wave_conv_fwd(ser_queue *queue, const ser_wave_conv_args *args);
int ser_cuda_wave_conv_bwd(ser_queue *queue, const ser_wave_conv_args *args);
int ser_cuda_conv_fwd(ser_queue *queue, const ser_conv_args *args);
int ser_cuda_conv_bwd(ser_queue *queue, const ser_conv_args *args);
int ser_cuda_linear_fwd(ser_queue *queue, const ser_linear_args *args);
int ser_cuda_linear_bwd(ser_queue *queue, const ser_linear_args *args);
int ser_cuda_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args);
int ser_cuda_pos_conv_bwd(ser_queue *queue, const ser_pos_conv_args *args);
int ser_cuda_weight_norm_fwd(ser_queue *queue, const ser_weight_norm_args *args);
int ser_cuda_weight_norm_bwd(ser_queue *queue, const ser_weight_norm_args *args);
int ser_cuda_residual_norm_fwd(ser_queue *queue, const ser_residual_norm_args *args);
int ser_cuda_residual_norm_bwd(ser_queue *queue, const ser_residual_norm_args *args);
int ser_cuda_attention_fwd(ser_queue *queue, const ser_attention_args *args);
int ser_cuda_attention_bwd(ser_queue *queue, const ser_attention_args *args);
int ser_cuda_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args);
int ser_cuda_layer_mix_bwd(ser_queue *queue, const ser_layer_mix_args *args);
int ser_cuda_attn_pool_fwd(ser_queue *queue, const ser_attn_pool_args *args);
int ser_cuda_attn_pool_bwd(ser_queue *queue, const ser_attn_pool_args *args);
int ser_cuda_cross_entropy_fwd(ser_queue *queue, const ser_cross_entropy_args *args);
int ser_cuda_cross_entropy_bwd(ser_queue *queue, const ser_cross_entropy_args *args);
int ser_cuda_dropout_fwd(ser_queue *queue, const ser_dropout_args *args);
int ser_cuda_dropout_bwd(ser_queue *queue, const ser_dropout_args *args);
int ser_cuda_span_mask(ser_queue *queue, const ser_span_mask_args *args);
int ser_cuda_sum_squares(ser_queue *queue, const ser_sum_squares_args *args);
int ser_cuda_adamw(ser_queue *queue, const ser_adamw_args *args);

/* to = from, f32 to bf16 or back, or the same type; the shapes are equal (convert.cu). */
int ser_cuda_convert(ser_queue *queue, const ser_tensor *from, const ser_tensor *to);

/* The rest of a convolution in place of the raw product z [batch * padded, C]:
 * y = GELU(norm(z + bias)) on the valid rows, zeros on the others (conv_tail.cu). */
typedef struct cuda_conv_tail {
    const ser_tensor *z;
    ser_rows rows;
    int32_t norm;                   /* SER_CONV_NORM_NONE or _LAYER */
    const ser_tensor *bias;         /* absent: none */
    const ser_tensor *gamma, *beta; /* with the norm */
    const ser_tensor
        *saved;          /* gets z + bias, zeros on invalid rows; may be z; absent: not wanted */
    const ser_tensor *y; /* may be z where nothing is saved */
} cuda_conv_tail;
int ser_cuda_conv_tail(ser_queue *queue, const cuda_conv_tail *tail);

/* Zeros in the invalid rows (conv_tail.cu). */
int ser_cuda_zero_padding(ser_queue *queue, const ser_tensor *y, const ser_rows *rows);

/* sums[c] += sum of x[row, c] over the valid rows, f32 in a fixed order: the gradient of a bias. x may
 * be of either type; `scratch` has the bytes that ser_cuda_column_sums_scratch says (column_sums.cu).
 */
size_t ser_cuda_column_sums_scratch(const ser_queue *queue, const ser_tensor *x);
int ser_cuda_column_sums(ser_queue *queue, const ser_tensor *x, const ser_rows *rows, float *sums,
                         void *scratch);

/* The filled table (cuda.c). */
extern const ser_ops ser_cuda_ops;

#ifdef __cplusplus
}
#endif

#endif
