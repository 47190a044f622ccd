/* Tokens in the plane, as embeddings and as the keys of each head. The colour of a token is its role, its shape is its
 * number, in every panel.  SPDX-License-Identifier: MIT */
#include "pictures.h"

#include "svg.h"

#include <math.h>
#include <string.h>

#define SIDE 280.0
#define LEFT 28.0
#define TOP 112.0
#define GAP 22.0

/* A mark of about 7 by 7 around the current point of a path: circle, square, triangle, diamond for one … many. */
static const char *const marks[NUM_NUMBERS] = {"m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0z",
                                               "m-2.8 -2.8h5.6v5.6h-5.6z", "m0 -3.6l3.5 6.2h-7z",
                                               "m0 -4l4 4l-4 4l-4 -4z"};

/* From the plane of one space to the panel with its upper left corner at (x, y). */
struct view {
    double x, y, scale, middle[2];
};

static struct view view_of(const struct latent *latent, int space, double x, double y) {
    double low[2] = {1e30, 1e30}, high[2] = {-1e30, -1e30};
    for (int i = 0; i < NUM_POINTS; i++)
        for (int axis = 0; axis < 2; axis++) {
            double at = latent->plane[space][i][axis];
            low[axis] = at < low[axis] ? at : low[axis];
            high[axis] = at > high[axis] ? at : high[axis];
        }
    double width = high[0] - low[0], height = high[1] - low[1], widest = width > height ? width : height;
    return (struct view){
        x, y, widest > 0.0 ? (SIDE - 50.0) / widest : 1.0, {0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1])}};
}

static void place(const struct view *view, const double *at, double *x, double *y) {
    *x = view->x + SIDE / 2.0 + view->scale * (at[0] - view->middle[0]);
    *y = view->y + SIDE / 2.0 - view->scale * (at[1] - view->middle[1]);
}

static void draw_marks(FILE *file, const struct latent *latent, int space, const struct view *view) {
    for (int role = 0; role < NUM_ROLES; role++)
        for (int number = 0; number < NUM_NUMBERS; number++) {
            fprintf(file, "<path fill=\"%s\" fill-opacity=\"0.55\" d=\"", series_colours[role]);
            for (int word = 0; word < NUM_WORDS; word++) {
                double x, y;
                place(view, latent->plane[space][point_of(word, role, number)], &x, &y);
                fprintf(file, "M%.1f %.1f%s", x, y, marks[number]);
            }
            fputs("\"/>\n", file);
        }
}

/* Text on a white edge, so that it can be read on top of marks. */
static void draw_label(FILE *file, const char *class_name, const char *anchor, double x, double y, const char *text) {
    fputs("<g stroke=\"#ffffff\" stroke-width=\"3.5\" stroke-linejoin=\"round\">", file);
    svg_text(file, class_name, anchor, x, y, "%s", text);
    fputs("</g>", file);
    svg_text(file, class_name, anchor, x, y, "%s", text);
}

struct name {
    double x, y, half; /* its middle, half its width */
};

/* Not on a token or one of the names that are there, nor outside the frame. */
static int is_free(const struct latent *latent, int space, const struct view *view, const struct name *names, int count,
                   double x, double y, double half) {
    const double height = 7.0;
    for (int i = 0; i < count; i++)
        if (fabs(names[i].x - x) < names[i].half + half && fabs(names[i].y - y) < 2.0 * height)
            return 0;
    if (x - half < view->x || x + half > view->x + SIDE || y - height < view->y || y + height > view->y + SIDE)
        return 0;
    for (int i = 0; i < NUM_POINTS; i++) {
        double px, py;
        place(view, latent->plane[space][i], &px, &py);
        if (fabs(px - x) < half + 3.0 && fabs(py - y) < height)
            return 0;
    }
    return 1;
}

/* What the tokens of a cluster have in common: below it, or where there is room. */
static void draw_names(FILE *file, const struct latent *latent, int space, const struct view *view) {
    static const char *const *const names[NUM_SPACES] = {topic_names, role_names, number_names};
    struct name placed[4];
    for (int group = 0; group < 4; group++) {
        double low[2] = {1e30, 1e30}, high[2] = {-1e30, -1e30}, sum[2] = {0.0, 0.0};
        int count = 0;
        for (int i = 0; i < NUM_POINTS; i++) {
            struct token token = latent->tokens[i];
            int of[NUM_SPACES] = {topic_of(token.word), token.role, token.number};
            double at[2];
            if (of[space] != group)
                continue;
            place(view, latent->plane[space][i], &at[0], &at[1]);
            for (int axis = 0; axis < 2; axis++) {
                sum[axis] += at[axis];
                low[axis] = at[axis] < low[axis] ? at[axis] : low[axis];
                high[axis] = at[axis] > high[axis] ? at[axis] : high[axis];
            }
            count++;
        }
        const char *name = names[space][group];
        double half = 3.6 * (double)strlen(name), aside = half + 9.0;
        double x = sum[0] / count, y = sum[1] / count;
        const double spots[][2] = {{x, high[1] + 14.0}, {x, low[1] - 12.0},        {high[0] + aside, y},
                                   {low[0] - aside, y}, {high[0] + aside, low[1]}, {low[0] - aside, high[1]}};
        size_t spot = 0, num_spots = sizeof spots / sizeof spots[0];
        while (spot < num_spots && !is_free(latent, space, view, placed, group, spots[spot][0], spots[spot][1], half))
            spot++;
        spot = spot < num_spots ? spot : 0;
        placed[group] = (struct name){spots[spot][0], spots[spot][1], half};
        draw_label(file, "note", "middle", spots[spot][0], spots[spot][1] + 4.0, name);
    }
}

