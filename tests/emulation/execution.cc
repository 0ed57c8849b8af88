/* SPDX-License-Identifier: MIT */
/* Runs a grid: block after block, each thread on a stack of its own (fibre), handing over only
 * where it waits. A thread that is done lends its stack to the next one that has not begun, so
 * that a kernel without barriers is a plain loop. */
#include "emulator_internal.h"
#include "fibre.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace
{

constexpr unsigned max_threads = 1024;

enum class wait { none, barrier, collective, done };

struct copy {
    void *to;
    const void *from;
    unsigned group;
};

struct thread {
    uint3 index;
    fibre *on;
    unsigned linear;
    wait waits;
    emulator_op *op;
    int result;
    const char *file;
    int line;
    bool waited; /* for the kernel in front */
    /* cp.async under way, oldest first, and the group that the next one joins */
    copy *copies;
    unsigned copy_count, copy_capacity, group;
};

struct warp {
    unsigned alive;   /* lanes that have not ended */
    unsigned waiting; /* lanes at a collective */
};

struct barrier {
    emulator_kind kind;
    const char *file;
    int line;
    unsigned arrived, nonzero;
};

struct block {
    const emulator_kernel *kernel;
    const void *arguments;
    unsigned count, done;
    barrier at;
    warp warps[max_threads / 32];
    thread threads[max_threads];
    /* ring of the threads that can go on */
    thread *ready[max_threads];
    unsigned ready_head, ready_count;
    char *shared, *shared_memory;
};

block now;
fibre host;
fibre *idle; /* stacks without a thread */
uint64_t order;

thread *self; /* whose turn it is; NULL between blocks */

unsigned random_below(unsigned count)
{
    order ^= order << 13;
    order ^= order >> 7;
    order ^= order << 17;
    return static_cast<unsigned>((order >> 32) * count >> 32);
}

/* -- Turns */

void make_ready(thread *t)
{
    t->waits = wait::none;
    now.ready[(now.ready_head + now.ready_count) % max_threads] = t;
    now.ready_count++;
}

thread *next_ready()
{
    if (now.ready_count == 0) {
        return nullptr;
    }
    thread **head = &now.ready[now.ready_head % max_threads];
    if (order) {
        thread **other = &now.ready[(now.ready_head + random_below(now.ready_count)) % max_threads];
        thread *t = *head;
        *head = *other;
        *other = t;
    }
    now.ready_head = (now.ready_head + 1) % max_threads;
    now.ready_count--;
    return *head;
}

[[noreturn]] void deadlock()
{
    unsigned barriers = 0, collectives = 0;

    for (unsigned i = 0; i < now.count; i++) {
        const thread *t = &now.threads[i];
        const char *const kind = t->waits == wait::barrier ? "__syncthreads" : "a warp collective";
        if (t->waits != wait::barrier && t->waits != wait::collective) {
            continue;
        }
        unsigned &seen = t->waits == wait::barrier ? barriers : collectives;
        if (seen++ < 4) {
            fprintf(stderr, "emulation: thread (%u, %u, %u) waits at %s, %s:%d, mask %08x\n",
                    t->index.x, t->index.y, t->index.z, kind, t->file, t->line,
                    t->waits == wait::collective ? t->op->mask : 0xffffffffu);
        }
    }
    emulator_fatal(
        "deadlock: %u of %u threads wait at __syncthreads, %u at warp collectives, %u have ended",
        barriers, now.count, collectives, now.done);
}

void take_turn(thread *t)
{
    self = t;
    emulator_thread_index = t->index;
}

void hand_over(fibre *from, thread *to)
{
    if (!to->on) {
        fibre *stack = idle;
        if (stack) {
            idle = stack->next;
        } else {
            stack = fibre_new();
        }
        stack->thread = to;
        to->on = stack;
    }
    take_turn(to);
    fibre_switch(from, to->on);
}

/* The running thread waits; returns when it has its turn again. */
void pause_here(thread *t)
{
    thread *next = next_ready();
    if (!next) {
        deadlock();
    }
    if (next != t) {
        hand_over(t->on, next);
    }
}

void try_complete(warp *w, unsigned first, unsigned mask);

/* A thread has ended: it may have been the last that others of its warp wait for. */
void end_thread(thread *t)
{
    warp *w = &now.warps[t->linear / 32];
    const unsigned first = t->linear / 32 * 32;

    if (now.kernel->early && !t->waited) {
        emulator_fatal(
            "launched with programmatic stream serialization, but a thread ended without "
            "cudaGridDependencySynchronize");
    }
    t->waits = wait::done;
    w->alive &= ~(1u << t->linear % 32);
    now.done++;
    if (now.at.arrived > 0) {
        emulator_fatal("a thread ended while %u others wait at the __syncthreads of %s:%d",
                       now.at.arrived, now.at.file, now.at.line);
    }
    for (unsigned lane = 0; lane < 32 && w->waiting != 0; lane++) {
        if (w->waiting >> lane & 1) {
            try_complete(w, first, now.threads[first + lane].op->mask);
        }
    }
}

} // namespace

