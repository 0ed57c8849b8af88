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
    atomic_int users; /* predictors; -1: a trainer, which is changing it */
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
int ser_model_from_config(ser_device *device, const char *config, const char *const *labels,
                          size_t label_count, const ser_model_options *options, ser_model **model);

/* In what a written model differs from the one in memory. */
typedef struct ser_model_changes {
    double temperature;   /* divides the weights and biases of the last classifier layer */
    const char *training; /* JSON text of an object, instead of config.training; NULL: no change */
} ser_model_changes;

/* `changes` NULL: none. A senseless `training` gives ARGUMENT. */
int ser_model_write(const ser_model *model, const ser_model_changes *changes, const char *path);

/* Use the model as it is, together with others: BUSY while a trainer has it. */
int ser_model_share(ser_model *model);
void ser_model_unshare(ser_model *model);

/* Have the model alone, to change it: BUSY while anybody uses it. */
int ser_model_take(ser_model *model);
void ser_model_give_back(ser_model *model);

void ser_model_acquire(ser_model *model);
void ser_model_release(ser_model *model);

#endif
