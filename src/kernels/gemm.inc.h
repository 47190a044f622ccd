/* Template: the register-tiled matrix product, and the panels it reads.
 *
 * Needs the vector header of an instruction set (V, T, VL, STRIP_VECTORS, TILE_ROWS, v_*), inside its target region.
 * A tile is TILE_ROWS rows × STRIP_VECTORS vectors of C, held in registers over the whole inner dimension: each step
 * loads one row of B and broadcasts one column of A. 6×64 (AVX-512) and 6×16 (AVX2, NEON) need the fewest loads per
 * fma of all tiles that fit the register file; where only half a strip is left, twice the rows fill it.
 *
 * SPDX-License-Identifier: MIT */

_Static_assert(QKV_PANEL % (STRIP_VECTORS * VL) == 0 && QKV_LANES % VL == 0, "strips fill panels, vectors fill lanes");
_Static_assert((STRIP_VECTORS == 2 || STRIP_VECTORS == 4) && TILE_ROWS == 6, "what the switches below spell out");

enum { STRIP = STRIP_VECTORS * VL };

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
    ptrdiff_t next_row; /* bytes from the end of a row to the next one */
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
    if (!soon || soon->rows == 0 || soon->cols == 0 || steps == 0)
        return f;
    f.rows = soon->rows;
    f.row_bytes = soon->cols * sizeof(float);
    f.next_row = soon->ld * (ptrdiff_t)sizeof(float) - (ptrdiff_t)f.row_bytes;
    f.at = (const char *)soon->data;
    f.row_end = f.at + f.row_bytes;
    f.lines = (f.rows * ((f.row_bytes + CACHE_LINE - 1) / CACHE_LINE) + steps - 1) / steps;
    return f;
}

/* One column of A against one row of B. From a row of A to the next it is `row` floats, `lower` is row `split`. */
QKV_INLINE void gemm_step(int rows, int split, int vectors, int has_tail, T tail, V sum[][STRIP_VECTORS],
                          const float *a, const float *lower, ptrdiff_t row, const float *b) {
    V of_b[STRIP_VECTORS];
    QKV_UNROLL
    for (int j = 0; j < vectors; j++)
        of_b[j] = has_tail && j == vectors - 1 ? v_load_tail(b + j * VL, tail) : v_load(b + j * VL);
    QKV_UNROLL
    for (int i = 0; i < rows; i++) {
        V factor = v_set(i < split ? a[i * row] : lower[(i - split) * row]);
        QKV_UNROLL
        for (int j = 0; j < vectors; j++)
            sum[i][j] = v_fma(factor, of_b[j], sum[i][j]);
    }
}

/* The last two steps of a whole tile, row by row, each sum stored when it is done. On Zen 4 a store that finds its
 * value on the way from the adder costs nothing; one that reads the register file keeps an fma from doing so. */
QKV_INLINE void gemm_last_steps(int rows, int split, int vectors, V sum[][STRIP_VECTORS], const float *a,
                                const float *lower, ptrdiff_t row, ptrdiff_t step, const float *b, ptrdiff_t ldb,
                                float *c, ptrdiff_t ldc, int accumulate) {
    V first[STRIP_VECTORS], second[STRIP_VECTORS];
    QKV_UNROLL
    for (int j = 0; j < vectors; j++) {
        first[j] = v_load(b + j * VL);
        sum[0][j] = v_fma(v_set(a[0]), first[j], sum[0][j]);
    }
    QKV_UNROLL
    for (int i = 0; i < rows; i++, c += ldc) {
        const float *now = i < split ? a + i * row : lower + (i - split) * row;
        const float *next = i + 1 < split ? a + (i + 1) * row : lower + (i + 1 - split) * row;
        V factor = v_set(now[step]), next_factor = i + 1 < rows ? v_set(next[0]) : v_zero();
        QKV_UNROLL
        for (int j = 0; j < vectors; j++) {
            if (i == 0)
                second[j] = v_load(b + ldb + j * VL);
            sum[i][j] = v_fma(factor, second[j], sum[i][j]);
            v_store(c + j * VL, accumulate ? v_add(v_load(c + j * VL), sum[i][j]) : sum[i][j]);
            if (i + 1 < rows)
                sum[i + 1][j] = v_fma(next_factor, first[j], sum[i + 1][j]);
        }
    }
}

/* One tile of rows × vectors. With has_tail only the first lanes of the last vector are memory; C is padded scratch.
 * A lies in rows or, transposed, in columns. rows, vectors, has_tail, transposed and in_panels are constants; fetch is
 * a pointer or the constant NULL. */
