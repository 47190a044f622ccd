/* The contract between the algorithms of src/ops and the CPU.
 *
 * One struct qkv_kernels per instruction set, const, complete (no NULL) and chosen whole. Every entry is a fixed
 * sequence of IEEE-754 single operations for each result (docs/numerics.md), so all tables give the same bits, except
 * for the payload of NaNs and, where an entry says so, the sign of a zero. Entries work on blocks, so that the
 * indirect call costs nothing; they can't fail, read and write only what is stated, and need no alignment beyond that
 * of float unless they say so. No operand overlaps an output unless an entry works in place.
 *
 * Leading dimensions (ld…) are in floats, from one row to the next.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_KERNELS_H
#define QKV_KERNELS_H

#include "../config.h"

#include "qkv.h"

QKV_INTERNAL_BEGIN

/* Scratch tiles are 64-byte aligned, with an ld that is a multiple of this; a row of n floats may be written up to the
 * next multiple of it. */
#define QKV_LANES 16

/* Dot products are fma chains over at most this many terms; the chains' results are added in order. */
#define QKV_CHAIN 128

/* Sums of products in 8 bits are exact over at most this many terms; sums of more are added as floats, in order. */
#define QKV_INT8_CHAIN 1024

/* The most rows softmax and fold take at once. */
#define QKV_MAX_ROWS 16

/* What happens to a row of raw logits between Q·Kᵀ and softmax, in this order. Zero and NULL: that step is left out. */
typedef struct qkv_logit_steps {
    float cap;             /* fl(softcap·log2 e): t = cap·tanh(t) */
    float slope;           /* fl(alibi slope·log2 e): t = fma(slope, distance[j], t) */
    const float *distance; /* (float)(j − p); NULL: no ALiBi */
    const float *bias;     /* −inf: t = −inf; else t += max(fl(bias·log2 e), −FLT_MAX), where a NaN stays */
    const uint8_t *keep;   /* 0: t = −inf */
} qkv_logit_steps;

/* Dropout of a row of probabilities. Word w of Philox 4x32-10 (../ref/philox.h) with this key and the counter
 * (16·(first_group + g) + x, counter …) decides about column 64·g + 16·w + x, for x < 16. */
typedef struct qkv_dropout {
    uint32_t key[2];
    uint32_t first_group;
    uint32_t counter[3];
    uint32_t threshold; /* words below it drop */
    float scale;        /* of what is kept */
} qkv_dropout;

/* A hint: rows in memory, `stride` bytes apart, that are wanted soon and may be fetched meanwhile. */
typedef struct qkv_soon {
    const void *data;
    ptrdiff_t stride;
    size_t rows, bytes;
} qkv_soon;

/* 32 terms of a row of activations in 8 bits: x is about scale·q. */
typedef struct qkv_terms {
    int8_t q[32]; /* within ±127 */
    float scale;
    float scaled_sum;       /* fl(scale·sum) */
    int32_t sum, upper_sum; /* Σ q, and of the upper 16 */
} qkv_terms;

struct qkv_kernels {
    const char *name;
    uint64_t needs;     /* QKV_CPU_* bits, all required */
    int32_t tile_rows;  /* blocks of rows cut at multiples of it leave gemm only whole tiles. At most QKV_MAX_ROWS. */
    int32_t few_rows;   /* the most rows gemm_nt takes; with more, packing pays */
    uint32_t native;    /* bit QKV_ARITHMETIC_… : products in it have instructions of their own */
    int32_t bf16_bytes; /* of a term of a product in bfloat16: 2, or 4 where it is a float */
    int32_t int8_bytes; /* of a term of a product of attention in 8 bits: 1, or 4 where it is a float */

    /* dst[i·ldd + j] = what stored element j of row i means (enum qkv_type; of QKV_INT8 the integer, without its scale,
     * here and below), for i < rows, j < n. Rows are `stride` bytes apart; blocks of QKV_Q8_0 are whole. */
    void (*widen)(float *dst, ptrdiff_t ldd, const void *src, ptrdiff_t stride, int type, size_t rows, size_t n);

