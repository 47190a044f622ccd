/* Products by weights of libggml-qkv.so inside a ggml: what it claims, to what error it computes, and that its buffers
 * give back what was written.
 *
 *   test_products FOLDER_OF_BACKENDS libggml-qkv.so [TYPE,…]      TYPE,…: those that QKV_WEIGHTS names; else all
 *
 * SPDX-License-Identifier: MIT */
#include "host.h"

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const enum ggml_type types[] = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1,
                                       GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K};
enum { NUM_TYPES = sizeof types / sizeof *types, DRAWN = 12 /* shapes of each */ };

static struct host host;
static uint64_t seed = 1;

static float *draw_numbers(int64_t n) {
    float *numbers = malloc((size_t)n * sizeof *numbers);
    for (int64_t i = 0; i < n; i++)
        numbers[i] = (float)(below(&seed, 1 << 20) - (1 << 19)) * 0x1p-19f;
    return numbers;
}

/* ------------------------------------------------------------------------------------------------- a drawn product */

struct product {
    struct ggml_context *of_weights, *of_rest;
    ggml_backend_buffer_t weights_buffer, rest_buffer;
    struct ggml_tensor *weights, *x, *op;
    struct ggml_cgraph *graph;
    void *blocks; /* as ggml has them */
};

/* weights[out][in]ᵀ · x[batch][rows][in]; weights in the memory of a backend, the rest in the CPU's. Rows of x may have
 * a gap behind them. */
