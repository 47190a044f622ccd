/* Files of packed weights and KV caches, written on one machine and read on another (scripts/check/byte_order.sh):
 *
 *     packed_file write FOLDER    a file for each type of weights and some caches, in the order of files
 *     packed_file read FOLDER     reads them, multiplies and attends, and prints a hash of each result
 *
 * SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qkv.h>

enum { OUT = 70, TOKENS = 5, ROOM = 1 << 20, HEADS = 2, DIM = 33 };
static _Alignas(64) unsigned char file[ROOM], copy[ROOM], workspace[ROOM];
static unsigned char source[ROOM]; /* of weights */
static const char *folder;
static qkv_ctx ctx;

#define REQUIRE(condition) ((condition) ? (void)0 : stop(#condition, __LINE__))

static void stop(const char *what, int line) {
    fprintf(stderr, "packed_file.c:%d: not so: %s\n", line, what);
    exit(1);
}

/* ----------------------------------------------------------------------------------- numbers, the same everywhere */

static uint64_t drawn;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = drawn += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static float *draw_floats(int count) {
    static float x[4][TOKENS * 4096];
    static int next;
    float *to = x[next++ % 4];
    REQUIRE(count <= TOKENS * 4096);
    for (int i = 0; i < count; i++)
        to[i] = (float)(int64_t)(draw() % 2001 - 1000) * 0x1p-9f;
    return to;
}

/* A number of this CPU's byte order: some binary16 or bfloat16 near 1. */
static void draw_half(unsigned char *at, int type) {
    const uint64_t bits = type == QKV_BF16 ? 0x3f00 + (draw() & 0x80ff) : 0x3800 + (draw() & 0x87ff);
    const uint16_t half = (uint16_t)bits;
    memcpy(at, &half, sizeof half);
}

static uint64_t hash(uint64_t h, const float *x, int count) { /* FNV-1a over words as numbers */
    for (int i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, &x[i], sizeof word);
        h = (h ^ word) * UINT64_C(0x100000001b3);
    }
    return h;
}

/* ---------------------------------------------------------------------------------------------------------- files */

static FILE *open_file(const char *name, const char *mode) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, mode);
    REQUIRE(f != NULL);
    return f;
}

static void write_file(const char *name, size_t bytes) {
    FILE *f = open_file(name, "wb");
    REQUIRE(fwrite(file, 1, bytes, f) == bytes && fclose(f) == 0);
}

static void read_file(const char *name, size_t bytes) {
    FILE *f = open_file(name, "rb");
    REQUIRE(bytes <= ROOM && fread(file, 1, bytes, f) == bytes && fgetc(f) == EOF && fclose(f) == 0);
    memcpy(copy, file, bytes);
}

/* -------------------------------------------------------------------------------------------------------- weights */

typedef struct weights {
    const char *name;
    int type, terms, bytes, halves[2]; /* of an element or a block; where in it numbers of 16 bits are, −1: nowhere */
    int in;
} weights;

static const weights all_weights[] = {
    {"f32", QKV_F32, 1, 4, {-1, -1}, 37},      {"f16", QKV_F16, 1, 2, {0, -1}, 37},
    {"bf16", QKV_BF16, 1, 2, {0, -1}, 37},     {"int8", QKV_INT8, 1, 1, {-1, -1}, 37},
    {"q8_0", QKV_Q8_0, 32, 34, {0, -1}, 96},   {"q4_0", QKV_Q4_0, 32, 18, {0, -1}, 96},
    {"q4_1", QKV_Q4_1, 32, 20, {0, 2}, 96},    {"q5_0", QKV_Q5_0, 32, 22, {0, -1}, 96},
    {"q5_1", QKV_Q5_1, 32, 24, {0, 2}, 96},    {"q4_k", QKV_Q4_K, 256, 144, {0, 2}, 512},
    {"q5_k", QKV_Q5_K, 256, 176, {0, 2}, 512}, {"q6_k", QKV_Q6_K, 256, 210, {208, -1}, 512},
};

