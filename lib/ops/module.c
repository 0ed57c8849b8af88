/* SPDX-License-Identifier: MIT */
#include "ops/module.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"

#define FILE_NAME "libser-cuda.so"

static int host_fail(int status, const char *text)
{
    return ser_fail(status, "%s", text);
}

static void host_log(int32_t level, const char *text)
{
    ser_log(level, "%s", text);
}

static const ser_host host = {
    .fail = host_fail,
    .log = host_log,
    .alloc = ser_mem_alloc,
    .free = ser_mem_free,
};

/* Modules that have been loaded stay. */
static struct {
    pthread_mutex_t lock;
    const ser_ops *loaded;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* "<folder of libser.so>/ser", so that a moved installation finds its module; NULL if unknown. Of a
 * program that libser is linked into it is argv[0]'s, which the caller of a setuid program chooses. */
static char *folder_beside(void)
{
    Dl_info info;
    if (getauxval(AT_SECURE) != 0 || dladdr(&registry, &info) == 0 || info.dli_fname == NULL) {
        return NULL;
    }
    const char *slash = strrchr(info.dli_fname, '/');
    return slash != NULL ? ser_mem_format("%.*s/ser", (int)(slash - info.dli_fname), info.dli_fname)
                         : NULL;
}

/* The module's path in `folder`, if there is such a file. */
static char *module_in(const char *folder)
{
    char *path = folder != NULL ? ser_mem_format("%s/" FILE_NAME, folder) : NULL;
    if (path != NULL && access(path, F_OK) != 0) {
        ser_mem_free(path);
        path = NULL;
    }
    return path;
}

/* $SER_MODULE_PATH alone where it is set, else beside libser.so, else where it was installed. */
static int find_module(char **path)
{
    const char *chosen = secure_getenv("SER_MODULE_PATH");
    char *beside = chosen == NULL ? folder_beside() : NULL;
    *path = module_in(chosen != NULL ? chosen : beside);
    if (*path == NULL && chosen == NULL) {
        *path = module_in(SER_MODULE_DIR);
    }
    int status = 0;
    if (*path == NULL) {
        status = ser_fail(SER_ERR_DEVICE,
                          "cuda: " FILE_NAME " is not in %s: this libser was installed without "
                          "CUDA; install its CUDA module, or use the CPU",
                          chosen != NULL ? chosen : SER_MODULE_DIR);
    }
    ser_mem_free(beside);
    return status;
}

static int load(const char *path, const ser_ops **ops)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL) {
        return ser_fail(SER_ERR_DEVICE,
                        "cuda: %s cannot be loaded: %s; it needs cuBLASLt 13, whose folder "
                        "LD_LIBRARY_PATH may name",
                        path, dlerror());
    }
    const uint32_t *version = dlsym(module, "ser_module_version");
    void *symbol = dlsym(module, "ser_module_open");
    int status = 0;
    if (version == NULL || symbol == NULL) {
        status = ser_fail(SER_ERR_DEVICE, "cuda: %s is not a module of libser", path);
    } else if (*version != SER_OPS_VERSION) {
        status = ser_fail(SER_ERR_DEVICE,
                          "cuda: %s has interface %u, this libser needs %u: they are of different "
                          "releases, install both from one",
                          path, *version, (unsigned)SER_OPS_VERSION);
    } else {
        ser_module_open_function *open;
        memcpy(&open, &symbol, sizeof open); /* ISO C has no cast from object to function pointer */
        *ops = open(&host);
    }
    if (status != 0) {
        dlclose(module);
    }
    return status;
}

int ser_module_cuda(const ser_ops **ops)
{
    int status = 0;
    pthread_mutex_lock(&registry.lock);
    if (registry.loaded == NULL) {
        char *path = NULL;
        status = find_module(&path);
        status = status == 0 ? load(path, &registry.loaded) : status;
        ser_mem_free(path);
    }
    *ops = registry.loaded;
    pthread_mutex_unlock(&registry.lock);
    return status;
}

bool ser_module_cuda_installed(void)
{
    char *path = NULL;
    const bool found = find_module(&path) == 0;
    ser_mem_free(path);
    return found;
}
