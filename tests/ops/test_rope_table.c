/* qkv_rope_table: against the C library in long double and the formulas as models' authors wrote them; its bits; what
 * it refuses.
 *
 * SPDX-License-Identifier: MIT */
#include "harness.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef qkv_rope_table_desc T;

static const long double pi = 3.14159265358979323846264338327950288L;

static long double clamped(long double x, long double low, long double high) {
    return x < low ? low : x > high ? high : x;
}

/* Hugging Face's find_correction_dim. */
static long double correction_dim(const T *d, long double turns) {
    const long double base = d->base != 0 ? (long double)d->base : 10000;
    return (long double)d->rotary_dim * logl((long double)d->original_positions / (turns * 2 * pi)) / (2 * logl(base));
}

/* The frequency of a pair in radians, by the formulas of modeling_rope_utils.py. */
static long double frequency(const T *d, int64_t i) {
    const long double dim = (long double)d->rotary_dim, factor = d->factor != 0 ? (long double)d->factor : 1;
    long double base = d->base != 0 ? (long double)d->base : 10000;
    if (d->scaling == QKV_ROPE_NTK && d->rotary_dim > 2)
        base *= powl(factor, dim / (dim - 2));
    long double f = powl(base, -2 * (long double)i / dim);
    if (d->pair_factors)
        f /= (long double)d->pair_factors[i];
    if (d->scaling == QKV_ROPE_LINEAR)
        return f / factor;
    if (d->scaling == QKV_ROPE_YARN) {
        long double low = correction_dim(d, d->beta_fast != 0 ? (long double)d->beta_fast : 32);
        long double high = correction_dim(d, d->beta_slow != 0 ? (long double)d->beta_slow : 1);
        if (!d->untruncated) {
            low = floorl(low);
            high = ceill(high);
        }
        low = low > 0 ? low : 0;
        high = high < dim - 1 ? high : dim - 1;
        const long double span = high - low > 0.001L ? high - low : 0.001L;
        const long double ramp = clamped(((long double)i - low) / span, 0, 1);
        return f / factor * ramp + f * (1 - ramp);
    }
    if (d->scaling == QKV_ROPE_LLAMA3) {
        const long double low = d->low_freq_factor != 0 ? (long double)d->low_freq_factor : 1;
        const long double high = d->high_freq_factor != 0 ? (long double)d->high_freq_factor : 4;
        const long double context = (long double)d->original_positions, wavelength = 2 * pi / f;
        if (wavelength < context / high)
            return f;
        if (wavelength > context / low)
            return f / factor;
        const long double smooth = (context / wavelength - low) / (high - low);
        return (1 - smooth) * f / factor + smooth * f;
    }
    return f;
}

static double attention_factor(const T *d) {
    if (d->attention_factor != 0)
        return d->attention_factor;
    return d->scaling == QKV_ROPE_YARN && d->factor > 1 ? 0.1 * log(d->factor) + 1 : 1;
}

static float *table(size_t n) {
    return qt_floats(n, QT_TAIL);
}

/* `slack`: how far an angle may be off beside what its size costs. */
static double compare(const T *d, long double slack) {
    const int64_t pairs = d->rotary_dim / 2, n = d->num_positions * pairs;
    float *cosine = table((size_t)n), *sine = table((size_t)n);
    assert_int_equal(qkv_rope_table(d, cosine, sine), QKV_OK);
    const long double factor = (long double)attention_factor(d);
    double worst = 0;
    for (int64_t i = 0; i < pairs; i++) {
        const long double f = frequency(d, i);
        for (int64_t t = 0; t < d->num_positions; t++) {
            const long double p = (long double)(d->first_position + t), angle = p * f;
            const long double want[2] = {factor * cosl(angle), factor * sinl(angle)};
            const float got[2] = {cosine[t * pairs + i], sine[t * pairs + i]};
            for (int x = 0; x < 2; x++) {
                const long double size = fabsl(want[x]), error = fabsl((long double)got[x] - want[x]);
                int exponent;
                frexpl(size, &exponent);
                const long double half_ulp = ldexpl(1, exponent - 25) * 1.0001L; /* once more rounded by factor */
                const long double bound = half_ulp + factor * (0x1p-53L * (1 + fabsl(p)) + slack * fabsl(angle));
                worst = fmax(worst, (double)((error - half_ulp) / (bound - half_ulp)));
                QT_EXPECT(error <= bound, "%s, pair %d at %lld: want %.12Lg, got %.9g, off by %.3Lg of the bound",
                          x ? "sine" : "cosine", (int)i, (long long)p, want[x], (double)got[x], error / bound);
            }
        }
    }
    qt_count_words((uint64_t)(2 * n));
    return worst;
}

