/* SPDX-License-Identifier: MIT */
#include <ser/device.h>

#include "api/options.h"
#include "base/fail.h"
#include "ops/device.h"

static const ser_device_options defaults = {
    .struct_size = sizeof(ser_device_options),
    .kind = SER_DEVICE_AUTO,
};

void ser_device_options_init(ser_device_options *options, size_t size)
{
    ser_options_give(options, size, &defaults, sizeof defaults);
}

int ser_device_count(int32_t kind)
{
    return ser_device_kind_count(kind);
}

int ser_device_open(const ser_device_options *options, ser_device **device)
{
    if (device == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_device_open: device is NULL");
    }
    *device = NULL;
    ser_device_options own = defaults;
    int status = ser_options_take(&own, sizeof own, options, "ser_device_options");
    if (status != 0) {
        return status;
    }
    if (own.threads < 0 || own.threads > 1024) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_device_options: threads is %d, not within 0..1024",
                        own.threads);
    }
    if (own.reserved != 0) {
        return ser_fail(SER_ERR_UNSUPPORTED, "ser_device_options: reserved must be 0");
    }
    return ser_device_create(own.kind, own.index, own.threads, device);
}

int32_t ser_device_kind(const ser_device *device)
{
    return device != NULL ? device->kind : SER_DEVICE_AUTO;
}

const char *ser_device_name(const ser_device *device)
{
    return device != NULL ? device->name : "";
}

void ser_device_free(ser_device **device)
{
    if (device != NULL && *device != NULL) {
        ser_device_release(*device);
        *device = NULL;
    }
}
