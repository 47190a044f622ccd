/* What all operations share.  SPDX-License-Identifier: MIT */
#include "plan.h"

#include <string.h>

/* Larger than any descriptor will be: an uninitialised size must not send the library through memory. */
enum { MAX_DESC_SIZE = 4096 };

qkv_status qkv_import(void *copy, size_t known, const void *desc) {
    if (!desc)
        return QKV_ERROR_NULL;
    size_t size;
    memcpy(&size, desc, sizeof size);
    if (size < known || size > MAX_DESC_SIZE)
        return QKV_ERROR_SIZE;
    const unsigned char *bytes = desc;
    for (size_t i = known; i < size; i++) {
        if (bytes[i] != 0)
            return QKV_ERROR_SIZE;
    }
    memcpy(copy, desc, known);
    return QKV_OK;
}

bool qkv_not_negative(const int64_t *sizes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (sizes[i] < 0)
            return false;
    }
    return true;
}

bool qkv_fits(size_t element_size, const int64_t *sizes, const int64_t *strides, size_t n) {
    int64_t reach = 1;
    for (size_t i = 0; i < n; i++) {
        if (sizes[i] == 0)
            return true;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t step;
        if (strides[i] == INT64_MIN || __builtin_mul_overflow(sizes[i] - 1, strides[i], &step) || step == INT64_MIN ||
            __builtin_add_overflow(reach, step < 0 ? -step : step, &reach))
            return false;
    }
    return reach <= PTRDIFF_MAX / (int64_t)element_size;
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

static bool check_pointer(qkv_pointers *p, const void *data, size_t alignment, bool has_elements) {
    if (!has_elements)
        return false;
    qkv_status status = !data ? QKV_ERROR_NULL : (uintptr_t)data % alignment ? QKV_ERROR_ALIGNMENT : QKV_OK;
    if (p->status == QKV_OK)
        p->status = status;
    return status == QKV_OK;
}

void qkv_add_input(qkv_pointers *p, const void *data, size_t alignment, bool has_elements) {
    if (check_pointer(p, data, alignment, has_elements))
        p->input[p->num_inputs++] = data;
}

void qkv_add_output(qkv_pointers *p, const void *data, size_t alignment, bool has_elements) {
    if (check_pointer(p, data, alignment, has_elements))
        p->output[p->num_outputs++] = data;
}

qkv_status qkv_check_pointers(const qkv_pointers *p) {
    if (p->status != QKV_OK)
        return p->status;
    for (size_t i = 0; i < p->num_outputs; i++) {
        for (size_t j = 0; j < p->num_inputs; j++) {
            if (p->output[i] == p->input[j])
                return QKV_ERROR_ALIAS;
        }
        for (size_t j = 0; j < i; j++) {
            if (p->output[i] == p->output[j])
                return QKV_ERROR_ALIAS;
        }
    }
    return QKV_OK;
}

qkv_status qkv_check_workspace(const qkv_plan *plan, const void *workspace, size_t workspace_size) {
    if (workspace_size < plan->workspace_size)
        return QKV_ERROR_WORKSPACE;
    if (plan->workspace_size == 0)
        return QKV_OK;
    if (!workspace)
        return QKV_ERROR_NULL;
    return (uintptr_t)workspace % 64 ? QKV_ERROR_ALIGNMENT : QKV_OK;
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
