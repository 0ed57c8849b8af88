/* SPDX-License-Identifier: MIT */
/* Status and text of the calling thread's last failure. */
#ifndef SER_BASE_FAIL_H
#define SER_BASE_FAIL_H

#include <ser/common.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Record `status` with a formatted text for this thread and return `status`. Never fails itself; a
 * text longer than the buffer is cut at a UTF-8 boundary. */
int ser_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prefix the recorded text ("clip.wav: " + text) and return `status`; for callers that know the
 * file. */
int ser_fail_prefix(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The recorded text; see ser_error_message(). */
const char *ser_fail_text(void);

#ifdef __cplusplus
}
#endif

#endif
