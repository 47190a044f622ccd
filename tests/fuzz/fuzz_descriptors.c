/* Any descriptor of any operation: the plan refuses it in words, or it runs with buffers laid out as it says, on the
 * reference in one thread and on the best kernel set in three, and both write the same bits and no byte besides.
 * For libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer: scripts/check/fuzz.sh.
 *
 * SPDX-License-Identifier: MIT */
#include "qkv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#include "fuzz_draw.h"

/* ------------------------------------------------------------------------------------------------------ drawing */

static void draw_types(qkv_attention_desc *d) {
    d->q_type = (int32_t)pick(chance(98) ? 3 : 6) - (chance(1) ? 1 : 0);
    d->k_type = (int32_t)pick(chance(98) ? 5 : 7);
    d->v_type = (int32_t)pick(chance(98) ? 5 : 7);
    d->out_type = (int32_t)pick(chance(98) ? 3 : 6);
    if ((d->k_type == QKV_Q8_0 || d->v_type == QKV_Q8_0) && chance(95)) {
        d->head_dim = 32 * pick(3);
        d->head_dim_v = chance(40) ? 32 * pick(4) : 0;
    }
}

static void draw_attention(qkv_attention_desc *d, bool inner) {
    *d = (qkv_attention_desc){.size = sizeof *d,
                              .batch = small(),
                              .num_kv_heads = small(),
                              .seq_q = length(),
                              .seq_k = length(),
                              .head_dim = width(),
                              .head_dim_v = chance(40) ? width() : 0};
    d->num_heads = d->num_kv_heads * (1 + pick(3));
    if (chance(inner ? 1 : 40))
        draw_types(d);
    if (chance(10))
        d->num_heads = small();
    if (inner)
        d->seq_k = d->seq_q;
    const uint32_t flags[] = {0, QKV_RIGHT, QKV_LEFT, QKV_LEFT | QKV_RIGHT};
    d->flags = flags[pick(4)] | (chance(10) ? QKV_SCALE : 0) | (chance(10) ? QKV_HEAD_DIM_V : 0) |
               (chance(15) ? QKV_FROM_END : 0);
    d->first_tokens = chance(90) ? 0 : pick(chance(90) ? 90 : 300);
    d->left = pick(30) - 5;
    d->right = chance(60) ? 0 : pick(30) - 5;
    d->q_offset = chance(50) ? 0 : pick(60) - 20;
    d->scale = chance(70) ? 0 : (float)(pick(9) - 4);
    d->softcap = chance(80) ? 0 : (float)(1 + pick(5));
    d->arithmetic = chance(60) ? QKV_ARITHMETIC_F32 : (int64_t)pick(chance(95) ? 3 : 5);
    int64_t kv = d->num_kv_heads ? d->num_kv_heads : d->num_heads;
    int64_t dv = d->head_dim_v || d->flags & QKV_HEAD_DIM_V ? d->head_dim_v : d->head_dim;
    const int64_t rows[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k}, keys[3] = {d->batch, kv, d->seq_k};
    const int64_t blocks[4] = {d->batch, d->num_heads, d->seq_q, (d->seq_k + 255) / 256};
    ROWS(d->q, rows, d->head_dim, false);
    draw_stored(&d->k, d->k_type, keys, d->head_dim);
    draw_stored(&d->v, d->v_type, keys, dv);
    ROWS(d->k_scales, keys, 1, false);
    ROWS(d->v_scales, keys, 1, false);
    ROWS(d->k_means, ((int64_t[]){d->batch, kv, 1}), d->head_dim, false);
    OPTION(d->k_means.data, d->arithmetic == QKV_ARITHMETIC_INT8 && d->k_type != QKV_INT8 ? 40 : 1);
    ROWS(d->out, rows, dv, true);
    ROWS(d->lse, rows, 1, true);
    OPTION(d->lse.data, 40);
    MATRIX(d->bias, rows, 1, false);
    OPTION(d->bias.data, 20);
    MATRIX(d->keep, rows, 1, false);
    OPTION(d->keep.data, 20);
    MATRIX(d->probabilities, rows, 1, true);
    OPTION(d->probabilities.data, 15);
    MATRIX(d->scores, rows, 1, true);
    OPTION(d->scores.data, 15);
    d->scores_stage = chance(99) ? (uint32_t)pick(3) : 3;
    d->dropout = chance(80) ? 0 : (float)pick(9) / 8;
    d->dropout_seed = (uint64_t)pick(1 << 20);
    d->dropout_offset = chance(50) ? 0 : UINT64_MAX - (uint64_t)pick(4);
    OPTION(d->q_offsets, 15);
    OPTION(d->kv_len, 20);
    OPTION(d->alibi_slopes, 15);
    OPTION(d->sinks, 15);
    MATRIX(d->states, blocks, dv + 2, true);
    d->key_ranges = (qkv_ranges){chance(10) ? (const void *)somewhere : NULL, pick(3) * 2 * d->seq_q, 2 * pick(3)};
    if (!inner && chance(30)) {
        OPTION(d->q_start, 50);
        OPTION(d->k_start, 40);
        OPTION(d->page_table, d->k_start ? 3 : 50);
        if (d->page_table || chance(2)) {
            d->page_tokens = chance(95) ? 16 * (1 + pick(3)) : pick(40) - 5;
            d->num_pages = pick(12);
            d->table_stride = chance(90) ? (d->seq_k + 15) / 16 + pick(3) : pick(9) - 4;
        }
    }
    if (!inner && chance(15)) {
        d->k_layout = chance(98) ? QKV_KEY_PANELS : 2;
        d->k_start = chance(2) ? d->k_start : NULL;
        d->page_tokens = chance(95) ? d->page_tokens / 16 * 64 : d->page_tokens;
        const int64_t panels[3] = {keys[0], kv, (d->seq_k + 63) / 64};
        draw_stored(&d->k, d->k_type, panels, 64 * d->head_dim);
    }
    if (!inner && chance(10)) {
        d->states.data = somewhere;
        d->lse.data = d->probabilities.data = d->scores.data = NULL;
    }
}

