/* SPDX-License-Identifier: MIT */
/* Audio files decoded ahead by a few threads and handed out in order, in bounded memory. */
#ifndef SER_TOOLS_DECODE_H
#define SER_TOOLS_DECODE_H

#include <stdbool.h>
#include <stddef.h>

#include <ser/audio.h>

#include "files.h"

typedef struct decode_plan {
    const file_list *files;
    ser_audio_options audio;
    double window; /* seconds per piece */
    double hop;
    double limit; /* seconds that are decoded ahead of a file's turn */
    bool join;    /* a file of up to `limit` seconds is one piece */
    size_t threads;
    size_t ahead;  /* files that may be decoded before their turn, */
    size_t memory; /* as long as what waits and what is decoded have fewer bytes than this */
} decode_plan;

typedef struct decode_piece {
    ser_audio *audio;
    double start; /* seconds from the start of the audio that is read */
} decode_piece;

/* One file whose turn it is. Used by one thread at a time. */
typedef struct decode_file {
    size_t index; /* in plan.files */
    ser_reader *reader;
    decode_piece *pieces; /* a queue: [taken, count) wait */
    size_t count;
    size_t taken;
    size_t capacity;
    bool at_end; /* nothing more to read behind the queue */
    bool whole;  /* the one piece is the whole file */
    size_t held; /* bytes of the queue; while it is decoded, the most that they may become */
    int status;  /* a failure behind the queue */
    char *error;
} decode_file;

typedef struct decoder decoder;

/* Start decoding. `plan` is copied; its files must live on. */
decoder *decoder_start(const decode_plan *plan);

/* The next file, or NULL after the last one and when a signal asks to stop. */
decode_file *decoder_next(decoder *d);

/* The next piece, which the caller frees; *audio is NULL at the end. On failure the status, whose
 * text is file->error. */
int decode_take(decoder *d, decode_file *file, ser_audio **audio, double *start);

/* True once the last piece was taken. */
bool decode_finished(const decode_file *file);

/* Free what the file holds and let the threads go on. */
void decoder_release(decoder *d, decode_file *file);

/* Wait for the threads and free everything. */
void decoder_free(decoder **handle);

#endif
