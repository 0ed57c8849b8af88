/* SPDX-License-Identifier: MIT */
/*
 * Pictures as SVG 1.1: shapes and text, no scripts and nothing fetched. The paper is drawn, so that
 * any viewer shows dark on light; those that know prefers-color-scheme turn it around. Widths of text
 * are estimates, with room to spare: which font there will be is not known.
 */
#include "report_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "escape.h"
#include "text.h"

enum {
    MARGIN = 16,
    LINE = 17, /* between lines of the text above a picture */
    LABEL_LIMIT = 24,
    CELL_WIDTH = 66,
    CELL_HEIGHT = 44,
    COUNT_WIDTH = 70,
    PANEL_WIDTH = 640,
    PANEL_HEIGHT = 150,
    PANEL_STEP = 220,
    AXIS_WIDTH = 64,
    TICKS_LIMIT = 64
};

static const double small_character = 6.7;  /* width at 12 px */
static const double character = 7.3;        /* at 13 px */
static const double title_character = 10.0; /* at 16 px, bold */

static const char style[] =
    "<style>\n"
    "text{font-family:system-ui,'DejaVu Sans',Arial,sans-serif;font-size:13px;fill:#1b1b1b}\n"
    ".title{font-size:16px;font-weight:bold}\n"
    ".small{font-size:12px;fill:#4a4a4a}\n"
    ".warning{font-size:12px;fill:#b3261e}\n"
    ".paper{fill:#ffffff}\n"
    ".cell{fill:#1f5fbf}\n"
    ".on{fill:#ffffff}\n"
    ".grid{stroke:#c9c9c9;fill:none}\n"
    ".frame{stroke:#767676;fill:none}\n"
    ".a{stroke:#2f74d0;fill:none;stroke-width:1.5;stroke-dasharray:6 3}\n"
    ".b{stroke:#cc5f14;fill:none;stroke-width:2}\n"
    ".dot-a{fill:#2f74d0}\n"
    ".dot-b{fill:#cc5f14}\n"
    "@media (prefers-color-scheme:dark){\n"
    "text{fill:#ececec}\n"
    ".small{fill:#b4b4b4}\n"
    ".warning{fill:#ff8a80}\n"
    ".paper{fill:#14171c}\n"
    ".cell{fill:#2a6fd6}\n"
    ".on{fill:#ffffff}\n"
    ".grid{stroke:#3d434d}\n"
    ".frame{stroke:#8a8f98}\n"
    ".a{stroke:#6ea8ff}\n"
    ".b{stroke:#ff9d4d}\n"
    ".dot-a{fill:#6ea8ff}\n"
    ".dot-b{fill:#ff9d4d}\n"
    "}\n"
    "</style>\n";

/* What stands above a picture. */
typedef struct heading {
    const char *title;
    const char *protocol;
    const char *facts; /* "": none */
    bool warning;
    int width; /* of the picture */
} heading;

static void open_svg(FILE *f, const heading *h, int height)
{
    fprintf(f,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" role=\"img\">\n<title>",
            h->width, height, h->width, height);
    escape_xml(f, h->title);
    fputs("</title>\n<desc>", f);
    escape_xml(f, h->protocol);
    fprintf(f, "</desc>\n%s<rect class=\"paper\" width=\"%d\" height=\"%d\"/>\n", style, h->width,
            height);
}

static void put_text(FILE *f, const char *attributes, double x, double y, const char *text)
{
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\"%s>", x, y, attributes);
    escape_xml(f, text);
    fputs("</text>\n", f);
}

/* Lines of at most `limit` columns, broken at blanks. Counts only if `f` is NULL. */
static int put_lines(FILE *f, const char *class, const char *text, int limit, int y)
{
    char *clean = text_printable(text);
    int lines = 0;
    for (char *start = clean; *start != '\0'; lines++) {
        size_t end = strlen(start);
        while (escape_columns(start, end) > limit) {
            size_t blank = end - 1;
            while (blank > 0 && start[blank] != ' ') {
                blank--;
            }
            if (blank == 0) {
                break; /* a word longer than a line */
            }
            end = blank;
        }
        char *next = start + end;
        next += *next == ' ';
        char after = start[end];
        start[end] = '\0';
        if (f != NULL) {
            put_text(f, class, MARGIN, y + LINE * lines, start);
        }
        start[end] = after;
        start = next;
    }
    free(clean);
    return lines;
}

