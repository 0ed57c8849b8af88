/* SPDX-License-Identifier: MIT */
/* Shared by the parts of the emulator: running a grid (execution.cc), memory (memory.cc), the
 * runtime API (emulator.cc, stream.cc). All but the lock is used with the lock held. */
#ifndef SER_EMULATION_EMULATOR_INTERNAL_H
#define SER_EMULATION_EMULATOR_INTERNAL_H

#include "emulator.h"

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif
#ifndef EMULATOR_ASAN
#define EMULATOR_ASAN 0
#endif

#if EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#define EMULATOR_POISON(memory, size)   ASAN_POISON_MEMORY_REGION(memory, size)
#define EMULATOR_UNPOISON(memory, size) ASAN_UNPOISON_MEMORY_REGION(memory, size)
#else
#define EMULATOR_POISON(memory, size)   (static_cast<void>(memory), static_cast<void>(size))
#define EMULATOR_UNPOISON(memory, size) (static_cast<void>(memory), static_cast<void>(size))
#endif

/* All bytes 0xff: a NaN in f32, f64 and bf16, -1 as an integer. */
#define EMULATOR_FILL  0xff
#define EMULATOR_GUARD 256u

struct emulator_kernel {
    void (*run)(const void *arguments);
    const void *function;
    dim3 grid;
    dim3 block;
    size_t shared;
    bool early; /* launched with programmatic stream serialization */
};

/* -- execution.cc */
void emulator_execute(const emulator_kernel *kernel, const void *arguments);
void emulator_order(uint64_t seed);
/* Prints the message and where the running kernel is, then aborts. */
[[noreturn]] __attribute__((format(printf, 1, 2))) void emulator_fatal(const char *format, ...);
bool emulator_is_shared(const void *address);
/* "kernel 0x... (name)" in a static buffer. */
const char *emulator_kernel_name(const void *function);

/* -- collectives.cc */
/* ops [32]: those of the lanes in `present`. */
void emulator_perform(emulator_op *const *ops, unsigned present);
/* Aborts unless `address` can be that of 16 bytes of shared memory. */
void emulator_check_shared(const void *address, const char *what, const char *file, int line);

/* -- memory.cc */
enum emulator_space { EMULATOR_UNTRACKED, EMULATOR_DEVICE, EMULATOR_PINNED };

/* NULL when the host has no memory left. */
void *emulator_allocate(size_t size, emulator_space space);
/* Aborts when the guard around the block was written; false for an unknown address. */
bool emulator_release(void *memory, emulator_space space);
/* Where `memory` lies; `inside`: whether all of its `size` bytes lie in that block. */
emulator_space emulator_find(const void *memory, size_t size, bool *inside);
void emulator_check_guards(const char *when);
size_t emulator_device_bytes(void);
size_t emulator_blocks(void);

/* -- emulator.cc */
struct emulator_state {
    int device_count, driver, major, minor;
    char name[256];
    size_t memory, limit, peak;
    uint64_t launches, early_launches;
    int compiled;
    cudaError_t sticky;
    size_t handles;
};
extern emulator_state emulator_now;

class emulator_lock
{
  public:
    emulator_lock();
    ~emulator_lock();
    emulator_lock(const emulator_lock &) = delete;
    emulator_lock &operator=(const emulator_lock &) = delete;
};

/* The error that this call is to give at once: an injected one, that of a lost context, or that
 * of a missing device. */
cudaError_t emulator_enter(const char *function);
/* Notes the error for cudaGetLastError. */
cudaError_t emulator_leave(cudaError_t error);
/* The context is lost. */
void emulator_lose(cudaError_t error);

/* -- function.cc */
/* 0, or the error that this launch gives. */
cudaError_t emulator_check_launch(const cudaLaunchConfig_t *config, const void *function);
size_t emulator_shared_limit(void);

/* -- graph.cc */
struct emulator_node {
    enum { launch, copy, fill } kind;
    emulator_node *next;
    emulator_kernel kernel;
    const void *arguments;
    size_t arguments_size;
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, width, height;
    cudaMemcpyKind direction;
    int value;
};

struct CUgraph_st {
    emulator_node *first, *last;
};

bool emulator_append(CUgraph_st *graph, const emulator_node *node);
void emulator_clear(CUgraph_st *graph);
cudaError_t emulator_run_graph(const CUgraph_st *graph);
/* Whether the node's memory is that of live blocks, on the right sides. `captured`: pageable
 * memory is refused too. */
bool emulator_node_valid(const emulator_node *node, bool captured);
void emulator_run_node(const emulator_node *node);

/* -- submit.cc */
/* A line of the log (emulator_log); `how` stands before it. */
void emulator_log_node(const char *how, const emulator_node *node);

/* -- stream.cc */
/* Executes the node, or records it if the stream captures. */
cudaError_t emulator_submit(cudaStream_t stream, const emulator_node *node);
cudaError_t emulator_submit_graph(cudaStream_t stream, const CUgraph_st *graph);
/* What streams have kept back is done: where all of the device is waited for. */
cudaError_t emulator_catch_up(void);
/* 0, or the error of a call that a capture under way forbids; that capture is then invalid. */
cudaError_t emulator_capture_forbids(void);

#endif
