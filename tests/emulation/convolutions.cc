/* SPDX-License-Identifier: MIT */
/* convolutions.h without cuDNN: never, or, with SER_CUDNN=1, wherever it could be, by a plain loop.
 * As with the library z is not rounded before the GELU. */
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "ops/cuda/convolutions.h"
#include "ops/cuda/launch.cuh"

namespace
{

constexpr size_t SCRATCH = 2000; /* more than a product has */
constexpr unsigned THREADS = 64;

struct convolution {
    const bf16 *x; /* the first tap of row 0 */
    const bf16 *w;
    const bf16 *bias; /* or NULL */
    bf16 *y;
    int64_t rows, in, out, kernel, stride;
};

/* One element of y per thread. */
__global__ void __launch_bounds__(THREADS) convolve(const convolution c)
{
    const int64_t at = int64_t{blockIdx.x} * THREADS + threadIdx.x;
    if (at >= c.rows * c.out) {
        return;
    }
    const bf16 *x = c.x + at / c.out * c.stride * c.in;
    const bf16 *w = c.w + at % c.out * c.kernel * c.in;
    float sum = 0.0f;
    for (int64_t i = 0; i < c.kernel * c.in; i++) {
        sum += to_float(x[i]) * to_float(w[i]);
    }
    sum += c.bias != nullptr ? to_float(c.bias[at % c.out]) : 0.0f;
    c.y[at] = from_float<bf16>(gelu(sum));
}

bool wanted(const cuda_convolution *call)
{
    const char *choice = getenv("SER_CUDNN");
    return choice != nullptr && strcmp(choice, "1") == 0 && call->x.cols % 8 == 0 &&
           call->y.cols % 8 == 0 && call->y.rows > 0;
}

/* What the library leaves in its workspace. */
int use_scratch(cuda_queue *queue)
{
    if (queue->base.scratch_size < SCRATCH) {
        return ser_fail(SER_ERR_INTERNAL, "convolution: no scratch was planned");
    }
    const cudaError_t error = cudaMemsetAsync(queue->base.scratch, 0xFF, SCRATCH, queue->stream);
    return ser_cuda_status(queue->base.context, error, "a convolution");
}

} // namespace

bool ser_convolution_ready(cuda_queue *, const cuda_convolution *call, const cuda_way *)
{
    return wanted(call);
}

size_t ser_convolutions_scratch(const ser_queue *, const cuda_convolution *call)
{
    return wanted(call) ? SCRATCH : 0;
}

int ser_convolution_run(cuda_queue *queue, const cuda_convolution *call)
{
    const convolution c = {
        .x = static_cast<const bf16 *>(call->x.data) - call->padding * call->x.cols,
        .w = static_cast<const bf16 *>(call->w->bf16),
        .bias = static_cast<const bf16 *>(call->bias.data),
        .y = static_cast<bf16 *>(call->y.data),
        .rows = call->y.rows,
        .in = call->x.cols,
        .out = call->y.cols,
        .kernel = call->kernel,
        .stride = call->stride,
    };
    int status = use_scratch(queue);
    if (status == 0) {
        status =
            ser_launch(&queue->base, {ser_grid(c.rows * c.out, THREADS), THREADS, 0}, convolve, c);
    }
    return status == 0 && call->ends != nullptr
               ? ser_cuda_zero_padding(&queue->base, &call->y, call->ends)
               : status;
}

void ser_convolutions_free(ser_convolutions *)
{
}
