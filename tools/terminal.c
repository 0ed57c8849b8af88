/* SPDX-License-Identifier: MIT */
#include "terminal.h"

#include <langinfo.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "text.h"

const char *const terminal_color_names[] = {"auto", "always", "never", NULL};

static bool is_set(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0';
}

static bool wants_color(int color, bool interactive)
{
    if (color != TERMINAL_COLOR_AUTO) {
        return color == TERMINAL_COLOR_ALWAYS;
    }
    if (is_set("NO_COLOR")) {
        return false;
    }
    return is_set("CLICOLOR_FORCE") || is_set("FORCE_COLOR") || interactive;
}

static int width(const struct winsize *size)
{
    if (size->ws_col > 0) {
        return size->ws_col;
    }
    int64_t columns = 0;
    if (is_set("COLUMNS") && text_parse_integer(getenv("COLUMNS"), &columns) && columns >= 20 &&
        columns <= 1000) {
        return (int)columns;
    }
    return 80;
}

terminal terminal_probe(int fd, int color)
{
    const char *type = getenv("TERM");
    bool dumb = type != NULL && strcmp(type, "dumb") == 0;
    struct winsize size = {0};
    if (ioctl(fd, TIOCGWINSZ, &size) != 0) {
        size = (struct winsize){0};
    }
    terminal t = {.interactive = isatty(fd) && !dumb,
                  .columns = width(&size),
                  .rows = size.ws_row > 0 ? size.ws_row : 24};
    t.color = wants_color(color, t.interactive);
    t.unicode = isatty(fd) && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    return t;
}

void terminal_bar(const terminal *t, double share, int columns, char *text)
{
    /* U+2588 is a full block, U+2589 to U+258F are seven to one eighths. */
    int steps = t->unicode ? 8 : 1;
    int filled = (int)lround(fmin(fmax(share, 0.0), 1.0) * columns * steps);
    for (int i = 0; i < columns; i++, filled -= steps) {
        if (filled <= 0) {
            *text++ = ' ';
        } else if (!t->unicode) {
            *text++ = '#';
        } else {
            *text++ = '\xe2';
            *text++ = '\x96';
            *text++ = (char)(0x88 + (filled >= 8 ? 0 : 8 - filled));
        }
    }
    *text = '\0';
}

/* Behind the end only what takes no column is kept, such as the end of a colour. */
void terminal_cut(char *line, int columns)
{
    char *out = line;
    for (int used = 0; *line != '\0';) {
        bool shown = strncmp(line, "\033[", 2) != 0;
        size_t bytes = strcspn(line, "m");
        if (shown) {
            used += text_width(line, &bytes);
        } else if (line[bytes] == 'm') {
            bytes++;
        }
        if (!shown || used <= columns) {
            memmove(out, line, bytes);
            out += bytes;
        }
        line += bytes;
    }
    *out = '\0';
}

void terminal_level(const terminal *t, double level, char *text)
{
    static const char ramp[] = " .:-=+*#";
    int step = (int)lround(fmin(fmax(level, 0.0), 1.0) * 7.0);
    if (t->unicode) {
        /* U+2581 to U+2588: one to eight eighths high. */
        memcpy(text, "\xe2\x96\x81", 4);
        text[2] = (char)(0x81 + step);
    } else {
        text[0] = ramp[step];
        text[1] = '\0';
    }
}
