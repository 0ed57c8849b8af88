/* SPDX-License-Identifier: MIT */
#include "metrics.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <Random123/philox.h>

#include "message.h"
#include "text.h"

static const double temperature_low = 0.05;
static const double temperature_high = 20.0;

static bool is_allowed(const metrics_row *row, size_t k)
{
    return row->allowed == NULL || row->allowed[k] != 0;
}

/* ---- checks ---- */

static int check_place(const metrics_set *set, size_t i)
{
    const metrics_row *row = &set->rows[i];
    if (row->label < 0 || (size_t)row->label >= set->classes || row->group < -1 ||
        (row->group >= 0 && (size_t)row->group >= set->groups) || row->corpus < 0 ||
        (row->corpus > 0 && (size_t)row->corpus >= set->corpora)) {
        message_error("scores: clip %zu: class %d of %zu, speaker %d of %zu, corpus %d of %zu", i,
                      (int)row->label, set->classes, (int)row->group, set->groups, (int)row->corpus,
                      set->corpora);
        return MESSAGE_EXIT_DATA;
    }
    if (!is_allowed(row, (size_t)row->label)) {
        message_error("scores: clip %zu: its class %d is not among those of its corpus", i,
                      (int)row->label);
        return MESSAGE_EXIT_DATA;
    }
    return 0;
}

static int check_probabilities(const metrics_set *set, size_t i)
{
    const metrics_row *row = &set->rows[i];
    double sum = 0.0;
    bool sound = true;
    for (size_t k = 0; k < set->classes; k++) {
        if (is_allowed(row, k)) {
            double p = (double)row->probabilities[k];
            sound = sound && isfinite(p) && p >= 0.0;
            sum += p;
        }
    }
    if (!sound || sum <= 0.0) {
        message_error("scores: clip %zu: probabilities that are negative, not finite or all 0", i);
        return MESSAGE_EXIT_NUMERIC;
    }
    return 0;
}

static int check_logits(const metrics_set *set, size_t i)
{
    const metrics_row *row = &set->rows[i];
    for (size_t k = 0; k < set->classes; k++) {
        if (is_allowed(row, k) && !isfinite(row->logits[k])) {
            message_error("scores: clip %zu: logit of class %zu is not finite", i, k);
            return MESSAGE_EXIT_NUMERIC;
        }
    }
    return 0;
}

static int check_set(const metrics_set *set, int (*check_values)(const metrics_set *, size_t))
{
    int code = 0;
    for (size_t i = 0; i < set->count && code == 0; i++) {
        code = check_place(set, i);
        code = code != 0 ? code : check_values(set, i);
    }
    return code;
}

/* ---- scores ---- */

static double ratio(int64_t part, int64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : NAN;
}

size_t metrics_prediction(const metrics_row *row, size_t classes)
{
    size_t best = (size_t)row->label; /* allowed, so a place to start from */
    for (size_t k = 0; k < classes; k++) {
        float p = row->probabilities[k];
        float most = row->probabilities[best];
        if (is_allowed(row, k) && (p > most || (p == most && k < best))) {
            best = k;
        }
    }
    return best;
}

/* p[k]: the restricted softmax. */
static void restrict_row(const metrics_row *row, size_t classes, double *p)
{
    double sum = 0.0;
    for (size_t k = 0; k < classes; k++) {
        p[k] = is_allowed(row, k) ? (double)row->probabilities[k] : 0.0;
        sum += p[k];
    }
    for (size_t k = 0; k < classes; k++) {
        p[k] /= sum;
    }
}

/* Bin i holds (i / M, (i + 1) / M]. */
static metrics_bin *bin_of(metrics_result *r, double confidence)
{
    int i = (int)ceil(confidence * METRICS_BINS) - 1;
    i = i < 0 ? 0 : i >= METRICS_BINS ? METRICS_BINS - 1 : i;
    return &r->bins[i];
}

/* Answers the prediction; `p` is scratch. */
static size_t add_row(metrics_result *r, const metrics_row *row, double *p)
{
    size_t truth = (size_t)row->label;
    size_t guess = metrics_prediction(row, r->classes);
    bool right = guess == truth;
    restrict_row(row, r->classes, p);
    r->clips++;
    r->correct += right;
    r->confusion[truth * r->classes + guess]++;
    r->nll -= log(fmax(p[truth], (double)FLT_MIN));
    r->confidence += p[guess];
    for (size_t k = 0; k < r->classes; k++) {
        double miss = p[k] - (k == truth ? 1.0 : 0.0);
        r->brier += miss * miss;
        r->per_class[k].allowed = r->per_class[k].allowed || is_allowed(row, k);
    }
    metrics_bin *bin = bin_of(r, p[guess]);
    bin->clips++;
    bin->confidence += p[guess];
    bin->accuracy += right ? 1.0 : 0.0;
    if (row->group >= 0) {
        metrics_group *group = &r->per_group[row->group];
        group->corpus = group->clips == 0 ? row->corpus : group->corpus;
        group->clips++;
        group->correct += right;
    }
    return guess;
}

