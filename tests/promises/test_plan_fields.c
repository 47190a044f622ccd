/* What belongs to a plan: every field of every descriptor but addresses. Each is changed between plan and run; a field
 * that these lists don't know makes them fail. And descriptors of a newer header, longer than ours.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <stddef.h>
#include <string.h>

static qkv_ctx ctx;

enum kind {
    PLANNED,   /* a run may not change it */
    ADDRESS,   /* required: it may be missing from the plan */
    OPTIONAL,  /* the address may change; whether there is one may not */
    FREE,      /* a number that a run may change */
    UNUSED,    /* means nothing */
    NULL_ONLY, /* must be NULL */
    ABSENT     /* optional, and NULL here: a run may not bring it */
};

typedef struct field {
    size_t offset, size;
    enum kind kind;
} field;

#define AT(desc, name, kind)                                                                                           \
    { offsetof(desc, name), sizeof((desc *)0)->name, kind }
#define TENSOR(desc, name, kind)                                                                                       \
    AT(desc, name.data, kind), AT(desc, name.batch, PLANNED), AT(desc, name.head, PLANNED),                            \
        AT(desc, name.token, PLANNED)
#define TENSOR_STRIDES(desc, name)                                                                                     \
    AT(desc, name.data, UNUSED), AT(desc, name.batch, PLANNED), AT(desc, name.head, PLANNED),                          \
        AT(desc, name.token, PLANNED)
#define ROWS(desc, name, kind)                                                                                         \
    AT(desc, name.data, kind), AT(desc, name.batch, PLANNED), AT(desc, name.head, UNUSED), AT(desc, name.token, PLANNED)
#define MATRIX(desc, name, kind)                                                                                       \
    AT(desc, name.data, kind), AT(desc, name.batch, PLANNED), AT(desc, name.head, PLANNED),                            \
        AT(desc, name.query, PLANNED), AT(desc, name.key, PLANNED)
#define WEIGHT(desc, name)                                                                                             \
    AT(desc, name.data, OPTIONAL), AT(desc, name.stride, PLANNED), AT(desc, name.layout, PLANNED),                     \
        AT(desc, name.bias, OPTIONAL)

/* Of an attention whose q, k, v, out and lse are of kind `in`, `out` and `lse`. `at` ends with a dot where it is inside
 * another's. */
#define ATTENTION(desc, at, in, out_kind, lse_kind)                                                                    \
    AT(desc, at batch, PLANNED), AT(desc, at num_heads, PLANNED), AT(desc, at num_kv_heads, PLANNED),                  \
        AT(desc, at seq_q, PLANNED), AT(desc, at seq_k, PLANNED), AT(desc, at head_dim, PLANNED),                      \
        AT(desc, at head_dim_v, PLANNED), TENSOR(desc, at q, in), TENSOR(desc, at k, in), TENSOR(desc, at v, in),      \
        TENSOR(desc, at out, out_kind), TENSOR(desc, at lse, lse_kind), AT(desc, at scale, PLANNED),                   \
        AT(desc, at softcap, PLANNED), AT(desc, at flags, PLANNED), AT(desc, at reserved, PLANNED),                    \
        AT(desc, at left, PLANNED), AT(desc, at right, PLANNED), AT(desc, at q_offset, PLANNED),                       \
        AT(desc, at q_offsets, OPTIONAL), AT(desc, at kv_len, OPTIONAL), AT(desc, at alibi_slopes, OPTIONAL),          \
        AT(desc, at sinks, OPTIONAL), MATRIX(desc, at bias, OPTIONAL), MATRIX(desc, at keep, OPTIONAL),                \
        MATRIX(desc, at probabilities, OPTIONAL), AT(desc, at states.data, NULL_ONLY),                                 \
        AT(desc, at states.batch, PLANNED), AT(desc, at states.head, PLANNED), AT(desc, at states.query, PLANNED),     \
        AT(desc, at states.key, UNUSED), /* one block of keys */ AT(desc, at dropout, PLANNED),                        \
        AT(desc, at scores_stage, PLANNED), AT(desc, at dropout_seed, FREE), AT(desc, at dropout_offset, FREE),        \
        MATRIX(desc, at scores, OPTIONAL), AT(desc, at q_type, PLANNED), AT(desc, at k_type, PLANNED),                 \
        AT(desc, at v_type, PLANNED), AT(desc, at out_type, PLANNED), AT(desc, at q_start, ABSENT),                    \
        AT(desc, at k_start, ABSENT), AT(desc, at page_table, ABSENT), AT(desc, at table_stride, PLANNED),             \
        AT(desc, at page_tokens, PLANNED), AT(desc, at num_pages, PLANNED), AT(desc, at key_ranges.data, OPTIONAL),    \
        AT(desc, at key_ranges.batch, PLANNED), AT(desc, at key_ranges.query, PLANNED), /* scales of int8, not here */ \
        TENSOR_STRIDES(desc, at k_scales), TENSOR_STRIDES(desc, at v_scales), AT(desc, at k_layout, PLANNED),          \
        AT(desc, at first_tokens, PLANNED), AT(desc, at arithmetic, PLANNED), AT(desc, at k_means.data, ABSENT),       \
        AT(desc, at k_means.batch, PLANNED), AT(desc, at k_means.head, PLANNED), AT(desc, at k_means.token, UNUSED)