static void draw_projection(qkv_projection_desc *d) {
    *d = (qkv_projection_desc){.size = sizeof *d,
                               .batch = small(),
                               .tokens = length(),
                               .in_features = width(),
                               .num_parts = chance(3) ? pick(6) : 1 + pick(4)};
    const int64_t rows[3] = {d->batch, 1, d->tokens};
    const bool typed = chance(40);
    if (typed) {
        d->in_features = chance(60) ? 32 * pick(4) : chance(50) ? 256 : d->in_features;
        d->arithmetic = chance(98) ? pick(2) : pick(5) - 1;
    }
    ROWS(d->x, rows, d->in_features, false);
    for (int i = 0; i < QKV_MAX_PARTS; i++) {
        qkv_projection_part *p = &d->part[i];
        int64_t heads = small();
        p->type = typed ? draw_type(d->in_features, d->arithmetic != 0) : QKV_F32;
        p->head_dim = width();
        p->out_features = chance(95) ? heads * p->head_dim : width();
        const int64_t out[3] = {d->batch, p->head_dim ? heads : 1, d->tokens};
        ROWS(p->out, out, p->head_dim ? p->head_dim : p->out_features, true);
        OPTION(p->bias, 40);
    }
    for (int i = 0; i < QKV_MAX_PARTS && chance(40); i++) {
        draw_steps(&d->steps[i], d->tokens);
        d->rope = draw_rope(d->part[i].head_dim ? d->part[i].head_dim : d->part[i].out_features);
    }
}

static void draw_grad(qkv_weight_grad *g, int64_t in, int64_t out) {
    g->layout = chance(98) ? pick(2) : pick(256);
    int64_t columns = g->layout == QKV_IN_OUT ? out : in;
    g->stride = chance(50) ? 0 : columns + pick(4);
    OPTION(g->data, 60);
    OPTION(g->bias, 50);
}

