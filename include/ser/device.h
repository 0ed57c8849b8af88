/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Choose where the network runs.
 */
#ifndef SER_DEVICE_H
#define SER_DEVICE_H

#include <ser/common.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Where the network runs. Reference-counted and shareable between threads. */
typedef struct ser_device ser_device;

/** Kinds of devices. */
enum {
    SER_DEVICE_AUTO = 0, /**< CUDA where it works, else the CPU (one log line says why) */
    SER_DEVICE_CPU = 1,
    SER_DEVICE_CUDA = 2
};

/** How to open a device. Fill with ser_device_options_init(), then change what you need. */
typedef struct ser_device_options {
    size_t struct_size; /**< set by the init function */
    int32_t kind;       /**< SER_DEVICE_*; default AUTO */
    int32_t index;      /**< which one of that kind, from 0; default 0 */
    int32_t threads; /**< CPU threads per call, 1..1024; 0 (default): OMP_NUM_THREADS, else the CPUs
                          allowed.
                          Always 1 in a process forked from one that had opened a device.
                          Say 1 if the parent may have run OpenMP threads of its own */
    int32_t reserved; /**< must be 0 */
} ser_device_options;

/** Zero `size` bytes at `options` and write the defaults. `size` is sizeof *options. Since 0.1. */
SER_API void ser_device_options_init(ser_device_options *options, size_t size);

/**
 * How many devices of a kind are usable now: 1 for the CPU, 0 for CUDA without module, driver or
 * GPU (ser_error_message() then says which). Negative SER_ERR_ARGUMENT for an unknown kind. Any thread. Since 0.1.
 */
SER_API int ser_device_count(int32_t kind);

/**
 * Open a device. `options` NULL means defaults. The caller frees `*device`.
 *
 * CUDA needs the module libser-cuda.so, which is looked for in "ser/" beside libser.so and where it
 * was installed, or only in the folder that the environment variable SER_MODULE_PATH names; an
 * NVIDIA driver for CUDA 13; and a GPU of compute capability 8.0 or higher. Calls that use a CUDA
 * device make it the calling thread's current one. After an error that poisons the device (an illegal address, a failed launch, an ECC error)
 * every call that uses it gives DEVICE until the process ends; running out of its memory does not,
 * the handles stay usable.
 *
 * Errors: ARGUMENT, UNSUPPORTED (options of a newer library), MEMORY, DEVICE (one sentence says
 * what is missing and what to do). Any thread. Since 0.1.
 */
SER_API int ser_device_open(const ser_device_options *options, ser_device **device);

/** SER_DEVICE_CPU or SER_DEVICE_CUDA, whichever was opened. Any thread. Since 0.1. */
SER_API int32_t ser_device_kind(const ser_device *device);

/** Human-readable name, such as "cpu (v3, own products), 2 threads". Borrowed from the device.
 * Since 0.1. */
SER_API const char *ser_device_name(const ser_device *device);

/** Drop the caller's reference and null the handle; NULL and a null handle are fine. Since 0.1. */
SER_API void ser_device_free(ser_device **device);

#ifdef __cplusplus
}
#endif

#endif
