/* SPDX-License-Identifier: MIT */
/* README.md of a run: a model card as Hugging Face reads them. No line starts with a user's text. */
#include "report_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "escape.h"
#include "text.h"

static void put_percent(FILE *f, double share)
{
    char number[METRICS_PERCENT_SIZE];
    fputs(metrics_percent(number, share), f);
}

static void put_interval(FILE *f, metrics_interval i)
{
    if (isfinite(i.low)) {
        fprintf(f, " (%.1f to %.1f)", 100.0 * i.low, 100.0 * i.high);
    }
}

static void put_owned(FILE *f, char *text)
{
    escape_markdown(f, text);
    free(text);
}

/* ---- front matter ---- */

static void put_yaml(FILE *f, const char *key, const char *value)
{
    fprintf(f, "%s: ", key);
    escape_yaml(f, value);
    putc('\n', f);
}

static void put_yaml_list(FILE *f, const char *key, const char *const *fixed, size_t fixed_count,
                          const char *const *given, size_t given_count)
{
    if (fixed_count + given_count == 0) {
        return;
    }
    fprintf(f, "%s:\n", key);
    for (size_t i = 0; i < fixed_count + given_count; i++) {
        fputs("- ", f);
        escape_yaml(f, i < fixed_count ? fixed[i] : given[i - fixed_count]);
        putc('\n', f);
    }
}

static void put_model_index(FILE *f, const run_report *run)
{
    if (run->part_count == 0 || run->parts[0].metrics->clips == 0) {
        return;
    }
    const metrics_result *r = run->parts[0].metrics;
    fputs("model-index:\n- name: ", f);
    escape_yaml(f, report_name(run));
    fputs("\n  results:\n  - task:\n      type: audio-classification\n"
          "      name: Speech emotion recognition\n    dataset:\n      type: ",
          f);
    escape_yaml(f, run->corpus_count == 1 ? run->corpora[0].name : "several");
    fputs("\n      name: ", f);
    escape_yaml(f, report_protocol(run, &run->parts[0]));
    fprintf(f,
            "\n    metrics:\n    - type: recall\n      name: Unweighted average recall\n"
            "      value: %.1f\n",
            100.0 * r->uar);
    fprintf(f, "    - type: accuracy\n      value: %.1f\n", 100.0 * r->accuracy);
    fprintf(f, "    - type: f1\n      name: Macro F1\n      value: %.1f\n", 100.0 * r->macro_f1);
}

static void put_front(FILE *f, const run_report *run)
{
    static const char *const tags[] = {"speech-emotion-recognition", "speech", "audio"};
    static const char *const metrics[] = {"recall", "accuracy", "f1"};
    fputs("---\n", f);
    put_yaml(f, "license", run->licence != NULL ? run->licence : "other");
    put_yaml_list(f, "language", NULL, 0, run->languages, run->language_count);
    put_yaml(f, "pipeline_tag", "audio-classification");
    put_yaml(f, "library_name", "libser");
    put_yaml_list(f, "tags", tags, sizeof tags / sizeof tags[0], run->tags, run->tag_count);
    put_yaml_list(f, "metrics", metrics, sizeof metrics / sizeof metrics[0], NULL, 0);
    if (run->base_model != NULL) {
        put_yaml(f, "base_model", run->base_model);
    }
    put_model_index(f, run);
    fputs("---\n\n", f);
}

/* ---- results ---- */

static void put_protocol(FILE *f, const run_report *run, const report_part *part)
{
    fputs("**Protocol:** ", f);
    escape_markdown(f, report_protocol(run, part));
    fputs("\n\n", f);
    if (!run->speaker_independent) {
        fprintf(f, "**%s**\n\n", report_dependent_warning);
    }
}

static void put_score_columns(FILE *f, const metrics_result *r)
{
    fprintf(f, " | %lld | ", (long long)r->clips);
    if (r->speakers > 0 || r->clips == 0) {
        fprintf(f, "%zu | **", r->speakers);
    } else {
        fputs("unknown | **", f);
    }
    put_percent(f, r->uar);
    fputs("**", f);
    put_interval(f, r->uar_interval);
    fputs(" | ", f);
    put_percent(f, r->accuracy);
    put_interval(f, r->accuracy_interval);
    fputs(" | ", f);
    put_percent(f, r->macro_f1);
    fputs(" | ", f);
    put_percent(f, r->weighted_f1);
    fputs(" | ", f);
    put_percent(f, r->ece);
    fputs(" |\n", f);
}

