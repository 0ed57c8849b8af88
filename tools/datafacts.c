/* SPDX-License-Identifier: MIT */
/* The numbers of the data report. */
#include "datareport.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

static const struct {
    const char *name;
    const char *text;
} flags[DATA_FLAGS] = {
    {"truncated", "end before their header says, or are damaged"},
    {"silent", "are silent throughout"},
    {"clipped", "are clipped (more than 1 % of the samples)"},
    {"dc_offset", "have an offset of more than 5 % of full scale"},
    {"nonfinite", "held NaN or infinity"},
    {"cancelled", "have channels that cancel each other"},
    {"short", "are shorter than one frame (25 ms)"},
    {"quiet", "are nearly silent (peak under -60 dB of full scale)"},
};

const char *data_flag_name(size_t bit)
{
    return flags[bit].name;
}

const char *data_flag_text(size_t bit)
{
    return flags[bit].text;
}

static void count_group(data_group *g, int part, double seconds)
{
    g->clips++;
    g->seconds += seconds;
    if (part >= 0) {
        g->parts[part]++;
    }
}

static void count_clips(const data_report *r, data_facts *facts)
{
    const dataset *ds = r->data;
    for (size_t i = 0; i < ds->count; i++) {
        const dataset_clip *c = &ds->clips[i];
        int part = r->fold != NULL ? r->fold->parts[i] : -1;
        double seconds = r->audio != NULL ? scan_seconds(&r->audio->entries[i]) : 0.0;
        size_t cell = (size_t)c->corpus * ds->label_count + (size_t)c->label;
        count_group(&facts->all, part, seconds);
        count_group(&facts->corpora[c->corpus], part, seconds);
        count_group(&facts->labels[c->label], part, seconds);
        count_group(&facts->corpus_labels[cell], part, seconds);
        count_group(c->speaker >= 0 ? &facts->speakers[c->speaker] : &facts->unknown, part,
                    seconds);
    }
    for (size_t i = 0; i < ds->speaker_count; i++) {
        facts->corpus_speakers[ds->speakers[i].corpus] += facts->speakers[i].clips > 0;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest-rank quantiles of `values`, which are sorted. */
static void take_quantiles(double *values, size_t count, double quantiles[DATA_QUANTILES])
{
    static const double shares[DATA_QUANTILES] = {0.0, 0.05, 0.5, 0.95, 1.0};
    qsort(values, count, sizeof *values, by_value);
    for (size_t i = 0; i < DATA_QUANTILES && count > 0; i++) {
        quantiles[i] = values[(size_t)(shares[i] * (double)(count - 1) + 0.5)];
    }
}

static void count_rate(data_facts *facts, int32_t rate)
{
    size_t i = 0;
    while (i < facts->rate_count && facts->rates[i] < rate) {
        i++;
    }
    if (i < facts->rate_count && facts->rates[i] == rate) {
        facts->rate_clips[i]++;
        return;
    }
    if (facts->rate_count == DATA_RATES) {
        facts->other_rates++;
        return;
    }
    size_t behind = facts->rate_count++ - i;
    memmove(&facts->rates[i + 1], &facts->rates[i], behind * sizeof facts->rates[0]);
    memmove(&facts->rate_clips[i + 1], &facts->rate_clips[i], behind * sizeof facts->rate_clips[0]);
    facts->rates[i] = rate;
    facts->rate_clips[i] = 1;
}

static void count_audio(const scan_entry *e, size_t clip, data_facts *facts)
{
    bool quiet = e->peak < 1e-3F && (e->flags & SER_AUDIO_SILENT) == 0;
    uint32_t bits = (uint32_t)e->flags | (uint32_t)quiet << DATA_FLAG_QUIET;
    facts->readable++;
    facts->mono += e->channels == 1;
    facts->stereo += e->channels > 1;
    count_rate(facts, e->sampling_rate);
    for (size_t bit = 0; bit < DATA_FLAGS; bit++) {
        if ((bits >> bit & 1U) == 0) {
            continue;
        }
        if (facts->flags[bit] < DATA_EXAMPLES) {
            facts->flag_examples[bit][facts->flags[bit]] = clip;
        }
        facts->flags[bit]++;
    }
}

static int by_hash(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void count_duplicates(const scan *audio, data_facts *facts)
{
    uint64_t *hashes = text_alloc(audio->count, sizeof *hashes);
    size_t count = 0;
    for (size_t i = 0; i < audio->count; i++) {
        const scan_entry *e = &audio->entries[i];
        if (e->done && e->status == 0 && (e->flags & SER_AUDIO_SILENT) == 0) {
            hashes[count++] = e->hash;
        }
    }
    qsort(hashes, count, sizeof *hashes, by_hash);
    for (size_t i = 1; i < count; i++) {
        facts->duplicates += hashes[i] == hashes[i - 1];
    }
    free(hashes);
}

static void measure_audio(const scan *audio, data_facts *facts)
{
    double *seconds = text_alloc(audio->count, sizeof *seconds);
    double *levels = text_alloc(audio->count, sizeof *levels);
    size_t loud = 0;
    for (size_t i = 0; i < audio->count; i++) {
        const scan_entry *e = &audio->entries[i];
        if (!e->done || e->status != 0) {
            facts->unreadable += e->done;
            continue;
        }
        seconds[facts->readable] = scan_seconds(e);
        if (e->rms > 0.0F && (e->flags & SER_AUDIO_SILENT) == 0) {
            levels[loud++] = 20.0 * log10((double)e->rms);
        }
        count_audio(e, i, facts);
    }
    take_quantiles(seconds, facts->readable, facts->durations);
    take_quantiles(levels, loud, facts->levels);
    free(levels);
    free(seconds);
    count_duplicates(audio, facts);
}

void data_facts_compute(const data_report *r, data_facts *facts)
{
    const dataset *ds = r->data;
    *facts = (data_facts){0};
    facts->corpora = text_alloc(ds->corpus_count, sizeof *facts->corpora);
    facts->labels = text_alloc(ds->label_count, sizeof *facts->labels);
    facts->corpus_labels =
        text_alloc(ds->corpus_count * ds->label_count, sizeof *facts->corpus_labels);
    facts->speakers = text_alloc(ds->speaker_count, sizeof *facts->speakers);
    facts->corpus_speakers = text_alloc(ds->corpus_count, sizeof *facts->corpus_speakers);
    count_clips(r, facts);
    if (r->audio != NULL) {
        measure_audio(r->audio, facts);
    }
}

void data_facts_free(data_facts *facts)
{
    free(facts->corpora);
    free(facts->labels);
    free(facts->corpus_labels);
    free(facts->speakers);
    free(facts->corpus_speakers);
    *facts = (data_facts){0};
}
