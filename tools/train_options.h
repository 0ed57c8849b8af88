/* SPDX-License-Identifier: MIT */
/* The options of ser-train: one table for the command line, --config files and --print-config. */
#ifndef SER_TOOLS_TRAIN_OPTIONS_H
#define SER_TOOLS_TRAIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include <ser/ser.h>
#include <ser/train.h>

#include "cli.h"
#include "cli_config.h"

enum { TRAIN_VALIDATION_NEXT, TRAIN_VALIDATION_NONE };
enum { TRAIN_WEIGHTS_NONE, TRAIN_WEIGHTS_INVERSE };
enum { TRAIN_PART_TEST, TRAIN_PART_VALIDATION, TRAIN_PART_TRAIN, TRAIN_PART_ALL };

/* Texts are borrowed from argv or `file`. */
typedef struct train_options {
    /* data */
    cli_words datasets; /* "NAME=DIRECTORY" */
    cli_words repeats;  /* "NAME=N" */
    cli_words aliases, merges, drops;
    const char *split; /* "none": all clips train */
    const char *folds; /* of --cv: "1,3"; NULL: all */
    const char *manifest_root, *group_column, *delimiter;
    int32_t confine, validation, cv, allow_leaks, skip_bad;
    /* model */
    const char *backbone, *arch, *init, *model;
    int32_t layer_mix;
    /* training */
    int32_t epochs, max_steps, batch_size, accumulate, schedule, class_weight, patience, seed;
    int32_t max_skipped;
    int32_t mask_time_length, mask_channel_length, train_features, freeze_layers;
    double rate, head_rate, layer_decay, warmup, weight_decay, beta1, beta2, clip_norm, average;
    double label_smoothing, projection_dropout, hidden_dropout, attention_dropout;
    double activation_dropout, classifier_dropout, layer_drop;
    double mask_time_probability, mask_channel_probability;
    const char *freeze;
    /* augmentation, as ser_augment_options */
    double speed_probability, speed, gain_db, noise_probability, noise_snr_low, noise_snr_high;
    double silence_probability, silence, crop_probability, crop, lowpass_probability, lowpass_low;
    double max_seconds, mel_warp, mel_tilt, mel_ripple;
    int32_t mel_channel_spans, mel_channel_width, mel_time_spans, mel_time_width;
    /* run */
    const char *output, *config;
    int32_t print_config, resume, force, dry_run, eval_only, part;
    int32_t precision; /* SER_PRECISION_* */
    int32_t keep, save_every, eval_every, log_every;
    double save_seconds; /* between checkpoints at ends of epochs */
    double time_limit;   /* seconds; 0: none */
    /* computation and output */
    const char *device;
    int32_t threads, loader_threads, cache_mb, feature_cache_mb;
    int32_t json, quiet, verbose, no_progress;

    ser_device_options device_options;
    json_t *file; /* what --config held, or the config.json of the run that goes on */
} train_options;

extern const cli_program train_program; /* train_table.c */

/* Read the command line, and under it --config (with --resume: else config.json of the run), and
 * check what belongs together. CLI_CONTINUE or an exit code; train_options_free in both cases. */
int train_options_read(train_options *o, int argc, char **argv);

/* All settings, or those that results depend on, without the names of places. */
json_t *train_options_json(const train_options *o);
json_t *train_options_recipe(const train_options *o);

/* Whether a run with these settings may go on with `o`; 0 or an exit code. */
int train_options_match(const train_options *o, const json_t *earlier);

/* Fill `t` for a run of so many updates; class weights are the caller's. */
void train_options_fill(const train_options *o, int64_t steps, ser_trainer_options *t);

/* Whether any part of the augmentation is on. */
bool train_options_augments(const train_options *o);

/* How often the clips of a corpus come in an epoch: 1 where --repeat does not say. */
uint32_t train_options_repeat(const train_options *o, const char *corpus);

void train_options_free(train_options *o);

#endif