static void put_score_heading(FILE *f, const char *first)
{
    fprintf(f,
            "| %s | clips | speakers | UAR | accuracy | macro F1 | weighted F1 | ECE |\n"
            "|---|---:|---:|---|---|---:|---:|---:|\n",
            first);
}

/* Parts that share a protocol share a table. */
static void put_parts(FILE *f, const run_report *run)
{
    for (size_t i = 0; i < run->part_count; i++) {
        const report_part *part = &run->parts[i];
        const char *protocol = report_protocol(run, part);
        if (i == 0 || strcmp(protocol, report_protocol(run, part - 1)) != 0) {
            fputs(i == 0 ? "" : "\n", f);
            put_protocol(f, run, part);
            put_score_heading(f, "part");
        }
        fputs("| ", f);
        escape_markdown(f, part->name);
        put_score_columns(f, part->metrics);
    }
    fprintf(f, "\nUAR is the mean of the classes' recalls. ");
    if (run->parts[0].metrics->replicates > 0) {
        fprintf(f, "In parentheses: 95 %% intervals by bootstrap (%d draws of %s). ",
                (int)run->parts[0].metrics->replicates, metrics_unit_name(run->parts[0].metrics));
    }
    fputs("ECE is the expected calibration error in 15 bins.", f);
    if (run->clip_count > 0) {
        fputs(" The answer to every clip is in `heldout.csv`.", f);
    }
    if (run->temperature > 0.0) {
        fprintf(f, " Probabilities are those at temperature %.3f, fitted on validation clips.",
                run->temperature);
    }
    fputs("\n\n", f);
}

static void put_corpora_scores(FILE *f, const run_report *run)
{
    const metrics_result *r = run->parts[0].metrics;
    if (r->corpus_count == 0) {
        return;
    }
    fputs("### Per corpus\n\n", f);
    put_protocol(f, run, &run->parts[0]);
    put_score_heading(f, "corpus");
    for (size_t c = 0; c < r->corpus_count; c++) {
        fputs("| ", f);
        put_owned(f, report_corpus_name(run, (int32_t)c));
        put_score_columns(f, &r->per_corpus[c]);
    }
    putc('\n', f);
}

static void put_classes(FILE *f, const run_report *run)
{
    const metrics_result *r = run->parts[0].metrics;
    fputs("### Per class\n\n", f);
    put_protocol(f, run, &run->parts[0]);
    fputs("| class | recall | precision | F1 | clips |\n|---|---:|---:|---:|---:|\n", f);
    for (size_t k = 0; k < r->classes; k++) {
        const metrics_class *c = &r->per_class[k];
        if (c->allowed) {
            fputs("| ", f);
            escape_markdown(f, run->labels[k]);
            fputs(" | ", f);
            put_percent(f, c->recall);
            fputs(" | ", f);
            put_percent(f, c->precision);
            fputs(" | ", f);
            put_percent(f, c->f1);
            fprintf(f, " | %lld |\n", (long long)c->support);
        }
    }
    fputs(
        "\n![Confusion matrix: true classes in rows, predicted ones in columns](confusion.svg)\n\n",
        f);
}

static void put_spread(FILE *f, const char *name, report_spread s)
{
    fprintf(f, "%s ", name);
    put_percent(f, s.mean);
    if (isfinite(s.deviation)) {
        fprintf(f, " \xc2\xb1 %.1f", 100.0 * s.deviation);
    }
}

static void put_folds(FILE *f, const run_report *run)
{
    if (run->fold_count == 0) {
        return;
    }
    fputs("### Per fold\n\n", f);
    put_protocol(f, run, NULL);
    put_score_heading(f, "fold");
    for (size_t i = 0; i < run->fold_count; i++) {
        fputs("| ", f);
        escape_markdown(f, run->folds[i].name);
        put_score_columns(f, run->folds[i].metrics);
    }
    fputs("\nMean and standard deviation of the folds: ", f);
    put_spread(f, "UAR", report_fold_spread(run, report_uar));
    put_spread(f, ", accuracy", report_fold_spread(run, report_accuracy));
    put_spread(f, ", macro F1", report_fold_spread(run, report_macro_f1));
    fputs(". The folds share training clips, so this is no interval of confidence.\n\n", f);
}

