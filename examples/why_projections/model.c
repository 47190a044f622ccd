/* One self-attention layer and its training.  SPDX-License-Identifier: MIT */
#include "model.h"

#include "calls.h"
#include "support.h"

#include <stdlib.h>

/* The range of the first random weights: products keep about the size of their inputs, answers begin near 0. */
#define RANGE 0.25f
#define RANGE_OUT 0.09f

static int is_raw(const struct design *design) {
    return !design->learned[WQ] && !design->learned[WK] && !design->learned[WV];
}

static int64_t width(const struct design *design) {
    return (int64_t)design->num_heads * design->head_dim;
}

/* The identity, whole for every head or cut into their slices. */
static void set_raw(struct matrix *matrix) {
    for (int64_t column = 0; column < matrix->columns; column++)
        matrix->values[column % DIM * matrix->columns + column] = 1.0f;
}

static struct matrix make_matrix(int64_t rows, int64_t columns, int learned, float range, struct random *random) {
    size_t count = (size_t)(rows * columns);
    struct matrix matrix = {.rows = rows, .columns = columns, .values = allocate(count, sizeof(float))};
    if (!learned) {
        set_raw(&matrix);
        return matrix;
    }
    matrix.gradient = allocate(count, sizeof(float));
    matrix.adamw = new_adamw(count);
    for (size_t i = 0; i < count; i++)
        matrix.values[i] = range * random_float(random);
    return matrix;
}

static qkv_pack_desc pack_desc(const struct matrix *matrices, int64_t count) {
    qkv_pack_desc desc = {.size = sizeof desc, .in_features = matrices[0].rows, .num_parts = count};
    for (int64_t i = 0; i < count; i++)
        desc.part[i] = (qkv_weight){.data = matrices[i].values, .out_features = matrices[i].columns};
    return desc;
}

/* Multiplication reads a packed copy, so every step of training ends with this. */
static void pack(struct model *model) {
    qkv_pack_desc qkv = pack_desc(&model->matrices[WQ], 3), o = pack_desc(&model->matrices[WO], 1);
    if (model->packed_qkv)
        must(qkv_pack(model->ctx, &qkv, model->packed_qkv), "qkv_pack");
    must(qkv_pack(model->ctx, &o, model->packed_o), "qkv_pack");
}

static void *allocate_packed(const struct matrix *matrices, int64_t count) {
    qkv_pack_desc desc = pack_desc(matrices, count);
    size_t size;
    must(qkv_packed_size(&desc, &size), "qkv_packed_size");
    return allocate_bytes(size);
}

static qkv_layer_desc layer_desc(const struct model *model, int64_t batch) {
    const struct design *design = model->design;
    return (qkv_layer_desc){
        .size = sizeof(qkv_layer_desc),
        .model_dim = DIM,
        .out_features = ANSWER,
        .x = {.batch = TOKENS * DIM, .token = DIM},
        .w_qkv = model->packed_qkv,
        .w_o = model->packed_o,
        .out = {.batch = TOKENS * ANSWER, .token = ANSWER},
        .attention = {.size = sizeof(qkv_attention_desc),
                      .batch = batch,
                      .num_heads = design->num_heads,
                      .seq_q = TOKENS,
                      .seq_k = TOKENS,
                      .head_dim = design->head_dim,
                      .keep = {.data = model->keep, .query = model->keep ? TOKENS : 0, .key = model->keep ? 1 : 0}}};
}

static void plan_model(struct model *model) {
    model->forward = layer_desc(model, BATCH);
    model->backward =
        (qkv_layer_backward_desc){.size = sizeof model->backward,
                                  .forward = model->forward,
                                  .grad_out = {.data = model->grad_out, .batch = TOKENS * ANSWER, .token = ANSWER},
                                  .grad_q = {.data = model->matrices[WQ].gradient},
                                  .grad_k = {.data = model->matrices[WK].gradient},
                                  .grad_v = {.data = model->matrices[WV].gradient},
                                  .grad_o = {.data = model->matrices[WO].gradient}};
    model->forward.out.data = model->out;
    int32_t workers = model->pool->num_threads;
    must(qkv_layer_plan(model->ctx, &model->forward, workers, &model->forward_plan), "qkv_layer_plan");
    must(qkv_layer_backward_plan(model->ctx, &model->backward, workers, &model->backward_plan),
         "qkv_layer_backward_plan");
    model->workspace_size = model->forward_plan.workspace_size;
    if (model->backward_plan.workspace_size > model->workspace_size)
        model->workspace_size = model->backward_plan.workspace_size;
    model->workspace = allocate_bytes(model->workspace_size);
}