/* Answers where it ends; draws nothing if `f` is NULL. */
static int put_heading(FILE *f, const heading *h)
{
    int room = h->width - 2 * MARGIN;
    int limit = (int)(room / small_character);
    int y = MARGIN + 14;
    if (f != NULL) {
        char *title = escape_short(h->title, (int)(room / title_character));
        put_text(f, " class=\"title\"", MARGIN, y, title);
        free(title);
    }
    y += LINE + 4;
    y += LINE * put_lines(f, " class=\"small\"", h->protocol, limit, y);
    y += LINE * put_lines(f, " class=\"small\"", h->facts, limit, y);
    if (h->warning) {
        y += LINE * put_lines(f, " class=\"warning\"", report_dependent_warning, limit, y);
    }
    return y;
}

/* ---- confusion ---- */

/* Where the matrix stands, and which classes it shows. */
typedef struct matrix {
    const metrics_result *scores;
    size_t *shown; /* [count], class numbers */
    char **labels; /* [count] */
    size_t count;
    int left;
    int top;
    int height;   /* of the picture */
    bool slanted; /* column labels too wide for their cells */
} matrix;

static void facts_of(char facts[200], const metrics_result *r)
{
    char uar[METRICS_PERCENT_SIZE];
    char accuracy[METRICS_PERCENT_SIZE];
    char interval[64] = "";
    if (isfinite(r->uar_interval.low)) {
        snprintf(interval, sizeof interval, " (95 %% interval %.1f to %.1f)",
                 100.0 * r->uar_interval.low, 100.0 * r->uar_interval.high);
    }
    int used =
        snprintf(facts, 200, "UAR %s%s, accuracy %s, %lld clips", metrics_percent(uar, r->uar),
                 interval, metrics_percent(accuracy, r->accuracy), (long long)r->clips);
    if (r->speakers > 0) {
        snprintf(facts + used, 200 - (size_t)used, ", %zu speakers", r->speakers);
    }
}

/* Sets h->width as well. */
static matrix lay_out(const run_report *run, heading *h)
{
    const metrics_result *r = run->parts[0].metrics;
    matrix m = {.scores = r};
    m.shown = text_alloc(r->classes, sizeof *m.shown);
    m.labels = text_alloc(r->classes, sizeof *m.labels);
    int widest = 0;
    for (size_t k = 0; k < r->classes; k++) {
        if (r->per_class[k].allowed) {
            m.shown[m.count] = k;
            m.labels[m.count] = escape_short(run->labels[k], LABEL_LIMIT);
            int columns = escape_columns(m.labels[m.count], strlen(m.labels[m.count]));
            widest = columns > widest ? columns : widest;
            m.count++;
        }
    }
    int label_width = (int)(widest * character) + 1;
    m.slanted = widest * small_character > CELL_WIDTH - 4;
    m.left = MARGIN + 24 + label_width + 10;
    int overhang = m.slanted ? label_width * 3 / 4 : 0; /* cos 40 degrees */
    int right = overhang > COUNT_WIDTH ? overhang : COUNT_WIDTH;
    h->width = m.left + (int)m.count * CELL_WIDTH + right + MARGIN;
    h->width = h->width < 420 ? 420 : h->width;
    m.top = put_heading(NULL, h) + 30;
    m.top += m.slanted ? label_width * 2 / 3 : 12; /* sin 40 degrees */
    m.height = m.top + (int)m.count * CELL_HEIGHT + MARGIN + LINE;
    return m;
}

static void put_cell(FILE *f, const matrix *m, size_t row, size_t column)
{
    const metrics_result *r = m->scores;
    int64_t clips = r->confusion[m->shown[row] * r->classes + m->shown[column]];
    if (clips == 0) {
        return;
    }
    double share = (double)clips / (double)r->per_class[m->shown[row]].support;
    double x = m->left + (double)column * CELL_WIDTH;
    double y = m->top + (double)row * CELL_HEIGHT;
    /* About where white begins to stand out more than black on this blue over white. */
    const char *ink = share >= 0.82 ? " class=\"on\"" : "";
    fprintf(f,
            "<rect class=\"cell\" x=\"%.0f\" y=\"%.0f\" width=\"%d\" height=\"%d\" "
            "fill-opacity=\"%.3f\"/>\n",
            x, y, CELL_WIDTH, CELL_HEIGHT, share);
    fprintf(f,
            "<text%s text-anchor=\"middle\"><tspan x=\"%.0f\" y=\"%.0f\">%lld</tspan>"
            "<tspan x=\"%.0f\" y=\"%.0f\" style=\"font-size:12px\">%.1f %%</tspan></text>\n",
            ink, x + CELL_WIDTH / 2.0, y + 19.0, (long long)clips, x + CELL_WIDTH / 2.0, y + 36.0,
            100.0 * share);
}

