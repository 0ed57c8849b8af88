/* SPDX-License-Identifier: MIT */
/*
 * What a person sees while sound comes in. The cursor is never hidden and the terminal's settings
 * are never touched: whatever ends the program, there is nothing to restore.
 */
#include "record.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message.h"
#include "text.h"

enum { BAR_LIMIT = 40, DETAIL = 256 };

#define DRAW_PAUSE 0.1

/* After a stop (Ctrl-Z) a shell has written below what we have drawn. */
static volatile sig_atomic_t continued;

static void on_continue(int number)
{
    (void)number;
    continued = 1;
}

static int drawn_on(const record_session *s)
{
    return s->screen.block ? STDOUT_FILENO : STDERR_FILENO;
}

void record_screen_open(record_session *s)
{
    const record_options *o = &s->options;
    record_screen *v = &s->screen;
    bool text = o->format == OUTPUT_TEXT && o->continuous && s->model != NULL;
    v->block = text && terminal_probe(STDOUT_FILENO, o->color).interactive;
    v->terminal = terminal_probe(drawn_on(s), o->color);
    v->meter = v->terminal.interactive && !o->quiet;
    if (v->block || v->meter) {
        struct sigaction action = {.sa_handler = on_continue, .sa_flags = SA_RESTART};
        sigemptyset(&action.sa_mask);
        sigaction(SIGCONT, &action, NULL);
    }
}

static void note_label(record_screen *v, double start, const output *o)
{
    size_t label = o->order[0];
    if (v->run_count > 0 && v->runs[v->run_count - 1].label == label) {
        return;
    }
    if (v->run_count == RECORD_RUNS) {
        memmove(v->runs, v->runs + 1, (RECORD_RUNS - 1) * sizeof *v->runs);
        v->run_count--;
    }
    v->runs[v->run_count++] = (record_run){.start = start, .label = label};
}

void record_screen_window(record_session *s, const output_row *row)
{
    record_screen *v = &s->screen;
    if (v->scores == NULL) {
        v->scores = text_alloc(s->choice.count, sizeof *v->scores);
        v->runs = text_alloc(RECORD_RUNS, sizeof *v->runs);
    }
    v->start = row->start;
    v->end = row->end;
    v->flags = row->flags;
    v->gated = row->scores == NULL;
    free(v->attention);
    v->attention = NULL;
    if (!v->gated) {
        memcpy(v->scores, row->scores, s->choice.count * sizeof *v->scores);
        output_sort(&s->out, v->scores);
        note_label(v, row->start, &s->out);
    }
    if (row->attention != NULL && s->options.attention) {
        v->attention = text_alloc(row->attention_count, sizeof *v->attention);
        memcpy(v->attention, row->attention, row->attention_count * sizeof *v->attention);
        v->attention_count = row->attention_count;
        v->attention_start = row->attention_start;
        v->attention_step = row->attention_step;
    }
    v->changed = true;
}

static void put_heading(const record_session *s, FILE *f)
{
    const record_screen *v = &s->screen;
    char *name = text_printable(s->description);
    const char *bold = v->terminal.color ? "\033[1m" : "";
    const char *plain = v->terminal.color ? "\033[0m" : "";
    if (v->scores == NULL) {
        fprintf(f, "%s%s%s  first answer after %g s", bold, name, plain, s->options.window);
    } else {
        char start[32];
        char end[32];
        output_text_time(start, v->start);
        output_text_time(end, v->end);
        fprintf(f, "%s - %s  %s%s%s", start, end, bold, name, plain);
    }
    for (int bit = 0; bit < OUTPUT_FLAG_BITS; bit++) {
        if ((v->flags >> bit & 1) != 0 && output_flag_name(bit) != NULL) {
            fprintf(f, "  %s", output_flag_name(bit));
        }
    }
    fputs("\n", f);
    free(name);
}

/* In the model's order, so that a bar stays in its place; the best where there is no room. */
static void put_bars(const record_session *s, const output *o, FILE *f)
{
    const record_screen *v = &s->screen;
    int others = 3 + (s->options.attention ? 1 : 0);
    int room = v->terminal.rows - 1 - others;
    size_t count = s->choice.count;
    bool all = room >= (int)count;
    count = all ? count : room > 1 ? (size_t)room : 1;
    int bar = v->terminal.columns - 1 - 2 - output_text_bar_extra(o);
    bar = bar < 4 ? 4 : bar > BAR_LIMIT ? BAR_LIMIT : bar;
    for (size_t i = 0; i < count; i++) {
        size_t label = all ? i : o->order[i];
        fputs("  ", f);
        output_text_bar(o, label, v->gated ? 0.0 : (double)v->scores[label], bar,
                        !v->gated && label == o->order[0]);
        fputs("\n", f);
    }
}

