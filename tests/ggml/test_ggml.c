/* libggml-qkv.so inside a ggml: what it claims, to what error it computes, and that nothing it knows of one graph
 * reaches the next.
 *
 *   test_ggml FOLDER_OF_BACKENDS libggml-qkv.so
 *
 * SPDX-License-Identifier: MIT */
#include "drawn_op.h"
#include "host.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUM_DRAWN 200

static struct host host;

static bool computed(struct drawn_op *d, ggml_backend_t backend) {
    memset(d->op->data, 0xff, ggml_nbytes(d->op)); /* NaN */
    return ggml_backend_graph_compute(backend, d->graph) == GGML_STATUS_SUCCESS;
}

static bool is_claimed(const struct ggml_tensor *op) {
    return ggml_backend_dev_supports_op(host.device, op);
}

/* ---------------------------------------------------------------------------------------------------- accuracy */

struct errors {
    int calls;
    double qkv, ggml;
};

static void an_error_is_below_that_of_ggml(void) {
    struct errors of[GGML_TYPE_COUNT] = {{0, 0, 0}};
    uint64_t seed = 1;
    int claimed = 0, wrong = 0;
    for (int n = 0; n < NUM_DRAWN; n++) {
        struct shape s = draw_shape(&seed);
        struct drawn_op d = make_op(&s, &seed, host.cpu);
        double *exact = malloc((size_t)ggml_nelements(d.op) * sizeof *exact);
        attend_in_double(&d, exact);
        if (!is_claimed(d.op)) {
            printf("not claimed: ");
            print_shape(&s);
            wrong++;
        } else {
            claimed++;
            const bool ok = computed(&d, host.qkv);
            const double error = relative_error(&d, exact);
            const double of_ggml = computed(&d, host.cpu) ? relative_error(&d, exact) : NAN;
            /* A single call of f32 may go either way in the last bit. */
            if (!ok || !(error <= fmax(of_ggml, 1e-6))) {
                printf("error %.2e, ggml's %.2e: ", error, of_ggml);
                print_shape(&s);
                wrong++;
            }
            struct errors *e = &of[s.k_type];
            e->calls++;
            e->qkv += error * error;
            e->ggml += of_ggml * of_ggml;
        }
        free(exact);
        free_op(&d);
    }
    printf("%d drawn calls, relative error (root of the mean square):\n", claimed);
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const struct errors *e = &of[type];
        if (e->calls > 0)
            printf("  K in %-5s %4d calls  qkv %.2e  ggml %.2e\n", ggml_type_name((enum ggml_type)type), e->calls,
                   sqrt(e->qkv / e->calls), sqrt(e->ggml / e->calls));
    }
    check(&host, wrong == 0, "every drawn call is claimed, its error at most that of ggml's own op");
}

/* ------------------------------------------------------------------------------------------------ what is claimed */

static const struct shape deep_step = {.head_dim = 64,
                                       .head_dim_v = 64,
                                       .kv_heads = 3,
                                       .group = 3,
                                       .queries = 1,
                                       .keys = 4096,
                                       .batch = 1,
                                       .mask = CAUSAL};

static bool claims(struct shape s, enum ggml_type type) {
    uint64_t seed = 2;
    s.k_type = s.v_type = type;
    struct drawn_op d = make_op(&s, &seed, host.cpu);
    const bool yes = is_claimed(d.op);
    free_op(&d);
    return yes;
}

static void single_queries_wait_for_the_number_of_threads(void) {
    check(&host, claims(deep_step, GGML_TYPE_F16), "a single query over 4096 keys is claimed");
    ggml_backend_t second = ggml_backend_dev_init(host.device, NULL);
    check(&host, !claims(deep_step, GGML_TYPE_F16),
          "none while a context has not set its threads: llama.cpp may be trying");
    struct shape prompt = deep_step;
    prompt.queries = 512;
    check(&host, claims(prompt, GGML_TYPE_F16), "prompts are, then too");
    host.set_threads(second, 1);
    check(&host, claims(deep_step, GGML_TYPE_F16), "and single queries once it has");
    ggml_backend_free(second);
    second = ggml_backend_dev_init(host.device, NULL);
    ggml_backend_free(second);
    check(&host, claims(deep_step, GGML_TYPE_F16), "or once it has gone");
}

static void what_qkv_does_not_store_is_left_to_ggml(void) {
    check(&host, !claims(deep_step, GGML_TYPE_Q4_0), "K and V in q4_0 are left to ggml");
    check(&host,
          claims(deep_step, GGML_TYPE_Q8_0) && claims(deep_step, GGML_TYPE_BF16) && claims(deep_step, GGML_TYPE_F32),
          "q8_0, bf16 and f32 are not");
}

/* ---------------------------------------------------------------------------------------------- masks, scheduler */

