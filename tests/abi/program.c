/* SPDX-License-Identifier: MIT */
#include <ser/ser.h>
#include <stdio.h>

int main(void)
{
    ser_device *device = NULL;
    ser_model *model = NULL;
    if (ser_device_open(NULL, &device) != 0 || ser_model_load(device, NULL, NULL, &model) != 0) {
        return fprintf(stderr, "%s\n", ser_error_message()), 1;
    }
    printf("%s %zu %s\n", ser_version_string(), ser_model_label_count(model),
           ser_model_path(model));
    ser_model_free(&model);
    ser_device_free(&device);
}
