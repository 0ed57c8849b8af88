/* SPDX-License-Identifier: MIT */
/* The buffer between the thread that captures and the one that reads. One of each. */
#ifndef SER_TOOLS_CAPTURE_RING_H
#define SER_TOOLS_CAPTURE_RING_H

#include "capture.h"

typedef struct ring ring;

ring *ring_create(size_t frames, int32_t channels);
void ring_free(ring **r);

/* For the capturing thread. `samples` NULL: zeros. What there is no room for is dropped and counted
 * as one overrun. */
void ring_write(ring *r, const int16_t *samples, size_t frames);

/* The same, but wait for room. False if asked to stop before all of it was written. */
bool ring_write_all(ring *r, const int16_t *samples, size_t frames);

/* The device has dropped `frames`. */
void ring_count_overrun(ring *r, int64_t frames);

/* No more will come, for this reason (taken over; NULL unless LOST). */
void ring_end(ring *r, capture_state state, char *reason);

bool ring_stopping(ring *r);

/* For the reading thread: capture_read. */
capture_state ring_read(ring *r, int16_t *samples, size_t capacity, double timeout, size_t *frames);
capture_losses ring_losses(ring *r);
const char *ring_reason(ring *r);

/* Have the capturing thread end; take up again what ring_end or ring_stop ended. */
void ring_stop(ring *r);
void ring_resume(ring *r);

#endif
