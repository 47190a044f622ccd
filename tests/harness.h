/* What every test program of qkv stands on: random numbers, guarded memory, the list of kernel sets, comparison of
 * words, threads, and a main program around cmocka.
 * A program registers its tests, then runs them:
 *
 *     static void test_gemm(const qt_set *set) { …  set->kernels->gemm(…)  or  qkv_attention_plan(&set->ctx, …) … }
 *     static void test_status(void) { … }
 *
 *     int main(int argc, char **argv)
 *     {
 *         qt_init(argc, argv);
 *         qt_each_set("gemm", test_gemm);    // gemm/avx512, gemm/avx2, gemm/ref: those this machine can run
 *         qt_once("status", test_status);
 *         return qt_run();
 *     }
 *
 * Command line: ./test_x [--isa NAME] [--seed N] [--case N] [--quick] [--qemu] [--list] [FILTER]; FILTER is a cmocka
 * pattern such as 'gemm/avx2' or 'gemm*'. By environment: QKV_ISA, QKV_SEED, QKV_CASE (only that case of a test),
 * QKV_QUICK=1 or QKV_QEMU=1 (a slow machine: sanitizers, an emulated CPU; see qt_quick).
 *
 * A test draws its cases one by one; whatever fails, a fault at a guard page included, names the test, the kernel set,
 * the case as qt_describe put it, and one line that runs that case alone:
 *
 *     for (uint64_t i = 0; i < 2000; i++) {
 *         qt_rng rng;
 *         if (!qt_case(i, &rng))
 *             continue;
 *         size_t n = (size_t)qt_range(&rng, 0, 300);
 *         int place = qt_place(&rng);
 *         qt_describe("n=%zu place=%d", n, place);
 *         float *x = qt_floats(n, place), *y = qt_floats(n, place);
 *         qt_fill(&rng, x, n, QT_NORMAL);
 *         qt_read_only(x);
 *         …run…
 *         qt_expect_words("y", want, y, n, 0);
 *     } // memory is checked and given back by the next qt_case
 *
 * All of it is for the main thread: a task that qt_parallel_for runs writes down what is wrong and does not fail.
 * tests/bare is for targets without cmocka and POSIX.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_HARNESS_H
#define QKV_TESTS_HARNESS_H

#ifndef __wasm__ /* has none; nor does the cmocka.h of tests/bare want it */
#include <setjmp.h>
#endif
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "qkv.h"

#include "kernels/kernels.h"

/* ------------------------------------------------------------------------------------------------ random numbers */

/* Counter-based: number i of a stream is a function of (seed, i). Copying an rng copies the stream. The numbers are the
 * same on every machine, and so are the cases if no expression draws twice: C does not order a call's arguments. */
typedef struct qt_rng {
    uint64_t seed, counter;
} qt_rng;

/* The stream of a name: the seed of this run (QKV_SEED, printed at the start) xor a hash of the name. qt_case gives
 * each case a stream of its own, which is what most tests want. */
qt_rng qt_stream(const char *name);

uint64_t qt_u64(qt_rng *rng);
int64_t qt_range(qt_rng *rng, int64_t low, int64_t high); /* low … high, both included */
bool qt_chance(qt_rng *rng, int percent);
float qt_uniform(qt_rng *rng, float low, float high);
float qt_normal(qt_rng *rng); /* mean 0, deviation 1, within ±5 */

/* One of the floats that break code: ±0, subnormals, ±FLT_MIN, ±FLT_MAX, powers of two and their neighbours, any bit
 * pattern; qt_nasty also gives ±inf and NaNs of both signs, quiet and signalling, with payloads. */
float qt_nasty(qt_rng *rng);
float qt_nasty_finite(qt_rng *rng);

typedef enum qt_kind {
    QT_NORMAL,    /* qt_normal */
    QT_INTEGER,   /* −8 … 8: sums and products are exact */
    QT_WIDE,      /* finite, exponents −40 … 40 */
    QT_SUBNORMAL, /* from FLT_MIN·4 down, both signs, zeros */
    QT_HUGE,      /* within a factor 2²⁴ of FLT_MAX: sums and products overflow */
    QT_NASTY_FINITE,
    QT_NASTY,
    QT_SPRINKLED, /* qt_normal with every 16th or so qt_nasty */
    QT_NUM_KINDS
} qt_kind;

const char *qt_kind_name(qt_kind kind);
float qt_draw(qt_rng *rng, qt_kind kind);
void qt_fill(qt_rng *rng, float *x, size_t n, qt_kind kind);

uint32_t qt_bits(float x);
float qt_from_bits(uint32_t bits);

/* ------------------------------------------------------------------------------------------------ guarded memory */

/* Every allocation lies between two inaccessible pages, so that a read or write beyond the end it touches is a fault.
 * `place` says which end that is:
 *
 *     QT_TAIL      the last byte lies against the page behind (as far as the alignment allows)
 *     QT_HEAD      the first byte lies against the page before
 *     QT_HEAD + n  n floats after that page, which gives any misalignment (n is dropped where align > 4)
 *
 * What is left of the pages is filled with poison and checked by qt_check_memory: the other end is guarded against
 * writes that way. Run each case with both ends to guard it against reads as well.
 *
 * The memory itself starts as poison too: words 0xffe5a5a5, a NaN. Allocations live until qt_free_all, which qt_case
 * and the end of a test call; 0 bytes give a pointer that may not be touched at all. */
#define QT_TAIL (-1)
#define QT_HEAD 0
#define QT_POISON UINT32_C(0xffe5a5a5)

int qt_place(qt_rng *rng);                             /* a random one: half of them QT_TAIL */
void *qt_alloc(size_t bytes, size_t align, int place); /* align: a power of two up to 4096 */
float *qt_floats(size_t n, int place);                 /* qt_alloc(4·n, 4, place) */
float *qt_tile(size_t rows, size_t ld, int place);     /* a scratch tile: 64-byte aligned; see QKV_LANES */