static struct product make_product(ggml_backend_t where, enum ggml_type type, int64_t in, int64_t out, int64_t rows,
                                   int64_t batch, int64_t gap) {
    const struct ggml_init_params room = {.mem_size = 1 << 20, .no_alloc = true};
    struct product p = {.of_weights = ggml_init(room), .of_rest = ggml_init(room)};
    p.weights = ggml_new_tensor_2d(p.of_weights, type, in, out);
    struct ggml_tensor *all = ggml_new_tensor_3d(p.of_rest, GGML_TYPE_F32, in + gap, rows, batch);
    p.x = gap ? ggml_view_3d(p.of_rest, all, in, rows, batch, all->nb[1], all->nb[2], 0) : all;
    p.op = ggml_mul_mat(p.of_rest, p.weights, p.x);
    p.graph = ggml_new_graph(p.of_rest);
    ggml_build_forward_expand(p.graph, p.op);
    p.weights_buffer = ggml_backend_alloc_ctx_tensors(p.of_weights, where);
    ggml_backend_buffer_set_usage(p.weights_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    p.rest_buffer = ggml_backend_alloc_ctx_tensors(p.of_rest, host.cpu);
    p.blocks = malloc(ggml_nbytes(p.weights));
    float *numbers = draw_numbers(in * out), *of_x = draw_numbers(ggml_nelements(all));
    ggml_quantize_chunk(type, numbers, p.blocks, 0, out, in, NULL);
    ggml_backend_tensor_set(p.weights, p.blocks, 0, ggml_nbytes(p.weights));
    memcpy(all->data, of_x, ggml_nbytes(all));
    free(numbers);
    free(of_x);
    return p;
}

static void free_product(struct product *p) {
    ggml_backend_buffer_free(p->weights_buffer);
    ggml_backend_buffer_free(p->rest_buffer);
    ggml_free(p->of_weights);
    ggml_free(p->of_rest);
    free(p->blocks);
}

static bool computed(struct product *p, ggml_backend_t backend) {
    memset(p->op->data, 0xff, ggml_nbytes(p->op)); /* NaN */
    return ggml_backend_graph_compute(backend, p->graph) == GGML_STATUS_SUCCESS;
}

static bool is_claimed(const struct ggml_tensor *op) {
    return ggml_backend_dev_supports_op(host.device, op);
}

/* The squares of what differs from the product in double, divided by that product's. */
static double error_of(const struct product *p) {
    const int64_t in = p->weights->ne[0], out = p->weights->ne[1];
    float *row = malloc((size_t)in * sizeof *row);
    double errors = 0, squares = 0;
    for (int64_t c = 0; c < out; c++) {
        ggml_get_type_traits(p->weights->type)
            ->to_float((const char *)p->blocks + (size_t)c * ggml_row_size(p->weights->type, in), row, in);
        for (int64_t b = 0; b < p->x->ne[2]; b++)
            for (int64_t r = 0; r < p->x->ne[1]; r++) {
                const float *x = (const float *)(const void *)((const char *)p->x->data + (size_t)r * p->x->nb[1] +
                                                               (size_t)b * p->x->nb[2]);
                double exact = 0;
                for (int64_t k = 0; k < in; k++)
                    exact += (double)x[k] * (double)row[k];
                const double found = (double)((const float *)p->op->data)[(b * p->x->ne[1] + r) * out + c];
                errors += (found - exact) * (found - exact);
                squares += exact * exact;
            }
    }
    free(row);
    return errors / squares;
}

/* ------------------------------------------------------------------------------------------------------------ tests */

static bool takes(enum ggml_type type, const char *names) {
    return !names || strstr(names, ggml_type_name(type));
}

static void an_error_is_below_that_of_ggml(const char *names) {
    int wrong = 0, calls = 0;
    printf("error (mean square, relative) of drawn products:\n");
    for (int t = 0; t < NUM_TYPES; t++) {
        double mine = 0, of_ggml = 0;
        for (int n = 0; n < DRAWN && takes(types[t], names); n++) {
            const int64_t block = ggml_blck_size(types[t]), in = block * (1 + below(&seed, 1024 / block));
            const int64_t out = 1 + below(&seed, 300), rows = n % 3 == 0 ? 1 : 1 + below(&seed, n % 3 == 1 ? 40 : 250);
            const int64_t batch = 1 + below(&seed, 3), gap = below(&seed, 2) * 8, begin = (int64_t)seed;
            struct product p = make_product(host.qkv, types[t], in, out, rows, batch, gap);
            seed = (uint64_t)begin;
            struct product same = make_product(host.cpu, types[t], in, out, rows, batch, gap);
            const bool ok = is_claimed(p.op) && computed(&p, host.qkv) && computed(&same, host.cpu);
            const double error = error_of(&p), ggmls = error_of(&same);
            if (!ok || !(error < 5e-4)) {
                printf("error %.2e, ggml's %.2e: %s, in %d, out %d, rows %d, batch %d\n", error, ggmls,
                       ggml_type_name(types[t]), (int)in, (int)out, (int)rows, (int)batch);
                wrong++;
            }
            mine += error / DRAWN;
            of_ggml += ggmls / DRAWN;
            calls++;
            free_product(&p);
            free_product(&same);
        }
        wrong += !(mine <= 1.05 * of_ggml); /* a single one may round either way */
        if (takes(types[t], names))
            printf("  %-5s qkv %.2e  ggml %.2e\n", ggml_type_name(types[t]), mine, of_ggml);
    }
    check(&host, wrong == 0 && calls > 0,
          "drawn products: within 5e-4, and those of a type not further from the exact ones than ggml's");
}

static void what_is_written_is_read(void) {
    int wrong = 0;
    for (int t = 0; t < NUM_TYPES; t++) {
        struct product p = make_product(host.qkv, types[t], 512, 150, 1, 1, 0);
        const size_t size = ggml_nbytes(p.weights);
        unsigned char *found = malloc(size), *bytes = p.blocks;
        ggml_backend_tensor_get(p.weights, found, 0, size);
        wrong += memcmp(found, bytes, size) != 0;
        for (int n = 0; n < 20; n++) { /* any bytes, from any on */
            const size_t offset = (size_t)below(&seed, (int64_t)size);
            const size_t some = 1 + (size_t)below(&seed, (int64_t)(size - offset));
            for (size_t i = 0; i < some; i++)
                bytes[offset + i] = (unsigned char)below(&seed, 256);
            ggml_backend_tensor_set(p.weights, bytes + offset, offset, some);
            ggml_backend_tensor_get(p.weights, found, 0, size);
            wrong += memcmp(found, bytes, size) != 0;
            ggml_backend_tensor_get(p.weights, found, offset, some);
            wrong += memcmp(found, bytes + offset, some) != 0;
        }
        struct ggml_tensor *view = ggml_view_2d(p.of_rest, p.weights, 512, 70, p.weights->nb[1], 67 * p.weights->nb[1]);
        ggml_backend_view_init(view);
        ggml_backend_tensor_get(view, found, 0, ggml_nbytes(view));
        wrong += memcmp(found, bytes + 67 * p.weights->nb[1], ggml_nbytes(view)) != 0;
        free(found);
        free_product(&p);
    }
    check(&host, wrong == 0, "weights of all types are read as they were written, in parts and by views too");
}

static bool claims(enum ggml_type type, ggml_backend_t where) {
    struct product p = make_product(where, type, 512, 64, 1, 1, 0);
    const bool yes = is_claimed(p.op);
    free_product(&p);
    return yes;
}

static void what_is_not_in_its_buffers_is_left_to_ggml(const char *names) {
    int wrong = 0;
    for (int t = 0; t < NUM_TYPES; t++)
        wrong += claims(types[t], host.qkv) != takes(types[t], names) || claims(types[t], host.cpu);
    check(&host, wrong == 0, "claimed are products by the types that QKV_WEIGHTS names, in its own buffers");
    check(&host, !claims(GGML_TYPE_F16, host.qkv) && !claims(GGML_TYPE_Q2_K, host.qkv), "not those by f16 or q2_K");
    struct product p = make_product(host.qkv, types[1], 512, 64, 5, 1, 0);
    struct ggml_tensor *view = ggml_view_2d(p.of_rest, p.weights, 512, 32, p.weights->nb[1], 0);
    ggml_backend_view_init(view);
    struct ggml_tensor *by_view = ggml_mul_mat(p.of_rest, view, p.x);
    struct ggml_tensor *by_half = ggml_mul_mat(p.of_rest, p.weights, ggml_cast(p.of_rest, p.x, GGML_TYPE_F16));
    check(&host, !is_claimed(by_view), "not those by a view of weights");
    check(&host, !is_claimed(by_half), "not those of rows in f16");
    struct ggml_tensor *leaf = ggml_new_tensor_2d(p.of_rest, types[1], 512, 64);
    struct ggml_tensor *by_leaf = ggml_mul_mat(p.of_rest, leaf, p.x);
    const bool takes_tried = is_claimed(by_leaf);
    ggml_set_input(leaf);
    check(&host, takes_tried == takes(types[1], names) && !is_claimed(by_leaf),
          "those by weights without memory yet, but not by an input of the graph");
    ggml_backend_buffer_t of_scheduler = ggml_backend_alloc_buffer(host.qkv, ggml_nbytes(leaf) + 64);
    ggml_backend_buffer_set_usage(of_scheduler, GGML_BACKEND_BUFFER_USAGE_COMPUTE);
    leaf->flags = 0;
    ggml_backend_tensor_alloc(of_scheduler, leaf, ggml_backend_buffer_get_base(of_scheduler));
    check(&host, !is_claimed(by_leaf), "nor by a matrix in memory that is the scheduler's");
    ggml_backend_buffer_free(of_scheduler);
    free_product(&p);
}

/* llama.cpp puts a model's adapters into the type of buffer that its weights lie in. */
static void what_is_no_matrix_of_blocks_lies_in_plain_memory(void) {
    struct product p = make_product(host.qkv, types[1], 512, 64, 1, 1, 0);
    struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 1 << 16, .no_alloc = true});
    struct ggml_tensor *half = ggml_new_tensor_2d(context, GGML_TYPE_F16, 512, 8);
    ggml_backend_buffer_t buffer =
        ggml_backend_alloc_ctx_tensors_from_buft(context, ggml_backend_buffer_get_type(p.weights_buffer));
    check(&host, ggml_backend_buffer_is_host(half->buffer),
          "a buffer without a matrix of blocks is read without a copy");
    ggml_backend_buffer_free(buffer);
    ggml_free(context);
    free_product(&p);
}