static void put_matrix_labels(FILE *f, const matrix *m, size_t i)
{
    char count[48];
    char attributes[112];
    double y = m->top + (double)i * CELL_HEIGHT + CELL_HEIGHT / 2.0 + 4.0;
    double x = m->left + (double)i * CELL_WIDTH + CELL_WIDTH / 2.0;
    put_text(f, " text-anchor=\"end\"", m->left - 10.0, y, m->labels[i]);
    snprintf(count, sizeof count, "%lld", (long long)m->scores->per_class[m->shown[i]].support);
    put_text(f, " class=\"small\"", m->left + (double)m->count * CELL_WIDTH + 10.0, y, count);
    if (m->slanted) {
        snprintf(attributes, sizeof attributes, " transform=\"rotate(-40 %.1f %.1f)\"", x,
                 m->top - 8.0);
        put_text(f, attributes, x, m->top - 8.0, m->labels[i]);
    } else {
        put_text(f, " text-anchor=\"middle\" style=\"font-size:12px\"", x, m->top - 8.0,
                 m->labels[i]);
    }
}

static void put_grid(FILE *f, const matrix *m)
{
    int right = m->left + (int)m->count * CELL_WIDTH;
    int bottom = m->top + (int)m->count * CELL_HEIGHT;
    fputs("<path class=\"grid\" d=\"", f);
    for (int i = 1; i < (int)m->count; i++) {
        fprintf(f, "M%d %dV%dM%d %dH%d", m->left + i * CELL_WIDTH, m->top, bottom, m->left,
                m->top + i * CELL_HEIGHT, right);
    }
    fprintf(f, "\"/>\n<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
            m->left, m->top, right - m->left, bottom - m->top);
}

void report_put_confusion_svg(FILE *f, const run_report *run)
{
    char facts[200];
    char *title = text_join(report_name(run), ": ", run->parts[0].name);
    facts_of(facts, run->parts[0].metrics);
    heading h = {.title = title,
                 .protocol = report_protocol(run, &run->parts[0]),
                 .facts = facts,
                 .warning = !run->speaker_independent};
    matrix m = lay_out(run, &h);
    open_svg(f, &h, m.height);
    int y = put_heading(f, &h);
    put_text(f, " class=\"small\"", m.left, y + 8.0, "predicted \xe2\x86\x92");
    char turn[80];
    double middle = m.top + (double)m.count * CELL_HEIGHT / 2.0;
    snprintf(turn, sizeof turn, " class=\"small\" transform=\"rotate(-90 %d %.1f)\"", MARGIN + 10,
             middle);
    put_text(f, turn, MARGIN + 10, middle, "\xe2\x86\x90 true");
    put_text(f, " class=\"small\"", m.left + (double)m.count * CELL_WIDTH + 10.0, y + 8.0, "clips");
    for (size_t i = 0; i < m.count; i++) {
        for (size_t j = 0; j < m.count; j++) {
            put_cell(f, &m, i, j);
        }
    }
    put_grid(f, &m);
    for (size_t i = 0; i < m.count; i++) {
        put_matrix_labels(f, &m, i);
        free(m.labels[i]);
    }
    put_text(f, " class=\"small\"", MARGIN, m.height - MARGIN + 2.0,
             "Percentages are of the true class: on the diagonal, its recall.");
    fputs("</svg>\n", f);
    free(m.labels);
    free(m.shown);
    free(title);
}

/* ---- curves ---- */

typedef struct series {
    const double *values; /* [epochs] or NULL */
    const char *name;
} series;

/* One diagram: at most two series over the epochs. */
typedef struct panel {
    const char *title;
    series series[2];
    double scale; /* of the values that are shown */
    int top;
    double low; /* of the axis */
    double high;
    double step;
} panel;

