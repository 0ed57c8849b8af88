/* SPDX-License-Identifier: MIT */
#include "scan.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <ser/common.h>
#include <xxhash.h>

#include "message.h"
#include "text.h"

enum { THREADS_MAX = 64, THREADS_DEFAULT_MAX = 16, LISTED_LIMIT = 10 };

/* What the threads share. Everything below `lock` is under it. */
typedef struct pool {
    const dataset *ds;
    const scan_options *options;
    scan *out;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t next; /* clip that nobody has begun */
    size_t done;
    size_t running; /* threads */
    bool stopping;
} pool;

void scan_options_init(scan_options *options)
{
    *options = (scan_options){0};
    ser_audio_options_init(&options->audio, sizeof options->audio);
}

double scan_seconds(const scan_entry *entry)
{
    return (double)entry->samples / SER_SAMPLING_RATE;
}

enum { CONTOUR = 32 * SCAN_PRINT_WORDS }; /* bits of level, and as many of zero crossings */

/* Mean square and zero crossings of `CONTOUR + 1` equal stretches. */
static void measure(const float *x, size_t count, double *level, double *crossings)
{
    for (size_t k = 0; k <= CONTOUR; k++) {
        size_t begin = k * count / (CONTOUR + 1);
        size_t end = (k + 1) * count / (CONTOUR + 1);
        double sum = 0.0;
        size_t changes = 0;
        for (size_t i = begin; i < end; i++) {
            sum += (double)x[i] * (double)x[i];
            changes += i > begin && (x[i] < 0.0F) != (x[i - 1] < 0.0F);
        }
        level[k] = sum / (double)(end - begin);
        crossings[k] = (double)changes / (double)(end - begin);
    }
}

/*
 * A print of the clip in the manner of Haitsma and Kalker (2002): bit k says whether level (then
 * zero-crossing rate) rises from stretch k to k + 1. Both are independent of gain, and steps that
 * are small against the whole clip count as no rise, so that coding noise turns few bits.
 */
static void take_print(const float *x, size_t count, uint64_t print[SCAN_PRINT_WORDS])
{
    double level[CONTOUR + 1];
    double crossings[CONTOUR + 1];
    memset(print, 0, SCAN_PRINT_WORDS * sizeof *print);
    if (count < SER_SAMPLING_RATE / 4) {
        return;
    }
    measure(x, count, level, crossings);
    double mean = 0.0;
    for (size_t k = 0; k <= CONTOUR; k++) {
        mean += level[k] / (CONTOUR + 1);
    }
    for (size_t k = 0; k < CONTOUR; k++) {
        bool audible = level[k] > 1e-2 * mean && level[k + 1] > 1e-2 * mean;
        uint64_t louder = level[k + 1] > 1.1 * level[k] + 1e-2 * mean;
        uint64_t higher = audible && crossings[k + 1] > 1.05 * crossings[k];
        print[k / 64] |= louder << k % 64;
        print[(CONTOUR + k) / 64] |= higher << (CONTOUR + k) % 64;
    }
}

static void keep_facts(const ser_audio *audio, scan_entry *entry)
{
    size_t count = 0;
    const float *samples = ser_audio_samples(audio, &count);
    ser_audio_info info = {.struct_size = sizeof info};
    ser_audio_get_info(audio, &info);
    entry->samples = count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
    entry->sampling_rate = info.sampling_rate;
    entry->channels = info.channels;
    entry->flags = info.flags;
    entry->clipped_ratio = info.clipped_ratio;
    entry->peak = info.peak;
    entry->rms = info.rms;
    entry->dc_offset = info.dc_offset;
    entry->hash = XXH3_64bits(samples, count * sizeof *samples);
    if ((info.flags & SER_AUDIO_SILENT) == 0) {
        take_print(samples, count, entry->print);
    }
}

static void scan_clip(pool *p, size_t i)
{
    const dataset_clip *clip = &p->ds->clips[i];
    scan_entry *entry = &p->out->entries[i];
    ser_audio_options options = p->options->audio;
    ser_audio *audio = NULL;
    options.offset = clip->start;
    options.length = clip->end > clip->start ? clip->end - clip->start : 0.0;
    entry->status = ser_audio_read(clip->path, &options, &audio);
    if (entry->status == SER_OK) {
        keep_facts(audio, entry);
    }
    ser_audio_free(&audio);
    pthread_mutex_lock(&p->lock);
    if (entry->status != SER_OK) {
        entry->error = intern(&p->out->strings, ser_error_message(), NULL);
        p->out->failed++;
    }
    entry->done = true;
    p->done++;
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *argument)
{
    pool *p = argument;
    for (;;) {
        pthread_mutex_lock(&p->lock);
        bool more = !p->stopping && p->next < p->ds->count;
        size_t i = p->next;
        p->next += more ? 1 : 0;
        if (!more) {
            p->running--;
            pthread_cond_signal(&p->changed);
        }
        pthread_mutex_unlock(&p->lock);
        if (!more) {
            return NULL;
        }
        scan_clip(p, i);
    }
}

