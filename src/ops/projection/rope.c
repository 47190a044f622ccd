/* Tables for rotary embeddings.
 *
 * All in integers: logarithms, powers, and angles as fractions of a turn, where whole turns drop out as the carry of a
 * product. So no compiler, contraction or libm takes part in the bits. The mixtures of YaRN and Llama 3 are doubles,
 * written without a sum of a product, which some compilers fuse whatever they are told.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "../../plan.h"

#if QKV_WITH(ROPE)

enum { LOG_BITS = 55 }; /* logarithms are signed, with 55 bits behind the point */
static const uint64_t top_bit = UINT64_C(1) << 63;

static const uint64_t ln_2 = UINT64_C(0xb17217f7d1cf79ac);         /* ·2^64 */
static const uint64_t inverse_turn = UINT64_C(0xa2f9836e4e44152a); /* 1/2π·2^66 */
static const uint64_t turn_61 = UINT64_C(0xc90fdaa22168c235);      /* 2π·2^61 */

/* 2^64/n! for n = 2 … 17. */
static const uint64_t inverse_factorial[] = {
    UINT64_C(0x8000000000000000), UINT64_C(0x2aaaaaaaaaaaaaab), UINT64_C(0x0aaaaaaaaaaaaaab),
    UINT64_C(0x0222222222222222), UINT64_C(0x005b05b05b05b05b), UINT64_C(0x000d00d00d00d00d),
    UINT64_C(0x0001a01a01a01a02), UINT64_C(0x00002e3bc74aad8e), UINT64_C(0x0000049f93edde28),
    UINT64_C(0x0000006b99159fd5), UINT64_C(0x00000008f76c77fc), UINT64_C(0x00000000b092309d),
    UINT64_C(0x000000000c9cba54), UINT64_C(0x0000000000d73f9f), UINT64_C(0x00000000000d73fa),
    UINT64_C(0x000000000000ca96)};
enum { LAST_FACTORIAL = 17 };

/* A complete descriptor, its logarithms, and the pairs between which YaRN mixes. */
typedef struct rope_scaling {
    const qkv_rope_table_desc *desc;
    int64_t log_base, log_factor;
    double first_mixed, last_mixed;
} rope_scaling;