    /* The inverse, rounded to nearest even: QKV_F32, QKV_F16, QKV_BF16. */
    void (*narrow)(void *dst, ptrdiff_t stride, const float *src, ptrdiff_t lds, int type, size_t rows, size_t n);

    /* panel[c][r] = src[r·ld + c] for r < rows ≤ 64, c < k; panel[c][r] = 0 for rows ≤ r < 64.
     * panel: [k][64] floats, 64-byte aligned. For keys, and for weights stored [out][in]. */
    void (*pack)(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k);

    /* panel[c·ld + r] = what stored element c of row r means, for r < rows ≤ ld, c < k; 0 for rows ≤ r < ld. Rows are
     * `stride` bytes apart; ld is a multiple of QKV_LANES, panel 64-byte aligned. */
    void (*pack_stored)(float *panel, ptrdiff_t ld, const void *src, ptrdiff_t stride, int type, size_t rows, size_t k);

    /* C = A·B, or C += A·B with accumulate: C[i][j] (+)= Σ A[i][x]·B[x][j], the sum being one fma chain from +0 over
     * ascending x. A: rows × k, B: k × cols. C is a scratch tile (see QKV_LANES).
     * B[x][j] is b[⌊j/64⌋·panel + x·ldb + j mod 64]: panel = 64 for rows in memory, more for columns in panels.
     * The sign of a zero is not fixed: a term 0·b may be left out or not. soon may be NULL. */
    void (*gemm)(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t panel,
                 size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon);

    /* C[i][j] = Σ A[i][x]·B[j][x], as gemm, from rows of B as they lie in memory. For so few rows of A that packing B
     * would not pay: rows ≤ few_rows. Columns of C up to the next multiple of QKV_LANES become anything. */
    void (*gemm_nt)(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                    size_t cols, size_t k, int accumulate, const qkv_soon *soon);

    /* C[i][j] = Σ A[i][x]·B[x][j] with rows of B as they are stored (enum qkv_type), `stride` bytes apart: one fma
     * chain from +0 over ascending x or, with resume, from what is in C, so that a chain may go on over rows in several
     * places. rows ≤ few_rows; C is a scratch tile. The sign of a zero is not fixed. */
    void (*gemm_stored)(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const void *b, ptrdiff_t stride,
                        int type, size_t rows, size_t cols, size_t k, int resume, const qkv_soon *soon);

    /* dst[x·64 + j] = what term first + x of column j of a packed panel means (../ref/weights.h), for x < k, j < 64.
     * first is a multiple of 32, and so is k unless it ends the panel: rows of dst up to the next multiple of 32 become
     * anything. Panel and dst: 64-byte aligned. */
    void (*widen_weights)(float *dst, const void *panel, int type, size_t first, size_t k);

    /* dst[b·ldd + i] = terms 32·b … of row i in 8 bits, for i < rows, 32·b < k; terms from k on are 0. With a the
     * largest |x| of the 32: s = fl(a/127), f = fl(127/a), q = rint(fl(x·f)), to nearest even. If a < 2⁻¹⁰⁰, s = +0 and
     * every q = 0; if one is NaN or infinite, s = NaN and every q = 0. */
    void (*quantize_rows)(qkv_terms *dst, ptrdiff_t ldd, const float *x, ptrdiff_t ldx, size_t rows, size_t k);

    /* C = A·B in integers, A of quantize_rows (lda from block to block), B a packed panel of a type that has integers.
     * y of a row and a column starts at +0. For each block of 32 terms, ascending (of 16 with QKV_Q6_K), with w the
     * integers of B less the type's zero, I = Σ w·q, which is exact: y = fma(I, fl(s·scale), y), and where the type has
     * a minimum, which K-quants subtract, y = fma(scaled_sum, ±minimum, y). QKV_INT8: y = fma(I, s, y), and at the end
     * fl(y·scale). C: scratch tile, cols ≤ 64; panel 64-byte aligned. */
    void (*gemm_weights)(float *c, ptrdiff_t ldc, const qkv_terms *a, ptrdiff_t lda, const void *panel, int type,
                         size_t rows, size_t cols, size_t k);

