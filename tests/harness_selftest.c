/* The harness must catch what it is for: a wrong bit, accesses outside an operand, writes into gaps. Each fault is
 * planted in a child process, whose end says whether it was caught.  SPDX-License-Identifier: MIT */
#include "harness.h"

#include <math.h>
#include <string.h>

static void expect_outcome(const char *what, void (*body)(void *), void *arg, qt_outcome want) {
    static const char *const names[] = {"passed", "failed", "faulted", "ended otherwise"};
    qt_outcome got = qt_in_child(body, arg);
    QT_EXPECT(got == want, "%s: %s, should have %s", what, names[got], names[want]);
}

/* ------------------------------------------------------------------------------------------------- planted faults */

typedef struct plan {
    size_t n, at;
    int place;
    unsigned bit, flags;
    uint32_t word;
} plan;

static void compare(void *arg) {
    const plan *p = arg;
    float *want = qt_floats(p->n, p->place), *got = qt_floats(p->n, p->place);
    qt_rng rng = qt_stream("compare");
    qt_fill(&rng, want, p->n, QT_NORMAL);
    want[p->at] = qt_from_bits(p->word);
    memcpy(got, want, p->n * sizeof *want);
    got[p->at] = qt_from_bits(p->word ^ (UINT32_C(1) << p->bit));
    qt_expect_words("planted", want, got, p->n, p->flags);
}

static void test_wrong_bit(void) {
    static const size_t sizes[] = {1, 2, 17, 4099};
    for (size_t s = 0; s < 4; s++)
        for (unsigned bit = 0; bit < 32; bit++) {
            size_t n = sizes[s];
            plan p = {.n = n, .at = bit % 2 == 0 ? 0 : n - 1, .place = QT_TAIL, .bit = bit, .word = 0x3f9d70a4};
            expect_outcome("a flipped bit", compare, &p, QT_FAILED);
        }
    expect_outcome("−0 for +0", compare, &(plan){.n = 3, .at = 1, .bit = 31, .flags = 0}, QT_FAILED);
    expect_outcome("−0 for +0, any zero", compare, &(plan){.n = 3, .at = 1, .bit = 31, .flags = QT_ANY_ZERO},
                   QT_PASSED);
    expect_outcome("another subnormal, any zero", compare, &(plan){.n = 3, .bit = 0, .flags = QT_ANY_ZERO}, QT_FAILED);
    expect_outcome("another NaN", compare, &(plan){.n = 3, .at = 2, .bit = 5, .word = 0x7fc00000}, QT_PASSED);
    expect_outcome("a NaN of the other sign", compare, &(plan){.n = 3, .bit = 31, .word = 0x7fc00000}, QT_PASSED);
    expect_outcome("inf for NaN", compare, &(plan){.n = 3, .bit = 22, .word = 0x7fc00000}, QT_FAILED);
    expect_outcome("NaN for inf", compare, &(plan){.n = 3, .bit = 0, .word = 0x7f800000}, QT_FAILED);
    expect_outcome("−inf for inf", compare, &(plan){.n = 3, .bit = 31, .word = 0x7f800000}, QT_FAILED);
}

typedef struct access {
    size_t bytes, align;
    int place;
    ptrdiff_t at;
    bool write;
} access;

static void touch(void *arg) {
    const access *a = arg;
    volatile unsigned char *p = qt_alloc(a->bytes, a->align, a->place);
    if (a->write)
        p[a->at] = (unsigned char)(p[a->at] ^ 1);
    else
        (void)p[a->at];
    qt_free_all();
}

static void test_overrun(void) {
    static const size_t sizes[] = {1, 4, 100, 4092, 4096, 4100, 65536};
    for (size_t s = 0; s < 7; s++)
        for (int write = 0; write < 2; write++) {
            ptrdiff_t n = (ptrdiff_t)sizes[s];
            access a = {.bytes = sizes[s], .align = 1, .place = QT_TAIL, .write = write != 0};
            a.at = n;
            expect_outcome("one byte behind", touch, &a, QT_FAULT);
            a.at = n - 1;
            expect_outcome("the last byte", touch, &a, QT_PASSED);
            a.place = QT_HEAD;
            a.at = -1;
            expect_outcome("one byte before", touch, &a, QT_FAULT);
            a.at = 0;
            expect_outcome("the first byte", touch, &a, QT_PASSED);
            a.at = n;
            expect_outcome("one byte behind, away from the page", touch, &a,
                           sizes[s] % 4096 == 0 ? QT_FAULT
                           : write              ? QT_FAILED
                                                : QT_PASSED);
        }
}

