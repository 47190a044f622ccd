/* Template: the register-tiled matrix product, and the panels it reads.
 *
 * Needs the vector header of an instruction set (vec, vtail, VLEN, STRIP_VECTORS, TILE_ROWS, v_*), inside its target
 * region. A tile is TILE_ROWS rows × STRIP_VECTORS vectors of C, held in registers over the whole inner dimension: each
 * step loads one row of B and broadcasts one column of A. 6×64 (AVX-512) and 6×16 (AVX2, NEON) need the fewest loads
 * per fma of all tiles that fit the register file; where less than a strip is left, twice the rows fill it, and where
 * there are at most WIDE_ROWS rows, more vectors: then B is also read in longer pieces.
 *
 * SPDX-License-Identifier: MIT */

_Static_assert(QKV_PANEL % (STRIP_VECTORS * VLEN) == 0, "strips fill panels");
_Static_assert(QKV_LANES % VLEN == 0, "vectors fill lanes");
_Static_assert((STRIP_VECTORS == 2 || STRIP_VECTORS == 4) && TILE_ROWS == 6, "what the templates spell out");

enum { STRIP = STRIP_VECTORS * VLEN, WIDE_ROWS = 3 };

/* A product, handed on to its tiles by reference: each tile is a function of its own, or the compiler would work out
 * the addresses of all of them before the first. */
typedef struct gemm_operands {
    ptrdiff_t ldc, lda, ldb, panel;
    size_t rows, cols, k;
    int accumulate;
} gemm_operands;

/* Memory to fetch while a product runs, a few lines with every step of a tile. */
typedef struct gemm_fetch {
    const char *at, *row_end;
    ptrdiff_t next_row;            /* bytes from the end of a row to the next one */
    size_t row_bytes, rows, lines; /* rows left; lines a step: 0 at the end */
} gemm_fetch;

enum { CACHE_LINE = 64 };

QKV_INLINE void gemm_fetch_lines(gemm_fetch *f) {
    const char *at = f->at;
    for (size_t n = f->lines; n > 0; n--) {
        __builtin_prefetch(at, 0, 2);
        at += CACHE_LINE;
        if (at >= f->row_end) {
            at = f->row_end + f->next_row;
            f->row_end = at + f->row_bytes;
            if (--f->rows == 0) {
                f->lines = 0;
                break;
            }
        }
    }
    f->at = at;
    __asm__("" ::: "memory"); /* or GCC makes two loops of the one around, and moves sums about */
}

/* Spreads what is wanted soon over so many steps. */
QKV_INLINE gemm_fetch gemm_fetch_plan(const qkv_soon *soon, size_t steps) {
    gemm_fetch f = {NULL, NULL, 0, 0, 0, 0};
#ifdef NO_PREFETCH
    soon = NULL;
#endif
    if (!soon || soon->rows == 0 || soon->bytes == 0 || steps == 0)
        return f;
    f.rows = soon->rows;
    f.row_bytes = soon->bytes;
    f.next_row = soon->stride - (ptrdiff_t)f.row_bytes;
    f.at = (const char *)soon->data;
    f.row_end = f.at + f.row_bytes;
    f.lines = (f.rows * ((f.row_bytes + CACHE_LINE - 1) / CACHE_LINE) + steps - 1) / steps;
    return f;
}

/* Tiles: see gemm_tile.inc.h. A row's number i and a vector's number j are literals and part of a sum's name. */
#define SUM(i, j) sum_##i##_##j
#define TILE_NAME(prefix, rows, vectors, suffix) TILE_NAME_OF(prefix, rows, vectors, suffix)
#define TILE_NAME_OF(prefix, rows, vectors, suffix) prefix##rows##x##vectors##suffix

#define START(i, j) vec SUM(i, j) = TILE_START(ROW_OF_A(i));
#define START_ROW(i, j) QKV_COLS(VECTORS, START, i)
#define STORE(i, j)                                                                                                    \
    v_store(c + j * VLEN, accumulate ? v_add(v_load(c + j * VLEN), TILE_END(SUM(i, j))) : TILE_END(SUM(i, j)));
