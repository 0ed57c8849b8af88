/* SPDX-License-Identifier: MIT */
/* The language of kernels, against plain loops. */
#include "test_emulation.h"

#include <cuda_bf16.h>

#include "emulated_mma.h"

namespace
{

/* -- Threads, barriers, shared memory */

__global__ void indices_kernel(int *out)
{
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;

    out[block * threads + thread] += static_cast<int>(block * 1000 + thread);
}

START_TEST(test_indices)
{
    buffer<int> out(2 * 3 * 2 * 60);

    for (uint64_t seed = 0; seed < 3; seed++) {
        emulator_shuffle(seed);
        ck_assert_int_eq(cudaMemset(out.device, 0, out.count * sizeof(int)), cudaSuccess);
        run(indices_kernel, dim3(2, 3, 2), dim3(5, 4, 3), 0, out.device);
        out.download();
        for (int i = 0; i < 12 * 60; i++) {
            ck_assert_int_eq(out.host[i], i / 60 * 1000 + i % 60);
        }
    }
    ck_assert_uint_eq(emulator_launches(), 3);
}
END_TEST

/* Each thread sees what its neighbour wrote, twice, in static and in dynamic shared memory. */
__global__ void rotate_kernel(int *out, int *votes)
{
    __shared__ int fixed[1024];
    SER_SHARED(int, dynamic);
    const unsigned i = threadIdx.x, next = (i + 1) % blockDim.x;

    fixed[i] = static_cast<int>(i) + static_cast<int>(blockIdx.x);
    __syncthreads();
    const int seen = fixed[next];
    dynamic[i] = 2 * seen;
    __syncthreads();
    out[blockIdx.x * blockDim.x + i] = dynamic[next];
    const int any = __syncthreads_or(i == 3), all = __syncthreads_and(i != 3);
    const int count = __syncthreads_count(i < 7);
    if (i == 0) {
        votes[blockIdx.x] = any * 10000 + all * 1000 + count;
    }
}

START_TEST(test_barriers)
{
    const int threads = 70;
    buffer<int> out(5 * 70), votes(5);

    for (uint64_t seed = 0; seed < 20; seed++) {
        emulator_shuffle(seed);
        run(rotate_kernel, 5, threads, threads * sizeof(int), out.device, votes.device);
        out.download();
        votes.download();
        for (int i = 0; i < 5 * threads; i++) {
            ck_assert_int_eq(out.host[i], 2 * ((i % threads + 2) % threads + i / threads));
        }
        for (int i = 0; i < 5; i++) {
            ck_assert_int_eq(votes.host[i], 10000 + 7);
        }
    }
}
END_TEST

__global__ void uninitialised_kernel(float *out)
{
    SER_SHARED(float, shared);
    out[threadIdx.x] = shared[threadIdx.x];
    shared[threadIdx.x] = 1.0f;
}

START_TEST(test_memory_begins_as_nan)
{
    buffer<float> out(8);

    out.download();
    ck_assert(std::isnan(out.host[0]) && std::isnan(out.host[7]));
    run(uninitialised_kernel, 2, 8, 8 * sizeof(float), out.device);
    out.download();
    for (int i = 0; i < 8; i++) {
        ck_assert(std::isnan(out.host[i]));
    }
    ck_assert_uint_eq(reinterpret_cast<uintptr_t>(out.device) % 512, 256);
}
END_TEST

__global__ void __launch_bounds__(1024) deep_kernel(int *out)
{
    int local[2048];
    for (unsigned i = 0; i < 2048; i++) {
        local[i] = static_cast<int>(i + threadIdx.x);
    }
    __syncthreads();
    int sum = 0;
    for (unsigned i = 0; i < 2048; i++) {
        sum += local[(i * 7) % 2048];
    }
    out[threadIdx.x] = sum;
}

START_TEST(test_many_threads_with_locals)
{
    buffer<int> out(1024);

    run(deep_kernel, 2, 1024, 0, out.device);
    out.download();
    for (int i = 0; i < 1024; i++) {
        ck_assert_int_eq(out.host[i], 2047 * 1024 + 2048 * i);
    }
}
END_TEST

/* -- Warps */

template <typename T> __global__ void shuffle_kernel(T *out, int width)
{
    const int i = static_cast<int>(threadIdx.x);
    const T x = static_cast<T>(i * i + 1);

    out[i] = __shfl_sync(ALL, x, i * 5 + 3, width);
    out[32 + i] = __shfl_up_sync(ALL, x, 3, width);
    out[64 + i] = __shfl_down_sync(ALL, x, 3, width);
    out[96 + i] = __shfl_xor_sync(ALL, x, 5, width);
}

template <typename T> void check_shuffles()
{
    buffer<T> out(128);

    for (int width = 4; width <= 32; width *= 2) {
        run(shuffle_kernel<T>, 1, 32, 0, out.device, width);
        out.download();
        for (int i = 0; i < 32; i++) {
            const int first = i / width * width, last = first + width - 1;
            const int from[] = {first + (i * 5 + 3) % width, i - 3 >= first ? i - 3 : i,
                                i + 3 <= last ? i + 3 : i, (i ^ 5) <= last ? i ^ 5 : i};
            for (int k = 0; k < 4; k++) {
                ck_assert(out.host[32 * k + i] == static_cast<T>(from[k] * from[k] + 1));
            }
        }
    }
}

START_TEST(test_shuffles)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        emulator_shuffle(seed);
        check_shuffles<int>();
        check_shuffles<unsigned>();
        check_shuffles<float>();
        check_shuffles<double>();
        check_shuffles<int64_t>();
        check_shuffles<uint64_t>();
    }
}
END_TEST