static void no_mask_outlives_its_numbers(void) {
    uint64_t seed = 3;
    struct shape s = {.head_dim = 64,
                      .head_dim_v = 64,
                      .kv_heads = 2,
                      .group = 2,
                      .queries = 40,
                      .keys = 300,
                      .batch = 1,
                      .k_type = GGML_TYPE_F16,
                      .v_type = GGML_TYPE_F16,
                      .mask = CAUSAL};
    struct drawn_op d = make_op(&s, &seed, host.cpu);
    double *exact = malloc((size_t)ggml_nelements(d.op) * sizeof *exact), worst = 0;
    static const enum mask_kind kinds[] = {CAUSAL, PADDED, NUMBERS, TWO_SEQUENCES, WINDOW, NUMBERS};
    for (int n = 0; n < 6; n++) {
        fill_mask(&d, kinds[n], &seed);
        attend_in_double(&d, exact);
        computed(&d, host.qkv);
        worst = fmax(worst, relative_error(&d, exact));
    }
    check(&host, worst < 1e-6, "one graph, six masks in the same memory");
    free(exact);
    free_op(&d);
}

/* Three layers with one mask between ops of the CPU, as the scheduler divides them. In f32: older versions of ggml sum
 * f16 in f16. */
static void the_scheduler_copies_nothing(void) {
    uint64_t seed = 4;
    struct shape s = {.head_dim = 64,
                      .head_dim_v = 64,
                      .kv_heads = 2,
                      .group = 2,
                      .queries = 64,
                      .keys = 512,
                      .batch = 1,
                      .k_type = GGML_TYPE_F32,
                      .v_type = GGML_TYPE_F32,
                      .mask = CAUSAL};
    struct drawn_op d = make_op(&s, &seed, host.cpu);
    struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 1 << 20, .no_alloc = true});
    struct ggml_cgraph *graph = ggml_new_graph(context);
    struct ggml_tensor *layer[3], *x = d.q;
    for (int i = 0; i < 3; i++) {
        x = ggml_scale(context, ggml_cont(context, x), 0.5f);
        layer[i] = ggml_flash_attn_ext(context, x, d.k, d.v, d.mask, 0.125f, 0, 0);
        x = ggml_permute(context, layer[i], 0, 2, 1, 3);
    }
    x = ggml_cont(context, x);
    ggml_build_forward_expand(graph, x);

    ggml_backend_t both[] = {host.qkv, host.cpu};
    float *found[2] = {NULL, NULL};
    const size_t size = ggml_nbytes(x);
    bool is_ours = true, is_direct = true;
    for (int alone = 0; alone < 2; alone++) {
        ggml_backend_sched_t sched = ggml_backend_sched_new(both + alone, NULL, 2 - alone, 256, false, true);
        is_ours &= ggml_backend_sched_alloc_graph(sched, graph);
        for (int i = 0; i < 3; i++) {
            is_ours &= ggml_backend_sched_get_tensor_backend(sched, layer[i]) == both[alone];
            is_direct &= layer[i]->src[1] == d.k && layer[i]->src[2] == d.v && layer[i]->src[3] == d.mask;
        }
        ggml_backend_sched_graph_compute(sched, graph);
        found[alone] = malloc(size);
        ggml_backend_tensor_get(x, found[alone], 0, size);
        ggml_backend_sched_free(sched);
        for (int i = 0; i < ggml_graph_n_nodes(graph); i++) { /* so that the next one makes its own */
            ggml_graph_node(graph, i)->buffer = NULL;
            ggml_graph_node(graph, i)->data = NULL;
        }
    }
    double worst = 0;
    for (size_t i = 0; i < size / sizeof(float); i++)
        worst = fmax(worst, fabs((double)found[0][i] - (double)found[1][i]));
    check(&host, is_ours, "the scheduler gives three layers to QKV");
    check(&host, is_direct, "without a copy of K, V or mask");
    check(&host, worst < 1e-3, "and they are those of the CPU");
    free(found[0]);
    free(found[1]);
    ggml_free(context);
    free_op(&d);
}

static void bits_do_not_depend_on_threads(void) {
    uint64_t seed = 5;
    struct drawn_op d;
    int different = 0;
    for (int n = 0; n < 20; n++) {
        struct shape s = draw_shape(&seed);
        d = make_op(&s, &seed, host.cpu);
        const size_t size = ggml_nbytes(d.op);
        float *first = malloc(size);
        for (int threads = 1; threads <= 3; threads++) {
            host.set_threads(host.qkv, threads);
            computed(&d, host.qkv);
            if (threads == 1)
                memcpy(first, d.op->data, size);
            else
                different += memcmp(first, d.op->data, size) != 0;
        }
        free(first);
        free_op(&d);
    }
    check(&host, different == 0, "one, two and three threads give the same bits");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: test_ggml FOLDER_OF_BACKENDS libggml-qkv.so\n");
        return 2;
    }
    if (!open_host(&host, argv[1], argv[2], 0))
        return 1;
    an_error_is_below_that_of_ggml();
    single_queries_wait_for_the_number_of_threads();
    what_qkv_does_not_store_is_left_to_ggml();
    no_mask_outlives_its_numbers();
    the_scheduler_copies_nothing();
    bits_do_not_depend_on_threads();
    return close_host(&host);
}