uint3 emulator_thread_index, emulator_block_index;
dim3 emulator_block_size, emulator_grid_size;

void emulator_fatal(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "emulation: ");
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (self) {
        const uint3 b = blockIdx, t = threadIdx;
        fprintf(stderr, "\n  in block (%u, %u, %u), thread (%u, %u, %u) of %s", b.x, b.y, b.z, t.x,
                t.y, t.z, emulator_kernel_name(now.kernel->function));
    }
    fprintf(stderr, "\n");
    abort();
}

/* What every stack runs, for ever. */
void fibre_main(fibre *stack)
{
    for (;;) {
        thread *t = static_cast<thread *>(stack->thread);
        now.kernel->run(now.arguments);
        end_thread(t);
        thread *next = next_ready();
        if (next && !next->on) {
            stack->thread = next;
            next->on = stack;
            take_turn(next);
            continue;
        }
        if (!next && now.done < now.count) {
            deadlock();
        }
        stack->next = idle;
        idle = stack;
        if (next) {
            hand_over(stack, next);
        } else {
            self = nullptr;
            fibre_switch(stack, &host);
        }
    }
}

/* -- Barriers */

int emulator_barrier(emulator_kind kind, int predicate, const char *file, int line)
{
    thread *t = self;
    barrier *at = &now.at;

    t->file = file;
    t->line = line;
    if (now.done > 0) {
        emulator_fatal("__syncthreads at %s:%d after %u threads of the block have ended", file,
                       line, now.done);
    }
    if (at->arrived == 0) {
        *at = barrier{kind, file, line, 0, 0};
    } else if (at->kind != kind || at->line != line ||
               (at->file != file && strcmp(at->file, file) != 0)) {
        emulator_fatal("threads meet at different __syncthreads: %s:%d and %s:%d", at->file,
                       at->line, file, line);
    }
    at->nonzero += predicate != 0;
    if (++at->arrived < now.count) {
        t->waits = wait::barrier;
        pause_here(t);
        return t->result;
    }
    int result = static_cast<int>(at->nonzero);
    if (kind == EMULATOR_SYNCTHREADS_OR) {
        result = at->nonzero > 0;
    } else if (kind == EMULATOR_SYNCTHREADS_AND) {
        result = at->nonzero == now.count;
    }
    at->arrived = 0;
    for (unsigned i = 0; i < now.count; i++) {
        now.threads[i].result = result;
        make_ready(&now.threads[i]);
    }
    pause_here(t);
    return result;
}

/* -- Warp collectives */

namespace
{

bool is_same(const emulator_op *x, const emulator_op *y)
{
    return x->kind == y->kind &&
           (x->kind != EMULATOR_LDMATRIX || (x->argument == y->argument && x->width == y->width));
}

/* Performs the collective of `mask` if all its lanes have come, but for those that have ended. */
void try_complete(warp *w, unsigned first, unsigned mask)
{
    const unsigned present = mask & w->alive;
    thread *lanes = &now.threads[first];
    emulator_op *ops[32];
    const emulator_op *op = nullptr, *differ = nullptr;

    if (present == 0 || (w->waiting & present) != present) {
        return;
    }
    for (unsigned left = present; left != 0; left &= left - 1) {
        const unsigned lane = static_cast<unsigned>(__builtin_ctz(left));
        const emulator_op *other = ops[lane] = lanes[lane].op;
        if (other->mask != mask) {
            return;
        }
        op = op ? op : other;
        differ = differ ? differ : is_same(op, other) ? nullptr : other;
    }
    if (differ) {
        emulator_fatal("lanes of a warp meet at different collectives: %s:%d and %s:%d", op->file,
                       op->line, differ->file, differ->line);
    }
    emulator_perform(ops, present);
    w->waiting &= ~present;
    for (unsigned left = present; left != 0; left &= left - 1) {
        make_ready(&lanes[__builtin_ctz(left)]);
    }
}

} // namespace

