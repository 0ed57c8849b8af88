/* SPDX-License-Identifier: MIT */
/* Corpora that are known by the names of their files. */
#include "dataset.h"

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "files.h"
#include "message.h"
#include "text.h"

enum { LABELS_OF_PRESET = 8, GROUPS = 10, FIELD_SIZE = 64 };

typedef struct preset_label {
    const char *code;
    const char *label;
    size_t published; /* clips */
} preset_label;

typedef struct preset {
    const char *name;
    const char *describe;
    const char *looked_for;
    /* Extended, without case, against "FOLDER/NAME" without the extension. */
    const char *pattern;
    /* What each group of the pattern is: s speaker, e emotion, t text, i intensity, r repetition (a
     * number, or a letter from 'a'), M and C: modality and channel of RAVDESS, - nothing. */
    const char *groups;
    const char *speaker_suffix;
    preset_label labels[LABELS_OF_PRESET];
} preset;

static const preset presets[] = {
    {
        .name = "ravdess",
        .describe = "RAVDESS: 1440 clips, 24 actors, 8 emotions; Actor_01/03-01-05-01-02-01-01.wav",
        .looked_for = "names like 03-01-05-01-02-01-12 (modality 03, vocal channel 01)",
        .pattern = "(^|/)([0-9]{2})-([0-9]{2})-([0-9]{2})-([0-9]{2})-([0-9]{2})-([0-9]{2})-"
                   "([0-9]{2})$",
        .groups = "-MCeitrs",
        .speaker_suffix = "",
        .labels = {{"01", "neutral", 96},
                   {"02", "calm", 192},
                   {"03", "happy", 192},
                   {"04", "sad", 192},
                   {"05", "angry", 192},
                   {"06", "fearful", 192},
                   {"07", "disgust", 192},
                   {"08", "surprised", 192}},
    },
    {
        .name = "crema-d",
        .describe = "CREMA-D: 7442 clips, 91 actors, 6 emotions; AudioWAV/1001_IEO_ANG_HI.wav",
        .looked_for = "names like 1001_IEO_ANG_HI",
        .pattern = "(^|/)(1[0-9]{3})_([a-z]{3})_([a-z]{3})_([a-z]{1,2})$",
        .groups = "-stei",
        .speaker_suffix = "",
        .labels = {{"ang", "angry", 1271},
                   {"dis", "disgust", 1271},
                   {"fea", "fearful", 1271},
                   {"hap", "happy", 1271},
                   {"neu", "neutral", 1087},
                   {"sad", "sad", 1271}},
    },
    {
        .name = "tess",
        .describe = "TESS: 2800 clips, 2 actresses, 7 emotions; OAF_angry/OAF_back_angry.wav",
        .looked_for = "names like OAF_back_angry or YAF_youth_ps",
        .pattern = "(^|/)(OA|YA)F?_([a-z]+)_([a-z]+)$",
        .groups = "-ste",
        .speaker_suffix = "F",
        .labels = {{"angry", "angry", 400},
                   {"disgust", "disgust", 400},
                   {"fear", "fearful", 400},
                   {"happy", "happy", 400},
                   {"neutral", "neutral", 400},
                   {"ps", "surprised", 400},
                   {"sad", "sad", 400}},
    },
    {
        .name = "savee",
        .describe = "SAVEE: 480 clips, 4 men, 7 emotions; DC_a01.wav or DC/a01.wav",
        .looked_for = "names like DC_sa01 or JE/n30 (speakers DC JE JK KL)",
        .pattern = "(^|/)(DC|JE|JK|KL)[_/]((sa|su|[adfhn])[0-9]{2})$",
        .groups = "-ste",
        .speaker_suffix = "",
        .labels = {{"a", "angry", 60},
                   {"d", "disgust", 60},
                   {"f", "fearful", 60},
                   {"h", "happy", 60},
                   {"n", "neutral", 120},
                   {"sa", "sad", 60},
                   {"su", "surprised", 60}},
    },
    {
        .name = "emo-db",
        .describe = "EMO-DB: 535 clips, 10 speakers, 7 emotions with boredom; wav/03a01Fa.wav",
        .looked_for = "names like 03a01Fa",
        .pattern = "(^|/)([0-9]{2})([a-z][0-9]{2})([welaftn])([a-z])$",
        .groups = "-ster",
        .speaker_suffix = "",
        .labels = {{"w", "angry", 127},
                   {"l", "boredom", 81},
                   {"e", "disgust", 46},
                   {"a", "fearful", 69},
                   {"f", "happy", 71},
                   {"t", "sad", 62},
                   {"n", "neutral", 79}},
    },
};