/* The two halves of a warp go separate ways; some threads end before the others' collective. */
__global__ void partial_kernel(unsigned *out)
{
    const unsigned i = threadIdx.x;
    unsigned x = i;

    if (i < 16) {
        for (int k = 0; k < 3; k++) {
            x += __shfl_xor_sync(0xffffu, x, 1);
        }
    } else {
        x = __ballot_sync(0xffff0000u, i % 3 == 0);
    }
    __syncwarp();
    out[i] = x;
    if (i >= 20) {
        return;
    }
    out[32 + i] = __ballot_sync(ALL, 1) + __activemask();
    out[64 + i] = static_cast<unsigned>(__any_sync(ALL, i == 7)) * 100 +
                  static_cast<unsigned>(__all_sync(ALL, i < 20)) * 10 +
                  static_cast<unsigned>(__all_sync(ALL, i < 19));
    out[96 + i] =
        __reduce_add_sync(ALL, i) + __reduce_max_sync(ALL, i) + __reduce_min_sync(ALL, i + 1);
}

START_TEST(test_partial_warps)
{
    buffer<unsigned> out(128);
    unsigned thirds = 0;

    for (unsigned i = 16; i < 32; i++) {
        thirds |= (i % 3 == 0 ? 1u : 0u) << i;
    }
    for (uint64_t seed = 0; seed < 10; seed++) {
        emulator_shuffle(seed);
        run(partial_kernel, 1, 32, 0, out.device);
        out.download();
        for (unsigned i = 0; i < 32; i++) {
            ck_assert_uint_eq(out.host[i], i < 16 ? 4 * (i + (i ^ 1)) : thirds);
        }
        for (unsigned i = 0; i < 20; i++) {
            ck_assert_uint_eq(out.host[32 + i], 2 * 0xfffffu);
            ck_assert_uint_eq(out.host[64 + i], 110);
            ck_assert_uint_eq(out.host[96 + i], 190 + 19 + 1);
        }
    }
}
END_TEST

__global__ void absent_lane_kernel(float *out)
{
    out[threadIdx.x] = __shfl_down_sync(ALL, 1.0f, 4);
}

/* A block of 20 threads: what comes from lanes 20 and up is a NaN. */
START_TEST(test_absent_lanes)
{
    buffer<float> out(20);

    run(absent_lane_kernel, 1, 20, 0, out.device);
    out.download();
    ck_assert(out.host[15] == 1.0f);
    ck_assert(std::isnan(out.host[16]) && std::isnan(out.host[19]));
}
END_TEST

/* -- Atomics and intrinsics */

__global__ void atomics_kernel(int *i, unsigned *u, unsigned long long *l, float *f, double *d)
{
    const int t = static_cast<int>(threadIdx.x);

    atomicAdd(&i[0], t);
    atomicMax(&i[1], t % 50);
    atomicMin(&i[2], -t);
    if (atomicCAS(&i[3], 0, 5) == 0) {
        atomicAdd(&i[4], 1);
    }
    atomicAdd(&u[0], 1);
    atomicMax(&u[1], static_cast<unsigned>(t));
    atomicOr(&u[2], 1u << t % 32);
    atomicAdd(&l[0], 1ULL << 40);
    atomicAdd(&f[0], 0.5f);
    atomicExch(&f[1], 7.0f);
    atomicAdd(&d[0], 0.25);
}

