/* SPDX-License-Identifier: MIT */
#include "train_loader.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message.h"
#include "text.h"

enum { THREADS_MAX = 64, THREADS_DEFAULT = 8, BATCHES_AHEAD = 2 }; /* beyond one per thread */

struct clip_cache {
    const dataset *ds;
    pthread_mutex_t lock;
    ser_audio **clips; /* [ds->count], NULL: not kept */
    size_t bytes;
    size_t limit;
};

/* A batch that is made, or the failure in its place. */
typedef struct slot {
    ser_batch *batch;
    int status;
    char *error;
    bool ready;
} slot;

/* Batch b lives in slot b % ahead from when a thread starts on it until it is handed out. */
struct loader {
    loader_setup setup;
    pthread_t threads[THREADS_MAX];
    size_t thread_count;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    slot *slots;
    size_t ahead;
    size_t started; /* batches that a thread has begun */
    size_t next;    /* batch whose turn is next */
    bool stopping;
};

clip_cache *clip_cache_new(const dataset *ds, size_t bytes)
{
    clip_cache *cache = text_alloc(1, sizeof *cache);
    cache->ds = ds;
    cache->limit = bytes;
    cache->clips = text_alloc(ds->count + 1, sizeof *cache->clips);
    pthread_mutex_init(&cache->lock, NULL);
    return cache;
}

void clip_cache_free(clip_cache **handle)
{
    clip_cache *cache = *handle;
    if (cache == NULL) {
        return;
    }
    for (size_t i = 0; i < cache->ds->count; i++) {
        ser_audio_free(&cache->clips[i]);
    }
    pthread_mutex_destroy(&cache->lock);
    free(cache->clips);
    free(cache);
    *handle = NULL;
}

static int decode(const dataset_clip *clip, ser_audio **audio)
{
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.offset = clip->start;
    options.length = clip->end > clip->start ? clip->end - clip->start : 0.0;
    return ser_audio_read(clip->path, &options, audio);
}

/* Nothing is ever taken out again: an epoch needs all clips alike. True if the cache has it now. */
static bool keep(clip_cache *cache, size_t clip, ser_audio *audio)
{
    size_t count = 0;
    ser_audio_samples(audio, &count);
    size_t bytes = count * sizeof(float);
    pthread_mutex_lock(&cache->lock);
    bool fits = cache->clips[clip] == NULL && bytes <= cache->limit - cache->bytes;
    if (fits) {
        cache->clips[clip] = audio;
        cache->bytes += bytes;
    }
    pthread_mutex_unlock(&cache->lock);
    return fits;
}

/* `*owned`: the caller frees it. */
static int get_clip(clip_cache *cache, size_t clip, ser_audio **audio, bool *owned)
{
    pthread_mutex_lock(&cache->lock);
    *audio = cache->clips[clip];
    pthread_mutex_unlock(&cache->lock);
    *owned = *audio == NULL;
    if (*audio != NULL) {
        return 0;
    }
    int status = decode(&cache->ds->clips[clip], audio);
    *owned = status == 0 && !keep(cache, clip, *audio);
    return status;
}

/* The clip and its copy in one number above 0. */
static uint64_t id_of(const loader_setup *s, uint32_t clip, uint32_t copy)
{
    return 1 + clip + (s->distinct ? (uint64_t)copy * s->data->set.count : 0);
}

size_t loader_clip_of(const train_data *data, uint64_t id)
{
    return id > 0 ? (size_t)((id - 1) % data->set.count) : 0;
}

static void fail(slot *s, int status, const char *prefix)
{
    s->status = status;
    s->error = text_join(prefix, prefix[0] != '\0' ? ": " : "", ser_error_message());
}

/* Clips of a batch with their audio; the arrays have room for all. */
typedef struct gathered {
    ser_clip *clips;
    ser_audio **audio;
    bool *owned;
    size_t count;
} gathered;

static void gather(const loader_setup *s, size_t b, gathered *g, slot *out)
{
    const loader_plan *plan = s->plan;
    for (size_t i = plan->starts[b]; out->status == 0 && i < plan->starts[b + 1]; i++) {
        uint32_t entry = plan->order[i];
        uint32_t clip = plan->pool->clips[entry];
        int status = get_clip(s->cache, clip, &g->audio[g->count], &g->owned[g->count]);
        if (status != 0) {
            fail(out, status, s->data->set.clips[clip].path);
            return;
        }
        g->clips[g->count] = (ser_clip){
            .struct_size = sizeof(ser_clip),
            .audio = g->audio[g->count],
            .id = id_of(s, clip, plan->pool->copies[entry]),
            .label = train_data_label(s->data, clip),
            .weight = plan->pool->weights[entry],
            .classes = train_data_mask(s->data, clip),
        };
        g->count++;
    }
}

