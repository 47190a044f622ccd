/* Golden results: what the reference must give, as hashes that were recorded once. Comparing kernel sets with the
 * reference says nothing where the reference itself is compiled wrong, or where there is no other set.
 *
 * SPDX-License-Identifier: MIT */
#include "golden.h"

#include <math.h>
#include <string.h>

/* 472 KiB in all, as this runs on microcontrollers too (docs/embedded.md). */
enum { MOST_FLOATS = 39000, WORKSPACE = 234 * 1024, PACKED = 75 * 1024, CACHE = 17 * 1024 };
enum { TERMS = 256, TOKENS = 64, OUTS = 32, INNER = 300 };

static float memory[MOST_FLOATS];
static _Alignas(64) unsigned char workspace[WORKSPACE], packed[PACKED], cache[CACHE];
static size_t used;
static uint64_t random_state;

/* Words from splitmix64, and numbers made of them by exact operations: the same on every machine. */
static uint32_t word(void) {
    uint64_t z = random_state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (uint32_t)(z >> 32);
}

static float *floats(size_t count) {
    float *x = memory + used;
    used += count;
    if (used > MOST_FLOATS)
        __builtin_trap(); /* whoever adds a test sees it at once */
    return memset(x, 0, count * sizeof *x);
}

/* Multiples of limit/2^15 between −limit and limit, which is a power of two. */
static float *numbers(size_t count, float limit) {
    float *x = floats(count);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)((int32_t)(word() & 0xffff) - 0x8000) * (limit / 0x8000);
    return x;
}

/* Floats of any magnitude up to 2^63, a third of them with few bits, so that sums of products are ties. */
static float *wide_numbers(size_t count) {
    float *x = floats(count);
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = word(), exponent = word() % 126 + 64;
        bits &= word() % 3 == 0 ? 0x80780000u : 0x807fffffu;
        bits |= exponent << 23;
        memcpy(&x[i], &bits, sizeof bits);
    }
    return x;
}

/* FNV-1a over the words as numbers, every NaN being one: neither byte order nor payloads count. */
static uint64_t hash(uint64_t h, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        if ((bits & 0x7fffffffu) > 0x7f800000u)
            bits = 0x7fc00000u;
        for (int byte = 0; byte < 4; byte++)
            h = (h ^ (bits >> 8 * byte & 0xff)) * UINT64_C(0x100000001b3);
    }
    return h;
}

#define START UINT64_C(0xcbf29ce484222325)

