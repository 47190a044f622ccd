/* Descriptors: what zero means, sizes of the structs, layouts that are legal, pointers that a run may change.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <stdio.h>
#include <string.h>

static void test_a_zero_descriptor_is_full_attention_at_one_over_sqrt_d(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t dim = qt_range(&rng, 1, 200), heads = qt_range(&rng, 1, 4);
        attention_case c;
        case_plain(&rng, &c, 1, heads, heads, qt_range(&rng, 1, 20), qt_range(&rng, 1, 300), dim, dim);
        const qkv_attention_desc *d = &c.desc;
        qkv_attention_desc zero;
        memset(&zero, 0, sizeof zero);
        zero.size = sizeof zero;
        zero.batch = 1;
        zero.num_heads = heads;
        zero.seq_q = d->seq_q;
        zero.seq_k = d->seq_k;
        zero.head_dim = dim;
        zero.q = d->q;
        zero.k = d->k;
        zero.v = d->v;
        zero.out = d->out;
        attention_case plain = c, said = c;
        plain.desc = zero;
        const float none = -INFINITY, slopes[4] = {0}, sinks[4] = {none, none, none, none}, no_bias = 0;
        const int64_t all = d->seq_k, no_offset = 0;
        const uint8_t keep = 1;
        said.desc.lse = zero.lse;
        said.desc.scale = 1 / sqrtf((float)dim); /* every option said aloud */
        said.desc.num_kv_heads = heads;
        said.desc.head_dim_v = dim;
        said.desc.flags = QKV_LEFT | QKV_RIGHT;
        said.desc.left = said.desc.right = INT64_MAX;
        said.desc.q_offsets = &no_offset;
        said.desc.kv_len = &all;
        said.desc.alibi_slopes = slopes;
        said.desc.sinks = sinks;
        said.desc.bias.data = &no_bias;
        said.desc.keep.data = &keep;
        const case_results a = case_run(&set->ctx, &plain, 0, 0), b = case_run(&set->ctx, &said, 0, 0);
        case_expect_same("every option said aloud", &plain, &a, &b);
        oracle *o = oracle_open(&zero);
        for (int64_t h = 0; h < heads; h++) {
            oracle_head(o, 0, h);
            for (int64_t t = 0; t < zero.seq_q; t++) {
                const oracle_row *r = oracle_attention_row(o, 0, h, t);
                for (int64_t x = 0; x < dim; x++)
                    QT_EXPECT(
                        oracle_within((double)a.out[(h * zero.seq_q + t) * dim + x], r->out[x], r->out_bound[x], NULL),
                        "head %d, row %d", (int)h, (int)t);
            }
        }
        oracle_close(o);
    }
}

/* A larger struct of a newer header is taken if what this library does not know is zero. */
typedef struct newer_desc {
    qkv_attention_desc known;
    int64_t unknown[4];
} newer_desc;

static void test_unknown_fields_must_be_zero(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 1, 1, 1, 2, 3, 4, 4);
    const case_results want = case_run(&set->ctx, &c, 0, 0);
    newer_desc d = {.known = c.desc};
    d.known.size = sizeof d;
    qkv_plan plan;
    assert_int_equal(qkv_attention_plan(&set->ctx, &d.known, 1, &plan), QKV_OK);
    void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
    qt_poison(c.desc.out.data);
    assert_int_equal(qkv_attention_run(&plan, &d.known, workspace, plan.workspace_size), QKV_OK);
    const case_results got = {case_gather(&c.desc.out, 1, 1, 2, 4), want.lse, NULL, NULL};
    case_expect_same("a newer struct", &c, &want, &got);
    for (size_t byte = sizeof d.known; byte < sizeof d; byte++) {
        ((unsigned char *)&d)[byte] = 1;
        assert_int_equal(qkv_attention_plan(&set->ctx, &d.known, 1, &plan), QKV_ERROR_SIZE);
        assert_int_equal(qkv_attention_run(&plan, &d.known, workspace, plan.workspace_size), QKV_ERROR_SIZE);
        ((unsigned char *)&d)[byte] = 0;
    }
    for (size_t size = 0; size < sizeof d.known; size++) { /* no version of the struct is shorter */
        d.known.size = size;
        assert_int_equal(qkv_attention_plan(&set->ctx, &d.known, 1, &plan), QKV_ERROR_SIZE);
    }
    struct {
        qkv_config known;
        int64_t unknown;
    } config = {.known = {.size = sizeof config, .isa = "ref"}};
    qkv_ctx ctx;
    assert_int_equal(qkv_init(&ctx, &config.known), QKV_OK);
    config.unknown = 1;
    assert_int_equal(qkv_init(&ctx, &config.known), QKV_ERROR_SIZE);
    qt_count_words(1);
}

