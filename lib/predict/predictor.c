/* SPDX-License-Identifier: MIT */
#include "predict/predictor.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "audio/audio.h"
#include "base/fail.h"
#include "base/fork.h"
#include "base/mem.h"
#include "model/model.h"
#include "net/geometry.h"
#include "predict/pieces.h"

/* Memory that grows from call to call and never shrinks. */
typedef struct buffer {
    void *data;
    size_t capacity; /* bytes */
} buffer;

/* The answer for one clip. */
typedef struct clip_result {
    size_t begin, end; /* samples of the clip: the part that was used */
    int32_t flags;     /* SER_AUDIO_* and SER_PREDICTION_* */
    double weight;     /* sum over its windows */
    size_t frames;     /* 0 for a windowed clip, which has no values */
    size_t values;     /* where its attention, logits and embedding stand in `values` */
} clip_result;

/* The answers of one call. */
typedef struct results {
    size_t count;
    buffer clips;  /* clip_result [count] */
    buffer sums;   /* double [count, labels]: weighted probabilities */
    buffer values; /* float */
} results;

struct ser_predictor {
    ser_model *model;
    uint32_t fork_generation;
    atomic_bool busy;
    int32_t threads;
    size_t max_batch;
    ser_piece_rules rules;
    size_t labels, hidden;
    ser_workspace *workspace; /* made by the first call */
    int64_t *counts;          /* [max_batch] samples of the batch that is prepared */
    results last, next;       /* of the last successful call, of the one that runs */
};

static int reserve(buffer *b, size_t count, size_t size)
{
    size_t bytes = 0;
    if (b->data != NULL && ser_mul_size(count, size, &bytes) && bytes <= b->capacity) {
        return 0;
    }
    ser_mem_free(b->data);
    b->capacity = 0;
    b->data = ser_mem_alloc_raw(count, size);
    if (b->data == NULL) {
        return SER_ERR_MEMORY;
    }
    b->capacity = count * size;
    return 0;
}

static void clear_results(results *r)
{
    ser_mem_free(r->clips.data);
    ser_mem_free(r->sums.data);
    ser_mem_free(r->values.data);
}

/* --- Life --- */

static size_t to_samples(double seconds)
{
    return (size_t)llround(seconds * SER_SAMPLING_RATE);
}

/*
 * The longest piece, at most `longest` samples, that stays within bounds: attention is quadratic in the
 * frames and memory linear in the values of a level, and a small hostile model could ask for hours or
 * terabytes. Published models stay far below both.
 */
static size_t bounded_piece(const ser_arch *arch, size_t longest)
{
    const int64_t most_frames = 16384;
    const int64_t most_values = (int64_t)1 << 28;
    const size_t least = (size_t)ser_arch_min_samples(arch);
    while (longest / 2 >= least) {
        int64_t lengths[SER_MAX_CONVS + 1];
        ser_geometry_lengths(arch, (int64_t)longest, lengths);
        int64_t values = arch->features == SER_FEATURES_LOGMEL ? lengths[0] * arch->mel.bins : 0;
        for (int32_t i = 0; i < arch->conv_count; i++) {
            int64_t level = lengths[i + 1] * arch->conv_dim[i];
            values = level > values ? level : values;
        }
        if (lengths[arch->conv_count] <= most_frames && values <= most_values) {
            break;
        }
        longest /= 2;
    }
    return longest;
}

static bool pads_as_hf(const ser_predictor_options *options, const ser_config *config)
{
    return options->padding == SER_PADDING_MODEL ? config->pad_as_hf
                                                 : options->padding == SER_PADDING_HF;
}

/* A GPU needs more at a time to be busy. */
static size_t batch_limit(const ser_predictor_options *options, const ser_model *model)
{
    const size_t usual = model->device->kind == SER_DEVICE_CPU ? 8 : 32;
    return options->max_batch > 0 ? (size_t)options->max_batch : usual;
}

