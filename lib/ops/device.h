/* SPDX-License-Identifier: MIT */
/* An opened device, shared by models and predictors: what the public ser_device points to. */
#ifndef SER_OPS_DEVICE_H
#define SER_OPS_DEVICE_H

#include <stdatomic.h>
#include <stdint.h>

#include <ser/device.h>

#include "ops/ops.h"

struct ser_device {
    atomic_int references;
    const ser_ops *ops;
    ser_context *context;
    char *name; /* owned: the context's name and the threads, "cpu (avx2, ...), 2 threads" */
    int32_t kind;
    int32_t threads; /* > 0 */
    uint32_t fork_generation;
};

/* See ser_device_open(); `kind` is SER_DEVICE_*, threads 0 means the default. */
int ser_device_create(int32_t kind, int32_t index, int32_t threads, ser_device **device);
int ser_device_kind_count(int32_t kind);

/*
 * CPU threads for a request: 0 is OMP_NUM_THREADS (its first number), else the CPUs that this
 * process may run on; 1..1024. In a process forked from one that had used libser it is always 1,
 * because OpenMP's threads are gone there and libgomp would wait for them forever.
 */
int32_t ser_device_threads(int32_t wanted);

ser_device *ser_device_acquire(ser_device *device);
void ser_device_release(ser_device *device);

#endif