/* Memory between guard pages that is neither poisoned nor checked and takes no room until it is written, for tensors
 * of gigabytes. All zero. NULL where the machine refuses. */
void *qt_sparse(size_t bytes);

/* Writing to this allocation (p is what qt_alloc returned) is a fault from now on; for inputs. */
void qt_read_only(const void *p);
void qt_read_write(const void *p);

/* Fills the allocation with poison again. */
void qt_poison(void *p);

/* Fails unless all poison around every allocation is intact. qt_free_all checks, then frees; qt_drop_all only frees. */
void qt_check_memory(void);
void qt_free_all(void);
void qt_drop_all(void);

/* The elements of a strided tensor in an allocation: element (i0, i1, …) is base + Σ i·stride, counted in elements. */
#define QT_MAX_RANK 5
typedef struct qt_view {
    const void *base;
    size_t element; /* bytes */
    int rank;
    int64_t size[QT_MAX_RANK], stride[QT_MAX_RANK];
} qt_view;

qt_view qt_view_rows(const float *base, size_t rows, size_t cols, ptrdiff_t ld);
qt_view qt_view_output(const qkv_output *out, int64_t batch, int64_t heads, int64_t tokens, int64_t channels);

/* Fails unless every byte of the allocation that holds view->base is poison, except the view's own elements; says
 * where the first other one is. An empty view: the whole allocation `p`. */
void qt_expect_gaps(const char *what, const qt_view *view);
void qt_expect_untouched(const char *what, const void *p);

/* --------------------------------------------------------------------------------------------------- kernel sets */

typedef struct qt_set {
    const char *name;
    const qkv_kernels *kernels; /* the table itself */
    qkv_ctx ctx;                /* a context that runs this set */
} qt_set;

/* The sets this machine can run and --isa allows, the fastest first. */
size_t qt_num_sets(void);
const qt_set *qt_get_set(size_t index);
const qt_set *qt_find_set(const char *name); /* NULL: not here */

/* Whether the CPU is emulated (QKV_QEMU=1), and whether the machine is slow (that, or QKV_QUICK=1): tests then draw
 * fewer cases, and those over whole ranges of floats take a stride that they print. */
bool qt_emulated(void);
bool qt_quick(void);

/* ------------------------------------------------------------------------------------------- cases and failures */

/* Begins case `index` of the running test: checks and frees the memory of the one before, and gives it its stream.
 * False: QKV_CASE asks for another one. rng may be NULL. */
bool qt_case(uint64_t index, qt_rng *rng);

/* Says what the case is; printed when it fails. */
void qt_describe(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Fails the test with a message, the case and the line to run it again. Does not return. */
void qt_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#define QT_EXPECT(condition, ...)                                                                                      \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            qt_fail(__VA_ARGS__);                                                                                      \
    } while (0)

/* Ends the test as skipped; the reason is printed and counted in the closing lines. Does not return. */
void qt_skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* A line of result, such as a worst error, under the name of the running test. */
void qt_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Adds to the number of compared words in the closing lines; the qt_expect_… functions do so themselves. */
void qt_count_words(uint64_t n);

/* ----------------------------------------------------------------------------------------------------- comparing */

#define QT_ANY_ZERO 1u /* −0 equals +0: only where kernels.h says that the sign of a zero is not fixed */

/* Equal words after mapping every NaN to one. */
bool qt_same(float want, float got, unsigned flags);

/* Fail at the first element that differs, with its position and both values. */
void qt_expect_words(const char *what, const float *want, const float *got, size_t n, unsigned flags);
void qt_expect_rows(const char *what, const float *want, ptrdiff_t ld_want, const float *got, ptrdiff_t ld_got,
                    size_t rows, size_t cols, unsigned flags);

/* The same bytes, payloads of NaNs included. */
void qt_expect_bytes(const char *what, const void *want, const void *got, size_t bytes);

/* ------------------------------------------------------------------------------------------------------- threads */

/* A qkv_parallel_for over `threads` POSIX threads (1: the calling one). shuffle ≠ 0: tasks are taken in a random order
 * drawn from it. Thread i is worker i, so that threads must not be above the plan's max_workers. pool: a qt_pool *. */
typedef struct qt_pool {
    int32_t threads;
    uint64_t shuffle;
} qt_pool;

void qt_parallel_for(void *pool, int64_t num_tasks, qkv_task task, void *arg);
int qt_num_processors(void);

/* ----------------------------------------------------------------------------------------------------- processes */

typedef enum qt_outcome {
    QT_PASSED, /* returned */
    QT_FAILED, /* called qt_fail, or failed a cmocka assertion */
    QT_FAULT,  /* SIGSEGV or SIGBUS */
    QT_OTHER   /* anything else */
} qt_outcome;

/* Runs body(arg) in a child process and says how it ended; its output is dropped. */
qt_outcome qt_in_child(void (*body)(void *arg), void *arg);

/* -------------------------------------------------------------------------------------------------- main program */

void qt_init(int argc, char **argv);
/* One test per set, called name/set; and also one for each that differs from another only in products in 8 bits and
 * bfloat16 (as "avxvnni" does from "avx2"), for tests of these; or only for those of them that attention uses. A set
 * asked for by name is always tested. */
void qt_each_set(const char *name, void (*test)(const qt_set *set));
void qt_each_set_and_variant(const char *name, void (*test)(const qt_set *set));
void qt_each_set_of_attention(const char *name, void (*test)(const qt_set *set));
void qt_once(const char *name, void (*test)(void));
int qt_run(void); /* the exit status of the program */

#endif