static void put_results(FILE *f, const run_report *run)
{
    fputs("## Results\n\n", f);
    if (run->part_count == 0) {
        fputs("Nothing was evaluated.\n\n", f);
        return;
    }
    put_parts(f, run);
    put_corpora_scores(f, run);
    put_classes(f, run);
    put_folds(f, run);
}

/* ---- what it is for, and made of ---- */

static void put_head(FILE *f, const run_report *run)
{
    fputs("# ", f);
    escape_markdown(f, report_name(run));
    fprintf(f, "\n\nIt names the emotion that a short stretch of speech displays, one of %zu: ",
            run->label_count);
    for (size_t k = 0; k < run->label_count; k++) {
        fputs(k == 0 ? "" : ", ", f);
        escape_markdown(f, run->labels[k]);
    }
    fputs(".", f);
    if (run->parameters > 0) {
        fprintf(f, " It has %lld parameters.", (long long)run->parameters);
    }
    if (run->base_model != NULL) {
        fputs(" It was fine-tuned from ", f);
        escape_markdown(f, run->base_model);
        fputs(".", f);
    }
    fputs("\n\n```\nser-predict --model best.safetensors clip.wav\n```\n\n", f);
}

static void put_use(FILE *f)
{
    fputs("## Intended use\n\n"
          "For research, teaching and experiments with recordings whose speakers agreed to it.\n\n"
          "Not for decisions about people: it must not be used to judge, rank, hire, police, "
          "diagnose "
          "or monitor anyone, nor to infer what a person feels.\n\n",
          f);
}

static void put_limits(FILE *f, const run_report *run)
{
    fputs(
        "## Limits\n\n"
        "- It knows the classes above and no others; every clip gets one of them, silence and "
        "music "
        "as well.\n"
        "- It was measured on the corpora below and no others. Expect less from other languages, "
        "ages, microphones, rooms and from emotions that are not acted.\n"
        "- Probabilities are those of the training corpora's mix of classes, not of daily life.\n",
        f);
    if (run->corpus_count > 1) {
        fputs("- Each corpus labels its own set of classes; scores on a corpus are taken over its "
              "classes alone.\n",
              f);
    }
    if (!run->speaker_independent) {
        fprintf(f, "- %s\n", report_dependent_warning);
    }
    putc('\n', f);
}

static void put_ethics(FILE *f)
{
    fputs(
        "## Ethics\n\n"
        "Corpora of emotion mostly hold what actors display when asked to, labelled by the "
        "instruction they were given; that says little about what people feel. Voices differ by "
        "sex, "
        "age, accent and health, and errors fall unevenly: compare the recall per class and the "
        "speakers in `report.json` before relying on any of it. Some uses are forbidden by law in "
        "some places (the European Union's AI Act bans emotion recognition at work and in schools, "
        "with medical and safety exceptions). Tell people when software listens to their voices, "
        "and ask them.\n",
        f);
}

static void put_duration(FILE *f, double seconds)
{
    if (!isfinite(seconds) || seconds <= 0.0) {
        fputs("-", f);
    } else if (seconds < 120.0) {
        fprintf(f, "%.1f s", seconds);
    } else if (seconds < 7200.0) {
        fprintf(f, "%.1f min", seconds / 60.0);
    } else {
        fprintf(f, "%.1f h", seconds / 3600.0);
    }
}

static void put_corpus(FILE *f, const report_corpus *c)
{
    fputs("| ", f);
    escape_markdown(f, c->name);
    fprintf(f, " | %lld | %lld | ", (long long)c->clips, (long long)c->speakers);
    put_duration(f, c->seconds);
    fprintf(f, " | %lld | %lld | %lld | ", (long long)c->train, (long long)c->validation,
            (long long)c->test);
    escape_markdown(f, c->licence != NULL ? c->licence : "not stated");
    fputs(" |\n", f);
}