/* x → scale → two products → a third one of the second → sum of that and the first; and rows of the weights
 * themselves, which the CPU looks up. */
static void the_scheduler_copies_nothing_but_weights_for_others(const char *names) {
    enum ggml_type type = types[0];
    for (int t = 0; t < NUM_TYPES; t++)
        if (takes(types[t], names))
            type = types[t];
    struct product p = make_product(host.qkv, type, 512, 512, 5, 1, 0);
    struct product q = make_product(host.qkv, type, 512, 512, 1, 1, 0);
    struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 1 << 20, .no_alloc = true});
    struct ggml_cgraph *graph = ggml_new_graph(context);
    struct ggml_tensor *scaled = ggml_scale(context, p.x, 0.5f), *product[3];
    product[0] = ggml_mul_mat(context, p.weights, scaled);
    product[1] = ggml_mul_mat(context, q.weights, scaled);
    product[2] = ggml_mul_mat(context, q.weights, product[1]);
    struct ggml_tensor *result = ggml_add(context, product[0], product[2]);
    struct ggml_tensor *numbers = ggml_new_tensor_1d(context, GGML_TYPE_I32, 2);
    ggml_set_input(numbers);
    struct ggml_tensor *rows = ggml_get_rows(context, p.weights, numbers);
    ggml_set_output(rows);
    ggml_build_forward_expand(graph, result);
    ggml_build_forward_expand(graph, rows);

    ggml_backend_t both[] = {host.qkv, host.cpu};
    ggml_backend_sched_t sched = ggml_backend_sched_new(both, NULL, 2, 256, false, true);
    bool is_ours = ggml_backend_sched_alloc_graph(sched, graph), is_direct = true;
    for (int i = 0; i < 3; i++)
        is_ours &= ggml_backend_sched_get_tensor_backend(sched, product[i]) == host.qkv;
    is_direct = product[0]->src[1] == scaled && product[1]->src[1] == scaled && product[2]->src[1] == product[1] &&
                result->src[0] == product[0] && result->src[1] == product[2];
    const int32_t wanted[2] = {3, 511};
    ggml_backend_tensor_set(numbers, wanted, 0, sizeof wanted);
    bool in_order = true; /* the third product has waited for the second one */
    for (int n = 0; n < 50; n++) {
        memset(product[1]->data, 0xff, ggml_nbytes(product[1])); /* NaN */
        ggml_backend_sched_graph_compute(sched, graph);
        for (int64_t i = 0; i < ggml_nelements(result); i++)
            in_order &= !isnan(((float *)result->data)[i]);
    }
    check(&host, in_order, "a product of another one waits for it");
    check(&host, is_ours, "the scheduler gives products to QKV_WEIGHTS");
    check(&host, is_direct, "without a copy of what they read and what they give");
    check(&host, ggml_backend_buffer_is_host(product[0]->buffer) && !ggml_backend_buffer_is_host(p.weights_buffer),
          "what they give lies in plain memory, and the weights do not");

    float *found = malloc(2 * 512 * sizeof *found), *row = malloc(512 * sizeof *row);
    ggml_backend_tensor_get(rows, found, 0, 2 * 512 * sizeof *found);
    bool same = true;
    for (int i = 0; i < 2; i++) {
        ggml_get_type_traits(type)->to_float((const char *)p.blocks + (size_t)wanted[i] * p.weights->nb[1], row, 512);
        same &= memcmp(row, found + 512 * i, 512 * sizeof *row) == 0;
    }
    check(&host, same, "rows of the weights that the CPU looks up are those that were written");

    /* The whole of it, one op after the other. */
    float *alone = malloc(ggml_nbytes(result)), *together = malloc(ggml_nbytes(result));
    ggml_backend_tensor_get(result, together, 0, ggml_nbytes(result));
    struct product steps[2] = {p, make_product(host.qkv, type, 512, 512, 5, 1, 0)};
    ggml_backend_tensor_set(steps[1].weights, q.blocks, 0, ggml_nbytes(q.weights));
    const int64_t n = ggml_nelements(p.x);
    for (int64_t i = 0; i < n; i++)
        ((float *)steps[1].x->data)[i] = ((float *)p.x->data)[i] *= 0.5f;
    computed(&steps[0], host.qkv);
    computed(&steps[1], host.qkv);
    for (int64_t i = 0; i < n; i++)
        ((float *)steps[1].x->data)[i] = ((float *)steps[1].op->data)[i];
    computed(&steps[1], host.qkv);
    for (int64_t i = 0; i < n; i++)
        alone[i] = ((float *)p.op->data)[i] + ((float *)steps[1].op->data)[i];
    check(&host, memcmp(alone, together, ggml_nbytes(result)) == 0, "the same bits as the ops one by one");
    free(alone);
    free(together);
    free(found);
    free(row);
    ggml_backend_sched_free(sched);
    ggml_free(context);
    free_product(&steps[1]);
    free_product(&p);
    free_product(&q);
}