    /* Products in bfloat16 (docs/numerics.md). What the first four entries write is for products of the same table
     * only: bf16_bytes a term, k rounded up to an even number of terms. Values are rounded to nearest even, magnitudes
     * below 2⁻⁵⁶ are 0. dst: 4-byte aligned, that of panels 64. A panel has 64 columns, and room for each of them. */

    /* Terms first … first + k of rows of A, which are x[i·ldx + 0 … k); first is even. ldd and below lda count terms,
     * and are even. Works in place: x = (float *)dst + first with ldx = ldd, or with ldx·4 = ldd·bf16_bytes. */
    void (*rows_bf16)(void *dst, ptrdiff_t ldd, size_t first, const float *x, ptrdiff_t ldx, size_t rows, size_t k);

    /* A panel whose column r is stored row r, for r < rows ≤ 64: k terms. Other columns are 0. As pack_stored. */
    void (*keys_bf16)(void *dst, const void *src, ptrdiff_t stride, int type, size_t rows, size_t k);

    /* Terms first … first + rows of a panel, which are stored rows of cols ≤ 64 elements. Where they begin or
     * end within a pair, its other term is 0. Columns up to the next multiple of QKV_LANES become anything. */
    void (*values_bf16)(void *dst, const void *src, ptrdiff_t stride, int type, size_t first, size_t rows, size_t cols);

    /* Terms first … first + k of a packed panel, as widen_weights gives them. dst has room for 64 floats a term, terms
     * rounded up to a multiple of 32: what lies past k becomes anything. */
    void (*weights_bf16)(void *dst, const void *panel, int type, size_t first, size_t k);

    /* As gemm, with terms first … first + k of A, made by rows_bf16, and B some columns of a panel, from a
     * multiple of QKV_LANES on. The fma chain takes terms in pairs, ascending, of each pair the second one
     * first: 1, 0, 3, 2, … k is even, or ends the rows: an odd one is followed by a term 0·0. */
    void (*gemm_bf16)(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b, size_t rows,
                      size_t cols, size_t k, int accumulate, const qkv_soon *soon);

    /* C[i][j] = Σ A[i][x]·B[x][j] with terms first … first + k of A, made by rows_bf16, and rows of B as they are
     * stored, in pairs as values_bf16 makes them: one chain from +0 or, with resume, from what is in C.
     * rows ≤ few_rows; C is a scratch tile. */
    void (*gemm_stored_bf16)(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b,
                             ptrdiff_t stride, int type, size_t rows, size_t cols, size_t k, int resume,
                             const qkv_soon *soon);

    /* As gemm_t, with the chain of gemm_bf16: A and B are some columns of panels, which values_bf16 made, A from any
     * column on. */
    void (*gemm_t_bf16)(float *c, ptrdiff_t ldc, const void *a, const void *b, size_t rows, size_t cols, size_t k,
                        int accumulate);

    /* Products in 8 bits (docs/numerics.md), of operands that are for this table only. */

    /* Rows of operands from stored ones, with the scale of each row: x = fl(stored − means[j]), then s and q as in
     * quantize_rows, but of the row's k ≥ 1 terms together. Of QKV_INT8 they are the integers stored, and scales and
     * means are not used. means may be NULL. Keys are packed after that, as floats: ⌈k·int8_bytes/4⌉ of them a row;
     * other rows are A of gemm_int8, and take 4 bytes more for every QKV_INT8_CHAIN terms. Up to 4·QKV_LANES bytes more
     * may become anything. From a row of dst to the next it is ldd floats. In place, too: dst = src, ldd·4 = stride. */
    void (*rows_int8)(void *dst, ptrdiff_t ldd, float *scales, const void *src, ptrdiff_t stride, int type, size_t rows,
                      size_t k, const float *means, int are_keys);