static void finish_class(metrics_result *r, size_t k)
{
    metrics_class *c = &r->per_class[k];
    for (size_t j = 0; j < r->classes; j++) {
        c->support += r->confusion[k * r->classes + j];
        c->predicted += r->confusion[j * r->classes + k];
    }
    c->correct = r->confusion[k * r->classes + k];
    c->recall = ratio(c->correct, c->support);
    c->precision = c->predicted > 0 ? ratio(c->correct, c->predicted) : c->support > 0 ? 0.0 : NAN;
    c->f1 = ratio(2 * c->correct, c->support + c->predicted);
}

static void finish_classes(metrics_result *r)
{
    double recall = 0.0;
    double f1 = 0.0;
    double weighted = 0.0;
    int64_t with_support = 0;
    int64_t with_f1 = 0;
    for (size_t k = 0; k < r->classes; k++) {
        finish_class(r, k);
        const metrics_class *c = &r->per_class[k];
        if (c->support > 0) {
            recall += c->recall;
            weighted += c->f1 * (double)c->support;
            with_support++;
        }
        if (c->support + c->predicted > 0) {
            f1 += c->f1;
            with_f1++;
        }
    }
    r->uar = recall / (double)with_support; /* NaN without clips, here and below */
    r->macro_f1 = f1 / (double)with_f1;
    r->weighted_f1 = weighted / (double)r->clips;
}

static void finish_means(metrics_result *r)
{
    double n = (double)r->clips;
    r->accuracy = ratio(r->correct, r->clips);
    r->nll /= n;
    r->brier /= n;
    r->confidence /= n;
    r->ece = r->clips > 0 ? 0.0 : NAN;
    for (size_t i = 0; i < METRICS_BINS; i++) {
        metrics_bin *bin = &r->bins[i];
        bin->confidence /= (double)bin->clips;
        bin->accuracy /= (double)bin->clips;
        if (bin->clips > 0) {
            r->ece += (double)bin->clips / n * fabs(bin->accuracy - bin->confidence);
        }
    }
}

/* ---- groups ---- */

/* Clips of one class in one unit of the bootstrap. */
typedef struct tally {
    size_t label;
    int64_t clips;
    int64_t correct;
} tally;

/* Tallies of unit u: [first[u], first[u + 1]) of `tallies`, without those that are 0. */
typedef struct tallies {
    size_t *first;
    tally *tallies;
} tallies;

typedef struct counted_row {
    size_t unit; /* the speaker, or a number of its own behind all speakers */
    size_t label;
    bool right;
} counted_row;

static int by_unit_and_label(const void *a, const void *b)
{
    const counted_row *x = a;
    const counted_row *y = b;
    int unit = (x->unit > y->unit) - (x->unit < y->unit);
    return unit != 0 ? unit : (x->label > y->label) - (x->label < y->label);
}

/* Of rows in order. Units without clips are left out: r->units remain, r->speakers of them known. */
static tallies tally_units(metrics_result *r, const counted_row *rows, size_t count)
{
    tallies t = {text_alloc(count + 1, sizeof(size_t)), text_alloc(count, sizeof(tally))};
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        bool fresh = i == 0 || rows[i - 1].unit != rows[i].unit;
        if (fresh) {
            t.first[r->units++] = used;
            r->speakers += rows[i].unit < r->group_count;
        }
        if (fresh || rows[i - 1].label != rows[i].label) {
            t.tallies[used++].label = rows[i].label;
        }
        t.tallies[used - 1].clips++;
        t.tallies[used - 1].correct += rows[i].right;
    }
    t.first[r->units] = used;
    return t;
}

/* UAR of tallies summed per class. */
static double uar_of(const tally *sums, size_t classes)
{
    double recall = 0.0;
    int64_t present = 0;
    for (size_t k = 0; k < classes; k++) {
        if (sums[k].clips > 0) {
            recall += ratio(sums[k].correct, sums[k].clips);
            present++;
        }
    }
    return recall / (double)present;
}