#define RUN(operation, ctx, desc)                                                                                      \
    do {                                                                                                               \
        qkv_plan plan;                                                                                                 \
        if (qkv_##operation##_plan(ctx, desc, 1, &plan) != QKV_OK ||                                                   \
            qkv_##operation##_run(&plan, desc, workspace, sizeof workspace) != QKV_OK)                                 \
            return 0;                                                                                                  \
    } while (0)

/* Outputs of in_features terms each. With two, the first times 1, it is fma(x[1], w[1], x[0]). */
static uint64_t project(const qkv_ctx *ctx, int64_t in_features, const float *x, const float *w, const float *bias) {
    const qkv_pack_desc pack = {
        .size = sizeof pack, .in_features = in_features, .num_parts = 1, .part = {{.data = w, .out_features = OUTS}}};
    float *y = floats(TOKENS * OUTS);
    const qkv_projection_desc d = {.size = sizeof d,
                                   .batch = 1,
                                   .tokens = TOKENS,
                                   .in_features = in_features,
                                   .num_parts = 1,
                                   .x = {x, 0, 0, in_features},
                                   .packed = packed,
                                   .part = {{.out_features = OUTS, .bias = bias, .out = {y, 0, 0, OUTS}}}};
    size_t bytes = 0;
    if (qkv_packed_size(&pack, &bytes) != QKV_OK || bytes > sizeof packed || qkv_pack(ctx, &pack, packed) != QKV_OK)
        return 0;
    RUN(projection, ctx, &d);
    return hash(START, y, TOKENS * OUTS);
}

static uint64_t golden_fma(const qkv_ctx *ctx) {
    float *x = wide_numbers(TOKENS * 2), *w = wide_numbers(2 * OUTS);
    for (int i = 0; i < OUTS; i++)
        w[i] = 1;
    return project(ctx, 2, x, w, NULL);
}

static uint64_t golden_projection(const qkv_ctx *ctx) {
    const float *x = numbers(TOKENS * INNER, 1), *w = numbers(INNER * OUTS, 1), *bias = numbers(OUTS, 1);
    return project(ctx, INNER, x, w, bias);
}

/* The state of one block whose V is the unit matrix: the weights of its keys, one by one. Its rows are a single 1
 * among zeros, each seen from one float further down. */
static uint64_t weights(const qkv_ctx *ctx, const float *k, const float *bias, float softcap) {
    static const float one = 1;
    float *v = floats(2 * TERMS - 1) + (TERMS - 1), *state = floats(TERMS + 2);
    v[0] = 1;
    const qkv_attention_desc d = {.size = sizeof d,
                                  .batch = 1,
                                  .num_heads = 1,
                                  .seq_q = 1,
                                  .seq_k = TERMS,
                                  .head_dim = 1,
                                  .head_dim_v = TERMS,
                                  .scale = 1,
                                  .softcap = softcap,
                                  .q = {&one, 0, 0, 1},
                                  .k = {k, 0, 0, 1},
                                  .v = {v, 0, 0, -1},
                                  .bias = {bias, 0, 0, 0, 1},
                                  .states = {state, 0, 0, 0, TERMS + 2}};
    RUN(attention, ctx, &d);
    return hash(START, state, TERMS + 2);
}

static uint64_t golden_exp2(const qkv_ctx *ctx) {
    float *k = numbers(TERMS, 64);
    return weights(ctx, k, NULL, 0);
}

static uint64_t golden_tanh(const qkv_ctx *ctx) {
    float *k = numbers(TERMS, 64);
    for (size_t i = 0; i < TERMS; i += 2)
        k[i] = k[i] * 0x1p-4f;
    return weights(ctx, k, numbers(TERMS, 1), 16);
}

/* Attention with every option. It and its gradients share one descriptor. */
enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, SEQ_Q = 5, SEQ_K = 270, DIM = 10, DIM_V = 6 };
enum { Q_ROWS = BATCH * HEADS * SEQ_Q, K_ROWS = BATCH * KV_HEADS * SEQ_K };

static uint8_t keep[BATCH * SEQ_K];
static const int64_t lengths[BATCH] = {SEQ_K, SEQ_K - 7};

static qkv_attention_desc every_option(void) {
    float *bias = numbers(SEQ_Q * SEQ_K, 2), *sinks = numbers(HEADS, 2), *slopes = numbers(HEADS, 0x1p-6f);
    float *q = numbers(Q_ROWS * DIM, 2), *k = numbers(K_ROWS * DIM, 2), *v = numbers(K_ROWS * DIM_V, 1);
    for (size_t i = 0; i < K_ROWS; i++)
        v[i * DIM_V] = -0x1p-149f; /* means of it underflow to a zero, which is +0 */
    bias[3] = bias[SEQ_K + 260] = -INFINITY;
    bias[100] = -3e38f;
    sinks[1] = -INFINITY;
    for (size_t i = 0; i < sizeof keep; i++)
        keep[i] = word() % 4 != 0;
    return (qkv_attention_desc){.size = sizeof(qkv_attention_desc),
                                .batch = BATCH,
                                .num_heads = HEADS,
                                .num_kv_heads = KV_HEADS,
                                .seq_q = SEQ_Q,
                                .seq_k = SEQ_K,
                                .head_dim = DIM,
                                .head_dim_v = DIM_V,
                                .softcap = 8,
                                .flags = QKV_LEFT | QKV_RIGHT,
                                .left = 265,
                                .right = 1,
                                .q_offset = SEQ_K - SEQ_Q,
                                .kv_len = lengths,
                                .alibi_slopes = slopes,
                                .sinks = sinks,
                                .bias = {bias, 0, 0, SEQ_K, 1},
                                .keep = {keep, SEQ_K, 0, 0, 1},
                                .q = {q, HEADS * SEQ_Q * DIM, SEQ_Q * DIM, DIM},
                                .k = {k, KV_HEADS * SEQ_K * DIM, SEQ_K * DIM, DIM},
                                .v = {v, KV_HEADS * SEQ_K * DIM_V, SEQ_K * DIM_V, DIM_V},
                                .out = {floats(Q_ROWS * DIM_V), HEADS * SEQ_Q * DIM_V, SEQ_Q * DIM_V, DIM_V},
                                .lse = {floats(Q_ROWS), HEADS * SEQ_Q, SEQ_Q, 1}};
}