static size_t thread_count(const scan_options *options, size_t clips)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    size_t count = options->threads;
    if (count == 0) {
        count = cpus < 1 ? 1 : cpus > THREADS_DEFAULT_MAX ? THREADS_DEFAULT_MAX : (size_t)cpus;
    }
    count = count < THREADS_MAX ? count : THREADS_MAX;
    return count < clips ? count : clips;
}

/* Report progress and look for a stop, ten times a second, until all threads have ended. */
static void watch(pool *p)
{
    const scan_options *o = p->options;
    pthread_mutex_lock(&p->lock);
    while (p->running > 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 100000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&p->changed, &p->lock, &until);
        size_t done = p->done;
        pthread_mutex_unlock(&p->lock);
        if (o->progress != NULL) {
            o->progress(done, p->ds->count, o->user);
        }
        bool stop = o->stop != NULL && o->stop() != 0;
        pthread_mutex_lock(&p->lock);
        p->stopping = p->stopping || stop;
    }
    pthread_mutex_unlock(&p->lock);
}

/* One thread is enough; without any the caller does the work. */
static void run(pool *p)
{
    pthread_t threads[THREADS_MAX];
    size_t wanted = thread_count(p->options, p->ds->count);
    size_t started = 0;
    p->running = wanted;
    while (started < wanted && pthread_create(&threads[started], NULL, work, p) == 0) {
        started++;
    }
    pthread_mutex_lock(&p->lock);
    p->running -= wanted - started;
    pthread_mutex_unlock(&p->lock);
    if (started == 0 && wanted > 0) {
        p->running = 1;
        work(p);
    }
    watch(p);
    for (size_t i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    if (p->options->progress != NULL) {
        p->options->progress(p->done, p->ds->count, p->options->user);
    }
}

int scan_run(const dataset *ds, const scan_options *options, scan *out)
{
    *out = (scan){.count = ds->count};
    out->entries = text_alloc(ds->count, sizeof *out->entries);
    pool p = {.ds = ds,
              .options = options,
              .out = out,
              .lock = PTHREAD_MUTEX_INITIALIZER,
              .changed = PTHREAD_COND_INITIALIZER};
    run(&p);
    pthread_mutex_destroy(&p.lock);
    pthread_cond_destroy(&p.changed);
    return p.done < ds->count ? SER_ERR_CANCELLED : SER_OK;
}

/* Take the clips that failed out of both lists. */
static void leave_out(scan *s, dataset *ds)
{
    bool *keep = text_alloc(s->count, sizeof *keep);
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++) {
        const dataset_clip *clip = &ds->clips[i];
        keep[i] = s->entries[i].status == SER_OK;
        if (keep[i]) {
            s->entries[kept++] = s->entries[i];
            continue;
        }
        const char *manifest = clip->line > 0 ? ds->corpora[clip->corpus].source : NULL;
        dataset_skip_clip(ds, &(dataset_skip){.path = clip->path,
                                              .reason = s->entries[i].error,
                                              .source = manifest,
                                              .line = clip->line});
    }
    s->count = kept;
    s->failed = 0;
    dataset_keep(ds, keep);
    free(keep);
}

int scan_check(scan *s, dataset *ds, bool skip)
{
    size_t listed = 0;
    if (s->failed == 0) {
        return MESSAGE_EXIT_OK;
    }
    for (size_t i = 0; i < s->count && listed < LISTED_LIMIT; i++) {
        if (s->entries[i].status != SER_OK) {
            listed++;
            (skip ? message_warning : message_error)("%s", s->entries[i].error);
        }
    }
    if (!skip || s->failed == s->count) {
        message_error("%zu of %zu clips cannot be decoded%s", s->failed, s->count,
                      skip ? "" : "; --skip-bad leaves them out");
        return MESSAGE_EXIT_DATA;
    }
    message_warning("%zu of %zu clips cannot be decoded and are left out", s->failed, s->count);
    leave_out(s, ds);
    return MESSAGE_EXIT_OK;
}

static void digest_text(XXH3_state_t *state, const char *text)
{
    XXH3_64bits_update(state, text, strlen(text) + 1);
}

uint64_t scan_digest(const scan *s, const dataset *ds, const uint8_t *parts)
{
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL) {
        message_error("out of memory");
        _exit(MESSAGE_EXIT_DEVICE);
    }
    XXH3_64bits_reset(state);
    for (size_t i = 0; i < ds->count; i++) {
        const dataset_clip *clip = &ds->clips[i];
        const char *slash = strrchr(clip->path, '/');
        digest_text(state, slash != NULL ? slash + 1 : clip->path);
        digest_text(state, ds->labels[clip->label]);
        digest_text(state, ds->corpora[clip->corpus].name);
        XXH3_64bits_update(state, &clip->start, sizeof clip->start);
        XXH3_64bits_update(state, &clip->end, sizeof clip->end);
        XXH3_64bits_update(state, &s->entries[i].hash, sizeof s->entries[i].hash);
        if (parts != NULL) {
            XXH3_64bits_update(state, &parts[i], 1);
        }
    }
    uint64_t digest = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return digest;
}

void scan_free(scan *s)
{
    free(s->entries);
    intern_free(&s->strings);
    *s = (scan){0};
}
