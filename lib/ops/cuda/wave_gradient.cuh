/* SPDX-License-Identifier: MIT */
/*
 * Kernels of wave_conv's backward. With p_t the patch of frame t (the `kernel` samples under it),
 * u = norm(z), du = dy GELU'(u) and zhat the normed z, the gradients are
 *   dw = sum_t dz_t p_t,  dbias = sum_t dz_t,  dgamma = sum_t du_t zhat_t,  dbeta = sum_t du_t
 *
 * NONE: dz = du. LAYER, over the channels of a frame, with r = 1 / sqrt(variance + eps):
 *   dz = r (gamma du - mean_c(gamma du) - zhat mean_c(gamma du zhat))
 *
 * CLIP: with m and S the moments of the patches, zhat_t = r w.(p_t - m), r = 1 / sqrt(w.S.w + eps),
 *   A = sum_t du_t,  G = sum_t du_t (p_t - c),  B = sum_t du_t zhat_t = r (w.G - A w.(m - c))
 * the sums over the T frames of dz_t = gamma r (du_t - A / T - zhat_t B / T) are
 *   dw = gamma r (G - A (m - c) - r B S w),  dgamma = B,  dbeta = A,  dbias = 0
 * so that one pass over z and dy is enough. c, any number, is what offset the clip has: without it
 * all of G would be taken away again.
 *
 * That pass leaves sums of GRADIENT_FRAMES frames each; they are added up by clip, then over the
 * clips, in double and always in the same order.
 */
#ifndef SER_OPS_CUDA_WAVE_GRADIENT_CUH
#define SER_OPS_CUDA_WAVE_GRADIENT_CUH

#include "ops/cuda/wave_gelu.cuh"
#include "ops/cuda/wave_moments.cuh"

/* What is summed besides the taps, in the order of its rows. CLIP's pass sums du in place of dz and
 * leaves the last two to wave_sum_chunks. */
enum { SUM_DBIAS, SUM_DGAMMA, SUM_DBETA, SUM_EXTRA };

/* Rows behind the taps that the pass makes. */
template <int NORM> constexpr int PASS_EXTRA = NORM == SER_CONV_NORM_LAYER ? SUM_EXTRA : 1;

/* --- CLIP: u = scale z + shift --- */

constexpr int AFFINE_THREADS = 128;

struct wave_affine {
    wave_moments moments;
    const float *w;                   /* [channels, kernel] */
    const float *bias, *gamma, *beta; /* [channels]; no bias: NULL */
    int64_t channels, pitch;
    float *affine;  /* [batch, 2, pitch]: scale, shift */
    float *centres; /* [batch] */
};

/* c of a clip with these moments. */
__device__ __forceinline__ float centre_of(const double *m)
{
    return static_cast<float>(m[0]);
}

/* Block (clip, some channels). */
static __global__ void __launch_bounds__(AFFINE_THREADS) wave_find_affine(const wave_affine a)
{
    SER_SHARED(double, m);
    const int64_t clip = blockIdx.x;
    const int32_t kernel = a.moments.kernel;
    const double *s = m + kernel;
    find_moments(a.moments, clip, m, m + kernel);
    if (blockIdx.y == 0 && threadIdx.x == 0) {
        a.centres[clip] = centre_of(m);
    }
    const int64_t c = int64_t{blockIdx.y} * AFFINE_THREADS + threadIdx.x;
    if (c >= a.channels) {
        return;
    }
    const float *w = a.w + c * kernel;
    const double scale = static_cast<double>(a.gamma[c]) * norm_inverse(w, s, kernel);
    double mean = a.bias != nullptr ? static_cast<double>(a.bias[c]) : 0.0;
    for (int32_t i = 0; i < kernel; i++) {
        mean = fma(static_cast<double>(w[i]), m[i], mean);
    }
    float *affine = a.affine + clip * 2 * a.pitch + c;
    affine[0] = static_cast<float>(scale);
    affine[a.pitch] = static_cast<float>(static_cast<double>(a.beta[c]) - mean * scale);
}

/* --- LAYER: what a frame's channels have in common --- */

constexpr int COMMON_WARPS = 4;
constexpr int COMMON_THREADS = COMMON_WARPS * WARP;