static uint64_t golden_forward(const qkv_ctx *ctx) {
    const qkv_attention_desc d = every_option();
    RUN(attention, ctx, &d);
    return hash(hash(START, d.out.data, Q_ROWS * DIM_V), d.lse.data, Q_ROWS);
}

/* Attention in bfloat16. */
static uint64_t golden_bf16(const qkv_ctx *ctx) {
    qkv_attention_desc d = every_option();
    d.arithmetic = QKV_ARITHMETIC_BF16;
    RUN(attention, ctx, &d);
    return hash(hash(START, d.out.data, Q_ROWS * DIM_V), d.lse.data, Q_ROWS);
}

/* Scores in 8 bits, with means. */
static uint64_t golden_int8(const qkv_ctx *ctx) {
    qkv_attention_desc d = every_option();
    d.arithmetic = QKV_ARITHMETIC_INT8;
    float *means = floats(BATCH * KV_HEADS * DIM);
    if (qkv_attention_key_means(ctx, &d, means) != QKV_OK)
        return 0;
    d.k_means = (qkv_input){means, KV_HEADS * DIM, DIM, 0};
    RUN(attention, ctx, &d);
    return hash(hash(START, d.out.data, Q_ROWS * DIM_V), d.lse.data, Q_ROWS);
}

/* The LSE of few keys: ln of sums between 1 and SEQ_K. */
static uint64_t golden_log(const qkv_ctx *ctx) {
    qkv_attention_desc d = every_option();
    d.bias.data = d.keep.data = NULL;
    d.sinks = d.alibi_slopes = NULL;
    d.softcap = 0;
    d.q_offset = 0;
    RUN(attention, ctx, &d);
    return hash(START, d.lse.data, Q_ROWS);
}

static uint64_t golden_merge(const qkv_ctx *ctx) {
    enum { PARTS = 3 };
    float *lse = numbers(PARTS * TOKENS, 16), *part_out = numbers(PARTS * TOKENS * DIM, 1);
    float *out = floats(TOKENS * DIM), *out_lse = floats(TOKENS);
    lse[0] = lse[TOKENS] = lse[2 * TOKENS] = lse[5] = -INFINITY;
    const qkv_merge_desc d = {.size = sizeof d,
                              .batch = 1,
                              .num_heads = 1,
                              .seq_q = TOKENS,
                              .head_dim_v = DIM,
                              .num_parts = PARTS,
                              .part_out = {part_out, 0, 0, DIM},
                              .part_out_stride = TOKENS * DIM,
                              .part_lse = {lse, 0, 0, 1},
                              .part_lse_stride = TOKENS,
                              .out = {out, 0, 0, DIM},
                              .lse = {out_lse, 0, 0, 1}};
    RUN(merge, ctx, &d);
    return hash(hash(START, out, TOKENS * DIM), out_lse, TOKENS);
}

static uint64_t gradients(const qkv_ctx *ctx, int64_t arithmetic) {
    qkv_attention_backward_desc g = {.size = sizeof g, .forward = every_option()};
    const qkv_attention_desc *d = &g.forward;
    g.forward.arithmetic = arithmetic;
    float *dq = floats(Q_ROWS * DIM), *dk = floats(K_ROWS * DIM), *dv = floats(K_ROWS * DIM_V);
    float *dbias = floats(SEQ_Q * SEQ_K);
    g.grad_out = (qkv_input){numbers(Q_ROWS * DIM_V, 1), d->out.batch, d->out.head, d->out.token};
    g.grad_q = (qkv_output){dq, d->q.batch, d->q.head, d->q.token};
    g.grad_k = (qkv_output){dk, d->k.batch, d->k.head, d->k.token};
    g.grad_v = (qkv_output){dv, d->v.batch, d->v.head, d->v.token};
    g.grad_bias = (qkv_matrix_output){dbias, 0, 0, SEQ_K, 1};
    g.grad_sinks = floats(HEADS);
    RUN(attention, ctx, d);
    RUN(attention_backward, ctx, &g);
    uint64_t h = hash(hash(hash(START, dq, Q_ROWS * DIM), dk, K_ROWS * DIM), dv, K_ROWS * DIM_V);
    return hash(hash(h, dbias, SEQ_Q * SEQ_K), g.grad_sinks, HEADS);
}

