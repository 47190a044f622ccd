/* What is no cache, or no longer one, is refused or does no harm; descriptors and calls that can't be are refused.
 *
 * SPDX-License-Identifier: MIT */
#include "cache_model.h"

/* Two sequences that share pages, one with a hole, an empty one. */
static void busy_cache(qt_rng *rng, model *m) {
    const qt_set *set = qt_get_set(0);
    memset(m, 0, sizeof *m);
    m->factor = 1;
    m->d = (qkv_cache_desc){.size = sizeof m->d,
                            .num_sequences = 4,
                            .max_tokens = 400,
                            .num_pages = 12,
                            .num_kv_heads = 1,
                            .head_dim = 2,
                            .head_dim_v = 1,
                            .k_type = QKV_INT8,
                            .v_type = QKV_F16,
                            .window = 90,
                            .first_tokens = 3};
    assert_int_equal(qkv_cache_size(&m->d, &m->bytes), QKV_OK);
    m->block = qt_alloc(m->bytes, 64, QT_TAIL);
    assert_int_equal(qkv_cache_init(&m->d, m->block, m->bytes), QKV_OK);
    const int64_t lengths[] = {70, 200, 90};
    for (int64_t s = 0; s < 3; s++)
        for (int64_t left = lengths[s]; left > 0; left -= 50) {
            const int64_t n = left < 50 ? left : 50;
            const qkv_input k = draw_tokens(rng, m, 1, n, 0), v = draw_tokens(rng, m, 1, n, 1);
            assert_int_equal(qkv_cache_append(&set->ctx, m->block, s, n, k, v), QKV_OK);
        }
    assert_int_equal(qkv_cache_fork(m->block, 1, 3), QKV_OK);
    assert_int_equal(qkv_cache_check(m->block, m->bytes), QKV_OK);
}

/* Every function, over whatever the block holds; memory around it is guarded. It may say anything. */
static void call_all(qt_rng *rng, const model *m, qkv_input k, qkv_input v) {
    const qt_set *set = qt_get_set(0);
    qkv_cache_desc d = {.size = sizeof d};
    int64_t x;
    (void)qkv_cache_query(m->block, &d);
    (void)qkv_cache_free_pages(m->block, &x);
    for (int n = 0; n < 12; n++) {
        const int64_t s = qt_range(rng, 0, 3), other = qt_range(rng, 0, 3), tokens = qt_range(rng, 0, 90);
        switch (qt_range(rng, 0, 5)) {
        case 0: (void)qkv_cache_length(m->block, s, &x); break;
        case 1: (void)qkv_cache_extend(m->block, s, tokens); break;
        case 2: (void)qkv_cache_append(&set->ctx, m->block, s, tokens, k, v); break;
        case 3: (void)qkv_cache_truncate(m->block, s, tokens); break;
        case 4: (void)qkv_cache_fork(m->block, s, other); break;
        default:
            store_rows(set->kernels, m->block, s, (int)(n % 2), qt_range(rng, -1, 2), qt_range(rng, -1, 400), tokens,
                       v.data, 1);
        }
    }
}

static size_t bookkeeping(const model *m) {
    qkv_cache_view c;
    assert_int_equal(qkv_cache_open(m->block, &c), QKV_OK);
    return (size_t)(c.k - m->block);
}

static void seal(const model *m, size_t words) {
    int64_t header[32];
    memcpy(header, m->block, words * 8);
    const uint64_t sum = qkv_checksum(header, words);
    memcpy(m->block + words * 8, &sum, 8);
}

enum { SEALED_WORDS = 19 };