enum { PRESETS = sizeof presets / sizeof presets[0] };

const char *const dataset_preset_names[] = {"ravdess", "crema-d", "tess", "savee", "emo-db", NULL};

/* What the name of a file tells. */
typedef struct file_facts {
    char speaker[FIELD_SIZE]; /* capitals */
    char text[FIELD_SIZE];    /* small letters, as the following ones */
    char emotion[FIELD_SIZE];
    char intensity[FIELD_SIZE];
    char repetition[FIELD_SIZE];
    char modality[FIELD_SIZE];
    char channel[FIELD_SIZE];
} file_facts;

/* A walk over one corpus. */
typedef struct walk {
    dataset *ds;
    const preset *preset;
    regex_t pattern;
    int32_t corpus;
    size_t found[LABELS_OF_PRESET];
    size_t others;        /* other modalities and channels */
    size_t twice;         /* found before under the same name */
    size_t foreign;       /* other names */
    const char *example;  /* of a foreign name */
    const char *repeated; /* of a clip that was found twice */
} walk;

static const preset *find_preset(const char *name)
{
    for (size_t i = 0; i < PRESETS; i++) {
        if (strcmp(presets[i].name, name) == 0) {
            return &presets[i];
        }
    }
    return NULL;
}

const char *dataset_preset_describe(const char *name)
{
    const preset *p = find_preset(name);
    return p != NULL ? p->describe : NULL;
}

static void copy_field(char field[FIELD_SIZE], const char *from, size_t length, bool capitals)
{
    length = length < FIELD_SIZE - 1 ? length : FIELD_SIZE - 1;
    for (size_t i = 0; i < length; i++) {
        char c = from[i];
        if (capitals && c >= 'a' && c <= 'z') {
            c = (char)(c - 'a' + 'A');
        } else if (!capitals && c >= 'A' && c <= 'Z') {
            c = (char)(c - 'A' + 'a');
        }
        field[i] = c;
    }
    field[length] = '\0';
}

static char *field_of(file_facts *facts, char group)
{
    switch (group) {
    case 's': return facts->speaker;
    case 't': return facts->text;
    case 'e': return facts->emotion;
    case 'i': return facts->intensity;
    case 'r': return facts->repetition;
    case 'M': return facts->modality;
    case 'C': return facts->channel;
    default: return NULL;
    }
}

/* "FOLDER/NAME" of a path, without the extension; the caller frees. */
static char *short_name(const char *path)
{
    const char *name = strrchr(path, '/');
    const char *start = path;
    if (name != NULL) {
        for (start = name; start > path && start[-1] != '/'; start--) {
        }
    }
    char *copy = text_copy(start);
    char *dot = strrchr(copy, '.');
    if (dot != NULL && strchr(dot, '/') == NULL) {
        *dot = '\0';
    }
    return copy;
}

static bool parse_name(const regex_t *pattern, const char *groups, const char *path,
                       file_facts *facts)
{
    regmatch_t matches[GROUPS];
    char *name = short_name(path);
    bool good = regexec(pattern, name, GROUPS, matches, 0) == 0;
    *facts = (file_facts){0};
    for (size_t i = 0; good && groups[i] != '\0'; i++) {
        const regmatch_t *m = &matches[i + 1];
        char *field = field_of(facts, groups[i]);
        if (field != NULL && m->rm_so >= 0) {
            copy_field(field, name + m->rm_so, (size_t)(m->rm_eo - m->rm_so), groups[i] == 's');
        }
    }
    free(name);
    return good;
}

static int label_number(const preset *p, const char *code)
{
    for (int i = 0; i < LABELS_OF_PRESET && p->labels[i].code != NULL; i++) {
        if (strcmp(p->labels[i].code, code) == 0) {
            return i;
        }
    }
    return -1;
}

