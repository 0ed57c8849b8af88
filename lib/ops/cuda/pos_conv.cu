/* SPDX-License-Identifier: MIT */
/*
 * y = x + GELU(conv(x) + bias), grouped over channels, stride 1.
 *
 * A block has one clip, one group and a tile of frames. The group's channels of the tile's frames
 * and of those that its taps reach lie in shared memory as a slice, zeros where the clip has no
 * valid frame, so every tap is a product of the slice, `tap` rows further down, with that tap's
 * weights.
 *
 * bf16, groups of 8, 16 .. 64 channels: tensor cores (pos_conv_tensor.cuh); the weights stream
 * through two stages. Where that leaves the card idle, several blocks share the taps and another
 * kernel adds up their parts. Everything else (f32, other widths, very long kernels): portable
 * loops (pos_conv_portable.cuh).
 *
 * The data gradient is the same sum with `before` = kernel - 1 - kernel / 2 and transposed weights
 * in reverse order (pos_conv_backward.cu).
 */
#include "ops/cuda/pos_conv_launch.cuh"

namespace
{

template <typename T>
int forward(ser_queue *queue, const ser_pos_conv_args *args, const conv_size &size, const plan &p)
{
    conv_call<T> call = call_of<T>(size, p, queue->scratch);
    call.x = static_cast<const T *>(args->x.data);
    call.w = static_cast<const T *>(cuda_weight_data(args->w, size.type));
    call.bias = static_cast<const float *>(args->bias.data);
    call.y = static_cast<T *>(args->y.data);
    call.z = static_cast<T *>(args->z.data);
    call.valid = args->rows.valid;
    call.before = args->kernel / 2;
    return launch_conv<FORWARD>(queue, size, p, call);
}

} // namespace

size_t ser_cuda_pos_conv_scratch(const ser_queue *queue, const ser_pos_conv_args *args)
{
    size_t need = 0;
    if (args->x.rows > 0 && args->y.rows > 0) {
        const conv_size size = size_of(args, args->x);
        need = parts_size(size, plan_of<FORWARD>(queue, size));
    }
    const size_t backward = args->dy.rows > 0 ? ser_cuda_pos_conv_bwd_scratch(queue, args) : 0;
    return backward > need ? backward : need;
}

int ser_cuda_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    const conv_size size = size_of(args, args->x);
    const plan p = plan_of<FORWARD>(queue, size);
    return size.type == SER_BF16 ? forward<bf16>(queue, args, size, p)
                                 : forward<float>(queue, args, size, p);
}