void emulator_collective(emulator_op *op)
{
    thread *t = self;
    const unsigned lane = t->linear % 32;
    warp *w = &now.warps[t->linear / 32];

    if (!(op->mask >> lane & 1)) {
        emulator_fatal("%s:%d: lane %u is not in its own mask %08x", op->file, op->line, lane,
                       op->mask);
    }
    if (op->kind >= EMULATOR_SHFL && op->kind <= EMULATOR_SHFL_XOR &&
        (op->width < 1 || op->width > 32 || (op->width & (op->width - 1)) != 0)) {
        emulator_fatal("%s:%d: shuffle of width %d", op->file, op->line, op->width);
    }
    t->op = op;
    t->file = op->file;
    t->line = op->line;
    t->waits = wait::collective;
    w->waiting |= 1u << lane;
    try_complete(w, t->linear - lane, op->mask);
    pause_here(t);
}

unsigned emulator_active()
{
    return now.warps[self->linear / 32].alive;
}

void emulator_yield()
{
    thread *t = self;
    make_ready(t);
    pause_here(t);
}

/* Nothing runs beside the kernel: what was in front has finished. */
void emulator_wait_for_previous()
{
    self->waited = true;
}

/* -- cp.async: the copy is made only when the thread waits for its group */

void emulator_copy_async(void *shared, const void *global, bool valid, const char *file, int line)
{
    thread *t = self;
    bool inside = true;

    emulator_check_shared(shared, "cp.async", file, line);
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0) {
        emulator_fatal("cp.async at %s:%d: source %p is not 16-byte aligned", file, line, global);
    }
    if (valid && (emulator_find(global, 16, &inside) != EMULATOR_DEVICE || !inside)) {
        emulator_fatal("cp.async at %s:%d: source %p is outside device memory", file, line, global);
    }
    if (t->copy_count == t->copy_capacity) {
        t->copy_capacity = t->copy_capacity ? 2 * t->copy_capacity : 16;
        t->copies = static_cast<copy *>(realloc(t->copies, t->copy_capacity * sizeof *t->copies));
        if (!t->copies) {
            emulator_fatal("no memory");
        }
    }
    memset(shared, EMULATOR_FILL, 16);
    t->copies[t->copy_count++] = copy{shared, valid ? global : nullptr, t->group};
}

void emulator_copy_commit()
{
    self->group++;
}

void emulator_copy_wait(unsigned groups)
{
    thread *t = self;
    unsigned kept = 0;

    for (unsigned i = 0; i < t->copy_count; i++) {
        const copy *c = &t->copies[i];
        if (c->group + groups >= t->group) {
            t->copies[kept++] = *c;
        } else if (c->from) {
            memcpy(c->to, c->from, 16);
        } else {
            memset(c->to, 0, 16);
        }
    }
    t->copy_count = kept;
}

/* -- Blocks and grids */

void *emulator_shared()
{
    return now.shared;
}

bool emulator_is_shared(const void *address)
{
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(now.shared);

    return at - begin < now.kernel->shared;
}

