/* SPDX-License-Identifier: MIT */
/*
 * Which clips train, which choose between models, which give the reported number.
 *
 *   emobox6:K    K in 1..6: EmoBox's folds of RAVDESS (test: 4 of 24 actors). Other corpora: the
 *                speakers in sorted order, the i-th (from 0) is tested in fold i mod 6 + 1.
 *   luna5:K      K in 0..4: the folds of Luna-Jimenez et al. 2022, other corpora alike (i mod 5).
 *   loso:A       leave one speaker out: tests speaker A (or CORPUS/A); all other corpora train.
 *   actors:N:K   K in 0..N-1: tests the speakers whose number is K modulo N; a corpus with a
 *                speaker whose name is no number uses the place in sorted order instead.
 *   random:SEED  80/10/10 of the clips of every label and corpus. Speaker-dependent: the same
 *                people, and both takes of a sentence, are trained on and tested.
 *   column       the manifest's split column; corpora without one train.
 *
 * The first four are speaker-independent; their validation speakers are the test speakers of the
 * next fold (after the last comes the first), so that nothing is ever chosen on test clips.
 */
#ifndef SER_TOOLS_SPLITS_H
#define SER_TOOLS_SPLITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataset.h"

typedef enum split_kind {
    SPLIT_EMOBOX6,
    SPLIT_LUNA5,
    SPLIT_LOSO,
    SPLIT_ACTORS,
    SPLIT_RANDOM,
    SPLIT_COLUMN
} split_kind;

enum { SPLIT_SPEAKER_SIZE = 128 };

typedef struct split_spec {
    split_kind kind;
    int32_t fold;                     /* as written after the colon; -1: none named yet */
    int32_t folds;                    /* emobox6: 6, luna5: 5, actors: N */
    uint64_t seed;                    /* random */
    char speaker[SPLIT_SPEAKER_SIZE]; /* loso; "" : none named yet */
    bool validation_none;             /* validation clips train too */
} split_spec;

/* One fold. */
typedef struct split {
    uint8_t *parts; /* [ds->count], dataset_part */
    size_t counts[DATASET_PARTS];
    bool speaker_independent; /* no speaker in two parts, and every speaker known */
    char *protocol;           /* a sentence or two for people, to stand beside every number */
    char *name;               /* the spec with its fold, such as "emobox6:2" */
} split;

/* Read a --split. emobox6, luna5, loso and actors:N without a fold are for --cv only. */
int split_parse(const char *text, split_spec *spec);

/* Assign the parts. `*out` is empty after a failure. */
int split_apply(const split_spec *spec, const dataset *ds, split *out);

/* How many folds --cv has (1: random and column), and the spec of the i-th of them, from 0. */
size_t split_fold_count(const split_spec *spec, const dataset *ds);
void split_fold(const split_spec *spec, const dataset *ds, size_t i, split_spec *fold);

/* Warn about labels that a part lacks; an error if nothing trains, a label is only tested, or
 * (`need_test`) nothing is tested. */
int split_check(const split *s, const dataset *ds, bool need_test);

void split_free(split *s);

#endif
