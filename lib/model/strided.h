/* SPDX-License-Identifier: MIT */
/* Tensors whose elements do not lie one behind another: transposed ones, slices. */
#ifndef SER_MODEL_STRIDED_H
#define SER_MODEL_STRIDED_H

#include "model/safetensors.h"

/*
 * The elements of a strided entry in row-major order, as they are in the file: entry->size bytes.
 * They are fetched in the order in which they lie there, in pieces of a page, so that the work is
 * at most a page per element, however far apart they are.
 */
int ser_strided_read(const ser_file *file, const ser_tensor_entry *entry, unsigned char *values);

#endif