static int set_rules(const ser_predictor_options *options, const ser_model *model,
                     ser_piece_rules *rules)
{
    const ser_config *config = &model->config;
    double longest =
        options->max_seconds > 0.0 ? options->max_seconds : config->front_end.max_seconds;
    double window =
        options->window > 0.0 ? options->window : fmin(config->front_end.window, longest);
    if (window > longest) {
        return ser_fail(SER_ERR_ARGUMENT,
                        "ser_predictor_options: window is %g s, more than max_seconds (%g s)",
                        window, longest);
    }
    const size_t most = bounded_piece(&config->arch, to_samples(longest));
    const size_t wanted = to_samples(window);
    *rules = (ser_piece_rules){.front_end = &config->front_end,
                               .pad_as_hf = pads_as_hf(options, config),
                               .max_samples = most,
                               .window = wanted < most ? wanted : most,
                               .min_samples = (size_t)ser_arch_min_samples(&config->arch)};
    return 0;
}

static int check_model(const ser_model *model)
{
    if (model->config.arch.classifier_count < 1) {
        return ser_fail(SER_ERR_UNSUPPORTED, "the model is a bare backbone: it has no classifier");
    }
    return ser_fork_check(model->fork_generation, "the model");
}

int ser_predictor_make(ser_model *model, const ser_predictor_options *options,
                       ser_predictor **predictor)
{
    *predictor = NULL;
    ser_piece_rules rules;
    int status = check_model(model);
    if (status == 0) {
        status = set_rules(options, model, &rules);
    }
    if (status != 0) {
        return status;
    }
    ser_predictor *p = ser_mem_alloc(1, sizeof *p);
    status = p != NULL ? ser_model_share(model) : SER_ERR_MEMORY;
    if (status != 0) {
        ser_mem_free(p);
        return status;
    }
    ser_model_acquire(model);
    p->model = model;
    p->fork_generation = ser_fork_generation();
    atomic_init(&p->busy, false);
    p->threads =
        options->threads > 0 ? ser_device_threads(options->threads) : model->device->threads;
    p->max_batch = batch_limit(options, model);
    p->rules = rules;
    p->labels = model->config.label_count;
    p->hidden = (size_t)model->config.arch.hidden_size;
    p->counts = ser_mem_alloc(p->max_batch, sizeof *p->counts);
    if (p->counts == NULL) {
        ser_predictor_destroy(p);
        return SER_ERR_MEMORY;
    }
    *predictor = p;
    return 0;
}

void ser_predictor_destroy(ser_predictor *predictor)
{
    if (predictor == NULL) {
        return;
    }
    ser_workspace_free(predictor->workspace);
    ser_model_unshare(predictor->model);
    ser_model_release(predictor->model);
    clear_results(&predictor->last);
    clear_results(&predictor->next);
    ser_mem_free(predictor->counts);
    ser_mem_free(predictor);
}

size_t ser_predictor_label_count(const ser_predictor *predictor)
{
    return predictor->labels;
}

/* --- One call --- */

/* Zeroed answers with what is known before the network has run. */
static int start_results(ser_predictor *p, const ser_audio *const *audios, size_t count,
                         const ser_piece *pieces, size_t piece_count)
{
    results *r = &p->next;
    size_t sums;
    size_t values = 0;
    r->count = count;
    if (!ser_mul_size(count, p->labels, &sums)) {
        return ser_fail(SER_ERR_MEMORY, "out of memory: %zu clips exceed the address space", count);
    }
    if (reserve(&r->clips, count, sizeof(clip_result)) != 0 ||
        reserve(&r->sums, sums, sizeof(double)) != 0) {
        return SER_ERR_MEMORY;
    }
    clip_result *clips = r->clips.data;
    for (size_t i = 0; i < count; i++) {
        clips[i] = (clip_result){.flags = audios[i]->info.flags, .begin = audios[i]->count};
    }
    memset(r->sums.data, 0, sums * sizeof(double));
    for (size_t i = 0; i < piece_count; i++) {
        clip_result *clip = &clips[pieces[i].clip];
        clip->begin = pieces[i].begin < clip->begin ? pieces[i].begin : clip->begin;
        clip->end = pieces[i].end > clip->end ? pieces[i].end : clip->end;
        if (pieces[i].windowed) {
            clip->flags |= SER_PREDICTION_WINDOWED;
            continue;
        }
        clip->flags |= pieces[i].end - pieces[i].begin < p->rules.min_samples ? SER_AUDIO_SHORT : 0;
        clip->frames = (size_t)ser_arch_frames(&p->model->config.arch, (int64_t)pieces[i].padded);
        clip->values = values;
        values += clip->frames + p->labels + p->hidden;
    }
    return reserve(&r->values, values, sizeof(float));
}