/* Neither NaN, nor infinite, nor so far off that an axis could not be computed. */
static bool drawable(double value)
{
    return fabs(value) < 1e100;
}

static bool has_values(const series *s, size_t epochs)
{
    for (size_t i = 0; s->values != NULL && i < epochs; i++) {
        if (drawable(s->values[i])) {
            return true;
        }
    }
    return false;
}

/* 1, 2 or 5 times a power of ten that divides `range` in at most `most` parts. */
static double nice_step(double range, int most)
{
    double power = pow(10.0, floor(log10(range / most)));
    double ratio = range / most / power;
    return power * (ratio <= 1.0 ? 1.0 : ratio <= 2.0 ? 2.0 : ratio <= 5.0 ? 5.0 : 10.0);
}

static void set_axis(panel *p, size_t epochs)
{
    p->low = INFINITY;
    p->high = -INFINITY;
    for (int s = 0; s < 2; s++) {
        for (size_t i = 0; p->series[s].values != NULL && i < epochs; i++) {
            double value = p->series[s].values[i] * p->scale;
            if (drawable(value)) {
                p->low = fmin(p->low, value);
                p->high = fmax(p->high, value);
            }
        }
    }
    double least = fmax(fabs(p->low), fabs(p->high)) * 1e-6; /* numbers on the axis stay distinct */
    if (p->high - p->low <= least) {
        double room = p->high != 0.0 ? fabs(p->high) * 0.1 : 1.0;
        p->low -= room;
        p->high += room;
    }
    p->step = nice_step(p->high - p->low, 5);
    p->low = floor(p->low / p->step) * p->step;
    p->high = ceil(p->high / p->step) * p->step;
}

static double x_of(size_t epoch, size_t epochs)
{
    double place = epochs > 1 ? (double)epoch / (double)(epochs - 1) : 0.5;
    return MARGIN + AXIS_WIDTH + place * PANEL_WIDTH;
}

static double y_of(const panel *p, double value)
{
    return p->top + (p->high - value) / (p->high - p->low) * PANEL_HEIGHT;
}

static void put_axes(FILE *f, const panel *p, size_t epochs)
{
    char number[32];
    for (int i = 0; i < TICKS_LIMIT; i++) {
        double value = p->low + i * p->step;
        if (value > p->high + 0.5 * p->step) {
            break;
        }
        value = fabs(value) < 1e-9 * p->step ? 0.0 : value;
        double y = y_of(p, value);
        fprintf(f, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", MARGIN + AXIS_WIDTH, y,
                MARGIN + AXIS_WIDTH + PANEL_WIDTH);
        snprintf(number, sizeof number, "%.6g", value);
        put_text(f, " class=\"small\" text-anchor=\"end\"", MARGIN + AXIS_WIDTH - 8.0, y + 4.0,
                 number);
    }
    double step = fmax(1.0, nice_step((double)epochs, 10));
    for (double epoch = step > 1.0 ? step : 1.0; epoch <= (double)epochs; epoch += step) {
        double x = x_of((size_t)epoch - 1, epochs);
        snprintf(number, sizeof number, "%.0f", epoch);
        fprintf(f, "<path class=\"frame\" d=\"M%.1f %dv4\"/>\n", x, p->top + PANEL_HEIGHT);
        put_text(f, " class=\"small\" text-anchor=\"middle\"", x, p->top + PANEL_HEIGHT + 18.0,
                 number);
    }
    fprintf(f, "<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
            MARGIN + AXIS_WIDTH, p->top, PANEL_WIDTH, PANEL_HEIGHT);
}

/* A line through the values that there are; one between gaps is a dot as well. */
static void put_series(FILE *f, const panel *p, int which, size_t epochs)
{
    const double *values = p->series[which].values;
    if (values == NULL) {
        return;
    }
    char name = which == 0 ? 'a' : 'b';
    fprintf(f, "<path class=\"%c\" stroke-linejoin=\"round\" d=\"", name);
    bool drawing = false;
    for (size_t i = 0; i < epochs; i++) {
        if (drawable(values[i])) {
            fprintf(f, "%c%.1f %.1f", drawing ? 'L' : 'M', x_of(i, epochs),
                    y_of(p, values[i] * p->scale));
            drawing = true;
        }
    }
    fputs("\"/>\n", f);
    for (size_t i = 0; i < epochs; i++) {
        bool alone =
            (i == 0 || !drawable(values[i - 1])) && (i + 1 == epochs || !drawable(values[i + 1]));
        if (alone && drawable(values[i])) {
            fprintf(f, "<circle class=\"dot-%c\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", name,
                    x_of(i, epochs), y_of(p, values[i] * p->scale));
        }
    }
}

