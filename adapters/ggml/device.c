/* libggml-qkv.so: two devices of ggml, one for attention and one for products by weights.
 *
 * They are accelerators, as BLAS is: ggml's scheduler gives every op that such a device claims to it before the CPU
 * gets it. The first one's buffers are those of the CPU, so nothing is copied on the way there or back. The second
 * one's hold weights as qkv multiplies them (weights_buffer.c); hosts offer each weight to it first. There are two as a
 * device has one type of buffers, and the scheduler moves attention from the CPU to a device only if that is the CPU's
 * own. Everything else stays with ggml.
 *
 * SPDX-License-Identifier: MIT */
#include "attention_op.h"
#include "blocks.h"
#include "experts_op.h"
#include "weights_speed.h"
#include "product_op.h"
#include "settings.h"
#include "weights_buffer.h"

#include <ggml-backend-impl.h>
#include <ggml-backend.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ATTENTION, WEIGHTS, NUM_DEVICES };
enum { UNKNOWN, NO, YES };

/* ggml calls a device from one thread at a time for each of its contexts; what contexts share is atomic. */
static struct {
    struct settings settings;
    qkv_ctx ctx;
    char description[NUM_DEVICES][96];
    ggml_backend_buffer_type_t weights_buffer_type;
    bool takes_any_weights;
    /* Backends whose host has not said yet how many threads they may use: see claims(). */
    atomic_int silent_backends;
    /* Counts up when a graph is made or begun, so that no mask outlives the numbers in it. */
    atomic_ullong epoch;
    atomic_ullong nanoseconds[NUM_DEVICES]; /* in graphs, of all backends of each device */
    atomic_int num_threads;
    atomic_bool has_openmp;
    atomic_int takes[GGML_TYPE_COUNT][2]; /* weights of a type, [1] of experts: UNKNOWN before a host offered some */
} device;

static struct ggml_backend_device devices[NUM_DEVICES];

static int number_of(ggml_backend_dev_t dev) {
    return dev == &devices[WEIGHTS] ? WEIGHTS : ATTENTION;
}

static const char *device_name(ggml_backend_dev_t dev) {
    return number_of(dev) == WEIGHTS ? "QKV_WEIGHTS" : "QKV";
}

/* Of either device. */
struct backend {
    struct runner runner;
    struct attention_state attention;
    struct product_state products;
    struct experts_state experts;
    bool was_told_threads;
    const struct ggml_tensor *first_node; /* of this epoch */
};

/* ------------------------------------------------------------------------------------------------ the backend */

static const char *backend_name(ggml_backend_t backend) {
    return device_name(backend->device);
}

static double seconds_of(int number) {
    return 1e-9 * (double)atomic_load(&device.nanoseconds[number]);
}

static double attention_seconds(void) {
    return seconds_of(ATTENTION);
}

static double product_seconds(void) {
    return seconds_of(WEIGHTS);
}

static void backend_free(ggml_backend_t backend) {
    struct backend *b = backend->context;
    if (!b->was_told_threads)
        atomic_fetch_sub(&device.silent_backends, 1);
    if (device.settings.log && number_of(backend->device) == ATTENTION)
        fprintf(stderr, "qkv: %lld ops, %lld of them with a mask that is no ranges, %.3f s in all contexts\n",
                (long long)b->attention.ops, (long long)b->attention.biased_ops, attention_seconds());
    else if (device.settings.log)
        fprintf(stderr, "qkv: %lld products, %.3f s in all contexts\n", (long long)(b->products.ops + b->experts.ops),
                product_seconds());
    free_attention_state(&b->attention);
    free_product_state(&b->products);
    free_experts_state(&b->experts);
    free(b->runner.workspace);
    free(b);
    free(backend);
}

/* llama.cpp and whisper.cpp call it before every graph. */
static void set_num_threads(ggml_backend_t backend, int num_threads) {
    struct backend *b = backend->context;
    if (!b->was_told_threads)
        atomic_fetch_sub(&device.silent_backends, 1);
    b->was_told_threads = true;
    b->runner.team.num_threads = num_threads > 1 ? num_threads : 1;
    atomic_store(&device.num_threads, b->runner.team.num_threads);
    atomic_fetch_add(&device.epoch, 1);
}

/* Masks are looked at once for all layers. The layers of a graph arrive one by one, so what has been seen is forgotten
 * when the host makes or announces another graph, or the same node comes again. */
