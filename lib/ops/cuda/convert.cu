/* SPDX-License-Identifier: MIT */
/* to = from, rounded to nearest even where bf16 has fewer digits. */
#include "ops/cuda/packs.cuh"

namespace
{

template <typename From, typename To> struct arrays {
    const From *from; /* [count] */
    To *to;           /* [count] */
    int64_t count;
    bool aligned;
};

template <typename From, typename To>
__global__ void __launch_bounds__(PACK_THREADS) convert(const arrays<From, To> a)
{
    for (int64_t at = pack_first(); at < a.count; at += pack_stride()) {
        float x[PACK];
        load_pack(a.from + at, a.count - at, a.aligned, x);
        store_pack(a.to + at, a.count - at, a.aligned, x);
    }
}

template <typename From, typename To>
int launch(ser_queue *queue, const ser_tensor *from, const ser_tensor *to)
{
    const arrays<From, To> a = {
        .from = static_cast<const From *>(from->data),
        .to = static_cast<To *>(to->data),
        .count = to->rows * to->cols,
        .aligned = ser_pack_aligned(from->data) && ser_pack_aligned(to->data),
    };
    return ser_launch(queue, ser_pack_shape(queue, a.count), convert<From, To>, a);
}

} // namespace

int ser_cuda_convert(ser_queue *queue, const ser_tensor *from, const ser_tensor *to)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    if (from->type == to->type) { /* every bit, also a NaN's */
        const size_t size = static_cast<size_t>(to->rows * to->cols) * cuda_element_size(to->type);
        return ser_cuda_status(queue->context,
                               cudaMemcpyAsync(to->data, from->data, size, cudaMemcpyDeviceToDevice,
                                               cuda_queue_of(queue)->stream),
                               "a copy on the device");
    }
    return to->type == SER_BF16 ? launch<float, bf16>(queue, from, to)
                                : launch<bf16, float>(queue, from, to);
}
