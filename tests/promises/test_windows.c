/* Causal alignment and windows as pictures: a row for each query, a column for each key, # where it is seen.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <stdio.h>
#include <string.h>

typedef struct picture {
    const char *name, *want; /* rows separated by spaces */
    uint32_t flags;
    int64_t left, right, q_offset, kv_len; /* kv_len: −1 for none */
    const char *keep;                      /* a row for each query as well; NULL: all */
} picture;

static const picture pictures[] = {
    {"no window", "##### ##### #####", 0, 0, 0, 0, -1, NULL},
    {"numbers without their flag mean nothing", "##### ##### #####", 0, 1, 1, 0, -1, NULL},
    {"causal, top-left", "#.... ##... ###..", QKV_RIGHT, 0, 0, 0, -1, NULL},
    {"causal, bottom-right", "###.. ####. #####", QKV_RIGHT, 0, 0, 2, -1, NULL},
    {"causal, from the end", "###.. ####. #####", QKV_RIGHT | QKV_FROM_END, 0, 0, 0, -1, NULL},
    {"causal, from the end of kv_len 4", "##... ###.. ####.", QKV_RIGHT | QKV_FROM_END, 0, 0, 0, 4, NULL},
    {"causal, two before the end", "#.... ##... ###..", QKV_RIGHT | QKV_FROM_END, 0, 0, -2, -1, NULL},
    {"causal, more queries than keys, from the end", ".. .. #. ##", QKV_RIGHT | QKV_FROM_END, 0, 0, 0, -1, NULL},
    {"causal, bottom-right of kv_len 4", "##... ###.. ####.", QKV_RIGHT, 0, 0, 1, 4, NULL},
    {"causal, more queries than keys, top-left", "#. ## ## ##", QKV_RIGHT, 0, 0, 0, -1, NULL},
    {"causal, more queries than keys, bottom-right", ".. .. #. ##", QKV_RIGHT, 0, 0, -2, -1, NULL},
    {"one key ahead", "##... ###.. ####.", QKV_RIGHT, 0, 1, 0, -1, NULL},
    {"not even itself", "..... #.... ##...", QKV_RIGHT, 0, -1, 0, -1, NULL},
    {"the last two and itself", "#.... ##... ###.. .###. ..###", QKV_LEFT | QKV_RIGHT, 2, 0, 0, -1, NULL},
    {"one on each side", "##... ###.. .###. ..### ...##", QKV_LEFT | QKV_RIGHT, 1, 1, 0, -1, NULL},
    {"only itself", "#... .#.. ..#. ...#", QKV_LEFT | QKV_RIGHT, 0, 0, 0, -1, NULL},
    {"left only", "##### .#### ..###", QKV_LEFT, 0, 0, 0, -1, NULL},
    {"left only, two back", "##### ##### ##### .#### ..###", QKV_LEFT, 2, 0, 0, -1, NULL},
    {"a window that has passed the last key", ".## ..# ... ...", QKV_LEFT | QKV_RIGHT, 0, 9, 1, -1, NULL},
    {"a window from the future", ".#.. ..#. ...#", QKV_LEFT | QKV_RIGHT, -1, 1, 0, -1, NULL},
    {"an empty window", "... ... ...", QKV_LEFT | QKV_RIGHT, -1, 0, 0, -1, NULL},
    {"positions before the first key", "..... ..... #.... ##...", QKV_RIGHT, 0, 0, -2, -1, NULL},
    {"decoding at position 3", "####.", QKV_RIGHT, 0, 0, 3, -1, NULL},
    {"decoding at position 3, window 2", ".###.", QKV_LEFT | QKV_RIGHT, 2, 0, 3, -1, NULL},
    {"unbounded to the left", "#... ##.. ###.", QKV_LEFT | QKV_RIGHT, INT64_MAX, 0, 0, -1, NULL},
    {"unbounded to the right", "#### .### ..##", QKV_LEFT | QKV_RIGHT, 0, INT64_MAX, 0, -1, NULL},
    {"kv_len alone", "###.. ###..", 0, 0, 0, 0, 3, NULL},
    {"kv_len beyond the keys", "##### #####", 0, 0, 0, 0, 9, NULL},
    {"kv_len below zero", "..... .....", 0, 0, 0, 0, -7, NULL},
    {"keep and causal", "#... #... #.#. #.##", QKV_RIGHT, 0, 0, 0, -1, "#.## #.## #.## #.##"},
    {"keep, causal, kv_len and window", "#... #... ..#. ..#.", QKV_LEFT | QKV_RIGHT, 1, 0, 0, 3, "#.## #.## #.## #.##"},
};

/* What the probabilities of one head show. */
static void draw(char *to, const float *p, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++)
            *to++ = p[i * cols + j] > 0 ? '#' : '.';
        *to++ = i + 1 < rows ? ' ' : '\0';
    }
}