static void meet_node(struct backend *b, const struct ggml_tensor *node) {
    const uint64_t epoch = atomic_load(&device.epoch);
    if (b->attention.masks.epoch != epoch || !b->first_node || b->first_node == node) {
        forget_masks(&b->attention.masks);
        b->attention.masks.epoch = epoch;
        b->first_node = node;
    }
}

static bool is_computed(const struct ggml_tensor *node) {
#ifdef HAVE_FLAG_COMPUTE
    return node->flags & GGML_TENSOR_FLAG_COMPUTE;
#else
    (void)node;
    return true;
#endif
}

static unsigned long long nanoseconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec;
}

static bool overlap(const struct ggml_tensor *a, const struct ggml_tensor *b) {
    const char *of_a = a->data, *of_b = b->data;
    return of_a < of_b + ggml_nbytes(b) && of_b < of_a + ggml_nbytes(a);
}

/* Whether a product writes what another one reads, which are its rows and experts chosen for them, or writes. */
static bool writes_what_is_of(const struct ggml_tensor *op, const struct ggml_tensor *other) {
    return overlap(op, other) || overlap(op, other->src[1]) || (other->src[2] && overlap(op, other->src[2]));
}

/* Whether a product reads what one of those before it writes, or writes what one of them reads or writes: ggml gives
 * memory away once the last op that reads it is done. */
static bool waits_for_one_of(const struct ggml_tensor *op, struct ggml_tensor *const *ops, int count) {
    for (int i = 0; i < count; i++)
        if (writes_what_is_of(op, ops[i]) || writes_what_is_of(ops[i], op))
            return true;
    return false;
}

static bool is_product(const struct ggml_tensor *node) {
    return node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID;
}

/* Computes the node of a number and perhaps those behind it; *number is then the next one's. */
static const char *compute_nodes(struct backend *b, struct ggml_cgraph *graph, int *number) {
    struct ggml_tensor *node = ggml_graph_node(graph, (*number)++), *products[MAX_TOGETHER] = {node};
    int count = 1;
    if (!is_computed(node))
        return NULL;
    switch (node->op) {
    case GGML_OP_FLASH_ATTN_EXT: meet_node(b, node); return run_attention(&b->runner, &b->attention, node);
    case GGML_OP_MUL_MAT: /* Wk and Wv, the gate and what passes it: of the same rows, one behind the other */
    case GGML_OP_MUL_MAT_ID:
        while (*number < ggml_graph_n_nodes(graph) && count < MAX_TOGETHER) {
            struct ggml_tensor *next = ggml_graph_node(graph, *number);
            if (is_product(next) && is_computed(next)) {
                if (next->op != node->op || waits_for_one_of(next, products, count))
                    break;
                products[count++] = next;
            }
            ++*number;
        }
        return node->op == GGML_OP_MUL_MAT ? run_products(&b->runner, &b->products, products, count)
                                           : run_experts(&b->runner, &b->experts, products, count);
    default: return NULL; /* views, which take no work */
    }
}

static enum ggml_status compute_graph(ggml_backend_t backend, struct ggml_cgraph *graph) {
    struct backend *b = backend->context;
    const unsigned long long begin = nanoseconds_now();
    for (int i = 0; i < ggml_graph_n_nodes(graph);) {
        const char *name = ggml_graph_node(graph, i)->name, *error = compute_nodes(b, graph, &i);
        if (error) {
            fprintf(stderr, "qkv: %s: %s\n", name, error);
            return GGML_STATUS_FAILED;
        }
    }
    atomic_fetch_add(&device.nanoseconds[number_of(backend->device)], nanoseconds_now() - begin);
    return GGML_STATUS_SUCCESS;
}

static const struct ggml_backend_i backend_interface = {
    .get_name = backend_name, .free = backend_free, .graph_compute = compute_graph};

/* ------------------------------------------------------------------------------------------------ the devices */

static const char *device_description(ggml_backend_dev_t dev) {
    return device.description[number_of(dev)];
}