    /* The same of a panel of 64 keys as it is stored: element (key r, term c) is number 64·c + r of src, of any type
     * but QKV_Q8_0. panel, 64-byte aligned, becomes what packing the keys' rows makes of them. */
    void (*panel_int8)(float *panel, float *scales, const void *src, int type, size_t k, const float *means);

    /* As gemm, with terms first … first + k of A, k ≤ QKV_INT8_CHAIN and first a multiple of it, and B some columns of
     * a packed panel, from a multiple of QKV_LANES on. The sum is exact. lda in floats. */
    void (*gemm_int8)(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b, size_t rows,
                      size_t cols, size_t k, int accumulate, const qkv_soon *soon);

    /* t[i·ld + j] = fma(fl(t[i·ld + j]·columns[j]), factors[i], offsets[i]) for i < rows, j < cols. t: scratch tile,
     * cols is a multiple of QKV_LANES. */
    void (*scale_scores)(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *columns, const float *factors,
                         const float *offsets);

    /* t[i·ld + j] = t[i·ld + j]·factors[j] for i < rows, j < cols. */
    void (*scale_columns)(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *factors);

    /* o[j] = Σ p[x]·v[x][j] over the x < k with t[x] ≠ −inf, one fma chain from +0 over ascending x, for j < cols: what
     * gemm does, without the keys that are not visible. For rows in which nan_rows found a NaN. o: a row of a scratch
     * tile. */
    void (*sum_visible)(float *o, const float *p, const float *t, const float *v, ptrdiff_t ldv, size_t k, size_t cols);

    /* Applies the steps to t[0 … n) in place. */
    void (*logits)(float *t, size_t n, const qkv_logit_steps *steps);

    /* Softmax of one key block, row by row: m[i] = max(−FLT_MAX, t), p = t − m < −126 ? +0 : exp2(t − m), ℓ[i] = Σ p
     * in 16 lanes (lane = column mod 16, each ascending from +0), then the tree +8, +4, +2, +1. t[i·ld + j] becomes p.
     * t: scratch tile; cols is a multiple of QKV_LANES, rows ≤ QKV_MAX_ROWS. Column 0 belongs to lane 0.
     * ℓ[i] is 0 exactly if no t of the row is above −inf, and NaN if one is NaN or +inf; m of a NaN row is anything,
     * and so is the sign of an m of zero. */
    void (*softmax)(float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m, float *l);

    /* As softmax, of columns first … first + cols of t, with p = qkv_exp2_for_bf16(t − m) of ../ref/scalar.h.
     * rounds: each p becomes an operand of gemm_bf16 then, term x of a row that begins where that of t does:
     * ldd·bf16_bytes = ld·4. Else they stay floats. */
    void (*softmax_bf16)(float *t, ptrdiff_t ld, size_t first, size_t rows, size_t cols, float *m, float *l,
                         int rounds);

    /* Bit i is set if row i < rows ≤ QKV_MAX_ROWS of o (cols floats, scratch tile) holds a NaN. */
    uint32_t (*nan_rows)(const float *o, ptrdiff_t ld, size_t rows, size_t cols);

    /* Folds the block state (mb, lb, ob) into (m, l, o), row by row: m′ = max(m, mb); a = exp2(m − m′);
     * b = exp2(mb − m′); l = fma(lb, b, l·a); o = fma(ob, b, o·a); both exp2 cut to +0 below −126. Rows with lb = 0
     * stay as they are. o and ob: scratch tiles, rows ≤ QKV_MAX_ROWS. The sign of a zero in m and o is not fixed. */
    void (*fold)(float *m, float *l, float *o, ptrdiff_t ldo, const float *mb, const float *lb, const float *ob,
                 ptrdiff_t ldob, size_t rows, size_t cols);

    /* dst[i][j] = src[i][j]·factors[i] + 0.0f for i < rows, j < n. May work in place. */
    void (*scale)(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *factors, size_t rows,
                  size_t n);