static uint64_t golden_gradients(const qkv_ctx *ctx) {
    return gradients(ctx, QKV_ARITHMETIC_F32);
}

static uint64_t golden_bf16_gradients(const qkv_ctx *ctx) {
    return gradients(ctx, QKV_ARITHMETIC_BF16);
}

/* Tables of RoPE, every scaling. */
static uint64_t golden_rope(const qkv_ctx *ctx) {
    enum { POSITIONS = 24, PAIRS = 16 };
    float *cosines = floats(POSITIONS * PAIRS), *sines = floats(POSITIONS * PAIRS);
    uint64_t h = START;
    (void)ctx;
    for (uint32_t scaling = QKV_ROPE_UNSCALED; scaling <= QKV_ROPE_LLAMA3; scaling++) {
        const qkv_rope_table_desc d = {.size = sizeof d,
                                       .first_position = scaling % 2 ? 131000 : -POSITIONS / 2,
                                       .num_positions = POSITIONS,
                                       .rotary_dim = 2 * PAIRS,
                                       .base = 500000,
                                       .scaling = scaling,
                                       .factor = 8,
                                       .original_positions = 8192};
        if (qkv_rope_table(&d, cosines, sines) != QKV_OK)
            return 0;
        h = hash(hash(h, cosines, POSITIONS * PAIRS), sines, POSITIONS * PAIRS);
    }
    return h;
}

/* A layer with QK-norm and RoPE that takes tokens at once and then one by one, over a cache of each storage type. */
static uint64_t golden_decoding(const qkv_ctx *ctx) {
    enum { MODEL = 24, WIDTH = 8, AT_ONCE = 66, STEPS = 3, LENGTH = AT_ONCE + STEPS };
    enum { Q_OUT = HEADS * WIDTH, KV_OUT = KV_HEADS * WIDTH, COLUMNS = Q_OUT + 2 * KV_OUT };
    const float *x = numbers(LENGTH * MODEL, 1), *w = numbers(MODEL * COLUMNS, 1), *norm = numbers(WIDTH, 2);
    float *out = floats(LENGTH * Q_OUT), *cosines = floats(LENGTH * WIDTH), *sines = floats(LENGTH * WIDTH);
    const qkv_pack_desc pack = {.size = sizeof pack,
                                .in_features = MODEL,
                                .num_parts = 3,
                                .part = {{.data = w, .out_features = Q_OUT, .stride = COLUMNS},
                                         {.data = w + Q_OUT, .out_features = KV_OUT, .stride = COLUMNS},
                                         {.data = w + Q_OUT + KV_OUT, .out_features = KV_OUT, .stride = COLUMNS}}};
    const qkv_rope_table_desc table = {.size = sizeof table, .num_positions = LENGTH, .rotary_dim = WIDTH};
    qkv_layer_desc d = {.size = sizeof d,
                        .model_dim = MODEL,
                        .out_features = Q_OUT,
                        .w_qkv = packed,
                        .norm_q = norm,
                        .norm_k = norm,
                        .norm_epsilon = 0x1p-20f,
                        .cache = cache,
                        .rope = {cosines, sines, LENGTH, WIDTH, QKV_ROPE_HALF},
                        .attention = {.size = sizeof d.attention, .batch = 1, .num_heads = HEADS, .flags = QKV_RIGHT}};
    static const int32_t types[] = {QKV_F32, QKV_F16, QKV_BF16, QKV_INT8};
    uint64_t h = START;
    size_t bytes = 0;
    if (qkv_packed_size(&pack, &bytes) != QKV_OK || bytes > sizeof packed || qkv_pack(ctx, &pack, packed) != QKV_OK ||
        qkv_rope_table(&table, cosines, sines) != QKV_OK)
        return 0;
    for (int type = 0; type < 4; type++) {
        const qkv_cache_desc c = {.size = sizeof c,
                                  .num_sequences = 1,
                                  .max_tokens = LENGTH,
                                  .num_kv_heads = KV_HEADS,
                                  .head_dim = WIDTH,
                                  .k_type = types[type],
                                  .v_type = types[type]};
        if (qkv_cache_init(&c, cache, sizeof cache) != QKV_OK)
            return 0;
        for (int64_t t = 0, n = AT_ONCE; t < LENGTH; t += n, n = 1) {
            d.x = (qkv_input){x + t * MODEL, 0, 0, MODEL};
            d.out = (qkv_output){out + t * Q_OUT, 0, 0, Q_OUT};
            d.attention.seq_q = n;
            if (qkv_cache_extend(cache, 0, n) != QKV_OK)
                return 0;
            RUN(layer, ctx, &d);
        }
        h = hash(h, out, LENGTH * Q_OUT);
    }
    return h;
}

