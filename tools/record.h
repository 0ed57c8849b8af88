/* SPDX-License-Identifier: MIT */
/* What the parts of ser-record share: what was asked for, what is open, how far it is. */
#ifndef SER_TOOLS_RECORD_H
#define SER_TOOLS_RECORD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/ser.h>
#include <ser/stream.h>

#include "capture/capture.h"
#include "labelchoice.h"
#include "output.h"
#include "record_meter.h"
#include "recording.h"
#include "terminal.h"

typedef struct record_options {
    const char *model;
    const char *labels;
    const char *source;
    const char *output;
    const char *device;
    double seconds; /* 0: not given */
    double window;
    double hop;
    double smoothing;
    double gate; /* dBFS; 0: none */
    int32_t continuous;
    int32_t no_predict;
    int32_t attention;
    int32_t rate;
    int32_t channels;
    int32_t list_devices;
    int32_t force;
    int32_t format;
    int32_t levels;
    int32_t color;
    int32_t quiet;
    int32_t verbose;
    int32_t precision;
    int32_t threads;
} record_options;

/* Label `label` has been the likeliest since `start`. */
typedef struct record_run {
    double start;
    size_t label;
} record_run;

/* What is drawn on a terminal while sound comes in. */
typedef struct record_screen {
    bool block; /* bars, history and meter on standard output; otherwise a meter */
    bool meter; /* on a terminal, unless --quiet */
    terminal terminal;
    double drawn;  /* when, on the clock of record_now() */
    bool changed;  /* since it was drawn */
    float *scores; /* [choice.count] of the last window; NULL before the first one */
    bool gated;    /* it was not computed */
    double start;
    double end;
    int32_t flags;
    float *attention; /* [attention_count], a copy */
    size_t attention_count;
    double attention_start;
    double attention_step;
    record_run *runs; /* [RECORD_RUNS], the last ones */
    size_t run_count;
} record_screen;

enum { RECORD_RUNS = 64 };

/* The network of --continuous has a thread of its own, which makes the answers: file, meter and
 * keys wait for it only where hundreds of megabytes of sound do. */
typedef struct record_worker {
    bool running;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int16_t *waiting; /* [capacity, channels], */
    size_t start;     /* of which waiting_frames from here on are not seen yet */
    size_t waiting_frames;
    size_t capacity;
    bool finish;       /* no more comes */
    double stopped_at; /* when it saw a signal, on the clock of record_now(); the worker's */
    double answered;   /* seconds: end of the last window; the worker's */
    bool gave_up;      /* what waited after the signal was too much; the worker's */
} record_worker;

/* Standard output, unless it is a terminal, has one too: nothing waits for its reader but this
 * thread, which holds no lock meanwhile. */
typedef struct record_output {
    bool running; /* else it is written in place */
    pthread_t thread;
    pthread_mutex_t lock; /* taken last */
    pthread_cond_t changed;
    char *waiting; /* [capacity], of which `size` bytes from `start` on are to be written */
    size_t start;
    size_t size;
    size_t capacity;
    size_t in_hand;  /* bytes that the thread is writing */
    int64_t written; /* bytes so far */
    bool finish;     /* no more comes */
    bool failed;     /* it cannot be written, or there is no reader any more */
    bool given_up;   /* there is one, but it does not read */
} record_output;

/* What main() opens, in the order in which it is freed again, from the end. */
typedef struct record_session {
    record_options options;
    ser_device_options device_options;
    ser_device *device;
    ser_model *model;
    labelchoice choice;
    char device_name[32];
    capture *capture;
    char *source; /* as --source would name it, and for people */
    char *description;
    int32_t rate;
    int32_t channels;
    recording *recording;     /* NULL: nothing is kept */
    ser_predictor *predictor; /* of one clip, */
    unsigned char *clip;      /* a WAV file: 16-bit samples [limit, channels] behind its header */
    ser_stream *stream;       /* or of windows, which belongs to the worker */
    record_worker worker;
    pthread_mutex_t lock; /* recursive; of what is called locked below */
    float *scores;        /* [choice.count] */
    output out;           /* locked */
    bool out_open;        /* locked */
    record_output output;
    record_meter meter;
    record_screen screen; /* locked */
    int16_t *buffer;      /* [RECORD_BUFFER, channels] */
    int64_t frames;       /* recorded so far */
    double kept;          /* seconds of them in the file, once it is closed */
    int64_t limit;        /* frames after which it ends; 0: none */
    double began_at;      /* on the clock of record_now() */
    double computing;     /* seconds spent in the network; locked */
    double missed;        /* seconds while the device was away */
    int64_t overruns;     /* that the user was told of, */
    double told_at;       /* and when */
    bool told_silence;
    bool told_clipping;
    const char *reason; /* why it ended; NULL: it goes on; locked */
    int code;           /* exit code of the first failure; locked */
} record_session;

enum { RECORD_BUFFER = 8192 };

/* Seconds on the monotonic clock. */
double record_now(void);

/* End the recording: why, and with which exit code unless there is one already. */
void record_end(record_session *s, const char *reason, int code);

bool record_ended(record_session *s);

/* Seconds recorded. */
double record_seconds(const record_session *s);

/* record_loop.c: take in sound until there is a reason to end. */
void record_loop(record_session *s);

/* record_answer.c. What takes time comes before there is sound, the rest once its rate is known; 0
 * or an exit code. */
int record_answer_prepare(record_session *s);
int record_answer_open(record_session *s);
/* Sound came: kept for the clip, or the windows that it completes are answered. */
void record_answer_push(record_session *s, const int16_t *samples, size_t frames);
/* The sound is over: answer for the clip, or the last windows. */
void record_answer_finish(record_session *s);
/* The worker's: windows that this sound completes; `last`: it is over. False: no more. */
bool record_answer_windows(record_session *s, const int16_t *samples, size_t frames, bool last);

/* record_worker.c */
int record_worker_start(record_session *s);
/* Hand over; waits where the network is very far behind. */
void record_worker_push(record_session *s, const int16_t *samples, size_t frames);
/* Let it do what waits and the last window; after a signal, what can be done in two seconds. */
void record_worker_finish(record_session *s);
void record_worker_free(record_session *s);

/* record_events.c: the JSON lines beside those of output_json.c; nothing in other formats. */
void record_event_start(record_session *s);
void record_event_level(record_session *s);
void record_event_gap(record_session *s, double seconds);
void record_event_end(record_session *s, const char *file);

/* record_output.c */
void record_output_start(record_session *s);
/* Hand on what was printed so far, without waiting for its reader; ends the recording if there is
 * none any more. */
void record_flush(record_session *s);
/* Whether few enough lines wait for the reader; `wait`: until it is so, or a signal asks to stop.
 * Without a lock. */
bool record_output_room(record_session *s, bool wait);
/* Let the reader have what waits. After a signal not for longer than a second in which it takes
 * nothing: then a message says so. */
void record_output_finish(record_session *s);

/* record_screen.c */
void record_screen_open(record_session *s);
void record_screen_window(record_session *s, const output_row *row);
/* At most ten times a second, and when there is a new window. */
void record_screen_draw(record_session *s);
/* Leave the last answer, take the meter away. */
void record_screen_close(record_session *s);
void record_screen_free(record_session *s);

#endif
