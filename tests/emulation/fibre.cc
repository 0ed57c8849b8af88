/* SPDX-License-Identifier: MIT */
#include "fibre.h"
#include "emulator_internal.h"

#include <stdlib.h>
#include <sys/mman.h>

#if EMULATOR_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace
{

/* Room for a kernel's locals; the sanitizers' frames are larger. */
constexpr size_t stack_size = EMULATOR_ASAN ? 256 * 1024 : 64 * 1024;
constexpr size_t page = 4096;
constexpr unsigned most = 1024;

fibre *all[most + 1];
unsigned count;
fibre *running, *previous;

/* On the new stack, after each switch: the sanitizer learns of the stack left. */
void arrived(void *fake)
{
#if EMULATOR_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(fake, &bottom, &size);
    previous->stack = static_cast<char *>(const_cast<void *>(bottom));
    previous->size = size;
#else
    static_cast<void>(fake);
#endif
}

[[noreturn]] void enter()
{
    arrived(nullptr);
    fibre_main(running);
}

} // namespace

#if !EMULATOR_PORTABLE_FIBRES
/* Pushes what a called function must preserve (System V ABI, 3.2.1), exchanges the stacks. */
extern "C" void emulator_switch(void **from, void *to);
asm(".text\n"
    ".p2align 4\n"
    ".type emulator_switch, @function\n"
    ".hidden emulator_switch\n"
    ".globl emulator_switch\n"
    "emulator_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    popq %rcx\n"
    "    jmpq *%rcx\n"
    ".size emulator_switch, . - emulator_switch\n");
#endif

fibre *fibre_new()
{
    fibre *self = static_cast<fibre *>(calloc(1, sizeof *self));
    /* The page below stays inaccessible, so that an overflow is seen. */
    void *memory = mmap(nullptr, stack_size + page, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (!self || memory == MAP_FAILED || count >= most) {
        emulator_fatal("no memory for stack %u", count);
    }
    self->stack = static_cast<char *>(memory) + page;
    self->size = stack_size;
    if (mprotect(self->stack, stack_size, PROT_READ | PROT_WRITE) != 0) {
        emulator_fatal("no memory for stack %u", count);
    }
    all[count++] = self;
    /* Tops at one distance from each other would share few lines of the caches. */
    const size_t used = stack_size - count * 7 % 64 * 64;
#if EMULATOR_PORTABLE_FIBRES
    getcontext(&self->context);
    self->context.uc_stack.ss_sp = self->stack;
    self->context.uc_stack.ss_size = used;
    makecontext(&self->context, enter, 0);
#else
    /* Six registers, where to go, a return address that nobody uses: there, the stack is as
     * after a call. */
    void **top = reinterpret_cast<void **>(self->stack + used - 64);
    top[6] = reinterpret_cast<void *>(enter);
    self->top = top;
#endif
    return self;
}

void fibre_switch(fibre *from, fibre *to)
{
    previous = from;
    running = to;
#if EMULATOR_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->size);
#endif
#if EMULATOR_PORTABLE_FIBRES
    swapcontext(&from->context, &to->context);
#else
    emulator_switch(&from->top, to->top);
#endif
    arrived(from->fake);
}

bool fibre_owns(const void *address)
{
    const char *at = static_cast<const char *>(address);

    for (unsigned i = 0; i < count; i++) {
        if (at >= all[i]->stack && at < all[i]->stack + all[i]->size) {
            return true;
        }
    }
    return false;
}
