/* SPDX-License-Identifier: MIT */
#include "train_options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"
#include "message.h"
#include "text.h"

/* Values that depend on others are negative until then. */
static void set_defaults(train_options *o)
{
    *o = (train_options){
        .epochs = 15,
        .batch_size = -1,
        .accumulate = 1,
        .schedule = SER_SCHEDULE_LINEAR,
        .rate = -1.0,
        .layer_decay = 1.0,
        .warmup = 0.1,
        .weight_decay = 0.01,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .clip_norm = 1.0,
        .projection_dropout = 0.1,
        .hidden_dropout = 0.1,
        .attention_dropout = 0.1,
        .classifier_dropout = 0.1,
        .mask_time_probability = -1.0,
        .mask_time_length = 10,
        .mask_channel_length = 10,
        .max_skipped = 10,
        .keep = 2,
        .save_seconds = 60.0,
        .eval_every = 1,
        .device = "auto",
        .cache_mb = 4096,
        .feature_cache_mb = 2048,
    };
}

static void settle_defaults(train_options *o)
{
    if (o->batch_size < 0) {
        o->batch_size = o->arch != NULL ? 32 : 8;
    }
    if (o->rate < 0.0) {
        o->rate = o->arch != NULL ? 1e-3 : 3e-5;
    }
    if (o->mask_time_probability < 0.0) {
        o->mask_time_probability = o->arch != NULL ? 0.0 : 0.05;
    }
}

static void free_words(train_options *o)
{
    cli_words *all[] = {&o->datasets, &o->repeats, &o->aliases, &o->merges, &o->drops};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        cli_words_free(all[i]);
    }
}

/* A list on the command line takes the place of the file's, it does not grow it. */
static void forget_lists(train_options *o, const train_options *given)
{
    cli_words *mine[] = {&o->datasets, &o->repeats, &o->aliases, &o->merges, &o->drops};
    const cli_words *theirs[] = {&given->datasets, &given->repeats, &given->aliases, &given->merges,
                                 &given->drops};
    for (size_t i = 0; i < sizeof mine / sizeof mine[0]; i++) {
        if (theirs[i]->count > 0) {
            cli_words_free(mine[i]);
        }
    }
}

/* One kind of model on the command line takes the place of the file's. */
static void forget_model(train_options *o, const train_options *given)
{
    if (given->backbone != NULL || given->arch != NULL || given->init != NULL) {
        o->backbone = NULL;
        o->arch = NULL;
        o->init = NULL;
    }
}

static int read_file(train_options *o, const train_options *given)
{
    char *found = NULL;
    const char *file = given->config;
    if (file == NULL && given->resume && given->output != NULL) {
        found = text_join(given->output, "/config.json", "");
        file = access(found, F_OK) == 0 ? found : NULL;
    }
    int code = file != NULL ? cli_config_read(&train_program, file, o, &o->file) : CLI_CONTINUE;
    free(found);
    forget_lists(o, given);
    forget_model(o, given);
    return code;
}

static int check_model(const train_options *o)
{
    int models = (o->backbone != NULL) + (o->arch != NULL) + (o->init != NULL);
    if (o->eval_only) {
        return o->model != NULL ? CLI_CONTINUE : message_usage("--eval-only needs --model");
    }
    if (o->model != NULL) {
        return message_usage("--model is for --eval-only; --init trains a finished model further");
    }
    if (models != 1) {
        return message_usage(models == 0 ? "no model; name a --backbone, an --arch or an --init"
                                         : "--backbone, --arch and --init exclude each other");
    }
    if (o->layer_mix && o->backbone == NULL) {
        return message_usage("--layer-mix goes with --backbone; other models bring their own");
    }
    return CLI_CONTINUE;
}

static int check_run(const train_options *o)
{
    if (o->eval_only && (o->cv || o->dry_run || o->resume)) {
        return message_usage("--eval-only excludes --cv, --dry-run and --resume");
    }
    if (o->part != TRAIN_PART_TEST && !o->eval_only) {
        return message_usage("--part is for --eval-only");
    }
    if (o->output == NULL && !o->eval_only && !o->dry_run) {
        return message_usage("no place for the run; name a directory with --output");
    }
    if (o->resume && o->force) {
        return message_usage("--resume and --force contradict each other");
    }
    if (o->folds != NULL && !o->cv) {
        return message_usage("--folds goes with --cv");
    }
    if (o->cv && o->split != NULL && strcmp(o->split, "none") == 0) {
        return message_usage("--cv needs a --split with folds");
    }
    if (o->patience > 0 && o->validation == TRAIN_VALIDATION_NONE) {
        return message_usage("--patience needs validation clips");
    }
    return CLI_CONTINUE;
}

