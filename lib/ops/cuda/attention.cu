/* SPDX-License-Identifier: MIT */
/*
 * Per clip and head: S = scale Q K^T, P = softmax(S) by rows, Y = dropout(P) V (Vaswani et al.
 * 2017), fused: neither S nor P exists in memory, and no scratch is needed. bf16 goes through
 * tensor cores where the head's width allows it (attention_mma.cuh), the rest through plain f32
 * arithmetic (attention_plain.cuh).
 */
#include "ops/cuda/attention_mma.cuh"
#include "ops/cuda/attention_plain.cuh"

namespace
{

/* How a kernel wants to be launched. */
struct block_shape {
    int rows;   /* queries of a tile */
    int pieces; /* of the output's columns */
    unsigned threads;
    size_t shared; /* bytes, without the masks */
};

template <typename T>
int run(ser_queue *queue, const ser_attention_args *args,
        void (*kernel)(const attention_problem<T>), const block_shape &block)
{
    attention_problem<T> p = problem_of<T>(args);
    p.tiles = static_cast<int32_t>(cuda_ceil_div(p.padded, block.rows));
    const size_t masks = p.dropout.threshold > 0 ? static_cast<size_t>(block.rows) * MASK_BYTES : 0;
    const dim3 grid(static_cast<unsigned>(args->rows.batch * p.tiles),
                    static_cast<unsigned>(p.heads), static_cast<unsigned>(block.pieces));
    return ser_launch_early(queue, {grid, block.threads, block.shared + masks}, kernel, p);
}

template <typename T, int COLUMNS, int N>
int run_plain(ser_queue *queue, const ser_attention_args *args)
{
    const int64_t width = args->y.cols / args->heads;
    return run<T>(queue, args, attention_plain<T, COLUMNS, N>,
                  {QUERIES, static_cast<int>(cuda_ceil_div(width, COLUMNS)), PLAIN_THREADS,
                   plain_sizes<COLUMNS>::MASKS});
}

template <int WIDTH, int TILES> int run_mma(ser_queue *queue, const ser_attention_args *args)
{
    using sizes = mma_sizes<WIDTH, TILES>;
    return run<bf16>(queue, args, attention_mma<WIDTH, TILES>,
                     {sizes::ROWS, 1, MMA_THREADS, sizes::MASKS});
}

/* Two tiles a warp read every key from shared memory half as often. That pays where two blocks fit
 * on a multiprocessor (its memory is about what one block may have, 1 KiB per block is the
 * system's), and once there are two for each. */
bool has_many_rows(const ser_queue *queue, const ser_attention_args *args)
{
    using sizes = mma_sizes<64, 2>;
    const ser_context *context = queue->context;
    const int64_t tiles = cuda_ceil_div(args->rows.padded, sizes::ROWS);
    return 2 * (sizes::MASKS + sizes::ROWS * MASK_BYTES + 1024) <= context->shared_limit &&
           args->rows.padded > sizes::ROWS / 2 &&
           args->rows.batch * args->heads * tiles >= 2 * context->multiprocessors;
}

} // namespace

size_t ser_cuda_attention_scratch(const ser_queue *queue, const ser_attention_args *args)
{
    (void)queue;
    if (args->dqkv.rows == 0) { /* forward needs none */
        return 0;
    }
    const ser_rows &rows = args->rows;
    const bool draws = args->dropout.p > 0.0f && args->kept == nullptr;
    const int64_t words =
        draws ? ser_attention_kept_words(rows.batch, rows.padded, args->heads) : 0;
    return static_cast<size_t>(rows.batch * args->heads * attention_row_pitch(rows.padded)) *
               sizeof(float2) +
           static_cast<size_t>(words) * sizeof(uint32_t);
}

int ser_cuda_attention_fwd(ser_queue *queue, const ser_attention_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    const int64_t width = args->y.cols / args->heads; /* what divides it divides every offset */
    if (args->y.type == SER_F32) {
        if (width % 4 != 0) {
            return run_plain<float, 64, 1>(queue, args);
        }
        return width <= 64 ? run_plain<float, 64, 4>(queue, args)
                           : run_plain<float, 128, 4>(queue, args);
    }
    if (width % 8 != 0 || width > 128) {
        return run_plain<bf16, 64, 1>(queue, args);
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