static void test_every_damaged_byte(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    model m;
    busy_cache(&rng, &m);
    qkv_cache_view c;
    assert_int_equal(qkv_cache_open(m.block, &c), QKV_OK);
    const size_t n = bookkeeping(&m), references = (size_t)((unsigned char *)c.references - m.block);
    const size_t tables = (size_t)((unsigned char *)c.tables - m.block);
    unsigned char *good = qt_alloc(m.bytes, 64, QT_TAIL);
    memcpy(good, m.block, m.bytes);
    float *x = qt_floats(1000, QT_TAIL);
    qt_fill(&rng, x, 1000, QT_NORMAL);
    const qkv_input rows = {x, 0, 0, 2};
    int found = 0, tried = 0;
    for (size_t at = 0; at < n; at++)
        for (int bit = 0; bit < 9; bit++, tried++) {
            memcpy(m.block, good, m.bytes);
            m.block[at] ^= (unsigned char)(bit < 8 ? 1 << bit : qt_range(&rng, 1, 255));
            const qkv_status status = qkv_cache_check(m.block, m.bytes);
            QT_EXPECT(status == QKV_OK || status == QKV_ERROR_CACHE, "byte %d: status %d", (int)at, status);
            found += status != QKV_OK;
            const bool sealed = at < (SEALED_WORDS + 1) * 8;
            const bool counted = at >= references && at < references + 4 * (size_t)m.d.num_pages;
            QT_EXPECT(status != QKV_OK || !(sealed || counted), "byte %d is damaged, and it passes", (int)at);
            int64_t length;
            QT_EXPECT(!sealed || qkv_cache_length(m.block, 0, &length) == QKV_ERROR_CACHE, "byte %d", (int)at);
            for (int64_t s = 0; s < 4 && at >= tables; s++) { /* a page number that is used */
                const size_t first = tables + 4 * (size_t)(s * c.table_stride);
                const bool used = at >= first && at < first + 4 && s != 2 ? c.lengths[s] > 0 : false;
                QT_EXPECT(status != QKV_OK || !used, "byte %d of a table is damaged, and it passes", (int)at);
            }
            call_all(&rng, &m, rows, rows);
        }
    qt_note("%d of %d damages are found", found, tried);
}

/* Words of the bookkeeping behind the sealed header, and of the header itself, sealed again: only qkv_cache_check knows
 * how large the memory is, and what passes it is safe. */
static void test_damage_on_purpose(void) {
    int passed = 0;
    for (uint64_t i = 0; i < (qt_quick() ? 2000 : 8000); i++) {
        qt_rng rng;
        model m;
        if (!qt_case(i, &rng))
            continue;
        busy_cache(&rng, &m);
        const size_t n = bookkeeping(&m);
        float *x = qt_floats(1000, QT_TAIL);
        qt_fill(&rng, x, 1000, QT_SPRINKLED);
        static const int64_t odd[] = {0, 1, -1, INT64_MIN, INT64_MAX, INT32_MAX, 12, 11, 400, 64, 6, INT64_C(1) << 33};
        const bool header = qt_chance(&rng, 50);
        for (int64_t k = qt_range(&rng, 1, 4); k > 0; k--) {
            const int64_t value = qt_chance(&rng, 60) ? odd[qt_range(&rng, 0, 11)] : qt_range(&rng, 0, 15);
            const size_t size = !header && qt_chance(&rng, 50) ? 4 : 8;
            const int64_t words = header ? SEALED_WORDS : (int64_t)(n / size);
            const int64_t from = header ? 2 : (SEALED_WORDS + 1) * 8 / (int64_t)size;
            memcpy(m.block + (size_t)qt_range(&rng, from, words - 1) * size, &value, size);
        }
        seal(&m, SEALED_WORDS);
        const bool passes = qkv_cache_check(m.block, m.bytes) == QKV_OK;
        passed += passes;
        qkv_cache_desc d = {.size = sizeof d};
        if ((passes && qkv_cache_query(m.block, &d) == QKV_OK && d.head_dim <= 2 && d.head_dim_v <= 2 &&
             d.num_kv_heads <= 3) ||
            !header)
            call_all(&rng, &m, (qkv_input){x, 0, 1, 1}, (qkv_input){x, 0, 1, 1});
    }
    qt_note("%d pass", passed);
}

