/* SPDX-License-Identifier: MIT */
#include "predict/pieces.h"

#include <stdlib.h>
#include <string.h>

#include "audio/audio.h"
#include "base/mem.h"

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t windows_of(const ser_piece_rules *rules, size_t samples)
{
    return samples > rules->max_samples ? 1 + (samples - 1) / rules->window : 1;
}

static ser_piece cut(const ser_piece_rules *rules, const ser_audio *audio, size_t start,
                     size_t length)
{
    const ser_front_end *front_end = rules->front_end;
    ser_piece piece = {.samples = audio->samples, .length = length, .end = length};
    if (front_end->trim && length > 0) {
        ser_audio_trim(audio->samples + start, length, front_end->trim_threshold_db,
                       front_end->trim_margin, &piece.begin, &piece.end);
    }
    piece.begin += start;
    piece.end += start;
    piece.padded = larger(piece.end - piece.begin, rules->min_samples);
    return piece;
}

/* Windows stand end to end; the last one ends with the clip. */
static size_t cut_clip(const ser_piece_rules *rules, const ser_audio *audio, size_t clip,
                       ser_piece *pieces)
{
    size_t windows = windows_of(rules, audio->count);
    size_t size = windows > 1 ? rules->window : audio->count;
    for (size_t i = 0; i < windows; i++) {
        size_t start = i * size;
        size_t rest = audio->count - start;
        pieces[i] = cut(rules, audio, start, rest < size ? rest : size);
        pieces[i].clip = clip;
        pieces[i].windowed = audio->count > rules->max_samples;
    }
    return windows;
}

static void pad_to_longest(ser_piece *pieces, size_t count)
{
    size_t longest = 0;
    for (size_t i = 0; i < count; i++) {
        longest = pieces[i].windowed ? longest : larger(longest, pieces[i].padded);
    }
    for (size_t i = 0; i < count; i++) {
        pieces[i].padded = pieces[i].windowed ? pieces[i].padded : longest;
    }
}

/* Longest first, so that a batch holds clips of similar length; then as they came, so that the
 * order of the windows of a clip does not depend on its company. */
static int compare(const void *a, const void *b)
{
    const ser_piece *x = a;
    const ser_piece *y = b;
    if (x->padded != y->padded) {
        return x->padded > y->padded ? -1 : 1;
    }
    if (x->clip != y->clip) {
        return x->clip < y->clip ? -1 : 1;
    }
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

int ser_pieces_cut(const ser_piece_rules *rules, const ser_audio *const *audios, size_t count,
                   ser_piece **pieces, size_t *piece_count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        total += windows_of(rules, audios[i]->count);
    }
    ser_piece *list = ser_mem_alloc(total, sizeof *list);
    if (list == NULL) {
        return SER_ERR_MEMORY;
    }
    size_t done = 0;
    for (size_t i = 0; i < count; i++) {
        done += cut_clip(rules, audios[i], i, list + done);
    }
    if (rules->pad_as_hf) {
        pad_to_longest(list, total);
    }
    qsort(list, total, sizeof *list, compare);
    *pieces = list;
    *piece_count = total;
    return 0;
}

void ser_piece_prepare(const ser_piece_rules *rules, const ser_piece *piece, float *to)
{
    const float *from = piece->samples + piece->begin;
    size_t count = piece->end - piece->begin;
    if (count > 0 && rules->front_end->normalize) {
        ser_audio_normalize(from, count, to);
    } else if (count > 0) {
        memcpy(to, from, count * sizeof *to);
    }
    memset(to + count, 0, (piece->padded - count) * sizeof *to);
}
