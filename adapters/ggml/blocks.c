/* Blocks to panels by qkv_pack, a panel of 64 rows at a time; back by the description of the panels. Several matrices
 * in one tensor lie behind each other, each from a panel of its own on.
 *
 * ggml writes whole tensors when it loads a model, and reads none of them: the way back is for those who ask for a
 * tensor (tests, ops that another device computes), and need not be fast.
 *
 * SPDX-License-Identifier: MIT */
#include "blocks.h"

#include "../../src/ref/weights.h"

#include <stdlib.h>
#include <string.h>

bool type_of_blocks(enum ggml_type from, int64_t *to) {
    switch (from) {
    case GGML_TYPE_Q4_0: *to = QKV_Q4_0; return true;
    case GGML_TYPE_Q4_1: *to = QKV_Q4_1; return true;
    case GGML_TYPE_Q5_0: *to = QKV_Q5_0; return true;
    case GGML_TYPE_Q5_1: *to = QKV_Q5_1; return true;
    case GGML_TYPE_Q8_0: *to = QKV_Q8_0; return true;
    case GGML_TYPE_Q4_K: *to = QKV_Q4_K; return true;
    case GGML_TYPE_Q5_K: *to = QKV_Q5_K; return true;
    case GGML_TYPE_Q6_K: *to = QKV_Q6_K; return true;
    default: return false;
    }
}

bool holds_matrices_of_blocks(const struct ggml_tensor *tensor) {
    int64_t type;
    return type_of_blocks(tensor->type, &type) && !ggml_is_empty(tensor) && tensor->ne[3] == 1 && !tensor->view_src &&
           ggml_is_contiguous(tensor) && tensor->ne[0] % ggml_blck_size(tensor->type) == 0;
}

static qkv_pack_desc describe(const struct ggml_tensor *matrices, const void *rows, int64_t count) {
    qkv_pack_desc d = {.size = sizeof d, .in_features = matrices->ne[0], .num_parts = 1};
    d.part[0] = (qkv_weight){.data = rows, .out_features = count, .layout = QKV_OUT_IN};
    type_of_blocks(matrices->type, &d.part[0].type);
    return d;
}

size_t bytes_of_panel(const struct ggml_tensor *matrices) {
    const qkv_pack_desc d = describe(matrices, NULL, QKV_PANEL);
    size_t bytes;
    return qkv_packed_size(&d, &bytes) == QKV_OK ? bytes : SIZE_MAX / 2; /* nobody has so much */
}

int64_t num_panels(const struct ggml_tensor *matrices) {
    return (matrices->ne[1] + QKV_PANEL - 1) / QKV_PANEL;
}

size_t bytes_in_panels(const struct ggml_tensor *matrices) {
    const size_t panels = (size_t)(num_panels(matrices) * matrices->ne[2]), bytes = bytes_of_panel(matrices);
    return bytes > SIZE_MAX / 2 / panels ? SIZE_MAX / 2 : panels * bytes;
}

qkv_projection_desc product_by(const struct ggml_tensor *matrices, int64_t index, int64_t first, int64_t panels) {
    const int64_t left = matrices->ne[1] - first * QKV_PANEL, most = panels * QKV_PANEL;
    qkv_projection_desc d = {
        .size = sizeof d, .in_features = matrices->ne[0], .num_parts = 1, .arithmetic = QKV_ARITHMETIC_INT8};
    const size_t before = (size_t)(index * num_panels(matrices) + first);
    d.packed = (const char *)matrices->data + before * bytes_of_panel(matrices);
    d.part[0].out_features = left < most ? left : most;
    type_of_blocks(matrices->type, &d.part[0].type);
    return d;
}

/* ------------------------------------------------------------------------------------------- from panels to blocks */

/* A column of a group of a panel, and where it goes. */
struct column {
    int type, bits;
    const unsigned char *group;
    size_t number;
};