/* ⌊a·b/2^64⌋. */
static uint64_t multiply_high(uint64_t a, uint64_t b) {
    uint64_t a1 = a >> 32, a0 = (uint32_t)a, b1 = b >> 32, b0 = (uint32_t)b;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (uint32_t)middle;
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

/* log2 of a positive normal number, bit by bit: squaring doubles a logarithm. */
static int64_t fixed_log2(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t log = (int64_t)(bits >> 52) - 1023;
    uint64_t mantissa = bits << 11 | top_bit; /* 1 ≤ mantissa·2^−63 < 2 */
    for (int i = 0; i < LOG_BITS; i++) {
        uint64_t square = multiply_high(mantissa, mantissa);
        mantissa = square & top_bit ? square : square << 1;
        log = 2 * log + (square & top_bit ? 1 : 0);
    }
    return log;
}

/* log·i/n for i ≤ n < 2^31. */
static int64_t fraction_of(int64_t log, int64_t i, int64_t n) {
    return log / n * i + log % n * i / n;
}

/* 2^x, the frequency in radians, becomes turns: *exponent and a mantissa that stand for mantissa·2^(*exponent − 65). */
static uint64_t turns_of(int64_t log, int64_t *exponent) {
    *exponent = log >> LOG_BITS;
    uint64_t z = multiply_high((uint64_t)log << (64 - LOG_BITS), ln_2), sum = 0;
    uint64_t k = 1;
    for (uint64_t term = z; term > 0; term = multiply_high(term, z) / ++k) /* e^z − 1 */
        sum += term;
    return multiply_high(top_bit | sum >> 1, inverse_turn);
}

/* Turns modulo 1, times 2^64. */
static uint64_t turn_fraction(uint64_t mantissa, int64_t exponent) {
    int64_t shift = 1 - exponent;
    if (shift <= 0)
        return shift > -64 ? mantissa << -shift : 0;
    return shift <= 64 ? (mantissa >> (shift - 1)) / 2 + (mantissa >> (shift - 1)) % 2 : 0;
}

/* sin x and 1 − cos x for 0 ≤ x ≤ π/4, all times 2^64. */
static void sine_and_versine(uint64_t x, uint64_t *sine, uint64_t *versine) {
    uint64_t z = multiply_high(x, x), sum[2] = {0, 0}; /* even powers, odd powers */
    for (int n = LAST_FACTORIAL; n >= 2; n--)
        sum[n & 1] = inverse_factorial[n - 2] - multiply_high(z, sum[n & 1]);
    *versine = multiply_high(z, sum[0]);
    *sine = x - multiply_high(multiply_high(x, z), sum[1]);
}

/* Of a turn·2^64, times the factor. */
static void cosine_and_sine(uint64_t turn, double factor, float *cosine, float *sine) {
    uint64_t quarter = (turn + (top_bit >> 2)) >> 62, rest = turn - (quarter << 62); /* within an eighth of a turn */
    bool negative = rest & top_bit;
    uint64_t x = multiply_high((negative ? 0 - rest : rest) << 2, turn_61) << 1, s, v;
    sine_and_versine(x, &s, &v);
    double along = v == 0 ? 1.0 : (double)(0 - v) * 0x1p-64, across = (double)s * 0x1p-64;
    if (negative)
        across = -across;
    double values[2] = {quarter & 1 ? across : along, quarter & 1 ? along : across};
    *cosine = (float)((quarter == 1 || quarter == 2 ? -values[0] : values[0]) * factor);
    *sine = (float)((quarter >= 2 ? -values[1] : values[1]) * factor);
}

static double within(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

/* The pair, a whole one or not, that makes so many turns in the original context. */
static double pair_of_turns(const rope_scaling *s, double turns) {
    const double full_turn = 0x1.921fb54442d18p+2;
    int64_t log = fixed_log2((double)s->desc->original_positions / (turns * full_turn));
    double share = (double)log / (double)s->log_base, limit = 0x1p40;
    return within((double)(s->desc->rotary_dim / 2) * share, -limit, limit);
}

static double round_down(double x) {
    int64_t n = (int64_t)x;
    return (double)((double)n > x ? n - 1 : n);
}

static void find_mixed_pairs(rope_scaling *s) {
    double first = pair_of_turns(s, s->desc->beta_fast), last = pair_of_turns(s, s->desc->beta_slow);
    if (!s->desc->untruncated) {
        first = round_down(first);
        last = -round_down(-last);
    }
    s->first_mixed = first > 0 ? first : 0;
    s->last_mixed = within(last, -0x1p40, (double)(s->desc->rotary_dim - 1));
}

/* How much of the unscaled frequency stays beside the one divided by factor, 0 … 1. */
static double kept_share(const rope_scaling *s, int64_t pair, uint64_t mantissa, int64_t exponent) {
    const qkv_rope_table_desc *d = s->desc;
    if (d->scaling == QKV_ROPE_YARN) {
        double span = s->last_mixed - s->first_mixed;
        return 1 - within(((double)pair - s->first_mixed) / (span > 0.001 ? span : 0.001), 0, 1);
    }
    double turns = (double)mantissa * 0x1p-65; /* exponents lie within ±130 */
    for (; exponent > 0; exponent--)
        turns *= 2;
    for (; exponent < 0; exponent++)
        turns /= 2;
    double wavelength = 1 / turns;
    double in_context = (double)d->original_positions / wavelength;
    return within((in_context - d->low_freq_factor) / (d->high_freq_factor - d->low_freq_factor), 0, 1);
}

/* The angle of a pair from one position to the next: turns modulo 1, times 2^64. */
static uint64_t step_of_pair(const rope_scaling *s, int64_t pair) {
    const qkv_rope_table_desc *d = s->desc;
    int64_t pairs = d->rotary_dim / 2, exponent;
    int64_t log = -fraction_of(s->log_base, pair, pairs);
    if (d->pair_factors)
        log -= fixed_log2((double)d->pair_factors[pair]);
    if (d->scaling == QKV_ROPE_LINEAR)
        log -= s->log_factor;
    if (d->scaling == QKV_ROPE_NTK && pairs > 1)
        log -= fraction_of(s->log_factor, pair, pairs - 1);
    uint64_t mantissa = turns_of(log, &exponent);
    if (d->scaling == QKV_ROPE_YARN || d->scaling == QKV_ROPE_LLAMA3) {
        double kept = kept_share(s, pair, mantissa, exponent);
        mantissa = turns_of(log + fixed_log2(kept + (1 - kept) / d->factor), &exponent);
    }
    return turn_fraction(mantissa, exponent);
}

static bool is_usable(double x) {
    return x >= 0x1p-64 && x <= 0x1p64;
}

static qkv_status validate_table(const qkv_rope_table_desc *d) {
    if (d->num_positions < 0 || d->rotary_dim < 0 || d->original_positions < 0)
        return QKV_ERROR_NEGATIVE;
    if (d->rotary_dim % 2 != 0)
        return QKV_ERROR_SHAPE;
    if (d->scaling > QKV_ROPE_LLAMA3 || d->untruncated > 1)
        return QKV_ERROR_FLAGS;
    if (!is_usable(d->base) || !is_usable(d->factor) || !is_usable(d->attention_factor) || !is_usable(d->beta_fast) ||
        !is_usable(d->beta_slow) || !is_usable(d->low_freq_factor) || !is_usable(d->high_freq_factor))
        return QKV_ERROR_VALUE;
    bool by_context = d->scaling == QKV_ROPE_YARN || d->scaling == QKV_ROPE_LLAMA3;
    if ((by_context && d->original_positions == 0) || (d->scaling == QKV_ROPE_YARN && !(d->base > 1)) ||
        !(d->low_freq_factor < d->high_freq_factor))
        return QKV_ERROR_VALUE;
    int64_t floats[2] = {d->num_positions, d->rotary_dim}, unused;
    bool fits = qkv_product(floats, 2, PTRDIFF_MAX / (int64_t)sizeof(float), &unused);
    return fits && d->rotary_dim <= INT64_C(1) << 31 ? QKV_OK : QKV_ERROR_OVERFLOW;
}

static void set_default(double *x, double value) {
    if (*x == 0)
        *x = value;
}

static qkv_status check_pair_factors(const qkv_rope_table_desc *d) {
    for (int64_t i = 0; d->pair_factors && i < d->rotary_dim / 2; i++) {
        if (!is_usable((double)d->pair_factors[i]))
            return QKV_ERROR_VALUE;
    }
    return QKV_OK;
}

qkv_status qkv_rope_table(const qkv_rope_table_desc *desc, float *cos, float *sin) {
    qkv_rope_table_desc d;
    qkv_problem unused = {0};
    qkv_status status = qkv_import(&d, sizeof d, desc, &unused);
    if (status != QKV_OK)
        return status;
    rope_scaling s = {.desc = &d};
    set_default(&d.base, 10000);
    set_default(&d.factor, 1);
    set_default(&d.beta_fast, 32);
    set_default(&d.beta_slow, 1);
    set_default(&d.low_freq_factor, 1);
    set_default(&d.high_freq_factor, 4);
    bool yarn = d.scaling == QKV_ROPE_YARN && d.factor > 1 && is_usable(d.factor);
    const double ten_over_ln_2 = 0x1.cda993e7663bep+3;
    set_default(&d.attention_factor, yarn ? 1 + (double)fixed_log2(d.factor) * 0x1p-55 / ten_over_ln_2 : 1);
    status = validate_table(&d);
    if (status != QKV_OK || d.num_positions == 0 || d.rotary_dim == 0)
        return status;
    if (!cos || !sin)
        return QKV_ERROR_NULL;
    if (cos == sin)
        return QKV_ERROR_ALIAS;
    status = check_pair_factors(&d);
    if (status != QKV_OK)
        return status;
    s.log_base = fixed_log2(d.base);
    s.log_factor = fixed_log2(d.factor);
    if (d.scaling == QKV_ROPE_YARN)
        find_mixed_pairs(&s);
    int64_t pairs = d.rotary_dim / 2;
    for (int64_t pair = 0; pair < pairs; pair++) {
        uint64_t step = step_of_pair(&s, pair), turn = step * (uint64_t)d.first_position;
        for (int64_t t = 0; t < d.num_positions; t++, turn += step)
            cosine_and_sine(turn, d.attention_factor, &cos[t * pairs + pair], &sin[t * pairs + pair]);
    }
    return QKV_OK;
}

#endif
