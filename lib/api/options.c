/* SPDX-License-Identifier: MIT */
#include "api/options.h"

#include <string.h>

#include "base/fail.h"

/* No struct of ours will ever be larger: beyond it, the caller has not set struct_size. */
enum { LARGEST_STRUCT = 4096 };

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

int ser_options_take(void *own, size_t own_size, const void *given, const char *name)
{
    if (given == NULL) {
        return 0;
    }
    size_t size;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > LARGEST_STRUCT) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: struct_size is %zu; call %s_init first", name, size,
                        name);
    }
    const unsigned char *bytes = given;
    for (size_t i = own_size; i < size; i++) {
        if (bytes[i] != 0) {
            return ser_fail(
                SER_ERR_UNSUPPORTED,
                "%s: the option at byte %zu is newer than this library (%zu bytes known)", name, i,
                own_size);
        }
    }
    memcpy((unsigned char *)own + sizeof size, bytes + sizeof size,
           smaller(size, own_size) - sizeof size);
    return 0;
}

void ser_options_give(void *options, size_t size, const void *defaults, size_t defaults_size)
{
    if (options == NULL || size < sizeof size) {
        return;
    }
    memset(options, 0, size);
    memcpy(options, defaults, smaller(size, defaults_size));
    memcpy(options, &size, sizeof size);
}

int ser_result_check(const void *result, const char *name)
{
    size_t size;
    if (result == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "%s is NULL", name);
    }
    memcpy(&size, result, sizeof size);
    if (size < sizeof size || size > LARGEST_STRUCT) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: set struct_size to sizeof(%s) before the call", name,
                        name);
    }
    return 0;
}

int ser_result_give(void *result, const void *own, size_t own_size, const char *name)
{
    size_t size;
    int status = ser_result_check(result, name);
    if (status != 0) {
        return status;
    }
    memcpy(&size, result, sizeof size);
    memset(result, 0, size);
    memcpy(result, own, smaller(size, own_size));
    memcpy(result, &size, sizeof size);
    return 0;
}
