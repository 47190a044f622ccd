/* Drawing attention as an SVG picture.  SPDX-License-Identifier: MIT */
#include "heatmap.h"

#include "heads.h"
#include "support.h"
#include "svg.h"

#include <stdio.h>
#include <string.h>

#define MAX_DRAWN 64 /* tokens; more could not be read */
#define MAX_LABEL 14 /* characters */
#define MARGIN 28.0
#define HEADER 84.0
#define TITLE 22.0 /* above a panel */
#define GAP 22.0
#define LEGEND_WIDTH 220.0
#define MIN_CELL 11.0 /* labels of a smaller one could not be read */
#define MAX_CELL 22.0

struct drawing {
    FILE *file;
    const struct encoder *encoder;
    const struct sentence *sentence;
    int64_t num_tokens; /* in the matrices */
    int64_t num_drawn;
    int longest_label; /* characters */
};

/* Sizes of a panel whose cells are `cell` wide: labels, then the square of cells. */
struct panel_size {
    double cell, font, label, width, height;
};

static void write_escaped(FILE *file, const char *text, size_t size, int max_characters) {
    for (size_t i = 0; i < size && max_characters > 0; max_characters--) {
        char encoded[4];
        int32_t c;
        i += decode_utf8(text + i, size - i, &c);
        if (max_characters == 1 && i < size)
            c = 0x2026; /* … */
        if (c == '&')
            fputs("&amp;", file);
        else if (c == '<')
            fputs("&lt;", file);
        else if (c < 0x20 || (c >= 0x7f && c < 0xa0) || (c & 0xfffe) == 0xfffe)
            fputc(' ', file); /* XML has no place for these */
        else
            fwrite(encoded, 1, encode_utf8(c, encoded), file);
    }
}