static void add_unit(tally *sums, const tallies *t, size_t unit)
{
    for (size_t i = t->first[unit]; i < t->first[unit + 1]; i++) {
        sums[t->tallies[i].label].clips += t->tallies[i].clips;
        sums[t->tallies[i].label].correct += t->tallies[i].correct;
    }
}

/* Speakers are the first units, in rising order. */
static void finish_groups(metrics_result *r, const tallies *t)
{
    tally *sums = text_alloc(r->classes, sizeof *sums);
    size_t unit = 0;
    for (size_t g = 0; g < r->group_count; g++) {
        metrics_group *group = &r->per_group[g];
        group->accuracy = ratio(group->correct, group->clips);
        group->uar = NAN;
        if (group->clips > 0) {
            memset(sums, 0, r->classes * sizeof *sums);
            add_unit(sums, t, unit++);
            group->uar = uar_of(sums, r->classes);
        }
    }
    free(sums);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Quantile q of sorted values, linear between neighbours: type 7 of Hyndman and Fan (1996). */
static double quantile(const double *sorted, size_t count, double q)
{
    double place = q * (double)(count - 1);
    size_t below = (size_t)place;
    size_t above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (place - (double)below) * (sorted[above] - sorted[below]);
}

static metrics_interval interval_of(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_value);
    return (metrics_interval){quantile(values, count, 0.025), quantile(values, count, 0.975)};
}

/* Element `i` of replicate `b`: uniform in [0, bound), with a bias below bound / 2^32. */
static size_t draw(uint64_t seed, uint32_t b, size_t i, size_t bound, philox4x32_ctr_t *words)
{
    if (i % 4 == 0) {
        philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
        philox4x32_ctr_t counter = {{(uint32_t)(i / 4), b, 0, UINT32_MAX}};
        *words = philox4x32_R(10, counter, key);
    }
    return (size_t)(((uint64_t)words->v[i % 4] * bound) >> 32);
}

static void bootstrap(metrics_result *r, const tallies *t, uint64_t seed, int32_t replicates)
{
    r->uar_interval = r->accuracy_interval = (metrics_interval){NAN, NAN};
    r->replicates = r->units > 1 && replicates > 0 ? replicates : 0;
    if (r->replicates == 0) {
        return;
    }
    size_t count = (size_t)replicates;
    tally *sums = text_alloc(r->classes, sizeof *sums);
    double *uar = text_alloc(count, sizeof *uar);
    double *accuracy = text_alloc(count, sizeof *accuracy);
    for (size_t b = 0; b < count; b++) {
        philox4x32_ctr_t words = {{0}};
        memset(sums, 0, r->classes * sizeof *sums);
        for (size_t i = 0; i < r->units; i++) {
            add_unit(sums, t, draw(seed, (uint32_t)b, i, r->units, &words));
        }
        tally all = {0};
        for (size_t k = 0; k < r->classes; k++) {
            all.clips += sums[k].clips;
            all.correct += sums[k].correct;
        }
        uar[b] = uar_of(sums, r->classes);
        accuracy[b] = ratio(all.correct, all.clips);
    }
    r->uar_interval = interval_of(uar, count);
    r->accuracy_interval = interval_of(accuracy, count);
    free(accuracy);
    free(uar);
    free(sums);
}

/* ---- one result, and one per corpus ---- */

static void allocate(metrics_result *r, const metrics_set *set)
{
    *r = (metrics_result){.classes = set->classes, .group_count = set->groups};
    r->confusion = text_alloc(set->classes * set->classes, sizeof *r->confusion);
    r->per_class = text_alloc(set->classes, sizeof *r->per_class);
    r->per_group = text_alloc(set->groups, sizeof *r->per_group);
}

/* Of the clips of one corpus; -1: of all. */
static void compute_one(metrics_result *r, const metrics_set *set, int32_t corpus, uint64_t seed,
                        int32_t replicates)
{
    allocate(r, set);
    double *p = text_alloc(set->classes, sizeof *p);
    counted_row *rows = text_alloc(set->count, sizeof *rows);
    size_t count = 0;
    for (size_t i = 0; i < set->count; i++) {
        const metrics_row *row = &set->rows[i];
        if (corpus < 0 || row->corpus == corpus) {
            size_t truth = (size_t)row->label;
            size_t unit = row->group >= 0 ? (size_t)row->group : set->groups + i;
            rows[count++] = (counted_row){unit, truth, add_row(r, row, p) == truth};
        }
    }
    qsort(rows, count, sizeof *rows, by_unit_and_label);
    finish_classes(r);
    finish_means(r);
    tallies t = tally_units(r, rows, count);
    finish_groups(r, &t);
    bootstrap(r, &t, seed, replicates);
    free(t.first);
    free(t.tallies);
    free(rows);
    free(p);
}