/* Appends text to a line of LINE characters, or a number in digits of the base. */
enum { LINE = 160 };

static void append(char *line, const char *text) {
    size_t length = strlen(line);
    while (*text && length + 1 < LINE)
        line[length++] = *text++;
    line[length] = 0;
}

static void append_number(char *line, uint64_t number, unsigned base, int digits) {
    char text[17] = {0};
    for (int i = digits; i-- > 0; number /= base)
        text[i] = "0123456789abcdef"[number % base];
    append(line, text);
}

int golden(const qkv_ctx *ctx, void (*say)(const char *line)) {
    static const struct {
        const char *name;
        uint64_t (*result)(const qkv_ctx *ctx);
        uint64_t expected;
    } tests[] = {
        {"fma", golden_fma, UINT64_C(0x9a305d73ce51cf9e)},
        {"exp2", golden_exp2, UINT64_C(0xb20686937ddccc83)},
        {"tanh", golden_tanh, UINT64_C(0x272f1234bd5199a7)},
        {"log", golden_log, UINT64_C(0x19b6c5940dde2802)},
        {"projection", golden_projection, UINT64_C(0x95a7bb6891471f9d)},
        {"forward", golden_forward, UINT64_C(0x90002292c3b94e18)},
        {"merge", golden_merge, UINT64_C(0x4a95155c16ff6fd8)},
        {"gradients", golden_gradients, UINT64_C(0x078d9302bfbaa817)},
        {"rope", golden_rope, UINT64_C(0x632a06600a5ecf01)},
        {"decoding", golden_decoding, UINT64_C(0x9279ba3f754a047c)},
        {"bfloat16", golden_bf16, UINT64_C(0x3fbfa918ae41193e)},
        {"int8 scores", golden_int8, UINT64_C(0xee4d54b471a6959e)},
        {"gradients in bfloat16", golden_bf16_gradients, UINT64_C(0x9d1e3dbb818f5c09)},
    };
    const int count = sizeof tests / sizeof tests[0];
    int failed = 0;
    for (int i = 0; i < count; i++) {
        used = 0;
        random_state = (uint64_t)i;
        const uint64_t got = tests[i].result(ctx);
        if (got == tests[i].expected)
            continue;
        char line[LINE] = {0};
        append(line, ctx->isa);
        append(line, ": ");
        append(line, tests[i].name);
        append(line, " gives other bits than recorded: hash ");
        append_number(line, got, 16, 16);
        append(line, ", not ");
        append_number(line, tests[i].expected, 16, 16);
        say(line);
        failed = 1;
    }
    if (!failed) {
        char line[LINE] = {0};
        append(line, ctx->isa);
        append(line, ": ");
        append_number(line, (uint64_t)count, 10, 2);
        append(line, " golden results, all as recorded");
        say(line);
    }
    return failed;
}
