/* SPDX-License-Identifier: MIT */
/*
 * Which algorithm of the matrix product library was the fastest for a shape. The choices are kept
 * in memory and in a file, so that a shape is measured once per device and library, and sums are
 * made in the same order in every later run. (Where two first runs measure at once, the file keeps
 * the choice of the one that wrote last.) Knows nothing of CUDA: an algorithm is 64 bytes. What
 * convolution_choice.c and gelu_product_choice.c have measured is kept here, too, under keys with
 * flags of their own.
 */
#ifndef SER_OPS_CUDA_ALGORITHMS_H
#define SER_OPS_CUDA_ALGORITHMS_H

#include <stdbool.h>
#include <stdint.h>

enum { SER_ALGORITHMS_MAX = 16384, SER_ALGORITHMS_IDENTITY = 192 };

/* Among the flags of a key: it is none of a product, but convolution_choice.c's, or
 * gelu_product_choice.c's. */
#define SER_ALGORITHMS_CONVOLUTION  (UINT32_C(1) << 31)
#define SER_ALGORITHMS_GELU_PRODUCT (UINT32_C(1) << 30)

typedef struct ser_algorithms ser_algorithms;

/* All that a choice depends on, without gaps: keys are compared as bytes. */
typedef struct product_key {
    int64_t m, n, k, entries;
    int64_t lda, a_pitch, ldb, b_pitch, ldd, d_pitch;
    uint32_t flags;      /* types, orientation, epilogue */
    uint32_t alignments; /* of a, b, d and the bias: logarithms, a byte each */
} product_key;

typedef struct product_choice {
    uint64_t algorithm[8]; /* cublasLtMatmulAlgo_t */
    uint64_t workspace;    /* bytes */
    bool loaded;           /* from the file, and not yet looked at by the library */
} product_choice;

/*
 * `identity` names device and library; choices of another one are not seen. The file is in
 * $SER_CACHE_DIR, else $XDG_CACHE_HOME/ser, else $HOME/.cache/ser. SER_CACHE_DIR empty: none. Fails
 * only for want of memory.
 */
int ser_algorithms_open(const char *identity, ser_algorithms **algorithms);
void ser_algorithms_close(ser_algorithms *algorithms);

/* Whether a new choice would outlive the process. If not, it must not depend on measurements. */
bool ser_algorithms_lasting(ser_algorithms *algorithms);

/* The choice for a shape, if there is one. Any thread. */
bool ser_algorithms_find(ser_algorithms *algorithms, const product_key *key,
                         product_choice *choice);

/* Set the choice for a shape; a new one reaches the file at once, within the next seconds, or in
 * ser_algorithms_close. What cannot be kept (memory, SER_ALGORITHMS_MAX, a full disk) is only forgotten. Any thread. */
void ser_algorithms_put(ser_algorithms *algorithms, const product_key *key,
                        const product_choice *choice);

#endif
