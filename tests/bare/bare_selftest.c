/* This folder's stand-ins must catch what they are for: every test whose name begins with "caught" has to fail, and
 * those behind it have to run all the same. scripts/check/bare.sh counts them.  SPDX-License-Identifier: MIT */
#include "harness.h"

static void write_at(size_t bytes, int place, ptrdiff_t at) {
    volatile unsigned char *p = qt_alloc(bytes, 1, place);
    p[at] ^= 1;
}

static void test_inside(void) {
    for (size_t bytes = 1; bytes < 200; bytes++)
        for (int place = QT_TAIL; place <= QT_HEAD; place++) {
            write_at(bytes, place, 0);
            write_at(bytes, place, (ptrdiff_t)bytes - 1);
            qt_free_all();
        }
    for (size_t align = 1; align <= 4096; align *= 2)
        for (int place = QT_TAIL; place <= QT_HEAD; place++)
            for (size_t bytes = 0; bytes < 200; bytes += 67) {
                QT_EXPECT(bytes == 0 || (uintptr_t)qt_alloc(bytes, align, place) % align == 0, "align=%zu", align);
                qt_free_all();
            }
}

static void test_behind(void) {
    write_at(100, QT_TAIL, 100);
}
static void test_before(void) {
    write_at(100, QT_HEAD, -1);
}
static void test_far_behind(void) {
    write_at(100, QT_HEAD, 100 + 200);
}
static void test_empty(void) {
    write_at(0, QT_TAIL, 0);
}

static void test_input(void) {
    float *x = qt_floats(33, QT_TAIL);
    qt_read_only(x);
    x[32] = 1;
}

static void test_word(void) {
    const float want[3] = {0, 1, 2}, got[3] = {-0.0f, 1, 2};
    qt_expect_words("words", want, got, 3, QT_ANY_ZERO);
    qt_expect_words("words", want, got, 3, 0);
}

static void test_assertion(void) {
    assert_int_equal(qkv_init(NULL, NULL), QKV_OK);
}
static void test_skip(void) {
    qt_skip("to be seen");
}
static void test_child(void) {
    qt_in_child(NULL, NULL);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("inside", test_inside);
    qt_once("caught: behind", test_behind);
    qt_once("caught: before", test_before);
    qt_once("caught: far behind", test_far_behind);
    qt_once("caught: empty", test_empty);
    qt_once("caught: input", test_input);
    qt_once("caught: word", test_word);
    qt_once("caught: assertion", test_assertion);
    qt_once("skipped", test_skip);
    qt_once("skipped: child", test_child);
    qt_once("inside again", test_inside);
    return qt_run();
}