static void test_against_the_c_library(void) {
    static const double bases[] = {0, 10000, 500000, 1e6, 1e7, 1e10, 2, 1, 18671.3};
    static const int64_t first[] = {0, -7, 1000, 131071 - 20, (1 << 20) - 20, 12345678};
    double worst = 0;
    uint64_t index = 0;
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++)
        for (size_t f = 0; f < sizeof first / sizeof *first; f++)
            for (int64_t dim = 2; dim <= 256; dim = dim < 20 ? dim + 2 : dim * 2 - 2) {
                if (!qt_case(index++, NULL))
                    continue;
                qt_describe("base=%g first=%lld dim=%lld", bases[b], (long long)first[f], (long long)dim);
                const T d = {.size = sizeof d,
                             .first_position = first[f],
                             .num_positions = 40,
                             .rotary_dim = dim,
                             .base = bases[b]};
                worst = fmax(worst, compare(&d, 0));
            }
    qt_note("worst error beyond half an ulp / its bound %.3f", worst);
}

/* Up to 2^20 each cosine and sine is the float nearest to the exact one, or its neighbour where that is tiny. */
static void test_every_position(void) {
    double worst = 0;
    for (uint64_t i = 0; i < (qt_quick() ? 4 : 32); i++) {
        if (!qt_case(i, NULL))
            continue;
        const T d = {.size = sizeof d,
                     .first_position = (int64_t)i << 15,
                     .num_positions = 2048,
                     .rotary_dim = 128,
                     .base = 500000};
        worst = fmax(worst, compare(&d, 0));
    }
    qt_note("worst error beyond half an ulp / its bound %.3f", worst);
}

static void test_scalings(void) {
    double worst = 0;
    for (uint64_t i = 0; i < 400; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        static const int64_t dims[] = {2, 4, 64, 80, 96, 128, 256};
        static const double bases[] = {10000, 150000, 500000, 1e6};
        T d = {.size = sizeof d, .num_positions = 30};
        d.first_position = qt_range(&rng, 0, 1 << 18);
        d.rotary_dim = dims[qt_range(&rng, 0, 6)];
        d.base = bases[qt_range(&rng, 0, 3)];
        d.scaling = (uint32_t)qt_range(&rng, 0, 4);
        d.factor = (double)qt_uniform(&rng, 0.5f, 40);
        d.original_positions = INT64_C(1) << qt_range(&rng, 9, 17);
        d.untruncated = qt_chance(&rng, 30);
        if (qt_chance(&rng, 40)) {
            d.beta_fast = (double)qt_uniform(&rng, 8, 64);
            d.beta_slow = (double)qt_uniform(&rng, 0.5f, 4);
            d.low_freq_factor = (double)qt_uniform(&rng, 0.5f, 2);
            d.high_freq_factor = d.low_freq_factor + (double)qt_uniform(&rng, 0.5f, 4);
        }
        if (qt_chance(&rng, 30))
            d.attention_factor = (double)qt_uniform(&rng, 0.5f, 2);
        if (qt_chance(&rng, 30)) {
            float *factors = table((size_t)d.rotary_dim / 2);
            for (int64_t x = 0; x < d.rotary_dim / 2; x++)
                factors[x] = qt_uniform(&rng, 0.5f, 60);
            d.pair_factors = factors;
        }
        qt_describe("scaling=%u dim=%lld base=%g factor=%g context=%lld", d.scaling, (long long)d.rotary_dim, d.base,
                    d.factor, (long long)d.original_positions);
        worst = fmax(worst, compare(&d, 0x1p-49L));
    }
    qt_note("worst error beyond half an ulp / its bound %.3f", worst);
}

/* FNV-1a over the words of tables of every scaling: what each compiler and CPU must give. */
static void test_golden_bits(void) {
    static const uint64_t golden[5] = {UINT64_C(0x273fb28eec0e8ba0), UINT64_C(0x3708462f1ad903a7),
                                       UINT64_C(0x1d878a888af83cc5), UINT64_C(0x02ca432143be22f1),
                                       UINT64_C(0xe195502b57f1ba2b)};
    for (uint32_t scaling = 0; scaling < 5; scaling++) {
        if (!qt_case(scaling, NULL))
            continue;
        const T d = {.size = sizeof d,
                     .first_position = 100000,
                     .num_positions = 500,
                     .rotary_dim = 128,
                     .base = 500000,
                     .scaling = scaling,
                     .factor = 8,
                     .original_positions = 8192};
        float *x[2] = {table(500 * 64), table(500 * 64)};
        assert_int_equal(qkv_rope_table(&d, x[0], x[1]), QKV_OK);
        uint64_t hash = UINT64_C(0xcbf29ce484222325);
        for (int i = 0; i < 2 * 500 * 64; i++)
            hash = (hash ^ qt_bits(x[i / (500 * 64)][i % (500 * 64)])) * UINT64_C(0x100000001b3);
        QT_EXPECT(hash == golden[scaling], "scaling %u: the words hash to %016llx", scaling, (unsigned long long)hash);
        qt_count_words(2 * 500 * 64);
    }
}