/* The tokens that the story follows, ringed and joined by a line. */
static void draw_pair(FILE *file, const struct latent *latent, int space, const struct view *view) {
    enum { DOG = 0, CAT = 1, SUBJECT = 0, OBJECT = 1, ONE = 0 };
    static const char *const names[] = {"dog", "cat"};
    int points[] = {point_of(DOG, SUBJECT, ONE), point_of(CAT, OBJECT, ONE)};
    double x[2], y[2];
    for (int i = 0; i < 2; i++)
        place(view, latent->plane[space][points[i]], &x[i], &y[i]);
    fprintf(file,
            "<path stroke=\"#1b2436\" stroke-width=\"1.2\" stroke-dasharray=\"3 2\" "
            "d=\"M%.1f %.1fL%.1f %.1f\"/>\n",
            x[0], y[0], x[1], y[1]);
    for (int i = 0; i < 2; i++) {
        fprintf(file,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"6\" fill=\"none\" stroke=\"#1b2436\" "
                "stroke-width=\"1.6\"/>\n",
                x[i], y[i]);
        int is_left = x[i] < x[1 - i] || (x[i] == x[1 - i] && i == 0);
        draw_label(file, "title", is_left ? "end" : "start", is_left ? x[i] - 10.0 : x[i] + 10.0, y[i] + 4.5, names[i]);
    }
}

static void draw_panel(FILE *file, const struct latent *latent, int space, int column, const char *title,
                       const char *note) {
    struct view view = view_of(latent, space, LEFT + column * (SIDE + GAP), TOP);
    svg_text(file, "title", "start", view.x, TOP - 10.0, "%s", title);
    fprintf(file, "<rect class=\"frame\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", view.x, view.y,
            SIDE, SIDE);
    draw_marks(file, latent, space, &view);
    draw_names(file, latent, space, &view);
    draw_pair(file, latent, space, &view);
    svg_text(file, "note", "start", view.x, TOP + SIDE + 18.0, "%s", note);
    svg_text(file, "tick", "start", view.x, TOP + SIDE + 33.0, "the plane shows %.0f %% of the variance",
             100.0 * latent->share[space]);
}

static void draw_key(FILE *file, double y) {
    double x = LEFT;
    for (int i = 0; i < NUM_ROLES; i++, x += 74.0) {
        fprintf(file, "<rect x=\"%.1f\" y=\"%.1f\" width=\"12\" height=\"12\" fill=\"%s\" fill-opacity=\"0.7\"/>\n", x,
                y - 10.0, series_colours[i]);
        svg_text(file, "note", "start", x + 18.0, y, "%s", role_names[i]);
    }
    x += 30.0;
    for (int i = 0; i < NUM_NUMBERS; i++, x += 58.0) {
        fprintf(file, "<path fill=\"#4a5568\" d=\"M%.1f %.1f%s\"/>\n", x, y - 4.0, marks[i]);
        svg_text(file, "note", "start", x + 11.0, y, "%s", number_names[i]);
    }
}

void draw_latent(const char *path, const struct latent *latent) {
    char titles[NUM_SPACES][40];
    static const char *const notes[NUM_SPACES] = {"Close together: words of one topic.",
                                                  "Close together: words of one role.",
                                                  "Close together: words of one number."};
    snprintf(titles[EMBEDDINGS], sizeof titles[0], "embeddings");
    snprintf(titles[ROLE_KEYS], sizeof titles[0], "keys of head %d", latent->role_head + 1);
    snprintf(titles[NUMBER_KEYS], sizeof titles[0], "keys of head %d", latent->number_head + 1);
    FILE *file = open_svg(path, 2.0 * LEFT + NUM_SPACES * SIDE + (NUM_SPACES - 1) * GAP, TOP + SIDE + 86.0);
    svg_text(file, "heading", "start", LEFT, 38.0, "The same 256 tokens in three spaces");
    svg_text(file, "sentence", "start", LEFT, 60.0,
             "Every head compares tokens in a space of its own: neighbours as embeddings can be far apart there.");
    int number_first = latent->number_head < latent->role_head; /* heads in order */
    const int column[NUM_SPACES] = {0, number_first ? 2 : 1, number_first ? 1 : 2};
    for (int space = 0; space < NUM_SPACES; space++)
        draw_panel(file, latent, space, column[space], titles[space], notes[space]);
    draw_key(file, TOP + SIDE + 66.0);
    svg_text(file, "note", "end", 2.0 * LEFT + NUM_SPACES * SIDE + (NUM_SPACES - 1) * GAP - LEFT, TOP + SIDE + 66.0,
             "ringed: dog (subject, one) and cat (object, one)");
    close_svg(file, path);
}
