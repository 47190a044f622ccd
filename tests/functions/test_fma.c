/* The fma of the reference, emulated in double, against the instruction, and that of every kernel set against it:
 * random words, and cases built where a rounding is decided by the last bit: ties, subnormal results, cancellation,
 * sums that double would round twice.
 *
 * SPDX-License-Identifier: MIT */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ref/scalar.h"

/* The instruction over arrays. The file is built without it, so that qkv_fma_soft is what a CPU without fma runs. */
#if QKV_X86_64
#define HAVE_INSTRUCTION 1
__attribute__((target("fma")))
#elif defined(__aarch64__)
#define HAVE_INSTRUCTION 1
#else
#define HAVE_INSTRUCTION 0
#endif
static void
fma_instruction(float *y, const float *a, const float *b, const float *c, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = __builtin_fmaf(a[i], b[i], c[i]);
}

enum { CHUNK = 4096, THREADS = 2 };

typedef void (*generator)(qt_rng *rng, float *a, float *b, float *c);

typedef struct search {
    generator draw;
    uint64_t seed;
    struct {
        bool wrong;
        float a, b, c, want, got;
    } found[THREADS];
    float buffer[THREADS][4][CHUNK];
} search;

static float with_exponent(qt_rng *rng, int exponent) {
    uint32_t bits = (uint32_t)(qt_u64(rng) >> 32);
    return ldexpf(qt_from_bits((bits & 0x807fffff) | 0x3f800000), exponent);
}

static void draw_words(qt_rng *rng, float *a, float *b, float *c) {
    uint64_t x = qt_u64(rng);
    *a = qt_from_bits((uint32_t)x);
    *b = qt_from_bits((uint32_t)(x >> 32));
    *c = qt_from_bits((uint32_t)qt_u64(rng));
}

/* Product and addend of similar size: bits cancel and carry. */
static void draw_near(qt_rng *rng, float *a, float *b, float *c) {
    int ea = (int)qt_range(rng, -60, 60), eb = (int)qt_range(rng, -60, 60);
    *a = with_exponent(rng, ea);
    *b = with_exponent(rng, eb);
    *c = with_exponent(rng, ea + eb + (int)qt_range(rng, -30, 30));
}

/* c is minus the rounded product, or one of its neighbours: nothing is left but the product's low bits. */
static void draw_cancelling(qt_rng *rng, float *a, float *b, float *c) {
    *a = with_exponent(rng, (int)qt_range(rng, -60, 40));
    *b = with_exponent(rng, (int)qt_range(rng, -60, 40));
    volatile float product = *a * *b;
    *c = -qt_from_bits(qt_bits(product) + (uint32_t)qt_range(rng, -1, 1));
}

/* a·b is an odd number of half units in the last place of c: the exact sum lies on a tie, or c's exponent changes. */
static void draw_tie(qt_rng *rng, float *a, float *b, float *c) {
    int e = (int)qt_range(rng, -60, 60), split = (int)qt_range(rng, -30, 30);
    *a = ldexpf((float)(2 * qt_range(rng, -32, 31) + 1), split);
    *b = ldexpf((float)(2 * qt_range(rng, -32, 31) + 1), e - 1 - split);
    *c = ldexpf((float)qt_range(rng, 1 << 23, (1 << 24) - 1), e);
    if (qt_chance(rng, 20))
        *c = ldexpf(1, e + 24); /* below it the units are half as large */
}

/* a·b = ±2^e·(1 − i²·2^−46): next to a power of two, where a float or a double would already be on it. */
static void draw_hair_off(qt_rng *rng, int e, int split, float *a, float *b) {
    float i = (float)qt_range(rng, 0, 5), unit = 0x1p-23f;
    *a = ldexpf(1 + i * unit, split) * (qt_chance(rng, 50) ? 1.0f : -1.0f);
    *b = ldexpf(1 - i * unit, e - split);
}

/* A half-way case of float that is decided behind the 53 bits of a double: rounded to double it lands on the tie. */
static void draw_double_rounding(qt_rng *rng, float *a, float *b, float *c) {
    int e = (int)qt_range(rng, -60, 60);
    draw_hair_off(rng, e - 1, (int)qt_range(rng, -30, 30), a, b);
    *c = ldexpf((float)qt_range(rng, 1 << 23, (1 << 24) - 1), e);
    if (qt_chance(rng, 50))
        *c = -*c;
}