static void device_memory(ggml_backend_dev_t dev, size_t *free_bytes, size_t *total) {
    (void)dev;
    *free_bytes = *total = 0; /* none of its own */
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t dev) {
    (void)dev;
    return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

static void device_props(ggml_backend_dev_t dev, struct ggml_backend_dev_props *props) {
    *props = (struct ggml_backend_dev_props){.name = device_name(dev),
                                             .description = device_description(dev),
                                             .type = device_type(dev),
                                             .caps = {.buffer_from_host_ptr = number_of(dev) == ATTENTION}};
}

static ggml_backend_t device_backend(ggml_backend_dev_t dev, const char *params) {
    (void)params;
    static ggml_guid guid = {0x71, 0x6b, 0x76, 0x2d, 0x67, 0x67, 0x6d, 0x6c,
                             0x2d, 0x61, 0x74, 0x74, 0x6e, 0x2d, 0x30, 0x31};
    struct backend *b = calloc(1, sizeof *b);
    ggml_backend_t backend = calloc(1, sizeof *backend);
    if (!b || !backend) {
        free(b);
        free(backend);
        return NULL;
    }
    b->runner.ctx = device.ctx;
    b->runner.team.num_threads = 1;
    find_openmp(&b->runner.team);
    atomic_store(&device.has_openmp, b->runner.team.parallel != NULL);
    *backend = (struct ggml_backend){.guid = &guid, .iface = backend_interface, .device = dev, .context = b};
    atomic_fetch_add(&device.silent_backends, 1);
    return backend;
}

static ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t dev) {
    return number_of(dev) == WEIGHTS ? device.weights_buffer_type : ggml_backend_cpu_buffer_type();
}

static ggml_backend_buffer_t device_buffer_from_host(ggml_backend_dev_t dev, void *data, size_t size, size_t largest) {
    (void)dev;
    (void)largest;
    return ggml_backend_cpu_buffer_from_ptr(data, size);
}

static bool device_takes_buffer(ggml_backend_dev_t dev, ggml_backend_buffer_type_t type) {
    return ggml_backend_buft_is_host(type) || (number_of(dev) == WEIGHTS && is_weights_buffer_type(type));
}

/* An op that pays. With flash attention left to itself ("auto"), llama.cpp tries a graph of single queries before it
 * computes anything, and switches flash attention off if another device than that of the layer's weights claims the op:
 * so single queries are not claimed before the host has set the number of threads, which it does before its first real
 * graph. Without OpenMP threads are started for each op, for which single queries are too short. */
static bool claims(const struct ggml_tensor *op) {
    if (device.settings.off || attention_work(op) < device.settings.min_work)
        return false;
    const bool few_queries = op->src[0]->ne[1] < 32;
    const bool may_be_a_trial = atomic_load(&device.silent_backends) > 0;
    const bool starts_threads = atomic_load(&device.num_threads) > 1 && !atomic_load(&device.has_openmp);
    return !few_queries || (!may_be_a_trial && !starts_threads);
}

/* What one row must gain: for it the device ends a region of ggml's threads and begins another. */
#define LEAST_GAIN 1.03

/* Weights are packed when they are loaded, so it is decided for their type, once. Without OpenMP threads would be
 * started for each op, for which rows of single tokens are too short. */
static bool decide_on(enum ggml_type type, bool of_experts) {
    int64_t unused;
    struct team team = {.num_threads = 1};
    if (!type_of_blocks(type, &unused))
        return false;
    if (device.settings.weights)
        return names_weights(device.settings.weights, ggml_type_name(type));
    find_openmp(&team);
    struct comparison found = {0, 0};
    if (!team.parallel || !compare_products(&device.ctx, device.weights_buffer_type, type, of_experts, &found))
        return false;
    const bool takes = found.one_row >= LEAST_GAIN && found.many_rows >= 1;
    if (device.settings.log)
        fprintf(stderr, "qkv: products by %s%s take ggml %.2f times as long for one row, %.2f for many: %s\n",
                ggml_type_name(type), of_experts ? " of experts" : "", found.one_row, found.many_rows,
                takes ? "taken" : "left to ggml");
    return takes;
}

static bool takes_weights(enum ggml_type type, bool of_experts) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    atomic_int *known = &device.takes[type][of_experts];
    int takes = atomic_load(known);
    if (takes == UNKNOWN) {
        pthread_mutex_lock(&mutex);
        takes = atomic_load(known);
        if (takes == UNKNOWN) {
            takes = decide_on(type, of_experts) ? YES : NO;
            atomic_store(known, takes);
        }
        pthread_mutex_unlock(&mutex);
    }
    return takes == YES;
}