static void draw_layer(qkv_layer_desc *d) {
    *d = (qkv_layer_desc){.size = sizeof *d, .model_dim = width(), .out_features = width()};
    qkv_attention_desc *a = &d->attention;
    draw_attention(a, true);
    OPTION(d->w_qkv, 75);
    OPTION(d->w_o, 70);
    if (!d->w_qkv && chance(90)) {
        d->model_dim = a->head_dim;
        a->head_dim_v = 0;
        a->num_kv_heads = chance(50) ? 1 : a->num_heads;
    }
    int64_t dv = a->head_dim_v || a->flags & QKV_HEAD_DIM_V ? a->head_dim_v : a->head_dim;
    if (!d->w_o && chance(90))
        d->out_features = a->num_heads * dv;
    OPTION(d->bias_q, d->w_qkv ? 40 : 2);
    OPTION(d->bias_k, d->w_qkv ? 40 : 2);
    OPTION(d->bias_v, d->w_qkv ? 40 : 2);
    OPTION(d->bias_o, d->w_o ? 40 : 2);
    OPTION(d->x_kv.data, 25);
    if (d->x_kv.data) {
        a->seq_k = length();
        OPTION(d->w_kv, d->w_qkv ? 50 : 2);
        d->kv_dim = d->w_kv ? width() : 0;
    }
    if (d->w_qkv && chance(40)) {
        d->model_dim = chance(60) ? 32 * pick(4) : chance(50) ? 256 : d->model_dim;
        d->kv_dim = d->w_kv && chance(50) ? 32 * pick(3) : d->kv_dim;
        d->arithmetic = chance(98) ? pick(2) : pick(5) - 1;
        d->wq_type = (int32_t)draw_type(d->model_dim, d->arithmetic != 0);
        d->wk_type = (int32_t)draw_type(d->w_kv ? kv_dim(d) : d->model_dim, d->arithmetic != 0);
        d->wv_type = (int32_t)draw_type(d->w_kv ? kv_dim(d) : d->model_dim, d->arithmetic != 0);
        d->wo_type = d->w_o ? (int32_t)draw_type(a->num_heads * dv, d->arithmetic != 0) : 0;
    }
    const int64_t rows[3] = {a->batch, 1, a->seq_q}, keys[3] = {a->batch, 1, a->seq_k};
    ROWS(d->x, rows, d->model_dim, false);
    ROWS(d->x_kv, keys, kv_dim(d), false);
    ROWS(d->out, rows, d->out_features, true);
    if (chance(60))
        return;
    OPTION(d->norm_q, d->w_qkv ? 50 : 2);
    OPTION(d->norm_k, d->w_qkv ? 50 : 2);
    d->norm_epsilon = chance(99) ? (float)pick(3) / 1024 : -1;
    d->rope = draw_rope(a->head_dim);
    OPTION(d->rope.cos, d->w_qkv ? 60 : 2);
    d->positions_q = draw_positions(a->seq_q);
    d->positions_k = draw_positions(a->seq_k);
    if (d->rope.cos && chance(80))
        a->q_offset = pick(60);
}

/* --------------------------------------------------------------------------------------------------- operations */

typedef union descriptor {
    qkv_attention_desc attention;
    qkv_projection_desc projection;
    qkv_merge_desc merge;
    qkv_layer_desc layer;
    qkv_attention_backward_desc attention_backward;
    qkv_projection_backward_desc projection_backward;
    qkv_layer_backward_desc layer_backward;
} descriptor;

enum { NUM_OPERATIONS = 7 };

