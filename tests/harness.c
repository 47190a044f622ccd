/* The main program, kernel sets, cases and comparisons of the test harness.  SPDX-License-Identifier: MIT */
#include "harness_host.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SEED UINT64_C(0x51ab1e5eed)
#define MAX_SETS 10
#define MAX_TESTS 512
#define MAX_SKIPS 64
#define EXIT_SKIPPED 77 /* what CTest counts as skipped: SKIP_RETURN_CODE */

typedef struct test {
    char name[96];
    void (*per_set)(const qt_set *set);
    void (*once)(void);
    const qt_set *set;
} test;

static struct {
    const char *program, *filter, *isa;
    uint64_t seed;
    bool list_only, only_case, emulated, quick;
    uint64_t wanted_case;

    qt_set sets[MAX_SETS];
    size_t num_sets;
    char left_out[1024]; /* sets not tested, each with its reason */
    int num_left_out;

    test tests[MAX_TESTS];
    struct CMUnitTest units[MAX_TESTS];
    size_t num_tests;

    const test *running;
    bool finished, in_child;
    bool has_case;
    uint64_t case_index;
    char description[1024];

    uint64_t num_cases, num_words, num_run;
    char skips[MAX_SKIPS][272];
    int num_skips;
} qt;

/* --------------------------------------------------------------------------------------------------- kernel sets */

static void leave_out(const char *name, const char *reason) {
    size_t used = strlen(qt.left_out);
    snprintf(qt.left_out + used, sizeof qt.left_out - used, "%s%s (%s)", used > 0 ? ", " : "", name, reason);
    qt.num_left_out++;
}

static void find_sets(void) {
    qkv_ctx best;
    if (qkv_init(&best, NULL) != QKV_OK) {
        fprintf(stderr, "%s: qkv_init failed\n", qt.program);
        exit(1);
    }
    bool known = qt.isa == NULL;
    for (int32_t i = 0; i < qkv_num_kernel_sets() && qt.num_sets < MAX_SETS; i++) {
        qkv_kernel_set info;
        qkv_kernel_set_query(&best, i, &info);
        bool wanted = qt.isa == NULL || strcmp(qt.isa, info.name) == 0;
        known |= wanted;
        if (!wanted) {
            leave_out(info.name, "not asked for");
        } else if (!info.available) {
            leave_out(info.name, info.reason);
        } else {
            qt_set *set = &qt.sets[qt.num_sets];
            qkv_status status = qkv_init(&set->ctx, &(qkv_config){.size = sizeof(qkv_config), .isa = info.name});
            if (status != QKV_OK) {
                fprintf(stderr, "%s: %s: available, but %s\n", qt.program, info.name, qkv_status_string(status));
                exit(1);
            }
            set->name = info.name;
            set->kernels = set->ctx.kernels;
            qt.num_sets++;
        }
    }
    if (!known) {
        fprintf(stderr, "%s: no kernel set is called %s\n", qt.program, qt.isa);
        exit(1);
    }
}

size_t qt_num_sets(void) {
    return qt.num_sets;
}

const qt_set *qt_get_set(size_t index) {
    return &qt.sets[index];
}

const qt_set *qt_find_set(const char *name) {
    for (size_t i = 0; i < qt.num_sets; i++)
        if (strcmp(qt.sets[i].name, name) == 0)
            return &qt.sets[i];
    return NULL;
}

bool qt_emulated(void) {
    return qt.emulated;
}

bool qt_quick(void) {
    return qt.quick;
}

/* ------------------------------------------------------------------------------------------- cases and failures */

/* FNV-1a, up to a '/': all kernel sets get the same cases. */
static uint64_t hash_name(const char *name) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *name != '\0' && *name != '/'; name++)
        h = (h ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return h;
}

qt_rng qt_stream(const char *name) {
    return (qt_rng){qt.seed ^ hash_name(name), 0};
}

bool qt_case(uint64_t index, qt_rng *rng) {
    qt_free_all();
    if (qt.only_case && index != qt.wanted_case)
        return false;
    qt.has_case = true;
    qt.case_index = index;
    qt.description[0] = '\0';
    qt.num_cases++;
    if (rng != NULL) {
        *rng = qt_stream(qt.running->name);
        rng->seed += (index + 1) * UINT64_C(0xd1342543de82ef95);
    }
    return true;
}

void qt_describe(const char *format, ...) {
    va_list args;
    va_start(args, format);
    qt_vformat(qt.description, sizeof qt.description, format, args);
    va_end(args);
}

static void print_reproduction(void) {
    char only[48] = "";
    if (qt.has_case)
        snprintf(only, sizeof only, " QKV_CASE=%" PRIu64, qt.case_index);
    if (qt.description[0] != '\0')
        print_error("    case:  %s\n", qt.description);
    const char *mode = qt.emulated ? " QKV_QEMU=1" : qt.quick ? " QKV_QUICK=1" : "";
    print_error("    again: QKV_SEED=0x%" PRIx64 "%s%s ./%s '%s'\n", qt.seed, only, mode, qt.program, qt.running->name);
}

