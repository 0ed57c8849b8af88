/* SPDX-License-Identifier: MIT */
/*
 * pytorch_model.bin: the zip archive that torch.save() writes of a state dict since PyTorch 1.6.
 * <root>/data.pkl names the tensors (pickle.h), <root>/data/<key> are their storages, stored
 * without compression. libzip reads the archive's directory and checks every record's CRC; from
 * then on tensors are read from their places in the file, as those of a safetensors file are.
 */
#ifndef SER_MODEL_TORCH_BIN_H
#define SER_MODEL_TORCH_BIN_H

#include <stdint.h>

#include "model/safetensors.h"

/* Ends a message about a file that is not read; %s is how PyTorch loads it. */
#define SER_TORCH_CONVERT                                                                          \
    "convert it once: python3 -c \"import torch, safetensors.torch as s; s.save_file({k: "         \
    "v.clone().contiguous() for k, v in %s.items()}, 'model.safetensors', {'format': 'pt'})\""
#define SER_TORCH_LOAD "torch.load('pytorch_model.bin', map_location='cpu', weights_only=True)"

/*
 * List the tensors of an archive. Takes over `file`, which is closed on failure. Errors: FORMAT
 * (damaged), UNSUPPORTED (compressed or encrypted records, big-endian, TorchScript, files before
 * PyTorch 1.6, symbols that no state dict needs, a libser without libzip), CAPACITY (data.pkl above
 * `max_header` bytes, too many records), IO, MEMORY. The bytes of all tensors together are at most
 * SER_TORCH_MAX_SHARING times the file, however they share storages.
 */
int ser_torch_bin_open(ser_file *file, uint64_t max_header, ser_safetensors *tensors);

enum { SER_TORCH_MAX_SHARING = 8 };

#endif
