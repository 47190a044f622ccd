/* Times a product by ggml and by qkv in turns. The least time of each counts, on the clock of this thread: neither sees
 * what else the machine does.
 *
 * SPDX-License-Identifier: MIT */
#include "weights_speed.h"

#include "choice_of_ggml.h"
#include "experts_op.h"
#include "product_op.h"

#include <math.h>
#include <string.h>
#include <time.h>

enum { IN = 1024, OUT = 2048, ROWS = 32, EXPERTS = 8, CHOSEN = 2, ROUNDS = 5, STEPS = 4 /* of one row, in a round */ };

/* A matrix, or those of experts, which are narrower; and the products by one row and by many. */
struct products {
    struct ggml_context *of_weights, *of_rest;
    ggml_backend_buffer_t weights_buffer, rest_buffer;
    struct ggml_tensor *weights, *op[2];
    struct ggml_cgraph *graph[2];
};

static void fill(float *numbers, int64_t n) {
    uint32_t seed = 1;
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        numbers[i] = (float)(int32_t)seed * 0x1p-31f;
    }
}

/* The experts of each row, one after the other. */
static void choose(struct ggml_tensor *ids) {
    for (int64_t i = 0; i < ggml_nelements(ids); i++)
        ((int32_t *)ids->data)[i] = (int32_t)(i % EXPERTS);
}

static void free_products(struct products *p) {
    ggml_backend_buffer_free(p->weights_buffer);
    ggml_backend_buffer_free(p->rest_buffer);
    ggml_free(p->of_weights);
    ggml_free(p->of_rest);
}

/* In buffers of a type; NULL: of the one that ggml would choose. False without memory. */
static bool make_products(struct products *p, enum ggml_type type, bool of_experts, ggml_backend_buffer_type_t where,
                          ggml_backend_dev_t cpu) {
    const struct ggml_init_params room = {.mem_size = 1 << 18, .no_alloc = true};
    *p = (struct products){.of_weights = ggml_init(room), .of_rest = ggml_init(room)};
    if (!p->of_weights || !p->of_rest)
        return false;
    const int experts = of_experts ? EXPERTS : 1;
    p->weights = ggml_new_tensor_3d(p->of_weights, type, IN, OUT / experts, experts);
    for (int i = 0; i < 2; i++) {
        const int rows = i ? ROWS : 1;
        struct ggml_context *c = p->of_rest;
        struct ggml_tensor *x = ggml_new_tensor_3d(c, GGML_TYPE_F32, IN, of_experts ? 1 : rows, of_experts ? rows : 1);
        struct ggml_tensor *ids = of_experts ? ggml_new_tensor_2d(c, GGML_TYPE_I32, CHOSEN, rows) : NULL;
        p->op[i] = of_experts ? ggml_mul_mat_id(c, p->weights, x, ids) : ggml_mul_mat(c, p->weights, x);
        p->graph[i] = ggml_new_graph_custom(p->of_rest, 8, false);
        ggml_build_forward_expand(p->graph[i], p->op[i]);
    }
    if (!where)
        where = choice_of_ggml(cpu, p->weights, p->op[1]);
    p->weights_buffer = ggml_backend_alloc_ctx_tensors_from_buft(p->of_weights, where);
    p->rest_buffer = ggml_backend_alloc_ctx_tensors_from_buft(p->of_rest, ggml_backend_dev_buffer_type(cpu));
    const size_t row = ggml_row_size(type, IN);
    char *blocks = malloc(row * OUT);
    if (!p->weights_buffer || !p->rest_buffer || !blocks) {
        free(blocks);
        return false;
    }
    ggml_backend_buffer_set_usage(p->weights_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    float numbers[IN];
    fill(numbers, IN);
    ggml_quantize_chunk(type, numbers, blocks, 0, 1, IN, NULL); /* which can be slow: one row is enough */
    for (int i = 1; i < OUT; i++)
        memcpy(blocks + (size_t)i * row, blocks, row);
    ggml_backend_tensor_set(p->weights, blocks, 0, row * OUT);
    free(blocks);
    for (int i = 0; i < 2; i++) {
        fill(p->op[i]->src[1]->data, ggml_nelements(p->op[i]->src[1]));
        if (of_experts)
            choose(p->op[i]->src[2]);
    }
    return true;
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* False if either could not compute it. */
static bool take_turns(struct runner *runner, struct products *qkv, ggml_backend_t cpu, struct products *ggml,
                       struct comparison *result) {
    struct product_state products = {.ops = 0};
    struct experts_state experts = {.ops = 0};
    bool done = true;
    double least[2][2] = {{INFINITY, INFINITY}, {INFINITY, INFINITY}};
    for (int round = 0; round < ROUNDS; round++)
        for (int many = 0; many < 2; many++)
            for (int step = many ? STEPS - 1 : 0; step < STEPS && done; step++) {
                const double begin = seconds_now();
                struct ggml_tensor *op = qkv->op[many];
                const char *error = op->op == GGML_OP_MUL_MAT_ID ? run_experts(runner, &experts, &op, 1)
                                                                 : run_products(runner, &products, &op, 1);
                done = error == NULL;
                const double middle = seconds_now();
                done = done && ggml_backend_graph_compute(cpu, ggml->graph[many]) == GGML_STATUS_SUCCESS;
                least[many][0] = fmin(least[many][0], middle - begin);
                least[many][1] = fmin(least[many][1], seconds_now() - middle);
            }
    free_product_state(&products);
    free_experts_state(&experts);
    *result = (struct comparison){least[0][1] / least[0][0], least[1][1] / least[1][0]};
    return done;
}

bool compare_products(const qkv_ctx *ctx, ggml_backend_buffer_type_t type_of_qkv, enum ggml_type type, bool of_experts,
                      struct comparison *result) {
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_t cpu = dev ? ggml_backend_dev_init(dev, NULL) : NULL;
    ggml_backend_reg_t reg = dev ? ggml_backend_dev_backend_reg(dev) : NULL;
    void *address = reg ? ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads") : NULL;
    ggml_backend_set_n_threads_t set_threads;
    memcpy(&set_threads, &address, sizeof set_threads);
    if (!cpu || !address) {
        ggml_backend_free(cpu);
        return false;
    }
    set_threads(cpu, 1);
    struct runner runner = {.ctx = *ctx, .team.num_threads = 1};
    struct products qkv, ggml;
    const bool made = make_products(&qkv, type, of_experts, type_of_qkv, dev);
    const bool made_both = make_products(&ggml, type, of_experts, NULL, dev) && made;
    const bool done = made_both && take_turns(&runner, &qkv, cpu, &ggml, result);
    free_products(&qkv);
    free_products(&ggml);
    free(runner.workspace);
    ggml_backend_free(cpu);
    return done;
}
