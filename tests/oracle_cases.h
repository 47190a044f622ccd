/* Random descriptors in guarded memory, and what the tests of whole operations do with them.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ORACLE_CASES_H
#define ORACLE_CASES_H

#include "harness.h"
#include "oracle.h"

/* Strides for a tensor of the given sizes: the dimensions in any order, with or without gaps, of either sign, 0 only
 * where `broadcast` allows it. Returns how many elements it spans; element 0 is at *origin. */
int64_t case_layout(qt_rng *rng, int rank, const int64_t *size, int64_t channels, bool broadcast, int64_t *stride,
                    int64_t *origin);
qkv_input case_input(qt_rng *rng, int64_t batch, int64_t heads, int64_t tokens, int64_t channels, bool broadcast);
qkv_output case_output(qt_rng *rng, int64_t batch, int64_t heads, int64_t tokens, int64_t channels);
/* For outputs and filled with QT_NORMAL for inputs. */
float *case_floats(qt_rng *rng, int64_t n);
/* The same, filled with QT_NORMAL. */
float *case_normal(qt_rng *rng, int64_t n);

/* A size near an edge of 6, 16, 64, 128, 256 or 512, small or anything, 0 … most. */
int64_t case_size(qt_rng *rng, int64_t most);

typedef enum case_data {
    CASE_NORMAL,
    CASE_PEAKY,   /* q times 8 */
    CASE_SHIFTED, /* v = 1e4·(1 + x) */
    CASE_EQUAL_KEYS,
    CASE_TIES, /* small integers: many logits are exactly equal */
    CASE_WIDE, /* v over 80 powers of two */
    CASE_NUM_DATA
} case_data;
extern const char *const case_data_name[CASE_NUM_DATA];

typedef struct attention_case {
    qkv_attention_desc desc; /* outputs are allocated and poisoned; inputs are read-only */
    int64_t kv_heads, dv;    /* as the library resolves them */
    case_data data;
    bool ordinary; /* logits of a size that float can tell apart: fit for comparing accuracies */
} attention_case;

/* Whether its errors are those of float. */
static inline bool case_is_comparable(const attention_case *c) {
    return c->ordinary && c->desc.arithmetic == QKV_ARITHMETIC_F32;
}

/* Every feature at random. `work` limits batch·heads·seq_q·seq_k·(head_dim + head_dim_v). Calls qt_describe. */
void case_attention(qt_rng *rng, int64_t work, attention_case *c);

/* One of all, where a case of one's own is drawn, some with k_means. */
void case_draw_arithmetic(qt_rng *rng, qkv_attention_desc *d);

/* Full attention over contiguous [batch][token][head][channel] tensors that may be written, with out and lse. */
void case_plain(qt_rng *rng, attention_case *c, int64_t batch, int64_t heads, int64_t kv_heads, int64_t seq_q,
                int64_t seq_k, int64_t head_dim, int64_t head_dim_v);

/* Gives the case contiguous probabilities: [batch][head][query][key]. */
float *case_add_probabilities(qt_rng *rng, attention_case *c);

/* A row of q, k or v, to be changed by the test. */
float *case_row(const qkv_input *in, int64_t b, int64_t h, int64_t t);

/* Whether some (batch, head, token) share elements. */
bool case_is_shared(const qkv_input *in, int64_t batch, int64_t heads, int64_t tokens);

/* Poison in every k and v that no row sees. */
void case_poison_invisible(qt_rng *rng, const attention_case *c);

/* Makes every input of a case read-only. */
void case_protect(const qkv_attention_desc *desc);

/* All outputs of a case, contiguous; lse, probabilities and scores are NULL where the case has none. */
typedef struct case_results {
    float *out, *lse, *probabilities, *scores;
} case_results;

/* Fills the outputs with poison, runs, checks the gaps between outputs, gathers. */
case_results case_run(const qkv_ctx *ctx, const attention_case *c, int32_t threads, uint64_t shuffle);
void case_expect_same(const char *what, const attention_case *c, const case_results *want, const case_results *got);

/* Contiguous copies of outputs. */
float *case_gather(const qkv_output *out, int64_t batch, int64_t heads, int64_t tokens, int64_t channels);
float *case_gather_matrix(const qkv_matrix_output *m, int64_t batch, int64_t heads, int64_t rows, int64_t cols);

/* Plan and run in exactly the workspace asked for; any status but QKV_OK fails. threads = 0: qkv_…_run. */
void case_run_attention(const qkv_ctx *ctx, const qkv_attention_desc *desc, int32_t threads, uint64_t shuffle);
void case_run_projection(const qkv_ctx *ctx, const qkv_projection_desc *desc, int32_t threads, uint64_t shuffle);
void case_run_merge(const qkv_ctx *ctx, const qkv_merge_desc *desc, int32_t threads, uint64_t shuffle);
void case_run_layer(const qkv_ctx *ctx, const qkv_layer_desc *desc, int32_t threads, uint64_t shuffle);
void case_run_attention_backward(const qkv_ctx *ctx, const qkv_attention_backward_desc *desc, int32_t threads,
                                 uint64_t shuffle);
void case_run_projection_backward(const qkv_ctx *ctx, const qkv_projection_backward_desc *desc, int32_t threads,
                                  uint64_t shuffle);
void case_run_layer_backward(const qkv_ctx *ctx, const qkv_layer_backward_desc *desc, int32_t threads,
                             uint64_t shuffle);
/* From now on parallel_for runs what has threads > 0, in place of qt_parallel_for; its pool is NULL: the plan. */
void case_run_by(qkv_parallel_for parallel_for, void *pool);

/* Weights of a type: random numbers of the size of 1/√in_features, or, damaged, any bytes, so that scales are NaN,
 * infinite, subnormal and huge. Either layout and any stride where the type allows it. dense: what they mean, [in][out]
 * contiguous. in_features are whole blocks. */
qkv_weight case_weight(qt_rng *rng, int64_t type, int64_t in_features, int64_t out_features, bool damaged,
                       const float **dense);
/* Any whose blocks divide so many inputs; integers: that has an arithmetic in int8. */
int64_t case_weight_type(qt_rng *rng, bool integers, int64_t in_features);
extern const char *const case_type_name[QKV_Q6_K + 1];

void *case_pack(const qkv_ctx *ctx, const qkv_pack_desc *desc);

/* A context that runs the reference. */
qkv_ctx case_reference(void);

/* How many cases of a test to run: all; a fifth of them where builds are slow (QKV_QUICK=1), a sixteenth on an emulated
 * CPU, but at least 25. */
uint64_t case_count(uint64_t all);

#endif
