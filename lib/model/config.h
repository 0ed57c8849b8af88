/* SPDX-License-Identifier: MIT */
/* The configuration of a model: models/FORMAT.md, "config". */
#ifndef SER_MODEL_CONFIG_H
#define SER_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "net/arch.h"

enum {
    SER_MIN_LABELS = 2,
    SER_MAX_LABELS = 1000,
    SER_MAX_LABEL_SIZE = 256, /* bytes, with the NUL */
};

/* Limits of an architecture, far above every published model; they keep products within 64 bits. */
enum {
    SER_MAX_CHANNELS = 16384,
    SER_MAX_KERNEL = 1024,
    SER_MAX_STRIDE = 1024,
    SER_MAX_HIDDEN = 16384,
    SER_MAX_INTERMEDIATE = 131072,
    SER_MAX_LAYERS = 256,
    SER_MAX_POSITION_KERNEL = 4096,
    SER_MAX_CLASSIFIER_SIZE = 65536,
    SER_MAX_FFT = 4096,
    SER_MAX_BINS = 1024,
    SER_MAX_HOP = 16000, /* samples between two frames */
};

#define SER_MIN_NORM_EPS 1e-12
#define SER_MAX_NORM_EPS 0.1

typedef struct ser_front_end {
    bool normalize;
    bool trim;
    double trim_threshold_db;
    double trim_margin; /* seconds */
    double window;      /* seconds */
    double max_seconds;
} ser_front_end;

typedef struct ser_config {
    ser_arch arch;
    ser_front_end front_end;
    bool pad_as_hf; /* "padding": "hf" */
    char **labels;  /* owned, arch.classifier_size[last] of them; NULL for a bare backbone */
    size_t label_count;
    char *training; /* owned JSON text of the free-form summary, or NULL */
} ser_config;

/* Parse and validate the text of `config` (`length` bytes). `name` stands in messages. On failure
 * *config is zeroed. Free with ser_config_clear. */
int ser_config_parse(const char *name, const char *text, size_t length, ser_config *config);

/* The same for a model to be made of NUL-terminated `text`: `labels` stand instead of its own, which
 * it need not have, and there is no training summary. Bad labels give ARGUMENT. */
int ser_config_parse_fresh(const char *name, const char *text, const char *const *labels,
                           size_t label_count, ser_config *config);

/* The JSON text of `config`, to be freed with ser_mem_free; NULL on failure. */
char *ser_config_print(const ser_config *config);

void ser_config_clear(ser_config *config);

/* What holds where a model file or a transformers directory says nothing. */
extern const ser_front_end ser_default_front_end;

/* How the file at hand spells what ser_config_check may complain about. */
typedef struct ser_config_paths {
    const char *hidden, *heads, *groups, *strides;
} ser_config_paths;

/* The conditions that tie several values together. `config` holds values that are each within their
 * range. DATA, naming the paths. */
int ser_config_check(const char *name, const ser_config_paths *paths, const ser_config *config);

/* The arrays that describe the convolutions have the same length, at least 1. */
int ser_config_check_lengths(const char *name, const char *path, const int32_t *lengths,
                             size_t count);

/* What is wrong with a label (empty, too long, control characters, not UTF-8), or NULL. */
const char *ser_label_fault(const char *label);

/* Copy distinct, faultless labels into `config`. `status` is what a bad one gives; `path` names
 * them. */
int ser_config_set_labels(ser_config *config, const char *const *labels, size_t count, int status,
                          const char *name, const char *path);

#endif
