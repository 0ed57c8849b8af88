/* SPDX-License-Identifier: MIT */
/* Whether a split leaves something to train and to test on. */
#include "splits.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

/* Clips per part and label: [part * ds->label_count + label]; the caller frees. */
static size_t *count_labels(const split *s, const dataset *ds)
{
    size_t *counts = text_alloc((size_t)DATASET_PARTS * ds->label_count, sizeof *counts);
    for (size_t i = 0; i < ds->count; i++) {
        counts[s->parts[i] * ds->label_count + (size_t)ds->clips[i].label]++;
    }
    return counts;
}

/* The labels that the part lacks, or NULL; the caller frees. */
static char *lacking(const size_t *counts, const dataset *ds)
{
    char *list = NULL;
    for (size_t i = 0; i < ds->label_count; i++) {
        if (counts[i] == 0) {
            char *longer =
                text_join(list != NULL ? list : "", list != NULL ? ", " : "", ds->labels[i]);
            free(list);
            list = longer;
        }
    }
    return list;
}

static int check_training(const size_t *counts, const split *s, const dataset *ds)
{
    for (size_t i = 0; i < ds->label_count; i++) {
        if (counts[DATASET_TRAIN * ds->label_count + i] > 0) {
            continue;
        }
        for (int part = DATASET_VALIDATION; part < DATASET_PARTS; part++) {
            size_t count = counts[(size_t)part * ds->label_count + i];
            if (count > 0) {
                message_error("split %s: no clip that trains is '%s', but %zu in the %s part are",
                              s->name, ds->labels[i], count, dataset_part_names[part]);
                return MESSAGE_EXIT_DATA;
            }
        }
    }
    return MESSAGE_EXIT_OK;
}

static void warn_of_lacking(const size_t *counts, const split *s, const dataset *ds)
{
    for (int part = DATASET_TRAIN; part < DATASET_PARTS; part++) {
        if (s->counts[part] == 0) {
            continue;
        }
        char *list = lacking(counts + (size_t)part * ds->label_count, ds);
        if (list != NULL) {
            message_warning("split %s: the %s part has no clip of: %s%s", s->name,
                            dataset_part_names[part], list,
                            part == DATASET_TRAIN ? ""
                                                  : "; its recall there is undefined, and "
                                                    "UAR is the mean of the others");
            free(list);
        }
    }
}

int split_check(const split *s, const dataset *ds, bool need_test)
{
    if (s->counts[DATASET_TRAIN] == 0) {
        message_error("split %s: no clip is left to train on", s->name);
        return MESSAGE_EXIT_DATA;
    }
    if (need_test && s->counts[DATASET_TEST] == 0) {
        message_error("split %s: no clip is tested", s->name);
        return MESSAGE_EXIT_DATA;
    }
    size_t *counts = count_labels(s, ds);
    int code = check_training(counts, s, ds);
    if (code == MESSAGE_EXIT_OK) {
        warn_of_lacking(counts, s, ds);
    }
    free(counts);
    return code;
}

void split_free(split *s)
{
    free(s->parts);
    free(s->protocol);
    free(s->name);
    *s = (split){0};
}
