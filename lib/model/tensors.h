/* SPDX-License-Identifier: MIT */
/* The tensors of one model, in one or several files, and their match with a network. */
#ifndef SER_MODEL_TENSORS_H
#define SER_MODEL_TENSORS_H

#include <stdbool.h>
#include <stddef.h>

#include "model/safetensors.h"
#include "net/params.h"

enum { SER_MAX_SHARDS = 256 };

typedef struct ser_tensor_ref {
    const ser_safetensors *file;
    const ser_tensor_entry *entry;
} ser_tensor_ref;

typedef struct ser_tensors {
    char *name; /* owned; of the file or directory, for messages */
    ser_safetensors *files;
    size_t file_count;
    ser_tensor_ref *list; /* of all files, sorted by name */
    size_t count;
} ser_tensors;

/* All tensors of a single file, which is taken over (closed on failure). */
int ser_tensors_open(ser_file *file, uint64_t max_header, ser_tensors *tensors);

/* A transformers directory: model.safetensors, or the shards that model.safetensors.index.json
 * names, which must be plain files in the same directory; where neither is there, the same of
 * pytorch_model.bin. */
int ser_tensors_open_directory(int directory, const char *path, uint64_t max_header,
                               ser_tensors *tensors);

void ser_tensors_close(ser_tensors *tensors);

const ser_tensor_ref *ser_tensors_find(const ser_tensors *tensors, const char *name);

/* How a set of tensors spells the parameters of libser. */
typedef struct ser_naming {
    const char *prefix; /* stands for "wav2vec2." of the model file */
    bool foreign_head;  /* transformers' projector, classifier and layer_weights */
    bool skip_head;     /* leave the parameters of the head unbound */
    const char *const
        *extras; /* tensors that may be there besides; "*" ends a pattern; NULL-terminated */
} ser_naming;

/*
 * Find the tensor of every parameter: bound[i] belongs to params->list[i] (entry NULL: unbound, see
 * skip_head). The positional convolution's weight may be spelled in either way. Errors: MISMATCH,
 * listing up to ten tensors that are missing, misshapen or unknown; UNSUPPORTED for a type that is
 * not read.
 */
int ser_tensors_bind(const ser_tensors *tensors, const ser_params *params, const ser_naming *naming,
                     ser_tensor_ref *bound);

#endif
