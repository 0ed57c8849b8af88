/* SPDX-License-Identifier: MIT */
/* The --device option and the list of devices. */
#ifndef SER_TOOLS_DEVICE_H
#define SER_TOOLS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include <ser/device.h>

/* SER_PRECISION_* by name, for a CLI_CHOICE. */
extern const char *const device_precision_names[];

/* Read "auto", "cpu", "cuda" or "cuda:N" into kind and index: CLI_CONTINUE or an exit code. */
int device_parse(const char *text, ser_device_options *options);

/* "cpu" or "cuda:N", as --device takes it. */
void device_describe(const ser_device *device, const ser_device_options *options, char *text,
                     size_t size);

/* Print the usable devices to standard output, one per line; the exit code. */
int device_list(bool json);

#endif
