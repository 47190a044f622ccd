/* Products by the matrices of chosen experts (MUL_MAT_ID) by ggml and by qkv, in turns, in the shapes of two models.
 *
 *   ggml_experts libggml-qkv.so THREADS ROUNDS
 *
 * ggml's weights are where its hosts put them: repacked, if it has that for the type and CPU. Each step has other
 * experts than the one before. Printed are medians, and the median of the ratios of each round.
 *
 * SPDX-License-Identifier: MIT */
#include "../../adapters/ggml/choice_of_ggml.h"
#include "../../tests/ggml/host.h"

#include <ggml.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_ROUNDS = 64, ROWS = 64, STEPS = 16 /* of one row, in a round */ };

struct model {
    const char *name;
    int64_t in, out, experts, chosen;
};

static const struct model models[] = {
    {"Mixtral", 4096, 14336, 8, 2},
    {"OLMoE", 2048, 1024, 64, 8},
};
static const enum ggml_type types[] = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_K, GGML_TYPE_Q8_0};

/* One side's weights and its products by one token and by many. */
struct side {
    struct ggml_context *of_weights, *of_rest;
    ggml_backend_buffer_t weights_buffer, rest_buffer;
    struct ggml_tensor *weights, *op[2];
    struct ggml_cgraph *graph[2];
};

static void *need(void *memory) {
    if (!memory) {
        fprintf(stderr, "ggml_experts: out of memory\n");
        exit(1);
    }
    return memory;
}

static void fill(float *numbers, int64_t n) {
    uint64_t seed = 1;
    for (int64_t i = 0; i < n; i++)
        numbers[i] = (float)(below(&seed, 1 << 20) - (1 << 19)) * 0x1p-19f;
}

static struct side open_side(struct host *host, const struct model *m, enum ggml_type type, bool by_qkv) {
    const struct ggml_init_params room = {.mem_size = 1 << 20, .no_alloc = true};
    struct side s = {.of_weights = need(ggml_init(room)), .of_rest = need(ggml_init(room))};
    s.weights = ggml_new_tensor_3d(s.of_weights, type, m->in, m->out, m->experts);
    for (int i = 0; i < 2; i++) {
        const int64_t rows = i ? ROWS : 1;
        struct ggml_tensor *x = ggml_new_tensor_3d(s.of_rest, GGML_TYPE_F32, m->in, 1, rows);
        struct ggml_tensor *ids = ggml_new_tensor_2d(s.of_rest, GGML_TYPE_I32, m->chosen, rows);
        s.op[i] = ggml_mul_mat_id(s.of_rest, s.weights, x, ids);
        s.graph[i] = ggml_new_graph_custom(s.of_rest, 8, false);
        ggml_build_forward_expand(s.graph[i], s.op[i]);
    }
    ggml_backend_buffer_type_t where = by_qkv ? ggml_backend_dev_buffer_type(host->device)
                                              : choice_of_ggml(ggml_backend_get_device(host->cpu), s.weights, s.op[1]);
    s.weights_buffer = need(ggml_backend_alloc_ctx_tensors_from_buft(s.of_weights, where));
    ggml_backend_buffer_set_usage(s.weights_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    s.rest_buffer = need(ggml_backend_alloc_ctx_tensors(s.of_rest, host->cpu));
    const size_t row = ggml_row_size(type, m->in), all = ggml_nbytes(s.weights);
    float *numbers = need(malloc((size_t)m->in * sizeof *numbers));
    char *blocks = need(malloc(all));
    fill(numbers, m->in);
    ggml_quantize_chunk(type, numbers, blocks, 0, 1, m->in, NULL); /* which can be slow: one row is enough */
    for (size_t at = row; at < all; at += row)
        memcpy(blocks + at, blocks, row);
    ggml_backend_tensor_set(s.weights, blocks, 0, all);
    free(blocks);
    free(numbers);
    for (int i = 0; i < 2; i++)
        fill(s.op[i]->src[1]->data, ggml_nelements(s.op[i]->src[1]));
    return s;
}

static void close_side(struct side *s) {
    ggml_backend_buffer_free(s->weights_buffer);
    ggml_backend_buffer_free(s->rest_buffer);
    ggml_free(s->of_weights);
    ggml_free(s->of_rest);
}

/* A token's experts are different ones: 3 divides no power of two. */
static void choose(struct ggml_tensor *ids, int64_t experts, uint64_t seed) {
    for (int64_t t = 0; t < ids->ne[1]; t++) {
        const int64_t first = below(&seed, experts);
        for (int64_t i = 0; i < ids->ne[0]; i++)
            ((int32_t *)ids->data)[t * ids->ne[0] + i] = (int32_t)((first + 3 * i) % experts);
    }
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds_of(ggml_backend_t backend, struct side *s, int many, int64_t experts, uint64_t seed) {
    const int steps = many ? 1 : STEPS;
    double seconds = 0;
    for (int step = 0; step < steps; step++) {
        choose(s->op[many]->src[2], experts, seed + (uint64_t)step);
        const double begin = seconds_now();
        if (ggml_backend_graph_compute(backend, s->graph[many]) != GGML_STATUS_SUCCESS) {
            fprintf(stderr, "ggml_experts: %s could not compute it\n", ggml_backend_name(backend));
            exit(1);
        }
        seconds += seconds_now() - begin;
    }
    return seconds / steps;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *of, int n) {
    qsort(of, (size_t)n, sizeof *of, ascending);
    return of[n / 2];
}

int main(int argc, char **argv) {
    struct host host;
    const int threads = argc == 4 ? atoi(argv[2]) : 0, rounds = argc == 4 ? atoi(argv[3]) : 0;
    if (threads < 1 || rounds < 1 || rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: ggml_experts libggml-qkv.so THREADS ROUNDS\n");
        return 2;
    }
    if (!open_host(&host, BACKENDS, argv[1], 1)) return 1;
    host.set_threads(host.qkv, threads);
    threads_function(host.cpu)(host.cpu, threads);
    printf("%d threads, %d rounds in turns\n%-8s %-5s %-20s %5s %10s %10s %6s\n", threads, rounds, "", "type",
           "ggml's weights", "rows", "ggml ms", "qkv ms", "ratio");
    for (size_t m = 0; m < sizeof models / sizeof *models; m++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            struct side ggml = open_side(&host, &models[m], types[t], false);
            struct side qkv = open_side(&host, &models[m], types[t], true);
            for (int many = 0; many < 2; many++) {
                double of_ggml[MOST_ROUNDS], of_qkv[MOST_ROUNDS], ratio[MOST_ROUNDS];
                for (int r = -1; r < rounds; r++) { /* the first round takes memory */
                    const uint64_t seed = (uint64_t)(r + 2) << 32;
                    const double a = seconds_of(host.cpu, &ggml, many, models[m].experts, seed);
                    const double b = seconds_of(host.qkv, &qkv, many, models[m].experts, seed);
                    if (r >= 0) of_ggml[r] = a, of_qkv[r] = b, ratio[r] = a / b;
                }
                printf("%-8s %-5s %-20s %5d %10.3f %10.3f %6.2f\n", models[m].name, ggml_type_name(types[t]),
                       ggml_backend_buffer_name(ggml.weights_buffer), many ? ROWS : 1, 1e3 * median(of_ggml, rounds),
                       1e3 * median(of_qkv, rounds), median(ratio, rounds));
                fflush(stdout);
            }
            close_side(&ggml);
            close_side(&qkv);
        }
    ggml_backend_free(host.qkv);
    ggml_backend_free(host.cpu);
    return 0;
}
