/* What all operations share.  SPDX-License-Identifier: MIT */
#include "plan.h"

#include <string.h>

/* Larger than any descriptor will be: an uninitialised size must not send the library through memory. */
enum { MAX_DESC_SIZE = 4096 };

qkv_status qkv_import(void *copy, size_t known, const void *desc, qkv_problem *why) {
    if (!desc)
        return qkv_refuse(why, QKV_ERROR_NULL, NULL, -1, "the descriptor is NULL", 0, 0);
    size_t size;
    memcpy(&size, desc, sizeof size);
    if (size < known || size > MAX_DESC_SIZE)
        return qkv_refuse(why, QKV_ERROR_SIZE, "size", -1, "is %, but this library's struct has % bytes", (int64_t)size,
                          (int64_t)known);
    const unsigned char *bytes = desc;
    for (size_t i = known; i < size; i++) {
        if (bytes[i] != 0)
            return qkv_refuse(why, QKV_ERROR_SIZE, "size", -1,
                              "is %: byte % is of a field that this library does not know, and not zero", (int64_t)size,
                              (int64_t)i);
    }
    memcpy(copy, desc, known);
    memcpy(copy, &known, sizeof known);
    return QKV_OK;
}

/* Its bytes beyond what is known lie beyond what is known of the outer one, and have been found to be zero. */
qkv_status qkv_import_inner(size_t *size, size_t known, size_t available, qkv_problem *why) {
    if (*size < known || *size > available)
        return qkv_refuse(why, QKV_ERROR_SIZE, "size", -1,
                          *size < known ? "is %, but this library's struct has % bytes"
                                        : "is %, but the outer descriptor's size leaves % bytes",
                          (int64_t)*size, (int64_t)(*size < known ? known : available));
    *size = known;
    return QKV_OK;
}

bool qkv_product(const int64_t *factors, size_t n, int64_t max, int64_t *product) {
    *product = 1;
    for (size_t i = 0; i < n; i++) {
        if (factors[i] == 0) {
            *product = 0;
            return true;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (__builtin_mul_overflow(*product, factors[i], product))
            return false;
    }
    return *product >= 0 && *product <= max;
}

/* One of the chains whose sums make a checksum: several are under way at once. */
static uint64_t mix(uint64_t sum, int64_t field) {
    sum = (sum ^ (uint64_t)field) * UINT64_C(0x9e3779b97f4a7c15);
    return sum ^ sum >> 32;
}

uint64_t qkv_checksum(const int64_t *fields, size_t n) {
    enum { CHAINS = 4 };
    uint64_t sum[CHAINS] = {n, 1, 2, 3};
    size_t i = 0;
    for (; i + CHAINS <= n; i += CHAINS) {
        for (size_t c = 0; c < CHAINS; c++)
            sum[c] = mix(sum[c], fields[i + c]);
    }
    for (; i < n; i++)
        sum[0] = mix(sum[0], fields[i]);
    for (size_t c = 1; c < CHAINS; c++)
        sum[0] = mix(sum[0], (int64_t)sum[c]);
    return sum[0];
}

int64_t qkv_float_field(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (int64_t)bits;
}

int32_t qkv_stage_of_phase(const qkv_plan *plan, int32_t *phase) {
    int32_t stage = 0;
    while (stage + 1 < QKV_MAX_STAGES && *phase > plan->more_phases[stage])
        *phase -= 1 + plan->more_phases[stage++];
    return stage;
}

int64_t qkv_plan_num_tasks(const qkv_plan *plan, int32_t phase) {
    if (!plan || phase < 0 || phase >= plan->num_phases)
        return 0;
    return plan->num_tasks[qkv_stage_of_phase(plan, &phase)];
}

typedef struct phase_call {
    const qkv_plan *plan;
    const void *desc;
    void *workspace;
    qkv_execute execute;
    int32_t phase;
} phase_call;

static void phase_task(void *arg, int64_t index, int32_t worker) {
    const phase_call *call = arg;
    call->execute(call->plan, call->desc, call->workspace, call->phase, index, worker);
}

void qkv_run_phases(const qkv_plan *plan, const void *desc, void *workspace, qkv_execute execute,
                    qkv_parallel_for parallel_for, void *pool) {
    phase_call call = {plan, desc, workspace, execute, 0};
    for (; call.phase < plan->num_phases; call.phase++) {
        int64_t num_tasks = qkv_plan_num_tasks(plan, call.phase);
        if (parallel_for && num_tasks > 1) {
            parallel_for(pool, num_tasks, phase_task, &call);
            continue;
        }
        for (int64_t i = 0; i < num_tasks; i++)
            phase_task(&call, i, 0);
    }
}