static int integer(const struct column *c, size_t term) {
    const unsigned char *block = qkv_weight_block(c->type, c->group, term / QKV_BLOCK_TERMS);
    return qkv_weight_integer(c->bits, block + qkv_weight_scale_bytes(c->type), term % QKV_BLOCK_TERMS, c->number);
}

/* What stands before the integers of a block: row 0 its scales, row 1 its minima, or scales of the second 16 terms. */
static unsigned scale_byte(const struct column *c, size_t block, size_t row) {
    return qkv_weight_block(c->type, c->group, block)[row * QKV_PANEL + c->number];
}

static unsigned char *put_half(unsigned char *to, const struct column *c, size_t row) {
    memcpy(to, c->group + row * QKV_HALF_ROW + 2 * c->number, 2);
    return to + 2;
}

static void put_plain(unsigned char *to, const struct column *c) {
    to = put_half(to, c, 0);
    if (qkv_weight_has_minimum(c->type))
        to = put_half(to, c, 1);
    if (c->bits == 8) {
        for (size_t t = 0; t < 32; t++)
            to[t] = (unsigned char)integer(c, t);
        return;
    }
    if (c->bits == 5) {
        memset(to, 0, 4);
        for (size_t t = 0; t < 32; t++)
            to[t / 8] = (unsigned char)(to[t / 8] | integer(c, t) >> 4 << t % 8);
        to += 4;
    }
    for (size_t t = 0; t < 16; t++)
        to[t] = (unsigned char)((integer(c, t) & 15) | (integer(c, t + 16) & 15) << 4);
}

static void put_q4_5_k(unsigned char *to, const struct column *c) {
    to = put_half(put_half(to, c, 0), c, 1);
    for (size_t i = 0; i < 4; i++) { /* 6 bits each: the upper two of the second half above those of the first */
        const unsigned scale = scale_byte(c, i + 4, 0), minimum = scale_byte(c, i + 4, 1);
        to[i] = (unsigned char)(scale_byte(c, i, 0) | scale >> 4 << 6);
        to[i + 4] = (unsigned char)(scale_byte(c, i, 1) | minimum >> 4 << 6);
        to[i + 8] = (unsigned char)((scale & 15) | (minimum & 15) << 4);
    }
    to += 12;
    if (c->bits == 5) {
        memset(to, 0, 32);
        for (size_t t = 0; t < 256; t++)
            to[t % 32] = (unsigned char)(to[t % 32] | integer(c, t) >> 4 << t / 32);
        to += 32;
    }
    for (size_t t = 0; t < 128; t++) {
        const size_t term = t / 32 * 64 + t % 32;
        to[t] = (unsigned char)((integer(c, term) & 15) | (integer(c, term + 32) & 15) << 4);
    }
}

static void put_q6_k(unsigned char *to, const struct column *c) {
    for (size_t t = 0; t < 128; t++) {
        const size_t term = t / 64 * 128 + t % 64;
        to[t] = (unsigned char)((integer(c, term) & 15) | (integer(c, term + 64) & 15) << 4);
    }
    to += 128;
    memset(to, 0, 64);
    for (size_t t = 0; t < 256; t++) {
        unsigned char *bits = &to[t / 128 * 32 + t % 32];
        *bits = (unsigned char)(*bits | integer(c, t) >> 4 << t % 128 / 32 * 2);
    }
    to += 64;
    for (size_t i = 0; i < 16; i++)
        to[i] = (unsigned char)scale_byte(c, i / 2, i % 2);
    put_half(to + 16, c, 0);
}

static void put_row(unsigned char *to, const struct ggml_tensor *matrices, const unsigned char *panel, size_t number) {
    int64_t type = QKV_Q4_0;
    type_of_blocks(matrices->type, &type);
    struct column c = {.type = (int)type, .bits = qkv_weight_bits((int)type), .number = number};
    for (int64_t k = 0; k < matrices->ne[0];
         k += ggml_blck_size(matrices->type), to += ggml_type_size(matrices->type)) {
        c.group = qkv_weight_group(c.type, panel, (size_t)(k / QKV_BLOCK_TERMS));
        if (type == QKV_Q6_K)
            put_q6_k(to, &c);
        else if (type == QKV_Q4_K || type == QKV_Q5_K)
            put_q4_5_k(to, &c);
        else
            put_plain(to, &c);
    }
}