#define PART(desc, i, bias_kind, out_kind, strides)                                                                    \
    AT(desc, part[i].out_features, PLANNED), AT(desc, part[i].head_dim, PLANNED), AT(desc, part[i].bias, bias_kind),   \
        AT(desc, part[i].out.data, out_kind), AT(desc, part[i].out.batch, strides),                                    \
        AT(desc, part[i].out.head, strides), AT(desc, part[i].out.token, strides), AT(desc, part[i].type, PLANNED)
#define ROPE(desc, at, kind)                                                                                           \
    AT(desc, at rope.cos, kind), AT(desc, at rope.sin, kind), AT(desc, at rope.num_positions, PLANNED),                \
        AT(desc, at rope.rotary_dim, PLANNED), AT(desc, at rope.layout, PLANNED)
#define STEPS(desc, at, i, kind)                                                                                       \
    AT(desc, at steps[i].norm, kind), AT(desc, at steps[i].norm_epsilon, PLANNED),                                     \
        AT(desc, at steps[i].rotate, PLANNED), AT(desc, at steps[i].first_position, PLANNED),                          \
        AT(desc, at steps[i].first_positions, kind), AT(desc, at steps[i].positions.data, kind),                       \
        AT(desc, at steps[i].positions.batch, PLANNED), AT(desc, at steps[i].positions.token, PLANNED),                \
        AT(desc, at steps[i].store, PLANNED)
#define FORWARD_PART(desc, i)                                                                                          \
    AT(desc, forward.part[i].out_features, PLANNED), AT(desc, forward.part[i].head_dim, PLANNED),                      \
        AT(desc, forward.part[i].bias, UNUSED), AT(desc, forward.part[i].out, UNUSED),                                 \
        AT(desc, forward.part[i].type, PLANNED)
#define POSITIONS(desc, name)                                                                                          \
    AT(desc, name.data, OPTIONAL), AT(desc, name.batch, PLANNED), AT(desc, name.token, PLANNED)
#define LAYER(desc, at, out_kind)                                                                                      \
    AT(desc, at model_dim, PLANNED), AT(desc, at out_features, PLANNED), ROWS(desc, at x, ADDRESS),                    \
        AT(desc, at w_qkv, OPTIONAL), AT(desc, at bias_q, OPTIONAL), AT(desc, at bias_k, OPTIONAL),                    \
        AT(desc, at bias_v, OPTIONAL), AT(desc, at w_o, OPTIONAL), AT(desc, at bias_o, OPTIONAL),                      \
        ROWS(desc, at x_kv, OPTIONAL), AT(desc, at kv_dim, PLANNED), AT(desc, at w_kv, OPTIONAL),                      \
        AT(desc, at norm_q, OPTIONAL), AT(desc, at norm_k, OPTIONAL), AT(desc, at norm_epsilon, PLANNED),              \
        AT(desc, at reserved, PLANNED), AT(desc, at rope.cos, OPTIONAL), AT(desc, at rope.sin, ADDRESS),               \
        AT(desc, at rope.num_positions, PLANNED), AT(desc, at rope.rotary_dim, PLANNED),                               \
        AT(desc, at rope.layout, PLANNED), POSITIONS(desc, at positions_q), POSITIONS(desc, at positions_k),           \
        AT(desc, at cache, ABSENT), AT(desc, at first_sequence, UNUSED), AT(desc, at wq_type, PLANNED),                \
        AT(desc, at wk_type, PLANNED), AT(desc, at wv_type, PLANNED), AT(desc, at wo_type, PLANNED),                   \
        AT(desc, at arithmetic, PLANNED)