static void draw(int operation, descriptor *u) {
    memset(u, 0, sizeof *u);
    switch (operation) {
    case 0: draw_attention(&u->attention, false); break;
    case 1: draw_projection(&u->projection); break;
    case 2: {
        qkv_merge_desc *d = &u->merge;
        *d = (qkv_merge_desc){.size = sizeof *d,
                              .batch = small(),
                              .num_heads = small(),
                              .seq_q = length(),
                              .head_dim_v = width(),
                              .num_parts = pick(5)};
        const int64_t rows[4] = {d->batch, d->num_heads, d->seq_q, d->num_parts};
        ROWS(d->part_out, rows, d->head_dim_v, false);
        ROWS(d->part_lse, rows, 1, false);
        d->part_out_stride = pick(100);
        d->part_lse_stride = pick(100);
        MATRIX(d->states, rows, d->head_dim_v + 2, false);
        ROWS(d->out, rows, d->head_dim_v, true);
        ROWS(d->lse, rows, 1, true);
        OPTION(d->states.data, 40);
        OPTION(d->sinks, 30);
        OPTION(d->lse.data, 50);
        ROWS(d->state, rows, d->head_dim_v + 2, true);
        OPTION(d->state.data, 30);
        if (d->state.data && chance(95))
            d->lse.data = NULL, d->sinks = NULL;
        break;
    }
    case 3: draw_layer(&u->layer); break;
    case 4: {
        qkv_attention_backward_desc *d = &u->attention_backward;
        qkv_attention_desc *a = &d->forward;
        d->size = sizeof *d;
        draw_attention(a, false);
        if (chance(97)) { /* else refused */
            a->k_type = a->k_type > QKV_BF16 ? QKV_BF16 : a->k_type;
            a->v_type = a->v_type > QKV_BF16 ? QKV_F16 : a->v_type;
            a->q_start = a->k_start = NULL;
            a->page_table = NULL;
            a->page_tokens = a->num_pages = a->k_layout = a->first_tokens = 0;
        }
        a->states.data = chance(2) ? somewhere : NULL;
        const int64_t rows[4] = {a->batch, a->num_heads, a->seq_q, a->seq_k};
        const int64_t keys[3] = {a->batch, kv_heads(a), a->seq_k};
        d->flags = chance(70) ? 0 : (uint32_t)pick(128) & ~(chance(95) ? QKV_ACCUMULATE_O : 0);
        ROWS(d->grad_out, rows, dim_v(a), false);
        ROWS(d->grad_lse, rows, 1, false);
        ROWS(d->grad_q, rows, a->head_dim, true);
        ROWS(d->grad_k, keys, a->head_dim, true);
        ROWS(d->grad_v, keys, dim_v(a), true);
        MATRIX(d->grad_bias, rows, 1, true);
        for (int i = 0; i < 4; i++) {
            int64_t *stride[4] = {&d->grad_bias.batch, &d->grad_bias.head, &d->grad_bias.query, &d->grad_bias.key};
            *stride[i] = chance(20) ? 0 : *stride[i];
        }
        OPTION(d->grad_lse.data, 30);
        OPTION(d->grad_q.data, 70);
        OPTION(d->grad_k.data, 70);
        OPTION(d->grad_v.data, 70);
        OPTION(d->grad_bias.data, 30);
        OPTION(d->grad_sinks, 30);
        break;
    }
    case 5: {
        qkv_projection_backward_desc *d = &u->projection_backward;
        d->size = sizeof *d;
        draw_projection(&d->forward);
        memset(d->forward.steps, 0, chance(97) ? sizeof d->forward.steps : 0); /* else refused */
        for (int i = 0; i < QKV_MAX_PARTS; i++)
            d->forward.part[i].type = chance(99) ? QKV_F32 : d->forward.part[i].type;
        d->forward.arithmetic = chance(99) ? QKV_ARITHMETIC_F32 : d->forward.arithmetic;
        d->flags = chance(70) ? 0 : chance(95) ? 1 + (uint32_t)pick(2) * 0xff : (uint32_t)pick(256) << 4;
        const int64_t rows[3] = {d->forward.batch, 1, d->forward.tokens};
        ROWS(d->grad_x, rows, d->forward.in_features, true);
        OPTION(d->grad_x.data, 60);
        for (int i = 0; i < QKV_MAX_PARTS; i++) {
            const qkv_projection_part *p = &d->forward.part[i];
            const int64_t out[3] = {rows[0], p->head_dim ? p->out_features / p->head_dim : 1, rows[2]};
            ROWS(d->grad_out[i], out, p->head_dim ? p->head_dim : p->out_features, false);
            draw_grad(&d->grad[i], d->forward.in_features, p->out_features);
        }
        break;
    }
    default: {
        qkv_layer_backward_desc *d = &u->layer_backward;
        d->size = sizeof *d;
        draw_layer(&d->forward);
        const qkv_attention_desc *a = &d->forward.attention;
        if (chance(98)) { /* else refused, where it has types */
            d->forward.wq_type = d->forward.wk_type = d->forward.wv_type = d->forward.wo_type = QKV_F32;
            d->forward.arithmetic = QKV_ARITHMETIC_F32;
        }
        const int64_t rows[3] = {a->batch, 1, a->seq_q}, pairs[4] = {a->batch, a->num_heads, a->seq_q, a->seq_k};
        d->flags = chance(70) ? 0 : (uint32_t)pick(256);
        ROWS(d->grad_out, rows, d->forward.out_features, false);
        ROWS(d->grad_x, rows, d->forward.model_dim, true);
        const int64_t keys[3] = {a->batch, 1, a->seq_k};
        ROWS(d->grad_x_kv, keys, kv_dim(&d->forward), true);
        OPTION(d->grad_x_kv.data, d->forward.x_kv.data ? 60 : 2);
        MATRIX(d->grad_bias, pairs, 1, true);
        OPTION(d->grad_x.data, 60);
        OPTION(d->grad_bias.data, 20);
        OPTION(d->grad_sinks, 20);
        OPTION(d->grad_norm_q, d->forward.norm_q ? 60 : 1);
        OPTION(d->grad_norm_k, d->forward.norm_k ? 60 : 1);
        if (d->forward.w_qkv || chance(5)) {
            draw_grad(&d->grad_q, d->forward.model_dim, a->num_heads * a->head_dim);
            draw_grad(&d->grad_k, kv_dim(&d->forward), kv_heads(a) * a->head_dim);
            draw_grad(&d->grad_v, kv_dim(&d->forward), kv_heads(a) * dim_v(a));
        }
        if (d->forward.w_o || chance(5))
            draw_grad(&d->grad_o, a->num_heads * dim_v(a), d->forward.out_features);
    }
    }
}

