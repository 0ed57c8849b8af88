/* SPDX-License-Identifier: MIT */
/*
 * Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011) as Random123 implements it. A number is a pure function of (seed, stream,
 * element): the same on every backend and machine, whatever the order, the threads or a restart.
 */
#ifndef SER_BASE_RNG_H
#define SER_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* What random numbers are for. The values are part of the reproducibility of a run: only append. */
enum ser_rng_purpose {
    SER_RNG_INIT = 1,      /* fresh weights; `a` is the parameter's role, `b` its layer */
    SER_RNG_DROPOUT = 2,   /* `a` is the dropout of the graph, `b` the step */
    SER_RNG_AUGMENT = 3,   /* seed mixed with the clip; `a` is the epoch, `b` the kind */
    SER_RNG_LAYERDROP = 4, /* `b` is the step; element: the block */
    SER_RNG_SPANS = 5,     /* `a` is the step, `b` the clip's place in the batch */
};

/* The stream of a purpose: 16 bits of purpose, 24 bits each of `a` and `b`. */
uint64_t ser_rng_stream(enum ser_rng_purpose purpose, uint32_t a, uint32_t b);

/* Four words: key = seed, counter = (block, stream), each low word first. Element e of a stream is
 * word e % 4 of block e / 4. */
void ser_rng_block(uint64_t seed, uint64_t stream, uint64_t block, uint32_t words[4]);

/* values[i] = low + (high - low) * u with u = (word >> 8) * 2^-24 of element first + i, in double
 * and rounded once to float: u is in [0, 1), so rounding alone may reach `high`. */
void ser_rng_uniform(uint64_t seed, uint64_t stream, uint64_t first, float low, float high,
                     float *values, size_t count);

#endif
