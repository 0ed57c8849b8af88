/* SPDX-License-Identifier: MIT */
#include <ser/common.h>

#include "base/fail.h"
#include "base/log.h"

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)

const char *ser_status_name(int status)
{
    switch (status) {
    case SER_OK: return "SER_OK";
    case SER_ERR_ARGUMENT: return "SER_ERR_ARGUMENT";
    case SER_ERR_MEMORY: return "SER_ERR_MEMORY";
    case SER_ERR_IO: return "SER_ERR_IO";
    case SER_ERR_FORMAT: return "SER_ERR_FORMAT";
    case SER_ERR_VERSION: return "SER_ERR_VERSION";
    case SER_ERR_DATA: return "SER_ERR_DATA";
    case SER_ERR_MISMATCH: return "SER_ERR_MISMATCH";
    case SER_ERR_UNSUPPORTED: return "SER_ERR_UNSUPPORTED";
    case SER_ERR_CAPACITY: return "SER_ERR_CAPACITY";
    case SER_ERR_BUSY: return "SER_ERR_BUSY";
    case SER_ERR_DEVICE: return "SER_ERR_DEVICE";
    case SER_ERR_NUMERIC: return "SER_ERR_NUMERIC";
    case SER_ERR_CANCELLED: return "SER_ERR_CANCELLED";
    case SER_ERR_INTERNAL: return "SER_ERR_INTERNAL";
    default: return "unknown status";
    }
}

const char *ser_error_message(void)
{
    return ser_fail_text();
}

const char *ser_version_string(void)
{
    return TEXT(SER_VERSION_MAJOR) "." TEXT(SER_VERSION_MINOR) "." TEXT(SER_VERSION_PATCH);
}

int32_t ser_version_number(void)
{
    return SER_VERSION_NUMBER;
}

void ser_log_set_handler(ser_log_handler handler, void *user)
{
    ser_log_handler_set(handler, user);
}

void ser_log_set_level(int32_t level)
{
    ser_log_level_set(level);
}
