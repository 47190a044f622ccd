/* What the examples' pictures have in common.  SPDX-License-Identifier: MIT */
#ifndef SVG_H
#define SVG_H

#include <stdio.h>

#define NUM_SHADES 40

/* A file with the SVG's head, style and white ground, or the end of the program. */
FILE *open_svg(const char *path, double width, double height);
void close_svg(FILE *file, const char *path);

/* Shade 0 … NUM_SHADES − 1 of a heat map, from near white over blue to almost black, as "#rrggbb" in text. */
const char *shade_colour(int shade, char text[8]);

/* A line of text of one of the style's classes: heading, sentence, title, note, tick. `anchor`: start, middle, end. */
void svg_text(FILE *file, const char *class_name, const char *anchor, double x, double y, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

#endif
