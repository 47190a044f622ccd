/* Attention before: one head after the other, over the engine's own cache.  SPDX-License-Identifier: MIT */
#include "engine.h"

#include <math.h>

static void attend(struct engine *engine, const struct layer *layer, int head, int position) {
    const int kv = head / (HEADS / KV_HEADS) * HEAD_DIM;
    const float *q = engine->q + head * HEAD_DIM;
    float *out = engine->heads + head * HEAD_DIM, scores[MAX_TOKENS], largest = -INFINITY, sum = 0;
    for (int t = 0; t <= position; t++) {
        const float *k = layer->keys + t * KV_DIM + kv;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int c = 0; c < HEAD_DIM; c++)
            dot += q[c] * k[c];
        scores[t] = dot / sqrtf(HEAD_DIM);
        largest = fmaxf(largest, scores[t]);
    }
    for (int t = 0; t <= position; t++)
        sum += scores[t] = expf(scores[t] - largest);
    for (int c = 0; c < HEAD_DIM; c++)
        out[c] = 0;
    for (int t = 0; t <= position; t++)
        for (int c = 0; c < HEAD_DIM; c++)
            out[c] += scores[t] / sum * layer->values[t * KV_DIM + kv + c];
}

void plain_attention(struct engine *engine, int layer_index, int position) {
    struct layer *layer = &engine->layers[layer_index];
    project(engine, layer, position);
#pragma omp parallel for num_threads(engine->threads)
    for (int head = 0; head < HEADS; head++)
        attend(engine, layer, head, position);
    matmul(engine, engine->added, layer->wo, engine->heads, DIM, DIM);
}
