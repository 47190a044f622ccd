/* qkv-info --selftest: random attention calls with random features, projections and whole layers, run by the reference
 * and by every other kernel set of this CPU through the public API. All words must be equal. Then golden.c.
 *
 * SPDX-License-Identifier: MIT */
#include "selftest.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "golden.h"

#define SECONDS 2.0
#define MAX_SETS 16
#define MAX_TENSORS 32
#define MAX_WORKERS 1

/* ---------------------------------------------------------------------------------------------- random numbers */

static uint64_t rng_state;

static uint64_t random_bits(void) { /* splitmix64 */
    uint64_t z = rng_state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static const char *const arithmetic_names[] = {"", " in int8", " in bf16"};

static int64_t between(int64_t low, int64_t high) {
    return low + (int64_t)(random_bits() % (uint64_t)(high - low + 1));
}

static bool chance(int percent) {
    return between(0, 99) < percent;
}

static float uniform(float limit) {
    return limit * ((float)(random_bits() >> 40) * 0x1p-23f - 1.0f);
}

/* -------------------------------------------------------------------------------------------------- the memory */

/* 64-byte aligned, in what malloc gave, which is to be freed: aligned_alloc is not everywhere. */
static void *allocate(void **memory, size_t bytes) {
    *memory = malloc(bytes + 64);
    if (*memory == NULL) {
        fputs("qkv-info: out of memory\n", stderr);
        exit(1);
    }
    return (unsigned char *)*memory + (64 - (uintptr_t)*memory % 64);
}

/* The tensors of one case; all are freed when the next one begins. */
static void *tensors[MAX_TENSORS];
static int num_tensors;

static void *tensor(size_t bytes) {
    if (num_tensors == MAX_TENSORS) {
        fputs("qkv-info: a case has too many tensors\n", stderr);
        exit(1);
    }
    return memset(allocate(&tensors[num_tensors++], bytes), 0xff, bytes);
}

static void free_tensors(void) {
    while (num_tensors > 0)
        free(tensors[--num_tensors]);
}

/* Mostly ordinary numbers; now and then a case with a few infinities and NaNs in it. */
static float *random_tensor(int64_t count, float limit, bool wild) {
    float *x = tensor((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = uniform(limit);
    for (int64_t i = count; wild && i >= 100; i -= 100)
        x[between(0, count - 1)] = chance(50) ? NAN : chance(50) ? INFINITY : -INFINITY;
    return x;
}

/* ----------------------------------------------------------------------------------------------------- the cases */

enum { MAX_OUTPUTS = 6 };

/* One call of any operation, and the memory it writes. */
typedef struct call {
    enum { ATTENTION, GRADIENTS, PROJECTION, LAYER } operation; /* GRADIENTS: of attention, after it */
    qkv_attention_desc attention;
    qkv_projection_desc projection;
    qkv_layer_desc layer;
    qkv_attention_backward_desc gradients;
    int num_outputs;
    struct {
        const char *name;
        float *data;
        int64_t count;
    } output[MAX_OUTPUTS];
    char text[240];
} call;

static float *add_output(call *c, const char *name, int64_t count) {
    float *data = tensor((size_t)count * sizeof *data);
    c->output[c->num_outputs].name = name;
    c->output[c->num_outputs].data = data;
    c->output[c->num_outputs].count = count;
    c->num_outputs++;
    return data;
}

/* Heads inside or outside of tokens: [batch][token][head][channel] or [batch][head][token][channel]. */
static qkv_input strides(bool heads_first, int64_t heads, int64_t tokens, int64_t dim) {
    qkv_input t = {NULL, heads * tokens * dim, dim, heads * dim};
    if (heads_first) {
        t.head = tokens * dim;
        t.token = dim;
    }
    return t;
}

static qkv_output output_strides(bool heads_first, int64_t heads, int64_t tokens, int64_t dim) {
    qkv_input t = strides(heads_first, heads, tokens, dim);
    return (qkv_output){NULL, t.batch, t.head, t.token};
}

static void draw_options(qkv_attention_desc *d, bool wild) {
    const int64_t b = d->batch, h = d->num_heads, sq = d->seq_q, sk = d->seq_k;
    d->scale = chance(30) ? uniform(1.0f) : 0.0f;
    d->softcap = chance(25) ? 1.0f + fabsf(uniform(30.0f)) : 0.0f;
    d->flags = chance(25) ? QKV_LEFT : 0;
    d->flags |= chance(40) ? QKV_RIGHT : 0;
    d->left = d->flags & QKV_LEFT ? between(0, 80) : 0;
    d->right = d->flags & QKV_RIGHT && chance(30) ? between(0, 20) : 0;
    d->q_offset = chance(60) ? sk - sq : between(-5, 5);
    if (chance(25))
        d->alibi_slopes = random_tensor(h, 1.0f, false);
    if (chance(25))
        d->sinks = random_tensor(h, 3.0f, false);
    if (chance(25)) {
        const bool per_head = chance(50);
        d->bias = (qkv_matrix_input){random_tensor((per_head ? h : 1) * sq * sk, 5.0f, wild), 0, per_head ? sq * sk : 0,
                                     sk, 1};
    }
    if (chance(25)) {
        uint8_t *keep = tensor((size_t)(b * sk));
        for (int64_t i = 0; i < b * sk; i++)
            keep[i] = chance(80);
        d->keep = (qkv_matrix_input){keep, sk, 0, 0, 1};
    }
    if (chance(25)) {
        int64_t *kv_len = tensor((size_t)b * sizeof *kv_len);
        for (int64_t i = 0; i < b; i++)
            kv_len[i] = between(0, sk);
        d->kv_len = kv_len;
    }
}

static int64_t draw_head_dim(void) {
    static const int64_t usual[] = {32, 64, 80, 128};
    return chance(50) ? usual[between(0, 3)] : between(1, 140);
}

/* So many stored values below 2 of a drawn type, subnormals among them; of blocks only where channels fill them. */
static const void *stored_tensor(int64_t count, int64_t channels, bool blocks, int32_t *type) {
    *type = (int32_t)between(QKV_F16, blocks && channels % 32 == 0 ? QKV_Q8_0 : QKV_BF16);
    const size_t step = *type == QKV_Q8_0 ? 34 : 2, bytes = (size_t)count / (*type == QKV_Q8_0 ? 32 : 1) * step;
    unsigned char *data = tensor(bytes);
    for (size_t i = 0; i < bytes; i += step) {
        const uint16_t half = (uint16_t)(random_bits() & 0xbfff);
        memcpy(data + i, &half, sizeof half);
        for (size_t x = 2; x < step; x++)
            data[i + x] = (unsigned char)random_bits();
    }
    return data;
}

static void draw_attention(call *c) {
    qkv_attention_desc *d = &c->attention;
    const bool heads_first = chance(50), wild = chance(10);
    d->size = sizeof *d;
    d->batch = between(1, 2);
    d->num_kv_heads = between(1, 2);
    d->num_heads = d->num_kv_heads * between(1, 3);
    d->seq_q = chance(30) ? 1 : between(1, 40);
    d->seq_k = chance(60) ? between(1, 100) : between(0, 600);
    d->head_dim = draw_head_dim();
    d->head_dim_v = chance(20) ? draw_head_dim() : d->head_dim;
    const int64_t b = d->batch, hq = d->num_heads, hkv = d->num_kv_heads, sq = d->seq_q, sk = d->seq_k;
    const int64_t dk = d->head_dim, dv = d->head_dim_v;
    d->q = strides(heads_first, hq, sq, dk);
    d->k = strides(heads_first, hkv, sk, dk);
    d->v = strides(heads_first, hkv, sk, dv);
    d->out = output_strides(heads_first, hq, sq, dv);
    d->q.data = random_tensor(b * hq * sq * dk, 2.0f, wild);
    d->k.data = random_tensor(b * hkv * sk * dk, 1.0f, wild);
    d->v.data = random_tensor(b * hkv * sk * dv, 1.0f, wild);
    if (chance(30)) {
        d->k.data = stored_tensor(b * hkv * sk * dk, dk, c->operation != GRADIENTS, &d->k_type);
        d->v.data = stored_tensor(b * hkv * sk * dv, dv, c->operation != GRADIENTS, &d->v_type);
    }
    d->out.data = add_output(c, "out", b * hq * sq * dv);
    if (chance(50) || c->operation == GRADIENTS) {
        d->lse = output_strides(heads_first, hq, sq, 1);
        d->lse.data = add_output(c, "lse", b * hq * sq);
    }
    if (chance(10)) {
        float *probabilities = add_output(c, "probabilities", b * hq * sq * sk);
        d->probabilities = (qkv_matrix_output){probabilities, hq * sq * sk, sq * sk, sk, 1};
    }
    draw_options(d, wild);
    if (chance(40))
        d->arithmetic =
            c->operation == GRADIENTS ? QKV_ARITHMETIC_BF16 : between(QKV_ARITHMETIC_INT8, QKV_ARITHMETIC_BF16);
    if (d->arithmetic == QKV_ARITHMETIC_INT8 && chance(40))
        d->k_means = (qkv_input){random_tensor(b * hkv * dk, 1.0f, false), hkv * dk, dk, 0};
    snprintf(c->text, sizeof c->text,
             "%s batch %lld heads %lld:%lld q %lld k %lld dim %lld:%lld types %d:%d%s%s%s%s%s%s%s%s%s%s",
             c->operation == GRADIENTS ? "gradients" : "attention", (long long)b, (long long)hq, (long long)hkv,
             (long long)sq, (long long)sk, (long long)dk, (long long)dv, (int)d->k_type, (int)d->v_type,
             arithmetic_names[d->arithmetic], d->flags & QKV_LEFT ? " left" : "", d->flags & QKV_RIGHT ? " right" : "",
             d->softcap > 0 ? " softcap" : "", d->alibi_slopes ? " alibi" : "", d->bias.data ? " bias" : "",
             d->keep.data ? " keep" : "", d->kv_len ? " kv_len" : "", d->sinks ? " sinks" : "",
             wild ? " infinities" : "");
}

/* All gradients of the attention in c, token by token. */
static void draw_gradients(call *c) {
    const qkv_attention_desc *d = &c->attention;
    const int64_t b = d->batch, hq = d->num_heads, hkv = d->num_kv_heads, dk = d->head_dim, dv = d->head_dim_v;
    qkv_attention_backward_desc *g = &c->gradients;
    g->size = sizeof *g;
    g->grad_out = strides(false, hq, d->seq_q, dv);
    g->grad_out.data = random_tensor(b * hq * d->seq_q * dv, 1.0f, false);
    g->grad_q = output_strides(false, hq, d->seq_q, dk);
    g->grad_k = output_strides(false, hkv, d->seq_k, dk);
    g->grad_v = output_strides(false, hkv, d->seq_k, dv);
    g->grad_q.data = add_output(c, "dq", b * hq * d->seq_q * dk);
    g->grad_k.data = add_output(c, "dk", b * hkv * d->seq_k * dk);
    g->grad_v.data = add_output(c, "dv", b * hkv * d->seq_k * dv);
    g->forward = *d;
}

/* Packs num_parts random matrices. */
static void *random_weights(const qkv_ctx *ctx, int64_t in_features, int64_t num_parts, const int64_t *out_features) {
    qkv_pack_desc desc = {.size = sizeof desc, .in_features = in_features, .num_parts = num_parts};
    for (int64_t i = 0; i < num_parts; i++) {
        desc.part[i].data = random_tensor(in_features * out_features[i], 1.0f, false);
        desc.part[i].out_features = out_features[i];
        desc.part[i].layout = chance(50) ? QKV_IN_OUT : QKV_OUT_IN;
    }
    size_t bytes = 0;
    qkv_status status = qkv_packed_size(&desc, &bytes);
    void *packed = tensor(bytes);
    if (status == QKV_OK)
        status = qkv_pack(ctx, &desc, packed);
    if (status != QKV_OK) {
        fprintf(stderr, "qkv-info: qkv_pack: %s\n", qkv_status_string(status));
        exit(1);
    }
    return packed;
}

/* The same of any types: every byte of a packed matrix means something. Without bit 6 no scale is NaN or infinite. */
static void *random_panels(const qkv_projection_desc *d) {
    qkv_pack_desc desc = {.size = sizeof desc, .in_features = d->in_features, .num_parts = d->num_parts};
    for (int64_t i = 0; i < d->num_parts; i++) {
        desc.part[i].out_features = d->part[i].out_features;
        desc.part[i].layout = QKV_OUT_IN;
        desc.part[i].type = d->part[i].type;
    }
    size_t bytes = 0;
    if (qkv_packed_size(&desc, &bytes) != QKV_OK) {
        fputs("qkv-info: qkv_packed_size refuses a type\n", stderr);
        exit(1);
    }
    unsigned char *packed = tensor(bytes);
    for (size_t i = 0; i < bytes; i++)
        packed[i] = (unsigned char)(random_bits() >> 40 & 0xbf);
    return packed;
}

static void draw_projection(call *c, const qkv_ctx *ctx) {
    qkv_projection_desc *d = &c->projection;
    const int64_t out_features[2] = {between(1, 200), between(1, 100)};
    d->size = sizeof *d;
    d->batch = between(1, 2);
    d->tokens = between(1, 30);
    d->in_features = between(0, 400);
    d->num_parts = 2;
    const bool typed = chance(60);
    if (typed) {
        d->in_features = 256 * between(1, 2);
        d->arithmetic = between(QKV_ARITHMETIC_F32, QKV_ARITHMETIC_BF16);
    }
    d->x = strides(false, 1, d->tokens, d->in_features);
    d->x.data = random_tensor(d->batch * d->tokens * d->in_features, 1.0f, chance(10));
    for (int i = 0; i < 2; i++) {
        if (typed)
            d->part[i].type = between(d->arithmetic == QKV_ARITHMETIC_INT8 ? QKV_Q8_0 : QKV_F32, QKV_Q6_K);
        d->part[i].out_features = out_features[i];
        d->part[i].bias = chance(50) ? random_tensor(out_features[i], 1.0f, false) : NULL;
        d->part[i].out = output_strides(false, 1, d->tokens, out_features[i]);
        d->part[i].out.data = add_output(c, i == 0 ? "part 0" : "part 1", d->batch * d->tokens * out_features[i]);
    }
    d->packed = typed ? random_panels(d) : random_weights(ctx, d->in_features, 2, out_features);
    snprintf(c->text, sizeof c->text, "projection batch %lld tokens %lld in %lld out %lld and %lld, types %d and %d%s",
             (long long)d->batch, (long long)d->tokens, (long long)d->in_features, (long long)out_features[0],
             (long long)out_features[1], (int)d->part[0].type, (int)d->part[1].type, arithmetic_names[d->arithmetic]);
}

static void draw_layer(call *c, const qkv_ctx *ctx) {
    qkv_layer_desc *d = &c->layer;
    qkv_attention_desc *a = &d->attention;
    d->size = sizeof *d;
    a->size = sizeof *a;
    a->batch = between(1, 2);
    a->num_kv_heads = between(1, 2);
    a->num_heads = a->num_kv_heads * between(1, 2);
    a->seq_q = a->seq_k = between(1, 60);
    a->head_dim = between(1, 64);
    a->flags = chance(50) ? QKV_RIGHT : 0;
    d->model_dim = between(1, 150);
    d->out_features = d->model_dim;
    const int64_t q_dim = a->num_heads * a->head_dim, kv_dim = a->num_kv_heads * a->head_dim;
    const int64_t count = a->batch * a->seq_q * d->model_dim;
    d->x = strides(false, 1, a->seq_q, d->model_dim);
    d->x.data = random_tensor(count, 0.3f, false);
    d->w_qkv = random_weights(ctx, d->model_dim, 3, (const int64_t[]){q_dim, kv_dim, kv_dim});
    d->w_o = random_weights(ctx, q_dim, 1, &d->model_dim);
    d->bias_k = chance(50) ? random_tensor(kv_dim, 1.0f, false) : NULL;
    d->out = output_strides(false, 1, a->seq_q, d->model_dim);
    d->out.data = add_output(c, "out", count);
    snprintf(c->text, sizeof c->text, "layer batch %lld tokens %lld model %lld heads %lld:%lld dim %lld%s",
             (long long)a->batch, (long long)a->seq_q, (long long)d->model_dim, (long long)a->num_heads,
             (long long)a->num_kv_heads, (long long)a->head_dim, a->flags ? " causal" : "");
}

static void draw(call *c, uint64_t index, const qkv_ctx *ctx) {
    free_tensors();
    memset(c, 0, sizeof *c);
    rng_state = index * UINT64_C(0xD1342543DE82EF95);
    c->operation = chance(70) ? (chance(30) ? GRADIENTS : ATTENTION) : chance(60) ? PROJECTION : LAYER;
    if (c->operation <= GRADIENTS)
        draw_attention(c);
    if (c->operation == GRADIENTS)
        draw_gradients(c);
    if (c->operation == PROJECTION)
        draw_projection(c, ctx);
    if (c->operation == LAYER)
        draw_layer(c, ctx);
}

/* ------------------------------------------------------------------------------------------------ run and compare */

/* Plans and runs one operation of a call. */
#define RUN(operation, desc)                                                                                           \
    static qkv_status run_##operation(const qkv_ctx *ctx, const desc *d) {                                             \
        qkv_plan plan;                                                                                                 \
        qkv_status status = qkv_##operation##_plan(ctx, d, MAX_WORKERS, &plan);                                        \
        if (status != QKV_OK)                                                                                          \
            return status;                                                                                             \
        void *memory, *workspace = allocate(&memory, plan.workspace_size);                                             \
        status = qkv_##operation##_run(&plan, d, workspace, plan.workspace_size);                                      \
        free(memory);                                                                                                  \
        return status;                                                                                                 \
    }
RUN(attention, qkv_attention_desc)
RUN(attention_backward, qkv_attention_backward_desc)
RUN(projection, qkv_projection_desc)
RUN(layer, qkv_layer_desc)

static qkv_status run(const qkv_ctx *ctx, const call *c) {
    for (int i = 0; i < c->num_outputs; i++)
        memset(c->output[i].data, 0xff, (size_t)c->output[i].count * sizeof(float));
    if (c->operation == PROJECTION)
        return run_projection(ctx, &c->projection);
    if (c->operation == LAYER)
        return run_layer(ctx, &c->layer);
    qkv_status status = run_attention(ctx, &c->attention);
    if (status == QKV_OK && c->operation == GRADIENTS)
        status = run_attention_backward(ctx, &c->gradients);
    return status;
}

static bool same_word(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

/* Runs c with ctx and compares its outputs with those of the reference; says the first difference in `text`. */
static bool same(const qkv_ctx *ctx, const call *c, float *const *expected, char *text, size_t size) {
    qkv_status status = run(ctx, c);
    if (status != QKV_OK) {
        snprintf(text, size, "%s: %s", c->text, qkv_status_string(status));
        return false;
    }
    for (int o = 0; o < c->num_outputs; o++) {
        for (int64_t i = 0; i < c->output[o].count; i++) {
            float got = c->output[o].data[i], want = expected[o][i];
            if (!same_word(got, want)) {
                snprintf(text, size, "%s: %s[%lld] = %a, ref %a", c->text, c->output[o].name, (long long)i, (double)got,
                         (double)want);
                return false;
            }
        }
    }
    return true;
}

typedef struct candidate {
    qkv_ctx ctx;
    uint64_t cases;
    bool differs;
    char text[400];
} candidate;

static int find_candidates(candidate *list, const char *isa) {
    int count = 0;
    qkv_ctx best;
    if (qkv_init(&best, NULL) != QKV_OK)
        return 0;
    for (int32_t i = 0; i < qkv_num_kernel_sets() && count < MAX_SETS; i++) {
        qkv_kernel_set set;
        if (qkv_kernel_set_query(&best, i, &set) != QKV_OK || !set.available || strcmp(set.name, "ref") == 0)
            continue;
        if (isa != NULL && strcmp(isa, set.name) != 0)
            continue;
        qkv_config config = {.size = sizeof config, .isa = set.name};
        if (qkv_init(&list[count].ctx, &config) == QKV_OK)
            count++;
    }
    return count;
}

static double now(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

/* One case on the reference and on every candidate. */
static qkv_status test_case(uint64_t index, const qkv_ctx *ref, candidate *list, int count) {
    call c;
    float *expected[MAX_OUTPUTS] = {NULL};
    draw(&c, index, ref);
    qkv_status status = run(ref, &c);
    for (int o = 0; o < c.num_outputs; o++) {
        expected[o] = tensor((size_t)c.output[o].count * sizeof(float));
        memcpy(expected[o], c.output[o].data, (size_t)c.output[o].count * sizeof(float));
    }
    for (int i = 0; i < count && status == QKV_OK; i++) {
        if (list[i].differs)
            continue;
        list[i].differs = !same(&list[i].ctx, &c, expected, list[i].text, sizeof list[i].text);
        list[i].cases++;
    }
    if (status != QKV_OK)
        fprintf(stderr, "qkv-info: ref, case %llu: %s: %s\n", (unsigned long long)index, c.text,
                qkv_status_string(status));
    return status;
}

static void say(const char *line) {
    puts(line);
}

int selftest(const char *isa) {
    static candidate list[MAX_SETS];
    qkv_ctx ref;
    const qkv_config config = {.size = sizeof config, .isa = "ref"};
    const int count = find_candidates(list, isa);
    if (qkv_init(&ref, &config) != QKV_OK)
        return 1;
    const double end = now() + SECONDS;
    uint64_t index = 0;
    do {
        if (test_case(++index, &ref, list, count) != QKV_OK)
            return 1;
    } while (now() < end);
    free_tensors();

    int failed = golden(&ref, say);
    for (int i = 0; i < count; i++) {
        if (list[i].differs)
            printf("%s: case %llu differs from ref: %s\n", list[i].ctx.isa, (unsigned long long)list[i].cases,
                   list[i].text);
        else
            printf("%s: %llu cases, all equal to ref\n", list[i].ctx.isa, (unsigned long long)list[i].cases);
        failed |= list[i].differs;
    }
    if (count == 0)
        printf("ref: %llu cases ran; there is no other kernel set to compare it with\n", (unsigned long long)index);
    return failed;
}
