/* Numbers and strides for random descriptors.  SPDX-License-Identifier: MIT */
#ifndef QKV_FUZZ_DRAW_H
#define QKV_FUZZ_DRAW_H

#include "fuzz_buffers.h"

/* The input's bytes, then random ones that follow from them. */
static const uint8_t *input;
static size_t left;

static int64_t pick(int64_t n) {
    uint64_t x = next();
    if (left > 0) {
        x = *input++;
        left--;
        state ^= x;
    }
    return (int64_t)(x % (uint64_t)n);
}

static bool chance(int64_t percent) {
    return pick(100) < percent;
}

static int64_t small(void) {
    return chance(8) ? 0 : 1 + pick(4);
}

static int64_t length(void) {
    static const int64_t some[] = {0, 1, 2, 3, 5, 7, 13, 64, 65, 70, 129, 256, 257, 300, 520};
    return some[pick(chance(97) ? 7 : 15)];
}

static int64_t width(void) {
    static const int64_t some[] = {0, 1, 2, 3, 4, 7, 8, 16, 17, 33, 64, 65};
    return some[pick(chance(90) ? 7 : 12)];
}

/* Strides of nested axes in some order with gaps; of an input also 0 or overlapping; rarely anything. */
static void draw_strides(int n, const int64_t *size, int64_t run, bool out, int64_t *const stride[]) {
    int order[4] = {0, 1, 2, 3};
    int64_t extent = run > 0 ? run : 1;
    for (int i = 0; i < n; i++) {
        int j = i + (int)pick(n - i), axis = order[j];
        order[j] = order[i];
        *stride[axis] = extent + (chance(30) ? pick(4) : 0);
        extent += (size[axis] > 0 ? size[axis] - 1 : 0) * *stride[axis];
        if (chance(10))
            *stride[axis] = -*stride[axis];
        if (chance(out ? 1 : 8))
            *stride[axis] = chance(50) ? 0 : pick(40) - 20;
        if (extent > 1 << 20)
            extent = 1;
    }
}

static void draw_rows(const int64_t size[3], int64_t run, bool out, int64_t *batch, int64_t *head, int64_t *token) {
    draw_strides(3, size, run, out, (int64_t *const[]){batch, head, token});
}

/* In whole blocks, mostly. */
static void draw_stored(qkv_input *x, int32_t type, const int64_t *size, int64_t run) {
    const int64_t block = type == QKV_Q8_0 && chance(97) ? 32 : 1;
    draw_rows(size, run / block, false, &x->batch, &x->head, &x->token);
    x->batch *= block;
    x->head *= block;
    x->token *= block;
}

#define ROWS(x, size, run, out) draw_rows(size, run, out, &(x).batch, &(x).head, &(x).token)
#define MATRIX(x, size, run, out)                                                                                      \
    draw_strides(4, size, run, out, (int64_t *const[]){&(x).batch, &(x).head, &(x).query, &(x).key})
#define OPTION(pointer, percent) (pointer) = chance(percent) ? (void *)somewhere : NULL

static qkv_rope draw_rope(int64_t head_dim) {
    return (qkv_rope){.num_positions = chance(97) ? 600 : pick(20) - 2,
                      .layout = pick(chance(98) ? 2 : 4),
                      .rotary_dim = chance(50)   ? head_dim / 2 * 2
                                    : chance(95) ? head_dim / 4 * 2
                                                 : width() - 1};
}

static qkv_positions draw_positions(int64_t tokens) {
    return (qkv_positions){chance(15) ? (const void *)somewhere : NULL, pick(3) * tokens, pick(3)};
}

static void draw_steps(qkv_head_steps *s, int64_t tokens) {
    OPTION(s->norm, 30);
    s->norm_epsilon = chance(98) ? (float)pick(3) / 1024 : -1;
    s->rotate = (uint32_t)pick(chance(98) ? 2 : 3);
    s->first_position = chance(95) ? pick(30) : pick(1000) - 9;
    OPTION(s->first_positions, 15);
    s->positions = draw_positions(tokens);
}

/* A type of weights that so many inputs are blocks of, mostly; integers: one that has an arithmetic in int8. */
static int64_t draw_type(int64_t in_features, bool integers) {
    if (chance(1))
        return pick(16) - 2;
    const int64_t block = in_features % 256 == 0 ? 256 : in_features % 32 == 0 ? 32 : 1;
    static const int64_t types[] = {QKV_F16,  QKV_BF16, QKV_F32,  QKV_INT8, QKV_Q8_0, QKV_Q4_0,
                                    QKV_Q4_1, QKV_Q5_0, QKV_Q5_1, QKV_Q4_K, QKV_Q5_K, QKV_Q6_K};
    const int64_t n = block == 256 ? 12 : block == 32 ? 9 : 4;
    return integers ? types[3 + pick(n - 3)] : types[pick(n)];
}

#endif