/* One row of [q heads | k heads | v heads] for each token, the heads of q, k and v lying between each other. */
static void test_interleaved_tensors_are_legal(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(30); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t heads = qt_range(&rng, 1, 4), n = qt_range(&rng, 1, 300), dim = qt_range(&rng, 1, 70);
        attention_case c;
        case_plain(&rng, &c, 2, heads, heads, n, n, dim, dim);
        const case_results want = case_run(&set->ctx, &c, 0, 0);
        const int64_t token = 3 * heads * dim;
        float *packed = case_floats(&rng, 2 * n * token);
        qkv_input *in[3] = {&c.desc.q, &c.desc.k, &c.desc.v};
        for (int part = 0; part < 3; part++) { /* head by head: q, k, v of head 0, of head 1, … */
            for (int64_t b = 0; b < 2; b++)
                for (int64_t h = 0; h < heads; h++)
                    for (int64_t t = 0; t < n; t++)
                        memcpy(packed + (b * n + t) * token + (3 * h + part) * dim, case_row(in[part], b, h, t),
                               (size_t)dim * sizeof(float));
            *in[part] = (qkv_input){packed + part * dim, n * token, 3 * dim, token};
        }
        qt_read_only(packed);
        const case_results got = case_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 4), 0);
        case_expect_same("packed rows", &c, &want, &got);
    }
}

/* Outputs of two calls may lie between each other, and next to the inputs. */
static void test_outputs_between_inputs_are_legal(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    const int64_t n = 50, dim = 24;
    attention_case c;
    case_plain(&rng, &c, 1, 2, 2, n, n, dim, dim);
    const case_results want = case_run(&set->ctx, &c, 0, 0);
    float *all = case_floats(&rng, n * 2 * 4 * dim);
    qkv_input *in[3] = {&c.desc.q, &c.desc.k, &c.desc.v};
    for (int part = 0; part < 3; part++) {
        for (int64_t h = 0; h < 2; h++)
            for (int64_t t = 0; t < n; t++)
                memcpy(all + (t * 2 + h) * 4 * dim + part * dim, case_row(in[part], 0, h, t), (size_t)dim * 4);
        *in[part] = (qkv_input){all + part * dim, 0, 4 * dim, 8 * dim};
    }
    c.desc.out = (qkv_output){all + 3 * dim, 0, 4 * dim, 8 * dim};
    case_run_attention(&set->ctx, &c.desc, 2, 0);
    const case_results got = {case_gather(&c.desc.out, 1, 2, n, dim), want.lse, NULL, NULL};
    case_expect_same("one buffer", &c, &want, &got);
}

static void test_inputs_may_alias_each_other(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c, same;
    case_plain(&rng, &c, 1, 2, 2, 70, 70, 16, 16);
    same = c;
    same.desc.k = same.desc.v = same.desc.q;
    for (int64_t h = 0; h < 2; h++)
        for (int64_t t = 0; t < 70; t++) {
            memcpy(case_row(&c.desc.k, 0, h, t), case_row(&c.desc.q, 0, h, t), 64);
            memcpy(case_row(&c.desc.v, 0, h, t), case_row(&c.desc.q, 0, h, t), 64);
        }
    const case_results want = case_run(&set->ctx, &c, 0, 0), got = case_run(&set->ctx, &same, 0, 0);
    case_expect_same("q = k = v", &c, &want, &got);
}

