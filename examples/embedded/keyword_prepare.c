/* Prepares the model for keyword.c and plain_keyword.c, on a computer: packs weights as they will lie in flash, runs
 * the layer, and writes both as C to standard output. Of a model of yours, read the weights here.
 *
 *   keyword_prepare f32|int8|int8-products|plain >keyword_model.h
 *
 * int8: weights are rounded to 8 bits with a scale for each output. int8-products: and are multiplied in integers.
 * plain: weights as matrices, and the output itself.
 * SPDX-License-Identifier: MIT */
#include "keyword.h"

#include <inttypes.h>
#include <math.h>
#include <qkv.h>
#include <stdio.h>
#include <stdlib.h>

enum { COLUMNS = 3 * WIDTH, MOST = MODEL * COLUMNS };

static float w_qkv[MODEL * COLUMNS], w_o[WIDTH * MODEL]; /* [in][out] */
static _Alignas(64) unsigned char packed_qkv[MOST * sizeof(float)], packed_o[MOST * sizeof(float)];
static float x[TOKENS * MODEL];

static void must(qkv_status status) {
    if (status == QKV_OK)
        return;
    fprintf(stderr, "keyword_prepare: %s\n", qkv_status_string(status));
    exit(1);
}

/* Column by column: the largest magnitude becomes 127. */
static void to_int8(const float *w, int in, int out, int8_t *integers, float *scales) {
    for (int c = 0; c < out; c++) {
        float most = 0;
        for (int i = 0; i < in; i++)
            most = fmaxf(most, fabsf(w[i * out + c]));
        scales[c] = most / 127;
        for (int i = 0; i < in; i++)
            integers[i * out + c] = (int8_t)(most > 0 ? lrintf(w[i * out + c] / scales[c]) : 0);
    }
}

/* Parts of WIDTH columns beside each other. Returns the packed bytes. */
static size_t pack(const qkv_ctx *ctx, const float *w, int in, int parts, int type, void *packed) {
    static int8_t integers[MOST];
    static float scales[COLUMNS];
    const int columns = parts * WIDTH;
    qkv_pack_desc desc = {.size = sizeof desc, .in_features = in, .num_parts = parts};
    to_int8(w, in, columns, integers, scales);
    for (int i = 0; i < parts; i++) {
        desc.part[i] = (qkv_weight){.data = w + i * WIDTH, .out_features = WIDTH, .stride = columns, .type = type};
        if (type == QKV_INT8) {
            desc.part[i].data = integers + i * WIDTH;
            desc.part[i].scales = scales + i * WIDTH;
        }
    }
    size_t bytes;
    must(qkv_packed_size(&desc, &bytes));
    must(bytes <= sizeof packed_qkv ? qkv_pack(ctx, &desc, packed) : QKV_ERROR_WORKSPACE);
    return bytes;
}

/* As words of this computer's byte order, which has to be the target's. */
static void write_words(const char *name, const void *data, size_t bytes) {
    printf("static const _Alignas(64) uint32_t %s[%zu] = {", name, bytes / 4);
    for (size_t i = 0; i < bytes / 4; i++) {
        uint32_t word;
        memcpy(&word, (const char *)data + 4 * i, sizeof word);
        printf("%s0x%08" PRIx32 ",", i % 8 == 0 ? "\n    " : " ", word);
    }
    printf("\n};\n");
}

static void write_floats(const char *name, const float *data, int count) {
    printf("static const float %s[%d] = {", name, count);
    for (int i = 0; i < count; i++)
        printf("%s%af,", i % 6 == 0 ? "\n    " : " ", (double)data[i]);
    printf("\n};\n");
}

/* The layer of keyword.c in one call. */
static void run(const qkv_ctx *ctx, int type, int arithmetic) {
    qkv_plan plan;
    const qkv_layer_desc layer = {.size = sizeof layer,
                                  .model_dim = MODEL,
                                  .out_features = MODEL,
                                  .w_qkv = packed_qkv,
                                  .w_o = packed_o,
                                  .wq_type = type,
                                  .wk_type = type,
                                  .wv_type = type,
                                  .wo_type = type,
                                  .arithmetic = arithmetic,
                                  .x = {x, .token = MODEL},
                                  .out = {x, .token = MODEL},
                                  .attention = {.size = sizeof layer.attention,
                                                .batch = 1,
                                                .num_heads = HEADS,
                                                .seq_q = TOKENS,
                                                .seq_k = TOKENS,
                                                .head_dim = DIM}};
    must(qkv_layer_plan(ctx, &layer, 1, &plan));
    void *workspace = aligned_alloc(64, plan.workspace_size);
    must(qkv_layer_run(&plan, &layer, workspace, plan.workspace_size));
    free(workspace);
}

int main(int argc, char **argv) {
    const char *kind = argc == 2 ? argv[1] : "";
    const int plain = strcmp(kind, "plain") == 0, products = strcmp(kind, "int8-products") == 0;
    const int int8 = products || strcmp(kind, "int8") == 0;
    if (!plain && !int8 && strcmp(kind, "f32") != 0) {
        fprintf(stderr, "usage: keyword_prepare f32|int8|int8-products|plain >keyword_model.h\n");
        return 2;
    }
    const int type = int8 ? QKV_INT8 : QKV_F32;
    const int arithmetic = products ? QKV_ARITHMETIC_INT8 : QKV_ARITHMETIC_F32;
    keyword_numbers(2, 0x1p-2f, w_qkv, MODEL * COLUMNS);
    keyword_numbers(3, 0x1p-2f, w_o, WIDTH * MODEL);

    qkv_ctx ctx;
    must(qkv_init(&ctx, NULL));
    const size_t qkv_bytes = pack(&ctx, w_qkv, MODEL, 3, type, packed_qkv);
    const size_t o_bytes = pack(&ctx, w_o, WIDTH, 1, type, packed_o);
    keyword_numbers(1, 1, x, TOKENS * MODEL);
    run(&ctx, type, arithmetic);

    if (plain) {
        write_floats("keyword_w_qkv", w_qkv, MODEL * COLUMNS);
        write_floats("keyword_w_o", w_o, WIDTH * MODEL);
        write_floats("keyword_expected", x, TOKENS * MODEL);
        return 0;
    }
    printf("#define KEYWORD_TYPE %d\n#define KEYWORD_ARITHMETIC %d\n", type, arithmetic);
    printf("#define KEYWORD_CHECKSUM UINT64_C(0x%016" PRIx64 ")\n", keyword_checksum(x, TOKENS * MODEL));
    write_words("keyword_w_qkv", packed_qkv, qkv_bytes);
    write_words("keyword_w_o", packed_o, o_bytes);
    return 0;
}
