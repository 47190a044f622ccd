/* What the examples' pictures have in common.  SPDX-License-Identifier: MIT */
#ifndef SVG_H
#define SVG_H

#include <stdint.h>
#include <stdio.h>

/* A file with the SVG's head, style and white ground, or the end of the program. */
FILE *open_svg(const char *path, double width, double height);
void close_svg(FILE *file, const char *path);

/* A line of text of one of the style's classes: heading, sentence, title, note, tick. `anchor`: start, middle, end. */
void svg_text(FILE *file, const char *class_name, const char *anchor, double x, double y, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/* A heat map of shares from 0 to 1, the first size × size of a matrix whose rows are `stride` apart, with its upper
 * left corner at (x, y) and cells of `cell` × `cell`; and what its shades mean. */
void svg_shares(FILE *file, double x, double y, double cell, int64_t size, int64_t stride, const float *shares);
void svg_shares_legend(FILE *file, double x, double y, double width);

#endif