/* Two parts, the second in floats, so that panels of another width follow. */
static qkv_pack_desc draw_weights(const weights *w) {
    const int elements = OUT * w->in / w->terms;
    drawn = (uint64_t)w->type;
    if (w->type == QKV_F32)
        memcpy(source, draw_floats(elements), (size_t)elements * sizeof(float));
    for (int i = 0; w->type != QKV_F32 && i < elements * w->bytes; i++)
        source[i] = (unsigned char)draw();
    for (int i = 0; i < elements; i++) {
        for (int h = 0; h < 2 && w->halves[h] >= 0; h++)
            draw_half(source + i * w->bytes + w->halves[h], w->type);
    }
    return (qkv_pack_desc){
        .size = sizeof(qkv_pack_desc),
        .in_features = w->in,
        .num_parts = 2,
        .part = {
            {.data = source, .out_features = OUT, .layout = QKV_OUT_IN, .type = w->type, .scales = draw_floats(OUT)},
            {.data = draw_floats(3 * w->in), .out_features = 3, .layout = QKV_OUT_IN}}};
}

static void write_weights(const weights *w) {
    const qkv_pack_desc desc = draw_weights(w);
    size_t bytes;
    REQUIRE(qkv_packed_size(&desc, &bytes) == QKV_OK && bytes <= ROOM);
    REQUIRE(qkv_pack(&ctx, &desc, file) == QKV_OK);
    REQUIRE(qkv_packed_file_order(&desc, file) == QKV_OK);
    write_file(w->name, bytes);
}

static uint64_t multiply(const weights *w, int arithmetic) {
    static float y[2][TOKENS * OUT];
    qkv_projection_desc d = {.size = sizeof d,
                             .batch = 1,
                             .tokens = TOKENS,
                             .in_features = w->in,
                             .num_parts = 2,
                             .x = {draw_floats(TOKENS * w->in), .token = w->in},
                             .packed = file,
                             .arithmetic = arithmetic,
                             .part = {{.out_features = OUT, .out = {y[0], .token = OUT}, .type = w->type},
                                      {.out_features = 3, .out = {y[1], .token = 3}}}};
    if (arithmetic == QKV_ARITHMETIC_INT8) /* the floats are no integers */
        d.num_parts = 1;
    qkv_plan plan;
    REQUIRE(qkv_projection_plan(&ctx, &d, 1, &plan) == QKV_OK && plan.workspace_size <= ROOM);
    REQUIRE(qkv_projection_run(&plan, &d, workspace, ROOM) == QKV_OK);
    const uint64_t h = hash(0, y[0], TOKENS * OUT);
    return d.num_parts == 1 ? h : hash(h, y[1], TOKENS * 3);
}

static void read_weights(const weights *w) {
    const qkv_pack_desc desc = draw_weights(w);
    size_t bytes;
    REQUIRE(qkv_packed_size(&desc, &bytes) == QKV_OK);
    read_file(w->name, bytes);
    REQUIRE(qkv_packed_file_order(&desc, file) == QKV_OK);
    for (int arithmetic = QKV_ARITHMETIC_F32; arithmetic <= QKV_ARITHMETIC_BF16; arithmetic++) {
        const bool integers = w->type == QKV_INT8 || w->terms > 1;
        if (arithmetic != QKV_ARITHMETIC_INT8 || integers)
            printf("%s in arithmetic %d: %016" PRIx64 "\n", w->name, arithmetic, multiply(w, arithmetic));
    }
    REQUIRE(qkv_packed_file_order(&desc, file) == QKV_OK && memcmp(file, copy, bytes) == 0);
}

/* --------------------------------------------------------------------------------------------------------- caches */

typedef struct cache_types {
    const char *name;
    int k, v, window;
} cache_types;

static const cache_types all_caches[] = {
    {"cache-f32", QKV_F32, QKV_F32, 0},
    {"cache-f16-bf16", QKV_F16, QKV_BF16, 100},
    {"cache-bf16-int8", QKV_BF16, QKV_INT8, 0},
    {"cache-int8-f16", QKV_INT8, QKV_F16, 70},
};

static size_t cache_bytes(const cache_types *types, qkv_cache_desc *d) {
    *d = (qkv_cache_desc){.size = sizeof *d,
                          .num_sequences = 3,
                          .max_tokens = 300,
                          .num_kv_heads = HEADS,
                          .head_dim = DIM,
                          .k_type = types->k,
                          .v_type = types->v,
                          .window = types->window,
                          .first_tokens = types->window > 0 ? 4 : 0};
    size_t bytes;
    REQUIRE(qkv_cache_size(d, &bytes) == QKV_OK && bytes <= ROOM);
    return bytes;
}

