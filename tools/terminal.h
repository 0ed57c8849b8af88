/* SPDX-License-Identifier: MIT */
/* What a stream can show. */
#ifndef SER_TOOLS_TERMINAL_H
#define SER_TOOLS_TERMINAL_H

#include <stdbool.h>

/* The answers to --color, in the order of terminal_color_names. */
enum { TERMINAL_COLOR_AUTO, TERMINAL_COLOR_ALWAYS, TERMINAL_COLOR_NEVER };
extern const char *const terminal_color_names[];

typedef struct terminal {
    bool interactive; /* a terminal that can move its cursor */
    bool color;
    bool unicode; /* a terminal in a UTF-8 locale */
    int columns;
    int rows;
} terminal;

/* --color, then NO_COLOR, then CLICOLOR_FORCE and FORCE_COLOR (set and not empty), then whether it
 * is a terminal. Columns: the terminal's, else $COLUMNS, else 80. Rows: the terminal's, else 24. */
terminal terminal_probe(int fd, int color);

/* A bar of `share` (0..1) of `columns`, padded with blanks to them; eighths of a column where the
 * terminal has block characters. `text` needs 3 * columns + 1 bytes. */
void terminal_bar(const terminal *t, double share, int columns, char *text);

/* Cut a line to `columns`, one per character; colours take none and stay. */
void terminal_cut(char *line, int columns);

/* One column that stands `level` (0..1) high; `text` needs 4 bytes. */
void terminal_level(const terminal *t, double level, char *text);

#endif