void qt_fail(const char *format, ...) {
    char message[1024];
    va_list args;
    va_start(args, format);
    qt_vformat(message, sizeof message, format, args);
    va_end(args);
    if (qt.in_child)
        _Exit(QT_FAILED);
    print_error("%s: %s\n", qt.running != NULL ? qt.running->name : qt.program, message);
    if (qt.running == NULL)
        exit(1);
    fail();
    abort(); /* not reached: fail jumps */
}

void qt_skip(const char *format, ...) {
    char reason[160];
    va_list args;
    va_start(args, format);
    qt_vformat(reason, sizeof reason, format, args);
    va_end(args);
    if (qt.num_skips < MAX_SKIPS)
        snprintf(qt.skips[qt.num_skips], sizeof qt.skips[0], "%s: %s", qt.running->name, reason);
    qt.num_skips++;
    qt.finished = true;
    skip();
    abort();
}

void qt_note(const char *format, ...) {
    char message[512];
    va_list args;
    va_start(args, format);
    qt_vformat(message, sizeof message, format, args);
    va_end(args);
    print_message("[   NOTE   ] %s: %s\n", qt.running->name, message);
}

void qt_count_words(uint64_t n) {
    qt.num_words += n;
}

/* ----------------------------------------------------------------------------------------------------- comparing */

bool qt_same(float want, float got, unsigned flags) {
    if (isnan(want) || isnan(got))
        return isnan(want) && isnan(got);
    if ((flags & QT_ANY_ZERO) != 0 && want == 0 && got == 0)
        return true;
    return qt_bits(want) == qt_bits(got);
}

void qt_expect_rows(const char *what, const float *want, ptrdiff_t ld_want, const float *got, ptrdiff_t ld_got,
                    size_t rows, size_t cols, unsigned flags) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float w = want[(ptrdiff_t)i * ld_want + (ptrdiff_t)j], g = got[(ptrdiff_t)i * ld_got + (ptrdiff_t)j];
            if (!qt_same(w, g, flags))
                qt_fail("%s at [%zu, %zu] of [%zu, %zu]: want %a (%08" PRIx32 "), got %a (%08" PRIx32 ")", what, i, j,
                        rows, cols, (double)w, qt_bits(w), (double)g, qt_bits(g));
        }
    qt_count_words((uint64_t)rows * cols);
}

void qt_expect_words(const char *what, const float *want, const float *got, size_t n, unsigned flags) {
    qt_expect_rows(what, want, 0, got, 0, 1, n, flags);
}

void qt_expect_bytes(const char *what, const void *want, const void *got, size_t bytes) {
    const unsigned char *w = want, *g = got;
    if (bytes > 0 && memcmp(w, g, bytes) != 0) {
        size_t at = 0;
        while (w[at] == g[at])
            at++;
        qt_fail("%s at byte %zu of %zu: want %02x, got %02x", what, at, bytes, w[at], g[at]);
    }
    qt_count_words(bytes / 4);
}

/* ------------------------------------------------------------------------------------------------ for its machine */

int64_t *qt_shuffled(int64_t n, uint64_t seed) {
    int64_t *order = malloc((size_t)n * sizeof *order + 1);
    qt_rng rng = {seed, 0};
    for (int64_t i = 0; i < n; i++) {
        int64_t at = qt_range(&rng, 0, i);
        order[i] = order[at];
        order[at] = i;
    }
    return order;
}

void qt_now_in_child(void) {
    qt.in_child = true;
}

/* -------------------------------------------------------------------------------------------------- main program */

static int set_up(void **state) {
    qt_unblock_faults();
    qt.running = *state;
    qt.finished = qt.has_case = false;
    qt.description[0] = '\0';
    qt.num_run++;
    return 0;
}

static void run_one(void **state) {
    const test *t = *state;
    if (t->set != NULL)
        t->per_set(t->set);
    else
        t->once();
    qt_free_all();
    qt.finished = true;
}

/* Runs after a failure too, a fault included: the one place that always sees it. */
static int tear_down(void **state) {
    (void)state;
    if (qt.in_child)
        _Exit(QT_FAILED);
    if (!qt.finished) {
        print_reproduction();
        qt_drop_all();
    }
    return 0;
}

static test *add(const char *name, const char *suffix) {
    if (qt.num_tests == MAX_TESTS) {
        fprintf(stderr, "%s: more than %d tests\n", qt.program, MAX_TESTS);
        exit(1);
    }
    test *t = &qt.tests[qt.num_tests];
    snprintf(t->name, sizeof t->name, "%s%s%s", name, suffix[0] != '\0' ? "/" : "", suffix);
    qt.units[qt.num_tests] = (struct CMUnitTest){t->name, run_one, set_up, tear_down, t};
    qt.num_tests++;
    return t;
}

static void add_for_set(const char *name, void (*per_set)(const qt_set *set), const qt_set *set) {
    test *t = add(name, set->name);
    t->per_set = per_set;
    t->set = set;
}