/* ser_batch_create tells the number of a clip in the batch or its id; people want to know the file.
 */
static void explain(const loader_setup *s, const gathered *g, slot *out)
{
    const char *path = "";
    for (size_t i = 0; i < g->count && path[0] == '\0'; i++) {
        ser_batch *alone = NULL;
        if (ser_batch_create(s->trainer, &g->clips[i], 1, s->epoch, s->augment, &alone) != 0) {
            path = s->data->set.clips[loader_clip_of(s->data, g->clips[i].id)].path;
        }
        ser_batch_free(&alone);
    }
    fail(out, out->status, path);
}

static void make_batch(const loader_setup *s, size_t b, slot *out)
{
    size_t room = s->plan->starts[b + 1] - s->plan->starts[b];
    gathered g = {.clips = text_alloc(room, sizeof *g.clips),
                  .audio = text_alloc(room, sizeof *g.audio),
                  .owned = text_alloc(room, sizeof *g.owned)};
    gather(s, b, &g, out);
    if (out->status == 0) {
        out->status =
            ser_batch_create(s->trainer, g.clips, g.count, s->epoch, s->augment, &out->batch);
        if (out->status != 0) {
            explain(s, &g, out);
        }
    }
    for (size_t i = 0; i < g.count; i++) {
        if (g.owned[i]) {
            ser_audio_free(&g.audio[i]);
        }
    }
    free(g.owned);
    free(g.audio);
    free(g.clips);
}

static void *work(void *argument)
{
    loader *l = argument;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stopping && l->started < l->setup.plan->batches &&
               l->started >= l->next + l->ahead) {
            pthread_cond_wait(&l->changed, &l->lock);
        }
        if (l->stopping || l->started >= l->setup.plan->batches) {
            break;
        }
        size_t b = l->started++;
        pthread_mutex_unlock(&l->lock);
        slot made = {.ready = true};
        make_batch(&l->setup, b, &made);
        pthread_mutex_lock(&l->lock);
        l->slots[b % l->ahead] = made;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static size_t count_threads(const loader_setup *setup)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    size_t threads = online < 1 ? 1 : online < THREADS_DEFAULT ? (size_t)online : THREADS_DEFAULT;
    size_t batches = setup->plan->batches - setup->first;
    threads = setup->threads > 0 ? setup->threads : threads;
    threads = threads < THREADS_MAX ? threads : THREADS_MAX;
    return threads < batches ? threads : batches;
}

loader *loader_start(const loader_setup *setup)
{
    loader *l = text_alloc(1, sizeof *l);
    l->setup = *setup;
    l->started = setup->first;
    l->next = setup->first;
    size_t threads = count_threads(setup);
    l->ahead = threads + BATCHES_AHEAD;
    l->slots = text_alloc(l->ahead, sizeof *l->slots);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    sigset_t all;
    sigset_t before;
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (l->thread_count < threads &&
           pthread_create(&l->threads[l->thread_count], NULL, work, l) == 0) {
        l->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return l;
}

int loader_next(loader *l, ser_batch **batch)
{
    *batch = NULL;
    if (l->next >= l->setup.plan->batches) {
        return 0;
    }
    slot made = {.ready = true};
    if (l->thread_count == 0) { /* the system gave no thread: make it here */
        make_batch(&l->setup, l->next++, &made);
    } else {
        pthread_mutex_lock(&l->lock);
        slot *waited = &l->slots[l->next % l->ahead];
        while (!waited->ready) {
            pthread_cond_wait(&l->changed, &l->lock);
        }
        made = *waited;
        *waited = (slot){0};
        l->next++;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
    }
    int code = 0;
    if (made.status != 0) {
        message_error("%s", made.error);
        code = made.status == SER_ERR_ARGUMENT ? MESSAGE_EXIT_DATA : message_exit_code(made.status);
    }
    free(made.error);
    *batch = made.batch;
    return code;
}

void loader_free(loader **handle)
{
    loader *l = *handle;
    if (l == NULL) {
        return;
    }
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    for (size_t i = 0; i < l->thread_count; i++) {
        pthread_join(l->threads[i], NULL);
    }
    for (size_t i = 0; i < l->ahead; i++) {
        ser_batch_free(&l->slots[i].batch);
        free(l->slots[i].error);
    }
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l->slots);
    free(l);
    *handle = NULL;
}