static void test_damaged_sequences_change_nothing(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    model m;
    busy_cache(&rng, &m);
    qkv_cache_view c;
    assert_int_equal(qkv_cache_open(m.block, &c), QKV_OK);
    unsigned char *before = qt_alloc(m.bytes, 64, QT_TAIL), *good = qt_alloc(m.bytes, 64, QT_TAIL);
    memcpy(good, m.block, m.bytes);
    int32_t *const places[] = {&c.tables[0],
                               &c.tables[1],
                               &c.tables[c.table_stride],
                               &c.tables[c.table_stride + 3],
                               &c.references[c.tables[1]],
                               &c.references[c.tables[c.table_stride + 3]]};
    static const int32_t values[] = {-1, 12, INT32_MAX, INT32_MIN, 0};
    int refused = 0;
    for (int place = 0; place < 6; place++)
        for (int value = 0; value < 5; value++)
            for (int call = 0; call < 7; call++) {
                memcpy(m.block, good, m.bytes);
                *places[place] = values[value];
                memcpy(before, m.block, m.bytes);
                const qkv_status status = call == 0   ? qkv_cache_extend(m.block, 0, 60)
                                          : call == 1 ? qkv_cache_extend(m.block, 1, 60)
                                          : call == 2 ? qkv_cache_truncate(m.block, 0, 0)
                                          : call == 3 ? qkv_cache_truncate(m.block, 1, 0)
                                          : call == 4 ? qkv_cache_fork(m.block, 0, 2)
                                          : call == 5 ? qkv_cache_fork(m.block, 2, 1)
                                                      : qkv_cache_fork(m.block, 1, 0);
                refused += status != QKV_OK;
                if (status != QKV_OK)
                    qt_expect_bytes("a damaged block after a refusal", before, m.block, m.bytes);
            }
    memcpy(m.block, good, m.bytes);
    c.tables[2 * c.table_stride + 6] = (int32_t)m.d.num_pages; /* not in use yet */
    assert_int_equal(qkv_cache_check(m.block, m.bytes), QKV_ERROR_CACHE);
    memcpy(m.block, good, m.bytes);
    c.references[c.tables[0]]++; /* counted well, but twice in one sequence */
    c.references[c.tables[1]]--;
    *c.lowest_free = 0;
    c.tables[1] = c.tables[0];
    assert_int_equal(qkv_cache_check(m.block, m.bytes), QKV_ERROR_CACHE);
    QT_EXPECT(refused > 60, "only %d calls have found the damage", refused);
    memcpy(m.block, good, m.bytes);
    for (int64_t bad = -1; bad <= m.d.num_pages + 1; bad += m.d.num_pages + 2) {
        *c.lowest_free = bad;
        assert_int_equal(qkv_cache_extend(m.block, 0, 1), QKV_ERROR_CACHE);
    }
}