#define STORE_ROW(i, j)                                                                                                \
    QKV_COLS(VECTORS, STORE, i)                                                                                        \
    c += ldc;

/* From a row of A to the next it is `row` floats, `lower` is row `split`. */
#define ROW_OF_A(i) (i < split ? a + i * row : lower + (i - split) * row)
#define VECTOR_OF_B(from, j)                                                                                           \
    (has_tail && j == VECTORS - 1 ? v_load_tail((from) + j * VLEN, tail) : v_load((from) + j * VLEN))

/* One column of A against one row of B. */
#define LOAD_B(i, j) vec of_b_##j = VECTOR_OF_B(b, j);
#define FMA(i, j) SUM(i, j) = TILE_FMA(factor, of_b_##j, SUM(i, j));
#define STEP_ROW(i, j)                                                                                                 \
    {                                                                                                                  \
        vec factor = v_set(*ROW_OF_A(i));                                                                              \
        QKV_COLS(VECTORS, FMA, i)                                                                                      \
    }
#define GEMM_STEP                                                                                                      \
    {                                                                                                                  \
        QKV_COLS(VECTORS, LOAD_B, 0)                                                                                   \
        QKV_ROWS(ROWS, STEP_ROW, 0)                                                                                    \
        a += step, lower += step, b += ldb;                                                                            \
    }

/* The same for more vectors than rows: no more than one vector of B at a time. */
#define LOAD_A(i, j) vec factor_##i = v_set(*ROW_OF_A(i));
#define WIDE_FMA(i, j) SUM(i, j) = TILE_FMA(factor_##i, of_b, SUM(i, j));
#define WIDE_VECTOR(i, j)                                                                                              \
    {                                                                                                                  \
        vec of_b = VECTOR_OF_B(b, j);                                                                                  \
        QKV_ROWS(ROWS, WIDE_FMA, j)                                                                                    \
    }
#define WIDE_STEP                                                                                                      \
    {                                                                                                                  \
        QKV_ROWS(ROWS, LOAD_A, 0)                                                                                      \
        QKV_COLS(VECTORS, WIDE_VECTOR, 0)                                                                              \
        a += step, lower += step, b += ldb;                                                                            \
    }

/* The last two steps of a whole tile, row by row, each sum stored when it is done. On Zen 4 a store that finds its
 * value on the way from the adder costs nothing; one that reads the register file keeps an fma from doing so. */