void make_model(struct model *model, const struct design *design, const qkv_ctx *ctx, qkv_pthreads *pool,
                struct random *random) {
    *model = (struct model){.ctx = ctx, .design = design, .pool = pool};
    for (int i = 0; i < WO; i++)
        model->matrices[i] = make_matrix(DIM, width(design), design->learned[i], RANGE, random);
    model->matrices[WO] = make_matrix(width(design), ANSWER, 1, RANGE_OUT, random);
    if (!is_raw(design))
        model->packed_qkv = allocate_packed(&model->matrices[WQ], 3);
    model->packed_o = allocate_packed(&model->matrices[WO], 1);
    if (design->hide_self) {
        model->keep = allocate(TOKENS * TOKENS, 1);
        for (int i = 0; i < TOKENS * TOKENS; i++)
            model->keep[i] = i / TOKENS != i % TOKENS;
    }
    model->out = allocate_floats(BATCH * TOKENS * ANSWER);
    model->grad_out = allocate_floats(BATCH * TOKENS * ANSWER);
    pack(model);
    plan_model(model);
}

void free_model(struct model *model) {
    for (int i = 0; i < NUM_MATRICES; i++) {
        free(model->matrices[i].values);
        free(model->matrices[i].gradient);
        free_adamw(&model->matrices[i].adamw);
    }
    free(model->packed_qkv);
    free(model->packed_o);
    free(model->keep);
    free(model->out);
    free(model->grad_out);
    free(model->workspace);
}

const float *run_model(struct model *model, const float *x) {
    model->forward.x.data = x;
    must(qkv_layer_run_parallel(&model->forward_plan, &model->forward, model->workspace, model->workspace_size,
                                qkv_pthreads_for, model->pool),
         "qkv_layer_run");
    return model->out;
}

double train_model(struct model *model, const float *x, const float *target, float rate) {
    const float *out = run_model(model, x);
    double loss = 0.0;
    for (int i = 0; i < BATCH * TOKENS * ANSWER; i++) {
        float error = out[i] - target[i];
        loss += (double)error * (double)error;
        model->grad_out[i] = error * (2.0f / (BATCH * TOKENS)); /* of the mean over tokens of Σ error² */
    }
    model->backward.forward.x.data = x;
    must(qkv_layer_backward_run_parallel(&model->backward_plan, &model->backward, model->workspace,
                                         model->workspace_size, qkv_pthreads_for, model->pool),
         "qkv_layer_backward_run");
    for (int i = 0; i < NUM_MATRICES; i++) {
        struct matrix *matrix = &model->matrices[i];
        if (matrix->gradient)
            adamw_step(&matrix->adamw, matrix->values, matrix->gradient, rate);
    }
    pack(model);
    return loss / (BATCH * TOKENS);
}

/* One sentence through the layer as desc says. */
static void run_sentence(const struct model *model, qkv_layer_desc *desc, const float *x, float *out) {
    qkv_plan plan;
    desc->x.data = x;
    desc->out.data = out;
    must(qkv_layer_plan(model->ctx, desc, 1, &plan), "qkv_layer_plan");
    void *workspace = allocate_bytes(plan.workspace_size);
    must(qkv_layer_run(&plan, desc, workspace, plan.workspace_size), "qkv_layer_run");
    free(workspace);
}

void look_at_heads(const struct model *model, const float *x, float *probabilities) {
    float out[TOKENS * ANSWER];
    qkv_layer_desc desc = layer_desc(model, 1);
    desc.attention.probabilities =
        (qkv_matrix_output){.data = probabilities, .head = TOKENS * TOKENS, .query = TOKENS, .key = 1};
    run_sentence(model, &desc, x, out);
}

void heads_of_model(const struct model *model, const float *x, float *heads) {
    qkv_layer_desc desc = layer_desc(model, 1);
    desc.w_o = NULL;
    desc.out_features = desc.out.token = width(model->design);
    run_sentence(model, &desc, x, heads);
}

uint64_t hash_model(uint64_t hash, const struct model *model) {
    for (int i = 0; i < NUM_MATRICES; i++) {
        const struct matrix *matrix = &model->matrices[i];
        if (matrix->gradient)
            hash = hash_floats(hash, matrix->values, (size_t)(matrix->rows * matrix->columns));
    }
    return hash;
}
