/* SPDX-License-Identifier: MIT */
#ifndef SER_TESTS_FUZZ_TORCH_BIN_H
#define SER_TESTS_FUZZ_TORCH_BIN_H

#include <stddef.h>
#include <stdint.h>

/* What the first byte of an input selects: the rest is a pytorch_model.bin, or its data.pkl alone,
 * which no CRC protects. */
enum { FUZZ_ARCHIVE, FUZZ_PICKLE, FUZZ_TORCH_ROUTES };

/* Traps if an answer is none that a hostile file may get, or if memory leaks. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
