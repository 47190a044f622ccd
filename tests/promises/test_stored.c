/* Storage is not arithmetic: a call on q, k, v and out of 16 or 8 bits gives the bits of the same call on the floats
 * that they mean.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_gradient_cases.h"

#include "ref/storage.h"

#include <math.h>
#include <string.h>

/* Elements from the first to the last of a tensor, and how far the origin is from the first. */
static int64_t span(const qkv_input *x, const int64_t size[3], int64_t channels, int64_t *origin) {
    const int64_t stride[3] = {x->batch, x->head, x->token};
    int64_t low = 0, high = channels;
    *origin = 0;
    for (int i = 0; i < 3; i++) {
        if (size[i] < 1 || channels < 1)
            return 0;
        const int64_t reach = (size[i] - 1) * stride[i];
        *(reach < 0 ? &low : &high) += reach;
    }
    *origin = -low;
    return high - low;
}

static float *float_at(const qkv_input *x, int64_t b, int64_t h, int64_t t) {
    return (float *)(uintptr_t)x->data + b * x->batch + h * x->head + t * x->token;
}

static void quantise(unsigned char *block, float *x) {
    float most = 0;
    for (int c = 0; c < 32; c++)
        most = fmaxf(most, fabsf(x[c]));
    const uint16_t scale = qkv_to_f16(most / 127);
    const float d = qkv_from_f16(scale);
    memcpy(block, &scale, sizeof scale);
    for (int c = 0; c < 32; c++) {
        const int8_t q = d > 0 && d < INFINITY && x[c] == x[c] ? (int8_t)fminf(127, fmaxf(-127, rintf(x[c] / d))) : 3;
        block[2 + c] = (unsigned char)q;
        x[c] = d * (float)q;
    }
}

/* Stores a tensor of floats in the given type, in memory of its own with the same strides, and makes the floats what
 * the stored values mean. */
static qkv_input store(qt_rng *rng, const qkv_input *x, int type, const int64_t size[3], int64_t channels) {
    int64_t origin;
    const int64_t n = span(x, size, channels, &origin);
    const int64_t bytes = type == QKV_Q8_0 ? n / 32 * 34 : 2 * n;
    unsigned char *memory = qt_alloc((size_t)bytes, 2, qt_chance(rng, 50) ? QT_TAIL : QT_HEAD);
    qkv_input y = *x;
    y.data = n > 0 ? memory + (type == QKV_Q8_0 ? origin / 32 * 34 : 2 * origin) : NULL;
    for (int64_t b = 0; b < size[0] && n > 0; b++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t t = 0; t < size[2]; t++) {
                float *row = float_at(x, b, h, t);
                const int64_t at = b * x->batch + h * x->head + t * x->token;
                for (int64_t c = 0; type == QKV_Q8_0 && c < channels; c += 32)
                    quantise((unsigned char *)(uintptr_t)y.data + (at + c) / 32 * 34, row + c);
                for (int64_t c = 0; type != QKV_Q8_0 && c < channels; c++) {
                    const uint16_t half = type == QKV_F16 ? qkv_to_f16(row[c]) : qkv_to_bf16(row[c]);
                    memcpy((unsigned char *)(uintptr_t)y.data + 2 * (at + c), &half, 2);
                    row[c] = type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
                }
            }
    if (n > 0)
        qt_read_only(memory);
    return y;
}

/* int8 with a scale for each (batch, head, token), or one for all where these share elements. With powers of two the
 * order of the multiplications changes no bit. */
static qkv_input store_int8(qt_rng *rng, const qkv_input *x, const int64_t size[3], int64_t channels, bool powers,
                            qkv_input *scales) {
    int64_t origin;
    const int64_t n = span(x, size, channels, &origin), rows = size[0] * size[1] * size[2];
    const bool shared = case_is_shared(x, size[0], size[1], size[2]);
    int8_t *memory = qt_alloc((size_t)n, 1, qt_chance(rng, 50) ? QT_TAIL : QT_HEAD);
    float *scale = qt_floats((size_t)(shared ? 1 : rows), QT_TAIL);
    *scales = (qkv_input){scale, size[1] * size[2], size[2], 1};
    if (shared)
        *scales = (qkv_input){scale, 0, 0, 0};
    qkv_input y = *x;
    y.data = n > 0 ? memory + origin : NULL;
    for (int64_t r = 0; r < (shared ? 1 : rows); r++)
        scale[r] = powers ? ldexpf(1, (int)qt_range(rng, -7, -5)) : qt_uniform(rng, 0.005f, 0.04f);
    for (int64_t b = 0; b < size[0] && n > 0; b++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t t = 0; t < size[2]; t++)
                for (int64_t c = 0; c < channels; c++) {
                    float *value = float_at(x, b, h, t) + c;
                    const float s = *(float_at(scales, b, h, t));
                    const float q = rintf(fminf(127, fmaxf(-127, *value / s)));
                    ((int8_t *)(uintptr_t)y.data)[b * x->batch + h * x->head + t * x->token + c] = (int8_t)q;
                    *value = q == q ? q * s : 0; /* NaN to int8 is 0 on no machine in particular */
                    if (q != q)
                        ((int8_t *)(uintptr_t)y.data)[b * x->batch + h * x->head + t * x->token + c] = 0;
                }
    return y;
}

