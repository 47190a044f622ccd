/* Stands in for cmocka where that needs what a target has not: as much of it as the harness and the tests use. No
 * longjmp: what fails or is skipped does not return; the rest of the tests runs from within it, and exit ends the
 * program. Which files make a test program with this folder, and how, says scripts/check/bare.sh.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_BARE_CMOCKA_H
#define QKV_TESTS_BARE_CMOCKA_H

#include <stddef.h>
#include <stdint.h>

struct CMUnitTest {
    const char *name;
    void (*test_func)(void **state);
    int (*setup_func)(void **state);
    int (*teardown_func)(void **state);
    void *initial_state;
};

int _cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t n, int (*setup)(void **state),
                            int (*teardown)(void **state));
void cmocka_set_test_filter(const char *pattern);

void print_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

void bare_fail(const char *file, int line) __attribute__((noreturn));
void bare_skip(void) __attribute__((noreturn));
void bare_true(int holds, const char *what, const char *file, int line);
void bare_int(unsigned long long a, unsigned long long b, const char *file, int line);
void bare_string(const char *a, const char *b, int want_equal, const char *file, int line);
void bare_memory(const void *a, const void *b, size_t bytes, const char *file, int line);

#define fail() bare_fail(__FILE__, __LINE__)
#define skip() bare_skip()
#define assert_true(c) bare_true(!!(c), #c, __FILE__, __LINE__)
#define assert_false(c) bare_true(!(c), "!(" #c ")", __FILE__, __LINE__)
#define assert_null(p) bare_true((p) == NULL, #p " == NULL", __FILE__, __LINE__)
#define assert_non_null(p) bare_true((p) != NULL, #p " != NULL", __FILE__, __LINE__)
#define assert_int_equal(a, b) bare_int((unsigned long long)(a), (unsigned long long)(b), __FILE__, __LINE__)
#define assert_string_equal(a, b) bare_string(a, b, 1, __FILE__, __LINE__)
#define assert_string_not_equal(a, b) bare_string(a, b, 0, __FILE__, __LINE__)
#define assert_memory_equal(a, b, bytes) bare_memory(a, b, bytes, __FILE__, __LINE__)

#endif
