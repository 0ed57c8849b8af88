/* SPDX-License-Identifier: MIT */
/* Stacks and the switch between them. */
#ifndef SER_EMULATION_FIBRE_H
#define SER_EMULATION_FIBRE_H

#include <stddef.h>

#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)
#define EMULATOR_PORTABLE_FIBRES 1
#include <ucontext.h>
#else
#define EMULATOR_PORTABLE_FIBRES 0
#endif

struct fibre {
    void *top; /* stack pointer while it does not run */
    char *stack;
    size_t size;
    void *fake; /* AddressSanitizer's frames of this stack */
    void *thread;
    fibre *next;
#if EMULATOR_PORTABLE_FIBRES
    ucontext_t context;
#endif
};

/* A stack that will run fibre_main(itself) when first switched to. Kept for ever. */
fibre *fibre_new();
void fibre_switch(fibre *from, fibre *to);
/* Whether the address lies on a stack of fibre_new. */
bool fibre_owns(const void *address);

[[noreturn]] void fibre_main(fibre *self);

#endif
