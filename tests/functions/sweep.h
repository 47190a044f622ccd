/* A function over every float of its range: the scalar definition against libm in double, and every kernel set against
 * the definition, word by word.
 *
 * The definition is src/ref/scalar.h compiled with the fma instruction where the CPU has one; test_fma shows that this
 * is the same as the emulation in the reference, which is too slow to run over everything and is run over every 128th
 * float here, as the function in double is over every 8th. QKV_QUICK=1 takes every 127th float and all those near
 * powers of two.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_SWEEP_H
#define QKV_TESTS_SWEEP_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#if QKV_X86_64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("fma")
#endif
#define QKV_HAVE_FMA 1
#endif

#include "ref/scalar.h"

/* The including file says which function of scalar.h it sweeps. */
static void definition(float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] = SWEPT_FUNCTION(x[i]);
}

#if QKV_X86_64
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#define QT_CHUNK 16384
#define QT_REF_STRIDE 128
#define QT_ORACLE_STRIDE 8
#define QT_QUICK_STRIDE 127
#define QT_MAX_THREADS 2

typedef struct function {
    void (*definition)(float *x, size_t n);
    void (*(*entry)(const qkv_kernels *k))(float *x, size_t n); /* of a kernel set */
    double (*oracle)(double x);                                 /* NULL: no errors are measured in this sweep */
    bool mirrored;                                              /* f(−x) = −f(x): the sets are run on −x too */
    double limit;                                               /* of the error in ulp; 0: it is 1 */
} function;

/* What a worker found: its worst error, and the first wrong word. */
typedef struct finding {
    double worst;
    float worst_at;
    bool wrong;
    const char *wrong_set;
    float at, want, got;
    uint64_t words;
} finding;

typedef struct sweep {
    const function *f;
    uint32_t first, stride;
    uint64_t count;
    bool has_fma; /* else the definition is left to the reference's emulation */
    finding found[QT_MAX_THREADS];
    float buffer[QT_MAX_THREADS][3][QT_CHUNK];
} sweep;

/* |f − exact| in units of the last place that a float of exact's size has; subnormals all have the same. */
static inline double ulps(float f, double exact) {
    uint64_t bits;
    memcpy(&bits, &exact, sizeof bits);
    int64_t exponent = (int64_t)(bits >> 52 & 0x7ff) - 1023;
    uint64_t inverse = (uint64_t)(23 - (exponent < -126 ? -126 : exponent) + 1023) << 52;
    double scale;
    memcpy(&scale, &inverse, sizeof scale);
    return fabs((double)f - exact) * scale;
}

static inline uint32_t word(const float *x) {
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    return bits;
}

/* Whether all words are the same, those of NaNs too: a loop that compilers turn into vectors. */
static inline bool all_same(const float *want, const float *got, size_t n, size_t step, bool negated) {
    uint32_t sign = negated ? UINT32_C(0x80000000) : 0, difference = 0;
    for (size_t i = 0; i < n; i++)
        difference |= word(&want[i * step]) ^ sign ^ word(&got[i]);
    return difference == 0;
}

static inline void expect_chunk(finding *found, const char *set, const float *x, const float *want, const float *got,
                                size_t n, size_t step, bool negated) {
    found->words += n;
    if (all_same(want, got, n, step, negated))
        return;
    for (size_t i = 0; i < n; i++) {
        float w = negated ? -want[i * step] : want[i * step];
        if (!found->wrong && !qt_same(w, got[i], 0)) {
            float at = negated ? -x[i * step] : x[i * step];
            *found = (finding){.wrong = true, .wrong_set = set, .at = at, .want = w, .got = got[i]};
        }
    }
}

/* The function by one set, on every step-th x of the chunk, or on −x. */
static inline void run_set(finding *found, const char *set, void (*run)(float *, size_t), const float *x,
                           const float *want, float *y, size_t n, size_t offset, size_t step, bool negated) {
    size_t m = offset < n ? (n - offset + step - 1) / step : 0;
    for (size_t i = 0; i < m; i++)
        y[i] = negated ? -x[offset + i * step] : x[offset + i * step];
    run(y, m);
    expect_chunk(found, set, x + offset, want + offset, y, m, step, negated);
}

