/* Template: products for vectors without a fixed size. Such types can't be elements of arrays, so that each sum is a
 * variable with a name; what a tile does not have is a sum that nothing reads.
 *
 * A tile is up to TILE_ROWS rows × TILE_VECTORS(rows) vectors of C, held in registers over the whole inner dimension.
 * Lanes are columns, so that no result depends on how long a vector is; where a panel or the columns end, lanes are
 * off. Rows of B may be stored in any type: their elements become floats on the way to the registers.
 *
 * Needs the header of an instruction set (vgroup, vfactor, g_*), inside its target region, ../ref/scalar.h and
 * ../ref/storage.h.
 *
 * SPDX-License-Identifier: MIT */

_Static_assert(TILE_ROWS == 6 && NT_ROWS == TILE_ROWS, "what the tiles spell out");

/* Where a product's operands lie. Strides of A are from row to row and from term to term; of B from term to term, in
 * bytes where it is stored; panel is from one panel to the next. */
typedef struct tile_operands {
    ptrdiff_t ldc, row, step, ldb, panel;
    size_t rows, cols, k;
    int accumulate, resume; /* adds to C at the end; goes on from C, if B is stored */
} tile_operands;

/* What B is, beside the stored types: floats whose terms lie in rows, or in columns. */
enum { OF_FLOATS = -1, OF_COLUMNS = -2 };

/* A term of B for columns x …, of which a vector holds some. source is a constant. */
V_INLINE vgroup load_term(int source, vlanes on, const unsigned char *b, size_t x, ptrdiff_t ldb) {
    if (source == OF_COLUMNS)
        return g_load_apart(on, (const float *)(const void *)b + (ptrdiff_t)x * ldb, ldb);
    if (source == QKV_F16)
        return g_load_f16(on, b + 2 * x);
    if (source == QKV_BF16)
        return g_load_bf16(on, b + 2 * x);
    if (source == QKV_INT8)
        return g_load_i8(on, b + x);
    if (source == QKV_Q8_0) { /* b is a block */
        uint16_t scale;
        memcpy(&scale, b, sizeof scale);
        return g_mul_n(on, g_load_i8(on, b + sizeof scale + x), qkv_from_f16(scale));
    }
    return g_load(on, (const float *)(const void *)b + x);
}