template <typename T> struct wave_common {
    const T *z, *dy; /* [batch * padded, channels] */
    const int32_t *valid;
    int64_t batch, padded;
    int32_t channels;
    const float *gamma, *beta;
    float4 *common; /* [batch * padded]: mean, r, mean of gamma du, mean of gamma du zhat */
};

/* A warp for every frame. After the first of its three sweeps z is in the cache. */
template <typename T, int V>
static __global__ void __launch_bounds__(COMMON_THREADS) wave_find_common(const wave_common<T> a)
{
    const int64_t row = int64_t{blockIdx.x} * COMMON_WARPS + threadIdx.x / WARP;
    if (row >= a.batch * a.padded || row % a.padded >= a.valid[row / a.padded]) {
        return;
    }
    const int32_t begin = static_cast<int32_t>(threadIdx.x % WARP) * V;
    const float count = static_cast<float>(a.channels);
    const T *z = a.z + row * a.channels;
    const T *dy = a.dy + row * a.channels;
    float x[V];
    float sum = 0.0f;
    for (int32_t c = begin; c < a.channels; c += WARP * V) {
        load(z + c, x);
#pragma unroll
        for (int v = 0; v < V; v++) {
            sum += x[v];
        }
    }
    const float mean = warp_sum(sum) / count;
    float squares = 0.0f;
    for (int32_t c = begin; c < a.channels; c += WARP * V) {
        load(z + c, x);
#pragma unroll
        for (int v = 0; v < V; v++) {
            squares = fmaf(x[v] - mean, x[v] - mean, squares);
        }
    }
    const float inverse =
        1.0f / sqrtf(warp_sum(squares) / count + static_cast<float>(WAVE_NORM_EPS));
    float first = 0.0f;
    float second = 0.0f;
    for (int32_t c = begin; c < a.channels; c += WARP * V) {
        float g[V];
        float gamma[V];
        float beta[V];
        load(z + c, x);
        load(dy + c, g);
        load(a.gamma + c, gamma);
        load(a.beta + c, beta);
#pragma unroll
        for (int v = 0; v < V; v++) {
            const float normed = (x[v] - mean) * inverse;
            const float d = g[v] * gelu_gradient_for<T>(fmaf(normed, gamma[v], beta[v])) * gamma[v];
            first += d;
            second = fmaf(d, normed, second);
        }
    }
    first = warp_sum(first) / count;
    second = warp_sum(second) / count;
    if (threadIdx.x % WARP == 0) {
        a.common[row] = make_float4(mean, inverse, first, second);
    }
}

/* --- The pass over z and dy --- */

/*
 * A block sums GRADIENT_FRAMES frames of a clip, GRADIENT_TAPS taps and 32 packs of V channels. Its
 * warps take turns of AHEAD frames, whose values are all under way at a time. The patches lie in
 * shared memory one by one, so that a lane reads them four samples at a time, whatever the stride.
 */
constexpr int GRADIENT_FRAMES = 256;
constexpr int GRADIENT_TAPS = 10;
constexpr int PATCH_QUADS = 3;
constexpr int PATCH_SIZE = 4 * PATCH_QUADS;
constexpr int GRADIENT_WARPS = 4;
constexpr int GRADIENT_THREADS = GRADIENT_WARPS * WARP;
constexpr int AHEAD = 4;

template <typename T> struct wave_gradient {
    const float *pcm; /* [batch * padded_in] */
    int64_t padded_in;
    const int32_t *valid; /* [batch] frames */
    int64_t padded;       /* frames */
    int64_t chunks;       /* of GRADIENT_FRAMES, in the padded length */
    int32_t kernel, stride;
    int32_t tiles;        /* of GRADIENT_TAPS taps */
    const float *centres; /* CLIP: [batch] */
    const float *scale;   /* CLIP: [batch, 2, pitch]; LAYER: gamma */
    const float *shift;   /* CLIP: behind scale; LAYER: beta */
    int64_t affine_size;  /* CLIP: floats from one clip's scale to the next; LAYER: 0 */
    const float4 *common; /* LAYER: [batch * padded] */
    int64_t channels, pitch;
    const T *z, *dy; /* [batch * padded, channels] */
    float *sums;     /* [batch, chunks, kernel + PASS_EXTRA, pitch]; empty chunks undefined */
};

