/* Template: a product by tiles, which are functions of their own. Needs gemm.inc.h's macros, TILE_FMA (what multiplies
 * and adds) and TILE_FMA_LANE (the same by a lane, where a set has it), TILE_START(row of A) (what sums begin with),
 * TILE_END(sum) (what is stored of one), TILE_FUNCTION (prefix of all names, PRODUCT(name) adds it) and, where A may be
 * transposed, TRANSPOSED_TILE_FUNCTION. Takes these away again.
 *
 * SPDX-License-Identifier: MIT */

#define GEMM_FUNCTION(rows, vectors, suffix, has_tail, in_panels, fetch_used)                                          \
    static QKV_NOINLINE void TILE_NAME(TILE_FUNCTION, rows, vectors, suffix)(                                          \
        const gemm_operands *o, float *c, const float *a, const float *b, vtail tail, gemm_fetch *fetch) {             \
        (void)fetch;                                                                                                   \
        TILE_NAME(TILE_FUNCTION, rows, vectors, _tile)(has_tail, 0, in_panels, o, c, a, b, tail, fetch_used);          \
    }
#ifdef TRANSPOSED_TILE_FUNCTION
#define GEMM_T_FUNCTION(rows, vectors, suffix, has_tail)                                                               \
    static QKV_NOINLINE void TILE_NAME(TRANSPOSED_TILE_FUNCTION, rows, vectors, suffix)(                               \
        const gemm_operands *o, float *c, const float *a, const float *b, vtail tail, gemm_fetch *fetch) {             \
        (void)fetch;                                                                                                   \
        TILE_NAME(TILE_FUNCTION, rows, vectors, _tile)(has_tail, 1, 0, o, c, a, b, tail, NULL);                        \
    }
#else
#define GEMM_T_FUNCTION(rows, vectors, suffix, has_tail)
#endif

#define VECTORS 1
#include "gemm_heights.inc.h"
#undef VECTORS
#define VECTORS 2
#include "gemm_heights.inc.h"
#if STRIP_VECTORS == 4 && MASKED_LOADS
#define ROWS 12
#include "gemm_tile.inc.h"
#endif
#undef VECTORS
#if STRIP_VECTORS == 4
#define VECTORS 3
#include "gemm_heights.inc.h"
#undef VECTORS
#define VECTORS 4
#include "gemm_heights.inc.h"
#undef VECTORS
#endif
#ifdef WIDE_VECTORS
#define VECTORS WIDEST_VECTORS
#define ROWS 1
#include "gemm_tile.inc.h"
#undef VECTORS
#define VECTORS WIDE_VECTORS
#define ROWS 2
#include "gemm_tile.inc.h"
#define ROWS 3
#include "gemm_tile.inc.h"
#undef VECTORS
#endif
#undef GEMM_FUNCTION
#undef GEMM_T_FUNCTION

#define TRANSPOSED 0
#include "gemm_tiles.inc.h"
#undef TRANSPOSED
#undef TILE_FUNCTION
#ifdef TRANSPOSED_TILE_FUNCTION
#define TRANSPOSED 1
#define TILE_FUNCTION TRANSPOSED_TILE_FUNCTION
#include "gemm_tiles.inc.h"
#undef TRANSPOSED
#undef TILE_FUNCTION
#undef TRANSPOSED_TILE_FUNCTION
#endif
#undef TILE_FMA
#undef TILE_FMA_LANE
#undef TILE_START
#undef TILE_END