#define TILE_SUM(i, j) sum_##i##_##j
#define TILE_EACH(f) QKV_ROWS(6, TILE_ROW, f)
#define TILE_ROW(i, f) QKV_COLS(4, f, i)
#define TILE_LANES(i, j) const vlanes on_##j = g_lanes_at(j * width, cols);
#define TILE_BEGIN(i, j) vgroup TILE_SUM(i, j) = g_zero(on_##j);
#define TILE_RESUME(i, j)                                                                                              \
    if (i < rows && j < vectors)                                                                                       \
        TILE_SUM(i, j) = g_load(on_##j, c + i * ldc + j * width);
#define TILE_A(i) (transposed ? a_0 + i : a_##i + x)
#define TILE_POINTER(i, j) const float *a_##i = a + (i < rows && !transposed ? i * o->row : 0);
#define TILE_LOAD(i, j)                                                                                                \
    const vgroup of_b_##j = load_term(source, on_##j, b, begin + (j < vectors ? j * width : 0), ldb);
#define TILE_FMA(i, j)                                                                                                 \
    if (i < rows && j < vectors)                                                                                       \
        TILE_SUM(i, j) = g_fma(on_##j, TILE_SUM(i, j), factor_##i, of_b_##j);
#define TILE_FACTOR(i, j)                                                                                              \
    if (i < rows) {                                                                                                    \
        const vfactor factor_##i = g_factor(TILE_A(i));                                                                \
        QKV_COLS(4, TILE_FMA, i)                                                                                       \
    }                                                                                                                  \
    if (i % 2 == 1) {                                                                                                  \
        TILE_FENCE                                                                                                     \
    }
#define TILE_LOAD_FMA(i, j)                                                                                            \
    if (j < vectors) {                                                                                                 \
        TILE_LOAD(0, j)                                                                                                \
        TILE_FMA(0, j)                                                                                                 \
        if (rows == 2) {                                                                                               \
            TILE_FMA(1, j)                                                                                             \
        }                                                                                                              \
    }
/* Term x from where the pointers are. One or two rows meet each vector of B as it comes. */
#define TILE_STEP(number)                                                                                              \
    {                                                                                                                  \
        const int x = number;                                                                                          \
        TILE_FENCE                                                                                                     \
        if (rows <= 2) {                                                                                               \
            const vfactor factor_0 = g_factor(TILE_A(0)), factor_1 = g_factor(rows == 2 ? TILE_A(1) : a_0);            \
            QKV_COLS(4, TILE_LOAD_FMA, 0)                                                                              \
        } else {                                                                                                       \
            QKV_COLS(4, TILE_LOAD, 0)                                                                                  \
            QKV_ROWS(6, TILE_FACTOR, 0)                                                                                \
        }                                                                                                              \
        b += of_columns ? (ptrdiff_t)sizeof(float) : stride;                                                           \
        if (transposed)                                                                                                \
            a_0 += o->step;                                                                                            \
    }
#define TILE_NEXT(i, j)                                                                                                \
    if (i < rows && !transposed) {                                                                                     \
        a_##i += terms;                                                                                                \
        QKV_OPAQUE(a_##i); /* a pointer to each row: addresses have offsets only, and no index */                      \
    }
#define TILE_END(i, j)                                                                                                 \
    if (i < rows && j < vectors) {                                                                                     \
        float *to = c + i * ldc + j * width;                                                                           \
        g_store(on_##j, to, o->accumulate ? g_add(on_##j, g_load(on_##j, to), TILE_SUM(i, j)) : TILE_SUM(i, j));       \
    }

/* rows, vectors, transposed and source are constants; cols > 0; a block's column `first` is the first one. Four terms
 * at a time. */
V_INLINE void multiply_tile(int rows, int vectors, int transposed, int source, const tile_operands *o, float *c,
                            const float *a, const unsigned char *b, size_t first, size_t cols) {
    const int of_columns = source == OF_COLUMNS;
    const size_t width = g_width(), begin = source == QKV_Q8_0 ? first : 0;
    const ptrdiff_t ldc = o->ldc, ldb = o->ldb, stride = source < 0 ? ldb * (ptrdiff_t)sizeof(float) : ldb;
    QKV_COLS(4, TILE_LANES, 0)
    TILE_EACH(TILE_BEGIN)
    if (source >= 0 && o->resume) {
        TILE_EACH(TILE_RESUME)
    }
    QKV_OPAQUE(c); /* its addresses are worked out again at the end, and take no registers meanwhile */
    QKV_ROWS(6, TILE_POINTER, 0)
    size_t k = o->k;
    for (; k >= 4; k -= 4) {
        enum { terms = 4 };
        TILE_STEP(0)
        TILE_STEP(1)
        TILE_STEP(2)
        TILE_STEP(3)
        QKV_ROWS(6, TILE_NEXT, 0)
    }
    for (; k > 0; k--) {
        enum { terms = 1 };
        TILE_STEP(0)
        QKV_ROWS(6, TILE_NEXT, 0)
    }
    QKV_OPAQUE(c);
    TILE_EACH(TILE_END)
}

typedef void tile_function(const tile_operands *o, float *c, const float *a, const unsigned char *b, size_t first,
                           size_t cols);

/* Tiles as functions, each with registers of its own. */
#define TILE(rows, vectors, name, transposed, source)                                                                  \
    static V_TARGET QKV_NOINLINE void name##_##rows##_##vectors(const tile_operands *o, float *c, const float *a,      \
                                                                const unsigned char *b, size_t first, size_t cols) {   \
        multiply_tile(rows, vectors, transposed, source, o, c, a, b, first, cols);                                     \
    }
#define TILES_TO_1(rows, ...) TILE(rows, 1, __VA_ARGS__)
#define TILES_TO_2(rows, ...) TILES_TO_1(rows, __VA_ARGS__) TILE(rows, 2, __VA_ARGS__)
#define TILES_TO_4(rows, ...) TILES_TO_2(rows, __VA_ARGS__) TILE(rows, 4, __VA_ARGS__)
#define TILES_UP_TO(vectors, ...) TILES_UP_TO_OF(vectors, __VA_ARGS__)
#define TILES_UP_TO_OF(vectors, ...) TILES_TO_##vectors(__VA_ARGS__)
#define NAMES_TO_1(rows, name)                                                                                         \
    { name##_##rows##_1, NULL, NULL }
#define NAMES_TO_2(rows, name)                                                                                         \
    { name##_##rows##_1, name##_##rows##_2, NULL }
#define NAMES_TO_4(rows, name)                                                                                         \
    { name##_##rows##_1, name##_##rows##_2, name##_##rows##_4 }
#define NAMES_UP_TO(vectors, ...) NAMES_UP_TO_OF(vectors, __VA_ARGS__)
#define NAMES_UP_TO_OF(vectors, ...) NAMES_TO_##vectors(__VA_ARGS__)

/* All tiles of a kind, and a table of them: by height, and by 1, 2, 4 vectors. What converts elements on the way needs
 * registers for that, so it has no tile of 6 rows; loads of single floats are the work of a product with them, so that
 * one vector is as good as several. */
enum { TILE_HEIGHTS = 5, STORED_ROWS = 4 };
static const uint8_t tile_heights[TILE_HEIGHTS] = {1, 2, 3, 4, 6};
static const uint8_t tile_vectors[TILE_HEIGHTS] = {TILE_VECTORS_1, TILE_VECTORS_2, TILE_VECTORS_3, TILE_VECTORS_4,
                                                   TILE_VECTORS_6};
static const uint8_t stored_vectors[TILE_HEIGHTS] = {STORED_VECTORS_1, STORED_VECTORS_2, STORED_VECTORS_3,
                                                     STORED_VECTORS_4};
#define TILES_OF_4(most, ...)                                                                                          \
    TILES_UP_TO(most##_1, 1, __VA_ARGS__)                                                                              \
    TILES_UP_TO(most##_2, 2, __VA_ARGS__)                                                                              \
    TILES_UP_TO(most##_3, 3, __VA_ARGS__)                                                                              \
    TILES_UP_TO(most##_4, 4, __VA_ARGS__)
#define NAMES_OF_4(most, name)                                                                                         \
    NAMES_UP_TO(most##_1, 1, name), NAMES_UP_TO(most##_2, 2, name), NAMES_UP_TO(most##_3, 3, name),                    \
        NAMES_UP_TO(most##_4, 4, name)
#define TILES(name, ...)                                                                                               \
    TILES_OF_4(TILE_VECTORS, name, __VA_ARGS__)                                                                        \
    TILES_UP_TO(TILE_VECTORS_6, 6, name, __VA_ARGS__)                                                                  \
    static tile_function *const name[TILE_HEIGHTS][3] = {NAMES_OF_4(TILE_VECTORS, name),                               \
                                                         NAMES_UP_TO(TILE_VECTORS_6, 6, name)};
#define TILES_STORED(name, ...)                                                                                        \
    TILES_OF_4(STORED_VECTORS, name, __VA_ARGS__)                                                                      \
    static tile_function *const name[TILE_HEIGHTS][3] = {NAMES_OF_4(STORED_VECTORS, name)};
#define TILES_NARROW(name, ...)                                                                                        \
    TILE(1, 1, name, __VA_ARGS__)                                                                                      \
    TILE(2, 1, name, __VA_ARGS__)                                                                                      \
    TILE(3, 1, name, __VA_ARGS__)                                                                                      \
    TILE(4, 1, name, __VA_ARGS__)                                                                                      \
    TILE(6, 1, name, __VA_ARGS__)                                                                                      \
    static tile_function *const name[TILE_HEIGHTS][3] = {{name##_1_1, NULL, NULL},                                     \
                                                         {name##_2_1, NULL, NULL},                                     \
                                                         {name##_3_1, NULL, NULL},                                     \
                                                         {name##_4_1, NULL, NULL},                                     \
                                                         {name##_6_1, NULL, NULL}};

TILES(gemm_rows, 0, OF_FLOATS)
TILES(gemm_transposed, 1, OF_FLOATS)
TILES_NARROW(gemm_columns, 0, OF_COLUMNS)
TILES(stored_f32, 0, QKV_F32)
TILES_STORED(stored_f16, 0, QKV_F16)
TILES_STORED(stored_bf16, 0, QKV_BF16)
TILES_STORED(stored_int8, 0, QKV_INT8)
TILES_STORED(stored_q8_0, 0, QKV_Q8_0)

V_INLINE size_t tallest_tile(int source) { return source > QKV_F32 ? STORED_ROWS : TILE_ROWS; }

/* The next tile's height, as an index: of what is left, cut in two where the rest would be low. */
V_INLINE size_t next_height(size_t rows, size_t tallest) {
    const size_t height = rows <= tallest ? rows : rows < 2 * tallest ? (rows + 1) / 2 : tallest;
    return height == 5 ? 2 : height == 6 ? 4 : height - 1;
}

/* Columns of B that follow each other from one address: of a panel, of a block, or all of them. */
V_INLINE size_t columns_together(int source, size_t j, size_t cols) {
    const size_t unit = source == OF_FLOATS ? QKV_PANEL : source == QKV_Q8_0 ? QKV_Q8_0_CHANNELS : cols;
    const size_t left = unit - j % unit;
    return left < cols - j ? left : cols - j;
}

V_INLINE const unsigned char *column_of_b(int source, const tile_operands *o, const unsigned char *b, size_t j) {
    const ptrdiff_t size = (ptrdiff_t)sizeof(float), column = (ptrdiff_t)j;
    if (source == OF_FLOATS)
        return b + (column / QKV_PANEL * o->panel + column % QKV_PANEL) * size;
    if (source == OF_COLUMNS)
        return b + column * o->ldb * size;
    return b + (ptrdiff_t)qkv_stored_bytes(source, (int64_t)j);
}

/* Strip by strip of columns, as wide as the first tile, which is the tallest: what it has read of B is near for those
 * below it. */
V_INLINE void multiply(tile_function *const tiles[TILE_HEIGHTS][3], int source, const tile_operands *o, float *c,
                       const float *a, const void *data) {
    if (o->rows == 0)
        return;
    const size_t width = g_width(), tallest = tallest_tile(source);
    const uint8_t *const vectors_of = source > QKV_F32 ? stored_vectors : tile_vectors;
    const size_t most = source == OF_COLUMNS ? width : vectors_of[next_height(o->rows, tallest)] * width;
    for (size_t j = 0, cols; j < o->cols; j += cols) {
        cols = columns_together(source, j, o->cols);
        cols = cols < most ? cols : most;
        const unsigned char *b = column_of_b(source, o, (const unsigned char *)data, j);
        const size_t first = source == QKV_Q8_0 ? j % QKV_Q8_0_CHANNELS : 0;
        const size_t vectors = cols > 2 * width ? 2 : cols > width ? 1 : 0; /* log2 */
        const float *row_of_a = a;
        float *to = c + j;
        for (size_t i = 0, height; i < o->rows; i += height) {
            const size_t index = next_height(o->rows - i, tallest);
            height = tile_heights[index];
            tiles[index][vectors](o, to, row_of_a, b, first, cols);
            row_of_a += (ptrdiff_t)height * o->row;
            to += (ptrdiff_t)height * o->ldc;
        }
    }
}

static void gemm(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t panel,
                 size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    (void)soon;
    multiply(gemm_rows, OF_FLOATS, &(tile_operands){ldc, lda, 1, ldb, panel, rows, cols, k, accumulate, 0}, c, a, b);
}

static void gemm_t(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                   size_t cols, size_t k, int accumulate) {
    multiply(gemm_transposed, OF_FLOATS, &(tile_operands){ldc, 1, lda, ldb, QKV_PANEL, rows, cols, k, accumulate, 0}, c,
             a, b);
}

static void gemm_nt(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                    size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    (void)soon;
    multiply(gemm_columns, OF_COLUMNS, &(tile_operands){ldc, lda, 1, ldb, 0, rows, cols, k, accumulate, 0}, c, a, b);
}

static void gemm_stored(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const void *b, ptrdiff_t stride,
                        int type, size_t rows, size_t cols, size_t k, int resume, const qkv_soon *soon) {
    (void)soon;
    const tile_operands o = {ldc, lda, 1, stride, 0, rows, cols, k, 0, resume};
    switch (type) {
    case QKV_F16: multiply(stored_f16, QKV_F16, &o, c, a, b); break;
    case QKV_BF16: multiply(stored_bf16, QKV_BF16, &o, c, a, b); break;
    case QKV_INT8: multiply(stored_int8, QKV_INT8, &o, c, a, b); break;
    case QKV_Q8_0: multiply(stored_q8_0, QKV_Q8_0, &o, c, a, b); break;
    default: multiply(stored_f32, QKV_F32, &o, c, a, b);
    }
}

/* One row, some vectors of columns at a time. */
#define VISIBLE_ZERO(i, j) vgroup sum_##j = g_zero(on_##j);
#define VISIBLE_FMA(i, j) sum_##j = g_fma(on_##j, sum_##j, factor, g_load(on_##j, v + j * width));
#define VISIBLE_STORE(i, j) g_store(on_##j, o + j * width, sum_##j);
static void sum_visible(float *o, const float *p, const float *t, const float *v, ptrdiff_t ldv, size_t k,
                        size_t cols) {
    const size_t width = g_width(), strip = 4 * width;
    for (size_t done = 0; done < cols; done += strip, o += strip, v += strip) {
        const size_t left = cols - done;
        const float *const begin = v;
        const vlanes on_0 = g_lanes_at(0, left), on_1 = g_lanes_at(width, left);
        const vlanes on_2 = g_lanes_at(2 * width, left), on_3 = g_lanes_at(3 * width, left);
        QKV_COLS(4, VISIBLE_ZERO, 0)
        for (size_t x = 0; x < k; x++, v += ldv) {
            if (qkv_is_minus_infinity(t[x]))
                continue;
            const vfactor factor = g_factor(p + x);
            QKV_COLS(4, VISIBLE_FMA, 0)
        }
        QKV_COLS(4, VISIBLE_STORE, 0)
        v = begin;
    }
}

/* Some rows at a time, of which lanes are one each, as columns of the panel. */
static void pack(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k) {
    const size_t width = g_width();
    for (size_t r = 0; r < QKV_PANEL; r += width) {
        for (size_t c = 0; r < rows && c < k; c++) {
            const vlanes on = g_lanes_at(r, rows);
            g_store(on, panel + c * QKV_PANEL + r, g_load_apart(on, src + (ptrdiff_t)r * ld + (ptrdiff_t)c, ld));
        }
        const size_t first = r < rows ? rows : r, end = r + width < QKV_PANEL ? r + width : QKV_PANEL;
        for (size_t c = 0; first < end && c < k; c++) {
            const vlanes on = g_lanes_at(first, end);
            g_store(on, panel + c * QKV_PANEL + first, g_zero(on));
        }
    }
}
