/* Curves over the steps of training: of the toy and of the designs.  SPDX-License-Identifier: MIT */
#include "pictures.h"

#include "svg.h"

const char *const series_colours[NUM_SERIES] = {"#0072b2", "#d55e00", "#009e73", "#b35a94"};

/* A rectangle for curves: x counts steps, y from 0 to `top`. */
struct chart {
    double x, y, width, height, top;
    int steps;
};

static double place_x(const struct chart *chart, double step) {
    return chart->x + chart->width * step / chart->steps;
}

static double place_y(const struct chart *chart, double value) {
    return chart->y + chart->height * (1.0 - (value > chart->top ? chart->top : value) / chart->top);
}

static void draw_axes(FILE *file, const struct chart *chart, int step_tick, double tick, const char *title) {
    svg_text(file, "title", "start", chart->x, chart->y - 10.0, "%s", title);
    for (int i = 0; (double)i * tick <= chart->top * 1.0001; i++) {
        double y = place_y(chart, i * tick);
        fprintf(file, "<path class=\"frame\" d=\"M%.1f %.1fh%.1f\"/>\n", chart->x, y, chart->width);
        svg_text(file, "tick", "end", chart->x - 6.0, y + 3.5, "%.4g", i * tick);
    }
    for (int step = 0; step <= chart->steps; step += step_tick)
        svg_text(file, "tick", "middle", place_x(chart, step), chart->y + chart->height + 16.0, "%d", step);
    svg_text(file, "tick", "middle", chart->x + 0.5 * chart->width, chart->y + chart->height + 31.0,
             "steps of training");
}

static void begin_curve(FILE *file, const char *colour, int dashed) {
    fprintf(file, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\"%s d=\"", colour,
            dashed ? " stroke-dasharray=\"6 4\"" : "");
}

static void draw_point(FILE *file, const struct chart *chart, double step, double value, int first) {
    fprintf(file, "%c%.1f %.1f", first ? 'M' : 'L', place_x(chart, step), place_y(chart, value));
}

/* ------------------------------------------------------------------------------------------------- the toy */

/* Two keys without their mean, as softmax sees them, from −3.75 to 3.75 across. */
static void draw_keys(FILE *file, double x, double y, const float keys[2][2], const char *title) {
    enum { UNIT = 44, WIDTH = 330, HEIGHT = 92 };
    static const char *const names[] = {"dog", "cat"};
    double middle_x = x + WIDTH / 2.0, middle_y = y + HEIGHT / 2.0;
    svg_text(file, "title", "start", x, y - 10.0, "%s", title);
    fprintf(file, "<rect class=\"frame\" x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\"/>\n", x, y, WIDTH, HEIGHT);
    fprintf(file, "<path class=\"frame\" d=\"M%.1f %.1fh%dM%.1f %.1fv%d\"/>\n", x, middle_y, WIDTH, middle_x, y,
            HEIGHT);
    for (int i = 0; i < 2; i++) {
        double cx = middle_x + UNIT * 0.5 * ((double)keys[i][0] - (double)keys[1 - i][0]);
        double cy = middle_y - UNIT * 0.5 * ((double)keys[i][1] - (double)keys[1 - i][1]);
        fprintf(file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\" fill-opacity=\"0.8\"/>\n", cx, cy,
                series_colours[i]);
        svg_text(file, "note", "middle", cx, cy + (i == 0 ? -12.0 : 21.0), "%s", names[i]);
    }
    svg_text(file, "tick", "end", x + WIDTH - 5.0, y + HEIGHT - 6.0, "q asks along this axis →");
}