static int count_characters(const char *text) {
    int count = 0;
    for (; *text; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count < MAX_LABEL ? count : MAX_LABEL;
}

static const char *label(const struct drawing *d, int64_t token) {
    return token_text(&d->encoder->tokenizer, d->sentence->ids[token]);
}

static struct panel_size panel_size(const struct drawing *d, double side) {
    struct panel_size size;
    size.cell = side / (double)d->num_drawn;
    size.cell = size.cell > MAX_CELL ? MAX_CELL : size.cell < MIN_CELL ? MIN_CELL : size.cell;
    size.font = size.cell * 0.86 < 11.0 ? size.cell * 0.86 : 11.0;
    size.label = 0.6 * size.font * d->longest_label + 8.0;
    size.width = size.label + size.cell * (double)d->num_drawn;
    size.height = TITLE + size.width;
    return size;
}

static void draw_labels(const struct drawing *d, const struct panel_size *size, double x, double y) {
    fprintf(d->file, "<g class=\"label\" font-size=\"%.2f\">\n", size->font);
    for (int64_t i = 0; i < d->num_drawn; i++) {
        double middle = ((double)i + 0.5) * size->cell + 0.35 * size->font;
        fprintf(d->file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", x - 4.0, y + middle);
        write_escaped(d->file, label(d, i), strlen(label(d, i)), MAX_LABEL);
        fprintf(d->file, "</text><text transform=\"translate(%.1f %.1f) rotate(-90)\">", x + middle, y - 4.0);
        write_escaped(d->file, label(d, i), strlen(label(d, i)), MAX_LABEL);
        fputs("</text>\n", d->file);
    }
    fputs("</g>\n", d->file);
}

/* A panel with its upper left corner at (x, y). */
static void draw_panel(const struct drawing *d, const struct panel_size *size, double x, double y, const char *title,
                       const float *probabilities) {
    double left = x + size->label, top = y + TITLE + size->label;
    fprintf(d->file, "<text class=\"title\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", left, y + 14.0, title);
    draw_labels(d, size, left, top);
    svg_shares(d->file, left, top, size->cell, d->num_drawn, d->num_tokens, probabilities);
}

static void draw_header(const struct drawing *d, int64_t layer) {
    fprintf(d->file, "<text class=\"heading\" x=\"%.1f\" y=\"38\">What layer %lld of %lld attends to</text>\n", MARGIN,
            (long long)layer, (long long)d->encoder->config.num_layers);
    fprintf(d->file, "<text class=\"sentence\" x=\"%.1f\" y=\"60\">“", MARGIN);
    write_escaped(d->file, d->sentence->text, d->sentence->size, 120);
    fputs("”</text>\n", d->file);
}

static void draw_notes(const struct drawing *d, const struct attention_view *view, double x, double y) {
    const char *lines[] = {
        "Rows ask, columns answer: each row adds up to 100 %.",
        "Raw: softmax(X·Xᵀ/√d), the layer's input compared with",
        "itself, without Wq, Wk, Wv. Every head would see this.",
        "Heads: the same input through the learned Wq, Wk, Wv.",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        fprintf(d->file, "<text class=\"note\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", x, y + 17.0 * (double)i, lines[i]);
    y += 17.0 * 5;
    fprintf(d->file, "<text class=\"title\" x=\"%.1f\" y=\"%.1f\">How different the heads are</text>\n", x, y);
    fprintf(d->file,
            "<text class=\"note\" x=\"%.1f\" y=\"%.1f\">mean Jensen–Shannon distance: raw %.3g, learned %.3f"
            "</text>\n",
            x, y + 18.0, mean_head_distance(view->raw, view->num_heads, view->num_tokens),
            mean_head_distance(view->learned, view->num_heads, view->num_tokens));
    if (d->num_drawn < d->num_tokens)
        fprintf(d->file, "<text class=\"note\" x=\"%.1f\" y=\"%.1f\">Drawn: the first %lld of %lld tokens.</text>\n", x,
                y + 40.0, (long long)d->num_drawn, (long long)d->num_tokens);
}

static void draw(struct drawing *d, const char *path, int64_t layer, const struct attention_view *view) {
    struct panel_size raw = panel_size(d, 300.0), head = panel_size(d, 200.0);
    double left = raw.width > 340.0 ? raw.width : 340.0;
    double heads_x = MARGIN + left + 2.0 * GAP;
    int64_t columns = view->num_heads <= 4 ? view->num_heads : view->num_heads <= 6 ? 3 : 4;
    int64_t rows = (view->num_heads + columns - 1) / columns, matrix = d->num_tokens * d->num_tokens;
    double width = heads_x + (double)columns * (head.width + GAP) + MARGIN - GAP;
    double below_raw = HEADER + raw.height + 50.0, left_height = below_raw + 230.0;
    double height = HEADER + (double)rows * (head.height + GAP) + MARGIN - GAP;
    height = height > left_height ? height : left_height;

    d->file = open_svg(path, width, height);
    draw_header(d, layer);
    draw_panel(d, &raw, MARGIN, HEADER, "raw attention, the same for every head", view->raw);
    svg_text(d->file, "note", "start", MARGIN + 12.0, below_raw - 8.0, "share of a token's attention");
    svg_shares_legend(d->file, MARGIN + 12.0, below_raw, LEGEND_WIDTH);
    draw_notes(d, view, MARGIN + 12.0, below_raw + 60.0);
    for (int64_t i = 0; i < view->num_heads; i++) {
        char title[32];
        snprintf(title, sizeof title, "head %lld", (long long)i + 1);
        draw_panel(d, &head, heads_x + (double)(i % columns) * (head.width + GAP),
                   HEADER + (double)(i / columns) * (head.height + GAP), title, view->learned + i * matrix);
    }
    close_svg(d->file, path);
}

void write_heatmap(const char *path, const struct encoder *encoder, const struct sentence *sentence, int64_t layer,
                   const struct attention_view *view) {
    struct drawing d = {.encoder = encoder, .sentence = sentence, .num_tokens = view->num_tokens};
    d.num_drawn = d.num_tokens < MAX_DRAWN ? d.num_tokens : MAX_DRAWN;
    for (int64_t i = 0; i < d.num_drawn; i++)
        if (count_characters(label(&d, i)) > d.longest_label)
            d.longest_label = count_characters(label(&d, i));
    draw(&d, path, layer, view);
}
