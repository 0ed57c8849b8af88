/* SPDX-License-Identifier: MIT */
/* What the CPU could do now: GFLOP/s of independent f32 fused multiply-adds. peak THREADS; every
 * line on stdin is answered with one number. */
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHAINS = 12, LOOPS = 3000000, MAX_THREADS = 256 };

static double now(void)
{
    struct timespec t;

    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

__attribute__((target("avx2,fma"))) static float fma_avx2(void)
{
    const __m256 a = _mm256_set1_ps(0.999999f), b = _mm256_set1_ps(1e-6f);
    __m256 x[CHAINS], sum = _mm256_setzero_ps();

    for (int i = 0; i < CHAINS; i++)
        x[i] = _mm256_set1_ps((float)i);
    for (int n = 0; n < LOOPS; n++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            x[i] = _mm256_fmadd_ps(x[i], a, b);
    for (int i = 0; i < CHAINS; i++)
        sum = _mm256_add_ps(sum, x[i]);
    return _mm256_cvtss_f32(sum);
}

__attribute__((target("avx512f"))) static float fma_avx512(void)
{
    const __m512 a = _mm512_set1_ps(0.999999f), b = _mm512_set1_ps(1e-6f);
    __m512 x[CHAINS], sum = _mm512_setzero_ps();

    for (int i = 0; i < CHAINS; i++)
        x[i] = _mm512_set1_ps((float)i);
    for (int n = 0; n < LOOPS; n++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            x[i] = _mm512_fmadd_ps(x[i], a, b);
    for (int i = 0; i < CHAINS; i++)
        sum = _mm512_add_ps(sum, x[i]);
    return _mm512_cvtss_f32(sum);
}

static void *work(void *result)
{
    *(float *)result = __builtin_cpu_supports("avx512f") ? fma_avx512() : fma_avx2();
    return NULL;
}

/* GFLOP/s of `count` threads together. */
static double probe(int count)
{
    const double lanes = __builtin_cpu_supports("avx512f") ? 16.0 : 8.0;
    pthread_t threads[MAX_THREADS];
    float results[MAX_THREADS];
    double begin = now();

    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, work, &results[i]) != 0)
            exit(1);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return 2.0 * lanes * CHAINS * LOOPS * count / (now() - begin) * 1e-9;
}

int main(int argc, char **argv)
{
    const int count = argc == 2 ? atoi(argv[1]) : 0;
    char line[16];

    if (count < 1 || count > MAX_THREADS || !__builtin_cpu_supports("fma"))
        return 2;
    printf("ready %s\n", __builtin_cpu_supports("avx512f") ? "avx512" : "avx2");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        printf("%.3f\n", probe(count));
        fflush(stdout);
    }
    return 0;
}