START_TEST(test_atomics)
{
    buffer<int> i(5);
    buffer<unsigned> u(3);
    buffer<unsigned long long> l(1);
    buffer<float> f(2);
    buffer<double> d(1);

    cudaMemset(i.device, 0, 5 * sizeof(int));
    cudaMemset(u.device, 0, 3 * sizeof(unsigned));
    cudaMemset(l.device, 0, sizeof(unsigned long long));
    cudaMemset(f.device, 0, 2 * sizeof(float));
    cudaMemset(d.device, 0, sizeof(double));
    run(atomics_kernel, 2, 100, 0, i.device, u.device, l.device, f.device, d.device);
    i.download();
    u.download();
    l.download();
    f.download();
    d.download();
    ck_assert(i.host[0] == 9900 && i.host[1] == 49 && i.host[2] == -99);
    ck_assert(i.host[3] == 5 && i.host[4] == 1);
    ck_assert(u.host[0] == 200 && u.host[1] == 99 && u.host[2] == ALL);
    ck_assert(l.host[0] == 200ULL << 40 && f.host[0] == 100 && f.host[1] == 7 && d.host[0] == 50);
}
END_TEST

START_TEST(test_intrinsics)
{
    ck_assert_uint_eq(__byte_perm(0x33221100, 0x77665544, 0x7531), 0x77553311);
    ck_assert_uint_eq(__byte_perm(0x00008000, 0, 0x9990 | 0x0), 0xffffff00);
    ck_assert_uint_eq(__umulhi(0xffffffffu, 0x10u), 0xf);
    ck_assert(__clz(0) == 32 && __clz(1) == 31 && __popc(0xf0) == 4 && __ffs(8) == 4);
    ck_assert(min(-1, 3u) == 3u && max(2, 3) == 3 && min(2.0f, NAN) == 2.0f);
    ck_assert(rsqrtf(4.0f) == 0.5f && cospif(0.5f) < 1e-7f && __fmaf_rn(2, 3, 4) == 10);
    ck_assert_uint_eq(__brev(1), 0x80000000u);
    ck_assert_uint_eq(__funnelshift_l(0x80000000u, 1, 1), 3);
    ck_assert_uint_eq(__float_as_uint(1.0f), 0x3f800000u);
}
END_TEST

/* Every f32 half-way between two bf16 goes to the even one. */
START_TEST(test_bf16)
{
    unsigned wrong = 0;

    for (unsigned bits = 0; bits < 0x7f80; bits++) {
        const unsigned up = bits + 1, even = bits % 2 ? up : bits;
        wrong += __float2bfloat16_rn(__uint_as_float(bits << 16 | 0x8000)).__x != even;
        wrong += __float2bfloat16_rn(__uint_as_float(bits << 16 | 0x7fff)).__x != bits;
        wrong += __float2bfloat16_rn(__uint_as_float(bits << 16 | 0x8001)).__x != up;
    }
    ck_assert_uint_eq(wrong, 0);
    ck_assert_uint_eq(__float2bfloat16_rn(-INFINITY).__x, 0xff80);
    ck_assert(std::isnan(__bfloat162float(__float2bfloat16_rn(__uint_as_float(0x7f800001)))));
    const __nv_bfloat162 pair = __floats2bfloat162_rn(1.5f, -2.0f);
    ck_assert(__low2float(pair) == 1.5f && __high2float(pair) == -2.0f);
}
END_TEST

/* -- Tensor cores */

/* d [16, 8] = a [16, 16] b [16, 8] + c, twice: fragments by hand, and by ldmatrix. b is given by
 * columns, b_rows by rows. */
