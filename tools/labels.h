/* SPDX-License-Identifier: MIT */
/* Names of emotions: the canonical ones, what else data sets call them, and rules of the user. */
#ifndef SER_TOOLS_LABELS_H
#define SER_TOOLS_LABELS_H

#include <stdbool.h>
#include <stddef.h>

/* Canonical order, which is also that of the classes of a model. */
enum { LABELS_CANONICAL = 8 };
extern const char *const labels_canonical[LABELS_CANONICAL + 1]; /* ends with NULL */

/* A rule of the user: `from` is called `to`; `to` NULL drops the clips of `from`. */
typedef struct label_rule {
    char *from;
    char *to;
    size_t hits; /* clips that it dropped */
} label_rule;

/* All zero is: no rules. */
typedef struct label_rules {
    label_rule *aliases; /* --alias from=to; from = to takes a new label as it is */
    size_t alias_count;
    label_rule *merges; /* --merge from=to, applied one after the other, behind the drops */
    size_t merge_count;
    label_rule *drops; /* --drop name */
    size_t drop_count;
} label_rules;

/* The size of a buffer for labels_normalize, with its NUL: longer labels are refused. */
enum { LABELS_SIZE = 64 };

/* Lower case, no blanks around, '_' and '-' as blanks. False: empty, or longer than LABELS_SIZE. */
bool labels_normalize(const char *text, char normal[LABELS_SIZE]);

/*
 * The name of a class for what a data set calls an emotion ("anger", "ANG", "Angry" are angry):
 * by the user's aliases, then the table of known names. NULL if it is none of them; `*dropped` is
 * set, and the answer NULL, if a rule drops it, which may be about a name that is not known.
 * Merges are not applied. The answer lives as long as `rules`.
 */
const char *labels_resolve(label_rules *rules, const char *text, bool *dropped);

/* The known name (or alias) that is spelled most like `text`, and the class it stands for; NULL if
 * none is near. */
const char *labels_nearest(const label_rules *rules, const char *text, const char **label);

/* "FROM=TO" or "FROM,FROM2=TO" of --merge and --alias, a list of names for --drop.
 * 0 or MESSAGE_EXIT_USAGE after a message. */
int labels_add_alias(label_rules *rules, const char *spec);
int labels_add_merge(label_rules *rules, const char *spec);
int labels_add_drop(label_rules *rules, const char *spec);
int labels_add_name(label_rules *rules, const char *spec);

void labels_free(label_rules *rules);

/* The label as part of a file name: letters, digits, '-' and '_' stay, every other byte becomes
 * %HH. The caller frees. */
char *labels_file_name(const char *label);

#endif
