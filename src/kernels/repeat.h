/* Repetition by the preprocessor. Kernels spell their rows and vectors out, so that every sum is a variable of its own:
 * then it lives in a register whatever a compiler thinks of unrolling loops. Counts are literals, or macros for one.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_REPEAT_H
#define QKV_REPEAT_H

/* f(0, j) … f(n − 1, j), and f(i, 0) … f(i, n − 1): two families, as a macro is not expanded within itself. */
#define QKV_ROWS(n, f, j) QKV_ROWS_OF(n, f, j)
#define QKV_ROWS_OF(n, f, j) QKV_ROWS_##n(f, j)
#define QKV_ROWS_1(f, j) f(0, j)
#define QKV_ROWS_2(f, j) QKV_ROWS_1(f, j) f(1, j)
#define QKV_ROWS_3(f, j) QKV_ROWS_2(f, j) f(2, j)
#define QKV_ROWS_4(f, j) QKV_ROWS_3(f, j) f(3, j)
#define QKV_ROWS_5(f, j) QKV_ROWS_4(f, j) f(4, j)
#define QKV_ROWS_6(f, j) QKV_ROWS_5(f, j) f(5, j)
#define QKV_ROWS_7(f, j) QKV_ROWS_6(f, j) f(6, j)
#define QKV_ROWS_8(f, j) QKV_ROWS_7(f, j) f(7, j)
#define QKV_ROWS_9(f, j) QKV_ROWS_8(f, j) f(8, j)
#define QKV_ROWS_10(f, j) QKV_ROWS_9(f, j) f(9, j)
#define QKV_ROWS_11(f, j) QKV_ROWS_10(f, j) f(10, j)
#define QKV_ROWS_12(f, j) QKV_ROWS_11(f, j) f(11, j)
#define QKV_ROWS_13(f, j) QKV_ROWS_12(f, j) f(12, j)
#define QKV_ROWS_14(f, j) QKV_ROWS_13(f, j) f(13, j)
#define QKV_ROWS_15(f, j) QKV_ROWS_14(f, j) f(14, j)
#define QKV_ROWS_16(f, j) QKV_ROWS_15(f, j) f(15, j)

#define QKV_COLS(n, f, i) QKV_COLS_OF(n, f, i)
#define QKV_COLS_OF(n, f, i) QKV_COLS_##n(f, i)
#define QKV_COLS_1(f, i) f(i, 0)
#define QKV_COLS_2(f, i) QKV_COLS_1(f, i) f(i, 1)
#define QKV_COLS_3(f, i) QKV_COLS_2(f, i) f(i, 2)
#define QKV_COLS_4(f, i) QKV_COLS_3(f, i) f(i, 3)
#define QKV_COLS_5(f, i) QKV_COLS_4(f, i) f(i, 4)
#define QKV_COLS_6(f, i) QKV_COLS_5(f, i) f(i, 5)
#define QKV_COLS_7(f, i) QKV_COLS_6(f, i) f(i, 6)
#define QKV_COLS_8(f, i) QKV_COLS_7(f, i) f(i, 7)
#define QKV_COLS_9(f, i) QKV_COLS_8(f, i) f(i, 8)
#define QKV_COLS_10(f, i) QKV_COLS_9(f, i) f(i, 9)
#define QKV_COLS_11(f, i) QKV_COLS_10(f, i) f(i, 10)
#define QKV_COLS_12(f, i) QKV_COLS_11(f, i) f(i, 11)

/* f(i, x, 0) … f(i, x, n − 1). */
#define QKV_PAIRS(n, f, i, x) QKV_PAIRS_OF(n, f, i, x)
#define QKV_PAIRS_OF(n, f, i, x) QKV_PAIRS_##n(f, i, x)
#define QKV_PAIRS_1(f, i, x) f(i, x, 0)
#define QKV_PAIRS_2(f, i, x) QKV_PAIRS_1(f, i, x) f(i, x, 1)
#define QKV_PAIRS_3(f, i, x) QKV_PAIRS_2(f, i, x) f(i, x, 2)
#define QKV_PAIRS_4(f, i, x) QKV_PAIRS_3(f, i, x) f(i, x, 3)

/* f(0, 1) … f(n − 2, n − 1): all rows but the last one, each with the one after it. */
#define QKV_NEXT(n, f) QKV_NEXT_OF(n, f)
#define QKV_NEXT_OF(n, f) QKV_NEXT_##n(f)
#define QKV_NEXT_2(f) f(0, 1)
#define QKV_NEXT_3(f) QKV_NEXT_2(f) f(1, 2)
#define QKV_NEXT_4(f) QKV_NEXT_3(f) f(2, 3)
#define QKV_NEXT_5(f) QKV_NEXT_4(f) f(3, 4)
#define QKV_NEXT_6(f) QKV_NEXT_5(f) f(4, 5)
#define QKV_NEXT_7(f) QKV_NEXT_6(f) f(5, 6)
#define QKV_NEXT_8(f) QKV_NEXT_7(f) f(6, 7)
#define QKV_NEXT_9(f) QKV_NEXT_8(f) f(7, 8)
#define QKV_NEXT_10(f) QKV_NEXT_9(f) f(8, 9)
#define QKV_NEXT_11(f) QKV_NEXT_10(f) f(9, 10)
#define QKV_NEXT_12(f) QKV_NEXT_11(f) f(10, 11)

#endif