/* The plan is made without any pointer; a run brings them, others than before as well. */
static void test_pointers_belong_to_the_run(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 200000, &c);
        const case_results want = case_run(&set->ctx, &c, 0, 0);
        qkv_attention_desc bare = c.desc;
        bare.q.data = bare.k.data = bare.v.data = NULL;
        bare.out.data = NULL;
        qkv_plan plan;
        assert_int_equal(qkv_attention_plan(&set->ctx, &bare, 1, &plan), QKV_OK);
        void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
        qt_poison(c.desc.out.data);
        assert_int_equal(qkv_attention_run(&plan, &c.desc, workspace, plan.workspace_size), QKV_OK);
        const qkv_attention_desc *d = &c.desc;
        const case_results got = {case_gather(&d->out, d->batch, d->num_heads, d->seq_q, c.dv), want.lse,
                                  want.probabilities, want.scores};
        case_expect_same("a plan without pointers", &c, &want, &got);
    }
}

/* Zeros that mean zero: the factor, and the channels of v. */
static void test_zeros_as_given(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 2, 4, 2, 7, 300, 9, 5);
    attention_case zero = c;
    const float nothing[16] = {0};
    zero.desc.q = (qkv_input){nothing, 0, 0, 0};
    const case_results want = case_run(&set->ctx, &zero, 0, 0);
    c.desc.flags = QKV_SCALE; /* scale is 0 */
    const case_results got = case_run(&set->ctx, &c, 2, 0);
    case_expect_same("scale 0", &c, &want, &got);
    c.desc.flags = QKV_RIGHT;
    c.desc.q_offset = 200;
    const case_results whole = case_run(&set->ctx, &c, 0, 0);
    c.desc.flags |= QKV_HEAD_DIM_V;
    c.desc.head_dim_v = 0;
    c.desc.v = (qkv_input){0};
    c.desc.out = (qkv_output){0};
    qt_poison(c.desc.lse.data);
    case_run_attention(&set->ctx, &c.desc, 3, 0);
    const float *lse = case_gather(&c.desc.lse, 2, 4, 7, 1);
    qt_expect_words("lse alone", whole.lse, lse, 2 * 4 * 7, 0);
    c.desc.lse.data = NULL; /* no output at all: nothing is needed */
    c.desc.q.data = c.desc.k.data = NULL;
    case_run_attention(&set->ctx, &c.desc, 1, 0);
}

/* Positions and windows beyond 2^61 count as 2^61; a hidden key of a NaN row has probability 0. */
static void test_bounds_of_positions_and_hidden_probabilities(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 1, 1, 1, 5, 9, 8, 8);
    c.desc.flags = QKV_LEFT;
    const case_results want = case_run(&set->ctx, &c, 0, 0);
    c.desc.q_offset = c.desc.left = INT64_MAX;
    const case_results got = case_run(&set->ctx, &c, 0, 0);
    case_expect_same("q_offset = left = INT64_MAX", &c, &want, &got);
    static const uint8_t keep[9] = {1, 0, 1, 1, 1, 1, 1, 1, 1};
    c.desc.flags = 0;
    c.desc.keep = (qkv_matrix_input){keep, 0, 0, 0, 1};
    const float *p = case_add_probabilities(&rng, &c);
    case_row(&c.desc.q, 0, 0, 2)[3] = NAN;
    case_run_attention(&set->ctx, &c.desc, 1, 0);
    for (int i = 0; i < 5; i++)
        QT_EXPECT(p[i * 9 + 1] == 0 && (i == 2) == (p[i * 9] != p[i * 9]), "row %d: %g", i, (double)p[i * 9 + 1]);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("a_zero_descriptor_is_full_attention_at_one_over_sqrt_d",
                test_a_zero_descriptor_is_full_attention_at_one_over_sqrt_d);
    qt_each_set("unknown_fields_must_be_zero", test_unknown_fields_must_be_zero);
    qt_each_set("interleaved_tensors_are_legal", test_interleaved_tensors_are_legal);
    qt_each_set("outputs_between_inputs_are_legal", test_outputs_between_inputs_are_legal);
    qt_each_set("inputs_may_alias_each_other", test_inputs_may_alias_each_other);
    qt_each_set("pointers_belong_to_the_run", test_pointers_belong_to_the_run);
    qt_each_set("zeros_as_given", test_zeros_as_given);
    qt_each_set("bounds_of_positions_and_hidden_probabilities", test_bounds_of_positions_and_hidden_probabilities);
    return qt_run();
}
