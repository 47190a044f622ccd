/* Products in f32 by tiles of 4 rows × 1 vector, 2 × 2 or 1 × 4: of eight vector registers four are sums, and factors
 * of A are in core registers, where an instruction takes them from. A tile's results are stored if nothing was flushed
 * on the way (simd_helium.h); else the portable set calculates it.
 *
 * SPDX-License-Identifier: MIT */

/* What rows of B are: floats that follow each other, in a panel, elsewhere, or fewer of them than a vector; rows of Bᵀ,
 * of which each lane has one; or stored elements. */
enum { B_PANEL, B_WHOLE, B_TAIL, B_TURNED, B_STORED };

typedef struct tile {
    float *c;
    const float *a;
    const unsigned char *b;     /* first term of the tile's first column; of QKV_Q8_0 its block */
    ptrdiff_t ldc, lda, stride; /* floats, floats, bytes from term to term of B */
    size_t k;
    uint32x4_t offsets; /* bytes from the first lane to each, with B_TURNED */
    mve_pred16_t lanes;
    int accumulate, resume;
    size_t column; /* of QKV_Q8_0: in the block */
} tile;

/* Vector j of a tile's columns at p. kind, type and j are constants. */
QKV_INLINE vec load_b(int kind, int type, const unsigned char *p, int j, const tile *t) {
    if (kind == B_TURNED)
        return vldrwq_gather_offset_z_f32((const float *)(const void *)p, t->offsets, t->lanes);
    if (kind == B_TAIL)
        return vldrwq_z_f32((const float *)(const void *)p, t->lanes);
    if (kind == B_STORED && type == QKV_Q8_0) {
        const unsigned char *q = p + 2 + t->column;
        return vmulq_n_f32(vcvtq_f32_s32(vldrbq_z_s32((const int8_t *)q, t->lanes)), set_f16(p));
    }
    if (kind == B_STORED)
        return load_stored_lanes(type, p, t->lanes);
    return vldrwq_f32((const float *)(const void *)p + j * VLEN);
}

/* Two terms of a row of A at p, which moves on. Compilers load one by one. */
QKV_INLINE void load_pair(float *first, float *second, const float **p) {
    __asm__("ldrd %0, %1, [%2], #8" : "=&r"(*first), "=&r"(*second), "+r"(*p) : "m"(*(const float(*)[2])(*p)));
}

#define SUM(i, j) sum_##i##_##j
#define TILE_A(i, j) const float *a_##i = t->a + i * (transposed ? 1 : t->lda);
#define TILE_START(i, j) vec SUM(i, j) = t->resume ? vldrwq_f32(t->c + i * t->ldc + j * VLEN) : vdupq_n_f32(0);
#define TILE_START_ROW(i, vectors) QKV_COLS(vectors, TILE_START, i)
#define TILE_B(i, j) const vec b_##j = load_b(kind, type, b, j, t);
#define TILE_FMA(i, j) SUM(i, j) = vfmaq_n_f32(SUM(i, j), b_##j, factor);
#define TILE_FMA_ROW(i, vectors)                                                                                       \
    {                                                                                                                  \
        const float factor = transposed ? a_0[i] : *a_##i++;                                                           \
        QKV_COLS(vectors, TILE_FMA, i)                                                                                 \
    }
