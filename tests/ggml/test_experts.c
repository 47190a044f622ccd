/* MUL_MAT_ID of libggml-qkv.so inside a ggml, rows by the matrices of experts that they chose: what it claims, to what
 * error it computes, and that its buffers give back what was written.
 *
 *   test_experts FOLDER_OF_BACKENDS libggml-qkv.so
 *
 * SPDX-License-Identifier: MIT */
#include "host.h"

#include <ggml-alloc.h>
#include <ggml.h>
#include <math.h>
#include <stdlib.h>

static const enum ggml_type types[] = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1,
                                       GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K};
enum { NUM_TYPES = sizeof types / sizeof *types, DRAWN = 12 /* shapes of each */ };

static struct host host;
static uint64_t seed = 1;

/* ---------------------------------------------------------------------------------------------------------- an op */

struct shape {
    enum ggml_type type;
    int64_t in, out, experts, used, tokens;
    int64_t rows; /* of x for a token: as many as are used, or fewer that repeat */
    int64_t gap;  /* behind each row of x, and of the experts that are chosen */
};

struct drawn {
    struct shape shape;
    struct ggml_context *of_weights, *of_rest;
    ggml_backend_buffer_t weights_buffer, rest_buffer;
    struct ggml_tensor *weights, *x, *ids, *op;
    struct ggml_cgraph *graph;
    char *blocks; /* of the weights, as ggml has them */
};

static void fill(struct ggml_tensor *t) {
    for (int64_t i = 0; i < ggml_nelements(t); i++)
        ((float *)t->data)[i] = (float)(below(&seed, 1 << 20) - (1 << 19)) * 0x1p-19f;
}

/* Each token's experts, all of them different. */
static void choose(struct drawn *d) {
    int32_t order[64];
    for (int32_t e = 0; e < d->shape.experts; e++)
        order[e] = e;
    for (int64_t t = 0; t < d->shape.tokens; t++)
        for (int64_t s = 0; s < d->shape.used; s++) {
            const int64_t other = s + below(&seed, d->shape.experts - s);
            const int32_t expert = order[other];
            order[other] = order[s];
            order[s] = expert;
            *(int32_t *)(void *)((char *)d->ids->data + t * (int64_t)d->ids->nb[1] + s * (int64_t)d->ids->nb[0]) =
                expert;
        }
}

