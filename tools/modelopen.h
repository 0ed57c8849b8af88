/* SPDX-License-Identifier: MIT */
/* The device and the model of a tool that answers. */
#ifndef SER_TOOLS_MODELOPEN_H
#define SER_TOOLS_MODELOPEN_H

#include <ser/device.h>
#include <ser/model.h>

/* Open the device and load the model (`path` NULL: the default one). 0, or an exit code after a
 * message; the caller frees what was opened in both cases. */
int modelopen(const ser_device_options *device_options, const char *path, int32_t precision,
              ser_device **device, ser_model **model);

/* Note for --verbose which model answers, and where. */
void modelopen_note(const ser_device *device, const ser_model *model);

#endif