int metrics_compute(metrics_result *result, const metrics_set *set, uint64_t seed,
                    int32_t replicates)
{
    *result = (metrics_result){0};
    int code = check_set(set, check_probabilities);
    if (code != 0) {
        return code;
    }
    compute_one(result, set, -1, seed, replicates);
    if (set->corpora > 1) {
        result->corpus_count = set->corpora;
        result->per_corpus = text_alloc(set->corpora, sizeof *result->per_corpus);
        for (size_t c = 0; c < set->corpora; c++) {
            compute_one(&result->per_corpus[c], set, (int32_t)c, seed, replicates);
        }
    }
    return 0;
}

void metrics_free(metrics_result *result)
{
    for (size_t c = 0; c < result->corpus_count; c++) {
        metrics_free(&result->per_corpus[c]);
    }
    free(result->per_corpus);
    free(result->confusion);
    free(result->per_class);
    free(result->per_group);
    *result = (metrics_result){0};
}

/* ---- temperature ---- */

void metrics_softmax(const float *logits, const uint8_t *allowed, size_t classes,
                     double temperature, float *probabilities)
{
    double top = -INFINITY;
    double sum = 0.0;
    for (size_t k = 0; k < classes; k++) {
        if (allowed == NULL || allowed[k] != 0) {
            top = fmax(top, (double)logits[k]);
        }
    }
    for (int pass = 0; pass < 2; pass++) {
        for (size_t k = 0; k < classes; k++) {
            bool in = allowed == NULL || allowed[k] != 0;
            double e = in ? exp(((double)logits[k] - top) / temperature) : 0.0;
            if (pass == 0) {
                sum += e;
            } else {
                probabilities[k] = (float)(e / sum);
            }
        }
    }
}

/* With d_k = z_k - z_true and b = 1 / T: nll = ln sum_k exp(b d_k) and its derivative by b, which is
 * sum_k softmax(b d)_k d_k. The derivative rises with b: the second one is a variance. */
static double row_nll(const metrics_row *row, size_t classes, double temperature, double *slope)
{
    double z = (double)row->logits[row->label];
    double top = 0.0;
    for (size_t k = 0; k < classes; k++) {
        top = is_allowed(row, k) ? fmax(top, (double)row->logits[k] - z) : top;
    }
    double sum = 0.0;
    double weighted = 0.0;
    for (size_t k = 0; k < classes; k++) {
        if (is_allowed(row, k)) {
            double d = (double)row->logits[k] - z;
            double e = exp((d - top) / temperature);
            sum += e;
            weighted += e * d;
        }
    }
    *slope += weighted / sum;
    return top / temperature + log(sum);
}

static double mean_nll(const metrics_set *set, double temperature, double *slope)
{
    double sum = 0.0;
    *slope = 0.0;
    for (size_t i = 0; i < set->count; i++) {
        sum += row_nll(&set->rows[i], set->classes, temperature, slope);
    }
    return sum / (double)set->count;
}

/* Bisection of the derivative's sign over ln T. */
static double bisect(const metrics_set *set)
{
    double low = log(temperature_low);
    double high = log(temperature_high);
    while (high - low > 1e-12) {
        double middle = 0.5 * (low + high);
        double slope = 0.0;
        (void)mean_nll(set, exp(middle), &slope);
        if (slope > 0.0) { /* a smaller 1 / T is better */
            low = middle;
        } else {
            high = middle;
        }
    }
    return exp(0.5 * (low + high));
}

int metrics_fit_temperature(metrics_temperature *fit, const metrics_set *set)
{
    *fit = (metrics_temperature){.temperature = 1.0, .nll_before = NAN, .nll_after = NAN};
    int code = check_set(set, check_logits);
    if (code != 0 || set->count == 0) {
        return code;
    }
    double at_low = 0.0;
    double at_high = 0.0;
    double slope = 0.0;
    fit->nll_before = mean_nll(set, 1.0, &slope);
    (void)mean_nll(set, temperature_low, &at_low);
    (void)mean_nll(set, temperature_high, &at_high);
    if (at_low == 0.0 && at_high == 0.0) { /* equal logits: every temperature is as good */
        fit->temperature = 1.0;
    } else if (at_low <= 0.0 || at_high >= 0.0) {
        fit->bounded = true;
        fit->temperature = at_low <= 0.0 ? temperature_low : temperature_high;
    } else {
        fit->temperature = bisect(set);
    }
    fit->nll_after = mean_nll(set, fit->temperature, &slope);
    return 0;
}