/* y = W0·x, z = W1·y, u = W2·x, where ggml gives y's memory to u, as z was the last that reads y. */
static void memory_that_is_used_again_is_not_written_too_early(const char *names) {
    enum ggml_type type = types[0];
    for (int t = 0; t < NUM_TYPES; t++)
        if (takes(types[t], names))
            type = types[t];
    const int64_t block = ggml_blck_size(type);
    struct product first = make_product(host.qkv, type, block, 16384, 32, 1, 0);
    struct product second = make_product(host.qkv, type, 16384, 64, 1, 1, 0);
    struct product third = make_product(host.qkv, type, block, 16384, 1, 1, 0);
    struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 1 << 20, .no_alloc = true});
    struct ggml_cgraph *graph = ggml_new_graph(context);
    struct ggml_tensor *y = ggml_mul_mat(context, first.weights, first.x);
    struct ggml_tensor *z = ggml_mul_mat(context, second.weights, y);
    struct ggml_tensor *u = ggml_mul_mat(context, third.weights, first.x);
    ggml_build_forward_expand(graph, z);
    ggml_build_forward_expand(graph, u);
    ggml_gallocr_t allocator = ggml_gallocr_new(ggml_backend_cpu_buffer_type());
    const bool is_shared = ggml_gallocr_alloc_graph(allocator, graph) && u->data == y->data;
    float *alone = malloc(ggml_nbytes(z));
    int different = 0;
    for (int n = 0; n < 100; n++) {
        host.set_threads(host.qkv, n == 0 ? 1 : 3);
        different += ggml_backend_graph_compute(host.qkv, graph) != GGML_STATUS_SUCCESS;
        if (n == 0)
            memcpy(alone, z->data, ggml_nbytes(z));
        different += memcmp(alone, z->data, ggml_nbytes(z)) != 0;
    }
    host.set_threads(host.qkv, 2);
    check(&host, is_shared, "ggml gives a result the memory of one that has been read");
    check(&host, different == 0, "which is not written before");
    free(alone);
    ggml_gallocr_free(allocator);
    ggml_free(context);
    free_product(&first);
    free_product(&second);
    free_product(&third);
}