static int draw_type(qt_rng *rng, bool blocks) {
    return (int)qt_range(rng, QKV_F32, blocks ? QKV_Q8_0 : QKV_BF16);
}

/* Now and then a value that is none, or hardly one. */
static void sprinkle(qt_rng *rng, const qkv_input *x, const int64_t size[3], int64_t channels) {
    for (int64_t b = 0; b < size[0]; b++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t t = 0; t < size[2] && channels > 0; t++)
                if (qt_chance(rng, 5))
                    float_at(x, b, h, t)[qt_range(rng, 0, channels - 1)] = qt_nasty(rng);
}

/* The case whose tensors are stored in types of its own; c's tensors become what they mean. */
static attention_case stored_twin(qt_rng *rng, attention_case *c, bool blocks) {
    const qkv_attention_desc *d = &c->desc;
    const int64_t rows[3] = {d->batch, d->num_heads, d->seq_q}, keys[3] = {d->batch, c->kv_heads, d->seq_k};
    attention_case twin = *c;
    qkv_attention_desc *t = &twin.desc;
    t->q_type = draw_type(rng, false);
    t->k_type = draw_type(rng, blocks);
    t->v_type = draw_type(rng, blocks);
    if (t->q_type)
        t->q = store(rng, &d->q, t->q_type, rows, d->head_dim);
    if (t->k_type)
        t->k = store(rng, &d->k, t->k_type, keys, d->head_dim);
    if (t->v_type)
        t->v = store(rng, &d->v, t->v_type, keys, c->dv);
    return twin;
}

static void expect_stored(const qt_set *set, qt_rng *rng, attention_case *c, bool blocks) {
    const qkv_ctx reference = case_reference();
    const attention_case twin = stored_twin(rng, c, blocks);
    qt_describe("%s types q %d, k %d, v %d", "stored:", (int)twin.desc.q_type, (int)twin.desc.k_type,
                (int)twin.desc.v_type);
    case_protect(&c->desc);
    const case_results want = case_run(&reference, c, 0, 0);
    const case_results got = case_run(&set->ctx, &twin, qt_chance(rng, 50) ? 0 : (int32_t)qt_range(rng, 1, 8),
                                      qt_chance(rng, 50) ? qt_u64(rng) : 0);
    case_expect_same(set->name, c, &want, &got);
}

static void test_stored_values_are_what_they_mean(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(500); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 400000, &c);
        const int64_t keys[3] = {c.desc.batch, c.kv_heads, c.desc.seq_k};
        if (qt_chance(&rng, 20))
            sprinkle(&rng, &c.desc.k, keys, c.desc.head_dim);
        if (qt_chance(&rng, 30))
            sprinkle(&rng, &c.desc.v, keys, c.dv);
        if (qt_chance(&rng, 50))
            case_poison_invisible(&rng, &c);
        expect_stored(set, &rng, &c, false);
    }
}

static void test_blocks_are_what_they_mean(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(250); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        const int64_t group = qt_range(&rng, 1, 8), kv = qt_range(&rng, 1, 3);
        case_plain(&rng, &c, qt_range(&rng, 1, 2), group * kv, kv, qt_range(&rng, 1, qt_chance(&rng, 50) ? 1 : 40),
                   qt_range(&rng, 1, 600), 32 * qt_range(&rng, 1, 5), 32 * qt_range(&rng, 1, 5));
        case_draw_arithmetic(&rng, &c.desc);
        if (qt_chance(&rng, 50)) {
            c.desc.flags |= QKV_RIGHT | (qt_chance(&rng, 40) ? QKV_LEFT : 0);
            c.desc.left = qt_range(&rng, 0, 300);
            c.desc.q_offset = c.desc.seq_k - c.desc.seq_q;
        }
        expect_stored(set, &rng, &c, true);
    }
}