void draw_toy(const char *path, const struct toy_result *toy) {
    const struct chart chart = {430.0, 112.0, 380.0, 246.0, 1.0, toy->num_steps};
    FILE *file = open_svg(path, 850.0, 420.0);
    svg_text(file, "heading", "start", 28.0, 38.0, "Learned keys tell dog and cat apart");
    svg_text(file, "sentence", "start", 28.0, 60.0,
             "dog = (1, 1), cat = (1, 0.9), and q = (1, 0) asks who the subject is. Only Wk is learned.");
    draw_keys(file, 28.0, 112.0, toy->raw_keys, "raw keys, minus their mean");
    draw_keys(file, 28.0, 266.0, toy->learned_keys, "learned keys, on the same scale");
    int tick = toy->num_steps > 2000 ? 1000 : 100;
    draw_axes(file, &chart, tick, 0.25, "share of the attention");
    for (int word = 0; word < 2; word++) {
        begin_curve(file, series_colours[word], 0);
        for (int step = 0; step <= toy->num_steps; step += step < 200 ? 4 : 50) {
            double dog = (double)toy->curve[step];
            draw_point(file, &chart, step, word == 0 ? dog : 1.0 - dog, step == 0);
        }
        fputs("\"/>\n", file);
    }
    svg_text(file, "note", "end", chart.x + chart.width - 4.0, place_y(&chart, 0.92), "dog: %.3f",
             (double)toy->curve[toy->num_steps]);
    svg_text(file, "note", "end", chart.x + chart.width - 4.0, place_y(&chart, 0.045), "cat: %.3f",
             1.0 - (double)toy->curve[toy->num_steps]);
    close_svg(file, path);
}

/* ---------------------------------------------------------------------------------------------- the designs */

struct series {
    int design, colour, dashed;
};

static void draw_series(FILE *file, const struct chart *chart, const struct study *study, const struct series *series,
                        int count) {
    for (int i = 0; i < count; i++) {
        const struct outcome *outcome = &study->outcomes[series[i].design];
        double y = chart->y + chart->height + 58.0 + 20.0 * i;
        begin_curve(file, series_colours[series[i].colour], series[i].dashed);
        for (int point = 0; point < LOSS_POINTS; point++)
            draw_point(file, chart, (point + 0.5) * chart->steps / LOSS_POINTS, outcome->loss[point], point == 0);
        fputs("\"/>\n", file);
        begin_curve(file, series_colours[series[i].colour], series[i].dashed);
        fprintf(file, "M%.1f %.1fh32\"/>\n", chart->x, y - 4.0);
        svg_text(file, "note", "start", chart->x + 42.0, y, "%s (%d × %d)", outcome->model.design->name,
                 outcome->model.design->num_heads, outcome->model.design->head_dim);
        svg_text(file, "note", "end", chart->x + chart->width, y, "%.1f %% right", 100.0 * outcome->both);
    }
}

void draw_curves(const char *path, const struct study *study, int steps) {
    static const struct series left[] = {
        {RAW, 1, 0}, {RAW_SELF_HIDDEN, 1, 1}, {ONE_HEAD, 3, 0}, {TWO_HEADS, 0, 0}, {FOUR_HEADS, 2, 0}};
    static const struct series right[] = {{FOUR_WITHOUT_WQ, 0, 0},  {FOUR_WITHOUT_WK, 1, 0}, {FOUR_WITHOUT_WV, 2, 0},
                                          {WIDE_WITHOUT_WQ, 0, 1},  {WIDE_WITHOUT_WK, 1, 1}, {WIDE_WITHOUT_WV, 2, 1},
                                          {WIDE_WITHOUT_BOTH, 3, 1}};
    const struct chart first = {60.0, 108.0, 370.0, 250.0, 2.5, steps};
    struct chart second = first;
    second.x += first.width + 60.0;
    FILE *file = open_svg(path, 888.0, 572.0);
    svg_text(file, "heading", "start", 28.0, 38.0, "What a layer needs to learn two views at once");
    svg_text(file, "sentence", "start", 28.0, 60.0,
             "Squared error of an answer while training, and how many answers of the test are right in both halves.");
    draw_axes(file, &first, steps / 4, 0.5, "raw, one head, several heads");
    draw_axes(file, &second, steps / 4, 0.5, "one of the matrices taken away");
    draw_series(file, &first, study, left, sizeof left / sizeof left[0]);
    draw_series(file, &second, study, right, sizeof right / sizeof right[0]);
    close_svg(file, path);
}