#define LAST_OF_B(i, j) vec first_##j = VECTOR_OF_B(b, j), second_##j = v_zero();
#define LAST_FIRST_ROW(i, j) SUM(0, j) = TILE_FMA(factor, first_##j, SUM(0, j));
#define LAST_FMA(i, j)                                                                                                 \
    if (i == 0)                                                                                                        \
        second_##j = VECTOR_OF_B(b + ldb, j);                                                                          \
    SUM(i, j) = TILE_FMA(factor, second_##j, SUM(i, j));                                                               \
    v_store(c + j * VLEN, adds ? v_add(v_load(c + j * VLEN), TILE_END(SUM(i, j))) : TILE_END(SUM(i, j)));
#define LAST_PAIR(i, next, j)                                                                                          \
    LAST_FMA(i, j)                                                                                                     \
    SUM(next, j) = TILE_FMA(next_factor, first_##j, SUM(next, j));
#define LAST_ROWS(i, next)                                                                                             \
    {                                                                                                                  \
        vec factor = v_set(ROW_OF_A(i)[step]), next_factor = v_set(*ROW_OF_A(next));                                   \
        QKV_PAIRS(VECTORS, LAST_PAIR, i, next)                                                                         \
        c += ldc;                                                                                                      \
    }
#define LAST_ROW(i, j)                                                                                                 \
    if (i == ROWS - 1) {                                                                                               \
        vec factor = v_set(ROW_OF_A(i)[step]);                                                                         \
        QKV_COLS(VECTORS, LAST_FMA, i)                                                                                 \
    }
#define LAST_STEPS(accumulates)                                                                                        \
    const int adds = accumulates;                                                                                      \
    QKV_COLS(VECTORS, LAST_OF_B, 0) {                                                                                  \
        vec factor = v_set(*a);                                                                                        \
        QKV_COLS(VECTORS, LAST_FIRST_ROW, 0)                                                                           \
    }                                                                                                                  \
    QKV_NEXT(ROWS, LAST_ROWS)                                                                                          \
    QKV_ROWS(ROWS, LAST_ROW, 0)

typedef void gemm_function(const gemm_operands *, float *c, const float *a, const float *b, vtail, gemm_fetch *);

/* The next tile's height. Two tiles share what is left over where one would be low: low tiles wait for their fmas. */
QKV_INLINE size_t tile_height(size_t left, size_t tallest) {
    return left <= tallest ? left : left < 2 * tallest ? (left + 1) / 2 : tallest;
}

QKV_INLINE const float *gemm_column_of_b(const gemm_operands *o, const float *b, size_t j) {
    return b + (ptrdiff_t)(j / QKV_PANEL) * o->panel + j % QKV_PANEL;
}

#define PRODUCT(name) PRODUCT_NAME(TILE_FUNCTION, name)
#define PRODUCT_NAME(prefix, name) PRODUCT_NAME_OF(prefix, name)
#define PRODUCT_NAME_OF(prefix, name) prefix##name

#define TILE_FMA v_fma
#define TILE_FMA_LANE v_fma_lane
#define TILE_START(row) v_zero()
#define TILE_END(sum) (sum)
#define TILE_FUNCTION gemm_
#define TRANSPOSED_TILE_FUNCTION gemm_t_
#include "gemm_product.inc.h"

static void gemm(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t panel,
                 size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    const gemm_operands o = {ldc, lda, ldb, panel, rows, cols, k, accumulate};
    gemm_product(&o, c, a, b, soon);
    v_leave();
}

static void gemm_t(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                   size_t cols, size_t k, int accumulate) {
    const gemm_operands o = {ldc, lda, ldb, QKV_PANEL, rows, cols, k, accumulate};
    gemm_t_product(&o, c, a, b, NULL);
    v_leave();
}

/* One row: four vectors at a time, so that four chains are under way. */
#define VISIBLE_ZERO(i, j) vec sum_##j = v_zero();
#define VISIBLE_FMA(i, j)                                                                                              \
    if (j < vectors)                                                                                                   \
        sum_##j = v_fma(factor, has_tail && j == vectors - 1 ? v_load_tail(v + j * VLEN, tail) : v_load(v + j * VLEN), \
                        sum_##j);
#define VISIBLE_STORE(i, j)                                                                                            \
    if (j < vectors)                                                                                                   \
        v_store(o + j * VLEN, sum_##j);
QKV_INLINE void sum_visible_strip(int vectors, int has_tail, vtail tail, float *o, const float *p, const float *t,
                                  const float *v, ptrdiff_t ldv, size_t k) {
    QKV_COLS(4, VISIBLE_ZERO, 0)
    for (size_t x = 0; x < k; x++, v += ldv) {
        if (t[x] == QKV_MINUS_INFINITY)
            continue;
        vec factor = v_set(p[x]);
        QKV_COLS(4, VISIBLE_FMA, 0)
    }
    QKV_COLS(4, VISIBLE_STORE, 0)
}

static void sum_visible(float *o, const float *p, const float *t, const float *v, ptrdiff_t ldv, size_t k,
                        size_t cols) {
    for (; cols >= 4 * VLEN; cols -= 4 * VLEN, o += 4 * VLEN, v += 4 * VLEN)
        sum_visible_strip(4, 0, v_tail(VLEN), o, p, t, v, ldv, k);
    for (; cols >= VLEN; cols -= VLEN, o += VLEN, v += VLEN)
        sum_visible_strip(1, 0, v_tail(VLEN), o, p, t, v, ldv, k);
    if (cols > 0)
        sum_visible_strip(1, 1, v_tail(cols), o, p, t, v, ldv, k);
    v_leave();
}

#include "squares.inc.h"