/* The latest changes of the label that fit. */
static void put_history(const record_session *s, const output *o, FILE *f)
{
    const record_screen *v = &s->screen;
    char line[DETAIL] = "";
    size_t used = 0;
    int room = v->terminal.columns - 1 - 2;
    for (size_t i = v->run_count; i > 0; i--) {
        char run[DETAIL];
        const record_run *r = &v->runs[i - 1];
        long long seconds = llround(r->start);
        int length = snprintf(run, sizeof run, "%lld:%02lld %s%s", seconds / 60, seconds % 60,
                              o->names[r->label], i < v->run_count ? ", " : "");
        if (length < 0 || used + (size_t)length >= sizeof line ||
            text_columns(run) + text_columns(line) > room) {
            break;
        }
        memmove(line + length, line, used + 1);
        memcpy(line, run, (size_t)length);
        used += (size_t)length;
    }
    fprintf(f, "  %s\n", line);
}

static void put_meter(const record_session *s, FILE *f)
{
    char clock[64];
    char line[RECORD_METER_LINE];
    double seconds = record_seconds(s);
    if (s->limit > 0) {
        double left = (double)(s->limit - s->frames) / (double)s->rate;
        snprintf(clock, sizeof clock, left < 100.0 ? "%4.1f s left" : "%4.0f s left", left);
    } else {
        long long whole = (long long)seconds;
        snprintf(clock, sizeof clock, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60,
                 whole % 60);
    }
    record_meter_line(&s->meter, &s->screen.terminal, clock, line);
    fputs(line, f);
}

/* Lines that would wrap could not be drawn over: every one is cut. */
static void cut_lines(char *text, int columns)
{
    char *out = text;
    for (char *line = text, *end; line != NULL; line = end) {
        end = strchr(line, '\n');
        if (end != NULL) {
            *end++ = '\0';
        }
        terminal_cut(line, columns);
        size_t length = strlen(line);
        memmove(out, line, length);
        out += length;
        *out++ = end != NULL ? '\n' : '\0';
    }
}

static void draw_block(record_session *s, bool meter)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (f == NULL) {
        return;
    }
    output view = s->out;
    view.sink.stream = f;
    view.setup.screen = s->screen.terminal;
    put_heading(s, f);
    if (s->screen.scores != NULL) {
        put_bars(s, &view, f);
        if (s->screen.attention != NULL) {
            output_row row = {.attention = s->screen.attention,
                              .attention_count = s->screen.attention_count,
                              .attention_start = s->screen.attention_start,
                              .attention_step = s->screen.attention_step};
            output_text_attention(&view, &row);
        }
        put_history(s, &view, f);
    }
    if (meter) {
        put_meter(s, f);
        fputs("\n", f);
    }
    fclose(f);
    text[size - 1] = '\0'; /* no line behind the last one */
    cut_lines(text, s->screen.terminal.columns - 1);
    message_block(stdout, text);
    free(text);
}

static void draw_meter(const record_session *s)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (f != NULL) {
        put_meter(s, f);
        fclose(f);
        message_status(text);
        free(text);
    }
}

/* What was drawn on a wider or higher terminal cannot be found again on this one: it stays, and
 * what comes is drawn below it. */
static void follow_terminal(record_session *s)
{
    terminal now = terminal_probe(drawn_on(s), s->options.color);
    if (continued || now.columns < s->screen.terminal.columns ||
        now.rows < s->screen.terminal.rows) {
        continued = 0;
        message_keep();
    }
    s->screen.terminal = now;
}

void record_screen_draw(record_session *s)
{
    record_screen *v = &s->screen;
    double time = record_now();
    pthread_mutex_lock(&s->lock);
    bool due = v->changed || time - v->drawn >= DRAW_PAUSE;
    if ((v->block || v->meter) && due) {
        v->drawn = time;
        v->changed = false;
        follow_terminal(s);
        if (v->block) {
            draw_block(s, v->meter);
        } else {
            draw_meter(s);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

void record_screen_close(record_session *s)
{
    if (s->screen.block) {
        follow_terminal(s);
        draw_block(s, false);
        message_keep();
    } else if (s->screen.meter) {
        message_clear();
    }
    s->screen.block = false;
    s->screen.meter = false;
}

void record_screen_free(record_session *s)
{
    free(s->screen.scores);
    free(s->screen.attention);
    free(s->screen.runs);
}
