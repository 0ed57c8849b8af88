/* SPDX-License-Identifier: MIT */
/*
 * Backends that are opened on demand (libser-cuda.so), and what they and libser know of each other.
 *
 * A module exports two symbols: ser_module_version, an uint32_t that must be SER_OPS_VERSION and is
 * read before anything is called, and ser_module_open. It never links libser: what it needs of it
 * comes in through ser_host.
 */
#ifndef SER_OPS_MODULE_H
#define SER_OPS_MODULE_H

#include "ops/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a module calls in libser, all thread-safe (base/fail.h, log.h, mem.h). */
typedef struct ser_host {
    int (*fail)(int status, const char *text);
    void (*log)(int32_t level, const char *text);
    void *(*alloc)(size_t count, size_t size);
    void (*free)(void *block);
} ser_host;

/* ser_module_open: the table of the module; `host` must stay. */
typedef const ser_ops *ser_module_open_function(const ser_host *host);

/* The CUDA backend's table. Loads the module on the first call; a failed load is tried again by the
 * next. Errors: DEVICE, the text says where it was looked for or what is missing. Any thread. */
int ser_module_cuda(const ser_ops **ops);

/* Whether its file is there. */
bool ser_module_cuda_installed(void);

#ifdef __cplusplus
}
#endif

#endif