#define SIZE(desc, name) AT(desc, name, UNUSED)

#define NONE
#define INSIDE(name) name.

typedef qkv_attention_desc A;
typedef qkv_projection_desc P;
typedef qkv_merge_desc M;
typedef qkv_layer_desc L;
typedef qkv_attention_backward_desc AB;
typedef qkv_projection_backward_desc PB;
typedef qkv_layer_backward_desc LB;
typedef qkv_pack_desc K;

static const field attention_fields[] = {SIZE(A, size), ATTENTION(A, NONE, ADDRESS, ADDRESS, OPTIONAL)};
static const field projection_fields[] = {SIZE(P, size),
                                          AT(P, batch, PLANNED),
                                          AT(P, tokens, PLANNED),
                                          AT(P, in_features, PLANNED),
                                          AT(P, num_parts, PLANNED),
                                          ROWS(P, x, ADDRESS),
                                          AT(P, packed, ADDRESS),
                                          PART(P, 0, OPTIONAL, ADDRESS, PLANNED),
                                          PART(P, 1, OPTIONAL, ADDRESS, PLANNED),
                                          AT(P, part[2], UNUSED),
                                          AT(P, part[3], UNUSED),
                                          STEPS(P, NONE, 0, OPTIONAL),
                                          STEPS(P, NONE, 1, OPTIONAL),
                                          AT(P, steps[2], UNUSED),
                                          AT(P, steps[3], UNUSED),
                                          AT(P, cache, UNUSED),
                                          AT(P, first_sequence, UNUSED), /* no part is stored */
                                          AT(P, arithmetic, PLANNED),
                                          ROPE(P, NONE, ADDRESS)};
static const field merge_fields[] = {SIZE(M, size),
                                     AT(M, batch, PLANNED),
                                     AT(M, num_heads, PLANNED),
                                     AT(M, seq_q, PLANNED),
                                     AT(M, head_dim_v, PLANNED),
                                     AT(M, num_parts, PLANNED),
                                     TENSOR(M, part_out, ADDRESS),
                                     AT(M, part_out_stride, PLANNED),
                                     TENSOR(M, part_lse, ADDRESS),
                                     AT(M, part_lse_stride, PLANNED),
                                     MATRIX(M, states, NULL_ONLY),
                                     AT(M, sinks, OPTIONAL),
                                     TENSOR(M, out, ADDRESS),
                                     TENSOR(M, lse, OPTIONAL),
                                     TENSOR(M, state, NULL_ONLY)};
static const field layer_fields[] = {SIZE(L, size), LAYER(L, NONE, ADDRESS), ROWS(L, out, ADDRESS),
                                     SIZE(L, attention.size),
                                     ATTENTION(L, INSIDE(attention), NULL_ONLY, NULL_ONLY, OPTIONAL)};
static const field attention_backward_fields[] = {SIZE(AB, size),
                                                  AT(AB, flags, PLANNED),
                                                  AT(AB, reserved, PLANNED),
                                                  TENSOR(AB, grad_out, ADDRESS),
                                                  TENSOR(AB, grad_lse, OPTIONAL),
                                                  TENSOR(AB, grad_q, OPTIONAL),
                                                  TENSOR(AB, grad_k, OPTIONAL),
                                                  TENSOR(AB, grad_v, OPTIONAL),
                                                  MATRIX(AB, grad_bias, OPTIONAL),
                                                  AT(AB, grad_sinks, OPTIONAL),
                                                  SIZE(AB, forward.size),
                                                  ATTENTION(AB, INSIDE(forward), ADDRESS, ADDRESS, ADDRESS)};