static void put_legend(FILE *f, const panel *p, size_t epochs)
{
    double x = MARGIN + AXIS_WIDTH + PANEL_WIDTH;
    for (int s = 1; s >= 0; s--) {
        if (has_values(&p->series[s], epochs) && p->series[s].name != NULL) {
            x -= (double)strlen(p->series[s].name) * small_character + 4.0;
            put_text(f, " class=\"small\"", x, p->top - 8.0, p->series[s].name);
            x -= 30.0;
            fprintf(f, "<path class=\"%c\" d=\"M%.1f %.1fh24\"/>\n", s == 0 ? 'a' : 'b', x,
                    p->top - 12.0);
            x -= 12.0;
        }
    }
}

static void put_best(FILE *f, const panel *p, const report_curves *c)
{
    if (c->best_epoch > 0 && (size_t)c->best_epoch <= c->epochs) {
        double x = x_of((size_t)c->best_epoch - 1, c->epochs);
        fprintf(f, "<path class=\"frame\" stroke-dasharray=\"2 3\" d=\"M%.1f %dv%d\"/>\n", x,
                p->top, PANEL_HEIGHT);
    }
}

static void put_panel(FILE *f, panel *p, const report_curves *c)
{
    set_axis(p, c->epochs);
    put_text(f, "", MARGIN + AXIS_WIDTH, p->top - 8.0, p->title);
    put_axes(f, p, c->epochs);
    put_best(f, p, c);
    for (int s = 0; s < 2; s++) {
        put_series(f, p, s, c->epochs);
    }
    put_legend(f, p, c->epochs);
}

void report_put_curves_svg(FILE *f, const run_report *run)
{
    const report_curves *c = run->curves;
    panel panels[] = {
        {.title = "loss",
         .series = {{c->train_loss, "training"}, {c->validation_loss, "validation"}},
         .scale = 1.0},
        {.title = "UAR, %",
         .series = {{c->train_uar, "training"}, {c->validation_uar, "validation"}},
         .scale = 100.0},
        {.title = "learning rate",
         .series = {{c->backbone_learning_rate, "backbone"},
                    {c->learning_rate, c->backbone_learning_rate != NULL ? "head" : NULL}},
         .scale = 1.0},
    };
    char facts[64] = "";
    char *title = text_join(report_name(run), ": training", "");
    if (c->best_epoch > 0) {
        snprintf(facts, sizeof facts, "Best epoch: %lld of %zu", (long long)c->best_epoch,
                 c->epochs);
    }
    heading h = {.title = title,
                 .protocol = report_protocol(run, NULL),
                 .facts = facts,
                 .warning = !run->speaker_independent,
                 .width = MARGIN + AXIS_WIDTH + PANEL_WIDTH + 2 * MARGIN};
    int top = put_heading(NULL, &h) + 24;
    int used = 0;
    for (size_t i = 0; i < sizeof panels / sizeof panels[0]; i++) {
        panels[i].top = top + PANEL_STEP * used;
        used += has_values(&panels[i].series[0], c->epochs) ||
                has_values(&panels[i].series[1], c->epochs);
    }
    int height = top + PANEL_STEP * used - PANEL_STEP + PANEL_HEIGHT + 48;
    open_svg(f, &h, used > 0 ? height : top);
    put_heading(f, &h);
    for (size_t i = 0; i < sizeof panels / sizeof panels[0]; i++) {
        if (has_values(&panels[i].series[0], c->epochs) ||
            has_values(&panels[i].series[1], c->epochs)) {
            put_panel(f, &panels[i], c);
        }
    }
    put_text(f, " class=\"small\" text-anchor=\"end\"", MARGIN + AXIS_WIDTH + PANEL_WIDTH,
             (used > 0 ? height : top) - 12.0, "epoch");
    fputs("</svg>\n", f);
    free(title);
}
