/* SPDX-License-Identifier: MIT */
/* Gradients of attention: attention_backward_rows.cuh has the formulas and the scheme. */
#include "ops/cuda/attention_backward_mma.cuh"
#include "ops/cuda/attention_backward_plain.cuh"

namespace
{

template <typename T>
backward_problem<T> backward_problem_of(ser_queue *queue, const ser_attention_args *args)
{
    backward_problem<T> p = {};
    p.forward = problem_of<T>(args);
    p.dy = static_cast<const T *>(args->dy.data);
    p.dqkv = static_cast<T *>(args->dqkv.data);
    p.rows = static_cast<float2 *>(queue->scratch);
    p.scale = args->scale;
    if (p.forward.dropout.threshold > 0 && args->kept == nullptr) {
        p.forward.bits = reinterpret_cast<uint32_t *>(p.rows + args->rows.batch * args->heads *
                                                                   p.forward.row_pitch);
    }
    return p;
}

/* How a kernel wants to be launched. */
struct block_shape {
    int rows;   /* owned by a block */
    int pieces; /* of the gradients' columns */
    unsigned threads;
    size_t shared; /* bytes, without the masks */
    size_t masks;  /* bytes, with dropout only */
};

template <typename T, int N>
int run(ser_queue *queue, const ser_attention_args *args, void (*kernel)(const backward_problem<T>),
        const block_shape &block)
{
    backward_problem<T> p = backward_problem_of<T>(queue, args);
    p.forward.tiles = static_cast<int32_t>(cuda_ceil_div(args->rows.padded, block.rows));
    if (p.forward.bits != nullptr && args->kept == nullptr) { /* they are in the scratch */
        const dim3 words(static_cast<unsigned>(args->rows.batch * args->heads),
                         static_cast<unsigned>(p.forward.row_pitch / 32), 1);
        const int status =
            ser_launch(queue, {words, DRAW_THREADS, 0}, attention_draw<T>, p.forward);
        if (status != 0) {
            return status;
        }
    }
    const int64_t dots = args->rows.batch * (p.forward.row_pitch / DOT_ROWS) * p.forward.heads;
    const int status =
        ser_launch(queue, {ser_grid(dots, 1), DOT_THREADS, 0}, attention_dots<T, N>, p);
    if (status != 0) {
        return status;
    }
    const dim3 grid(static_cast<unsigned>(args->rows.batch * p.forward.tiles),
                    static_cast<unsigned>(p.forward.heads),
                    static_cast<unsigned>(2 * block.pieces));
    const size_t masks = p.forward.dropout.threshold > 0 ? block.masks : 0;
    return ser_launch(queue, {grid, block.threads, block.shared + masks}, kernel, p);
}

template <typename T, int N> int run_plain(ser_queue *queue, const ser_attention_args *args)
{
    const int64_t width = args->y.cols / args->heads;
    return run<T, N>(queue, args, attention_backward_plain<T, N>,
                     {OTHERS, static_cast<int>(cuda_ceil_div(width, DEPTH)), PLAIN_THREADS,
                      PLAIN_BACKWARD_MASKS, PLAIN_MASK_WORDS * sizeof(uint32_t)});
}

template <int WIDTH, int TILES> int run_mma(ser_queue *queue, const ser_attention_args *args)
{
    using places = backward_sizes<WIDTH, TILES>;
    return run<bf16, 8>(queue, args, attention_backward_mma<WIDTH, TILES>,
                        {mma_sizes<WIDTH, TILES>::ROWS, 1, MMA_THREADS, places::BYTES, 0});
}

/* Two tiles a warp read every other row half as often. That pays where two blocks fit on a
 * multiprocessor, and once there are two for each, as in forward. */
bool has_many_rows(const ser_queue *queue, const ser_attention_args *args)
{
    using places = backward_sizes<64, 2>;
    constexpr int ROWS = mma_sizes<64, 2>::ROWS;
    const ser_context *context = queue->context;
    const int64_t tiles = cuda_ceil_div(args->rows.padded, ROWS);
    const size_t shared = places::BYTES + 1024;
    return 2 * shared <= context->shared_limit && args->rows.padded > ROWS / 2 &&
           args->rows.batch * args->heads * tiles * 2 >= 2 * context->multiprocessors;
}

} // namespace

int ser_cuda_attention_bwd(ser_queue *queue, const ser_attention_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    const int64_t width = args->y.cols / args->heads; /* the cases are forward's */
    if (args->y.type == SER_F32) {
        return width % 4 != 0 ? run_plain<float, 1>(queue, args) : run_plain<float, 4>(queue, args);
    }
    if (width % 8 != 0 || width > 128) {
        return run_plain<bf16, 1>(queue, args);
    }
    if (width <= 32) {
        return run_mma<32, 1>(queue, args);
    }
    if (width <= 64) {
        return has_many_rows(queue, args) ? run_mma<64, 2>(queue, args)
                                          : run_mma<64, 1>(queue, args);
    }
    return width <= 80 ? run_mma<80, 1>(queue, args) : run_mma<128, 1>(queue, args);
}