static void give_buffers(int operation, descriptor *u, int kind) {
    switch (operation) {
    case 0: give_attention(&u->attention, kind); break;
    case 1: give_projection(&u->projection, true, kind); break;
    case 2: {
        qkv_merge_desc *d = &u->merge;
        const qkv_merge_desc was = *d;
        const int64_t rows[4] = {d->batch, d->num_heads, d->seq_q, d->num_parts};
        GIVE_MATRIX(d->states, false, 4, rows, d->head_dim_v + 2);
        if (!was.states.data) {
            const qkv_input *x = &d->part_out, *l = &d->part_lse;
            const int64_t xs[4] = {x->batch, x->head, x->token, d->part_out_stride};
            const int64_t ls[4] = {l->batch, l->head, l->token, d->part_lse_stride};
            d->part_out.data = give(false, 4, 4, rows, xs, d->head_dim_v, kind);
            d->part_lse.data = give(false, 4, 4, rows, ls, 1, kind);
        }
        GIVE_VECTOR(d->sinks, false, 4, d->num_heads);
        if (!was.state.data)
            GIVE_ROWS(d->out, true, rows, d->head_dim_v);
        else
            GIVE_ROWS(d->state, true, rows, d->head_dim_v + 2);
        if (d->lse.data)
            GIVE_ROWS(d->lse, true, rows, 1);
        KEEP_PRESENT(d->state.data, was.state.data);
        KEEP_PRESENT(d->states.data, was.states.data);
        KEEP_PRESENT(d->sinks, was.sinks);
        KEEP_PRESENT(d->lse.data, was.lse.data);
        break;
    }
    case 3: give_layer(&u->layer, true, kind); break;
    case 4: {
        qkv_attention_backward_desc *d = &u->attention_backward;
        qkv_attention_desc *a = &d->forward;
        const qkv_attention_backward_desc was = *d;
        const int64_t rows[4] = {a->batch, a->num_heads, a->seq_q, a->seq_k};
        const int64_t keys[3] = {a->batch, kv_heads(a), a->seq_k};
        GIVE_STORED(a->q, false, a->q_type, rows, a->head_dim);
        GIVE_STORED(a->k, false, a->k_type, keys, a->head_dim);
        GIVE_STORED(a->v, false, a->v_type, keys, dim_v(a));
        GIVE_STORED(a->out, false, a->out_type, rows, dim_v(a));
        GIVE_ROWS(a->lse, false, rows, 1);
        give_options(a, false, dim_v(a), kind);
        GIVE_STORED(d->grad_out, false, a->out_type, rows, dim_v(a));
        if (d->grad_lse.data)
            GIVE_ROWS(d->grad_lse, false, rows, 1);
        if (d->grad_q.data)
            GIVE_ROWS(d->grad_q, true, rows, a->head_dim);
        if (d->grad_k.data)
            GIVE_ROWS(d->grad_k, true, keys, a->head_dim);
        if (d->grad_v.data)
            GIVE_ROWS(d->grad_v, true, keys, dim_v(a));
        give_bias_grad(&d->grad_bias, a, kind);
        GIVE_VECTOR(d->grad_sinks, true, 4, a->num_heads);
        KEEP_PRESENT(d->grad_lse.data, was.grad_lse.data);
        KEEP_PRESENT(d->grad_q.data, was.grad_q.data);
        KEEP_PRESENT(d->grad_k.data, was.grad_k.data);
        KEEP_PRESENT(d->grad_v.data, was.grad_v.data);
        KEEP_PRESENT(d->grad_sinks, was.grad_sinks);
        break;
    }
    case 5: {
        qkv_projection_backward_desc *d = &u->projection_backward;
        const qkv_projection_backward_desc was = *d;
        const int64_t rows[3] = {d->forward.batch, 1, d->forward.tokens};
        give_projection(&d->forward, false, kind);
        if (d->grad_x.data)
            GIVE_ROWS(d->grad_x, true, rows, d->forward.in_features);
        for (int64_t i = 0; i < d->forward.num_parts; i++) {
            const qkv_projection_part *p = &d->forward.part[i];
            int64_t dim = p->head_dim ? p->head_dim : p->out_features;
            const int64_t out[3] = {rows[0], dim ? p->out_features / dim : 0, rows[2]};
            GIVE_ROWS(d->grad_out[i], false, out, dim);
            give_grad(&d->grad[i], d->forward.in_features, p->out_features, kind);
        }
        KEEP_PRESENT(d->grad_x.data, was.grad_x.data);
        break;
    }
    default: {
        qkv_layer_backward_desc *d = &u->layer_backward;
        const qkv_layer_backward_desc was = *d;
        const qkv_attention_desc *a = &d->forward.attention;
        const int64_t rows[3] = {a->batch, 1, a->seq_q};
        give_layer(&d->forward, false, kind);
        GIVE_ROWS(d->grad_out, false, rows, d->forward.out_features);
        if (d->grad_x.data)
            GIVE_ROWS(d->grad_x, true, rows, d->forward.model_dim);
        const int64_t keys[3] = {a->batch, 1, a->seq_k};
        if (d->grad_x_kv.data)
            GIVE_ROWS(d->grad_x_kv, true, keys, kv_dim(&d->forward));
        give_bias_grad(&d->grad_bias, a, kind);
        GIVE_VECTOR(d->grad_sinks, true, 4, a->num_heads);
        GIVE_VECTOR(d->grad_norm_q, true, 4, a->head_dim);
        KEEP_PRESENT(d->grad_norm_q, was.grad_norm_q);
        GIVE_VECTOR(d->grad_norm_k, true, 4, a->head_dim);
        KEEP_PRESENT(d->grad_norm_k, was.grad_norm_k);
        give_grad(&d->grad_q, d->forward.model_dim, a->num_heads * a->head_dim, kind);
        give_grad(&d->grad_k, kv_dim(&d->forward), kv_heads(a) * a->head_dim, kind);
        give_grad(&d->grad_v, kv_dim(&d->forward), kv_heads(a) * dim_v(a), kind);
        give_grad(&d->grad_o, a->num_heads * dim_v(a), d->forward.out_features, kind);
        KEEP_PRESENT(d->grad_x.data, was.grad_x.data);
        KEEP_PRESENT(d->grad_x_kv.data, was.grad_x_kv.data);
        KEEP_PRESENT(d->grad_sinks, was.grad_sinks);
    }
    }
}

