/* dropout: equal words with the definition, and Philox's published known answers.  SPDX-License-Identifier: MIT */
#include "operands.h"
#include "oracle.h"

static qkv_dropout draw(qt_rng *rng) {
    static const uint32_t edges[] = {0, 1, 0x80000000u, 0x7fffffffu, 0xffffffffu};
    qkv_dropout d = {.first_group = (uint32_t)qt_u64(rng), .scale = qt_uniform(rng, 1, 3)};
    for (int i = 0; i < 2; i++)
        d.key[i] = (uint32_t)(qt_u64(rng) >> 32);
    for (int i = 0; i < 3; i++)
        d.counter[i] = qt_chance(rng, 20) ? edges[qt_range(rng, 0, 4)] : (uint32_t)(qt_u64(rng) >> 32);
    d.threshold = qt_chance(rng, 30) ? edges[qt_range(rng, 0, 4)] : (uint32_t)(qt_u64(rng) >> 32);
    return d;
}

static uint32_t word_of(const qkv_dropout *d, size_t j) {
    const uint32_t counter[4] = {(d->first_group + (uint32_t)(j / 64)) * 16 + (uint32_t)(j % 16), d->counter[0],
                                 d->counter[1], d->counter[2]};
    uint32_t words[4];
    oracle_philox(counter, d->key, words);
    return words[j / 16 % 4];
}

static void check(const qt_set *set, qt_rng *rng, size_t first, size_t end) {
    const qt_kind kind = (qt_kind)qt_range(rng, 0, QT_NUM_KINDS - 1);
    const qkv_dropout d = draw(rng);
    qt_describe("first=%zu end=%zu threshold=%08x %s", first, end, (unsigned)d.threshold, qt_kind_name(kind));
    float *t = qt_floats(QKV_KEY_BLOCK, QT_TAIL), *want = qt_floats(QKV_KEY_BLOCK, QT_TAIL);
    qt_fill(rng, t, QKV_KEY_BLOCK, kind);
    for (size_t j = 0; j < QKV_KEY_BLOCK; j++) {
        const float factor = word_of(&d, j) < d.threshold ? 0.0f : d.scale;
        want[j] = j >= first && j < end ? t[j] * factor : t[j];
    }
    set->kernels->dropout(t, first, end, &d);
    qt_expect_words("t", want, t, QKV_KEY_BLOCK, 0);
}

static void test_dropout(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (size_t first = 0; first <= QKV_KEY_BLOCK; first += QKV_LANES)
        for (size_t end = first; end <= QKV_KEY_BLOCK; end += QKV_LANES)
            if (qt_case(index++, &rng))
                check(set, &rng, first, end);
}

/* The word that decides about column j, found by its threshold alone. */
static uint32_t find_word(const qt_set *set, qkv_dropout d, size_t j) {
    uint32_t word = 0;
    for (int bit = 31; bit >= 0; bit--) {
        float *t = qt_floats(64, QT_TAIL);
        for (int i = 0; i < 64; i++)
            t[i] = 1;
        d.threshold = word | UINT32_C(1) << bit;
        set->kernels->dropout(t, 0, 64, &d);
        word = t[j] == 0 ? word : d.threshold; /* dropped: word < threshold */
    }
    return word;
}

/* Of the file kat_vectors of the Random123 library by Philox's authors. */
static void test_known_answers(const qt_set *set) {
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const uint32_t *counter = known[i].counter;
        const qkv_dropout d = {.key = {known[i].key[0], known[i].key[1]},
                               .first_group = counter[0] / 16,
                               .counter = {counter[1], counter[2], counter[3]},
                               .scale = 1};
        uint32_t words[4];
        oracle_philox(counter, known[i].key, words);
        for (size_t w = 0; w < 4; w++) {
            const uint32_t got = find_word(set, d, 16 * w + counter[0] % 16);
            QT_EXPECT(got == known[i].answer[w], "word %zu: want %08x, got %08x", w, (unsigned)known[i].answer[w],
                      (unsigned)got);
            QT_EXPECT(words[w] == known[i].answer[w], "word %zu of the oracle: want %08x, got %08x", w,
                      (unsigned)known[i].answer[w], (unsigned)words[w]);
            qt_count_words(2);
        }
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("dropout", test_dropout);
    qt_each_set("philox_known_answers", test_known_answers);
    return qt_run();
}
