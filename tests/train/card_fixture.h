/* SPDX-License-Identifier: MIT */
/*
 * Trainers on the CPU and on a card in one program. The card is the emulated one, linked in so that its
 * failures and its memory can be chosen; with SER_TEST_CUDA=1 the first real one, through the
 * module.
 */
#ifndef SER_TESTS_CARD_FIXTURE_H
#define SER_TESTS_CARD_FIXTURE_H

#include "trainer_fixture.h"

#include "net/workspace.h"

/* Tones 0..2 and 3..5 are batches of this many, with a longest of LONGEST samples: a multiple of the
 * 400 to which a card's shapes are rounded, so that rows, and with them dropout masks, are the same
 * on both devices. */
enum { BATCH = 3, LONGEST = 4000 };

extern ser_device *host, *card; /* `device` is one of them: the host after card_setup */

/* Checked fixture. The latter also sees that nothing is left on the card. */
void card_setup(void);
void card_teardown(void);

/* Whether the card is emulated: only then can it be made to fail. */
bool is_emulated(void);

/* A new model and trainer there. */
void start_on(ser_device *on, int kind, uint64_t seed);

/* Step `batch` and free it. */
ser_step_result step_and_free(ser_batch *batch);

/* Replace tone i. */
void set_tone(int i, size_t count, bool whole_numbers);

/* Nothing can be recorded in the next step, until emulator_reset. */
void refuse_recordings(void);

/* Recordings of batches of `count` clips that replay. */
int count_recordings(int64_t count);

#endif