/* Whether all but products of weights in 8 bits, and those in 8 bits and bfloat16 unless these count, is another
 * set's. */
static bool is_variant(size_t number, bool attention_counts) {
    const qkv_kernels *this = qt.sets[number].kernels;
    for (size_t i = number + 1; i < qt.num_sets; i++) {
        const qkv_kernels *other = qt.sets[i].kernels;
        const bool same = other->gemm_bf16 == this->gemm_bf16 && other->gemm_int8 == this->gemm_int8;
        if (other->gemm == this->gemm && (!attention_counts || same))
            return true;
    }
    return false;
}

void qt_each_set(const char *name, void (*per_set)(const qt_set *set)) {
    for (size_t i = 0; i < qt.num_sets; i++) {
        if (!is_variant(i, false))
            add_for_set(name, per_set, &qt.sets[i]);
    }
}

void qt_each_set_of_attention(const char *name, void (*per_set)(const qt_set *set)) {
    for (size_t i = 0; i < qt.num_sets; i++) {
        if (!is_variant(i, true))
            add_for_set(name, per_set, &qt.sets[i]);
    }
}

void qt_each_set_and_variant(const char *name, void (*per_set)(const qt_set *set)) {
    for (size_t i = 0; i < qt.num_sets; i++)
        add_for_set(name, per_set, &qt.sets[i]);
}

void qt_once(const char *name, void (*once)(void)) {
    add(name, "")->once = once;
}

static uint64_t number(const char *text) {
    char *end;
    errno = 0;
    uint64_t x = strtoull(text, &end, 0);
    if (errno != 0 || *text == '\0' || *end != '\0') {
        fprintf(stderr, "%s: not a number: %s\n", qt.program, text);
        exit(2);
    }
    return x;
}

static bool is_set(const char *variable) {
    const char *value = getenv(variable);
    return value != NULL && strcmp(value, "1") == 0;
}

void qt_init(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    const char *seed = getenv("QKV_SEED"), *isa = getenv("QKV_ISA"), *only = getenv("QKV_CASE");
    qt.program = slash != NULL ? slash + 1 : argv[0];
    qt.seed = seed != NULL && *seed != '\0' ? number(seed) : DEFAULT_SEED;
    qt.isa = isa != NULL && *isa != '\0' ? isa : NULL;
    qt.emulated = is_set("QKV_QEMU");
    qt.quick = qt.emulated || is_set("QKV_QUICK");
    if (only != NULL && *only != '\0') {
        qt.only_case = true;
        qt.wanted_case = number(only);
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
            qt.isa = argv[++i];
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            qt.seed = number(argv[++i]);
        } else if (strcmp(argv[i], "--case") == 0 && i + 1 < argc) {
            qt.only_case = true;
            qt.wanted_case = number(argv[++i]);
        } else if (strcmp(argv[i], "--quick") == 0) {
            qt.quick = true;
        } else if (strcmp(argv[i], "--qemu") == 0) {
            qt.emulated = qt.quick = true;
        } else if (strcmp(argv[i], "--list") == 0) {
            qt.list_only = true;
        } else if (argv[i][0] != '-' && qt.filter == NULL) {
            qt.filter = argv[i];
        } else {
            fprintf(stderr, "usage: %s [--isa NAME] [--seed N] [--case N] [--quick] [--qemu] [--list] [FILTER]\n",
                    qt.program);
            exit(2);
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    find_sets();
}

static void print_summary(void) {
    printf("kernel sets:");
    for (size_t i = qt.num_sets; i-- > 0;)
        printf(" %s", qt.sets[i].name);
    printf("%s tested", qt.num_sets == 0 ? " none" : "");
    if (qt.num_left_out > 0)
        printf("; skipped %d: %s", qt.num_left_out, qt.left_out);
    printf("\ncases: %" PRIu64 ", words compared: %" PRIu64 ", tests skipped: %d\n", qt.num_cases, qt.num_words,
           qt.num_skips);
    for (int i = 0; i < qt.num_skips && i < MAX_SKIPS; i++)
        printf("skipped: %s\n", qt.skips[i]);
}

int qt_run(void) {
    if (qt.list_only) {
        for (size_t i = 0; i < qt.num_tests; i++)
            puts(qt.tests[i].name);
        return 0;
    }
    const char *mode = qt.emulated ? ", emulated CPU" : qt.quick ? ", quick" : "";
    printf("%s: seed 0x%" PRIx64 "%s\n", qt.program, qt.seed, mode);
    if (qt.num_sets == 0) {
        print_summary();
        return EXIT_SKIPPED;
    }
    if (qt.filter != NULL)
        cmocka_set_test_filter(qt.filter);
    atexit(print_summary); /* which cmocka.h of tests/bare may call in place of returning */
    int failed = _cmocka_run_group_tests(qt.program, qt.units, qt.num_tests, NULL, NULL);
    if (qt.num_run == 0) {
        fprintf(stderr, "%s: no test matches '%s'\n", qt.program, qt.filter != NULL ? qt.filter : "");
        return 1;
    }
    return failed != 0;
}
