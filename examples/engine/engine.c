/* The loop of a small inference engine, and three attentions that it can call, to be read side by side:
 *
 *   attention_plain.c   plain loops, as the engine had them
 *   attention_qkv.c     those replaced by one call over the engine's own cache
 *   layer_qkv.c         the whole attention block replaced, projections, RoPE and cache included
 *
 * All three must give the same tokens; what is printed is how fast they come, and how long attention blocks take.
 * Weights and the tokens before are drawn at random, with a fixed seed.  SPDX-License-Identifier: MIT */
#include "engine.h"

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------------------------------------------- the engine */

static double seconds_in_attention;

static void rms_norm(float *out, const float *x, const float *weight) {
    float squares = 0;
    for (int i = 0; i < DIM; i++)
        squares += x[i] * x[i];
    const float scale = 1 / sqrtf(squares / DIM + 1e-5f);
    for (int i = 0; i < DIM; i++)
        out[i] = weight[i] * (x[i] * scale);
}

void matmul(const struct engine *engine, float *out, const float *w, const float *in, int num_out, int num_in) {
#pragma omp parallel for num_threads(engine->threads)
    for (int o = 0; o < num_out; o++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < num_in; i++)
            sum += w[o * num_in + i] * in[i];
        out[o] = sum;
    }
}

static void rope(const struct engine *engine, float *x, int num_channels, int position) {
    const float *cosines = engine->cosines + position * (HEAD_DIM / 2);
    const float *sines = engine->sines + position * (HEAD_DIM / 2);
    for (int i = 0; i < num_channels; i += 2) {
        const float a = x[i], b = x[i + 1], c = cosines[i % HEAD_DIM / 2], s = sines[i % HEAD_DIM / 2];
        x[i] = a * c - b * s;
        x[i + 1] = b * c + a * s;
    }
}

void project(struct engine *engine, struct layer *layer, int position) {
    float *k = layer->keys + position * KV_DIM, *v = layer->values + position * KV_DIM;
    matmul(engine, engine->q, layer->wq, engine->normed, DIM, DIM);
    matmul(engine, k, layer->wk, engine->normed, KV_DIM, DIM);
    matmul(engine, v, layer->wv, engine->normed, KV_DIM, DIM);
    rope(engine, engine->q, DIM, position);
    rope(engine, k, KV_DIM, position);
}

static void add(float *x, const float *y) {
    for (int i = 0; i < DIM; i++)
        x[i] += y[i];
}

/* The token after `token`, the likeliest. */
static int next_token(struct engine *e, attention_block *attention, int token, int position) {
    memcpy(e->x, e->embedding + token * DIM, sizeof e->x);
    for (int i = 0; i < LAYERS; i++) {
        const struct layer *layer = &e->layers[i];
        rms_norm(e->normed, e->x, layer->attention_norm);
        const double start = omp_get_wtime();
        attention(e, i, position);
        seconds_in_attention += omp_get_wtime() - start;
        add(e->x, e->added);

        rms_norm(e->normed, e->x, layer->mlp_norm);
        matmul(e, e->gate, layer->w_gate, e->normed, HIDDEN, DIM);
        matmul(e, e->up, layer->w_up, e->normed, HIDDEN, DIM);
        for (int c = 0; c < HIDDEN; c++)
            e->up[c] *= e->gate[c] / (1 + expf(-e->gate[c]));
        matmul(e, e->added, layer->w_down, e->up, DIM, HIDDEN);
        add(e->x, e->added);
    }
    rms_norm(e->normed, e->x, e->final_norm);
    matmul(e, e->logits, e->output, e->normed, VOCABULARY, DIM);
    int best = 0;
    for (int i = 1; i < VOCABULARY; i++)
        if (e->logits[i] > e->logits[best])
            best = i;
    return best;
}

/* -------------------------------------------------------------------------------------------------- random numbers */

static uint64_t state;

static float number(void) { /* about normal */
    float sum = -6;
    for (int i = 0; i < 12; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (float)(state >> 40) / (1 << 24);
    }
    return sum;
}

static float *numbers(int rows, int columns, float size) {
    float *x = allocate((size_t)rows * (size_t)columns * sizeof *x);
    for (int i = 0; i < rows * columns; i++)
        x[i] = size * number();
    return x;
}

static float *ones(void) {
    float *x = allocate(DIM * sizeof *x);
    for (int i = 0; i < DIM; i++)
        x[i] = 1;
    return x;
}

