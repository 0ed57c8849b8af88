/* SPDX-License-Identifier: MIT */
/*
 * What frozen convolutions gave for a clip, by the clip's id, up to a limit of bytes. What does not
 * fit is computed anew every time: an epoch visits every clip once, so no choice of what to throw
 * out would be better than the first that came.
 */
#ifndef SER_TRAIN_CACHE_H
#define SER_TRAIN_CACHE_H

#include <stddef.h>
#include <stdint.h>

typedef struct ser_feature_cache ser_feature_cache;

int ser_feature_cache_create(uint64_t limit, ser_feature_cache **cache);
void ser_feature_cache_free(ser_feature_cache *cache);

/* The features of a clip of `length` samples; NULL if they are not there, or id is 0. Valid until the
 * cache is cleared. */
const float *ser_feature_cache_find(const ser_feature_cache *cache, uint64_t id, int64_t length);

/*
 * Memory for `count` features of a clip, to be filled by the caller at once; NULL, without a failure
 * being recorded, if they do not fit, the id is 0 or the clip is there with another length.
 */
float *ser_feature_cache_add(ser_feature_cache *cache, uint64_t id, int64_t length, size_t count);

/* Forget a clip whose features could not be filled in: the last one that was added. */
void ser_feature_cache_drop_last(ser_feature_cache *cache);

void ser_feature_cache_clear(ser_feature_cache *cache);

/* Bytes of features that are held. */
uint64_t ser_feature_cache_bytes(const ser_feature_cache *cache);

#endif