static bool device_supports(ggml_backend_dev_t dev, const struct ggml_tensor *op) {
    switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE: return true;
    case GGML_OP_MUL_MAT:
        return number_of(dev) == WEIGHTS && supports_product(op) && takes_weights(op->src[0]->type, false);
    case GGML_OP_MUL_MAT_ID:
        return number_of(dev) == WEIGHTS && supports_experts(op) && takes_weights(op->src[0]->type, true);
    case GGML_OP_FLASH_ATTN_EXT:
        if (number_of(dev) != ATTENTION)
            return false;
        atomic_fetch_add(&device.epoch, 1);
        return claims(op) && supports_attention(&device.ctx, op);
    default: return false;
    }
}

static const struct ggml_backend_device_i device_interface = {.get_name = device_name,
                                                              .get_description = device_description,
                                                              .get_memory = device_memory,
                                                              .get_type = device_type,
                                                              .get_props = device_props,
                                                              .init_backend = device_backend,
                                                              .get_buffer_type = device_buffer_type,
                                                              .buffer_from_host_ptr = device_buffer_from_host,
                                                              .supports_op = device_supports,
                                                              .supports_buft = device_takes_buffer};

/* ------------------------------------------------------------------------------------------- the registration */

static const char *reg_name(ggml_backend_reg_t reg) {
    (void)reg;
    return "QKV";
}

static size_t reg_num_devices(ggml_backend_reg_t reg) {
    (void)reg;
    return device.takes_any_weights ? NUM_DEVICES : 1;
}

static ggml_backend_dev_t reg_device(ggml_backend_reg_t reg, size_t index) {
    return index < reg_num_devices(reg) ? &devices[index] : NULL;
}

static void *reg_function(ggml_backend_reg_t reg, const char *name) {
    (void)reg;
    ggml_backend_set_n_threads_t set_threads = set_num_threads;
    double (*of_attention)(void) = attention_seconds, (*of_products)(void) = product_seconds; /* for benchmarks */
    void *address = NULL; /* C has no conversion of functions to void * */
    if (strcmp(name, "ggml_backend_set_n_threads") == 0)
        memcpy(&address, &set_threads, sizeof address);
    else if (strcmp(name, "qkv_attention_seconds") == 0)
        memcpy(&address, &of_attention, sizeof address);
    else if (strcmp(name, "qkv_product_seconds") == 0)
        memcpy(&address, &of_products, sizeof address);
    return address;
}

static ggml_backend_reg_t registration(void) {
    static struct ggml_backend_reg reg = {
        .api_version = GGML_BACKEND_API_VERSION, /* a ggml of another one says so and does not use what follows */
        .iface = {.get_name = reg_name,
                  .get_device_count = reg_num_devices,
                  .get_device = reg_device,
                  .get_proc_address = reg_function}};
    device.settings = read_settings();
    const qkv_config config = {.size = sizeof config, .isa = device.settings.isa};
    const qkv_status status = qkv_init(&device.ctx, &config);
    if (status != QKV_OK) {
        fprintf(stderr, "qkv: QKV_ISA=%s: %s\n", device.settings.isa ? device.settings.isa : "",
                qkv_status_string(status));
        return NULL;
    }
    static const char *const what[NUM_DEVICES] = {"attention", "products by weights"};
    for (int i = 0; i < NUM_DEVICES; i++) {
        devices[i] = (struct ggml_backend_device){.iface = device_interface, .reg = &reg};
        snprintf(device.description[i], sizeof device.description[i], "%s by qkv %s, kernel set %s", what[i],
                 qkv_version(), device.ctx.isa);
    }
    const char *weights = device.settings.weights;
    device.takes_any_weights = !device.settings.off && (!weights || strcmp(weights, "0") != 0);
    device.weights_buffer_type = weights_buffer_type(&devices[WEIGHTS], &device.ctx);
    if (device.settings.log)
        fprintf(stderr, "qkv: %s%s\n", device.description[ATTENTION], device.settings.off ? ", off" : "");
    return &reg;
}

GGML_BACKEND_DL_IMPL(registration)

/* Among the files beside its programs ggml loads those that have a score and a name it knows: libggml-blas-qkv.so. */
static int score(void) {
    return 1;
}

GGML_BACKEND_DL_SCORE_IMPL(score)
