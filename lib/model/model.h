/* SPDX-License-Identifier: MIT */
/* A loaded model: network, labels and audio front end; what the public ser_model points to. */
#ifndef SER_MODEL_MODEL_H
#define SER_MODEL_MODEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ser/model.h>

#include "model/config.h"
#include "net/net.h"
#include "ops/device.h"

struct ser_model {
    atomic_int references;
    atomic_bool taken; /* a trainer owns it */
    ser_device *device;
    ser_config config;
    char *config_text; /* JSON of `config` */
    char *path;
    ser_net *net;
    uint64_t parameter_count;
    uint32_t fork_generation;
};

/* See the public functions of the same names in ser/model.h; options are complete and checked. */
int ser_model_open(ser_device *device, const char *path, const ser_model_options *options,
                   ser_model **model);
int ser_model_open_memory(ser_device *device, const void *data, size_t size,
                          const ser_model_options *options, ser_model **model);
int ser_model_from_backbone(ser_device *device, const char *backbone, const char *const *labels,
                            size_t label_count, const ser_model_options *options,
                            ser_model **model);
int ser_model_write(const ser_model *model, const char *path);

void ser_model_acquire(ser_model *model);
void ser_model_release(ser_model *model);

#endif
