/* SPDX-License-Identifier: MIT */
#include "train_session.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "message.h"
#include "text.h"

double train_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int train_fail(int status)
{
    message_error("%s", ser_error_message());
    return status == SER_ERR_ARGUMENT ? MESSAGE_EXIT_DATA : message_exit_code(status);
}

void train_say(const train_session *s, const char *format, ...)
{
    char line[1024];
    va_list args;
    if (s->options->quiet) {
        return;
    }
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    message_error("%s", line);
}

static char *join_command(int argc, char **argv)
{
    char *command = text_copy("ser-train");
    for (int i = 1; i < argc; i++) {
        char *longer = text_join(command, " ", argv[i]);
        free(command);
        command = longer;
    }
    return command;
}

int train_session_open(train_session *s, const train_options *o, int argc, char **argv)
{
    *s = (train_session){.options = o, .started = train_clock()};
    s->command = join_command(argc, argv);
    int status = ser_device_open(&o->device_options, &s->device);
    if (status != 0) {
        return train_fail(status);
    }
    int code = train_data_load(o, &s->data);
    if (code == 0) {
        s->cache = clip_cache_new(&s->data.set, (size_t)o->cache_mb << 20);
    }
    return code;
}

void train_session_close(train_session *s)
{
    clip_cache_free(&s->cache);
    train_data_free(&s->data);
    ser_device_free(&s->device);
    free(s->command);
    s->command = NULL;
}

bool train_session_late(const train_session *s)
{
    return s->options->time_limit > 0.0 && train_clock() - s->started >= s->options->time_limit;
}

/* The JSON of an architecture, where `arch` looks like a file; the caller frees. */
static int read_arch(const char *arch, char **text)
{
    size_t length = strlen(arch);
    *text = NULL;
    if (strchr(arch, '/') == NULL && (length < 5 || strcmp(arch + length - 5, ".json") != 0)) {
        *text = text_copy(arch);
        return 0;
    }
    json_error_t error;
    json_t *object = json_load_file(arch, JSON_REJECT_DUPLICATES, &error);
    if (object == NULL) {
        if (error.line <= 0) {
            message_error("%s", error.text);
            return MESSAGE_EXIT_IO;
        }
        message_error("%s: line %d: %s", arch, error.line, error.text);
        return MESSAGE_EXIT_DATA;
    }
    *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    return 0;
}

static int create_from_arch(const train_session *s, const ser_model_options *options,
                            ser_model **model)
{
    char *config = NULL;
    int code = read_arch(s->options->arch, &config);
    if (code != 0) {
        return code;
    }
    int status = ser_model_create_from_config(s->device, config, s->data.set.labels,
                                              s->data.set.label_count, options, model);
    free(config);
    return status != 0 ? train_fail(status) : 0;
}

int train_model_create(train_session *s, ser_model **model)
{
    const train_options *o = s->options;
    ser_model_options options;
    ser_model_options_init(&options, sizeof options);
    options.seed = (uint64_t)o->seed;
    options.layer_mix = o->layer_mix;
    options.precision = o->precision;
    int code = 0;
    if (o->init != NULL) {
        return train_model_load(s, o->init, model);
    }
    if (o->arch != NULL) {
        code = create_from_arch(s, &options, model);
    } else {
        int status = ser_model_create(s->device, o->backbone, s->data.set.labels,
                                      s->data.set.label_count, &options, model);
        code = status != 0 ? train_fail(status) : 0;
    }
    return code == 0 ? train_data_bind(&s->data, *model) : code;
}

int train_model_load(train_session *s, const char *path, ser_model **model)
{
    ser_model_options options;
    ser_model_options_init(&options, sizeof options);
    options.precision = s->options->precision;
    int status = ser_model_load(s->device, path, &options, model);
    return status != 0 ? train_fail(status) : train_data_bind(&s->data, *model);
}

bool train_model_has_levels(const ser_model *model)
{
    json_t *config = json_loads(ser_model_config(model), 0, NULL);
    const char *type =
        json_string_value(json_object_get(json_object_get(config, "features"), "type"));
    bool levels = type != NULL && strcmp(type, "logmel") == 0;
    json_decref(config);
    return levels;
}