static void sweep_chunk(void *arg, int64_t index, int32_t worker) {
    sweep *s = arg;
    finding *found = &s->found[worker];
    float *x = s->buffer[worker][0], *want = s->buffer[worker][1], *y = s->buffer[worker][2];
    uint64_t begin = (uint64_t)index * QT_CHUNK;
    size_t n = s->count - begin < QT_CHUNK ? (size_t)(s->count - begin) : QT_CHUNK;
    for (size_t i = 0; i < n; i++)
        x[i] = qt_from_bits(s->first + (uint32_t)(begin + i) * s->stride);
    memcpy(want, x, n * sizeof *x);
    (s->has_fma || s->f->definition != definition ? s->f->definition : s->f->entry(&qkv_kernels_ref))(want, n);

    size_t every = s->stride == 1 && n == QT_CHUNK ? QT_ORACLE_STRIDE : 1;
    if (s->f->oracle != NULL)
        for (size_t i = (size_t)index % every; i < n; i += every) {
            double error = ulps(want[i], s->f->oracle((double)x[i]));
            if (!(error <= found->worst)) {
                found->worst = error;
                found->worst_at = x[i];
            }
        }
    for (size_t set = 0; set < qt_num_sets(); set++) {
        const qkv_kernels *k = qt_get_set(set)->kernels;
        bool plain = k->needs == 0; /* C for any CPU: the reference, and the same functions of it in loops */
        size_t step = plain && s->stride == 1 && n == QT_CHUNK ? QT_REF_STRIDE : 1;
        size_t offset = (size_t)index % step; /* another one of each 128 in the next chunk */
        for (int negated = 0; negated <= (s->f->mirrored ? 1 : 0); negated++)
            run_set(found, k->name, s->f->entry(k), x, want, y, n, offset, step, negated != 0);
    }
}

static void sweep_bits(sweep *s, double *worst, float *worst_at) {
    qt_pool pool = {.threads = s->count > QT_CHUNK && qt_num_processors() > 1 ? QT_MAX_THREADS : 1};
    memset(s->found, 0, sizeof s->found);
    qt_parallel_for(&pool, (int64_t)((s->count + QT_CHUNK - 1) / QT_CHUNK), sweep_chunk, s);
    for (int32_t i = 0; i < pool.threads; i++) {
        const finding *f = &s->found[i];
        QT_EXPECT(!f->wrong, "%s at %a (%08x): the definition gives %a (%08x), the set %a (%08x)", f->wrong_set,
                  (double)f->at, qt_bits(f->at), (double)f->want, qt_bits(f->want), (double)f->got, qt_bits(f->got));
        qt_count_words(f->words);
        if (!(f->worst <= *worst)) {
            *worst = f->worst;
            *worst_at = f->worst_at;
        }
    }
}

/* Runs f over the floats of the bit patterns first … last, and says what the worst error is. Fails where it is above
 * the limit, or a set's word is not the definition's. */
static inline void sweep_range(const char *what, const function *f, uint32_t first, uint32_t last) {
    double worst = 0;
    float worst_at = 0;
    sweep *s = malloc(sizeof *s);
    const qt_set *any = qt_get_set(0);
    *s = (sweep){.f = f, .first = first, .stride = qt_quick() ? QT_QUICK_STRIDE : 1};
    s->has_fma = !QKV_X86_64 || (any->ctx.features & QKV_CPU_FMA) != 0;
    s->count = ((uint64_t)last - first) / s->stride + 1;
    sweep_bits(s, &worst, &worst_at);
    uint64_t floats = s->count;
    if (s->stride > 1)
        for (uint64_t middle = first & 0xff800000; middle <= (uint64_t)last + 64; middle += 0x00400000) {
            uint64_t low = middle < (uint64_t)first + 64 ? first : middle - 64;
            uint64_t high = middle + 64 > last ? last : middle + 64;
            s->first = (uint32_t)low;
            s->stride = 1;
            s->count = high >= low ? high - low + 1 : 0;
            sweep_bits(s, &worst, &worst_at);
            floats += s->count;
        }
    free(s);
    if (f->oracle != NULL)
        qt_note("%s: %llu of %llu floats, worst error %.4f ulp at %a", what, (unsigned long long)floats,
                (unsigned long long)last - first + 1, worst, (double)worst_at);
    else
        qt_note("%s: %llu of %llu floats, the same words", what, (unsigned long long)floats,
                (unsigned long long)last - first + 1);
    QT_EXPECT(worst <= (f->limit > 0 ? f->limit : 1), "%s: error of %g ulp at %a", what, worst, (double)worst_at);
}

/* A NaN stays what it is, every one of them. */
static void keep(float *x, size_t n) {
    (void)x, (void)n;
}

static inline void sweep_nan(void (*(*entry)(const qkv_kernels *k))(float *, size_t)) {
    const function stays = {.definition = keep, .entry = entry};
    sweep_range("NaN", &stays, 0x7f800001, 0x7fffffff);
    sweep_range("-NaN", &stays, 0xff800001, 0xffffffff);
}

/* The value that every set must give at one float, in every lane, NaNs apart. */
static inline void expect_at(void (*(*entry)(const qkv_kernels *k))(float *, size_t), float x, float want) {
    for (size_t set = 0; set < qt_num_sets(); set++) {
        const qkv_kernels *k = qt_get_set(set)->kernels;
        float y[QKV_LANES];
        for (int i = 0; i < QKV_LANES; i++)
            y[i] = x;
        entry(k)(y, QKV_LANES);
        for (int i = 0; i < QKV_LANES; i++)
            QT_EXPECT(qt_same(want, y[i], 0), "%s at %a: want %a, got %a", k->name, (double)x, (double)want,
                      (double)y[i]);
        qt_count_words(QKV_LANES);
    }
}

#endif