static int check_delimiter(const train_options *o)
{
    static const char *const words[] = {",", ";", "\t", "tab"};
    for (size_t i = 0; o->delimiter != NULL && i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(o->delimiter, words[i]) == 0) {
            return CLI_CONTINUE;
        }
    }
    return o->delimiter == NULL
               ? CLI_CONTINUE
               : message_usage("--delimiter: '%s' is not ',', ';' or tab", o->delimiter);
}

/* "NAME=N" into its parts; false if it is not of this form. */
static bool split_repeat(const char *word, char *name, size_t size, int64_t *count)
{
    const char *sign = strchr(word, '=');
    if (sign == NULL || sign == word || (size_t)(sign - word) >= size ||
        !text_parse_integer(sign + 1, count) || *count < 1 || *count > 1000) {
        return false;
    }
    memcpy(name, word, (size_t)(sign - word));
    name[sign - word] = '\0';
    return true;
}

static int check_repeats(const train_options *o)
{
    char name[256];
    int64_t count = 0;
    for (size_t i = 0; i < o->repeats.count; i++) {
        if (!split_repeat(o->repeats.items[i], name, sizeof name, &count)) {
            return message_usage("--repeat: '%s' is not CORPUS=N with N from 1 to 1000",
                                 o->repeats.items[i]);
        }
    }
    return CLI_CONTINUE;
}

static int check_augmentation(const train_options *o)
{
    if (o->noise_probability > 0.0 && o->noise_snr_low > o->noise_snr_high) {
        return message_usage("--augment-noise-snr-low is above --augment-noise-snr-high");
    }
    return CLI_CONTINUE;
}

static int check(train_options *o)
{
    if (o->quiet && o->verbose) {
        return message_usage("--quiet and --verbose contradict each other");
    }
    if (o->datasets.count == 0) {
        return message_usage("no clips; name a corpus with --dataset");
    }
    int (*const checks[])(const train_options *) = {check_model, check_run, check_delimiter,
                                                    check_repeats, check_augmentation};
    int code = CLI_CONTINUE;
    for (size_t i = 0; code == CLI_CONTINUE && i < sizeof checks / sizeof checks[0]; i++) {
        code = checks[i](o);
    }
    return code != CLI_CONTINUE ? code : device_parse(o->device, &o->device_options);
}

static int print_config(const train_options *o)
{
    json_t *object = train_options_json(o);
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    printf("\n");
    json_decref(object);
    return cli_finish_output();
}

/* Twice: for the name of the file first, then above what is in it. */
static int read_both(train_options *o, int argc, char **argv)
{
    train_options given;
    int first = 0;
    set_defaults(&given);
    int code = cli_parse(&train_program, argc, argv, &given, &first);
    if (code == CLI_CONTINUE && first < argc) {
        code = message_usage("what is '%s'? Corpora are named with --dataset", argv[first]);
    }
    if (code == CLI_CONTINUE) {
        code = read_file(o, &given);
    }
    free_words(&given);
    return code != CLI_CONTINUE ? code : cli_parse(&train_program, argc, argv, o, &first);
}

int train_options_read(train_options *o, int argc, char **argv)
{
    set_defaults(o);
    int code = read_both(o, argc, argv);
    if (code != CLI_CONTINUE) {
        return code;
    }
    settle_defaults(o);
    message_set_verbosity(o->verbose - o->quiet);
    ser_log_set_level(o->verbose ? SER_LOG_DEBUG : o->quiet ? SER_LOG_ERROR : SER_LOG_WARNING);
    ser_device_options_init(&o->device_options, sizeof o->device_options);
    o->device_options.threads = o->threads;
    if (o->print_config) {
        return print_config(o);
    }
    return check(o);
}

json_t *train_options_json(const train_options *o)
{
    return cli_config_object(&train_program, o, true);
}

json_t *train_options_recipe(const train_options *o)
{
    return cli_config_object(&train_program, o, false);
}

