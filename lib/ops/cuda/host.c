/* SPDX-License-Identifier: MIT */
/* base/fail.h, log.h and mem.h inside the module: calls into the libser that has opened it. */
#include <stdarg.h>
#include <stdio.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/cuda/cuda.h"
#include "ops/module.h"

enum { TEXT_SIZE = 2048 };

/* Set once, under libser's lock, before anything else of the module runs. */
static const ser_host *host;

extern const uint32_t ser_module_version;
__attribute__((visibility("default"))) const uint32_t ser_module_version = SER_OPS_VERSION;

__attribute__((visibility("default"))) ser_module_open_function ser_module_open;
const ser_ops *ser_module_open(const ser_host *given)
{
    host = given;
    return &ser_cuda_ops;
}

int ser_fail(int status, const char *format, ...)
{
    char text[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return host->fail(status, text);
}

void ser_log(int32_t level, const char *format, ...)
{
    char text[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    host->log(level, text);
}

void *ser_mem_alloc(size_t count, size_t size)
{
    return host->alloc(count, size);
}

void ser_mem_free(void *block)
{
    host->free(block);
}
