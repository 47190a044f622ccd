/* From ggml's tensors to a descriptor, and running it. ggml's axes, fastest first, are: channels, tokens, heads,
 * sequences for q, k and v; channels, heads, tokens, sequences for the output; keys, queries, heads, sequences for the
 * mask, of whose heads and sequences there may be fewer: they then repeat.
 *
 * SPDX-License-Identifier: MIT */
#include "attention_op.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { Q, K, V, MASK, SINKS };

struct parameters {
    float scale, max_bias, softcap;
};

static struct parameters parameters_of(const struct ggml_tensor *op) {
    struct parameters p;
    memcpy(&p, op->op_params, sizeof p);
    return p;
}

static bool storage_type(enum ggml_type from, int32_t *to) {
    switch (from) {
    case GGML_TYPE_F32: *to = QKV_F32; return true;
    case GGML_TYPE_F16: *to = QKV_F16; return true;
    case GGML_TYPE_BF16: *to = QKV_BF16; return true;
    case GGML_TYPE_Q8_0: *to = QKV_Q8_0; return true;
    default: return false;
    }
}

/* A stride in bytes as one in elements. */
static bool stride(const struct ggml_tensor *t, int axis, int64_t *elements) {
    const size_t block = ggml_type_size(t->type);
    *elements = (int64_t)(t->nb[axis] / block) * ggml_blck_size(t->type);
    return t->nb[axis] % block == 0;
}

static bool input_of(const struct ggml_tensor *t, qkv_input *input, int32_t *type) {
    input->data = t->data;
    return storage_type(t->type, type) && t->nb[0] == ggml_type_size(t->type) && stride(t, 1, &input->token) &&
           stride(t, 2, &input->head) && stride(t, 3, &input->batch);
}

/* The mask belongs to all heads or to each, to all sequences or to each. */
static bool mask_fits(const struct ggml_tensor *mask, const struct ggml_tensor *q, const struct ggml_tensor *k) {
    return mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(ggml_fp16_t) && mask->ne[0] == k->ne[1] &&
           mask->ne[1] >= q->ne[1] && (mask->ne[2] == 1 || mask->ne[2] == q->ne[2]) &&
           (mask->ne[3] == 1 || mask->ne[3] == q->ne[3]);
}

/* The call without its mask. False for what has no word in a descriptor. */
static bool describe(const struct ggml_tensor *op, qkv_attention_desc *d) {
    const struct ggml_tensor *q = op->src[Q], *k = op->src[K], *v = op->src[V], *mask = op->src[MASK];
    const struct ggml_tensor *sinks = op->src[SINKS];
    const struct parameters p = parameters_of(op);
    *d = (qkv_attention_desc){.size = sizeof *d,
                              .batch = q->ne[3],
                              .num_heads = q->ne[2],
                              .num_kv_heads = k->ne[2],
                              .seq_q = q->ne[1],
                              .seq_k = k->ne[1],
                              .head_dim = q->ne[0],
                              .head_dim_v = v->ne[0],
                              .scale = p.scale,
                              .softcap = p.softcap,
                              .flags = QKV_SCALE | QKV_HEAD_DIM_V,
                              .sinks = sinks ? sinks->data : NULL};
    d->out = (qkv_output){op->data, .head = (int64_t)(op->nb[1] / sizeof(float)),
                          .token = (int64_t)(op->nb[2] / sizeof(float)), .batch = (int64_t)(op->nb[3] / sizeof(float))};
    return op->type == GGML_TYPE_F32 && op->nb[0] == sizeof(float) && q->type != GGML_TYPE_Q8_0 &&
           input_of(q, &d->q, &d->q_type) && input_of(k, &d->k, &d->k_type) && input_of(v, &d->v, &d->v_type) &&
           k->ne[0] == q->ne[0] && v->ne[1] == k->ne[1] && v->ne[2] == k->ne[2] && k->ne[3] == q->ne[3] &&
           v->ne[3] == q->ne[3] && (!mask || mask_fits(mask, q, k)) &&
           (!sinks || (sinks->type == GGML_TYPE_F32 && sinks->ne[0] == q->ne[2])) && (mask || p.max_bias == 0);
}

bool supports_attention(const qkv_ctx *ctx, const struct ggml_tensor *op) {
    qkv_attention_desc d;
    qkv_plan plan;
    return describe(op, &d) && qkv_attention_plan(ctx, &d, 1, &plan) == QKV_OK;
}

int64_t attention_work(const struct ggml_tensor *op) {
    const struct ggml_tensor *q = op->src[Q], *k = op->src[K], *v = op->src[V];
    return q->ne[1] * q->ne[2] * q->ne[3] * k->ne[1] * (q->ne[0] + v->ne[0]);
}

/* Bytes from an element to the one so many elements after it. */
static int64_t bytes_of(int32_t type, int64_t elements) {
    return type == QKV_F32 ? 4 * elements : type == QKV_Q8_0 ? elements / 32 * 34 : 2 * elements;
}

