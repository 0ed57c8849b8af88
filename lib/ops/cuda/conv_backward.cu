/* SPDX-License-Identifier: MIT */
/*
 * Backward of y = GELU(norm(z)), z = conv(x) + bias, from z. All gradients of the convolution are
 * matrix products with dz, which lies in the scratch, zero on invalid rows. T = batch * padded is
 * the number of its rows.
 */
#include <ser/common.h>

#include "ops/cuda/conv.cuh"
#include "ops/cuda/packs.cuh"

namespace
{

/* Where things are in the scratch, in bytes behind what the products need. */
struct layout {
    int64_t before; /* zero rows in front of dz: what the first rows of dx reach back to */
    size_t dz, packed, partials;
    size_t size;
};

layout layout_of(const ser_queue *queue, const ser_conv_args *args)
{
    const size_t element = cuda_element_size(args->dy.type);
    const int64_t weights = args->dy.cols * args->w->spec.cols;
    const bool overlaps = args->dx.rows > 0 && args->kernel > args->stride;
    layout l = {};
    l.size = ser_products_scratch(queue);
    l.before = overlaps ? cuda_ceil_div(args->kernel, args->stride) - 1 : 0;
    l.dz = cuda_carve(&l.size,
                      static_cast<size_t>((l.before + args->dy.rows) * args->dy.cols) * element);
    l.packed = cuda_carve(&l.size, overlaps ? static_cast<size_t>(weights) * element : 0);
    const size_t bias = args->dbias.rows > 0 ? ser_cuda_column_sums_scratch(queue, &args->dy) : 0;
    const size_t norm = args->dgamma.rows > 0 || args->dbeta.rows > 0
                            ? ser_cuda_conv_tail_bwd_scratch(queue, &args->dy)
                            : 0;
    l.partials = cuda_carve(&l.size, bias > norm ? bias : norm);
    return l;
}

/* A call under way. */
struct call {
    ser_queue *queue;
    const ser_conv_args *args;
    int64_t inputs; /* channels of x */
    ser_tensor dz;
    void *packed; /* weights of a group */
    float *partials;
};

/*
 * dw += sum over t of dz[t]^T x[stride t - padding ...], `stride` taps at a time: as many frames do
 * not overlap those of the next row. x's padding is made zero, as dz is there. The last rows of dz
 * may see frames behind x, which hold anything: they are invalid, and left out.
 */
int weight_gradient(const call &c)
{
    const ser_conv_args *args = c.args;
    const int64_t frames = args->x.rows;
    cuda_product product = {};
    product.m = c.dz.cols;
    product.entries = 1;
    product.a = c.dz.data;
    product.lda = c.dz.cols;
    product.a_across = true;
    product.ldb = args->stride * c.inputs;
    product.b_across = true;
    product.ldd = args->dw.cols;
    product.type = args->x.type;
    product.d_type = SER_F32;
    product.accumulate = true;
    int status = ser_cuda_zero_padding(c.queue, &args->x, &args->rows_in);
    for (int64_t tap = 0; tap < args->kernel && status == 0; tap += args->stride) {
        const int64_t end = tap + args->stride < args->kernel ? tap + args->stride : args->kernel;
        const int64_t room = frames + args->padding - end; /* where the last row's frames begin */
        const int64_t rows = room >= 0 ? room / args->stride + 1 : 0;
        product.n = (end - tap) * c.inputs;
        product.k = rows < c.dz.rows ? rows : c.dz.rows;
        product.b = cuda_element(args->x.data, args->x.type, (tap - args->padding) * c.inputs);
        product.d = static_cast<float *>(args->dw.data) + tap * c.inputs;
        status = product.k > 0 ? ser_product_run(cuda_queue_of(c.queue), &product) : 0;
    }
    return status;
}

/*
 * With s + padding = stride q + r, 0 <= r < stride, frame s of x is seen by row q - j of dz through
 * tap r + stride j, so that
 *   dx[s] = sum over j of dz[q - j] w[r + stride j]
 * For one r this is a product whose rows overlap: `taps` rows of dz, the last tap first.
 * Neighbouring r with as many taps and the same first q are one product: their frames of dx are
 * neighbours too.
 */
struct phases {
    int64_t begin, end; /* r */
    int64_t taps;
    int64_t first; /* q of the first frame that is in x, not in the slack before it */
};

phases phases_from(const ser_conv_args *args, int64_t r)
{
    const int64_t hidden = args->padding > r ? args->padding - r : 0;
    return {r, r + 1, cuda_ceil_div(args->kernel - r, args->stride),
            cuda_ceil_div(hidden, args->stride)};
}

phases next_phases(const ser_conv_args *args, int64_t begin)
{
    const int64_t most = args->kernel < args->stride ? args->kernel : args->stride;
    phases p = phases_from(args, begin);
    for (; p.end < most; p.end++) {
        const phases next = phases_from(args, p.end);
        if (next.taps != p.taps || next.first != p.first) {
            break;
        }
    }
    return p;
}

/* packed[j, o, :] = w[o, begin + stride (taps - 1 - j) ..., :], `width` values */
template <typename T> struct packing {
    const T *w; /* [outputs, cols] */
    T *packed;  /* [taps, outputs, width] */
    int64_t outputs, cols, width;
    int64_t last; /* column of the last tap */
    int64_t step; /* columns from one tap to the next */
    int64_t count;
};

template <typename T>
__global__ void __launch_bounds__(PACK_THREADS) pack_weights(const packing<T> a)
{
    const int64_t stride = int64_t{gridDim.x} * PACK_THREADS;
    for (int64_t e = int64_t{blockIdx.x} * PACK_THREADS + threadIdx.x; e < a.count; e += stride) {
        const int64_t row = e / a.width;
        const int64_t tap = row / a.outputs;
        const int64_t o = row - tap * a.outputs;
        a.packed[e] = a.w[o * a.cols + a.last - tap * a.step + (e - row * a.width)];
    }
}

template <typename T> int pack(const call &c, const phases &p)
{
    packing<T> a = {};
    a.w = static_cast<const T *>(cuda_weight_data(c.args->w, c.dz.type));
    a.packed = static_cast<T *>(c.packed);
    a.outputs = c.dz.cols;
    a.cols = c.args->kernel * c.inputs;
    a.width = (p.end - p.begin) * c.inputs;
    a.last = (p.begin + c.args->stride * (p.taps - 1)) * c.inputs;
    a.step = c.args->stride * c.inputs;
    a.count = p.taps * a.outputs * a.width;
    return ser_launch(c.queue, ser_pack_shape(c.queue, a.count), pack_weights<T>, a);
}

/* The frames of dx that belong to some phases. */
int run_phases(const call &c, const phases &p)
{
    const ser_conv_args *args = c.args;
    const int64_t outputs = c.dz.cols;
    const int32_t type = c.dz.type;
    cuda_product product = {};
    product.m = c.dz.rows - p.first;
    product.n = (p.end - p.begin) * c.inputs;
    product.k = p.taps * outputs;
    product.entries = 1;
    product.a = cuda_element(c.dz.data, type, (p.first - (p.taps - 1)) * outputs);
    product.lda = outputs;
    product.b_across = true;
    product.d = cuda_element(args->dx.data, args->dx.type,
                             (args->stride * p.first + p.begin - args->padding) * c.inputs);
    product.ldd = args->stride * c.inputs;
    product.type = type;
    product.d_type = args->dx.type;
    if (product.m <= 0) {
        return 0;
    }
    if (p.taps == 1) {
        product.b = cuda_element(cuda_weight_data(args->w, type), type, p.begin * c.inputs);
        product.ldb = args->kernel * c.inputs;
        return ser_product_run(cuda_queue_of(c.queue), &product);
    }
    product.b = c.packed;
    product.ldb = product.n;
    const int status = type == SER_BF16 ? pack<bf16>(c, p) : pack<float>(c, p);
    return status == 0 ? ser_cuda_overlapping_product(cuda_queue_of(c.queue), product) : status;
}

int clear(const call &c, void *data, int64_t count)
{
    const size_t size = static_cast<size_t>(count) * cuda_element_size(c.dz.type);
    return ser_cuda_status(c.queue->context,
                           cudaMemsetAsync(data, 0, size, cuda_queue_of(c.queue)->stream),
                           "clearing memory");
}

/* No row of dz reaches valid frames of another clip; what it reaches of the padding between them is
 * made zero, as are the last frames, fewer than the padding, which no product has. */
int data_gradient(const call &c, int64_t before)
{
    const ser_conv_args *args = c.args;
    int status = 0;
    if (before > 0) {
        status =
            clear(c, cuda_element(c.dz.data, c.dz.type, -before * c.dz.cols), before * c.dz.cols);
    }
    if (status == 0 && args->kernel < args->stride) { /* some frames are never seen */
        status = clear(c, args->dx.data, args->dx.rows * args->dx.cols);
    }
    for (int64_t r = 0; r < args->stride && r < args->kernel && status == 0;) {
        const phases p = next_phases(args, r);
        status = run_phases(c, p);
        r = p.end;
    }
    return status == 0 ? ser_cuda_zero_padding(c.queue, &args->dx, &args->rows_in) : status;
}

int tail_gradients(const call &c)
{
    const cuda_conv_tail_gradients tail = {
        .z = &c.args->z,
        .dy = &c.args->dy,
        .rows = c.args->rows_out,
        .norm = c.args->norm,
        .gamma = &c.args->gamma,
        .beta = &c.args->beta,
        .dz = &c.dz,
        .dgamma = &c.args->dgamma,
        .dbeta = &c.args->dbeta,
        .partials = c.partials,
    };
    return ser_cuda_conv_tail_bwd(c.queue, &tail);
}

} // namespace

size_t ser_cuda_conv_bwd_scratch(const ser_queue *queue, const ser_conv_args *args)
{
    return layout_of(queue, args).size;
}

int ser_cuda_conv_bwd(ser_queue *queue, const ser_conv_args *args)
{
    const layout l = layout_of(queue, args);
    char *scratch = static_cast<char *>(queue->scratch);
    call c = {};
    c.queue = queue;
    c.args = args;
    c.inputs = args->w->spec.cols / args->kernel;
    c.dz = args->dy;
    c.dz.data = cuda_element(scratch + l.dz, args->dy.type, l.before * args->dy.cols);
    c.packed = scratch + l.packed;
    c.partials = reinterpret_cast<float *>(scratch + l.partials);
    int status = ser_cuda_enter(queue->context);
    status = status == 0 ? tail_gradients(c) : status;
    if (status == 0 && args->dbias.data != nullptr) {
        status = ser_cuda_column_sums(queue, &c.dz, &args->rows_out,
                                      static_cast<float *>(args->dbias.data), c.partials);
    }
    if (status == 0 && args->dw.data != nullptr) {
        status = weight_gradient(c);
    }
    return status == 0 && args->dx.data != nullptr ? data_gradient(c, l.before) : status;
}