/* Results around and below FLT_MIN: the rounding place is fixed there. */
static void draw_subnormal(qt_rng *rng, float *a, float *b, float *c) {
    int ea = (int)qt_range(rng, -120, 0);
    *a = with_exponent(rng, ea);
    *b = with_exponent(rng, (int)qt_range(rng, -152, -122) - ea);
    *c = qt_draw(rng, QT_SUBNORMAL);
    if (qt_chance(rng, 30))
        *c = -*a * *b;
    if (qt_chance(rng, 10))
        *c = with_exponent(rng, (int)qt_range(rng, -127, -120));
    if (qt_chance(rng, 30)) { /* again behind the bits of a double */
        draw_hair_off(rng, -150, (int)qt_range(rng, -120, -30), a, b);
        *c = ldexpf((float)qt_range(rng, -(1 << 23), 1 << 23), -149);
    }
}

/* Around the largest float. */
static void draw_overflow(qt_rng *rng, float *a, float *b, float *c) {
    int ea = (int)qt_range(rng, 0, 127);
    *a = with_exponent(rng, ea);
    *b = with_exponent(rng, (int)qt_range(rng, 125, 128) - ea);
    *c = qt_chance(rng, 50) ? qt_draw(rng, QT_HUGE) : with_exponent(rng, (int)qt_range(rng, 100, 127));
    if (qt_chance(rng, 20))
        *c = qt_chance(rng, 50) ? FLT_MAX : -FLT_MAX;
}

static void draw_nasty(qt_rng *rng, float *a, float *b, float *c) {
    *a = qt_nasty(rng);
    *b = qt_nasty(rng);
    *c = qt_nasty(rng);
}

static void search_chunk(void *arg, int64_t index, int32_t worker) {
    search *s = arg;
    float *a = s->buffer[worker][0], *b = s->buffer[worker][1], *c = s->buffer[worker][2];
    float *want = s->buffer[worker][3];
    qt_rng rng = {s->seed + (uint64_t)index, 0};
    for (size_t i = 0; i < CHUNK; i++)
        s->draw(&rng, &a[i], &b[i], &c[i]);
    fma_instruction(want, a, b, c, CHUNK);
    for (size_t i = 0; i < CHUNK && !s->found[worker].wrong; i++) {
        float got = qkv_fma_soft(a[i], b[i], c[i]);
        if (!qt_same(want[i], got, 0)) {
            s->found[worker].wrong = true;
            s->found[worker].a = a[i], s->found[worker].b = b[i], s->found[worker].c = c[i];
            s->found[worker].want = want[i], s->found[worker].got = got;
        }
    }
}

static void compare(const char *name, generator draw, int64_t millions) {
    if (!HAVE_INSTRUCTION || (QKV_X86_64 && (qt_get_set(0)->ctx.features & QKV_CPU_FMA) == 0))
        qt_skip("this CPU has no fma instruction");
    int64_t chunks = millions * 1000000 / (qt_quick() ? 20 : 1) / CHUNK + 1;
    search *s = calloc(1, sizeof *s);
    s->draw = draw;
    s->seed = qt_stream(name).seed;
    qt_parallel_for(&(qt_pool){.threads = THREADS}, chunks, search_chunk, s);
    for (int i = 0; i < THREADS; i++)
        QT_EXPECT(!s->found[i].wrong, "fma(%a, %a, %a): the instruction gives %a, the emulation %a",
                  (double)s->found[i].a, (double)s->found[i].b, (double)s->found[i].c, (double)s->found[i].want,
                  (double)s->found[i].got);
    free(s);
    qt_count_words((uint64_t)chunks * CHUNK);
}

static void test_words(void) {
    compare("words", draw_words, 20);
}
static void test_near(void) {
    compare("near", draw_near, 20);
}
static void test_cancelling(void) {
    compare("cancelling", draw_cancelling, 10);
}
static void test_tie(void) {
    compare("tie", draw_tie, 20);
}
static void test_double_rounding(void) {
    compare("double_rounding", draw_double_rounding, 10);
}
static void test_subnormal(void) {
    compare("subnormal", draw_subnormal, 20);
}
static void test_overflow(void) {
    compare("overflow", draw_overflow, 5);
}
static void test_nasty(void) {
    compare("nasty", draw_nasty, 10);
}

