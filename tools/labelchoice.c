/* SPDX-License-Identifier: MIT */
#include "labelchoice.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

static int unknown_label(const ser_model *model, const char *name)
{
    char *list = text_copy("");
    for (size_t i = 0; i < ser_model_label_count(model); i++) {
        char *longer = text_join(list, i > 0 ? ", " : "", ser_model_label(model, i));
        free(list);
        list = longer;
    }
    int code = message_usage("--labels: the model has no label '%s'; it has %s", name, list);
    free(list);
    return code;
}

/* Mark the classes that are named. */
static int mark_labels(const ser_model *model, const char *named, bool *wanted)
{
    char *names = text_copy(named);
    int code = 0;
    for (char *rest = names, *name; code == 0 && (name = strsep(&rest, ",")) != NULL;) {
        size_t count = ser_model_label_count(model);
        size_t i = 0;
        while (i < count && strcmp(name, ser_model_label(model, i)) != 0) {
            i++;
        }
        if (i < count) {
            wanted[i] = true;
        } else {
            code = unknown_label(model, name);
        }
    }
    free(names);
    return code;
}

int labelchoice_make(labelchoice *choice, const ser_model *model, const char *names)
{
    size_t count = ser_model_label_count(model);
    bool *wanted = text_alloc(count, sizeof *wanted);
    int code = names != NULL ? mark_labels(model, names, wanted) : 0;
    *choice = (labelchoice){.classes = text_alloc(count, sizeof *choice->classes),
                            .labels = text_alloc(count, sizeof *choice->labels),
                            .model_count = count};
    for (size_t i = 0; i < count; i++) {
        if (wanted[i] || names == NULL) {
            choice->classes[choice->count] = i;
            choice->labels[choice->count++] = ser_model_label(model, i);
        }
    }
    free(wanted);
    if (code == 0 && choice->count < 2) {
        code =
            message_usage("--labels: name two labels or more; a single one would always score 1");
    }
    return code;
}

/* Equal shares where all of the chosen have underflowed. */
void labelchoice_scores(const labelchoice *choice, const double *probabilities, float *scores)
{
    double sum = 0.0;
    for (size_t i = 0; i < choice->count; i++) {
        sum += probabilities[choice->classes[i]];
    }
    bool all = choice->count == choice->model_count;
    for (size_t i = 0; i < choice->count; i++) {
        double p = probabilities[choice->classes[i]];
        scores[i] = (float)(all ? p : sum > 0.0 ? p / sum : 1.0 / (double)choice->count);
    }
}

void labelchoice_scores_of(const labelchoice *choice, const float *probabilities, float *scores)
{
    double *wide = text_alloc(choice->model_count, sizeof *wide);
    for (size_t i = 0; i < choice->model_count; i++) {
        wide[i] = (double)probabilities[i];
    }
    labelchoice_scores(choice, wide, scores);
    free(wide);
}

void labelchoice_free(labelchoice *choice)
{
    free(choice->labels);
    free(choice->classes);
    *choice = (labelchoice){0};
}