/* A row depends on its position alone. */
static void test_rows_are_of_positions(void) {
    if (!qt_case(0, NULL))
        return;
    const T whole = {.size = sizeof whole, .first_position = -3, .num_positions = 50, .rotary_dim = 80};
    float *x[2] = {table(50 * 40), table(50 * 40)}, *y[2] = {table(40), table(40)};
    assert_int_equal(qkv_rope_table(&whole, x[0], x[1]), QKV_OK);
    for (int64_t t = 0; t < 50; t++) {
        const T one = {.size = sizeof one, .first_position = t - 3, .num_positions = 1, .rotary_dim = 80};
        assert_int_equal(qkv_rope_table(&one, y[0], y[1]), QKV_OK);
        qt_expect_words("cosine", x[0] + t * 40, y[0], 40, 0);
        qt_expect_words("sine", x[1] + t * 40, y[1], 40, 0);
    }
    for (int i = 0; i < 40; i++)
        assert_true(x[0][3 * 40 + i] == 1 && qt_bits(x[1][3 * 40 + i]) == 0); /* position 0 */
}

static void expect_refusal(const T *d, qkv_status want) {
    float *cosine = table(64), *sine = table(64);
    const qkv_status status = qkv_rope_table(d, cosine, sine);
    QT_EXPECT(status == want, "want \"%s\", got \"%s\"", qkv_status_string(want), qkv_status_string(status));
    qt_expect_untouched("cos", cosine);
    qt_expect_untouched("sin", sine);
    qt_count_words(1);
}

static void test_refusals(void) {
    if (!qt_case(0, NULL))
        return;
    const T good = {.size = sizeof good, .num_positions = 4, .rotary_dim = 32};
    const float bad_factors[16] = {0};
#define REFUSED(status, ...)                                                                                           \
    do {                                                                                                               \
        T d = good;                                                                                                    \
        __VA_ARGS__;                                                                                                   \
        expect_refusal(&d, status);                                                                                    \
    } while (0)
    REFUSED(QKV_ERROR_SIZE, d.size = 8);
    REFUSED(QKV_ERROR_NEGATIVE, d.num_positions = -1);
    REFUSED(QKV_ERROR_NEGATIVE, d.rotary_dim = -2);
    REFUSED(QKV_ERROR_NEGATIVE, d.original_positions = -1);
    REFUSED(QKV_ERROR_SHAPE, d.rotary_dim = 31);
    REFUSED(QKV_ERROR_FLAGS, d.scaling = 5);
    REFUSED(QKV_ERROR_FLAGS, d.untruncated = 2);
    REFUSED(QKV_ERROR_VALUE, d.base = -1);
    REFUSED(QKV_ERROR_VALUE, d.base = (double)NAN);
    REFUSED(QKV_ERROR_VALUE, d.base = 1e30);
    REFUSED(QKV_ERROR_VALUE, d.factor = (double)INFINITY);
    REFUSED(QKV_ERROR_VALUE, d.factor = 1e-30; d.scaling = QKV_ROPE_YARN; d.original_positions = 9);
    REFUSED(QKV_ERROR_VALUE, d.attention_factor = -1);
    REFUSED(QKV_ERROR_VALUE, d.beta_fast = (double)NAN);
    REFUSED(QKV_ERROR_VALUE, d.beta_slow = -1);
    REFUSED(QKV_ERROR_VALUE, d.low_freq_factor = 4);
    REFUSED(QKV_ERROR_VALUE, d.high_freq_factor = (double)NAN);
    REFUSED(QKV_ERROR_VALUE, d.scaling = QKV_ROPE_YARN);
    REFUSED(QKV_ERROR_VALUE, d.scaling = QKV_ROPE_LLAMA3);
    REFUSED(QKV_ERROR_VALUE, d.scaling = QKV_ROPE_YARN; d.original_positions = 9; d.base = 1);
    REFUSED(QKV_ERROR_VALUE, d.pair_factors = bad_factors);
    REFUSED(QKV_ERROR_OVERFLOW, d.num_positions = INT64_MAX);
    REFUSED(QKV_ERROR_OVERFLOW, d.rotary_dim = INT64_C(1) << 32);
    float x[16];
    assert_int_equal(qkv_rope_table(NULL, x, x), QKV_ERROR_NULL);
    assert_int_equal(qkv_rope_table(&good, NULL, x), QKV_ERROR_NULL);
    assert_int_equal(qkv_rope_table(&good, x, NULL), QKV_ERROR_NULL);
    assert_int_equal(qkv_rope_table(&good, x, x), QKV_ERROR_ALIAS);
    const T none = {.size = sizeof none, .rotary_dim = 32};
    assert_int_equal(qkv_rope_table(&none, NULL, NULL), QKV_OK);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("against_the_c_library", test_against_the_c_library);
    qt_once("every_position", test_every_position);
    qt_once("scalings", test_scalings);
    qt_once("golden_bits", test_golden_bits);
    qt_once("rows_are_of_positions", test_rows_are_of_positions);
    qt_once("refusals", test_refusals);
    return qt_run();
}