static attention_case int8_twin(qt_rng *rng, attention_case *c, bool powers) {
    const int64_t keys[3] = {c->desc.batch, c->kv_heads, c->desc.seq_k};
    attention_case twin = *c;
    qkv_attention_desc *t = &twin.desc;
    if (qt_chance(rng, 80)) {
        t->k_type = QKV_INT8;
        t->k_means.data = NULL;
        t->k = store_int8(rng, &c->desc.k, keys, c->desc.head_dim, powers, &t->k_scales);
    }
    if (qt_chance(rng, 80)) {
        t->v_type = QKV_INT8;
        t->v = store_int8(rng, &c->desc.v, keys, c->dv, powers, &t->v_scales);
    }
    return twin;
}

static void test_int8_times_powers_of_two(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(250); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 200000, &c);
        c.desc.k_means.data = NULL;
        c.desc.arithmetic = QKV_ARITHMETIC_F32; /* in bfloat16 what is tiny becomes 0, before or after the scale */
        if (c.desc.scale != 0 && !(fabsf(c.desc.scale) > 1e-6f && fabsf(c.desc.scale) < 1e6f))
            continue; /* q·x may leave the range of normal numbers where q·(s·x) does not */
        const attention_case twin = int8_twin(&rng, &c, true);
        const qkv_ctx reference = case_reference();
        const case_results want = case_run(&reference, &c, 0, 0);
        const case_results got = case_run(&set->ctx, &twin, (int32_t)qt_range(&rng, 0, 8), 0);
        case_expect_same(set->name, &c, &want, &got);
    }
}

/* Any scales: the reference's bits, near the call on floats. Scales of keys that are not seen hold anything. */
static void test_int8_times_anything(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(150); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        const int64_t kv = qt_range(&rng, 1, 2), keys = qt_range(&rng, 2, 400), dim = qt_range(&rng, 1, 70);
        case_plain(&rng, &c, 2, kv * qt_range(&rng, 1, 7), kv, qt_range(&rng, 1, 30), keys, dim, dim);
        case_draw_arithmetic(&rng, &c.desc);
        uint8_t *keep = qt_alloc((size_t)(2 * keys), 1, QT_TAIL);
        for (int64_t j = 0; j < 2 * keys; j++)
            keep[j] = j % keys == 0 || qt_chance(&rng, 70);
        c.desc.keep = (qkv_matrix_input){keep, keys, 0, 0, 1};
        const attention_case twin = int8_twin(&rng, &c, false);
        const qkv_ctx reference = case_reference();
        const case_results near = case_run(&reference, &c, 0, 0), want = case_run(&reference, &twin, 0, 0);
        /* In bfloat16 what is rounded is the integer here and its product with a scale there; in 8 bits the product
         * is rounded again. */
        const float most = c.desc.arithmetic == QKV_ARITHMETIC_F32 ? 1e-4f : 0.03f;
        for (int64_t x = 0; x < 2 * c.desc.num_heads * c.desc.seq_q * dim; x++)
            QT_EXPECT(fabsf(near.out[x] - want.out[x]) < most, "out[%d]: %a by floats, %a by int8", (int)x,
                      (double)near.out[x], (double)want.out[x]);
        for (int64_t b = 0; b < 2 && qt_chance(&rng, 60); b++)
            for (int64_t h = 0; h < kv; h++)
                for (int64_t j = 0; j < keys; j++) {
                    if (twin.desc.k_type && !keep[b * keys + j])
                        *float_at(&twin.desc.k_scales, b, h, j) = qt_nasty(&rng);
                    if (twin.desc.v_type && !keep[b * keys + j])
                        *float_at(&twin.desc.v_scales, b, h, j) = qt_nasty(&rng);
                }
        const case_results got = case_run(&set->ctx, &twin, (int32_t)qt_range(&rng, 0, 8), 0);
        case_expect_same(set->name, &twin, &want, &got);
        if (twin.desc.v_type) { /* but a NaN that is seen is not swallowed */
            *float_at(&twin.desc.v_scales, 0, 0, 0) = NAN;
            const case_results nan = case_run(&set->ctx, &twin, 0, 0);
            QT_EXPECT(nan.out[0] != nan.out[0], "the scale NaN of a visible key left no trace");
        }
    }
}