static const field projection_backward_fields[] = {SIZE(PB, size),
                                                   AT(PB, flags, PLANNED),
                                                   AT(PB, reserved, PLANNED),
                                                   ROWS(PB, grad_x, OPTIONAL),
                                                   TENSOR(PB, grad_out[0], ADDRESS),
                                                   TENSOR(PB, grad_out[1], ADDRESS),
                                                   AT(PB, grad_out[2], UNUSED),
                                                   AT(PB, grad_out[3], UNUSED),
                                                   WEIGHT(PB, grad[0]),
                                                   WEIGHT(PB, grad[1]),
                                                   AT(PB, grad[2], UNUSED),
                                                   AT(PB, grad[3], UNUSED),
                                                   SIZE(PB, forward.size),
                                                   AT(PB, forward.batch, PLANNED),
                                                   AT(PB, forward.tokens, PLANNED),
                                                   AT(PB, forward.in_features, PLANNED),
                                                   AT(PB, forward.num_parts, PLANNED),
                                                   ROWS(PB, forward.x, ADDRESS),
                                                   AT(PB, forward.packed, ADDRESS),
                                                   FORWARD_PART(PB, 0),
                                                   FORWARD_PART(PB, 1),
                                                   AT(PB, forward.part[2], UNUSED),
                                                   AT(PB, forward.part[3], UNUSED),
                                                   STEPS(PB, INSIDE(forward), 0, ABSENT),
                                                   STEPS(PB, INSIDE(forward), 1, ABSENT),
                                                   AT(PB, forward.steps[2], UNUSED),
                                                   AT(PB, forward.steps[3], UNUSED),
                                                   AT(PB, forward.rope, UNUSED),
                                                   AT(PB, forward.cache, UNUSED),
                                                   AT(PB, forward.first_sequence, UNUSED),
                                                   AT(PB, forward.arithmetic, PLANNED)};
static const field layer_backward_fields[] = {SIZE(LB, size),
                                              AT(LB, flags, PLANNED),
                                              AT(LB, reserved, PLANNED),
                                              ROWS(LB, grad_out, ADDRESS),
                                              ROWS(LB, grad_x, OPTIONAL),
                                              ROWS(LB, grad_x_kv, OPTIONAL),
                                              WEIGHT(LB, grad_q),
                                              WEIGHT(LB, grad_k),
                                              WEIGHT(LB, grad_v),
                                              WEIGHT(LB, grad_o),
                                              MATRIX(LB, grad_bias, OPTIONAL),
                                              AT(LB, grad_sinks, OPTIONAL),
                                              AT(LB, grad_norm_q, OPTIONAL),
                                              AT(LB, grad_norm_k, OPTIONAL),
                                              SIZE(LB, forward.size),
                                              LAYER(LB, INSIDE(forward), UNUSED),
                                              AT(LB, forward.out, UNUSED),
                                              SIZE(LB, forward.attention.size),
                                              ATTENTION(LB, INSIDE(forward.attention), NULL_ONLY, NULL_ONLY, UNUSED)};

/* An operation with a plan of `desc`, for which all its fields may be changed. */
typedef struct operation {
    const char *name;
    const void *desc;
    size_t size;
    const field *fields;
    size_t num_fields;
    qkv_status (*plan)(const qkv_ctx *, const void *, int32_t, qkv_plan *);
    qkv_status (*check)(const qkv_plan *, const void *, const void *, size_t);
} operation;

#define WRAP(op)                                                                                                       \
    static qkv_status op##_plan(const qkv_ctx *c, const void *d, int32_t workers, qkv_plan *plan) {                    \
        return qkv_##op##_plan(c, d, workers, plan);                                                                   \
    }                                                                                                                  \
    static qkv_status op##_check(const qkv_plan *plan, const void *d, const void *workspace, size_t size) {            \
        return qkv_##op##_check(plan, d, workspace, size);                                                             \
    }
WRAP(attention)
WRAP(projection)
WRAP(merge)
WRAP(layer)
WRAP(attention_backward)
WRAP(projection_backward)
WRAP(layer_backward)

/* Enough room for every pointer, far from each other. */
static float room[72][4096];
static _Alignas(64) float weights[1 << 16];
static _Alignas(64) char workspace[1 << 22];