static void append(int sequence, int n) {
    const float *k = draw_floats(n * HEADS * DIM), *v = draw_floats(n * HEADS * DIM);
    REQUIRE(qkv_cache_append(&ctx, file, sequence, n, (qkv_input){k, .head = DIM, .token = HEADS * DIM},
                             (qkv_input){v, .head = DIM, .token = HEADS * DIM}) == QKV_OK);
}

static void write_cache(const cache_types *types) {
    qkv_cache_desc d;
    const size_t bytes = cache_bytes(types, &d);
    drawn = (uint64_t)(16 * types->k + types->v);
    memset(file, 0, bytes); /* free pages too have the same bytes everywhere */
    REQUIRE(qkv_cache_init(&d, file, bytes) == QKV_OK);
    append(0, 130);
    REQUIRE(qkv_cache_fork(file, 0, 2) == QKV_OK);
    append(0, 60);
    append(2, 3);
    REQUIRE(qkv_cache_file_order(file, bytes) == QKV_OK);
    write_file(types->name, bytes);
}

static uint64_t attend(int sequence) {
    static float out[TOKENS * HEADS * DIM];
    qkv_attention_desc d = {.size = sizeof d,
                            .batch = 1,
                            .num_heads = HEADS,
                            .seq_q = TOKENS,
                            .q = {draw_floats(TOKENS * HEADS * DIM), .head = DIM, .token = HEADS * DIM},
                            .out = {out, .head = DIM, .token = HEADS * DIM},
                            .flags = QKV_RIGHT | QKV_FROM_END};
    qkv_plan plan;
    REQUIRE(qkv_cache_attach(file, sequence, &d) == QKV_OK);
    REQUIRE(qkv_attention_plan(&ctx, &d, 1, &plan) == QKV_OK && plan.workspace_size <= ROOM);
    REQUIRE(qkv_attention_run(&plan, &d, workspace, ROOM) == QKV_OK);
    return hash(0, out, TOKENS * HEADS * DIM);
}

static void read_cache(const cache_types *types) {
    const uint16_t one = 1;
    const bool big_endian = *(const unsigned char *)&one == 0;
    qkv_cache_desc d;
    const size_t bytes = cache_bytes(types, &d);
    drawn = (uint64_t)(4096 + 16 * types->k + types->v);
    read_file(types->name, bytes);
    REQUIRE(qkv_cache_check(file, bytes) == (big_endian ? QKV_ERROR_CACHE : QKV_OK));
    for (int i = 0; i < 160; i++) { /* damage is refused, and nothing else changes */
        file[i] ^= 0x40;
        const unsigned char changed = file[i];
        REQUIRE(qkv_cache_file_order(file, bytes) == QKV_ERROR_CACHE && file[i] == changed);
        file[i] ^= 0x40;
        REQUIRE(memcmp(file, copy, bytes) == 0);
    }
    REQUIRE(qkv_cache_file_order(file, bytes - 1) == QKV_ERROR_CACHE && memcmp(file, copy, bytes) == 0);

    REQUIRE(qkv_cache_file_order(file, bytes) == QKV_OK && qkv_cache_check(file, bytes) == QKV_OK);
    REQUIRE(qkv_cache_file_order(file, bytes) == QKV_OK && memcmp(file, copy, bytes) == 0);
    REQUIRE(qkv_cache_file_order(file, bytes) == QKV_OK);
    append(2, TOKENS);
    append(1, TOKENS);
    REQUIRE(qkv_cache_check(file, bytes) == QKV_OK);
    for (int sequence = 0; sequence < 3; sequence++)
        printf("%s, sequence %d: %016" PRIx64 "\n", types->name, sequence, attend(sequence));
}

int main(int argc, char **argv) {
    if (argc != 3 || (strcmp(argv[1], "write") != 0 && strcmp(argv[1], "read") != 0)) {
        fprintf(stderr, "usage: packed_file write|read FOLDER\n");
        return 2;
    }
    const bool writes = argv[1][0] == 'w';
    folder = argv[2];
    REQUIRE(qkv_init(&ctx, NULL) == QKV_OK);
    for (size_t i = 0; i < sizeof all_weights / sizeof all_weights[0]; i++)
        (writes ? write_weights : read_weights)(&all_weights[i]);
    for (size_t i = 0; i < sizeof all_caches / sizeof all_caches[0]; i++)
        (writes ? write_cache : read_cache)(&all_caches[i]);
    return 0;
}
