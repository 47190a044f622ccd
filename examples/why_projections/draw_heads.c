/* Heat maps of what the heads attend to in one sentence.  SPDX-License-Identifier: MIT */
#include "pictures.h"

#include "svg.h"

#define CELL 19.0
#define LABEL 46.0 /* room for the words beside and above a map */
#define PANEL (LABEL + TOKENS * CELL)
#define GAP_X 20.0
#define GAP_Y 34.0
#define TOP 132.0
#define LEFT 28.0

static void draw_partner(FILE *file, double x, double y, int query, int key, const char *colour) {
    fprintf(file,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"%s\" "
            "stroke-width=\"2\"/>\n",
            x + key * CELL + 2.0, y + query * CELL + 2.0, CELL - 4.0, CELL - 4.0, colour);
}

/* A map with its upper left corner, labels included, at (x, y). */
static void draw_map(FILE *file, double x, double y, const char *title, const float *probabilities,
                     const struct sentence *sentence) {
    double left = x + LABEL, top = y + LABEL;
    svg_text(file, "title", "start", left, y - 4.0, "%s", title);
    for (int i = 0; i < TOKENS; i++) {
        const char *word = word_names[sentence->tokens[i].word];
        double middle = (i + 0.5) * CELL + 3.5;
        svg_text(file, "tick", "end", left - 5.0, top + middle, "%s", word);
        fprintf(file, "<text class=\"tick\" transform=\"translate(%.1f %.1f) rotate(-90)\">%s</text>\n", left + middle,
                top - 5.0, word);
    }
    svg_shares(file, left, top, CELL, TOKENS, TOKENS, probabilities);
    for (int i = 0; i < TOKENS; i++) {
        draw_partner(file, left, top, i, sentence->same_role[i], series_colours[1]);
        draw_partner(file, left, top, i, sentence->same_number[i], series_colours[2]);
    }
}

static void draw_legend(FILE *file, double x, double y) {
    svg_shares_legend(file, x, y, 200.0);
    for (int i = 0; i < 2; i++) {
        double at = x + 250.0 + 210.0 * i;
        draw_partner(file, at, y - 4.0, 0, 0, series_colours[1 + i]);
        svg_text(file, "note", "start", at + CELL + 5.0, y + 10.0, "the word of the same %s",
                 i == 0 ? "role" : "number");
    }
}

static void draw_sentence(FILE *file, const struct sentence *sentence, double y) {
    for (int clause = 0; clause < 2; clause++) {
        fprintf(file, "<text class=\"sentence\" x=\"%.1f\" y=\"%.1f\">", LEFT, y + 20.0 * clause);
        for (int i = clause * CLAUSE; i < (clause + 1) * CLAUSE; i++) {
            struct token token = sentence->tokens[i];
            fprintf(file, "%s%s (%s, %s)",
                    i % CLAUSE ? ",  "
                    : clause   ? "Second clause: "
                               : "First clause: ",
                    word_names[token.word], role_names[token.role], number_names[token.number]);
        }
        fputs("</text>\n", file);
    }
}

void draw_heads(const char *path, const struct study *study) {
    static const int shown[] = {RAW, ONE_HEAD, TWO_HEADS, FOUR_HEADS};
    static const char *const names[] = {"raw", "one head", "two heads", "four heads"};
    const struct sentence *sentence = &study->test[0];
    FILE *file = open_svg(path, 2.0 * LEFT + 4.0 * PANEL + 3.0 * GAP_X, TOP + 2.0 * PANEL + GAP_Y + 68.0);
    svg_text(file, "heading", "start", LEFT, 38.0, "What every head attends to");
    draw_sentence(file, sentence, 60.0);
    int place = 0;
    for (int i = 0; i < 4; i++) {
        float probabilities[MAX_HEADS * TOKENS * TOKENS];
        const struct outcome *outcome = &study->outcomes[shown[i]];
        look_at_heads(&outcome->model, study->test_x[0][0], probabilities);
        int heads = shown[i] == RAW ? 1 : outcome->model.design->num_heads; /* the second is the first once more */
        for (int head = 0; head < heads; head++, place++) {
            char title[40];
            if (shown[i] == RAW)
                snprintf(title, sizeof title, "raw, every head");
            else if (heads == 1)
                snprintf(title, sizeof title, "one head");
            else
                snprintf(title, sizeof title, "%s: head %d", names[i], head + 1);
            draw_map(file, LEFT + place % 4 * (PANEL + GAP_X), TOP + place / 4 * (PANEL + GAP_Y), title,
                     probabilities + head * TOKENS * TOKENS, sentence);
        }
    }
    draw_legend(file, LEFT + LABEL, TOP + 2.0 * PANEL + GAP_Y + 26.0);
    close_svg(file, path);
}