static void make_engine(struct engine *e) {
    const float size = 1 / sqrtf(DIM);
    e->embedding = numbers(VOCABULARY, DIM, 0.5f); /* small, so that tokens depend on those before */
    e->output = numbers(VOCABULARY, DIM, size);
    e->final_norm = ones();
    for (int i = 0; i < LAYERS; i++)
        e->layers[i] = (struct layer){.attention_norm = ones(),
                                      .mlp_norm = ones(),
                                      .wq = numbers(DIM, DIM, 2 * size),
                                      .wk = numbers(KV_DIM, DIM, 2 * size), /* so that some keys stand out */
                                      .wv = numbers(KV_DIM, DIM, size),
                                      .wo = numbers(DIM, DIM, 2 * size),
                                      .w_gate = numbers(HIDDEN, DIM, size),
                                      .w_up = numbers(HIDDEN, DIM, size),
                                      .w_down = numbers(DIM, HIDDEN, 1 / sqrtf(HIDDEN)),
                                      .keys = allocate(MAX_TOKENS * KV_DIM * sizeof(float)),
                                      .values = allocate(MAX_TOKENS * KV_DIM * sizeof(float))};
    e->cosines = allocate(MAX_TOKENS * (HEAD_DIM / 2) * sizeof(float));
    e->sines = allocate(MAX_TOKENS * (HEAD_DIM / 2) * sizeof(float));
    for (int p = 0; p < MAX_TOKENS; p++)
        for (int i = 0; i < HEAD_DIM / 2; i++) {
            const double angle = p * pow(10000, -2.0 * i / HEAD_DIM);
            e->cosines[p * (HEAD_DIM / 2) + i] = (float)cos(angle);
            e->sines[p * (HEAD_DIM / 2) + i] = (float)sin(angle);
        }
}

/* Keys and values in place of those that so many tokens of a prompt would have left. */
static void fill_cache(struct engine *e, int tokens) {
    state = 1;
    for (int i = 0; i < LAYERS; i++)
        for (int c = 0; c < tokens * KV_DIM; c++) {
            e->layers[i].keys[c] = 2 * number();
            e->layers[i].values[c] = number();
        }
}

/* ------------------------------------------------------------------------------------------------------ the program */

enum { TOKENS = 8, RUNS = 7, ATTENTIONS = 3 };

void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!memory)
        exit(fprintf(stderr, "engine: out of memory\n"));
    return memory;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

/* The argument, if any, is the number of runs, 1 … 7. */
int main(int argc, char **argv) {
    const int runs = argc > 1 && atoi(argv[1]) > 0 && atoi(argv[1]) < RUNS ? atoi(argv[1]) : RUNS;
    static attention_block *const attentions[ATTENTIONS] = {plain_attention, qkv_attention, qkv_layer};
    static const int depths[] = {64, 256, 1024, 4096}, columns[ATTENTIONS] = {8, 14, 10};
    static struct engine engine;
    int same = 0, other = 0;
    make_engine(&engine);
    printf("                   tokens a second, whole engine    µs a token in attention blocks\n"
           "threads   depth    plain  qkv attention  qkv layer    plain  qkv attention  qkv layer\n");
    for (engine.threads = 1; engine.threads <= 2; engine.threads++) {
        start_qkv_attention(&engine);
        start_qkv_layer(&engine);
        for (int d = 0; d < 4; d++) {
            double whole[ATTENTIONS][RUNS], blocks[ATTENTIONS][RUNS];
            int tokens[ATTENTIONS][TOKENS + 1];
            fill_cache(&engine, depths[d]);
            for (int run = 0; run < runs; run++)
                for (int a = 0; a < ATTENTIONS; a++) {  /* in turns */
                    fill_qkv_cache(&engine, depths[d]); /* without what the run before appended */
                    tokens[a][0] = 1;
                    seconds_in_attention = 0;
                    const double start = omp_get_wtime();
                    for (int t = 0; t < TOKENS; t++)
                        tokens[a][t + 1] = next_token(&engine, attentions[a], tokens[a][t], depths[d] + t);
                    whole[a][run] = omp_get_wtime() - start;
                    blocks[a][run] = seconds_in_attention;
                    for (int t = 1; t <= TOKENS; t++)
                        *(tokens[a][t] == tokens[0][t] ? &same : &other) += a > 0;
                }
            printf("%7d %7d", engine.threads, depths[d]);
            for (int a = 0; a < ATTENTIONS; a++)
                printf(" %*.0f", columns[a], TOKENS / median(whole[a], runs));
            for (int a = 0; a < ATTENTIONS; a++)
                printf(" %*.0f", columns[a], 1e6 / TOKENS * median(blocks[a], runs));
            printf("\n");
            fflush(stdout);
        }
    }
    printf("Medians of %d runs in turns. Tokens: %d of %d are those of the plain loops.\n", runs, same, same + other);
    return other != 0;
}
