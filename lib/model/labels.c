/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/config.h"
#include "model/json.h"

/* C0, DEL and C1 (U+0080..U+009F, in UTF-8 C2 80..C2 9F): they would act on a terminal. */
static bool has_controls(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    for (; *p != '\0'; p++) {
        if (*p < 0x20 || *p == 0x7F || (p[0] == 0xC2 && p[1] >= 0x80 && p[1] <= 0x9F)) {
            return true;
        }
    }
    return false;
}

static bool is_utf8(const char *text)
{
    json_t *string = json_string(text); /* NULL if it is not */
    json_decref(string);
    return string != NULL;
}

const char *ser_label_fault(const char *label)
{
    size_t length = strnlen(label, SER_MAX_LABEL_SIZE);
    if (length == 0) {
        return "is empty";
    }
    if (length >= SER_MAX_LABEL_SIZE) {
        return "is longer than 255 bytes";
    }
    if (has_controls(label)) {
        return "contains control characters";
    }
    return is_utf8(label) ? NULL : "is not UTF-8";
}

static int check_labels(const char *const *labels, size_t count, int status, const char *name,
                        const char *path)
{
    for (size_t i = 0; i < count; i++) {
        const char *fault = ser_label_fault(labels[i]);
        if (fault != NULL) {
            return ser_fail(status, "%s: %s[%zu] %s", name, path, i, fault);
        }
        for (size_t j = 0; j < i; j++) { /* at most SER_MAX_LABELS^2 / 2 */
            if (strcmp(labels[i], labels[j]) == 0) {
                return ser_fail(status, "%s: %s[%zu] and [%zu] are both \"%s\"", name, path, j, i,
                                labels[i]);
            }
        }
    }
    return 0;
}

int ser_config_set_labels(ser_config *config, const char *const *labels, size_t count, int status,
                          const char *name, const char *path)
{
    int result = check_labels(labels, count, status, name, path);
    if (result != 0) {
        return result;
    }
    config->labels = ser_mem_alloc(count, sizeof config->labels[0]);
    if (config->labels == NULL) {
        return SER_ERR_MEMORY;
    }
    config->label_count = count;
    for (size_t i = 0; i < count; i++) {
        config->labels[i] = ser_mem_strdup(labels[i]);
        if (config->labels[i] == NULL) {
            return SER_ERR_MEMORY; /* ser_config_clear frees what is there */
        }
    }
    return 0;
}