/* ------------------------------------------------------------------------------------------------------ any bytes */

/* A panel's rows as ggml has them, and what of the bytes asked for lies in them. */
struct piece {
    unsigned char *panel;
    int64_t rows;
    size_t begin, end; /* bytes from the panel's first row on */
    size_t at;         /* of the bytes asked for */
};

/* Panels are numbered through all matrices. Of a number its first row's place, in bytes of the tensor. */
static size_t first_byte(const struct ggml_tensor *matrices, int64_t number) {
    const int64_t panels = num_panels(matrices);
    return (size_t)(number / panels) * matrices->nb[2] + (size_t)(number % panels * QKV_PANEL) * matrices->nb[1];
}

static int64_t panel_at(const struct ggml_tensor *matrices, size_t offset) {
    const size_t in_matrix = offset % matrices->nb[2] / (QKV_PANEL * matrices->nb[1]);
    return (int64_t)(offset / matrices->nb[2]) * num_panels(matrices) + (int64_t)in_matrix;
}

static struct piece piece_of(const struct ggml_tensor *matrices, const void *panels, int64_t number, size_t offset,
                             size_t size) {
    const int64_t left = matrices->ne[1] - number % num_panels(matrices) * QKV_PANEL;
    struct piece p = {.rows = left < QKV_PANEL ? left : QKV_PANEL};
    p.panel = (unsigned char *)panels + (size_t)number * bytes_of_panel(matrices);
    const size_t first = first_byte(matrices, number), all = (size_t)p.rows * matrices->nb[1];
    p.begin = offset > first ? offset - first : 0;
    p.end = offset + size - first < all ? offset + size - first : all;
    p.at = first + p.begin - offset;
    return p;
}

static void put_rows(unsigned char *to, const struct ggml_tensor *matrices, const struct piece *p) {
    for (int64_t row = 0; row < p->rows; row++)
        put_row(to + (size_t)row * matrices->nb[1], matrices, p->panel, (size_t)row);
}

static bool for_panels(const qkv_ctx *ctx, const struct ggml_tensor *matrices, const void *panels, unsigned char *to,
                       const unsigned char *from, size_t offset, size_t size) {
    unsigned char *rows = malloc(QKV_PANEL * matrices->nb[1]);
    if (!rows)
        return false;
    const int64_t end = size > 0 ? panel_at(matrices, offset + size - 1) + 1 : 0;
    for (int64_t number = panel_at(matrices, offset); number < end; number++) {
        const struct piece p = piece_of(matrices, panels, number, offset, size);
        const bool whole = p.begin == 0 && p.end == (size_t)p.rows * matrices->nb[1];
        if (to || !whole)
            put_rows(rows, matrices, &p);
        if (to) {
            memcpy(to + p.at, rows + p.begin, p.end - p.begin);
            continue;
        }
        const bool is_aligned = ((uintptr_t)from + p.at) % sizeof(uint16_t) == 0;
        if (!whole || !is_aligned)
            memcpy(rows + p.begin, from + p.at, p.end - p.begin);
        const qkv_pack_desc d = describe(matrices, whole && is_aligned ? from + p.at : rows, p.rows);
        qkv_pack(ctx, &d, p.panel);
    }
    free(rows);
    return true;
}

bool write_blocks(const qkv_ctx *ctx, const struct ggml_tensor *matrices, void *panels, const void *from, size_t offset,
                  size_t size) {
    return for_panels(ctx, matrices, panels, NULL, from, offset, size);
}

bool read_blocks(const struct ggml_tensor *matrices, const void *panels, void *to, size_t offset, size_t size) {
    return for_panels(NULL, matrices, panels, to, NULL, offset, size);
}
