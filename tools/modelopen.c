/* SPDX-License-Identifier: MIT */
#include "modelopen.h"

#include <stddef.h>

#include <ser/common.h>

#include "message.h"

int modelopen(const ser_device_options *device_options, const char *path, int32_t precision,
              ser_device **device, ser_model **model)
{
    int status = ser_device_open(device_options, device);
    if (status != 0) {
        message_error("%s", ser_error_message());
        return message_exit_code(status);
    }
    ser_model_options options;
    ser_model_options_init(&options, sizeof options);
    options.precision = precision;
    status = ser_model_load(*device, path, &options, model);
    if (status != 0) {
        message_error("cannot load the model: %s%s", ser_error_message(),
                      path == NULL ? " (--model or $SER_MODEL names another)" : "");
        return status == SER_ERR_ARGUMENT ? MESSAGE_EXIT_DATA : message_exit_code(status);
    }
    return 0;
}

void modelopen_note(const ser_device *device, const ser_model *model)
{
    message_note("model %s: %llu weights, %zu labels, on %s", ser_model_path(model),
                 (unsigned long long)ser_model_parameter_count(model), ser_model_label_count(model),
                 ser_device_name(device));
}
