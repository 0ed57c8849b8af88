/* SPDX-License-Identifier: MIT */
#include "ops/device.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "base/fail.h"
#include "base/fork.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/module.h"

enum { MAX_THREADS = 1024 };

static int32_t clamp_threads(long count)
{
    return (int32_t)(count < 1 ? 1 : (count > MAX_THREADS ? MAX_THREADS : count));
}

static int32_t allowed_cpus(void)
{
    /* Room for 65,536 CPUs: the kernel refuses a set that is too small for the machine. */
    cpu_set_t sets[64];
    if (sched_getaffinity(0, sizeof sets, sets) != 0) {
        return 1;
    }
    return clamp_threads(CPU_COUNT_S(sizeof sets, sets));
}

static int32_t default_threads(void)
{
    const char *text = getenv("OMP_NUM_THREADS"); /* "8" or, for nested levels, "8,4" */
    if (text != NULL) {
        char *end;
        errno = 0;
        long count = strtol(text, &end, 10);
        if (end != text && (*end == '\0' || *end == ',' || *end == ' ') && errno == 0 &&
            count > 0) {
            return clamp_threads(count);
        }
    }
    return allowed_cpus();
}

int32_t ser_device_threads(int32_t wanted)
{
    if (ser_fork_generation() > 0) {
        return 1;
    }
    return wanted > 0 ? wanted : default_threads();
}

/* The table of a kind other than AUTO. */
static int ops_of(int32_t kind, const ser_ops **ops)
{
    *ops = &ser_cpu_ops;
    return kind == SER_DEVICE_CUDA ? ser_module_cuda(ops) : 0;
}

static int open_kind(ser_device *device, int32_t kind, int32_t index, int32_t threads)
{
    const char *name = NULL;
    device->kind = kind;
    device->threads = ser_device_threads(threads);
    device->fork_generation = ser_fork_generation();
    int status = ops_of(kind, &device->ops);
    if (status == 0) {
        status = device->ops->open(index, &device->context, &name);
    }
    if (status != 0) {
        device->context = NULL;
        return status;
    }
    device->name = kind == SER_DEVICE_CPU ? ser_mem_format("%s, %d thread%s", name, device->threads,
                                                           device->threads == 1 ? "" : "s")
                                          : ser_mem_strdup(name);
    return device->name != NULL ? 0 : SER_ERR_MEMORY;
}

/* A machine without GPU or module is ordinary; one whose GPU cannot be used wants attention. */
static int32_t level_of_fallback(void)
{
    const ser_ops *ops;
    const bool broken = ser_module_cuda(&ops) == 0 ? ops->count() > 0 : ser_module_cuda_installed();
    return broken ? SER_LOG_WARNING : SER_LOG_INFO;
}

/* CUDA where it works, else the CPU with one line that says why. */
static int open_auto(ser_device *device, int32_t index, int32_t threads)
{
    int status = open_kind(device, SER_DEVICE_CUDA, index, threads);
    if (status != SER_ERR_DEVICE) {
        return status;
    }
    char *reason = ser_mem_strdup(ser_fail_text());
    if (reason == NULL) {
        return SER_ERR_MEMORY;
    }
    status = open_kind(device, SER_DEVICE_CPU, 0, threads);
    if (status == 0) {
        ser_log(level_of_fallback(), "device: using %s; %s", device->name, reason);
    }
    ser_mem_free(reason);
    return status;
}

static int check_kind(int32_t kind, int32_t index)
{
    if (kind != SER_DEVICE_AUTO && kind != SER_DEVICE_CPU && kind != SER_DEVICE_CUDA) {
        return ser_fail(SER_ERR_ARGUMENT, "device: kind is %d, not one of SER_DEVICE_*", kind);
    }
    if (index < 0) {
        return ser_fail(SER_ERR_ARGUMENT, "device: index is %d, at least 0 is needed", index);
    }
    if (kind == SER_DEVICE_CPU && index > 0) {
        return ser_fail(SER_ERR_DEVICE, "device: there is no CPU device %d, the only one is 0",
                        index);
    }
    return 0;
}

int ser_device_create(int32_t kind, int32_t index, int32_t threads, ser_device **device)
{
    *device = NULL;
    int status = check_kind(kind, index);
    if (status != 0) {
        return status;
    }
    ser_device *d = ser_mem_alloc(1, sizeof *d);
    if (d == NULL) {
        return SER_ERR_MEMORY;
    }
    atomic_init(&d->references, 1);
    status =
        kind == SER_DEVICE_AUTO ? open_auto(d, index, threads) : open_kind(d, kind, index, threads);
    if (status != 0) {
        ser_device_release(d);
        return status;
    }
    *device = d;
    return 0;
}

int ser_device_kind_count(int32_t kind)
{
    const ser_ops *ops;
    switch (kind) {
    case SER_DEVICE_AUTO:
    case SER_DEVICE_CPU: return 1;
    case SER_DEVICE_CUDA: return ser_module_cuda(&ops) == 0 ? ops->count() : 0;
    default: return ser_fail(SER_ERR_ARGUMENT, "device: kind is %d, not one of SER_DEVICE_*", kind);
    }
}

ser_device *ser_device_acquire(ser_device *device)
{
    atomic_fetch_add(&device->references, 1);
    return device;
}

void ser_device_release(ser_device *device)
{
    if (device == NULL || atomic_fetch_sub(&device->references, 1) != 1) {
        return;
    }
    if (device->context != NULL) {
        device->ops->close(device->context);
    }
    ser_mem_free(device->name);
    ser_mem_free(device);
}
