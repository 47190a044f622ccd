/* What a test of the adapter needs of its host: the backends, numbers that are drawn, and a count of what is right.
 * SPDX-License-Identifier: MIT */
#ifndef HOST_H
#define HOST_H

#include <ggml-backend.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct host {
    ggml_backend_dev_t device; /* of the adapter */
    ggml_backend_t cpu, qkv;
    ggml_backend_set_n_threads_t set_threads; /* of qkv */
    int passed, failed;
};

static inline void check(struct host *host, bool is_true, const char *what) {
    if (is_true)
        host->passed++;
    else
        host->failed++;
    printf("%s: %s\n", is_true ? "ok" : "FAILED", what);
}

static inline ggml_backend_set_n_threads_t threads_function(ggml_backend_t backend) {
    void *address = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(ggml_backend_get_device(backend)),
                                                      "ggml_backend_set_n_threads");
    ggml_backend_set_n_threads_t function;
    memcpy(&function, &address, sizeof function);
    return function;
}

/* Device `number` of the adapter beside ggml's CPU backend, both with two threads. False, with a reason on stderr. */
static inline bool open_host(struct host *host, const char *backends, const char *adapter, size_t number) {
    ggml_backend_load_all_from_path(backends);
    ggml_backend_reg_t reg = ggml_backend_load(adapter);
    *host = (struct host){.cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL)};
    if (!reg || !host->cpu) {
        fprintf(stderr, "%s could not be loaded\n", reg ? "the CPU backend" : adapter);
        return false;
    }
    if (number >= ggml_backend_reg_dev_count(reg)) {
        fprintf(stderr, "there is no QKV_WEIGHTS\n");
        return false;
    }
    host->device = ggml_backend_reg_dev_get(reg, number);
    host->qkv = ggml_backend_dev_init(host->device, NULL);
    printf("%s\n", ggml_backend_dev_description(host->device));
    host->set_threads = threads_function(host->qkv);
    host->set_threads(host->qkv, 2);
    threads_function(host->cpu)(host->cpu, 2);
    return true;
}

/* The exit status of the test. */
static inline int close_host(struct host *host) {
    ggml_backend_free(host->qkv);
    ggml_backend_free(host->cpu);
    printf("%d passed, %d failed, 0 skipped\n", host->passed, host->failed);
    return host->failed > 0;
}

static inline uint64_t next(uint64_t *seed) { /* SplitMix64 */
    uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline int64_t below(uint64_t *seed, int64_t n) {
    return (int64_t)(next(seed) % (uint64_t)n);
}

#endif
