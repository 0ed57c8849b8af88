/* SPDX-License-Identifier: MIT */
/*
 * What stays of the clips in device memory, by their ids, up to a limit of bytes: the output of
 * frozen convolutions, or samples. What does not fit is made anew every time: an epoch visits every
 * clip once, so no choice of what to throw out would be better than the first that came.
 */
#ifndef SER_TRAIN_CACHE_H
#define SER_TRAIN_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/ops.h"

typedef struct ser_clip_cache ser_clip_cache;

/* The device must outlive the cache. */
int ser_clip_cache_create(const ser_ops *ops, ser_context *context, uint64_t limit,
                          ser_clip_cache **cache);
void ser_clip_cache_free(ser_clip_cache *cache);

/* Where a clip of `length` samples stays, until the cache is cleared; false if it is not there, or id
 * is 0. */
bool ser_clip_cache_find(const ser_clip_cache *cache, uint64_t id, int64_t length,
                         ser_source *source);

/*
 * `size` bytes of device memory for a clip, to be filled by the caller at once with elements of
 * `type` (SER_SOURCE_*); NULL, without a failure being recorded, if they do not fit, the id is 0 or
 * the clip is there with another length.
 */
void *ser_clip_cache_add(ser_clip_cache *cache, uint64_t id, int64_t length, size_t size,
                         int32_t type);

/* Forget a clip that could not be filled in: the last one that was added. */
void ser_clip_cache_drop_last(ser_clip_cache *cache);

/* No work that reads a clip is under way. */
void ser_clip_cache_clear(ser_clip_cache *cache);

/* The same for good: from now on nothing fits. */
void ser_clip_cache_close(ser_clip_cache *cache);

/* Bytes that are held. */
uint64_t ser_clip_cache_bytes(const ser_clip_cache *cache);

#endif