/* Weights in the memory of a backend, the rest in the CPU's. */
static struct drawn make_op(ggml_backend_t where, const struct shape *s) {
    const struct ggml_init_params room = {.mem_size = 1 << 20, .no_alloc = true};
    struct drawn d = {.shape = *s, .of_weights = ggml_init(room), .of_rest = ggml_init(room)};
    d.weights = ggml_new_tensor_3d(d.of_weights, s->type, s->in, s->out, s->experts);
    struct ggml_tensor *all_x = ggml_new_tensor_3d(d.of_rest, GGML_TYPE_F32, s->in + s->gap, s->rows, s->tokens);
    struct ggml_tensor *all_ids = ggml_new_tensor_2d(d.of_rest, GGML_TYPE_I32, s->used + s->gap, s->tokens);
    d.x = ggml_view_3d(d.of_rest, all_x, s->in, s->rows, s->tokens, all_x->nb[1], all_x->nb[2], 0);
    d.ids = ggml_view_2d(d.of_rest, all_ids, s->used, s->tokens, all_ids->nb[1], 0);
    d.op = ggml_mul_mat_id(d.of_rest, d.weights, d.x, d.ids);
    d.graph = ggml_new_graph(d.of_rest);
    ggml_build_forward_expand(d.graph, d.op);
    d.weights_buffer = ggml_backend_alloc_ctx_tensors(d.of_weights, where);
    ggml_backend_buffer_set_usage(d.weights_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    d.rest_buffer = ggml_backend_alloc_ctx_tensors(d.of_rest, host.cpu);
    d.blocks = malloc(ggml_nbytes(d.weights));
    const int64_t rows = s->out * s->experts;
    float *numbers = malloc((size_t)(rows * s->in) * sizeof *numbers);
    for (int64_t i = 0; i < rows * s->in; i++)
        numbers[i] = (float)(below(&seed, 1 << 20) - (1 << 19)) * 0x1p-19f;
    ggml_quantize_chunk(s->type, numbers, d.blocks, 0, rows, s->in, NULL);
    free(numbers);
    ggml_backend_tensor_set(d.weights, d.blocks, 0, ggml_nbytes(d.weights));
    fill(all_x);
    choose(&d);
    return d;
}

static void free_op(struct drawn *d) {
    ggml_backend_buffer_free(d->weights_buffer);
    ggml_backend_buffer_free(d->rest_buffer);
    ggml_free(d->of_weights);
    ggml_free(d->of_rest);
    free(d->blocks);
}

static bool computed(struct drawn *d, ggml_backend_t backend) {
    memset(d->op->data, 0xff, ggml_nbytes(d->op)); /* NaN */
    return ggml_backend_graph_compute(backend, d->graph) == GGML_STATUS_SUCCESS;
}

static bool is_claimed(const struct ggml_tensor *op) {
    return ggml_backend_dev_supports_op(host.device, op);
}

static int32_t expert_of(const struct drawn *d, int64_t slot, int64_t token) {
    return *(const int32_t *)(const void *)((const char *)d->ids->data + token * (int64_t)d->ids->nb[1] +
                                            slot * (int64_t)d->ids->nb[0]);
}

static const float *row_of_x(const struct drawn *d, int64_t slot, int64_t token) {
    return (const float *)(const void *)((const char *)d->x->data + slot % d->x->ne[1] * (int64_t)d->x->nb[1] +
                                         token * (int64_t)d->x->nb[2]);
}

static const float *row_of_result(const struct drawn *d, int64_t slot, int64_t token) {
    return (const float *)d->op->data + (token * d->shape.used + slot) * d->shape.out;
}

/* The squares of what differs from the products in double, divided by those products'. */
static double error_of(const struct drawn *d) {
    const struct shape *s = &d->shape;
    float *row = malloc((size_t)s->in * sizeof *row);
    double errors = 0, squares = 0;
    for (int64_t e = 0; e < s->experts; e++)
        for (int64_t c = 0; c < s->out; c++) {
            const char *blocks = d->blocks + (e * s->out + c) * (int64_t)d->weights->nb[1];
            ggml_get_type_traits(s->type)->to_float(blocks, row, s->in);
            for (int64_t t = 0; t < s->tokens; t++)
                for (int64_t slot = 0; slot < s->used; slot++) {
                    if (expert_of(d, slot, t) != e)
                        continue;
                    const float *x = row_of_x(d, slot, t);
                    double exact = 0;
                    for (int64_t k = 0; k < s->in; k++)
                        exact += (double)x[k] * (double)row[k];
                    const double found = (double)row_of_result(d, slot, t)[c];
                    errors += (found - exact) * (found - exact);
                    squares += exact * exact;
                }
        }
    free(row);
    return errors / squares;
}

static struct shape draw_shape(enum ggml_type type, int n) {
    const int64_t block = ggml_blck_size(type);
    struct shape s = {.type = type,
                      .in = block * (1 + below(&seed, 512 / block)),
                      .out = 1 + below(&seed, 300),
                      .experts = 1 + below(&seed, 9),
                      .tokens = n % 3 == 0 ? 1 : 1 + below(&seed, n % 3 == 1 ? 9 : 150),
                      .gap = below(&seed, 2) * 8};
    s.used = 1 + below(&seed, s.experts);
    s.rows = below(&seed, 2) ? s.used : s.used % 2 == 0 && below(&seed, 2) ? s.used / 2 : 1;
    return s;
}

/* ------------------------------------------------------------------------------------------------------------ tests */

static void an_error_is_below_that_of_ggml(void) {
    int wrong = 0;
    printf("error (mean square, relative) of drawn products by experts:\n");
    for (int t = 0; t < NUM_TYPES; t++) {
        double mine = 0, of_ggml = 0;
        for (int n = 0; n < DRAWN; n++) {
            const struct shape s = draw_shape(types[t], n);
            const uint64_t begin = seed;
            struct drawn d = make_op(host.qkv, &s);
            seed = begin;
            struct drawn same = make_op(host.cpu, &s);
            const bool ok = is_claimed(d.op) && computed(&d, host.qkv) && computed(&same, host.cpu);
            const double error = error_of(&d), ggmls = error_of(&same);
            if (!ok || !(error < 5e-4)) {
                printf("error %.2e, ggml's %.2e: %s, in %d, out %d, %d of %d experts, tokens %d, rows %d\n", error,
                       ggmls, ggml_type_name(s.type), (int)s.in, (int)s.out, (int)s.used, (int)s.experts, (int)s.tokens,
                       (int)s.rows);
                wrong++;
            }
            mine += error / DRAWN;
            of_ggml += ggmls / DRAWN;
            free_op(&d);
            free_op(&same);
        }
        wrong += !(mine <= 1.05 * of_ggml); /* a single one may round either way */
        printf("  %-5s qkv %.2e  ggml %.2e\n", ggml_type_name(types[t]), mine, of_ggml);
    }
    check(&host, wrong == 0,
          "drawn products by experts: within 5e-4, and those of a type not further from the exact ones than ggml's");
}

/* More rows of an expert than are gathered at a time, more panels than a piece has. */
static struct shape large_shape(enum ggml_type type) {
    return (struct shape){.type = type, .in = 256, .out = 2500, .experts = 3, .used = 2, .tokens = 150, .rows = 1};
}

/* Each expert's product with all rows by MUL_MAT, of which a result has those that chose it. */
static void a_row_is_the_product_by_its_experts_matrix(void) {
    int different = 0;
    for (int t = 0; t < NUM_TYPES; t++) {
        struct shape s = large_shape(types[t]);
        struct drawn d = make_op(host.qkv, &s);
        different += !computed(&d, host.qkv);
        struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 1 << 20, .no_alloc = true});
        struct ggml_tensor *matrix = ggml_new_tensor_2d(context, s.type, s.in, s.out);
        ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(context, host.qkv);
        struct ggml_tensor *x = ggml_view_2d(context, d.x, s.in, s.tokens, d.x->nb[2], 0);
        struct ggml_tensor *op = ggml_mul_mat(context, matrix, x);
        struct ggml_cgraph *graph = ggml_new_graph(context);
        ggml_build_forward_expand(graph, op);
        ggml_backend_buffer_t of_rest = ggml_backend_alloc_ctx_tensors(context, host.cpu);
        for (int64_t e = 0; e < s.experts; e++) {
            ggml_backend_tensor_set(matrix, d.blocks + e * (int64_t)d.weights->nb[2], 0, ggml_nbytes(matrix));
            different += ggml_backend_graph_compute(host.qkv, graph) != GGML_STATUS_SUCCESS;
            for (int64_t i = 0; i < s.tokens * s.used; i++)
                if (expert_of(&d, i % s.used, i / s.used) == e)
                    different += memcmp((const float *)op->data + i / s.used * s.out,
                                        row_of_result(&d, i % s.used, i / s.used), (size_t)s.out * sizeof(float)) != 0;
        }
        ggml_backend_buffer_free(buffer);
        ggml_backend_buffer_free(of_rest);
        ggml_free(context);
        free_op(&d);
    }
    check(&host, different == 0, "a row has the bits of the product by the matrix of its expert");
}

