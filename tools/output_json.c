/* SPDX-License-Identifier: MIT */
/*
 * JSON lines. Not through jansson: it prints all numbers of a document with one precision, and it
 * cannot write the lone surrogates of text_json().
 */
#include "output.h"

#include <string.h>

#include <ser/common.h>

#include "text.h"

static void put_double(FILE *f, const char *key, double value)
{
    char number[TEXT_NUMBER_SIZE];
    fprintf(f, ",\"%s\":%s", key, text_double(number, value));
}

static void put_scores(output *o, const output_row *row)
{
    FILE *f = o->sink.stream;
    char number[TEXT_NUMBER_SIZE];
    size_t count = o->setup.label_count;
    if (o->setup.top > 0 && o->setup.top < count) {
        count = o->setup.top;
    }
    fprintf(f, ",\"scores\":{");
    for (size_t i = 0; i < count; i++) {
        size_t label = o->order[i];
        fprintf(f, "%s", i > 0 ? "," : "");
        text_json(f, o->setup.labels[label]);
        fprintf(f, ":%s", text_float(number, row->scores[label]));
    }
    putc('}', f);
}

static void put_flags(FILE *f, int32_t flags)
{
    bool first = true;
    fprintf(f, ",\"flags\":[");
    for (int bit = 0; bit < OUTPUT_FLAG_BITS; bit++) {
        if ((flags >> bit & 1) != 0 && output_flag_name(bit) != NULL) {
            fprintf(f, "%s\"%s\"", first ? "" : ",", output_flag_name(bit));
            first = false;
        }
    }
    putc(']', f);
}

static void put_attention(FILE *f, const output_row *row)
{
    char number[TEXT_NUMBER_SIZE];
    if (row->attention == NULL) {
        fprintf(f, ",\"attention\":null");
        return;
    }
    fprintf(f, ",\"attention\":{\"start\":%s", text_double(number, row->attention_start));
    put_double(f, "step", row->attention_step);
    fprintf(f, ",\"weights\":[");
    for (size_t i = 0; i < row->attention_count; i++) {
        fprintf(f, "%s%s", i > 0 ? "," : "", text_float(number, row->attention[i]));
    }
    fprintf(f, "]}");
}

static void put_answer(output *o, const output_row *row)
{
    FILE *f = o->sink.stream;
    char number[TEXT_NUMBER_SIZE];
    fprintf(f, ",\"label\":");
    text_json(f, o->setup.labels[o->order[0]]);
    fprintf(f, ",\"score\":%s", text_float(number, row->scores[o->order[0]]));
    put_scores(o, row);
}

static void put_row(output *o, const output_row *row)
{
    FILE *f = o->sink.stream;
    fputs(o->setup.live ? "{\"event\":\"window\",\"source\":" : "{\"file\":", f);
    text_json(f, row->file);
    put_double(f, "start", row->start);
    put_double(f, "end", row->end);
    if (row->scores != NULL) {
        put_answer(o, row);
    } else {
        fprintf(f, ",\"label\":null,\"score\":null,\"scores\":{}");
    }
    put_double(f, "duration", row->duration);
    put_flags(f, row->flags);
    fprintf(f, ",\"sampling_rate\":%d,\"channels\":%d,\"device\":", (int)row->sampling_rate,
            (int)row->channels);
    text_json(f, o->setup.device);
    fprintf(f, ",\"model\":");
    text_json(f, o->setup.model);
    if (o->setup.attention) {
        put_attention(f, row);
    }
    fprintf(f, "}\n");
}

static void put_failure(output *o, const char *file, int status, const char *message)
{
    FILE *f = o->sink.stream;
    fprintf(f, "{\"file\":");
    text_json(f, file);
    fprintf(f, ",\"error\":");
    text_json(f, message);
    fprintf(f, ",\"status\":\"%s\"}\n", ser_status_name(status));
}

const output_writer output_jsonl = {.row = put_row, .failure = put_failure};