QKV_INLINE void gemm_tile(int rows, int vectors, int has_tail, int transposed, int in_panels, const gemm_operands *o,
                          float *c, const float *a, const float *b, T tail, gemm_fetch *fetch) {
    V sum[2 * TILE_ROWS][STRIP_VECTORS];
    const ptrdiff_t row = transposed ? 1 : o->lda, step = transposed ? o->lda : 1, ldc = o->ldc;
    const int accumulate = o->accumulate;
    const ptrdiff_t ldb = in_panels ? QKV_PANEL : o->ldb; /* a constant costs no instruction at each step */
    const int split = rows > TILE_ROWS || transposed ? TILE_ROWS : TILE_ROWS / 2;
    const float *lower = rows > split ? a + split * row : a;
    QKV_OPAQUE(lower); /* else compilers address all rows from a, by more offsets than there are registers */
    size_t k = o->k;
    QKV_UNROLL
    for (int i = 0; i < rows; i++) {
        QKV_UNROLL
        for (int j = 0; j < vectors; j++)
            sum[i][j] = v_zero();
    }
#ifdef LANE_STEPS /* the set has a step of its own: so many columns of A at once, lane by lane */
    const int whole = 0;
    for (; rows <= TILE_ROWS && !has_tail && !transposed && k >= LANE_STEPS; k -= LANE_STEPS) {
        for (int x = 0; fetch && x < LANE_STEPS; x += rows < TILE_ROWS ? 1 : 2)
            gemm_fetch_lines(fetch);
        gemm_lanes(rows, vectors, sum, a, row, b, ldb);
        a += LANE_STEPS, lower += LANE_STEPS, b += LANE_STEPS * ldb;
    }
    for (; rows == TILE_ROWS && !has_tail && transposed && k >= 2; k -= 2) {
        QKV_UNROLL
        for (int x = 0; x < 2; x++, a += step, lower += step, b += ldb)
            gemm_lanes_t(vectors, sum, a, b);
    }
#else
    const int whole = rows >= TILE_ROWS && !has_tail;
#endif
    while (whole ? k % 2 == 1 : k > 0) {
        if (fetch && rows < TILE_ROWS)
            gemm_fetch_lines(fetch);
        gemm_step(rows, split, vectors, has_tail, tail, sum, a, lower, row, b);
        a += step, lower += step, b += ldb, k--;
    }
    if (whole && k > 0) {
        /* Two steps at a time: half the branches. With more, compilers run out of registers and copy sums about. */
        for (; k > 2; k -= 2) {
            if (fetch)
                gemm_fetch_lines(fetch);
            QKV_UNROLL
            for (int x = 0; x < 2; x++, a += step, lower += step, b += ldb)
                gemm_step(rows, split, vectors, 0, tail, sum, a, lower, row, b);
        }
        if (accumulate)
            gemm_last_steps(rows, split, vectors, sum, a, lower, row, step, b, ldb, c, ldc, 1);
        else
            gemm_last_steps(rows, split, vectors, sum, a, lower, row, step, b, ldb, c, ldc, 0);
        return;
    }
    QKV_UNROLL
    for (int i = 0; i < rows; i++, c += ldc) {
        QKV_UNROLL
        for (int j = 0; j < vectors; j++)
            v_store(c + j * VL, accumulate ? v_add(v_load(c + j * VL), sum[i][j]) : sum[i][j]);
    }
}

#define TRANSPOSED 0
#define PRODUCT(name) gemm##name
#include "gemm_tiles.inc.h"
#undef TRANSPOSED
#undef PRODUCT
#define TRANSPOSED 1
#define PRODUCT(name) gemm_t##name
#include "gemm_tiles.inc.h"
#undef TRANSPOSED
#undef PRODUCT