static void what_is_written_is_read(void) {
    int wrong = 0;
    for (int t = 0; t < NUM_TYPES; t++) {
        const struct shape s = {
            .type = types[t], .in = 256, .out = 70, .experts = 3, .used = 1, .tokens = 1, .rows = 1};
        struct drawn d = make_op(host.qkv, &s);
        const size_t size = ggml_nbytes(d.weights), of_matrix = d.weights->nb[2];
        char *found = malloc(size);
        ggml_backend_tensor_get(d.weights, found, 0, size);
        wrong += memcmp(found, d.blocks, size) != 0;
        for (int n = 0; n < 20; n++) { /* any bytes, from any on, through the ends of matrices */
            const size_t offset = (size_t)below(&seed, (int64_t)size);
            const size_t some = 1 + (size_t)below(&seed, (int64_t)(size - offset));
            for (size_t i = 0; i < some; i++)
                d.blocks[offset + i] = (char)below(&seed, 256);
            ggml_backend_tensor_set(d.weights, d.blocks + offset, offset, some);
            ggml_backend_tensor_get(d.weights, found, 0, size);
            wrong += memcmp(found, d.blocks, size) != 0;
        }
        struct ggml_tensor *second = ggml_view_2d(d.of_rest, d.weights, s.in, s.out, d.weights->nb[1], of_matrix);
        ggml_backend_view_init(second);
        ggml_backend_tensor_get(second, found, 0, of_matrix);
        wrong += memcmp(found, d.blocks + of_matrix, of_matrix) != 0;
        free(found);
        free_op(&d);
    }
    check(&host, wrong == 0, "matrices of all types are read as they were written, in parts and by views too");
}

