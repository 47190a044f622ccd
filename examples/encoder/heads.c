/* What the heads of a layer do, in figures.  SPDX-License-Identifier: MIT */
#include "heads.h"

#include <math.h>

static double divergence_term(double p, double middle) {
    return p > 0.0 ? p * log2(p / middle) : 0.0;
}

static double row_distance(const float *p, const float *q, int64_t size) {
    double divergence = 0.0;
    for (int64_t i = 0; i < size; i++) {
        double middle = 0.5 * ((double)p[i] + (double)q[i]);
        divergence += 0.5 * (divergence_term((double)p[i], middle) + divergence_term((double)q[i], middle));
    }
    return divergence > 0.0 ? sqrt(divergence) : 0.0;
}

double mean_head_distance(const float *probabilities, int64_t num_heads, int64_t num_tokens) {
    double sum = 0.0;
    int64_t matrix = num_tokens * num_tokens, pairs = num_heads * (num_heads - 1) / 2;
    for (int64_t a = 0; a < num_heads; a++)
        for (int64_t b = a + 1; b < num_heads; b++)
            for (int64_t row = 0; row < matrix; row += num_tokens)
                sum += row_distance(probabilities + a * matrix + row, probabilities + b * matrix + row, num_tokens);
    return pairs > 0 ? sum / (double)(pairs * num_tokens) : 0.0;
}

int64_t favourite_key(const float *probabilities, int64_t num_tokens, double *share) {
    int64_t best = 0;
    *share = 0.0;
    for (int64_t key = 0; key < num_tokens; key++) {
        double sum = 0.0;
        for (int64_t query = 0; query < num_tokens; query++)
            sum += (double)probabilities[query * num_tokens + key];
        if (sum / (double)num_tokens > *share) {
            *share = sum / (double)num_tokens;
            best = key;
        }
    }
    return best;
}

float strongest_link(const float *probabilities, int64_t num_tokens, const int *is_word, int64_t *query, int64_t *key) {
    float best = 0.0f;
    for (int64_t i = 0; i < num_tokens; i++)
        for (int64_t j = 0; j < num_tokens; j++)
            if (i != j && is_word[i] && is_word[j] && probabilities[i * num_tokens + j] > best) {
                best = probabilities[i * num_tokens + j];
                *query = i;
                *key = j;
            }
    return best;
}