int train_options_match(const train_options *o, const json_t *earlier)
{
    json_t *mine = train_options_recipe(o);
    const char *differs = cli_config_difference(&train_program, mine, earlier);
    int code = 0;
    if (differs != NULL) {
        char *now = json_dumps(json_object_get(mine, differs), JSON_ENCODE_ANY);
        char *then = json_dumps(json_object_get(earlier, differs), JSON_ENCODE_ANY);
        code = message_usage("--resume: --%s is %s here, but %s in the run", differs,
                             now != NULL ? now : "not set", then != NULL ? then : "not set");
        free(now);
        free(then);
    }
    json_decref(mine);
    return code;
}

static void fill_augmentation(const train_options *o, ser_augment_options *a)
{
    a->speed_probability = (float)o->speed_probability;
    a->speed = (float)o->speed;
    a->gain_db = (float)o->gain_db;
    a->noise_probability = (float)o->noise_probability;
    a->noise_snr_low = (float)o->noise_snr_low;
    a->noise_snr_high = (float)o->noise_snr_high;
    a->silence_probability = (float)o->silence_probability;
    a->silence = (float)o->silence;
    a->crop_probability = (float)o->crop_probability;
    a->crop = (float)o->crop;
    a->lowpass_probability = (float)o->lowpass_probability;
    a->lowpass_low = (float)o->lowpass_low;
    a->max_seconds = (float)o->max_seconds;
    a->mel_warp = (float)o->mel_warp;
    a->mel_tilt = (float)o->mel_tilt;
    a->mel_ripple = (float)o->mel_ripple;
    a->mel_channel_spans = o->mel_channel_spans;
    a->mel_channel_width = o->mel_channel_width;
    a->mel_time_spans = o->mel_time_spans;
    a->mel_time_width = o->mel_time_width;
}

void train_options_fill(const train_options *o, int64_t steps, ser_trainer_options *t)
{
    ser_trainer_options_init(t, sizeof *t);
    t->seed = (uint64_t)o->seed;
    t->steps = steps;
    t->warmup_steps = o->warmup < 1.0 ? llround(o->warmup * (double)steps) : llround(o->warmup);
    t->warmup_steps = t->warmup_steps < steps ? t->warmup_steps : steps;
    t->schedule = o->schedule;
    t->accumulate = o->accumulate;
    t->rate = (float)o->rate;
    t->head_rate = (float)o->head_rate;
    t->layer_decay = (float)o->layer_decay;
    t->weight_decay = (float)o->weight_decay;
    t->beta1 = (float)o->beta1;
    t->beta2 = (float)o->beta2;
    t->clip_norm = (float)o->clip_norm;
    t->average = (float)o->average;
    t->label_smoothing = (float)o->label_smoothing;
    t->projection_dropout = (float)o->projection_dropout;
    t->hidden_dropout = (float)o->hidden_dropout;
    t->attention_dropout = (float)o->attention_dropout;
    t->activation_dropout = (float)o->activation_dropout;
    t->classifier_dropout = (float)o->classifier_dropout;
    t->layer_drop = (float)o->layer_drop;
    t->mask_time_probability = (float)o->mask_time_probability;
    t->mask_time_length = o->mask_time_length;
    t->mask_channel_probability = (float)o->mask_channel_probability;
    t->mask_channel_length = o->mask_channel_length;
    t->freeze_features = !o->train_features;
    t->freeze_layers = o->freeze_layers;
    t->freeze = o->freeze;
    t->max_skipped = INT32_MAX; /* counted by the caller, who can name the files */
    t->cache_bytes = (uint64_t)o->feature_cache_mb << 20;
    fill_augmentation(o, &t->augment);
}

bool train_options_augments(const train_options *o)
{
    return o->speed_probability > 0.0 || o->gain_db > 0.0 || o->noise_probability > 0.0 ||
           o->silence_probability > 0.0 || o->crop_probability > 0.0 ||
           o->lowpass_probability > 0.0 || o->mel_warp > 0.0 || o->mel_tilt > 0.0 ||
           o->mel_ripple > 0.0 || o->mel_channel_spans > 0 || o->mel_time_spans > 0;
}

uint32_t train_options_repeat(const train_options *o, const char *corpus)
{
    char name[256];
    int64_t count = 0;
    for (size_t i = o->repeats.count; i-- > 0;) {
        if (split_repeat(o->repeats.items[i], name, sizeof name, &count) &&
            strcmp(name, corpus) == 0) {
            return (uint32_t)count;
        }
    }
    return 1;
}

void train_options_free(train_options *o)
{
    free_words(o);
    json_decref(o->file);
    o->file = NULL;
}
