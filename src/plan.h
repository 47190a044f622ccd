/* What all operations share: reading descriptors, checking sizes and pointers, running phases.
 * SPDX-License-Identifier: MIT */
#ifndef QKV_PLAN_H
#define QKV_PLAN_H

#include "check.h"
#include "kernels/kernels.h"

QKV_INTERNAL_BEGIN

enum qkv_operation {
    QKV_ATTENTION = 1,
    QKV_PROJECTION,
    QKV_MERGE,
    QKV_LAYER,
    QKV_ATTENTION_BACKWARD,
    QKV_PROJECTION_BACKWARD,
    QKV_LAYER_BACKWARD
};

/* Copies a descriptor, which begins with its own size, into one of the size this library knows, and gives it that size:
 * bytes it does not have are zero, bytes beyond must be. */
qkv_status qkv_import(void *copy, size_t known, const void *desc, qkv_problem *why);

/* The last field of an imported descriptor is one too, *size its size, `available` what the outer one has room for. */
qkv_status qkv_import_inner(size_t *size, size_t known, size_t available, qkv_problem *why);

/* *product = a·b·…; false if a factor is negative or the product exceeds max. */
bool qkv_product(const int64_t *factors, size_t n, int64_t max, int64_t *product);

/* A number for the fields that a run may not change: all but addresses. Optional pointers count by being there or not,
 * which is part of the plan too; required ones may be missing from it. */
uint64_t qkv_checksum(const int64_t *fields, size_t n);

int64_t qkv_float_field(float x);

/* The stage of a phase; *phase becomes its number within the stage. */
int32_t qkv_stage_of_phase(const qkv_plan *plan, int32_t *phase);

/* A task of any operation; desc has been imported. */
typedef void (*qkv_execute)(const qkv_plan *plan, const void *desc, void *workspace, int32_t phase, int64_t index,
                            int32_t worker);

/* Runs all phases, in this thread when parallel_for is NULL. */
void qkv_run_phases(const qkv_plan *plan, const void *desc, void *workspace, qkv_execute execute,
                    qkv_parallel_for parallel_for, void *pool);

/* What one operation wrote, for the next one to read. */
static inline qkv_input qkv_as_input(const qkv_output *x) {
    return (qkv_input){x->data, x->batch, x->head, x->token};
}

/* A stride along an axis of one element, or in a tensor without any, may be anything: it becomes 0 when a descriptor is
 * completed, so that no address is computed with it. */
static inline int64_t qkv_settled(int64_t stride, int64_t size, bool none) {
    return size == 1 || none ? 0 : stride;
}

static inline void qkv_settle(int64_t *stride, int64_t size, bool none) {
    *stride = qkv_settled(*stride, size, none);
}

static inline bool qkv_is_empty(int64_t batches, int64_t heads, int64_t tokens, int64_t channels) {
    return (batches < 1) | (heads < 1) | (tokens < 1) | (channels < 1);
}

static inline void qkv_settle_input(qkv_input *x, int64_t batches, int64_t heads, int64_t tokens, int64_t channels) {
    const bool none = qkv_is_empty(batches, heads, tokens, channels);
    qkv_settle(&x->batch, batches, none);
    qkv_settle(&x->head, heads, none);
    qkv_settle(&x->token, tokens, none);
}

static inline void qkv_settle_output(qkv_output *x, int64_t batches, int64_t heads, int64_t tokens, int64_t channels) {
    qkv_input strides = qkv_as_input(x);
    qkv_settle_input(&strides, batches, heads, tokens, channels);
    *x = (qkv_output){x->data, strides.batch, strides.head, strides.token};
}

static inline void qkv_settle_matrix_input(qkv_matrix_input *x, int64_t batches, int64_t heads, int64_t queries,
                                           int64_t keys) {
    const bool none = qkv_is_empty(batches, heads, queries, keys);
    qkv_settle(&x->batch, batches, none);
    qkv_settle(&x->head, heads, none);
    qkv_settle(&x->query, queries, none);
    qkv_settle(&x->key, keys, none);
}

static inline void qkv_settle_matrix_output(qkv_matrix_output *x, int64_t batches, int64_t heads, int64_t queries,
                                            int64_t keys) {
    qkv_matrix_input strides = {x->data, x->batch, x->head, x->query, x->key};
    qkv_settle_matrix_input(&strides, batches, heads, queries, keys);
    *x = (qkv_matrix_output){x->data, strides.batch, strides.head, strides.query, strides.key};
}

/* The next multiple of m ≥ 1. */
static inline int64_t qkv_round_up(int64_t x, int64_t m) {
    return (x + m - 1) / m * m;
}

static inline int64_t qkv_ceil_div(int64_t x, int64_t y) {
    return x / y + (x % y > 0); /* x may be the largest number there is, next to a size of 0 */
}

static inline int64_t qkv_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t qkv_max(int64_t a, int64_t b) {
    return a > b ? a : b;
}

QKV_INTERNAL_END

#endif