/* With all logits equal, a key is seen exactly if its probability is one in so many. */
static void expect_uniform(const float *p, const float *out, const float *v, int64_t cols) {
    int64_t seen = 0;
    float sum = 0;
    for (int64_t j = 0; j < cols; j++)
        if (p[j] > 0) {
            seen++;
            sum += v[j];
        }
    for (int64_t j = 0; j < cols; j++)
        QT_EXPECT(p[j] == 0 || fabsf(p[j] * (float)seen - 1) < 1e-6f, "probability %a, one in %d", (double)p[j],
                  (int)seen);
    QT_EXPECT(seen == 0 ? *out == 0 : fabsf(*out - sum / (float)seen) < 1e-5f, "out %a", (double)*out);
}

static void test_windows_look_like_this(const qt_set *set) {
    for (uint64_t n = 0; n < sizeof pictures / sizeof *pictures; n++) {
        qt_rng rng;
        if (!qt_case(n, &rng))
            continue;
        const picture *want = &pictures[n];
        const int64_t cols = (int64_t)strcspn(want->want, " "), rows = ((int64_t)strlen(want->want) + 1) / (cols + 1);
        attention_case c;
        case_plain(&rng, &c, 2, 2, 1, rows, cols, 3, 1);
        qkv_attention_desc *d = &c.desc;
        for (int64_t i = 0; i < 2 * 2 * rows * 3; i++)
            ((float *)(uintptr_t)d->q.data)[i] = 0;
        case_add_probabilities(&rng, &c);
        d->flags = want->flags;
        d->left = want->left;
        d->right = want->right;
        d->q_offset = want->q_offset;
        const int64_t len[2] = {want->kv_len, want->kv_len}, offsets[2] = {want->q_offset, want->q_offset};
        d->kv_len = want->kv_len == -1 ? NULL : len;
        uint8_t keep[64];
        for (int64_t i = 0; want->keep && i < rows * cols; i++)
            keep[i] = want->keep[i / cols * (cols + 1) + i % cols] == '#';
        if (want->keep)
            d->keep = (qkv_matrix_input){keep, 0, 0, cols, 1};
        for (int per_batch = 0; per_batch < 2; per_batch++) {
            if (per_batch) { /* q_offsets take the place of q_offset */
                d->q_offsets = offsets;
                d->q_offset = 1000;
            }
            const case_results r = case_run(&set->ctx, &c, 0, 0);
            for (int64_t head = 0; head < 4; head++) {
                char got[128];
                draw(got, r.probabilities + head * rows * cols, rows, cols);
                QT_EXPECT(strcmp(got, want->want) == 0, "%s%s, head %d:\n    want %s\n    got  %s", want->name,
                          per_batch ? " by q_offsets" : "", (int)head, want->want, got);
                const float *v = (const float *)d->v.data + head / 2 * cols;
                for (int64_t i = 0; i < rows; i++)
                    expect_uniform(r.probabilities + (head * rows + i) * cols, r.out + head * rows + i, v, cols);
            }
        }
        qt_count_words((uint64_t)(rows * cols * 8));
    }
}

/* The same at a size where windows cross tiles, panels and key blocks: a window is what keep draws of it. */
/* A mask that hides much, with keys side by side, strided or all alike. */
static qkv_matrix_input draw_keep(qt_rng *rng, const qkv_attention_desc *d) {
    const int64_t key = qt_range(rng, 0, 2), row = d->seq_k * (key > 0 ? key : 1);
    uint8_t *keep = qt_alloc((size_t)(d->seq_q * row), 1, QT_TAIL);
    for (int64_t x = 0; x < d->seq_q * row; x++)
        keep[x] = qt_chance(rng, 70);
    return (qkv_matrix_input){keep, 0, 0, row, key};
}

static void test_a_window_is_the_keep_mask_it_describes(const qt_set *set) {
    for (uint64_t n = 0; n < case_count(200); n++) {
        qt_rng rng;
        if (!qt_case(n, &rng))
            continue;
        attention_case c;
        case_plain(&rng, &c, 1, 2, 1, qt_range(&rng, 1, 80), qt_range(&rng, 1, 800), 8, 8);
        qkv_attention_desc *d = &c.desc;
        d->flags = (uint32_t)qt_range(&rng, 1, 3);
        d->left = qt_range(&rng, 0, qt_chance(&rng, 50) ? 20 : 600);
        d->right = qt_chance(&rng, 50) ? 0 : qt_range(&rng, -5, 300);
        d->q_offset = qt_range(&rng, -40, d->seq_k + 20);
        const bool gap = d->flags & QKV_LEFT && qt_chance(&rng, 60), hides = gap && qt_chance(&rng, 40);
        d->first_tokens = gap ? qt_range(&rng, 1, qt_chance(&rng, 60) ? 8 : 300) : 0;
        const qkv_matrix_input given = hides ? draw_keep(&rng, d) : (qkv_matrix_input){0};
        d->keep = given;
        const int64_t from_end = qt_chance(&rng, 30) ? d->seq_k - d->seq_q : 0;
        d->q_offset -= from_end;
        d->flags |= from_end != 0 ? QKV_FROM_END : 0;
        qt_describe("S=%dx%d flags=%u left=%d right=%d q_offset=%d first_tokens=%d keep %d", (int)d->seq_q,
                    (int)d->seq_k, d->flags, (int)d->left, (int)d->right, (int)d->q_offset, (int)d->first_tokens,
                    (int)given.key);
        const case_results window = case_run(&set->ctx, &c, (int32_t)qt_range(&rng, 0, 3), 0);
        d->q_offset += from_end;
        uint8_t *keep = qt_alloc((size_t)(d->seq_q * d->seq_k), 1, QT_TAIL);
        for (int64_t i = 0; i < d->seq_q; i++)
            for (int64_t j = 0; j < d->seq_k; j++) {
                const int64_t p = i + d->q_offset;
                keep[i * d->seq_k + j] = !((d->flags & QKV_LEFT) && j < p - d->left && j >= d->first_tokens) &&
                                         !((d->flags & QKV_RIGHT) && j > p + d->right) &&
                                         (!hides || ((const uint8_t *)given.data)[i * given.query + j * given.key]);
            }
        d->keep = (qkv_matrix_input){keep, 0, 0, d->seq_k, 1};
        d->flags = 0;
        d->first_tokens = 0;
        const case_results kept = case_run(&set->ctx, &c, 0, 0);
        case_expect_same("keep", &c, &window, &kept);
    }
}