/* out in 16 bits is the f32 result rounded once. */
static void test_out_is_rounded_once(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(200); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 100000, &c);
        if (c.desc.states.data)
            continue;
        const case_results want = case_run(&set->ctx, &c, 0, 0);
        qkv_attention_desc d = c.desc;
        const int64_t rows[3] = {d.batch, d.num_heads, d.seq_q};
        const qkv_input layout = {d.out.data, d.out.batch, d.out.head, d.out.token};
        int64_t origin;
        const int64_t n = span(&layout, rows, c.dv, &origin);
        uint16_t *memory = qt_alloc((size_t)n * 2, 2, qt_chance(&rng, 50) ? QT_TAIL : QT_HEAD);
        d.out.data = memory + origin;
        d.out_type = i % 2 ? QKV_F16 : QKV_BF16;
        case_run_attention(&set->ctx, &d, (int32_t)qt_range(&rng, 0, 4), 0);
        const qt_view view = {
            d.out.data, 2, 4, {rows[0], rows[1], rows[2], c.dv}, {d.out.batch, d.out.head, d.out.token, 1}};
        if (n > 0)
            qt_expect_gaps("out", &view);
        const float *w = want.out;
        for (int64_t b = 0; b < rows[0]; b++)
            for (int64_t h = 0; h < rows[1]; h++)
                for (int64_t t = 0; t < rows[2]; t++)
                    for (int64_t x = 0; x < c.dv; x++, w++) {
                        const uint16_t half =
                            ((uint16_t *)d.out.data)[b * d.out.batch + h * d.out.head + t * d.out.token + x];
                        const float got = d.out_type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
                        const float rounded =
                            d.out_type == QKV_F16 ? qkv_from_f16(qkv_to_f16(*w)) : qkv_from_bf16(qkv_to_bf16(*w));
                        QT_EXPECT(qt_same(rounded, got, 0), "out of %a: want %a, got %a", (double)*w, (double)rounded,
                                  (double)got);
                    }
        qt_count_words((uint64_t)(rows[0] * rows[1] * rows[2] * c.dv));
    }
}

static qkv_status plan_of(const qt_set *set, const qkv_attention_desc *d) {
    qkv_plan plan;
    return qkv_attention_plan(&set->ctx, d, 1, &plan);
}

static void test_what_is_no_type_is_refused(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 2, 4, 2, 3, 5, 64, 32);
    int32_t *const types[] = {&c.desc.q_type, &c.desc.k_type, &c.desc.v_type, &c.desc.out_type};
    for (int i = 0; i < 4; i++) {
        const bool blocks = i == 1 || i == 2;
        const int32_t odd[] = {-1, blocks ? QKV_INT8 + 1 : QKV_Q8_0, INT32_MAX};
        for (int n = 0; n < 3; n++) {
            *types[i] = odd[n];
            assert_int_equal(plan_of(set, &c.desc), QKV_ERROR_FLAGS);
        }
        *types[i] = QKV_F32;
    }
    c.desc.k_type = c.desc.v_type = QKV_Q8_0;
    assert_int_equal(plan_of(set, &c.desc), QKV_OK);
    const qkv_attention_desc good = c.desc;
    c.desc.k.token += 16;
    assert_int_equal(plan_of(set, &c.desc), QKV_ERROR_SHAPE);
    c.desc = good;
    c.desc.v.head += 1;
    assert_int_equal(plan_of(set, &c.desc), QKV_ERROR_SHAPE);
    c.desc = good;
    c.desc.head_dim = 48;
    assert_int_equal(plan_of(set, &c.desc), QKV_ERROR_SHAPE);
    c.desc = good;
    qkv_plan plan;
    assert_int_equal(qkv_attention_plan(&set->ctx, &good, 1, &plan), QKV_OK);
    void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
    c.desc.k_type = QKV_F16;
    assert_int_equal(qkv_attention_run(&plan, &c.desc, workspace, plan.workspace_size), QKV_ERROR_PLAN);
    c.desc = good;
    c.desc.v.data = (const char *)c.desc.v.data + 1;
    assert_int_equal(qkv_attention_run(&plan, &c.desc, workspace, plan.workspace_size), QKV_ERROR_ALIGNMENT);
}

/* Latent attention: one KV head, v being the first channels of k. */
static void test_values_in_the_keys(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        const int64_t dim = 32 * qt_range(&rng, 2, 5), dv = dim - 32, keys = qt_range(&rng, 1, 400);
        case_plain(&rng, &c, 2, 16, 1, qt_range(&rng, 1, 4), keys, dim, dv);
        for (int64_t b = 0; b < 2; b++)
            for (int64_t t = 0; t < keys; t++)
                memcpy(float_at(&c.desc.v, b, 0, t), float_at(&c.desc.k, b, 0, t), (size_t)dv * sizeof(float));
        attention_case latent = c;
        const int64_t sizes[3] = {2, 1, keys};
        latent.desc.k_type = latent.desc.v_type = draw_type(&rng, true);
        if (latent.desc.k_type != QKV_F32) {
            latent.desc.k = store(&rng, &c.desc.k, latent.desc.k_type, sizes, dim);
            for (int64_t b = 0; b < 2; b++)
                for (int64_t t = 0; t < keys; t++)
                    memcpy(float_at(&c.desc.v, b, 0, t), float_at(&c.desc.k, b, 0, t), (size_t)dv * sizeof(float));
        }
        latent.desc.v = latent.desc.k;
        const qkv_ctx reference = case_reference();
        const case_results want = case_run(&reference, &c, 0, 0);
        const case_results got = case_run(&set->ctx, &latent, (int32_t)qt_range(&rng, 0, 3), 0);
        case_expect_same(set->name, &c, &want, &got);
    }
}

