/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/import.h"
#include "model/json.h"

enum { ID_SIZE = 24 };

/* transformers writes no maps for its default, two unnamed classes. */
static int numbered_labels(const char *name, json_t *root, ser_config *config)
{
    char text[SER_MAX_LABELS][24];
    const char *labels[SER_MAX_LABELS];
    int32_t count = 2;
    const ser_json json = {name, "", root};
    const ser_json_field field = {"num_labels",   SER_JSON_INT32, SER_JSON_NULLABLE,
                                  SER_MIN_LABELS, SER_MAX_LABELS, .value = &count};
    int status = ser_json_read(&json, &field, 1, false);
    if (status != 0) {
        return status;
    }
    for (int32_t i = 0; i < count; i++) {
        (void)snprintf(text[i], sizeof text[i], "LABEL_%d", i);
        labels[i] = text[i];
    }
    return ser_config_set_labels(config, labels, (size_t)count, SER_ERR_DATA, name, "num_labels");
}

/* The keys must be "0", "1", ... without gaps: as many as entries, and each of them there. */
static int ordered_labels(const char *name, json_t *id2label, ser_config *config)
{
    const char *labels[SER_MAX_LABELS];
    size_t count = json_object_size(id2label);
    if (count < SER_MIN_LABELS || count > SER_MAX_LABELS) {
        return ser_fail(SER_ERR_DATA, "%s: id2label has %zu entries, must have %d..%d", name, count,
                        SER_MIN_LABELS, SER_MAX_LABELS);
    }
    for (size_t i = 0; i < count; i++) {
        char id[ID_SIZE];
        (void)snprintf(id, sizeof id, "%zu", i);
        const json_t *value = json_object_get(id2label, id);
        if (value == NULL) {
            return ser_fail(SER_ERR_DATA,
                            "%s: id2label has %zu entries, but none for \"%zu\"; its keys must be "
                            "\"0\"..\"%zu\"",
                            name, count, i, count - 1);
        }
        labels[i] = json_string_value(value);
        if (labels[i] == NULL) {
            return ser_fail(SER_ERR_DATA, "%s: id2label.%zu must be a text", name, i);
        }
    }
    return ser_config_set_labels(config, labels, count, SER_ERR_DATA, name, "id2label");
}

/* The id may be a number, or a text as transformers' example scripts write it. */
static bool is_id(const json_t *value, size_t id)
{
    char text[ID_SIZE];
    (void)snprintf(text, sizeof text, "%zu", id);
    return (json_is_integer(value) && json_integer_value(value) == (json_int_t)id) ||
           (json_is_string(value) && strcmp(json_string_value(value), text) == 0);
}

static int check_inverse(const char *name, const json_t *label2id, const ser_config *config)
{
    if (json_object_size(label2id) != config->label_count) {
        return ser_fail(SER_ERR_DATA, "%s: label2id has %zu entries, but id2label %zu", name,
                        json_object_size(label2id), config->label_count);
    }
    for (size_t i = 0; i < config->label_count; i++) {
        if (!is_id(json_object_get(label2id, config->labels[i]), i)) {
            return ser_fail(SER_ERR_DATA, "%s: label2id and id2label disagree about \"%s\"", name,
                            config->labels[i]);
        }
    }
    return 0;
}

int ser_import_read_labels(const char *name, json_t *root, ser_config *config)
{
    json_t *id2label = NULL;
    json_t *label2id = NULL;
    const ser_json json = {name, "", root};
    const ser_json_field fields[] = {
        {"id2label", SER_JSON_OBJECT, SER_JSON_NULLABLE, .value = &id2label},
        {"label2id", SER_JSON_OBJECT, SER_JSON_NULLABLE, .value = &label2id},
    };
    int status = ser_json_read(&json, fields, sizeof fields / sizeof fields[0], false);
    if (status == 0) {
        status = id2label != NULL ? ordered_labels(name, id2label, config)
                                  : numbered_labels(name, root, config);
    }
    if (status == 0 && label2id != NULL) {
        status = check_inverse(name, label2id, config);
    }
    return status;
}
