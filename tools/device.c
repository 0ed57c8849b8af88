/* SPDX-License-Identifier: MIT */
#include "device.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "message.h"
#include "text.h"

const char *const device_precision_names[] = {"auto", "f32", "bf16", NULL};

int device_parse(const char *text, ser_device_options *options)
{
    int64_t index = 0;
    options->index = 0;
    if (strcmp(text, "auto") == 0) {
        options->kind = SER_DEVICE_AUTO;
    } else if (strcmp(text, "cpu") == 0) {
        options->kind = SER_DEVICE_CPU;
    } else if (strcmp(text, "cuda") == 0) {
        options->kind = SER_DEVICE_CUDA;
    } else if (strncmp(text, "cuda:", 5) == 0 && text_parse_integer(text + 5, &index) &&
               index >= 0 && index < 1024) {
        options->kind = SER_DEVICE_CUDA;
        options->index = (int32_t)index;
    } else {
        return message_usage(
            "--device: '%s' is not auto, cpu, cuda or cuda:N; --list-devices shows "
            "what is usable here",
            text);
    }
    return CLI_CONTINUE;
}

void device_describe(const ser_device *device, const ser_device_options *options, char *text,
                     size_t size)
{
    if (ser_device_kind(device) == SER_DEVICE_CUDA) {
        snprintf(text, size, "cuda:%d", (int)options->index);
    } else {
        snprintf(text, size, "cpu");
    }
}

static void list_one(int32_t kind, int32_t index, bool json)
{
    ser_device_options options;
    ser_device *device = NULL;
    ser_device_options_init(&options, sizeof options);
    options.kind = kind;
    options.index = index;
    if (ser_device_open(&options, &device) != 0) {
        message_error("%s", ser_error_message());
        return;
    }
    char name[32];
    device_describe(device, &options, name, sizeof name);
    if (json) {
        printf("{\"device\":\"%s\",\"available\":true,\"name\":", name);
        text_json(stdout, ser_device_name(device));
        printf("}\n");
    } else {
        char *printable = text_printable(ser_device_name(device));
        printf("%-8s %s\n", name, printable);
        free(printable);
    }
    ser_device_free(&device);
}

/* Why there is no GPU to use: for programs that ask, and for people who want to know more. */
static void tell_absent(const char *reason, bool json)
{
    message_note("%s", reason);
    if (json) {
        printf("{\"device\":\"cuda\",\"available\":false,\"reason\":");
        text_json(stdout, reason);
        printf("}\n");
    }
}

int device_list(bool json)
{
    static const int32_t kinds[] = {SER_DEVICE_CPU, SER_DEVICE_CUDA};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        int count = ser_device_count(kinds[k]);
        for (int i = 0; i < count; i++) {
            list_one(kinds[k], i, json);
        }
        if (count == 0) {
            tell_absent(ser_error_message(), json);
        }
    }
    return cli_finish_output();
}
