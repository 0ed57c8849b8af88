/* SPDX-License-Identifier: MIT */
/* One finished line at a time to the handler that the program has set. */
#ifndef SER_BASE_LOG_H
#define SER_BASE_LOG_H

#include <ser/common.h>

#ifdef __cplusplus
extern "C" {
#endif

void ser_log_handler_set(ser_log_handler handler, void *user);
void ser_log_level_set(int32_t level);

/* Format a line (no newline) and hand it on if `level` is high enough and a handler is set. */
void ser_log(int32_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif

#endif