static void what_is_not_in_its_buffers_is_left_to_ggml(void) {
    struct shape s = {.type = GGML_TYPE_F16, .in = 256, .out = 64, .experts = 4, .used = 2, .tokens = 3, .rows = 2};
    struct drawn half = make_op(host.qkv, &s);
    check(&host, !is_claimed(half.op), "not claimed are products by experts in f16");
    free_op(&half);
    s.type = GGML_TYPE_Q4_1;
    struct drawn of_cpu = make_op(host.cpu, &s);
    check(&host, !is_claimed(of_cpu.op), "nor those by experts in other memory");
    free_op(&of_cpu);
    struct drawn d = make_op(host.qkv, &s);
    struct ggml_tensor *view = ggml_view_3d(d.of_rest, d.weights, 256, 32, 4, d.weights->nb[1], d.weights->nb[2], 0);
    ggml_backend_view_init(view);
    check(&host, !is_claimed(ggml_mul_mat_id(d.of_rest, view, d.x, d.ids)), "nor those by a view of them");
    struct ggml_tensor *four = ggml_new_tensor_3d(d.of_rest, GGML_TYPE_F32, 256, 3, 4);
    check(&host, !is_claimed(ggml_mul_mat(d.of_rest, d.weights, four)),
          "nor a product of each matrix by rows of its own");
    struct ggml_tensor *no_x = ggml_new_tensor_3d(d.of_rest, GGML_TYPE_F32, 256, 1, 0);
    struct ggml_tensor *no_ids = ggml_new_tensor_2d(d.of_rest, GGML_TYPE_I32, 2, 0);
    struct ggml_cgraph *graph = ggml_new_graph(d.of_rest);
    ggml_build_forward_expand(graph, ggml_mul_mat_id(d.of_rest, d.weights, no_x, no_ids));
    ggml_backend_t fresh = ggml_backend_dev_init(host.device, NULL);
    check(&host, ggml_backend_graph_compute(fresh, graph) == GGML_STATUS_SUCCESS, "no rows are no work");
    ggml_backend_free(fresh);
    *(int32_t *)d.ids->data = 4;
    check(&host, !computed(&d, host.qkv), "a choice of an expert that there is not ends the graph");
    free_op(&d);
}

