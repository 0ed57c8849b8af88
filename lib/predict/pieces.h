/* SPDX-License-Identifier: MIT */
/* What the network sees of each clip: the clip or its windows, trimmed, normalised and padded. */
#ifndef SER_PREDICT_PIECES_H
#define SER_PREDICT_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/audio.h>

#include "model/config.h"

/* A stretch of one clip that the network takes in one go. Positions are samples of the clip. */
typedef struct ser_piece {
    size_t clip; /* index in the call */
    const float *samples;
    size_t begin, end; /* what is left of the stretch after trimming */
    size_t length;     /* of the stretch before trimming: its weight in the mean */
    size_t padded;     /* samples for the network, at least end - begin: zeros follow */
    bool windowed;     /* one of the windows of a long clip */
} ser_piece;

typedef struct ser_piece_rules {
    const ser_front_end *front_end;
    bool pad_as_hf;     /* pad the clips of a call (not windows) to the longest of them */
    size_t max_samples; /* longer clips are cut in windows */
    size_t window;      /* samples per window */
    size_t min_samples; /* shorter pieces are padded to this */
} ser_piece_rules;

/* Cut `count` clips, longest piece first. The caller frees `*pieces` with ser_mem_free. */
int ser_pieces_cut(const ser_piece_rules *rules, const ser_audio *const *audios, size_t count,
                   ser_piece **pieces, size_t *piece_count);

/* Write the piece's `padded` samples to `to`. */
void ser_piece_prepare(const ser_piece_rules *rules, const ser_piece *piece, float *to);

#endif