static void test_underrun(void) {
    for (int n = 0; n < 20; n++) {
        access a = {.bytes = 40, .align = 4, .place = QT_HEAD + n, .write = true, .at = -4 * n - 1};
        expect_outcome("beyond the page before", touch, &a, QT_FAULT);
        a.at = -1;
        expect_outcome("one byte before", touch, &a, n == 0 ? QT_FAULT : QT_FAILED);
    }
    access tail = {.bytes = 40, .align = 4, .place = QT_TAIL, .write = true, .at = -1};
    expect_outcome("one byte before, away from the page", touch, &tail, QT_FAILED);
    access tile = {.bytes = 68, .align = 64, .place = QT_TAIL, .write = true, .at = 68};
    expect_outcome("one byte behind a tile", touch, &tile, QT_FAILED);
    tile.at = 128;
    expect_outcome("beyond the padding of a tile", touch, &tile, QT_FAULT);
    access nothing = {.bytes = 0, .align = 4, .place = QT_TAIL, .at = 0};
    expect_outcome("the first byte of nothing", touch, &nothing, QT_FAULT);
    nothing.place = QT_HEAD + 3;
    expect_outcome("the first byte of nothing", touch, &nothing, QT_FAULT);
}

/* Rows of 5 in an ld of 9, upwards or downwards. */
static void write_rows(void *arg) {
    const access *a = arg;
    size_t rows = 7, cols = 5;
    ptrdiff_t ld = a->write ? 9 : -9;
    float *buffer = qt_floats(6 * 9 + 5, a->place);
    float *base = ld > 0 ? buffer : buffer + 6 * 9;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            base[(ptrdiff_t)i * ld + (ptrdiff_t)j] = 1.0f;
    unsigned char *bytes = (unsigned char *)base;
    if (a->at != 0)
        bytes[a->at] ^= 1;
    qt_view view = qt_view_rows(base, rows, cols, ld);
    qt_expect_gaps("rows", &view);
    qt_free_all();
}

static void test_gap(void) {
    for (int up = 0; up < 2; up++)
        for (int place = QT_TAIL; place <= QT_HEAD + 1; place++) {
            access a = {.place = place, .write = up != 0};
            ptrdiff_t row = up ? 36 : -36;
            expect_outcome("clean rows", write_rows, &a, QT_PASSED);
            a.at = row + 19;
            expect_outcome("the last byte of a row", write_rows, &a, QT_PASSED);
            a.at = row + 20;
            expect_outcome("one byte behind a row", write_rows, &a, QT_FAILED);
            a.at = row - 1;
            expect_outcome("one byte before a row", write_rows, &a, QT_FAILED);
            a.at = 5 * row + 35;
            expect_outcome("the last byte of a gap", write_rows, &a, QT_FAILED);
        }
}

static void write_input(void *arg) {
    float *x = qt_floats(8, *(int *)arg);
    qt_fill(&(qt_rng){1, 0}, x, 8, QT_NORMAL);
    qt_read_only(x);
    volatile float *y = x;
    y[3] = y[2];
}

static void touch_output(void *arg) {
    float *x = qt_floats(8, QT_TAIL);
    x[0] = 1;
    qt_poison(x);
    if (*(int *)arg != 0)
        x[7] = 1;
    qt_expect_untouched("output", x);
}

static void test_read_only_and_untouched(void) {
    int place = QT_TAIL;
    expect_outcome("a write into an input", write_input, &place, QT_FAULT);
    place = QT_HEAD + 5;
    expect_outcome("a write into an input", write_input, &place, QT_FAULT);
    int wrote = 0;
    expect_outcome("an output left alone", touch_output, &wrote, QT_PASSED);
    wrote = 1;
    expect_outcome("an output not left alone", touch_output, &wrote, QT_FAILED);
}

static void fail_assertion(void *arg) {
    (void)arg;
    assert_int_equal(1, 2);
}

static void test_cmocka_assertion_in_child(void) {
    expect_outcome("a cmocka assertion", fail_assertion, NULL, QT_FAILED);
}

/* ------------------------------------------------------------------------------------------------- random numbers */

