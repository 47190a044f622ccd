/* What the examples' pictures have in common.  SPDX-License-Identifier: MIT */
#include "svg.h"

#include "support.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#define NUM_SHADES 40

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

void svg_text(FILE *file, const char *class_name, const char *anchor, double x, double y, const char *format, ...) {
    va_list args;
    fprintf(file, "<text class=\"%s\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">", class_name, anchor, x, y);
    va_start(args, format);
    vfprintf(file, format, args);
    va_end(args);
    fputs("</text>\n", file);
}

/* From near white over blue to almost black, as "#rrggbb". */
static const char *colour(int shade, char text[8]) {
    static const int stops[][3] = {{246, 248, 252}, {205, 220, 241}, {133, 173, 220},
                                   {62, 117, 188},  {28, 65, 138},   {10, 24, 66}};
    double at = (double)shade / (NUM_SHADES - 1) * 5.0;
    int i = at >= 5.0 ? 4 : (int)at, rgb[3];
    for (int k = 0; k < 3; k++)
        rgb[k] = (int)(stops[i][k] + (at - i) * (stops[i + 1][k] - stops[i][k]) + 0.5) & 0xff;
    snprintf(text, 8, "#%02x%02x%02x", (unsigned)rgb[0] & 0xff, (unsigned)rgb[1] & 0xff, (unsigned)rgb[2] & 0xff);
    return text;
}

/* The shade of a share: its square root, because most of them are small. */
static int shade_of(double share) {
    double shade = sqrt(share < 0.0 ? 0.0 : share) * (NUM_SHADES - 1);
    return shade > NUM_SHADES - 1 ? NUM_SHADES - 1 : (int)(shade + 0.5);
}

/* Cells of one shade make one path, so that the file stays small. */
void svg_shares(FILE *file, double x, double y, double cell, int64_t size, int64_t stride, const float *shares) {
    char hex[8];
    fprintf(file, "<g transform=\"translate(%.1f %.1f) scale(%.4f)\" shape-rendering=\"crispEdges\">\n", x, y, cell);
    fprintf(file, "<rect width=\"%lld\" height=\"%lld\" fill=\"%s\"/>\n", (long long)size, (long long)size,
            colour(0, hex));
    for (int shade = 1; shade < NUM_SHADES; shade++) {
        int begun = 0;
        for (int64_t i = 0; i < size; i++) {
            for (int64_t j = 0; j < size; j++) {
                if (shade_of((double)shares[i * stride + j]) != shade)
                    continue;
                if (!begun++)
                    fprintf(file, "<path fill=\"%s\" d=\"", colour(shade, hex));
                fprintf(file, "M%lld %lldh1v1h-1z", (long long)j, (long long)i);
            }
        }
        if (begun)
            fputs("\"/>\n", file);
    }
    fputs("</g>\n", file);
    fprintf(file, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"frame\"/>\n", x, y,
            cell * (double)size, cell * (double)size);
}

void svg_shares_legend(FILE *file, double x, double y, double width) {
    static const double ticks[] = {0.0, 0.05, 0.2, 0.5, 1.0};
    char hex[8];
    for (int shade = 0; shade < NUM_SHADES; shade++)
        fprintf(file, "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"12\" fill=\"%s\"/>\n",
                x + width * shade / NUM_SHADES, y, width / NUM_SHADES + 0.3, colour(shade, hex));
    fprintf(file, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"12\" class=\"frame\"/>\n", x, y, width);
    for (size_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
        svg_text(file, "tick", "middle", x + width * sqrt(ticks[i]), y + 25.0, "%g %%", 100.0 * ticks[i]);
}
