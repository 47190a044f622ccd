/* Template: products of ROWS rows, a literal, with stored elements. Part of stored.inc.h, which has the macros.
 *
 * SPDX-License-Identifier: MIT */

/* The most vectors of columns at once: sums enough to hide the latency of fma, with registers left for operands. */
#if STRIP_VECTORS == 4
#if ROWS == 6 && VLEN == 4 /* 24 sums leave GCC too few registers on NEON */
#define STORED_VECTORS 2
#else
#define STORED_VECTORS 4
#endif
#elif ROWS == 1
#define STORED_VECTORS 8
#elif ROWS == 2
#define STORED_VECTORS 4
#elif ROWS <= 4
#define STORED_VECTORS 3
#else
#define STORED_VECTORS 2
#endif
enum { STORED_WIDTH(ROWS) = STORED_VECTORS };

/* So many vectors of columns from channel `first` on. resume: the sums go on from C. */
#define STORED_TILE(vectors) STORED_TILE_OF(vectors)
#define STORED_TILE_OF(vectors)                                                                                        \
    QKV_INLINE void TILE_NAME(stored_tile_, ROWS, vectors, )(int type, const stored_operands *o, float *c,             \
                                                             const float *a, const unsigned char *b, size_t first,     \
                                                             gemm_fetch *fetch) {                                      \
        const ptrdiff_t row = o->lda, ldc = o->ldc, stride = o->stride;                                                \
        const int resume = o->resume, split = ROWS > 3 ? 3 : ROWS;                                                     \
        const float *lower = ROWS > split ? a + split * row : a;                                                       \
        QKV_OPAQUE(lower);                                                                                             \
        /* Tiles as wide as whole blocks begin with one: what comes before them is as wide, or a multiple. */          \
        const int in_blocks = type == QKV_Q8_0 && vectors * VLEN % QKV_Q8_0_CHANNELS != 0;                             \
        const size_t begin = in_blocks ? first : 0;                                                                    \
        b += in_blocks ? 0 : qkv_stored_bytes(type, (int64_t)first);                                                   \
        QKV_ROWS(ROWS, STORED_BEGIN_##vectors, 0)                                                                      \
        for (size_t k = o->k; k > 0; k--, a++, lower++) {                                                              \
            gemm_fetch_lines(fetch);                                                                                   \
            STORED_STEP(vectors)                                                                                       \
        }                                                                                                              \
        QKV_ROWS(ROWS, STORED_STORE_##vectors, 0)                                                                      \
    }
STORED_TILE(STORED_VECTORS)
#if STORED_VECTORS != 2
STORED_TILE(2)
#endif
STORED_TILE(1)

/* All columns. */
QKV_INLINE void TILE_NAME(stored_product_, ROWS, 0, )(int type, const stored_operands *o, float *c, const float *a,
                                                      const unsigned char *b, gemm_fetch *fetch_of_all) {
    gemm_fetch fetch = *fetch_of_all;
    size_t j = 0;
    for (size_t left; (left = (o->cols - j) / VLEN) > 0;) {
        if (left >= STORED_VECTORS && !(STORED_VECTORS == 3 && left == 4)) {
            TILE_NAME(stored_tile_, ROWS, STORED_VECTORS, )(type, o, c + j, a, b, j, &fetch);
            j += STORED_VECTORS * VLEN;
        } else if (left >= 2) {
            TILE_NAME(stored_tile_, ROWS, 2, )(type, o, c + j, a, b, j, &fetch);
            j += 2 * VLEN;
        } else {
            TILE_NAME(stored_tile_, ROWS, 1, )(type, o, c + j, a, b, j, &fetch);
            j += VLEN;
        }
    }
    for (size_t i = 0; j < o->cols && i < ROWS; i++)
        stored_edge(type, o, c + (ptrdiff_t)i * o->ldc + j, a + (ptrdiff_t)i * o->lda, b, j);
    *fetch_of_all = fetch;
}

/* As a function of each type. */
#define STORED_FUNCTION(type)                                                                                          \
    static QKV_NOINLINE void TILE_NAME(stored_, ROWS, type, )(const stored_operands *o, float *c, const float *a,      \
                                                              const unsigned char *b, gemm_fetch *fetch) {             \
        TILE_NAME(stored_product_, ROWS, 0, )(type, o, c, a, b, fetch);                                                \
    }
STORED_FUNCTION(QKV_F32)
STORED_FUNCTION(QKV_F16)
STORED_FUNCTION(QKV_BF16)
STORED_FUNCTION(QKV_Q8_0)
STORED_FUNCTION(QKV_INT8)
#undef STORED_TILE
#undef STORED_TILE_OF
#undef STORED_VECTORS
#undef STORED_FUNCTION
#undef ROWS