static void gemm(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb,
                 ptrdiff_t panel, size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
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
QKV_INLINE void sum_visible_strip(int vectors, int has_tail, T tail, float *o, const float *p, const float *t,
                                  const float *v, ptrdiff_t ldv, size_t k) {
    V sum[4];
    QKV_UNROLL
    for (int j = 0; j < vectors; j++)
        sum[j] = v_zero();
    for (size_t x = 0; x < k; x++, v += ldv) {
        if (t[x] == QKV_MINUS_INFINITY)
            continue;
        V factor = v_set(p[x]);
        QKV_UNROLL
        for (int j = 0; j < vectors; j++) {
            V row = has_tail && j == vectors - 1 ? v_load_tail(v + j * VL, tail) : v_load(v + j * VL);
            sum[j] = v_fma(factor, row, sum[j]);
        }
    }
    QKV_UNROLL
    for (int j = 0; j < vectors; j++)
        v_store(o + j * VL, sum[j]);
}

static void sum_visible(float *o, const float *p, const float *t, const float *v, ptrdiff_t ldv, size_t k,
                        size_t cols) {
    for (; cols >= 4 * VL; cols -= 4 * VL, o += 4 * VL, v += 4 * VL)
        sum_visible_strip(4, 0, v_tail(VL), o, p, t, v, ldv, k);
    for (; cols >= VL; cols -= VL, o += VL, v += VL)
        sum_visible_strip(1, 0, v_tail(VL), o, p, t, v, ldv, k);
    if (cols > 0)
        sum_visible_strip(1, 1, v_tail(cols), o, p, t, v, ldv, k);
    v_leave();
}

/* The first vectors of VL rows; of those present, only the first lanes are memory unless whole, which is a constant. */
QKV_INLINE void load_rows(int whole, V x[VL], const float *row, ptrdiff_t ld, size_t present, T tail) {
    QKV_UNROLL
    for (int i = 0; i < VL; i++) {
        if (i % 4 == 0)
            QKV_OPAQUE(row); /* a pointer to each row is more than fits the registers */
        if (whole)
            x[i] = v_load(row);
        else
            x[i] = (size_t)i < present ? v_load_tail(row, tail) : v_zero();
        row += ld;
    }
}

/* VL rows at a time through an in-register transpose; rows that don't exist are zero. */
static void pack(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k) {
    for (size_t r = 0; r < QKV_PANEL; r += VL) {
        size_t present = r >= rows ? 0 : rows - r < VL ? rows - r : VL;
        const float *from = src + (ptrdiff_t)r * ld;
        for (size_t c = 0; c < k; c += VL) {
            size_t width = k - c < VL ? k - c : VL;
            T tail = v_tail(width);
            V x[VL];
            if (present == VL && width == VL)
                load_rows(1, x, from + c, ld, VL, tail);
            else
                load_rows(0, x, from + c, present > 1 ? ld : 0, present, tail);
            v_transpose(x);
            float *to = panel + c * QKV_PANEL + r;
            if (width == VL) {
                QKV_UNROLL
                for (int i = 0; i < VL; i++)
                    v_store(to + i * QKV_PANEL, x[i]);
            } else {
                QKV_UNROLL
                for (int i = 0; i < VL; i++) {
                    if ((size_t)i < width)
                        v_store(to + i * QKV_PANEL, x[i]);
                }
            }
        }
    }
    v_leave();
}

/* VL columns of C for a constant number of rows: B a square at a time, turned in registers. */
QKV_INLINE void gemm_nt_columns(int rows, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b,
                                ptrdiff_t ldb, size_t cols, size_t k, int accumulate, gemm_fetch *fetch_own,
                                gemm_fetch *fetch) {
    V sum[QKV_FEW_ROWS];
    QKV_UNROLL
    for (int i = 0; i < rows; i++)
        sum[i] = v_zero();
    for (size_t x = 0; x < k; x += VL) {
        size_t width = k - x < VL ? k - x : VL;
        T tail = v_tail(width);
        V of_b[VL];
        if (cols == VL && width == VL)
            load_rows(1, of_b, b + x, ldb, VL, tail);
        else
            load_rows(0, of_b, b + x, cols > 1 ? ldb : 0, cols, tail);
        v_transpose(of_b);
        gemm_fetch_lines(fetch_own);
        gemm_fetch_lines(fetch);
        QKV_UNROLL
        for (int y = 0; y < VL; y++) {
            if (width < VL && (size_t)y >= width)
                break;
            QKV_UNROLL
            for (int i = 0; i < rows; i++)
                sum[i] = v_fma(v_set(a[i * lda + (ptrdiff_t)x + y]), of_b[y], sum[i]);
        }
    }
    QKV_UNROLL
    for (int i = 0; i < rows; i++, c += ldc)
        v_store(c, accumulate ? v_add(v_load(c), sum[i]) : sum[i]);
}

static void gemm_nt(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                    size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    /* A square reads VL rows at once, which no CPU takes for a stream. Those of the square after the next are fetched
     * in order meanwhile. */
    enum { AHEAD = 2 * VL };
    size_t steps = (cols + VL - 1) / VL * ((k + VL - 1) / VL);
    const qkv_soon own = {b + AHEAD * ldb, ldb, cols, k};
    gemm_fetch fetch = gemm_fetch_plan(soon, steps), fetch_own = gemm_fetch_plan(&own, steps);
    for (size_t j = 0; j < cols; j += VL, c += VL, b += VL * ldb) {
        size_t n = cols - j < VL ? cols - j : VL;
        switch (rows) {
        case 6: gemm_nt_columns(6, c, ldc, a, lda, b, ldb, n, k, accumulate, &fetch_own, &fetch); break;
        case 5: gemm_nt_columns(5, c, ldc, a, lda, b, ldb, n, k, accumulate, &fetch_own, &fetch); break;
        case 4: gemm_nt_columns(4, c, ldc, a, lda, b, ldb, n, k, accumulate, &fetch_own, &fetch); break;
        case 3: gemm_nt_columns(3, c, ldc, a, lda, b, ldb, n, k, accumulate, &fetch_own, &fetch); break;
        case 2: gemm_nt_columns(2, c, ldc, a, lda, b, ldb, n, k, accumulate, &fetch_own, &fetch); break;
        case 1: gemm_nt_columns(1, c, ldc, a, lda, b, ldb, n, k, accumulate, &fetch_own, &fetch); break;
        default: break;
        }
    }
    v_leave();
}