static dataset_intensity intensity_of(const char *code)
{
    static const struct {
        const char *code;
        dataset_intensity intensity;
    } codes[] = {{"01", DATASET_INTENSITY_NORMAL},
                 {"02", DATASET_INTENSITY_STRONG},
                 {"lo", DATASET_INTENSITY_LOW},
                 {"md", DATASET_INTENSITY_NORMAL},
                 {"hi", DATASET_INTENSITY_STRONG}};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (strcmp(codes[i].code, code) == 0) {
            return codes[i].intensity;
        }
    }
    return DATASET_INTENSITY_UNKNOWN;
}

static int32_t repetition_of(const char *code)
{
    int64_t number = 0;
    if (text_parse_integer(code, &number)) {
        return (int32_t)number;
    }
    return code[0] >= 'a' && code[0] <= 'z' ? code[0] - 'a' + 1 : 0;
}

static void add_clip(walk *w, const char *path, const file_facts *facts, const char *label)
{
    dataset *ds = w->ds;
    bool dropped = false;
    label = labels_resolve(&ds->rules, label, &dropped);
    if (label == NULL) {
        ds->dropped++;
        return;
    }
    char speaker[FIELD_SIZE + 8];
    snprintf(speaker, sizeof speaker, "%s%s", facts->speaker, w->preset->speaker_suffix);
    dataset_clip clip = {
        .path = intern(&ds->strings, path, NULL),
        .text = intern(&ds->strings, facts->text, NULL),
        .emotion = dataset_emotion_index(ds, label),
        .corpus = w->corpus,
        .speaker = dataset_speaker_index(ds, w->corpus, speaker),
        .repetition = repetition_of(facts->repetition),
        .intensity = (int8_t)intensity_of(facts->intensity),
        .split = DATASET_NO_SPLIT,
    };
    dataset_append(ds, &clip);
}

static void visit(walk *w, const char *path)
{
    file_facts facts;
    bool named = parse_name(&w->pattern, w->preset->groups, path, &facts);
    int number = named ? label_number(w->preset, facts.emotion) : -1;
    if (number < 0) {
        w->foreign++;
        w->example = w->example != NULL ? w->example : path;
        return;
    }
    if (facts.modality[0] != '\0' &&
        (strcmp(facts.modality, "03") != 0 || strcmp(facts.channel, "01") != 0)) {
        w->others++;
        return;
    }
    char key[6 * FIELD_SIZE];
    snprintf(key, sizeof key, "%s/%s/%s/%s/%s", facts.speaker, facts.text, facts.emotion,
             facts.intensity, facts.repetition);
    if (!dataset_first(w->ds, w->corpus, key)) {
        w->twice++;
        w->repeated = w->repeated != NULL ? w->repeated : path;
        return;
    }
    w->found[number]++;
    add_clip(w, path, &facts, w->preset->labels[number].label);
}

/* The preset that knows most of these names, or NULL. */
static const preset *guess_preset(const file_list *files)
{
    const preset *best = NULL;
    size_t most = 0;
    for (size_t i = 0; i < PRESETS; i++) {
        regex_t pattern;
        file_facts facts;
        size_t matches = 0;
        if (regcomp(&pattern, presets[i].pattern, REG_EXTENDED | REG_ICASE) != 0) {
            continue;
        }
        for (size_t j = 0; j < files->count; j++) {
            matches += parse_name(&pattern, presets[i].groups, files->entries[j].path, &facts) &&
                       label_number(&presets[i], facts.emotion) >= 0;
        }
        regfree(&pattern);
        if (matches > most) {
            most = matches;
            best = &presets[i];
        }
    }
    return best;
}

static int report_nothing(const walk *w, const char *directory, const file_list *files)
{
    const preset *other = guess_preset(files);
    char hint[128] = "";
    if (other != NULL && other != w->preset) {
        snprintf(hint, sizeof hint, "; these look like '%s'", other->name);
    }
    if (w->others > 0) {
        snprintf(hint, sizeof hint, "; %zu are song or video sound", w->others);
    }
    message_error("%s: %s: no clips: looked in and below it for audio files with %s and found "
                  "%zu other audio files%s",
                  w->preset->name, directory, w->preset->looked_for, w->foreign + w->others, hint);
    return MESSAGE_EXIT_DATA;
}

