/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Status codes, error text, log and version: what every other header builds on.
 */
#ifndef SER_COMMON_H
#define SER_COMMON_H

#include <stddef.h>
#include <stdint.h>

#include <ser/version.h>

#if defined(__GNUC__)
#define SER_API __attribute__((visibility("default")))
#else
#define SER_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Status codes. Every function that can fail returns 0 or one of these; the numbers never change.
 * After a failure outputs are untouched, except that a handle to be created is set to NULL.
 */
enum {
    SER_OK = 0,
    SER_ERR_ARGUMENT = -1,  /**< an argument is NULL, out of range or contradicts another */
    SER_ERR_MEMORY = -2,    /**< the host or the device is out of memory */
    SER_ERR_IO = -10,       /**< a file cannot be opened, read or written */
    SER_ERR_FORMAT = -11,   /**< a file is damaged or not what it claims to be */
    SER_ERR_VERSION = -12,  /**< a file needs a newer library */
    SER_ERR_DATA = -13,     /**< well-formed but senseless: no audio, NaN, bad config value */
    SER_ERR_MISMATCH = -14, /**< tensors are missing, extra or of the wrong shape for the config */
    SER_ERR_UNSUPPORTED = -20, /**< a legal request that this build, device or release cannot do */
    SER_ERR_CAPACITY = -21,    /**< the caller's array or a limit set in the options is too small */
    SER_ERR_BUSY = -22,        /**< the handle is in use by another call, or from before a fork */
    SER_ERR_DEVICE = -30,      /**< no such device, or the device has failed */
    SER_ERR_NUMERIC = -40,     /**< the network produced NaN or infinity */
    SER_ERR_CANCELLED = -50,   /**< stopped on request */
    SER_ERR_INTERNAL = -90     /**< a fault in libser itself; please report it */
};

/** Fixed identifier of a status code, such as "SER_ERR_IO"; never NULL. Any thread. Since 0.1. */
SER_API const char *ser_status_name(int status);

/**
 * Text of the calling thread's last failure: names the file, the field and the limit.
 * Never NULL; empty before the first failure. Borrowed: valid until the next failing call on this
 * thread. A successful call does not clear it. Since 0.1.
 */
SER_API const char *ser_error_message(void);

/** Library version as text, such as "0.1.0". Any thread. Since 0.1. */
SER_API const char *ser_version_string(void);

/** Library version as SER_VERSION_NUMBER is formed; compare with the macro to detect skew. Since
 * 0.1. */
SER_API int32_t ser_version_number(void);

/** Log levels, in rising severity. */
enum {
    SER_LOG_DEBUG = 10,
    SER_LOG_INFO = 20,
    SER_LOG_WARNING = 30,
    SER_LOG_ERROR = 40,
    SER_LOG_SILENT = 100
};

/**
 * Receives one finished line without a newline. Called on whichever thread produced the line, so it
 * must be thread-safe; it must not call back into libser.
 */
typedef void (*ser_log_handler)(int32_t level, const char *text, void *user);

/**
 * Send log lines to `handler` (NULL: nowhere, the default; libser never prints).
 * Set it before other calls: replacing it while other threads are inside libser is a race. Since
 * 0.1.
 */
SER_API void ser_log_set_handler(ser_log_handler handler, void *user);

/** Drop lines below `level`; the default is SER_LOG_WARNING. Any thread. Since 0.1. */
SER_API void ser_log_set_level(int32_t level);

#ifdef __cplusplus
}
#endif

#endif
