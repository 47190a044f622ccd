/* What the examples' pictures have in common.  SPDX-License-Identifier: MIT */
#include "svg.h"

#include "support.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static const char style[] =
    "<style>\n"
    "text { font-family: 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif; fill: #1b2436; }\n"
    ".heading { font-size: 22px; font-weight: bold; }\n"
    ".sentence { font-size: 14px; fill: #4a5568; }\n"
    ".title { font-size: 13px; font-weight: bold; }\n"
    ".note { font-size: 12px; fill: #4a5568; }\n"
    ".tick { font-size: 9.5px; fill: #4a5568; }\n"
    ".label text { fill: #333d50; }\n"
    ".frame { fill: none; stroke: #a9b4c6; stroke-width: 0.8; }\n"
    "</style>\n";

FILE *open_svg(const char *path, double width, double height) {
    FILE *file = fopen(path, "wb");
    if (!file)
        die("%s: %s", path, strerror(errno));
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\">\n",
            width, height, width, height);
    fputs(style, file);
    fputs("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n", file);
    return file;
}

void close_svg(FILE *file, const char *path) {
    fputs("</svg>\n", file);
    if (ferror(file) || fclose(file) != 0)
        die("%s: can't be written", path);
}

const char *shade_colour(int shade, char text[8]) {
    static const int stops[][3] = {{246, 248, 252}, {205, 220, 241}, {133, 173, 220},
                                   {62, 117, 188},  {28, 65, 138},   {10, 24, 66}};
    double at = (double)shade / (NUM_SHADES - 1) * 5.0;
    int i = at >= 5.0 ? 4 : (int)at, rgb[3];
    for (int k = 0; k < 3; k++)
        rgb[k] = (int)(stops[i][k] + (at - i) * (stops[i + 1][k] - stops[i][k]) + 0.5) & 0xff;
    snprintf(text, 8, "#%02x%02x%02x", (unsigned)rgb[0] & 0xff, (unsigned)rgb[1] & 0xff, (unsigned)rgb[2] & 0xff);
    return text;
}

void svg_text(FILE *file, const char *class_name, const char *anchor, double x, double y, const char *format, ...) {
    va_list args;
    fprintf(file, "<text class=\"%s\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">", class_name, anchor, x, y);
    va_start(args, format);
    vfprintf(file, format, args);
    va_end(args);
    fputs("</text>\n", file);
}