#define TILE_NEXT_B(i, j) const vec next_##j = load_b(kind, type, b, j, t);
#define TILE_PAIR_FMA(i, j)                                                                                            \
    SUM(i, j) = vfmaq_n_f32(SUM(i, j), b_##j, first);                                                                  \
    SUM(i, j) = vfmaq_n_f32(SUM(i, j), next_##j, second);
#define TILE_PAIR_ROW(i, vectors)                                                                                      \
    {                                                                                                                  \
        float first, second;                                                                                           \
        load_pair(&first, &second, &a_##i);                                                                            \
        QKV_COLS(vectors, TILE_PAIR_FMA, i)                                                                            \
    }
#define TILE_ADD(i, j)                                                                                                 \
    if (t->accumulate)                                                                                                 \
        SUM(i, j) = vaddq_f32(vldrwq_f32(t->c + i * t->ldc + j * VLEN), SUM(i, j));                                    \
    V_ORDERED(SUM(i, j));
#define TILE_ADD_ROW(i, vectors) QKV_COLS(vectors, TILE_ADD, i)
#define TILE_STORE(i, j) vstrwq_f32(t->c + i * t->ldc + j * VLEN, SUM(i, j));
#define TILE_STORE_ROW(i, vectors) QKV_COLS(vectors, TILE_STORE, i)

/* False: something was flushed, and nothing is stored. */
#define TILE(name, kind_of_b, type_of_b, is_transposed, rows, vectors)                                                 \
    static QKV_NOINLINE int name##_##rows##x##vectors(const tile *t) {                                                 \
        const int kind = kind_of_b, type = type_of_b, transposed = is_transposed;                                      \
        const unsigned char *b = t->b;                                                                                 \
        const ptrdiff_t stride = kind == B_PANEL ? QKV_WORD_ROW : t->stride, lda = t->lda;                             \
        size_t k = t->k;                                                                                               \
        QKV_ROWS(rows, TILE_A, 0)                                                                                      \
        QKV_ROWS(rows, TILE_START_ROW, vectors)                                                                        \
        for (; (kind == B_PANEL || kind == B_WHOLE) && !transposed && vectors < 4 && k >= 2; k -= 2) {                 \
            QKV_COLS(vectors, TILE_B, 0)                                                                               \
            b += stride;                                                                                               \
            QKV_OPAQUE(b); /* or GCC copies it */                                                                      \
            QKV_COLS(vectors, TILE_NEXT_B, 0)                                                                          \
            b += stride;                                                                                               \
            QKV_ROWS(rows, TILE_PAIR_ROW, vectors)                                                                     \
        }                                                                                                              \
        for (; k > 0; k--) {                                                                                           \
            QKV_COLS(vectors, TILE_B, 0)                                                                               \
            QKV_ROWS(rows, TILE_FMA_ROW, vectors)                                                                      \
            b += stride;                                                                                               \
            if (transposed)                                                                                            \
                a_0 += lda;                                                                                            \
        }                                                                                                              \
        QKV_ROWS(rows, TILE_ADD_ROW, vectors)                                                                          \
        if (was_flushed())                                                                                             \
            return 0;                                                                                                  \
        QKV_ROWS(rows, TILE_STORE_ROW, vectors)                                                                        \
        return 1;                                                                                                      \
    }

typedef int tile_function(const tile *);

/* Tiles by their height: 4, 2, 1; and wide ones of 2 and 1, or NULL. */
typedef struct shapes {
    tile_function *four, *two, *one, *wide_two, *wide_one;
} shapes;
#define TILES(name, kind, type, transposed)                                                                            \
    TILE(name, kind, type, transposed, 4, 1)                                                                           \
    TILE(name, kind, type, transposed, 2, 1)                                                                           \
    TILE(name, kind, type, transposed, 1, 1)
#define WIDE_TILES(name, kind, type)                                                                                   \
    TILES(name, kind, type, 0)                                                                                         \
    TILE(name, kind, type, 0, 2, 2)                                                                                    \
    TILE(name, kind, type, 0, 1, 4)
#define SHAPES(name)                                                                                                   \
    { name##_4x1, name##_2x1, name##_1x1, NULL, NULL }
#define WIDE_SHAPES(name)                                                                                              \
    { name##_4x1, name##_2x1, name##_1x1, name##_2x2, name##_1x4 }

WIDE_TILES(panel, B_PANEL, QKV_F32)
WIDE_TILES(whole, B_WHOLE, QKV_F32)
TILES(tail, B_TAIL, QKV_F32, 0)
TILES(whole_t, B_WHOLE, QKV_F32, 1)
TILES(tail_t, B_TAIL, QKV_F32, 1)
TILES(turned, B_TURNED, QKV_F32, 0)
TILES(of_f16, B_STORED, QKV_F16, 0)
TILES(of_bf16, B_STORED, QKV_BF16, 0)
TILES(of_int8, B_STORED, QKV_INT8, 0)
TILES(of_q8_0, B_STORED, QKV_Q8_0, 0)

static const shapes panel_tiles = WIDE_SHAPES(panel), whole_tiles = WIDE_SHAPES(whole), tail_tiles = SHAPES(tail),
                    whole_t_tiles = SHAPES(whole_t), tail_t_tiles = SHAPES(tail_t), turned_tiles = SHAPES(turned);
static const shapes stored_tiles[5] = {[QKV_F32] = SHAPES(tail),
                                       [QKV_F16] = SHAPES(of_f16),
                                       [QKV_BF16] = SHAPES(of_bf16),
                                       [QKV_Q8_0] = SHAPES(of_q8_0),
                                       [QKV_INT8] = SHAPES(of_int8)};

/* A product: which entry it is of, its arguments, and tiles for whole vectors of columns and for the last ones. */
enum { OF_GEMM, OF_GEMM_T, OF_GEMM_NT, OF_GEMM_STORED };
typedef struct product {
    int entry, type;
    const shapes *whole, *edge;
    tile tile;            /* its first one, and what all share */
    ptrdiff_t ldb, panel; /* floats */
    size_t rows, cols;
} product;

/* Term by term, as the tile's columns may be the middle of a block. */
static void calculate_blocks_exactly(const tile *t, size_t rows, size_t cols) {
    float widened[QKV_Q8_0_CHANNELS];
    const unsigned char *b = t->b;
    for (size_t x = 0; x < t->k; x++, b += t->stride) {
        qkv_kernels_portable.widen(widened, 0, b, 0, QKV_Q8_0, 1, QKV_Q8_0_CHANNELS);
        qkv_kernels_portable.gemm_stored(t->c, t->ldc, t->a + x, t->lda, widened + t->column, 0, QKV_F32, rows, cols, 1,
                                         t->resume || x > 0, NULL);
    }
}

/* The entry itself writes more columns than a tile has. */
static void calculate_turned_exactly(const tile *t, const float *b, ptrdiff_t ldb, size_t rows, size_t cols) {
    float sums[4][QKV_LANES];
    qkv_kernels_portable.gemm_nt(sums[0], QKV_LANES, t->a, t->lda, b, ldb, rows, cols, t->k, 0, NULL);
    for (size_t i = 0; i < rows; i++) {
        float *c = t->c + (ptrdiff_t)i * t->ldc;
        for (size_t j = 0; j < cols; j++)
            c[j] = t->accumulate ? c[j] + sums[i][j] : sums[i][j];
    }
}

/* The same by the scalar FPU, of some rows and columns that begin where the tile does. */
static QKV_NOINLINE void calculate_exactly(const product *p, const tile *t, size_t rows, size_t cols) {
    const float *b = (const float *)(const void *)t->b;
    const qkv_kernels *exact = &qkv_kernels_portable;
    switch (p->entry) {
    case OF_GEMM:
        exact->gemm(t->c, t->ldc, t->a, t->lda, b, p->ldb, p->panel, rows, cols, t->k, t->accumulate, NULL);
        break;
    case OF_GEMM_T: exact->gemm_t(t->c, t->ldc, t->a, t->lda, b, p->ldb, rows, cols, t->k, t->accumulate); break;
    case OF_GEMM_NT: calculate_turned_exactly(t, b, p->ldb, rows, cols); break;
    default:
        if (p->type == QKV_Q8_0)
            calculate_blocks_exactly(t, rows, cols);
        else
            exact->gemm_stored(t->c, t->ldc, t->a, t->lda, t->b, t->stride, p->type, rows, cols, t->k, t->resume, NULL);
    }
    FLUSHES_CLEAR();
}

/* The tile's columns from j on. */
static void go_to_column(const product *p, tile *t, size_t j) {
    const unsigned char *b = p->tile.b;
    t->c = p->tile.c + j;
    t->a = p->tile.a;
    t->lanes = lanes_of(p->cols - j);
    switch (p->entry) {
    case OF_GEMM_NT: t->b = b + (ptrdiff_t)j * p->ldb * (ptrdiff_t)sizeof(float); break;
    case OF_GEMM_STORED:
        t->column = p->type == QKV_Q8_0 ? j % QKV_Q8_0_CHANNELS : 0;
        t->b = b + qkv_stored_bytes(p->type, (int64_t)(j - t->column));
        break;
    default: t->b = b + ((ptrdiff_t)(j / QKV_PANEL) * p->panel + (ptrdiff_t)(j % QKV_PANEL)) * (ptrdiff_t)sizeof(float);
    }
}

/* So many rows of the tile's columns; it moves on below them. */
QKV_INLINE void run_tile(tile_function *run, const product *p, tile *t, size_t rows, size_t cols) {
    if (!run(t))
        calculate_exactly(p, t, rows, cols);
    t->c += (ptrdiff_t)rows * t->ldc;
    t->a += (ptrdiff_t)rows * (p->entry == OF_GEMM_T ? 1 : t->lda);
}

static void multiply(const product *p) {
    const uint32_t flags = flushes_begin();
    const size_t whole = p->cols / VLEN * VLEN, fours = p->rows / 4;
    tile t = p->tile;
    for (size_t j = 0; fours > 0 && j < p->cols; j += VLEN) {
        tile_function *const run = (j < whole ? p->whole : p->edge)->four;
        go_to_column(p, &t, j);
        for (size_t n = fours; n > 0; n--)
            run_tile(run, p, &t, 4, j < whole ? VLEN : p->cols - j);
    }
    const size_t rest = p->rows % 4;
    for (size_t j = 0, width; rest > 0 && j < p->cols; j += width) {
        const shapes *const tiles = j < whole ? p->whole : p->edge;
        const int is_wide = rest == 1 ? tiles->wide_one && p->cols - j >= 4 * VLEN
                                      : tiles->wide_two && p->cols - j >= 2 * VLEN && rest == 2;
        width = !is_wide ? VLEN : rest == 1 ? 4 * VLEN : 2 * VLEN;
        const size_t cols = p->cols - j < width ? p->cols - j : width;
        go_to_column(p, &t, j);
        t.c += (ptrdiff_t)(4 * fours) * t.ldc;
        t.a += (ptrdiff_t)(4 * fours) * (p->entry == OF_GEMM_T ? 1 : t.lda);
        if (rest >= 2)
            run_tile(is_wide ? tiles->wide_two : tiles->two, p, &t, 2, cols);
        if (rest != 2)
            run_tile(is_wide ? tiles->wide_one : tiles->one, p, &t, 1, cols);
    }
    flushes_end(flags);
}

enum { BYTES = sizeof(float) };

/* Of floats, B in rows. */
static void multiply_rows(int entry, const shapes *whole, const shapes *edge, float *c, ptrdiff_t ldc, const float *a,
                          ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t panel, size_t rows, size_t cols,
                          size_t k, int accumulate) {
    const product p = {.entry = entry,
                       .whole = whole,
                       .edge = edge,
                       .tile = {.c = c,
                                .a = a,
                                .b = (const unsigned char *)b,
                                .ldc = ldc,
                                .lda = lda,
                                .stride = ldb * BYTES,
                                .k = k,
                                .accumulate = accumulate},
                       .ldb = ldb,
                       .panel = panel,
                       .rows = rows,
                       .cols = cols};
    multiply(&p);
}

static void gemm(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t panel,
                 size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    (void)soon;
    multiply_rows(OF_GEMM, ldb == QKV_PANEL ? &panel_tiles : &whole_tiles, &tail_tiles, c, ldc, a, lda, b, ldb, panel,
                  rows, cols, k, accumulate);
}

static void gemm_t(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                   size_t cols, size_t k, int accumulate) {
    multiply_rows(OF_GEMM_T, &whole_t_tiles, &tail_t_tiles, c, ldc, a, lda, b, ldb, QKV_PANEL, rows, cols, k,
                  accumulate);
}

static void gemm_nt(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                    size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    (void)soon;
    const product p = {.entry = OF_GEMM_NT,
                       .whole = &turned_tiles,
                       .edge = &turned_tiles,
                       .tile = {.c = c,
                                .a = a,
                                .b = (const unsigned char *)b,
                                .ldc = ldc,
                                .lda = lda,
                                .stride = BYTES,
                                .k = k,
                                .offsets = lane_offsets(ldb * BYTES),
                                .accumulate = accumulate},
                       .ldb = ldb,
                       .rows = rows,
                       .cols = cols};
    multiply(&p);
}

static void gemm_stored(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const void *b, ptrdiff_t stride,
                        int type, size_t rows, size_t cols, size_t k, int resume, const qkv_soon *soon) {
    (void)soon;
    const product p = {.entry = OF_GEMM_STORED,
                       .type = type,
                       .whole = type == QKV_F32 ? &whole_tiles : &stored_tiles[type],
                       .edge = &stored_tiles[type],
                       .tile = {.c = c,
                                .a = a,
                                .b = (const unsigned char *)b,
                                .ldc = ldc,
                                .lda = lda,
                                .stride = stride,
                                .k = k,
                                .resume = resume},
                       .rows = rows,
                       .cols = cols};
    multiply(&p);
}