/*
 * How many of the next pieces, longest first, are computed together: up to max_batch, and no more
 * samples than that many windows have, so that memory is bounded by the longest clip or a batch of
 * windows.
 */
static size_t batch_size(const ser_predictor *p, const ser_piece *pieces, size_t count)
{
    size_t budget = p->max_batch * p->rules.window;
    size_t fitting = budget / pieces[0].padded;
    size_t size = count < p->max_batch ? count : p->max_batch;
    return fitting < size ? (fitting > 0 ? fitting : 1) : size;
}

/* Pieces that are computed together, and what came of them. */
typedef struct batch {
    const ser_piece *pieces;
    size_t count;
    ser_outputs outputs;
} batch;

typedef struct batch_source {
    const ser_piece_rules *rules;
    const ser_piece *pieces;
} batch_source;

static void write_piece(const void *source, int64_t index, float *to)
{
    const batch_source *from = source;
    ser_piece_prepare(from->rules, &from->pieces[index], to);
}

static int prepare(ser_predictor *p, const batch *b, bool alone)
{
    const ser_net *net = p->model->net;
    const batch_source source = {.rules = &p->rules, .pieces = b->pieces};
    const ser_clips clips = {
        .count = (int64_t)b->count, .samples = p->counts, .write = write_piece, .source = &source};
    for (size_t i = 0; i < b->count; i++) {
        p->counts[i] = (int64_t)b->pieces[i].padded;
    }
    if (p->workspace == NULL) {
        int status =
            ser_workspace_create(net, clips.count, p->counts[0], p->threads, false, &p->workspace);
        if (status != 0) {
            return status;
        }
    }
    return ser_net_prepare(net, p->workspace, &clips, alone);
}

static bool all_finite(const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i])) {
            return false;
        }
    }
    return true;
}

/* Row `row` of a batch into the answer of its clip. */
static int collect_row(ser_predictor *p, const batch *b, size_t row)
{
    const ser_outputs *o = &b->outputs;
    const ser_piece *piece = &b->pieces[row];
    clip_result *clip = (clip_result *)p->next.clips.data + piece->clip;
    double *sums = (double *)p->next.sums.data + piece->clip * p->labels;
    const float *logits = o->logits + row * p->labels;
    const float *attention = o->alpha + row * (size_t)o->padded;
    const size_t frames = (size_t)ser_arch_frames(&p->model->config.arch, (int64_t)piece->padded);
    if (!all_finite(logits, p->labels) || !all_finite(attention, frames) ||
        !all_finite(o->pooled + row * p->hidden, p->hidden)) {
        return ser_fail(SER_ERR_NUMERIC, "clip %zu: the network gave NaN or infinity", piece->clip);
    }
    double weight = piece->windowed ? (double)piece->length : 1.0;
    clip->weight += weight;
    for (size_t k = 0; k < p->labels; k++) {
        sums[k] += weight * (double)o->probabilities[row * p->labels + k];
    }
    if (!piece->windowed) {
        float *to = (float *)p->next.values.data + clip->values;
        memcpy(to, attention, clip->frames * sizeof *to);
        memcpy(to + clip->frames, logits, p->labels * sizeof *to);
        memcpy(to + clip->frames + p->labels, o->pooled + row * p->hidden, p->hidden * sizeof *to);
    }
    return 0;
}

static int collect(ser_predictor *p, const batch *b)
{
    int status = 0;
    for (size_t i = 0; i < b->count && status == 0; i++) {
        status = collect_row(p, b, i);
    }
    return status;
}