    /* Turns pairs of channels in place, as rotary embeddings do. Pair p < pairs of row i is channels p and pairs + p of
     * x[i·ld], or with interleaved 2p and 2p + 1; c = cos[at[i] + p], s = sin[at[i] + p], or with inverse −s:
     * x0 becomes fma(x0, c, x1·(−s)), x1 becomes fma(x1, c, x0·s), the products rounded. Other channels stay. */
    void (*rotate)(float *x, ptrdiff_t ld, const float *cos, const float *sin, const ptrdiff_t *at, size_t rows,
                   size_t pairs, int interleaved, int inverse);

    /* dst[i][j] = src[i][j] + bias[j] for i < rows, j < n; without bias (NULL) a copy. */
    void (*add_bias)(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *bias, size_t rows,
                     size_t n);

    /* y[j] = exp2(y[j]) for −126 ≤ y ≤ 0; +0 below; NaN stays. In place. */
    void (*exp2)(float *y, size_t n);

    /* x[j] = tanh(x[j]) for every float. In place. */
    void (*tanh)(float *x, size_t n);

    /* x[j] = ln(x[j]) for every positive normal float; NaN stays. In place. */
    void (*log)(float *x, size_t n);

    /* t[j] = t[j]·(column j is kept ? scale : +0) for first ≤ j < end, both multiples of QKV_LANES. */
    void (*dropout)(float *t, size_t first, size_t end, const qkv_dropout *dropout);

    /* -------------------------------------------------------------------------------------------- gradients */

    /* C = Aᵀ·B, or C += Aᵀ·B with accumulate: C[i][j] (+)= Σ A[x][i]·B[x][j], the sum being one fma chain from +0 over
     * ascending x. A: k × rows, B: k × cols. C is a scratch tile. The sign of a zero is not fixed, as in gemm. */
    void (*gemm_t)(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                   size_t cols, size_t k, int accumulate);

    /* Probabilities from logits in base 2: t[i·ld + j] becomes exp2(min(t − lse[i], 0)), +0 below −126; NaN stays.
     * t: scratch tile; cols is a multiple of QKV_LANES. lse: in base 2. */
    void (*recompute)(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *lse);

    /* From gradients of probabilities to those of scores: d[i·ld + j] becomes x = p·fma(d, scale, −delta[i]), and with
     * cap_tanh (else NULL; same ld) x·fma(−u, u, 1) where u is its element. The sign of a zero is not fixed.
     * d, p and cap_tanh: scratch tiles; cols is a multiple of QKV_LANES. */
    void (*score_grad)(float *d, const float *p, ptrdiff_t ld, size_t rows, size_t cols, const float *delta,
                       float scale, const float *cap_tanh);

    /* d[i] = Σ a[i·lda + j]·b[i·ldb + j] over j < n in 16 lanes (lane = j mod 16, each an ascending fma chain from +0),
     * then the tree +8, +4, +2, +1. */
    void (*row_dots)(float *d, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows, size_t n);

    /* dst[i·ldd + j] += src[i·lds + j] for i < rows, j < n. */
    void (*add)(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, size_t rows, size_t n);
};

typedef struct qkv_kernels qkv_kernels;

/* A table exists only in builds for its architecture that have it. */
extern const qkv_kernels qkv_kernels_ref, qkv_kernels_portable;
extern const qkv_kernels qkv_kernels_avx2, qkv_kernels_avxvnni;
extern const qkv_kernels qkv_kernels_avx512, qkv_kernels_avx512vnni, qkv_kernels_avx512bf16;
extern const qkv_kernels qkv_kernels_neon, qkv_kernels_dotprod, qkv_kernels_i8mm;
extern const qkv_kernels qkv_kernels_simd128, qkv_kernels_relaxed;
extern const qkv_kernels qkv_kernels_helium;
extern const qkv_kernels qkv_kernels_sve, qkv_kernels_rvv;

QKV_INTERNAL_END

#endif
