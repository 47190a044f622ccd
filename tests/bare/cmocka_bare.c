/* The runner and the assertions of this folder's cmocka.h.  SPDX-License-Identifier: MIT */
#include "cmocka.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *name, *filter;
    const struct CMUnitTest *tests;
    size_t n, at; /* the running one, or the next */
    int passed, failed, skipped;
    bool nested; /* a test did not return */
} group;

void print_message(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
}

void print_error(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
}

void cmocka_set_test_filter(const char *pattern) {
    group.filter = pattern;
}

/* '*': any characters; '?': one. */
static bool matches(const char *text, const char *pattern) {
    if (*pattern == '*')
        return matches(text, pattern + 1) || (*text != '\0' && matches(text + 1, pattern));
    if (*pattern == '\0' || *text == '\0')
        return *pattern == *text;
    return (*pattern == '?' || *pattern == *text) && matches(text + 1, pattern + 1);
}

static void run_from_here(void) {
    while (group.at < group.n) {
        const struct CMUnitTest *test = &group.tests[group.at];
        if (group.filter == NULL || matches(test->name, group.filter)) {
            void *state = test->initial_state;
            printf("[ RUN      ] %s\n", test->name);
            test->setup_func(&state);
            test->test_func(&state);
            test->teardown_func(&state);
            printf("[       OK ] %s\n", test->name);
            group.passed++;
        }
        group.at++;
    }
    printf("[==========] %s: %d test(s) run.\n", group.name, group.passed + group.failed + group.skipped);
    printf("[  PASSED  ] %d test(s).\n", group.passed);
    if (group.skipped > 0)
        printf("[  SKIPPED ] %d test(s).\n", group.skipped);
    if (group.failed > 0)
        printf("[  FAILED  ] %d test(s).\n", group.failed);
    if (group.nested)
        exit(group.failed > 0);
}

/* The group's own setup and teardown are not called: the harness has none. */
int _cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t n, int (*setup)(void **state),
                            int (*teardown)(void **state)) {
    (void)setup, (void)teardown;
    group.name = name;
    group.tests = tests;
    group.n = n;
    printf("[==========] %s: Running %d test(s).\n", name, (int)n);
    run_from_here();
    return 0;
}

__attribute__((noreturn)) static void leave(const char *how) {
    const struct CMUnitTest *test = &group.tests[group.at];
    void *state = test->initial_state;
    test->teardown_func(&state);
    printf("[  %-7s ] %s\n", how, test->name);
    group.nested = true;
    group.at++;
    run_from_here();
    abort(); /* not reached: the end of a nested run exits */
}

void bare_fail(const char *file, int line) {
    printf("%s:%d: error: Failure!\n", file, line);
    group.failed++;
    leave("FAILED");
}

void bare_skip(void) {
    group.skipped++;
    leave("SKIPPED");
}

void bare_true(int holds, const char *what, const char *file, int line) {
    if (!holds) {
        printf("%s\n", what);
        bare_fail(file, line);
    }
}

void bare_int(unsigned long long a, unsigned long long b, const char *file, int line) {
    if (a != b) {
        printf("%#llx != %#llx\n", a, b);
        bare_fail(file, line);
    }
}

void bare_string(const char *a, const char *b, int want_equal, const char *file, int line) {
    if ((strcmp(a, b) == 0) != want_equal) {
        printf("\"%s\" %s \"%s\"\n", a, want_equal ? "!=" : "==", b);
        bare_fail(file, line);
    }
}

void bare_memory(const void *a, const void *b, size_t bytes, const char *file, int line) {
    if (memcmp(a, b, bytes) != 0) {
        printf("%lu bytes differ\n", (unsigned long)bytes);
        bare_fail(file, line);
    }
}