/* Where a block stands. */
struct gradient_block {
    int64_t clip, chunk, first; /* frame of the clip */
    int32_t count;              /* valid frames */
    int32_t tile;
    int64_t channel; /* this lane's first */
};

template <int V, typename T>
__device__ __forceinline__ gradient_block locate(const wave_gradient<T> &a)
{
    gradient_block at;
    at.clip = blockIdx.x / a.chunks;
    at.chunk = blockIdx.x % a.chunks;
    at.first = at.chunk * GRADIENT_FRAMES;
    const int64_t left = a.valid[at.clip] - at.first;
    at.count = static_cast<int32_t>(left < 0 ? 0 : left < GRADIENT_FRAMES ? left : GRADIENT_FRAMES);
    at.tile = static_cast<int32_t>(blockIdx.y) % a.tiles;
    const int64_t packs = int64_t{blockIdx.y} / a.tiles * WARP + threadIdx.x % WARP;
    at.channel = packs * V;
    return at;
}

/* Patches [GRADIENT_FRAMES, PATCH_SIZE] about the centre, zeros beyond the kernel and the clip, and
 * for LAYER what the frames' channels have in common. */
template <typename T, int NORM>
__device__ __forceinline__ void load_frames(const wave_gradient<T> &a, const gradient_block &at,
                                            float *patches, float4 *common)
{
    const float centre = NORM == SER_CONV_NORM_CLIP ? a.centres[at.clip] : 0.0f;
    const float *pcm = a.pcm + at.clip * a.padded_in + at.first * a.stride;
    const int32_t tap = at.tile * GRADIENT_TAPS;
    const int32_t taps = min(a.kernel - tap, GRADIENT_TAPS);
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    for (int32_t i = thread; i < GRADIENT_FRAMES * PATCH_SIZE; i += GRADIENT_THREADS) {
        const int32_t t = i / PATCH_SIZE;
        const int32_t k = i % PATCH_SIZE;
        const bool there = t < at.count && k < taps;
        patches[i] = there ? pcm[int64_t{t} * a.stride + tap + k] - centre : 0.0f;
    }
    if constexpr (NORM == SER_CONV_NORM_LAYER) {
        const float4 *from = a.common + at.clip * a.padded + at.first;
        for (int32_t t = thread; t < GRADIENT_FRAMES; t += GRADIENT_THREADS) {
            common[t] = t < at.count ? from[t] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
}

/* One frame's part: sum[k] of tap k, behind them the others. */
template <typename T, int NORM, int V, int SUMS>
__device__ __forceinline__ void
add_frame(const float (&z)[V], const float (&dy)[V], const float4 *patch, float4 common,
          const float (&scale)[V], const float (&shift)[V], float (&sum)[SUMS][V])
{
    float p[PATCH_SIZE];
#pragma unroll
    for (int i = 0; i < PATCH_QUADS; i++) {
        const float4 quad = patch[i];
        p[4 * i] = quad.x;
        p[4 * i + 1] = quad.y;
        p[4 * i + 2] = quad.z;
        p[4 * i + 3] = quad.w;
    }
#pragma unroll
    for (int v = 0; v < V; v++) {
        const float x = NORM == SER_CONV_NORM_LAYER ? (z[v] - common.x) * common.y : z[v];
        const float u = NORM == SER_CONV_NORM_NONE ? x : fmaf(x, scale[v], shift[v]);
        float d = dy[v] * gelu_gradient_for<T>(u);
        if constexpr (NORM == SER_CONV_NORM_LAYER) {
            sum[GRADIENT_TAPS + SUM_DGAMMA][v] = fmaf(d, x, sum[GRADIENT_TAPS + SUM_DGAMMA][v]);
            sum[GRADIENT_TAPS + SUM_DBETA][v] += d;
            d = common.y * (fmaf(d, scale[v], -common.z) - x * common.w);
        }
        sum[GRADIENT_TAPS + SUM_DBIAS][v] += d;
#pragma unroll
        for (int k = 0; k < GRADIENT_TAPS; k++) {
            sum[k][v] = fmaf(d, p[k], sum[k][v]);
        }
    }
}

/* The frames of a warp. Those of the last turn that are not there count as zeros. */
template <typename T, int NORM, int V, int SUMS>
__device__ __forceinline__ void add_frames(const wave_gradient<T> &a, const gradient_block &at,
                                           const float4 *patches, const float4 *common,
                                           float (&sum)[SUMS][V])
{
    const int32_t warp = static_cast<int32_t>(threadIdx.x) / WARP;
    const int64_t start = (at.clip * a.padded + at.first) * a.channels + at.channel;
    float scale[V] = {};
    float shift[V] = {};
    if constexpr (NORM != SER_CONV_NORM_NONE) {
        load(a.scale + at.clip * a.affine_size + at.channel, scale);
        load(a.shift + at.clip * a.affine_size + at.channel, shift);
    }
    for (int32_t t0 = warp * AHEAD; t0 < at.count; t0 += GRADIENT_WARPS * AHEAD) {
        float z[AHEAD][V] = {};
        float dy[AHEAD][V] = {};
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (t0 + i < at.count) {
                load(a.z + start + (t0 + i) * a.channels, z[i]);
                load(a.dy + start + (t0 + i) * a.channels, dy[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const float4 frame = NORM == SER_CONV_NORM_LAYER ? common[t0 + i] : float4{};
            add_frame<T, NORM>(z[i], dy[i], patches + (t0 + i) * PATCH_QUADS, frame, scale, shift,
                               sum);
        }
    }
}

/* The warps' sums, one after the other; then each warp stores some rows of the total. */
template <typename T, int V, int SUMS>
__device__ __forceinline__ void store_sums(const wave_gradient<T> &a, const gradient_block &at,
                                           float *shared, const float (&sum)[SUMS][V])
{
    const int32_t warp = static_cast<int32_t>(threadIdx.x) / WARP;
    float *places = shared + threadIdx.x % WARP; /* [SUMS, V, WARP] */
    for (int32_t turn = 0; turn < GRADIENT_WARPS; turn++) {
        __syncthreads(); /* also before the first: the patches were here */
        if (warp != turn) {
            continue;
        }
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
#pragma unroll
            for (int v = 0; v < V; v++) {
                float *place = places + (i * V + v) * WARP;
                *place = sum[i][v] + (turn > 0 ? *place : 0.0f);
            }
        }
    }
    __syncthreads();
    const int64_t rows = a.kernel + SUMS - GRADIENT_TAPS;
    const int32_t tap = at.tile * GRADIENT_TAPS;
    float *to = a.sums + (at.clip * a.chunks + at.chunk) * rows * a.pitch + at.channel;
    for (int32_t i = warp; i < SUMS && at.channel < a.channels; i += GRADIENT_WARPS) {
        const bool is_tap = i < GRADIENT_TAPS;
        const int32_t row = is_tap ? tap + i : a.kernel + i - GRADIENT_TAPS;
        if (is_tap ? row < a.kernel : at.tile == 0) {
            float total[V];
#pragma unroll
            for (int v = 0; v < V; v++) {
                total[v] = places[(i * V + v) * WARP];
            }
            store(to + row * a.pitch, total);
        }
    }
}

template <int NORM> constexpr size_t gradient_shared()
{
    return sizeof(float) * GRADIENT_FRAMES * PATCH_SIZE +
           (NORM == SER_CONV_NORM_LAYER ? sizeof(float4) * GRADIENT_FRAMES : 0);
}

/* Block (clip and chunk, channels and tile). */
template <typename T, int NORM, int V>
static __global__ void __launch_bounds__(GRADIENT_THREADS, 4)
    wave_sum_gradients(const wave_gradient<T> a)
{
    constexpr int SUMS = GRADIENT_TAPS + PASS_EXTRA<NORM>;
    static_assert(SUMS * V * WARP <= GRADIENT_FRAMES * PATCH_SIZE, "the sums take its place");
    SER_SHARED(float4, patches);
    float4 *common = patches + GRADIENT_FRAMES * PATCH_QUADS;
    const gradient_block at = locate<V>(a);
    if (at.count == 0) {
        return;
    }
    load_frames<T, NORM>(a, at, reinterpret_cast<float *>(patches), common);
    __syncthreads();
    float sum[SUMS][V] = {};
    if (at.channel < a.channels) {
        add_frames<T, NORM>(a, at, patches, common, sum);
    }
    store_sums(a, at, reinterpret_cast<float *>(patches), sum);
}

#endif