static void warn_of_count(const walk *w, const char *directory)
{
    char details[512] = "";
    size_t length = 0;
    size_t found = 0;
    size_t published = 0;
    for (size_t i = 0; i < LABELS_OF_PRESET && w->preset->labels[i].code != NULL; i++) {
        const preset_label *label = &w->preset->labels[i];
        found += w->found[i];
        published += label->published;
        if (w->found[i] != label->published && length < sizeof details) {
            int more =
                snprintf(details + length, sizeof details - length, "%s%s %zu of %zu",
                         length > 0 ? ", " : "", label->label, w->found[i], label->published);
            length += (size_t)more;
        }
    }
    if (length > 0) {
        message_warning("%s: %s: %zu of the %zu published clips: %s", w->preset->name, directory,
                        found, published, details);
    }
}

static int report_walk(const walk *w, const char *directory, const file_list *files)
{
    const char *name = w->preset->name;
    size_t found = 0;
    for (size_t i = 0; i < LABELS_OF_PRESET; i++) {
        found += w->found[i];
    }
    if (found == 0 && w->twice == 0) {
        return report_nothing(w, directory, files);
    }
    if (w->twice > 0) {
        message_warning("%s: %s: %zu clips are there more than once and taken once, for instance "
                        "%s",
                        name, directory, w->twice, w->repeated);
    }
    if (w->others > 0) {
        message_warning("%s: %s: %zu files that are not audio-only speech are skipped (modality "
                        "other than 03 or vocal channel other than 01)",
                        name, directory, w->others);
    }
    if (w->foreign > 0) {
        message_warning("%s: %s: %zu audio files with other names are skipped, for instance %s",
                        name, directory, w->foreign, w->example);
    }
    warn_of_count(w, directory);
    return MESSAGE_EXIT_OK;
}

/* All entries are audio files, or one of them says why not. */
static int check_files(const preset *p, const char *directory, const file_list *files)
{
    for (size_t i = 0; i < files->count; i++) {
        const file_entry *entry = &files->entries[i];
        if (entry->status == 0) {
            continue;
        }
        if (files->count == 1 && strcmp(entry->path, directory) == 0) {
            message_error("%s: %s: %s; looked in and below it for audio files with %s", p->name,
                          directory, entry->error, p->looked_for);
            return MESSAGE_EXIT_DATA;
        }
        message_error("%s: %s: %s", p->name, entry->path, entry->error);
        return MESSAGE_EXIT_IO;
    }
    return MESSAGE_EXIT_OK;
}

static int walk_files(walk *w, const char *directory, const file_list *files)
{
    if (regcomp(&w->pattern, w->preset->pattern, REG_EXTENDED | REG_ICASE) != 0) {
        message_error("%s: out of memory for its pattern", w->preset->name);
        return MESSAGE_EXIT_DEVICE;
    }
    for (size_t i = 0; i < files->count; i++) {
        visit(w, files->entries[i].path);
    }
    regfree(&w->pattern);
    return report_walk(w, directory, files);
}

int dataset_add_preset(dataset *ds, const char *name, const char *directory)
{
    walk w = {.ds = ds, .preset = find_preset(name)};
    if (w.preset == NULL) {
        return message_usage("--dataset %s: not known (known: ravdess, crema-d, tess, savee, "
                             "emo-db, manifest)",
                             name);
    }
    struct stat facts;
    if (stat(directory, &facts) != 0 || !S_ISDIR(facts.st_mode)) {
        message_error("%s: %s: not a directory that can be read", name, directory);
        return MESSAGE_EXIT_IO;
    }
    file_list files = {0};
    char *operand = text_copy(directory);
    files_collect(&files, &operand, 1);
    int code = check_files(w.preset, directory, &files);
    if (code == MESSAGE_EXIT_OK) {
        w.corpus = dataset_corpus_index(ds, name, name, directory);
        code = walk_files(&w, directory, &files);
    }
    files_free(&files);
    free(operand);
    return code;
}