static void test_random(void) {
    qt_rng a = qt_stream("name/avx2"), b = qt_stream("name/ref"), c = qt_stream("other");
    QT_EXPECT(qt_u64(&a) == qt_u64(&b), "kernel sets get different cases");
    QT_EXPECT(qt_u64(&a) != qt_u64(&c), "names get the same cases");
    double sum = 0, squares = 0;
    int low = 0, high = 0, seen_nan = 0, seen_inf = 0, seen_subnormal = 0, seen_signalling = 0;
    for (int i = 0; i < 100000; i++) {
        double x = (double)qt_normal(&a);
        sum += x;
        squares += x * x;
        int64_t r = qt_range(&a, -3, 4);
        QT_EXPECT(r >= -3 && r <= 4, "range gave %lld", (long long)r);
        low += r == -3;
        high += r == 4;
        float u = qt_uniform(&a, 2, 3);
        QT_EXPECT(u >= 2 && u <= 3, "uniform gave %a", (double)u);
        uint32_t bits = qt_bits(qt_nasty(&a));
        seen_nan += (bits & 0x7fffffff) > 0x7f800000;
        seen_signalling += (bits & 0x7fffffff) > 0x7f800000 && !(bits & 0x00400000);
        seen_inf += (bits & 0x7fffffff) == 0x7f800000;
        seen_subnormal += (bits & 0x7f800000) == 0 && (bits & 0x007fffff) != 0;
    }
    QT_EXPECT(fabs(sum / 1e5) < 0.02 && fabs(squares / 1e5 - 1) < 0.02, "normal: mean %g, square %g", sum / 1e5,
              squares / 1e5);
    QT_EXPECT(low > 10000 && high > 10000, "range: ends drawn %d and %d times of 100000", low, high);
    QT_EXPECT(seen_nan > 1000 && seen_signalling > 500 && seen_inf > 1000 && seen_subnormal > 1000,
              "nasty: %d NaN, %d signalling, %d inf, %d subnormal of 100000", seen_nan, seen_signalling, seen_inf,
              seen_subnormal);
}

static void test_cases_repeat(void) {
    qt_rng first, again;
    if (!qt_case(5, &first))
        qt_skip("QKV_CASE asks for another case");
    qt_case(5, &again);
    QT_EXPECT(qt_u64(&first) == qt_u64(&again), "the same case has another stream");
    qt_case(6, &again);
    QT_EXPECT(qt_u64(&first) != qt_u64(&again), "two cases have one stream");
}

/* -------------------------------------------------------------------------------------------------------- threads */

typedef struct tally {
    int times[1000];
    int64_t order[1000];
    int64_t done;
    int32_t workers;
    _Atomic int bad_workers;
} tally;

static void count(void *arg, int64_t index, int32_t worker) {
    tally *t = arg;
    if (worker < 0 || worker >= t->workers)
        t->bad_workers++; /* qt_fail is for the main thread */
    t->times[index]++;
    if (t->workers == 1)
        t->order[t->done++] = index;
}

static void test_parallel_for(void) {
    for (int32_t threads = 1; threads <= 8; threads++)
        for (uint64_t shuffle = 0; shuffle < 3; shuffle++) {
            tally t = {.workers = threads};
            qt_parallel_for(&(qt_pool){.threads = threads, .shuffle = shuffle}, 1000, count, &t);
            bool ascending = true;
            QT_EXPECT(t.bad_workers == 0, "%d threads: a worker index outside them", (int)threads);
            for (int i = 0; i < 1000; i++) {
                QT_EXPECT(t.times[i] == 1, "task %d ran %d times", i, t.times[i]);
                ascending &= t.order[i] == i;
            }
            if (threads == 1)
                QT_EXPECT(ascending == (shuffle == 0), "shuffle %d: order is %s", (int)shuffle,
                          ascending ? "ascending" : "shuffled");
            qt_parallel_for(&(qt_pool){.threads = threads, .shuffle = shuffle}, 0, count, &t);
        }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("wrong_bit", test_wrong_bit);
    qt_once("overrun", test_overrun);
    qt_once("underrun", test_underrun);
    qt_once("gap", test_gap);
    qt_once("read_only_and_untouched", test_read_only_and_untouched);
    qt_once("cmocka_assertion_in_child", test_cmocka_assertion_in_child);
    qt_once("random", test_random);
    qt_once("cases_repeat", test_cases_repeat);
    qt_once("parallel_for", test_parallel_for);
    return qt_run();
}