static qkv_input part_of(qkv_input all, int32_t type, int64_t batch, int64_t head) {
    all.data = (const char *)all.data + bytes_of(type, batch * all.batch + head * all.head);
    return all;
}

static const char *run_described(struct runner *runner, const qkv_attention_desc *d) {
    qkv_plan plan;
    qkv_status status = qkv_attention_plan(&runner->ctx, d, runner->team.num_threads, &plan);
    if (status == QKV_OK && !reserve_workspace(runner, plan.workspace_size))
        return "out of memory";
    if (status == QKV_OK)
        status =
            qkv_attention_run_parallel(&plan, d, runner->workspace, runner->workspace_size, team_for, &runner->team);
    return status == QKV_OK ? NULL : qkv_status_string(status);
}

/* ALiBi's slope of a head as ggml has it: the authors' for powers of two, the others between them. */
static float slope_of(int64_t head, int64_t num_heads, float max_bias) {
    int64_t power = 1;
    while (2 * power <= num_heads)
        power *= 2;
    return head < power ? powf(2, -max_bias * (float)(head + 1) / (float)power)
                        : powf(2, -max_bias / 2 * (float)(2 * (head - power) + 1) / (float)power);
}

struct scaling {
    const float *from;
    float *to;
    int64_t keys;
    float slope;
};

static void scale_row(void *arg, int64_t row, int32_t worker) {
    (void)worker;
    const struct scaling *s = arg;
    for (int64_t j = row * s->keys; j < (row + 1) * s->keys; j++)
        s->to[j] = s->slope * s->from[j];
}

/* With ALiBi each head multiplies the mask by a slope of its own, so heads and sequences run one by one. */
static const char *run_heads_alone(struct runner *runner, struct attention_state *state, const qkv_attention_desc *all,
                                   const struct mask *mask, float max_bias) {
    const int64_t matrix = mask->queries * mask->keys;
    if (matrix > state->head_bias_room) {
        free(state->head_bias);
        state->head_bias = malloc((size_t)matrix * sizeof(float));
        state->head_bias_room = state->head_bias ? matrix : 0;
        if (!state->head_bias)
            return "out of memory";
    }
    for (int64_t b = 0; b < all->batch; b++) {
        for (int64_t h = 0; h < all->num_heads; h++) {
            const int64_t part = b % mask->batch * mask->heads + h % mask->heads;
            struct scaling scaling = {.from = mask->bias + part * matrix,
                                      .to = state->head_bias,
                                      .keys = mask->keys,
                                      .slope = slope_of(h, all->num_heads, max_bias)};
            team_for(&runner->team, mask->queries, scale_row, &scaling);

            qkv_attention_desc d = *all;
            const int64_t kv = h / (all->num_heads / all->num_kv_heads);
            d.batch = d.num_heads = d.num_kv_heads = 1;
            d.q = part_of(all->q, all->q_type, b, h);
            d.k = part_of(all->k, all->k_type, b, kv);
            d.v = part_of(all->v, all->v_type, b, kv);
            d.out.data = (float *)all->out.data + b * all->out.batch + h * all->out.head;
            d.sinks = all->sinks ? all->sinks + h : NULL;
            d.bias = (qkv_matrix_input){state->head_bias, .query = mask->keys, .key = 1};
            d.key_ranges = (qkv_ranges){mask->ranges + 2 * part * mask->queries, .query = 2};
            d.kv_len = mask->kv_len + b % mask->batch;
            const char *error = run_described(runner, &d);
            if (error)
                return error;
        }
    }
    return NULL;
}

const char *run_attention(struct runner *runner, struct attention_state *state, struct ggml_tensor *op) {
    qkv_attention_desc d;
    if (!describe(op, &d))
        return "an op that was not claimed";
    state->ops++;
    if (!op->src[MASK])
        return run_described(runner, &d);
    struct mask *mask = look_at_mask(&state->masks, op->src[MASK], d.seq_q, &runner->team);
    if (!mask)
        return "out of memory";
    const bool each_head = mask->heads > 1, needs_bias = !mask->only_ranges || each_head;
    const float max_bias = parameters_of(op).max_bias;
    if (needs_bias && !mask_as_bias(mask, &runner->team))
        return "out of memory";
    state->biased_ops += needs_bias;
    if (needs_bias && max_bias > 0)
        return run_heads_alone(runner, state, &d, mask, max_bias);
    if (!each_head)
        d.key_ranges = (qkv_ranges){mask->ranges, .batch = mask->batch > 1 ? 2 * d.seq_q : 0, .query = 2};
    if (mask->batch == d.batch)
        d.kv_len = mask->kv_len;
    if (needs_bias) {
        const int64_t matrix = d.seq_q * d.seq_k;
        d.bias = (qkv_matrix_input){mask->bias, .batch = mask->batch > 1 ? matrix * mask->heads : 0,
                                    .head = each_head ? matrix : 0, .query = d.seq_k, .key = 1};
    }
    return run_described(runner, &d);
}

void free_attention_state(struct attention_state *state) {
    free_masks(&state->masks);
    free(state->head_bias);
}