/* Gate and up of the same rows, and down of what they give, as in a layer. */
static void the_scheduler_copies_nothing(void) {
    const struct shape wide = {
        .type = GGML_TYPE_Q4_1, .in = 512, .out = 768, .experts = 6, .used = 2, .tokens = 40, .rows = 1};
    const struct shape narrow = {
        .type = GGML_TYPE_Q8_0, .in = 768, .out = 512, .experts = 6, .used = 2, .tokens = 40, .rows = 2};
    struct drawn gate = make_op(host.qkv, &wide), up = make_op(host.qkv, &wide), down = make_op(host.qkv, &narrow);
    struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 1 << 20, .no_alloc = true});
    struct ggml_cgraph *graph = ggml_new_graph(context);
    struct ggml_tensor *scaled = ggml_scale(context, gate.x, 0.5f), *op[3];
    op[0] = ggml_mul_mat_id(context, gate.weights, scaled, gate.ids);
    op[1] = ggml_mul_mat_id(context, up.weights, scaled, gate.ids);
    struct ggml_tensor *both = ggml_mul(context, op[0], op[1]);
    op[2] = ggml_mul_mat_id(context, down.weights, both, gate.ids);
    struct ggml_tensor *result = ggml_scale(context, op[2], 2);
    ggml_build_forward_expand(graph, op[0]);
    ggml_build_forward_expand(graph, result);
    ggml_backend_t backends[] = {host.qkv, host.cpu};
    ggml_backend_sched_t sched = ggml_backend_sched_new(backends, NULL, 2, 256, false, true);
    bool is_ours = ggml_backend_sched_alloc_graph(sched, graph);
    for (int i = 0; i < 3; i++)
        is_ours &= ggml_backend_sched_get_tensor_backend(sched, op[i]) == host.qkv;
    const bool is_direct = op[0]->src[1] == scaled && op[1]->src[1] == scaled && op[2]->src[1] == both &&
                           op[0]->src[2] == gate.ids && both->src[0] == op[0];
    check(&host, is_ours, "the scheduler gives products by experts to QKV_WEIGHTS");
    check(&host, is_direct, "without a copy of what they read and what they give");
    ggml_backend_sched_graph_compute(sched, graph);
    float *found = malloc(ggml_nbytes(result));
    ggml_backend_tensor_get(result, found, 0, ggml_nbytes(result));

    for (int64_t i = 0; i < ggml_nelements(gate.x); i++)
        ((float *)gate.x->data)[i] *= 0.5f;
    memcpy(up.x->data, gate.x->data, ggml_nbytes(gate.x));
    memcpy(up.ids->data, gate.ids->data, ggml_nbytes(gate.ids));
    memcpy(down.ids->data, gate.ids->data, ggml_nbytes(gate.ids));
    bool same = computed(&gate, host.qkv) && computed(&up, host.qkv);
    for (int64_t i = 0; i < ggml_nelements(down.x); i++)
        ((float *)down.x->data)[i] = ((float *)gate.op->data)[i] * ((float *)up.op->data)[i];
    same &= computed(&down, host.qkv);
    for (int64_t i = 0; i < ggml_nelements(result); i++)
        same &= 2 * ((float *)down.op->data)[i] == found[i];
    check(&host, same, "the same bits as the ops one by one");
    free(found);
    ggml_backend_sched_free(sched);
    ggml_free(context);
    free_op(&gate);
    free_op(&up);
    free_op(&down);
}

static void bits_do_not_depend_on_threads(void) {
    int different = 0;
    for (int t = 0; t < NUM_TYPES; t++)
        for (int n = 0; n < 4; n++) {
            const struct shape s = n == 3 ? large_shape(types[t]) : draw_shape(types[t], n);
            struct drawn d = make_op(host.qkv, &s);
            float *first = malloc(ggml_nbytes(d.op));
            for (int threads = 1; threads <= 3; threads++) {
                host.set_threads(host.qkv, threads);
                different += !computed(&d, host.qkv);
                if (threads == 1)
                    memcpy(first, d.op->data, ggml_nbytes(d.op));
                else
                    different += memcmp(first, d.op->data, ggml_nbytes(d.op)) != 0;
            }
            free(first);
            free_op(&d);
        }
    host.set_threads(host.qkv, 2);
    check(&host, different == 0, "one, two and three threads give the same bits");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: test_experts FOLDER_OF_BACKENDS libggml-qkv.so\n");
        return 2;
    }
    if (!open_host(&host, argv[1], argv[2], 1))
        return 1;
    an_error_is_below_that_of_ggml();
    a_row_is_the_product_by_its_experts_matrix();
    what_is_written_is_read();
    what_is_not_in_its_buffers_is_left_to_ggml();
    the_scheduler_copies_nothing();
    bits_do_not_depend_on_threads();
    return close_host(&host);
}