static void put_corpus_classes(FILE *f, const run_report *run, const report_corpus *c)
{
    if (c->class_clips == NULL) {
        return;
    }
    fputs("- **", f);
    escape_markdown(f, c->name);
    fputs("**: ", f);
    bool first = true;
    for (size_t k = 0; k < run->label_count; k++) {
        if (c->allowed == NULL || c->allowed[k] != 0) {
            fputs(first ? "" : ", ", f);
            escape_markdown(f, run->labels[k]);
            fprintf(f, " %lld", (long long)c->class_clips[k]);
            first = false;
        }
    }
    if (c->source != NULL) {
        fputs(". Source: ", f);
        escape_markdown(f, c->source);
    }
    putc('\n', f);
}

static void put_data(FILE *f, const run_report *run)
{
    if (run->corpus_count == 0) {
        return;
    }
    fputs("## Data\n\n"
          "| corpus | clips | speakers | audio | training | validation | test | licence |\n"
          "|---|---:|---:|---:|---:|---:|---:|---|\n",
          f);
    for (size_t c = 0; c < run->corpus_count; c++) {
        put_corpus(f, &run->corpora[c]);
    }
    putc('\n', f);
    for (size_t c = 0; c < run->corpus_count; c++) {
        put_corpus_classes(f, run, &run->corpora[c]);
    }
    putc('\n', f);
}

/* ---- how it was made ---- */

/* One level of the configuration: "head_rate", "augment.noise". */
static void put_config(FILE *f, const char *prefix, json_t *object, int depth)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(object, key, value)
    {
        char *name = text_join(prefix, prefix[0] != '\0' ? "." : "", key);
        if (json_is_object(value) && json_object_size(value) > 0 && depth < 4) {
            put_config(f, name, value, depth + 1);
        } else {
            char *dump = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
            fputs("| ", f);
            escape_markdown(f, name);
            fputs(" | ", f);
            escape_markdown(f, json_is_string(value) ? json_string_value(value)
                               : dump != NULL        ? dump
                                                     : "");
            fputs(" |\n", f);
            free(dump);
        }
        free(name);
    }
}

static void put_facts(FILE *f, const run_report *run)
{
    if (run->command != NULL) {
        escape_markdown_code(f, run->command);
        putc('\n', f);
    }
    fprintf(f, "- seed: %" PRIu64 "\n", run->seed);
    for (size_t i = 0; i < run->version_count; i++) {
        fputs("- ", f);
        escape_markdown(f, run->versions[i].name);
        fputs(": ", f);
        escape_markdown(f, run->versions[i].text);
        putc('\n', f);
    }
    for (size_t i = 0; i < run->time_count; i++) {
        fputs("- ", f);
        escape_markdown(f, run->times[i].name);
        fputs(": ", f);
        put_duration(f, run->times[i].seconds);
        putc('\n', f);
    }
    putc('\n', f);
}

static void put_training(FILE *f, const run_report *run)
{
    fputs("## Training\n\n", f);
    put_facts(f, run);
    if (run->curves != NULL && run->curves->epochs > 0) {
        if (run->curves->best_epoch > 0) {
            fprintf(f, "Epoch %lld of %zu was kept.\n\n", (long long)run->curves->best_epoch,
                    run->curves->epochs);
        }
        fputs("![Loss, UAR and learning rate per epoch](curves.svg)\n\n", f);
    }
    if (json_is_object(run->config) && json_object_size(run->config) > 0) {
        fputs("| setting | value |\n|---|---|\n", f);
        put_config(f, "", run->config, 0);
        putc('\n', f);
    }
}

void report_put_card(FILE *f, const run_report *run)
{
    put_front(f, run);
    put_head(f, run);
    put_use(f);
    put_results(f, run);
    put_limits(f, run);
    put_data(f, run);
    put_training(f, run);
    for (size_t i = 0; i < run->note_count; i++) {
        fputs("## ", f);
        escape_markdown(f, run->notes[i].name);
        fputs("\n\n", f);
        fprintf(f, "%s\n\n", run->notes[i].text); /* Markdown of the caller's own */
    }
    put_ethics(f);
}
