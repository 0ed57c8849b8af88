/* SPDX-License-Identifier: MIT */
/* Cards as cuDNN describes them to itself, from their public data sheets: questions about engines
 * can then be asked without one. */
#ifndef SER_TESTS_CUDA_PROFILES_H
#define SER_TESTS_CUDA_PROFILES_H

#include <stddef.h>
#include <stdint.h>

typedef struct card_profile {
    const char *name;
    int32_t version; /* compute capability times 100 */
    int32_t multiprocessors;
    int32_t threads, blocks; /* of a multiprocessor at a time */
    int32_t shared;          /* bytes that a block may have */
    int32_t clock;           /* boost, MHz */
    int32_t memory_clock;    /* MHz */
    int32_t memory;          /* GB */
    double l2;               /* MiB */
} card_profile;

extern const card_profile card_profiles[];
extern const size_t card_profile_count;

/* The JSON text of CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION; its length. */
size_t card_profile_json(const card_profile *card, char *text, size_t size);

#endif