static void test_gradients_of_stored_tensors(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(150); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        gradient_draw(&rng, 100000, &c);
        if (qt_chance(&rng, 50))
            gradient_poison_invisible(&rng, &c);
        attention_case forward = c.attention;
        forward.desc = c.desc.forward;
        const attention_case twin = stored_twin(&rng, &forward, false);
        const qkv_attention_desc *d = &c.desc.forward;
        const int64_t rows[3] = {d->batch, d->num_heads, d->seq_q};
        gradient_run_forward(&c);
        gradient_case stored = c;
        stored.desc.forward = twin.desc;
        if (qt_chance(&rng, 60)) { /* out and its gradient, of one type; out becomes what it means */
            qkv_input out = {d->out.data, d->out.batch, d->out.head, d->out.token};
            stored.desc.forward.out_type = (int32_t)qt_range(&rng, QKV_F16, QKV_BF16);
            qt_read_write(out.data);
            qt_read_write(c.desc.grad_out.data);
            const qkv_input halves = store(&rng, &out, stored.desc.forward.out_type, rows, c.attention.dv);
            stored.desc.forward.out.data = (void *)(uintptr_t)halves.data;
            stored.desc.grad_out = store(&rng, &c.desc.grad_out, stored.desc.forward.out_type, rows, c.attention.dv);
        }
        const qkv_ctx reference = case_reference();
        const gradient_results want = gradient_run(&reference, &c, 0, 0);
        const gradient_results got = gradient_run(&set->ctx, &stored, (int32_t)qt_range(&rng, 0, 4), 0);
        gradient_expect_same(set->name, &c, &want, &got);
    }
}

/* A layer, whose Q, K and V are its own, reads floats; gradients read no blocks. */
static void test_floats_only_elsewhere(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 1, 2, 1, 3, 3, 64, 64);
    qkv_plan plan;
    qkv_attention_backward_desc backward = {.size = sizeof backward, .forward = c.desc};
    qkv_layer_desc layer = {
        .size = sizeof layer, .model_dim = 64, .out_features = 128, .attention = c.desc, .out = {NULL, 384, 0, 128}};
    layer.attention.q.data = layer.attention.k.data = layer.attention.v.data = layer.attention.out.data = NULL;
    layer.w_qkv = layer.w_o = qt_alloc(64 * 1024 * 4, 64, QT_TAIL);
    assert_int_equal(qkv_layer_plan(&set->ctx, &layer, 1, &plan), QKV_OK);
    assert_int_equal(qkv_attention_backward_plan(&set->ctx, &backward, 1, &plan), QKV_OK);
    char text[80];
    backward.forward.k_type = QKV_Q8_0;
    layer.attention.out_type = QKV_BF16;
    assert_int_equal(qkv_layer_plan(&set->ctx, &layer, 1, &plan), QKV_ERROR_FLAGS);
    assert_int_equal(qkv_attention_backward_plan(&set->ctx, &backward, 1, &plan), QKV_ERROR_FLAGS);
    assert_string_equal(qkv_attention_backward_explain_plan(&set->ctx, &backward, 1, text, sizeof text),
                        "attention backward: forward.k_type must be of 16 or 32 bits in gradients");
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("stored_values_are_what_they_mean", test_stored_values_are_what_they_mean);
    qt_each_set_of_attention("blocks_are_what_they_mean", test_blocks_are_what_they_mean);
    qt_each_set("int8_times_powers_of_two", test_int8_times_powers_of_two);
    qt_each_set_of_attention("int8_times_anything", test_int8_times_anything);
    qt_each_set("out_is_rounded_once", test_out_is_rounded_once);
    qt_each_set("what_is_no_type_is_refused", test_what_is_no_type_is_refused);
    qt_each_set("values_in_the_keys", test_values_in_the_keys);
    qt_each_set_of_attention("gradients_of_stored_tensors", test_gradients_of_stored_tensors);
    qt_each_set("floats_only_elsewhere", test_floats_only_elsewhere);
    return qt_run();
}