/* The fma of a set, or what it has in place of it, in each of 16 lanes: row_dots of c·1 + a·b in one lane, the others
 * being +0. */
static void test_of_set(const qt_set *set) {
    static const struct {
        const char *name;
        generator draw;
    } all[] = {{"words", draw_words},
               {"near", draw_near},
               {"cancelling", draw_cancelling},
               {"tie", draw_tie},
               {"double_rounding", draw_double_rounding},
               {"subnormal", draw_subnormal},
               {"overflow", draw_overflow},
               {"nasty", draw_nasty}};
    enum { ROWS = 32, TERMS = 2 * QKV_LANES };
    float x[ROWS * TERMS], y[ROWS * TERMS], got[ROWS];
    for (size_t g = 0; g < sizeof all / sizeof *all; g++) {
        qt_rng rng = qt_stream(all[g].name);
        for (int block = 0; block < (qt_emulated() ? 300 : qt_quick() ? 2000 : 20000); block++) {
            memset(x, 0, sizeof x);
            memset(y, 0, sizeof y);
            for (int i = 0; i < ROWS; i++) {
                float *of_x = x + i * TERMS + i % QKV_LANES, *of_y = y + i * TERMS + i % QKV_LANES;
                all[g].draw(&rng, of_x + QKV_LANES, of_y + QKV_LANES, of_x);
                *of_y = 1;
            }
            set->kernels->row_dots(got, x, TERMS, y, TERMS, ROWS, TERMS);
            for (int i = 0; i < ROWS; i++) {
                const float a = x[i * TERMS + QKV_LANES + i % QKV_LANES], b = y[i * TERMS + QKV_LANES + i % QKV_LANES];
                const float c = x[i * TERMS + i % QKV_LANES], want = qkv_fma_soft(a, b, c);
                QT_EXPECT(qt_same(want, got[i], QT_ANY_ZERO), "%s: fma(%a, %a, %a): want %a, got %a", all[g].name,
                          (double)a, (double)b, (double)c, (double)want, (double)got[i]);
            }
            qt_count_words(ROWS);
        }
    }
}

static bool is_tie(float a, float b, float c) {
    double sum = (double)a * b + c;
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return (bits & 0x1fffffff) == 0x10000000;
}

static bool is_rounded_twice(float a, float b, float c) {
    return !qt_same((float)((double)a * b + c), qkv_fma_soft(a, b, c), 0);
}

/* The cases must be hard: many on a tie, and many that plain double arithmetic, rounding twice, gets wrong. */
static void test_cases_are_hard(void) {
    static const struct {
        const char *name;
        generator draw;
        bool (*is_hard)(float, float, float);
    } all[] = {{"tie", draw_tie, is_tie},
               {"double_rounding", draw_double_rounding, is_rounded_twice},
               {"subnormal", draw_subnormal, is_rounded_twice}};
    for (size_t g = 0; g < 3; g++) {
        qt_rng rng = qt_stream(all[g].name);
        int hard = 0;
        for (int i = 0; i < 1000000; i++) {
            float a, b, c;
            all[g].draw(&rng, &a, &b, &c);
            hard += all[g].is_hard(a, b, c);
        }
        qt_note("%s: %d of 1000000 cases are hard", all[g].name, hard);
        QT_EXPECT(hard >= 1000, "%s: the cases are too easy", all[g].name);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("fma", test_of_set);
    qt_once("fma_words", test_words);
    qt_once("fma_near", test_near);
    qt_once("fma_cancelling", test_cancelling);
    qt_once("fma_tie", test_tie);
    qt_once("fma_double_rounding", test_double_rounding);
    qt_once("fma_subnormal", test_subnormal);
    qt_once("fma_overflow", test_overflow);
    qt_once("fma_nasty", test_nasty);
    qt_once("fma_cases_are_hard", test_cases_are_hard);
    return qt_run();
}