static A attention(void) {
    return (A){.size = sizeof(A),
               .batch = 2,
               .num_heads = 2,
               .num_kv_heads = 2,
               .seq_q = 4,
               .seq_k = 4,
               .head_dim = 4,
               .head_dim_v = 4,
               .q = {room[0], 64, 32, 8},
               .k = {room[1], 64, 32, 8},
               .v = {room[2], 64, 32, 8},
               .out = {room[3], 64, 32, 8},
               .lse = {room[4], 64, 32, 8},
               .q_offsets = (const int64_t *)(void *)room[5],
               .kv_len = (const int64_t *)(void *)room[6],
               .alibi_slopes = room[7],
               .sinks = room[8],
               .bias = {room[9], 1, 1, 1, 1},
               .keep = {room[10], 1, 1, 1, 1},
               .probabilities = {room[11], 512, 128, 16, 2},
               .scores = {room[54], 512, 128, 16, 2},
               .dropout = 0.25f,
               .key_ranges = {(const int64_t *)(void *)room[57], 16, 2}};
}

static void run_all(void (*test)(const operation *op)) {
    const A a = attention();
    const qkv_head_steps steps = {
        room[58], 1, 1, 1, (const int64_t *)(void *)room[59], {(const int64_t *)(void *)room[60], 4, 1}, 0};
    const P p = {.size = sizeof p,
                 .batch = 2,
                 .tokens = 4,
                 .in_features = 4,
                 .num_parts = 2,
                 .x = {room[12], 64, 0, 8},
                 .packed = weights,
                 .part = {{8, 4, room[13], {room[14], 64, 32, 8}, 0}, {8, 4, room[15], {room[16], 64, 32, 8}, 0}},
                 .steps = {steps, steps},
                 .rope = {room[61], room[62], 8, 4, QKV_ROPE_HALF}};
    const M m = {.size = sizeof m,
                 .batch = 2,
                 .num_heads = 2,
                 .seq_q = 4,
                 .head_dim_v = 4,
                 .num_parts = 2,
                 .part_out = {room[17], 64, 32, 8},
                 .part_out_stride = 128,
                 .part_lse = {room[18], 64, 32, 8},
                 .part_lse_stride = 128,
                 .sinks = room[19],
                 .out = {room[20], 64, 32, 8},
                 .lse = {room[21], 64, 32, 8}};
    P plain = p;
    memset(plain.steps, 0, sizeof plain.steps);
    A inner = a;
    inner.q.data = inner.k.data = inner.v.data = inner.out.data = NULL;
    const L l = {.size = sizeof l,
                 .model_dim = 4,
                 .out_features = 8,
                 .x = {room[22], 64, 0, 8},
                 .w_qkv = weights,
                 .bias_q = room[23],
                 .bias_k = room[24],
                 .bias_v = room[25],
                 .w_o = weights,
                 .bias_o = room[26],
                 .x_kv = {room[55], 64, 0, 8},
                 .kv_dim = 4,
                 .w_kv = weights,
                 .out = {room[27], 64, 0, 8},
                 .norm_q = room[63],
                 .norm_k = room[64],
                 .norm_epsilon = 1,
                 .rope = {room[61], room[62], 8, 4, QKV_ROPE_HALF},
                 .positions_q = {(const int64_t *)(void *)room[65], 4, 1},
                 .positions_k = {(const int64_t *)(void *)room[66], 4, 1},
                 .attention = inner};
    const AB ab = {.size = sizeof ab,
                   .grad_out = {room[28], 64, 32, 8},
                   .grad_lse = {room[29], 64, 32, 8},
                   .grad_q = {room[30], 64, 32, 8},
                   .grad_k = {room[31], 64, 32, 8},
                   .grad_v = {room[32], 64, 32, 8},
                   .grad_bias = {room[33], 512, 128, 16, 2},
                   .grad_sinks = room[34],
                   .forward = a};
    const PB pb = {.size = sizeof pb,
                   .grad_x = {room[35], 64, 0, 8},
                   .grad_out = {{room[36], 64, 32, 8}, {room[37], 64, 32, 8}},
                   .grad = {{room[38], 16, QKV_IN_OUT, room[39]}, {room[40], 16, QKV_IN_OUT, room[41]}},
                   .forward = plain};
    const LB lb = {.size = sizeof lb,
                   .grad_out = {room[42], 64, 0, 8},
                   .grad_x = {room[43], 64, 0, 8},
                   .grad_x_kv = {room[56], 64, 0, 8},
                   .grad_q = {room[44], 16, QKV_IN_OUT, room[45]},
                   .grad_k = {room[46], 16, QKV_IN_OUT, room[47]},
                   .grad_v = {room[48], 16, QKV_IN_OUT, room[49]},
                   .grad_o = {room[50], 16, QKV_IN_OUT, room[51]},
                   .grad_bias = {room[52], 512, 128, 16, 2},
                   .grad_sinks = room[53],
                   .grad_norm_q = room[67],
                   .grad_norm_k = room[68],
                   .forward = l};
#define RUN(op, d)                                                                                                     \
    test(&(operation){#op, &d, sizeof d, op##_fields, sizeof op##_fields / sizeof *op##_fields, op##_plan, op##_check})
    RUN(attention, a);
    RUN(projection, p);
    RUN(merge, m);
    RUN(layer, l);
    RUN(attention_backward, ab);
    RUN(projection_backward, pb);
    RUN(layer_backward, lb);
}

static void plan_of(const operation *op, const void *desc, qkv_plan *plan) {
    const qkv_status status = op->plan(&ctx, desc, 2, plan);
    QT_EXPECT(status == QKV_OK, "%s: %s", op->name, qkv_status_string(status));
    assert_true(plan->workspace_size <= sizeof workspace);
}

static qkv_status check(const operation *op, const qkv_plan *plan, const void *desc) {
    return op->check(plan, desc, workspace, sizeof workspace);
}

static void change_fields(const operation *op) {
    unsigned char d[2048];
    bool known[2048] = {false};
    qkv_plan plan;
    plan_of(op, op->desc, &plan);
    assert_int_equal(check(op, &plan, op->desc), QKV_OK);
    for (size_t i = 0; i < op->num_fields; i++) {
        const field *f = &op->fields[i];
        for (size_t byte = f->offset; byte < f->offset + f->size; byte++) {
            QT_EXPECT(!known[byte], "%s: byte %zu twice", op->name, byte);
            known[byte] = true;
        }
        memcpy(d, op->desc, op->size);
        const void *other = room[71], *none = NULL;
        qkv_status status, want = f->kind == PLANNED ? QKV_ERROR_PLAN : QKV_OK;
        if (f->kind == PLANNED) {
            d[f->offset] ^= 1; /* the lowest bit of a number */
            status = check(op, &plan, d);
            QT_EXPECT(status != QKV_OK, "%s: the field at byte %zu may change", op->name, f->offset);
            qkv_plan changed; /* what a plan would refuse is refused as it would */
            const qkv_status planned = op->plan(&ctx, d, 2, &changed);
            want = planned != QKV_OK ? planned : QKV_ERROR_PLAN;
        } else if (f->kind == OPTIONAL) {
            memcpy(d + f->offset, &none, sizeof none);
            status = check(op, &plan, d);
            QT_EXPECT(status == QKV_ERROR_PLAN || status == QKV_ERROR_SHAPE,
                      "%s: the optional pointer at byte %zu may "
                      "go",
                      op->name, f->offset);
            qkv_plan without;
            if (op->plan(&ctx, d, 2, &without) == QKV_OK) {
                status = check(op, &without, op->desc);
                QT_EXPECT(status == QKV_ERROR_PLAN, "%s: the optional pointer at byte %zu may appear", op->name,
                          f->offset);
                assert_int_equal(check(op, &without, d), QKV_OK);
            }
            continue;
        } else if (f->kind == ABSENT) {
            memcpy(d + f->offset, &other, sizeof other);
            status = check(op, &plan, d);
            QT_EXPECT(status != QKV_OK, "%s: a run may bring the pointer at byte %zu", op->name, f->offset);
            continue;
        } else if (f->kind == FREE) {
            d[f->offset] ^= 1;
            status = check(op, &plan, d);
        } else if (f->kind == ADDRESS) {
            qkv_plan bare;
            memcpy(d + f->offset, &none, sizeof none);
            plan_of(op, d, &bare);
            status = check(op, &bare, op->desc);
        } else if (f->kind == NULL_ONLY && f->size == sizeof(void *)) {
            memcpy(d + f->offset, &other, sizeof other);
            want = QKV_ERROR_SHAPE;
            status = check(op, &plan, d);
        } else {
            if (f->offset == 0 || f->kind == NULL_ONLY)
                continue;
            status = QKV_OK;
        }
        QT_EXPECT(status == want, "%s: the field at byte %zu: \"%s\"", op->name, f->offset, qkv_status_string(status));
        qt_count_words(1);
    }
    for (size_t byte = 0; byte < op->size; byte++)
        QT_EXPECT(known[byte], "%s: no list knows the field at byte %zu; does the checksum?", op->name, byte);
}

static void test_a_run_may_change_addresses_and_nothing_else(void) {
    run_all(change_fields);
}

/* --------------------------------------------------------------------------------------- longer descriptors */

/* Offsets of the sizes of the structs inside each other that `op` has, the outermost first. */
static size_t sizes_of(const operation *op, size_t offset[3]) {
    size_t n = 0;
    offset[n++] = 0;
    if (strcmp(op->name, "layer") == 0)
        offset[n++] = offsetof(L, attention);
    else if (strcmp(op->name, "attention_backward") == 0)
        offset[n++] = offsetof(AB, forward);
    else if (strcmp(op->name, "projection_backward") == 0)
        offset[n++] = offsetof(PB, forward);
    else if (strcmp(op->name, "layer_backward") == 0) {
        offset[n++] = offsetof(LB, forward);
        offset[n++] = offsetof(LB, forward.attention);
    }
    return n;
}

static void add_size(unsigned char *d, size_t offset, size_t more) {
    size_t size;
    memcpy(&size, d + offset, sizeof size);
    size += more;
    memcpy(d + offset, &size, sizeof size);
}

static void lengthen(const operation *op) {
    static const size_t more[] = {8, 64, 2000};
    size_t offset[3], n = sizes_of(op, offset);
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        for (size_t grown = 1; grown <= n; grown++) { /* the outermost alone, with the next, … */
            qkv_plan plan;
            unsigned char *d = qt_alloc(op->size + more[i], 8, QT_TAIL);
            memset(d, 0, op->size + more[i]);
            memcpy(d, op->desc, op->size);
            for (size_t x = 0; x < grown; x++)
                add_size(d, offset[x], more[i]);
            plan_of(op, d, &plan);
            assert_int_equal(check(op, &plan, d), QKV_OK);
            assert_int_equal(check(op, &plan, op->desc), QKV_OK); /* an old caller's */
            for (size_t byte = op->size; byte < op->size + more[i]; byte += 7) {
                d[byte] = 1;
                assert_int_equal(op->plan(&ctx, d, 2, &plan), QKV_ERROR_SIZE);
                assert_int_equal(check(op, &plan, d), QKV_ERROR_SIZE);
                d[byte] = 0;
            }
            /* an inner struct that is longer than the outer one has room for */
            if (grown > 1) {
                add_size(d, offset[grown - 1], 8);
                assert_int_equal(op->plan(&ctx, d, 2, &plan), QKV_ERROR_SIZE);
                add_size(d, offset[grown - 1], (size_t)-16 - more[i]); /* shorter than any */
                assert_int_equal(op->plan(&ctx, d, 2, &plan), QKV_ERROR_SIZE);
            }
            qt_count_words(1);
        }
    }
}

static void test_longer_descriptors_are_taken_if_the_rest_is_zero(void) {
    if (!qt_case(0, NULL))
        return;
    run_all(lengthen);
    for (size_t more = 8; more <= 2000; more *= 5) {
        unsigned char *d = qt_alloc(sizeof(K) + more, 8, QT_TAIL);
        const K k = {.size = sizeof k + more, .in_features = 4, .num_parts = 1, .part = {{.out_features = 4}}};
        size_t bytes;
        memset(d, 0, sizeof k + more);
        memcpy(d, &k, sizeof k);
        assert_int_equal(qkv_packed_size((const K *)(void *)d, &bytes), QKV_OK);
        d[sizeof k + more - 1] = 1;
        assert_int_equal(qkv_packed_size((const K *)(void *)d, &bytes), QKV_ERROR_SIZE);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    if (qkv_init(&ctx, NULL) != QKV_OK)
        return 1;
    qt_once("a_run_may_change_addresses_and_nothing_else", test_a_run_may_change_addresses_and_nothing_else);
    qt_once("longer_descriptors_are_taken_if_the_rest_is_zero", test_longer_descriptors_are_taken_if_the_rest_is_zero);
    return qt_run();
}