#define SIZE_REFUSES(status, change)                                                                                   \
    do {                                                                                                               \
        qkv_cache_desc d = good;                                                                                       \
        size_t unset = 7;                                                                                              \
        change;                                                                                                        \
        QT_EXPECT(qkv_cache_size(&d, &unset) == (status) && unset == 7, "size with %s", #change);                      \
        QT_EXPECT(qkv_cache_init(&d, block, sizeof block) == (status), "init with %s", #change);                       \
        qt_expect_bytes("memory", zero, block, sizeof block);                                                          \
    } while (0)

static void test_descriptors_are_refused(void) {
    static _Alignas(64) unsigned char block[1 << 14], zero[1 << 14];
    const qkv_cache_desc good = {
        .size = sizeof good, .num_sequences = 2, .max_tokens = 100, .num_kv_heads = 2, .head_dim = 2};
    size_t bytes;
    SIZE_REFUSES(QKV_ERROR_SIZE, d.size = 0);
    SIZE_REFUSES(QKV_ERROR_SIZE, d.size--);
    SIZE_REFUSES(QKV_ERROR_NEGATIVE, d.num_sequences = -1);
    SIZE_REFUSES(QKV_ERROR_NEGATIVE, d.max_tokens = -1);
    SIZE_REFUSES(QKV_ERROR_NEGATIVE, d.num_pages = -1);
    SIZE_REFUSES(QKV_ERROR_NEGATIVE, d.num_kv_heads = INT64_MIN);
    SIZE_REFUSES(QKV_ERROR_NEGATIVE, d.head_dim = -1);
    SIZE_REFUSES(QKV_ERROR_NEGATIVE, d.head_dim_v = -1);
    SIZE_REFUSES(QKV_ERROR_NEGATIVE, d.window = -1);
    SIZE_REFUSES(QKV_ERROR_NEGATIVE, (d.window = 5, d.first_tokens = -1));
    SIZE_REFUSES(QKV_ERROR_FLAGS, d.k_type = QKV_Q8_0);
    SIZE_REFUSES(QKV_ERROR_FLAGS, d.v_type = QKV_Q8_0);
    SIZE_REFUSES(QKV_ERROR_FLAGS, d.k_type = 5);
    SIZE_REFUSES(QKV_ERROR_FLAGS, d.v_type = -1);
    SIZE_REFUSES(QKV_ERROR_SHAPE, d.first_tokens = 4);
    SIZE_REFUSES(QKV_ERROR_OVERFLOW, d.num_sequences = INT64_C(1) << 31);
    SIZE_REFUSES(QKV_ERROR_OVERFLOW, d.num_pages = INT64_C(1) << 31);
    SIZE_REFUSES(QKV_ERROR_OVERFLOW, d.max_tokens = INT64_MAX);
    SIZE_REFUSES(QKV_ERROR_OVERFLOW, d.head_dim = INT64_MAX);
    SIZE_REFUSES(QKV_ERROR_OVERFLOW, d.head_dim_v = INT64_MAX / 4);
    SIZE_REFUSES(QKV_ERROR_OVERFLOW, d.num_kv_heads = INT64_MAX / 8);
    SIZE_REFUSES(QKV_ERROR_OVERFLOW, (d.num_pages = INT32_MAX, d.head_dim = INT64_C(1) << 31));
    assert_int_equal(qkv_cache_size(NULL, &bytes), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_size(&good, NULL), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_size(&good, &bytes), QKV_OK);
    assert_true(bytes % 64 == 0 && bytes < sizeof block);
    assert_int_equal(qkv_cache_init(NULL, block, bytes), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_init(&good, NULL, bytes), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_init(&good, block + 32, bytes), QKV_ERROR_ALIGNMENT);
    assert_int_equal(qkv_cache_init(&good, block, bytes - 1), QKV_ERROR_WORKSPACE);
    qt_expect_bytes("memory", zero, block, sizeof block);
    qkv_cache_desc d = good; /* sizes of 0, and what 0 stands for */
    for (int i = 0; i < 5; i++) {
        int64_t *const fields[] = {&d.num_sequences, &d.max_tokens, &d.num_kv_heads, &d.head_dim, NULL};
        d = good;
        if (fields[i])
            *fields[i] = 0;
        assert_int_equal(qkv_cache_init(&d, block, sizeof block), QKV_OK);
        assert_int_equal(qkv_cache_check(block, sizeof block), QKV_OK);
        assert_int_equal(qkv_cache_query(block, &d), QKV_OK);
        assert_int_equal(d.num_pages, i < 2 ? 0 : 4);
        assert_int_equal(d.head_dim_v, d.head_dim);
        const qkv_input none = {NULL, 0, 0, 0};
        static const qkv_status want[] = {QKV_ERROR_INDEX, QKV_ERROR_CAPACITY, QKV_OK, QKV_OK, QKV_ERROR_NULL};
        assert_int_equal(qkv_cache_append(&qt_get_set(0)->ctx, block, 0, 1, none, none), want[i]);
    }
}

static void test_calls_are_refused(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    model m;
    busy_cache(&rng, &m);
    const qkv_ctx *ctx = &qt_get_set(0)->ctx;
    unsigned char *before = qt_alloc(m.bytes, 64, QT_TAIL);
    memcpy(before, m.block, m.bytes);
    float *x = qt_floats(100, QT_TAIL);
    const qkv_input k = {x, 0, 2, 2}, v = {x, 0, 1, 1}, none = {NULL, 0, 0, 0}, odd = {(char *)x + 2, 0, 2, 2};
    const qkv_input far = {x, 0, 2, INT64_MAX / 2}, inside = {m.block, 0, 2, 2};
    int64_t number = 7;
    qkv_cache_desc d = {.size = 8};
    assert_int_equal(qkv_cache_append(NULL, m.block, 0, 2, k, v), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_append(ctx, NULL, 0, 2, k, v), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, 2, none, v), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, 2, k, none), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, 2, odd, v), QKV_ERROR_ALIGNMENT);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, 2, far, v), QKV_ERROR_OVERFLOW);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, 2, inside, v), QKV_ERROR_ALIAS);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, 2, k, inside), QKV_ERROR_ALIAS);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, -1, k, v), QKV_ERROR_NEGATIVE);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, 331, k, v), QKV_ERROR_CAPACITY);
    assert_int_equal(qkv_cache_append(ctx, m.block, 0, 0, none, none), QKV_OK);
    assert_int_equal(qkv_cache_extend(m.block + 32, 0, 1), QKV_ERROR_ALIGNMENT);
    assert_int_equal(qkv_cache_extend(NULL, 0, 1), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_truncate(m.block, 0, -1), QKV_ERROR_NEGATIVE);
    assert_int_equal(qkv_cache_truncate(m.block, 0, 71), QKV_ERROR_CAPACITY);
    assert_int_equal(qkv_cache_length(m.block, 0, NULL), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_free_pages(m.block, NULL), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_query(m.block, NULL), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_query(m.block, &d), QKV_ERROR_SIZE);
    assert_int_equal(d.size, 8);
    assert_int_equal(qkv_cache_check(NULL, m.bytes), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_check(m.block + 32, m.bytes), QKV_ERROR_ALIGNMENT);
    assert_int_equal(qkv_cache_check(m.block, m.bytes - 1), QKV_ERROR_CACHE);
    assert_int_equal(qkv_cache_check(m.block, 100), QKV_ERROR_CACHE);
    assert_int_equal(qkv_cache_file_order(NULL, m.bytes), QKV_ERROR_NULL);
    assert_int_equal(qkv_cache_file_order(m.block + 32, m.bytes), QKV_ERROR_ALIGNMENT);
    assert_int_equal(qkv_cache_file_order(m.block, m.bytes - 1), QKV_ERROR_CACHE);
    assert_int_equal(qkv_cache_file_order(m.block, 100), QKV_ERROR_CACHE);
    m.block[40] ^= 1;
    assert_int_equal(qkv_cache_file_order(m.block, m.bytes), QKV_ERROR_CACHE);
    m.block[40] ^= 1;
    qt_expect_bytes("the block after refusals", before, m.block, m.bytes);
    qt_read_only(m.block); /* as mapped from a file */
    if (!QKV_BIG_ENDIAN)
        assert_int_equal(qkv_cache_file_order(m.block, m.bytes), QKV_OK);
    assert_int_equal(qkv_cache_length(m.block, 1, &number), QKV_OK);
    assert_int_equal(number, 200);
    assert_int_equal(qkv_cache_free_pages(m.block, &number), QKV_OK);
    assert_int_equal(qkv_cache_check(m.block, m.bytes), QKV_OK);
    assert_int_equal(qkv_cache_extend(m.block, 0, 331), QKV_ERROR_CAPACITY);
    struct {
        qkv_cache_desc d;
        int64_t later;
    } longer = {{.size = sizeof longer}, 5}; /* of a later version: what this one does not know is off */
    assert_int_equal(qkv_cache_query(m.block, &longer.d), QKV_OK);
    assert_true(longer.later == 0 && longer.d.size == sizeof longer && longer.d.first_tokens == 3);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("every_damaged_byte", test_every_damaged_byte);
    qt_once("damage_on_purpose", test_damage_on_purpose);
    qt_once("damaged_sequences_change_nothing", test_damaged_sequences_change_nothing);
    qt_once("descriptors_are_refused", test_descriptors_are_refused);
    qt_once("calls_are_refused", test_calls_are_refused);
    return qt_run();
}
