/* SPDX-License-Identifier: MIT */
#ifndef SER_TESTS_FUZZ_MODEL_H
#define SER_TESTS_FUZZ_MODEL_H

#include <stddef.h>
#include <stdint.h>

/* What the first byte of an input selects; the rest is what is read. */
enum { FUZZ_MODEL_FILE, FUZZ_CONFIG, FUZZ_IMPORT, FUZZ_PREPROCESSOR, FUZZ_ROUTES };

/* Read hostile bytes in one of the ways in which a model can reach the library. Traps if an answer
 * is none that a hostile file may get, if memory leaks, or if printing a configuration changes it.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
