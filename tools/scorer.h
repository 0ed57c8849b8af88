/* SPDX-License-Identifier: MIT */
/* From decoded audio to rows of output: batches across files, means over windows, failures. */
#ifndef SER_TOOLS_SCORER_H
#define SER_TOOLS_SCORER_H

#include <stdbool.h>
#include <stddef.h>

#include <ser/predict.h>

#include "decode.h"
#include "labelchoice.h"
#include "output.h"
#include "progress.h"

typedef struct scorer_setup {
    ser_predictor *predictor;
    const labelchoice *choice; /* classes of the answer */
    size_t batch;              /* clips or windows that the predictor computes together */
    size_t group;              /* that it is given in a call: whole batches, */
    size_t memory;             /* no more once they have this many bytes */
    double offset;             /* seconds skipped at the start of each file */
    bool segments;
    const file_list *files;
    decoder *decoder;
    output *out;
    progress *progress;
} scorer_setup;

typedef struct scorer_result {
    size_t files_done;
    size_t files_failed;
    int first_failure; /* exit code of the first failed file */
    size_t units;      /* clips and windows computed */
    double seconds;    /* of audio in them */
    double decoding;   /* seconds spent waiting for decoded audio, */
    double computing;  /* in the predictor, */
    double writing;    /* and writing answers */
} scorer_result;

/* Do all files, printing in their order. 0, or the exit code of a failure that ends the run
 * (device, output); failures of single files are only counted. Stops early after a signal. */
int scorer_run(const scorer_setup *setup, scorer_result *result);

#endif
