/* SPDX-License-Identifier: MIT */
#include "record.h"

#include "text.h"

static void put_double(FILE *f, const char *key, double value)
{
    char number[TEXT_NUMBER_SIZE];
    fprintf(f, ",\"%s\":%s", key, text_double(number, value));
}

static void put_text(FILE *f, const char *key, const char *value)
{
    fprintf(f, ",\"%s\":", key);
    if (value != NULL) {
        text_json(f, value);
    } else {
        fputs("null", f);
    }
}

/* Where an event is written to, locked until end(); NULL if nobody wants to read it. */
static FILE *begin(record_session *s, const char *event)
{
    pthread_mutex_lock(&s->lock);
    if (s->options.format != OUTPUT_JSONL || !s->out_open) {
        pthread_mutex_unlock(&s->lock);
        return NULL;
    }
    fprintf(s->out.sink.stream, "{\"event\":\"%s\"", event);
    return s->out.sink.stream;
}

static void end(record_session *s)
{
    fputs("}\n", s->out.sink.stream);
    record_flush(s);
    pthread_mutex_unlock(&s->lock);
}

void record_event_start(record_session *s)
{
    FILE *f = begin(s, "start");
    if (f == NULL) {
        return;
    }
    put_text(f, "source", s->source);
    put_text(f, "description", s->description);
    fprintf(f, ",\"sampling_rate\":%d,\"channels\":%d", (int)s->rate, (int)s->channels);
    put_text(f, "model", s->model != NULL ? ser_model_path(s->model) : NULL);
    fputs(",\"labels\":[", f);
    for (size_t i = 0; i < s->choice.count; i++) {
        fputs(i > 0 ? "," : "", f);
        text_json(f, s->choice.labels[i]);
    }
    fputs("]", f);
    end(s);
}

/* Rounded to what means something: a hundredth of a decibel, a 16-bit step. */
void record_event_level(record_session *s)
{
    const record_level *l = &s->meter.last;
    bool device = capture_is_device(s->capture); /* which does not wait: it is left out instead */
    bool wanted = s->options.levels && record_output_room(s, !device);
    FILE *f = wanted ? begin(s, "level") : NULL;
    if (f == NULL) {
        return;
    }
    put_double(f, "time", l->time);
    fprintf(f, ",\"peak_db\":%.2f,\"rms_db\":%.2f,\"low\":%.5f,\"high\":%.5f,\"clipped\":%d",
            l->peak_db, l->rms_db, l->low, l->high, (int)l->clipped);
    end(s);
}

void record_event_gap(record_session *s, double seconds)
{
    FILE *f = begin(s, "gap");
    if (f == NULL) {
        return;
    }
    put_double(f, "time", record_seconds(s));
    fprintf(f, ",\"seconds\":%.3f", seconds);
    end(s);
}

void record_event_end(record_session *s, const char *file)
{
    capture_losses losses = capture_lost(s->capture);
    FILE *f = begin(s, "end");
    if (f == NULL) {
        return;
    }
    put_double(f, "seconds", s->options.output != NULL ? s->kept : record_seconds(s));
    fprintf(f, ",\"overruns\":%lld,\"lost_frames\":%lld", (long long)losses.overruns,
            (long long)losses.frames);
    put_text(f, "file", file);
    put_text(f, "reason", s->reason);
    end(s);
}
