/* SPDX-License-Identifier: MIT */
/* What all parts of a call of ser-train share: options, device, clips; and the models it makes. */
#ifndef SER_TOOLS_TRAIN_SESSION_H
#define SER_TOOLS_TRAIN_SESSION_H

#include <stdbool.h>

#include <ser/model.h>
#include <ser/train.h>

#include "train_data.h"
#include "train_loader.h"
#include "train_options.h"

typedef struct train_session {
    const train_options *options;
    char *command; /* the command line, for the report */
    ser_device *device;
    train_data data;
    clip_cache *cache;
    double started; /* seconds of train_clock() */
} train_session;

/* Monotonic seconds. */
double train_clock(void);

/* Open the device and read the clips. 0 or an exit code; close it in both cases. */
int train_session_open(train_session *s, const train_options *o, int argc, char **argv);
void train_session_close(train_session *s);

/* True once --time-limit is over. */
bool train_session_late(const train_session *s);

/* The untrained model that the options describe, with the classes of the clips; binds them. */
int train_model_create(train_session *s, ser_model **model);

/* A finished model; binds the clips to its classes. */
int train_model_load(train_session *s, const char *path, ser_model **model);

/* Whether the model measures the level of its log-mels before it is trained. */
bool train_model_has_levels(const ser_model *model);

/* Report the calling thread's last failure; the exit code of `status`. */
int train_fail(int status);

/* A line on standard error for people, unless --quiet. */
__attribute__((format(printf, 2, 3))) void train_say(const train_session *s, const char *format,
                                                     ...);

#endif
