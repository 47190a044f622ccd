/* Template: tiles of VECTORS vectors and one to six rows, or to twelve where there is one vector.
 *
 * SPDX-License-Identifier: MIT */
#define ROWS 1
#include "gemm_tile.inc.h"
#define ROWS 2
#include "gemm_tile.inc.h"
#define ROWS 3
#include "gemm_tile.inc.h"
#define ROWS 4
#include "gemm_tile.inc.h"
#define ROWS 5
#include "gemm_tile.inc.h"
#define ROWS 6
#include "gemm_tile.inc.h"
#if VECTORS == 1
#define ROWS 7
#include "gemm_tile.inc.h"
#define ROWS 8
#include "gemm_tile.inc.h"
#define ROWS 9
#include "gemm_tile.inc.h"
#define ROWS 10
#include "gemm_tile.inc.h"
#define ROWS 11
#include "gemm_tile.inc.h"
#define ROWS 12
#include "gemm_tile.inc.h"
#endif