static void bits_do_not_depend_on_threads(const char *names) {
    int different = 0;
    for (int t = 0; t < NUM_TYPES; t++)
        for (int n = 0; n < 4 && takes(types[t], names); n++) {
            const int64_t out = 100 + below(&seed, 1000), rows = n == 0 ? 1 : 1 + below(&seed, 70);
            struct product p = make_product(host.qkv, types[t], 512, out, rows, 1, 0);
            float *first = malloc(ggml_nbytes(p.op));
            for (int threads = 1; threads <= 3; threads++) {
                host.set_threads(host.qkv, threads);
                different += !computed(&p, host.qkv);
                if (threads == 1)
                    memcpy(first, p.op->data, ggml_nbytes(p.op));
                else
                    different += memcmp(first, p.op->data, ggml_nbytes(p.op)) != 0;
            }
            free(first);
            free_product(&p);
        }
    host.set_threads(host.qkv, 2);
    check(&host, different == 0, "one, two and three threads give the same bits");
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: test_products FOLDER_OF_BACKENDS libggml-qkv.so [TYPE,…]\n");
        return 2;
    }
    const char *names = argc > 3 ? argv[3] : NULL;
    if (!open_host(&host, argv[1], argv[2], 1))
        return 1;
    an_error_is_below_that_of_ggml(names);
    what_is_written_is_read();
    what_is_not_in_its_buffers_is_left_to_ggml(names);
    what_is_no_matrix_of_blocks_lies_in_plain_memory();
    the_scheduler_copies_nothing_but_weights_for_others(names);
    memory_that_is_used_again_is_not_written_too_early(names);
    bits_do_not_depend_on_threads(names);
    return close_host(&host);
}
