/* SPDX-License-Identifier: MIT */
/* What a warp computes together once all its lanes have come: shuffles, votes, products,
 * ldmatrix. */
#include "emulated_mma.h"
#include "emulator_internal.h"
#include "fibre.h"

#include <string.h>

namespace
{

/* The lane that `lane` reads from, PTX shfl: bounds are those of its segment of `width` lanes;
 * xor may reach into lower segments. */
unsigned shuffle_source(const emulator_op *op, unsigned lane)
{
    const unsigned width = static_cast<unsigned>(op->width);
    const unsigned first = lane & ~(width - 1), last = first + width - 1;
    const unsigned argument = static_cast<unsigned>(op->argument);

    switch (op->kind) {
    case EMULATOR_SHFL: return first + (argument & (width - 1));
    case EMULATOR_SHFL_UP: return lane >= first + (argument & 31) ? lane - (argument & 31) : lane;
    case EMULATOR_SHFL_DOWN: return lane + (argument & 31) <= last ? lane + (argument & 31) : lane;
    default: return (lane ^ (argument & 31)) <= last ? lane ^ (argument & 31) : lane;
    }
}

/* Reading from a lane that takes no part gives all ones. */
void shuffle(emulator_op *const *ops, unsigned present)
{
    for (unsigned left = present; left != 0; left &= left - 1) {
        const unsigned lane = static_cast<unsigned>(__builtin_ctz(left));
        const unsigned source = shuffle_source(ops[lane], lane);
        ops[lane]->result = present >> source & 1 ? ops[source]->value : ~0ULL;
    }
}

void vote(emulator_op *const *ops, unsigned present, emulator_kind kind)
{
    unsigned bits = 0, sum = 0, least = ~0u, largest = 0;

    for (unsigned left = present; left != 0; left &= left - 1) {
        const unsigned lane = static_cast<unsigned>(__builtin_ctz(left));
        const unsigned value = static_cast<unsigned>(ops[lane]->value);
        bits |= (value != 0 ? 1u : 0u) << lane;
        sum += value;
        least = min(least, value);
        largest = max(largest, value);
    }
    const unsigned result = kind == EMULATOR_BALLOT       ? bits
                            : kind == EMULATOR_ANY        ? bits != 0
                            : kind == EMULATOR_ALL        ? bits == present
                            : kind == EMULATOR_REDUCE_ADD ? sum
                            : kind == EMULATOR_REDUCE_MIN ? least
                                                          : largest;
    for (unsigned left = present; left != 0; left &= left - 1) {
        ops[__builtin_ctz(left)]->result = result;
    }
}

float half_of(uint32_t pair, unsigned which)
{
    return __uint_as_float(which ? pair & 0xffff0000u : pair << 16);
}

/* PTX, mma.m16n8k16 .row.col with .bf16: lane = 4 g + t holds of a the rows g, g + 8 and the
 * columns 2 t + {0, 1}, 2 t + 8 + {0, 1}; of b the rows likewise and the column g; of d the rows
 * g, g + 8 and the columns 2 t + {0, 1}. */
void multiply(emulator_op *const *ops)
{
    float a[16][16], b[16][8], d[16][8] = {};

    for (unsigned lane = 0; lane < 32; lane++) {
        const auto *f = static_cast<const emulator_fragments *>(ops[lane]->data);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned r = 0; r < 4; r++) {
            for (unsigned i = 0; i < 2; i++) {
                a[g + (r & 1) * 8][2 * t + (r >> 1) * 8 + i] = half_of(f->a[r], i);
            }
        }
        for (unsigned r = 0; r < 2; r++) {
            for (unsigned i = 0; i < 2; i++) {
                b[2 * t + r * 8 + i][g] = half_of(f->b[r], i);
            }
        }
    }
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned k = 0; k < 16; k++) {
            for (unsigned column = 0; column < 8; column++) {
                d[row][column] += a[row][k] * b[k][column];
            }
        }
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        const auto *f = static_cast<const emulator_fragments *>(ops[lane]->data);
        for (unsigned i = 0; i < 4; i++) {
            f->d[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        }
    }
}

} // namespace

void emulator_check_shared(const void *address, const char *what, const char *file, int line)
{
    bool inside;

    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
        emulator_fatal("%s at %s:%d: address %p is not 16-byte aligned", what, file, line, address);
    }
    if (emulator_is_shared(address)) {
        return;
    }
    if (emulator_find(address, 16, &inside) != EMULATOR_UNTRACKED || fibre_owns(address)) {
        emulator_fatal("%s at %s:%d: address %p is not in shared memory", what, file, line,
                       address);
    }
}

namespace
{

/* Lane 4 r + c receives of each 8 x 8 matrix row r, columns 2 c and 2 c + 1; transposed: column r,
 * rows 2 c and 2 c + 1. */
void load_matrices(emulator_op *const *ops)
{
    const emulator_op *op = ops[0];

    for (unsigned m = 0; m < static_cast<unsigned>(op->argument); m++) {
        uint16_t x[8][8];
        for (unsigned row = 0; row < 8; row++) {
            const emulator_op *from = ops[m * 8 + row];
            emulator_check_shared(from->data, "ldmatrix", from->file, from->line);
            memcpy(x[row], from->data, sizeof x[row]);
        }
        for (unsigned lane = 0; lane < 32; lane++) {
            const unsigned r = lane / 4, c = lane % 4 * 2;
            const uint32_t low = op->width ? x[c][r] : x[r][c];
            const uint32_t high = op->width ? x[c + 1][r] : x[r][c + 1];
            static_cast<uint32_t *>(ops[lane]->out)[m] = low | high << 16;
        }
    }
}

} // namespace

void emulator_perform(emulator_op *const *ops, unsigned present)
{
    const emulator_op *op = ops[__builtin_ctz(present)];

    switch (op->kind) {
    case EMULATOR_SYNCWARP: break;
    case EMULATOR_SHFL:
    case EMULATOR_SHFL_UP:
    case EMULATOR_SHFL_DOWN:
    case EMULATOR_SHFL_XOR: shuffle(ops, present); break;
    case EMULATOR_MMA:
    case EMULATOR_LDMATRIX:
        if (present != 0xffffffffu) {
            emulator_fatal("%s:%d needs all 32 lanes, %08x are here", op->file, op->line, present);
        }
        if (op->kind == EMULATOR_MMA) {
            multiply(ops);
        } else {
            load_matrices(ops);
        }
        break;
    default: vote(ops, present, op->kind); break;
    }
}
