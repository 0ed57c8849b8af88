/* SPDX-License-Identifier: MIT */
/*
 * Everything of a model that lies on the disk, checked and matched, before a network is made of it:
 * nothing here knows a device.
 */
#ifndef SER_MODEL_PACKAGE_H
#define SER_MODEL_PACKAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/config.h"
#include "model/tensors.h"
#include "net/params.h"

typedef struct ser_package {
    ser_config config;
    ser_params params;     /* of config.arch */
    ser_tensors tensors;   /* open files */
    ser_tensor_ref *bound; /* [params.count]; entry NULL: the parameter is to be drawn */
} ser_package;

/* The fresh head of a backbone. */
typedef struct ser_head {
    const char *const *labels;
    size_t label_count;
    bool layer_mix;
} ser_head;

/* A model file, or a transformers directory with a finished classifier. On failure *package is
 * empty. */
int ser_package_open(const char *path, uint64_t max_header, ser_package *package);

/* A model file in memory, which must stay until the package is cleared. */
int ser_package_open_memory(const void *data, size_t size, uint64_t max_header,
                            ser_package *package);

/* The backbone of a transformers directory below a fresh head; bad labels give ARGUMENT. */
int ser_package_open_backbone(const char *path, const ser_head *head, uint64_t max_header,
                              ser_package *package);

/* A configuration whose parameters are all to be drawn: see ser_model_create_from_config(). */
int ser_package_make(const char *config, const ser_head *head, ser_package *package);

void ser_package_clear(ser_package *package);

/* Plan the parameters of package->config and bind them to package->tensors. */
int ser_package_bind(ser_package *package, const ser_naming *naming);

#endif
