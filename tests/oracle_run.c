/* Running descriptors and collecting their outputs. See oracle_cases.h.  SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <stdio.h>

qkv_ctx case_reference(void) {
    qkv_ctx ctx;
    const qkv_config config = {.size = sizeof config, .isa = "ref"};
    QT_EXPECT(qkv_init(&ctx, &config) == QKV_OK, "the reference is not available");
    return ctx;
}

uint64_t case_count(uint64_t all) {
    const uint64_t some = qt_emulated() ? all / 16 : qt_quick() ? all / 5 : all;
    return some > 25 ? some : all < 25 ? all : 25;
}

static qkv_parallel_for adapter;
static void *adapter_pool;

void case_run_by(qkv_parallel_for parallel_for, void *pool) {
    adapter = parallel_for;
    adapter_pool = pool;
}

static void *workspace_of(const qkv_plan *plan) {
    QT_EXPECT(plan->workspace_size % 64 == 0, "workspace_size %zu is no multiple of 64", plan->workspace_size);
    return plan->workspace_size > 0 ? qt_alloc(plan->workspace_size, 64, QT_TAIL) : NULL;
}

/* clang-format off */
#define CASE_RUN(operation)                                                                                            \
    void case_run_##operation(const qkv_ctx *ctx, const qkv_##operation##_desc *desc, int32_t threads,                 \
                              uint64_t shuffle) {                                                                      \
        qkv_plan plan;                                                                                                 \
        qt_pool pool = {threads > 0 ? threads : 1, shuffle};                                                           \
        qkv_status status = qkv_##operation##_plan(ctx, desc, pool.threads, &plan);                                    \
        QT_EXPECT(status == QKV_OK, "%s: plan: %s", ctx->isa, qkv_status_string(status));                              \
        void *workspace = workspace_of(&plan);                                                                         \
        status = threads == 0 ? qkv_##operation##_run(&plan, desc, workspace, plan.workspace_size)                     \
                 : adapter    ? qkv_##operation##_run_parallel(&plan, desc, workspace, plan.workspace_size, adapter,   \
                                                               adapter_pool ? adapter_pool : &plan)                    \
                              : qkv_##operation##_run_parallel(&plan, desc, workspace, plan.workspace_size,            \
                                                               qt_parallel_for, &pool);                                \
        QT_EXPECT(status == QKV_OK, "%s: run: %s", ctx->isa, qkv_status_string(status));                               \
        qt_check_memory();                                                                                             \
    }
/* clang-format on */

CASE_RUN(attention)
CASE_RUN(projection)
CASE_RUN(merge)
CASE_RUN(layer)
CASE_RUN(attention_backward)
CASE_RUN(projection_backward)
CASE_RUN(layer_backward)

void *case_pack(const qkv_ctx *ctx, const qkv_pack_desc *desc) {
    size_t bytes = 0;
    QT_EXPECT(qkv_packed_size(desc, &bytes) == QKV_OK, "qkv_packed_size refuses");
    void *packed = qt_alloc(bytes, 64, QT_TAIL);
    const qkv_status status = qkv_pack(ctx, desc, packed);
    QT_EXPECT(status == QKV_OK, "%s: pack: %s", ctx->isa, qkv_status_string(status));
    return packed;
}

float *case_gather(const qkv_output *out, int64_t batch, int64_t heads, int64_t tokens, int64_t channels) {
    float *copy = qt_floats((size_t)(batch * heads * tokens * channels), QT_HEAD), *to = copy;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t i = 0; i < channels; i++)
                    *to++ = ((const float *)out->data)[b * out->batch + h * out->head + t * out->token + i];
    return copy;
}

float *case_gather_matrix(const qkv_matrix_output *m, int64_t batch, int64_t heads, int64_t rows, int64_t cols) {
    float *copy = qt_floats((size_t)(batch * heads * rows * cols), QT_HEAD), *to = copy;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < cols; j++)
                    *to++ = ((const float *)m->data)[b * m->batch + h * m->head + i * m->query + j * m->key];
    return copy;
}

static void expect_gaps(const attention_case *c) {
    const qkv_attention_desc *d = &c->desc;
    qt_view view = qt_view_output(&d->out, d->batch, d->num_heads, d->seq_q, c->dv);
    qt_expect_gaps("out", &view);
    if (d->lse.data) {
        view = qt_view_output(&d->lse, d->batch, d->num_heads, d->seq_q, 1);
        qt_expect_gaps("lse", &view);
    }
    if (d->probabilities.data) {
        const qkv_matrix_output *p = &d->probabilities;
        view = (qt_view){p->data,
                         sizeof(float),
                         4,
                         {d->batch, d->num_heads, d->seq_q, d->seq_k},
                         {p->batch, p->head, p->query, p->key}};
        qt_expect_gaps("probabilities", &view);
    }
    if (d->scores.data) {
        const qkv_matrix_output *s = &d->scores;
        view = (qt_view){s->data,
                         sizeof(float),
                         4,
                         {d->batch, d->num_heads, d->seq_q, d->seq_k},
                         {s->batch, s->head, s->query, s->key}};
        qt_expect_gaps("scores", &view);
    }
}

case_results case_run(const qkv_ctx *ctx, const attention_case *c, int32_t threads, uint64_t shuffle) {
    const qkv_attention_desc *d = &c->desc;
    qt_poison(d->out.data);
    if (d->lse.data)
        qt_poison(d->lse.data);
    if (d->probabilities.data)
        qt_poison(d->probabilities.data);
    if (d->scores.data)
        qt_poison(d->scores.data);
    case_run_attention(ctx, d, threads, shuffle);
    expect_gaps(c);
    case_results r = {case_gather(&d->out, d->batch, d->num_heads, d->seq_q, c->dv), NULL, NULL, NULL};
    if (d->lse.data)
        r.lse = case_gather(&d->lse, d->batch, d->num_heads, d->seq_q, 1);
    if (d->probabilities.data)
        r.probabilities = case_gather_matrix(&d->probabilities, d->batch, d->num_heads, d->seq_q, d->seq_k);
    if (d->scores.data)
        r.scores = case_gather_matrix(&d->scores, d->batch, d->num_heads, d->seq_q, d->seq_k);
    return r;
}

void case_expect_same(const char *set, const attention_case *c, const case_results *want, const case_results *got) {
    const qkv_attention_desc *d = &c->desc;
    const size_t rows = (size_t)(d->batch * d->num_heads * d->seq_q);
    char what[64];
    snprintf(what, sizeof what, "out of %s", set);
    qt_expect_words(what, want->out, got->out, rows * (size_t)c->dv, 0);
    snprintf(what, sizeof what, "lse of %s", set);
    if (want->lse)
        qt_expect_words(what, want->lse, got->lse, rows, 0);
    snprintf(what, sizeof what, "probabilities of %s", set);
    if (want->probabilities)
        qt_expect_words(what, want->probabilities, got->probabilities, rows * (size_t)d->seq_k, 0);
    snprintf(what, sizeof what, "scores of %s", set);
    if (want->scores)
        qt_expect_words(what, want->scores, got->scores, rows * (size_t)d->seq_k, 0);
}
