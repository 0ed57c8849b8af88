/* SPDX-License-Identifier: MIT */
/* What tests can ask of the emulated card, beyond the CUDA runtime API. */
#ifndef SER_EMULATION_EMULATOR_H
#define SER_EMULATION_EMULATOR_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The `nth` call (1: the next) of the API function named `function` fails with `error`. Errors
 * that poison a context on a card (214, 700, 702, 710, 714 to 719) then come from every later
 * call, until emulator_reset. Launches are calls of "cudaLaunchKernelEx". */
void emulator_fail(const char *function, int nth, cudaError_t error);

/* What the queries report. Driver 0: none installed; memory 0: unchanged. The shared memory that a
 * block may opt in to follows from the compute capability. */
void emulator_device(int count, int driver_version, int major, int minor, const char *name,
                     size_t memory);

/* Allocations of device memory beyond this sum fail. 0: the device's total. */
void emulator_memory_limit(size_t bytes);

/* Kernels executed since the start or the last emulator_reset. */
uint64_t emulator_launches(void);

/* Those of them that were launched with cudaLaunchAttributeProgrammaticStreamSerialization. */
uint64_t emulator_early_launches(void);

/* What cudaFuncGetAttributes says that kernels were compiled for, 80 for compute capability 8.0.
 * 0: the device's own. */
void emulator_compiled_for(int capability);

/* Blocks of device and pinned memory, streams, events and graphs that exist now. */
size_t emulator_live(void);

/* Bytes of device memory allocated now, and the largest such sum since emulator_reset. */
size_t emulator_memory_used(void);
size_t emulator_memory_peak(void);

/* From now on the blocks of a grid, and the threads of a block that can go on, take turns in a
 * pseudo-random order. 0: the natural order. The environment variable SER_EMULATION_ORDER does the
 * same for a whole program. */
void emulator_shuffle(uint64_t seed);

/* Append to the file that the environment variable SER_EMULATION_LOG names, if there is one. What is
 * submitted logs itself; this is for what stands in for a library. */
void emulator_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Back to the default device, without injected failures; what is allocated stays. */
void emulator_reset(void);

#ifdef __cplusplus
}
#endif

#endif