static void put_cell(unsigned char *to, uint32_t bits, int64_t size) {
    const uint16_t half = (uint16_t)bits;
    const uint8_t byte = (uint8_t)bits;
    memcpy(to, size == 4 ? (const void *)&bits : size == 2 ? (const void *)&half : (const void *)&byte, (size_t)size);
}

/* Rows of masks of every type, and what they are ranges of. */
static void test_ranges_of_a_dense_mask(void) {
    static const int types[] = {QKV_F32, QKV_F16, QKV_BF16, QKV_INT8};
    for (uint64_t i = 0; i < 200; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int type = types[i % 4];
        const int64_t queries = qt_range(&rng, 0, 9), keys = qt_range(&rng, 0, 20);
        const int64_t stride = keys + qt_range(&rng, 0, 3);
        const int64_t size = type == QKV_F32 ? 4 : type == QKV_INT8 ? 1 : 2, rows = queries > 0 ? queries - 1 : 0;
        unsigned char *mask = qt_alloc((size_t)((rows * stride + keys) * size), 4, QT_TAIL);
        int64_t *got = qt_alloc((size_t)queries * 16, 8, QT_TAIL), want[18];
        static const uint32_t hidden[] = {0xff800000, 0xfc00, 0xff80, 0}, zero[] = {0x80000000, 0x8000, 0x8000, 7};
        for (int64_t r = 0; r < queries; r++) {
            int64_t *range = want + 2 * r;
            range[0] = qt_range(&rng, 0, keys);
            range[1] = qt_range(&rng, range[0], keys);
            for (int64_t j = 0; j < keys; j++) {
                const bool seen = j >= range[0] && j < range[1];
                const uint32_t kept = type == QKV_INT8 || qt_chance(&rng, 30) ? zero[i % 4] : 0;
                const uint32_t cell = seen ? kept : hidden[i % 4];
                put_cell(mask + (r * stride + j) * size, cell, size);
            }
            if (range[0] == range[1])
                range[0] = range[1] = 0;
        }
        assert_int_equal(qkv_mask_ranges(mask, type, queries, keys, stride, got), QKV_OK);
        assert_memory_equal(got, want, (size_t)queries * 16);
        if (queries > 0 && keys > 2 && want[1] - want[0] > 2) { /* a hole; another number */
            put_cell(mask + (want[0] + 1) * size, hidden[i % 4], size);
            assert_int_equal(qkv_mask_ranges(mask, type, queries, keys, stride, got), QKV_ERROR_VALUE);
            memset(mask + (want[0] + 1) * size, 1, (size_t)size);
            assert_int_equal(qkv_mask_ranges(mask, type, queries, keys, stride, got),
                             type == QKV_INT8 ? QKV_OK : QKV_ERROR_VALUE);
        }
    }
    int64_t range[2] = {5, 5};
    assert_int_equal(qkv_mask_ranges(NULL, QKV_F32, 1, 0, 0, range), QKV_OK);
    assert_true(range[0] == 0 && range[1] == 0);
    assert_int_equal(qkv_mask_ranges(NULL, QKV_F32, 1, 1, 0, range), QKV_ERROR_NULL);
    assert_int_equal(qkv_mask_ranges(range, QKV_F32, 1, 1, 0, NULL), QKV_ERROR_NULL);
    assert_int_equal(qkv_mask_ranges(range, QKV_Q8_0, 1, 1, 0, range), QKV_ERROR_FLAGS);
    assert_int_equal(qkv_mask_ranges(range, QKV_F32, -1, 1, 0, range), QKV_ERROR_NEGATIVE);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("windows_look_like_this", test_windows_look_like_this);
    qt_each_set("a_window_is_the_keep_mask_it_describes", test_a_window_is_the_keep_mask_it_describes);
    qt_once("ranges_of_a_dense_mask", test_ranges_of_a_dense_mask);
    return qt_run();
}