#define EACH(call_)                                                                                                    \
    switch (operation) {                                                                                               \
    case 0: call_(attention);                                                                                          \
    case 1: call_(projection);                                                                                         \
    case 2: call_(merge);                                                                                              \
    case 3: call_(layer);                                                                                              \
    case 4: call_(attention_backward);                                                                                 \
    case 5: call_(projection_backward);                                                                                \
    default: call_(layer_backward);                                                                                    \
    }

static qkv_status plan_of(int operation, const qkv_ctx *ctx, const descriptor *u, int32_t workers, qkv_plan *plan) {
#define CALL(op) return qkv_##op##_plan(ctx, &u->op, workers, plan)
    EACH(CALL)
#undef CALL
}

static qkv_status run(int operation, const qkv_plan *plan, const descriptor *u, void *workspace, size_t size,
                      qkv_parallel_for loop) {
#define CALL(op) return qkv_##op##_run_parallel(plan, &u->op, workspace, size, loop, NULL)
    EACH(CALL)
#undef CALL
}

static void explain(int operation, const qkv_ctx *ctx, const descriptor *u, const qkv_plan *plan, char *text,
                    size_t size) {
#define CALL(op)                                                                                                       \
    (void)(plan ? qkv_##op##_explain_run(plan, &u->op, NULL, 0, text, size)                                            \
                : qkv_##op##_explain_plan(ctx, &u->op, 1, text, size));                                                \
    break
    EACH(CALL)
#undef CALL
}

static void in_order(void *pool, int64_t n, qkv_task task, void *arg) {
    (void)pool;
    for (int64_t i = 0; i < n; i++)
        task(arg, i, 0);
}

static void backwards(void *pool, int64_t n, qkv_task task, void *arg) {
    (void)pool;
    for (int64_t i = n; i-- > 0;)
        task(arg, i, (int32_t)(i % 3));
}

static void *aligned(size_t bytes) {
    void *p = NULL;
    if (bytes > 0 && posix_memalign(&p, 64, bytes) != 0)
        fail("no memory");
    if (bytes > 0)
        memset(p, 0xa5, bytes);
    return p;
}

static int64_t tasks_of(const qkv_plan *plan) {
    int64_t n = 0;
    for (int32_t phase = 0; phase < plan->num_phases && n < 1 << 20; phase++) {
        const int64_t tasks = qkv_plan_num_tasks(plan, phase);
        n += 1 + (tasks < 1 << 20 ? tasks : 1 << 20);
    }
    return n;
}

static void run_twice(int operation, const qkv_ctx *ctx, const descriptor *u, const qkv_plan plan[2]) {
    char *want[sizeof tensors / sizeof tensors[0]] = {NULL};
    const qkv_parallel_for loops[2] = {in_order, backwards};
    for (int n = 0; n < 2; n++) {
        void *workspace = aligned(plan[n].workspace_size);
        char text[160];
        put_back();
        const qkv_status status = run(operation, &plan[n], u, workspace, plan[n].workspace_size, loops[n]);
        if (status == QKV_ERROR_INDEX) { /* of values that only a run sees */
            expect_untouched();
            free(workspace);
            break;
        }
        if (status != QKV_OK) {
            explain(operation, ctx, u, &plan[n], text, sizeof text);
            fail(qkv_status_string(status));
        }
        compare(want, n > 0);
        for (int i = 0; i < num_tensors && n == 0; i++) {
            want[i] = malloc(tensors[i].bytes);
            if (tensors[i].out)
                memcpy(want[i], tensors[i].memory, tensors[i].bytes);
        }
        free(workspace);
    }
    for (int i = 0; i < num_tensors; i++)
        free(want[i]);
}

/* A cache is no number: a layer's plan reads it. Caches have a fuzzer and tests of their own. */
static void drop_caches(int operation, descriptor *u) {
    if (operation == 1) {
        for (int i = 0; i < QKV_MAX_PARTS; i++)
            u->projection.steps[i].store = 0;
    } else if (operation == 3) {
        u->layer.cache = NULL;
    } else if (operation == 6) {
        u->layer_backward.forward.cache = NULL;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qkv_ctx ctx[2];
    if (!ctx[0].isa && (qkv_init(&ctx[0], &(qkv_config){.size = sizeof(qkv_config), .isa = "ref"}) != QKV_OK ||
                        qkv_init(&ctx[1], NULL) != QKV_OK))
        fail("no kernel set");
    __asan_poison_memory_region(somewhere, sizeof somewhere); /* a plan reads no address */
    input = data;
    left = size;
    state = size;
    for (size_t i = 0; i < size; i++)
        state = (state ^ data[i]) * UINT64_C(0x100000001b3);
    const int operation = (int)pick(NUM_OPERATIONS);
    static const size_t words[NUM_OPERATIONS] = {sizeof(qkv_attention_desc) / 8,
                                                 sizeof(qkv_projection_desc) / 8,
                                                 sizeof(qkv_merge_desc) / 8,
                                                 sizeof(qkv_layer_desc) / 8,
                                                 sizeof(qkv_attention_backward_desc) / 8,
                                                 sizeof(qkv_projection_backward_desc) / 8,
                                                 sizeof(qkv_layer_backward_desc) / 8};
    descriptor u;
    draw(operation, &u);
    if (chance(12)) { /* one field is anything */
        static const int64_t odd[] = {-1,
                                      INT64_MIN,
                                      INT64_MAX,
                                      INT64_C(1) << 62,
                                      INT64_C(1) << 40,
                                      -(INT64_C(1) << 33),
                                      INT64_MAX / 4,
                                      INT64_C(1) << 20,
                                      0,
                                      2};
        const size_t at = 1 + (size_t)pick((int64_t)words[operation] - 1);
        memcpy((char *)&u + at * 8, &odd[pick(10)], 8);
        drop_caches(operation, &u);
    }
    qkv_plan plan[2];
    char text[160] = "";
    const qkv_status status = plan_of(operation, &ctx[0], &u, 1, &plan[0]);
    explain(operation, &ctx[0], &u, NULL, text, (size_t)pick(sizeof text) + 1);
    if (status != QKV_OK || plan_of(operation, &ctx[1], &u, 3, &plan[1]) != QKV_OK)
        return 0;
    if (plan[0].workspace_size + plan[1].workspace_size > MOST_BYTES || tasks_of(&plan[0]) > 4000 ||
        tasks_of(&plan[1]) > 4000)
        return 0;
    num_tensors = 0;
    all_bytes = 0;
    too_large = false;
    /* NaN and infinity not in gradients of attention, whose lse and out are to be what the forward makes of them. */
    give_buffers(operation, &u, operation != 4 && chance(10));
    if (!too_large)
        run_twice(operation, &ctx[1], &u, plan);
    for (int i = 0; i < num_tensors; i++) {
        __asan_unpoison_memory_region(tensors[i].memory, tensors[i].bytes);
        free(tensors[i].memory);
        free(tensors[i].before);
    }
    return 0;
}