/* Batch after batch: while the device computes one, the next is written and the one before read. */
static int run_batches(ser_predictor *p, const ser_piece *pieces, size_t count)
{
    batch under_way = {.count = 0};
    int status = 0;
    for (size_t done = 0; done < count && status == 0;) {
        batch next = {.pieces = pieces + done, .count = batch_size(p, pieces + done, count - done)};
        status = prepare(p, &next, next.count == count);
        if (status == 0 && under_way.count > 0) {
            status = ser_net_wait(p->workspace);
        }
        status = status == 0 ? ser_net_launch(p->workspace, &next.outputs) : status;
        status = status == 0 ? collect(p, &under_way) : status;
        under_way = next;
        done += next.count;
    }
    /* also after a failure: nothing must be under way when the call returns */
    int waited = p->workspace != NULL ? ser_net_wait(p->workspace) : 0;
    status = status == 0 ? waited : status;
    return status == 0 ? collect(p, &under_way) : status;
}

/* All went well: show the answers. */
static void commit(ser_predictor *p, float *probabilities)
{
    results old = p->last;
    p->last = p->next;
    p->next = old;
    const clip_result *clips = p->last.clips.data;
    const double *sums = p->last.sums.data;
    for (size_t i = 0; i < p->last.count; i++) {
        for (size_t k = 0; k < p->labels; k++) {
            probabilities[i * p->labels + k] = (float)(sums[i * p->labels + k] / clips[i].weight);
        }
    }
}

static int run(ser_predictor *p, const ser_audio *const *audios, size_t count, float *probabilities)
{
    ser_piece *pieces = NULL;
    size_t piece_count = 0;
    int status = ser_pieces_cut(&p->rules, audios, count, &pieces, &piece_count);
    if (status == 0) {
        status = start_results(p, audios, count, pieces, piece_count);
    }
    status = status == 0 ? run_batches(p, pieces, piece_count) : status;
    ser_mem_free(pieces);
    if (status == 0) {
        commit(p, probabilities);
    }
    return status;
}

/* The predictor is this call's until it sets busy to false again. */
static int take(ser_predictor *predictor)
{
    int status = ser_fork_check(predictor->fork_generation, "the predictor");
    if (status == 0 && atomic_exchange(&predictor->busy, true)) {
        status = ser_fail(SER_ERR_BUSY, "the predictor is in use by another call: one per thread");
    }
    return status;
}

int ser_predictor_run(ser_predictor *predictor, const ser_audio *const *audios, size_t count,
                      float *probabilities)
{
    int status = take(predictor);
    if (status == 0) {
        status = run(predictor, audios, count, probabilities);
        atomic_store(&predictor->busy, false);
    }
    return status;
}

static int describe(const ser_predictor *predictor, size_t index, ser_prediction *prediction)
{
    const results *r = &predictor->last;
    if (index >= r->count) {
        return ser_fail(SER_ERR_ARGUMENT, "index is %zu, the last successful call had %zu clips",
                        index, r->count);
    }
    const ser_arch *arch = &predictor->model->config.arch;
    const clip_result *clip = (const clip_result *)r->clips.data + index;
    double rate = SER_SAMPLING_RATE;
    *prediction = (ser_prediction){
        .start = (double)clip->begin / rate,
        .end = (double)clip->end / rate,
        .frame_start = ((double)clip->begin + ser_arch_first_centre(arch)) / rate,
        .frame_step = (double)ser_arch_hop(arch) / rate,
        .flags = clip->flags,
    };
    if (clip->frames > 0) {
        prediction->attention = (const float *)r->values.data + clip->values;
        prediction->attention_count = clip->frames;
        prediction->logits = prediction->attention + clip->frames;
        prediction->logits_count = predictor->labels;
        prediction->embedding = prediction->logits + predictor->labels;
        prediction->embedding_count = predictor->hidden;
    }
    return 0;
}

int ser_predictor_describe(ser_predictor *predictor, size_t index, ser_prediction *prediction)
{
    int status = take(predictor);
    if (status == 0) {
        status = describe(predictor, index, prediction);
        atomic_store(&predictor->busy, false);
    }
    return status;
}