namespace
{

constexpr size_t shared_most = 227 * 1024;

bool untouched(const char *p, size_t size)
{
    return *p == static_cast<char>(EMULATOR_FILL) && memcmp(p, p + 1, size - 1) == 0;
}

void check_shared_guards()
{
    EMULATOR_UNPOISON(now.shared_memory, shared_most + 3 * EMULATOR_GUARD);
    if (!untouched(now.shared - EMULATOR_GUARD, EMULATOR_GUARD) ||
        !untouched(now.shared + now.kernel->shared, EMULATOR_GUARD)) {
        emulator_fatal("%s wrote outside its %zu bytes of dynamic shared memory",
                       emulator_kernel_name(now.kernel->function), now.kernel->shared);
    }
}

/* No more than the 16 bytes of alignment that SER_SHARED promises. */
void prepare_shared()
{
    if (!now.shared_memory) {
        now.shared_memory =
            static_cast<char *>(aligned_alloc(EMULATOR_GUARD, shared_most + 3 * EMULATOR_GUARD));
        if (!now.shared_memory) {
            emulator_fatal("no memory");
        }
        now.shared = now.shared_memory + EMULATOR_GUARD + 16;
    }
    EMULATOR_UNPOISON(now.shared_memory, shared_most + 3 * EMULATOR_GUARD);
    memset(now.shared - EMULATOR_GUARD, EMULATOR_FILL, now.kernel->shared + 2 * EMULATOR_GUARD);
    EMULATOR_POISON(now.shared - EMULATOR_GUARD, EMULATOR_GUARD);
    EMULATOR_POISON(now.shared + now.kernel->shared, EMULATOR_GUARD);
}

void prepare_threads(uint3 index)
{
    const dim3 size = now.kernel->block;
    uint3 at = {};

    now.count = size.x * size.y * size.z;
    now.done = now.ready_head = now.ready_count = 0;
    now.at = barrier{};
    emulator_block_index = index;
    emulator_block_size = size;
    emulator_grid_size = now.kernel->grid;
    for (unsigned i = 0; i < now.count; i++) {
        thread *t = &now.threads[i];
        t->index = at;
        t->on = nullptr;
        t->linear = i;
        t->copy_count = t->group = 0;
        t->waited = false;
        make_ready(t);
        if (++at.x == size.x) {
            at.x = 0;
            at.y = at.y + 1 == size.y ? 0 : at.y + 1;
            at.z += at.y == 0;
        }
    }
    for (unsigned i = 0; i < now.count; i += 32) {
        now.warps[i / 32] = warp{now.count - i < 32 ? (1u << (now.count - i)) - 1 : ~0u, 0};
    }
}

void run_block(uint3 index)
{
    prepare_threads(index);
    prepare_shared();
    hand_over(&host, next_ready());
    check_shared_guards();
}

} // namespace

void emulator_order(uint64_t seed)
{
    order = seed * 0x9e3779b97f4a7c15u; /* small seeds too begin with many bits */
}

/* Kernels are seldom exported: the offset is for addr2line -f -e. */
const char *emulator_kernel_name(const void *function)
{
    static char text[1024];
    Dl_info info;

    if (dladdr(function, &info) == 0) {
        snprintf(text, sizeof text, "kernel %p", function);
    } else {
        snprintf(text, sizeof text, "kernel %s in %s + %#tx",
                 info.dli_sname ? info.dli_sname : "(no symbol)", info.dli_fname,
                 static_cast<const char *>(function) - static_cast<const char *>(info.dli_fbase));
    }
    return text;
}

void emulator_execute(const emulator_kernel *kernel, const void *arguments)
{
    const dim3 grid = kernel->grid;
    const size_t count = static_cast<size_t>(grid.x) * grid.y * grid.z;
    uint32_t *permuted = nullptr;

    now.kernel = kernel;
    now.arguments = arguments;
    if (order &&
        (permuted = static_cast<uint32_t *>(malloc(count * sizeof *permuted))) != nullptr) {
        for (size_t i = 0; i < count; i++) {
            const size_t j = random_below(static_cast<unsigned>(i + 1));
            permuted[i] = permuted[j];
            permuted[j] = static_cast<uint32_t>(i);
        }
    }
    for (size_t i = 0; i < count; i++) {
        const size_t at = permuted ? permuted[i] : i;
        run_block(uint3{static_cast<unsigned>(at % grid.x),
                        static_cast<unsigned>(at / grid.x % grid.y),
                        static_cast<unsigned>(at / grid.x / grid.y)});
    }
    free(permuted);
    emulator_check_guards(emulator_kernel_name(kernel->function));
}
