/* SPDX-License-Identifier: MIT */
#include "train/masks.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include <ser/common.h>

#include "base/mem.h"
#include "base/rng.h"

/* Blocks of a clip's stream from which its channel spans are drawn; its time spans use fewer. */
static const uint64_t channel_block = UINT64_C(1) << 32;

/* Numbers of a stream in turn. */
typedef struct source {
    uint64_t seed, stream, block;
    uint32_t words[4];
    int used;
} source;

static uint32_t next(source *s)
{
    if (s->used == 4) {
        ser_rng_block(s->seed, s->stream, s->block++, s->words);
        s->used = 0;
    }
    return s->words[s->used++];
}

static double unit(uint32_t word)
{
    return (double)(word >> 8) * 0x1p-24;
}

/* Uniform on 0 .. bound - 1; the bias is below bound / 2^32. */
static int64_t below(source *s, int64_t bound)
{
    return (int64_t)(((uint64_t)next(s) * (uint64_t)bound) >> 32);
}

static int64_t places(const ser_span_rule *rule)
{
    return rule->total >= rule->length ? rule->total - rule->length + 1 : 0;
}

static double wanted(const ser_span_rule *rule)
{
    return rule->probability * (double)rule->total / (double)rule->length;
}

int32_t ser_spans_most(const ser_span_rule *rule)
{
    double most = fmin(floor(wanted(rule)) + 1.0, (double)places(rule));
    return rule->probability > 0.0 ? (int32_t)most : 0;
}

void ser_spans_draw(const ser_span_rule *rule, uint64_t seed, uint64_t stream, uint64_t first,
                    int32_t most, int32_t *starts, int32_t *spans)
{
    source s = {.seed = seed, .stream = stream, .block = first, .used = 4};
    int64_t free = places(rule);
    int64_t count = (int64_t)fmin(floor(wanted(rule) + unit(next(&s))), (double)free);
    for (int64_t i = 0; i < free; i++) {
        starts[i] = (int32_t)i;
    }
    for (int32_t i = 0; i < most; i++) {
        spans[2 * i] = 0;
        spans[2 * i + 1] = 0;
        if (i < count) { /* the first steps of a Fisher-Yates shuffle */
            int64_t j = i + below(&s, free - i);
            int32_t start = starts[j];
            starts[j] = starts[i];
            spans[2 * i] = start;
            spans[2 * i + 1] = start + (int32_t)rule->length;
        }
    }
}

static int draw_layers(const ser_arch *arch, const ser_trainer_options *options, uint64_t step,
                       ser_masks *masks)
{
    if (options->layer_drop <= 0.0F) {
        return 0;
    }
    masks->dropped = ser_mem_alloc((size_t)arch->layers, sizeof *masks->dropped);
    if (masks->dropped == NULL) {
        return SER_ERR_MEMORY;
    }
    uint64_t stream = ser_rng_stream(SER_RNG_LAYERDROP, 0, (uint32_t)step);
    for (int32_t i = 0; i < arch->layers; i++) {
        uint32_t words[4];
        ser_rng_block(options->seed, stream, (uint64_t)i / 4, words);
        masks->dropped[i] = unit(words[i % 4]) < (double)options->layer_drop;
    }
    return 0;
}

/* The spans of all clips; `totals` [count] are the lengths of their rows. */
typedef struct span_job {
    double probability;
    int32_t length;
    const int64_t *totals;
    int64_t count;
    uint64_t seed, step, first;
} span_job;

static ser_span_rule rule_of(const span_job *job, int64_t clip)
{
    return (ser_span_rule){job->probability, job->totals[clip], job->length};
}

static int draw_spans(const span_job *job, int32_t **spans, int32_t *span_count)
{
    int32_t most = 0;
    int64_t longest = 0;
    for (int64_t b = 0; b < job->count; b++) {
        const ser_span_rule rule = rule_of(job, b);
        int32_t n = ser_spans_most(&rule);
        most = n > most ? n : most;
        longest = rule.total > longest ? rule.total : longest;
    }
    if (most == 0) {
        return 0;
    }
    *spans = ser_mem_alloc((size_t)job->count * 2, (size_t)most * sizeof **spans);
    int32_t *starts = ser_mem_alloc_raw((size_t)longest, sizeof *starts);
    for (int64_t b = 0; b < job->count && *spans != NULL && starts != NULL; b++) {
        const ser_span_rule rule = rule_of(job, b);
        uint64_t stream = ser_rng_stream(SER_RNG_SPANS, (uint32_t)job->step, (uint32_t)b);
        ser_spans_draw(&rule, job->seed, stream, job->first, most, starts, *spans + b * most * 2);
    }
    bool failed = *spans == NULL || starts == NULL;
    ser_mem_free(starts);
    *span_count = most;
    return failed ? SER_ERR_MEMORY : 0;
}

int ser_masks_draw(const ser_arch *arch, const ser_trainer_options *options, uint64_t step,
                   const int64_t *lengths, int64_t count, ser_masks *masks)
{
    *masks = (ser_masks){.dropped = NULL};
    int64_t *totals = ser_mem_alloc((size_t)count, sizeof *totals);
    int status = totals != NULL ? draw_layers(arch, options, step, masks) : SER_ERR_MEMORY;
    span_job job = {.probability = (double)options->mask_time_probability,
                    .length = options->mask_time_length,
                    .totals = totals,
                    .count = count,
                    .seed = options->seed,
                    .step = step};
    for (int64_t b = 0; b < count && status == 0; b++) {
        totals[b] = ser_arch_frames(arch, lengths[b]);
    }
    if (status == 0) {
        status = draw_spans(&job, &masks->time, &masks->time_count);
    }
    for (int64_t b = 0; b < count && status == 0; b++) {
        totals[b] = arch->hidden_size;
    }
    job.probability = (double)options->mask_channel_probability;
    job.length = options->mask_channel_length;
    job.first = channel_block;
    if (status == 0) {
        status = draw_spans(&job, &masks->channel, &masks->channel_count);
    }
    ser_mem_free(totals);
    return status;
}

void ser_masks_clear(ser_masks *masks)
{
    ser_mem_free(masks->dropped);
    ser_mem_free(masks->time);
    ser_mem_free(masks->channel);
    *masks = (ser_masks){.dropped = NULL};
}