__global__ void mma_kernel(const uint16_t *a, const uint16_t *b, const uint16_t *b_rows,
                           const float *c, float *d)
{
    SER_SHARED(uint16_t, shared);
    const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
    float x[4], y[4];
    uint32_t fa[4], fb[2], ga[4], gb[2], gt[2];

    for (unsigned i = lane; i < 256; i += 32) {
        shared[i] = a[i];
    }
    for (unsigned i = lane; i < 128; i += 32) {
        shared[256 + i] = b[i];
        shared[384 + i] = b_rows[i];
    }
    __syncwarp();
    for (unsigned r = 0; r < 4; r++) {
        const unsigned at = (g + r % 2 * 8) * 16 + t * 2 + r / 2 * 8;
        fa[r] = a[at] | static_cast<uint32_t>(a[at + 1]) << 16;
        x[r] = y[r] = c[(g + r / 2 * 8) * 8 + t * 2 + r % 2];
    }
    for (unsigned r = 0; r < 2; r++) {
        const unsigned at = g * 16 + t * 2 + r * 8;
        fb[r] = b[at] | static_cast<uint32_t>(b[at + 1]) << 16;
    }
    mma_m16n8k16(x, fa, fb);
    /* matrices: rows 0-7 and 8-15 of the left half, then of the right half */
    ldmatrix_x4(ga, shared + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2(gb, shared + 256 + lane % 8 * 16 + lane / 8 % 2 * 8);
    ldmatrix_x2_trans(gt, shared + 384 + lane % 16 * 8);
    mma_m16n8k16(y, ga, gb);
    for (unsigned r = 0; r < 4; r++) {
        const unsigned at = (g + r / 2 * 8) * 8 + t * 2 + r % 2;
        d[at] = x[r];
        d[128 + at] = gt[0] == gb[0] && gt[1] == gb[1] ? y[r] : NAN;
    }
}

START_TEST(test_mma)
{
    buffer<uint16_t> a(256), b(128), b_rows(128);
    buffer<float> c(128), d(256);

    for (int i = 0; i < 256; i++) {
        a.host[i] = __float2bfloat16(static_cast<float>((i * 37 + 11) % 64 - 31)).__x;
    }
    for (int i = 0; i < 128; i++) {
        b.host[i] = __float2bfloat16(static_cast<float>((i * 53 + 5) % 32 - 15)).__x;
        b_rows.host[i % 16 * 8 + i / 16] = b.host[i];
        c.host[i] = static_cast<float>(i);
    }
    a.upload();
    b.upload();
    b_rows.upload();
    c.upload();
    run(mma_kernel, 1, 32, 1024, a.device, b.device, b_rows.device, c.device, d.device);
    d.download();
    for (int row = 0; row < 16; row++) {
        for (int column = 0; column < 8; column++) {
            float sum = c.host[row * 8 + column];
            for (int k = 0; k < 16; k++) {
                sum += __bfloat162float({a.host[row * 16 + k]}) *
                       __bfloat162float({b.host[column * 16 + k]});
            }
            ck_assert(d.host[row * 8 + column] == sum);
            ck_assert(d.host[128 + row * 8 + column] == sum);
        }
    }
}
END_TEST

/* Copies arrive at the wait for their group, not before. */
__global__ void copy_kernel(const float *from, float *out)
{
    SER_SHARED(float, shared);
    const unsigned i = threadIdx.x;

    for (unsigned stage = 0; stage < 3; stage++) {
        cp_async_16(shared + stage * 32 + 4 * i, from + stage * 32 + 4 * i, i != 5);
        cp_async_commit();
    }
    out[i] = shared[4 * i];
    cp_async_wait<1>();
    out[8 + i] = shared[32 + 4 * i];
    out[16 + i] = shared[64 + 4 * i];
    cp_async_wait<0>();
    out[24 + i] = shared[64 + 4 * i + 3];
}

START_TEST(test_asynchronous_copies)
{
    buffer<float> from(96), out(32);

    for (int i = 0; i < 96; i++) {
        from.host[i] = static_cast<float>(i);
    }
    from.upload();
    run(copy_kernel, 1, 8, 3 * 32 * sizeof(float), from.device, out.device);
    out.download();
    for (int i = 0; i < 8; i++) {
        ck_assert(std::isnan(out.host[i]) && std::isnan(out.host[16 + i]));
        ck_assert(out.host[8 + i] == (i == 5 ? 0.0f : static_cast<float>(32 + 4 * i)));
        ck_assert(out.host[24 + i] == (i == 5 ? 0.0f : static_cast<float>(64 + 4 * i + 3)));
    }
}
END_TEST

/* -- The order of turns */

__global__ void order_kernel(int *next, int *out)
{
    __syncwarp();
    const int turn = atomicAdd(next, 1);
    out[blockIdx.x * blockDim.x + threadIdx.x] = turn;
}

START_TEST(test_order)
{
    buffer<int> next(1), out(128);
    int moved_blocks = 0, moved_threads = 0;

    for (uint64_t seed = 0; seed < 2; seed++) {
        emulator_shuffle(seed * 12345);
        cudaMemset(next.device, 0, sizeof(int));
        run(order_kernel, 4, 32, 0, next.device, out.device);
        out.download();
        for (int i = 0; i < 128 && seed == 0; i++) {
            ck_assert_int_eq(out.host[i], i);
        }
    }
    for (int i = 0; i < 128; i++) {
        moved_blocks += out.host[i] / 32 != i / 32;
        moved_threads += out.host[i] % 32 != i % 32;
    }
    ck_assert_int_gt(moved_blocks, 0);
    ck_assert_int_gt(moved_threads, 64);
}
END_TEST

} // namespace

int main()
{
    const TTest *const plain[] = {test_indices,
                                  test_barriers,
                                  test_memory_begins_as_nan,
                                  test_many_threads_with_locals,
                                  test_shuffles,
                                  test_partial_warps,
                                  test_absent_lanes,
                                  test_atomics,
                                  test_intrinsics,
                                  test_bf16,
                                  test_mma,
                                  test_asynchronous_copies,
                                  test_order,
                                  nullptr};
    const TTest *const aborting[] = {nullptr};
    return run_suite("emulated kernels", plain, aborting, nullptr, 0);
}
