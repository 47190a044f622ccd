/* What the library must compute, in double and in plain loops, and how far a result in float may be from it.
 *
 * Written from qkv.h and the arithmetic in docs/numerics.md alone, not from src/. Every bound is a bound: it is derived
 * term by term beside the code that adds the term up, and no factor was chosen by looking at results.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ORACLE_H
#define ORACLE_H

#include "qkv.h"

#include <math.h>
#include <stddef.h>

#define ORACLE_U 0x1p-24         /* u: the relative error of one rounding to float */
#define ORACLE_TINY 0x1p-149     /* the absolute error of one rounding below the normal range is less than this */
#define ORACLE_BF16_U 0x1p-8     /* the relative error of a rounding to bfloat16 … */
#define ORACLE_BF16_TINY 0x1p-56 /* … and what is below this becomes 0 */

/* γ_n = n·u / (1 − n·u): n roundings in a row. */
static inline double oracle_gamma(double n) {
    return n * ORACLE_U / (1 - n * ORACLE_U);
}

/* γ of a dot product of n terms in chains of 128: a term meets at most min(n, 128) fma and one add for each chain. */
double oracle_chain(int64_t n);

typedef enum oracle_kind {
    ORACLE_NUMBER, /* within the bounds */
    ORACLE_EMPTY,  /* no visible key: out is +0, probabilities 0, lse is −inf or the sink */
    ORACLE_NAN,    /* NaN: a NaN in q, k or a logit's terms, or a visible logit of +inf */
    ORACLE_ANY     /* an intermediate value is too large for float: the value is not promised, only the bits are */
} oracle_kind;

typedef struct oracle_row {
    oracle_kind kind;
    double *out, *out_bound; /* [head_dim_v] */
    double *magnitude;       /* [head_dim_v]: Σ p·|v|, the natural unit of the error of out */
    double lse, lse_bound;
    double *prob, *prob_bound; /* [seq_k]; both exactly 0 where the key is not visible */
    unsigned char *visible;    /* [seq_k] */
} oracle_row;

/* One head at a time: q, k and v in double, contiguous. The errors (NULL: none) say how far the caller knows them to be
 * from what the library was given; only oracle_layer uses them. */
typedef struct oracle {
    qkv_attention_desc desc; /* with num_kv_heads and head_dim_v filled in */
    double *q, *k, *v;
    double *means; /* [head_dim]: k_means, or zeros */
    double *q_error, *k_error, *v_error;
    oracle_row row;
    double *logit, *error;             /* [seq_k]: s and how far the library's may be from it */
    double *given_logit, *given_error; /* the same, before softmax counts from the largest and adds its own errors */
    double *cap_tanh, *cap_error;      /* [seq_k]: tanh of the softcap, and how far off */
    double *factor;                    /* [seq_k]: what dropout multiplies the weight in the numerator by */
    double *weight_error, *largest_weight; /* [seq_k]: how far p_j may be off without the sums, and how large be */
} oracle;

oracle *oracle_open(const qkv_attention_desc *desc);
void oracle_close(oracle *o);
/* Whether row i of head h sees key j, whatever their values are: kv_len, keep, the window and a bias of −inf. */
int oracle_sees(const qkv_attention_desc *desc, int64_t b, int64_t h, int64_t i, int64_t j);
/* Element (b, h, i, j) of desc.scores; a bound below 0: not promised. Of the head that was read last. */
void oracle_score(const oracle *o, int64_t b, int64_t h, int64_t i, int64_t j, double *value, double *bound);
/* What dropout multiplies the probability of a pair by: 0 or 1/(1 − rate); 1 without dropout. */
double oracle_dropout_factor(const qkv_attention_desc *desc, int64_t b, int64_t h, int64_t i, int64_t j);
void oracle_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t result[4]);
/* Reads q, k and v of a head, as desc describes them. */
void oracle_head(oracle *o, int64_t b, int64_t h);
/* Row i of the head that was read last. The result lives until the next call. */
const oracle_row *oracle_attention_row(oracle *o, int64_t b, int64_t h, int64_t i);

/* What an attention row and a merge share: softmax and weighted sum of the logits, errors, v that are in *o. `folds`
 * states are folded, each with a chain of at most `chain` keys. sink: NULL for none. */
const oracle_row *oracle_softmax(oracle *o, oracle_kind kind, const float *sink, int64_t folds, int64_t chain);

/* Whether `got` is `want` within `bound`; NaN only where NaN is wanted. *worst (or NULL) keeps the largest error/bound,
 * bounds below 2^−100 aside: there a weight may be cut off as a whole, which uses all of its bound. */
int oracle_within(double got, double want, double bound, double *worst);

/* Row i of head h as a plain program in float would compute it: no blocks, no fma, expf. out: [head_dim_v]. */
void oracle_unfused_f32(const qkv_attention_desc *desc, int64_t b, int64_t h, int64_t i, float *out);

/* value[n] = Σ x[k]·w[k][n] + bias[n] and its bound. w: [in][out] contiguous; bias may be NULL; x_error may be NULL. */
void oracle_projection_row(const double *x, const double *x_error, const float *w, const float *bias, int64_t in,
                           int64_t out, double *value, double *bound);

/* An operand of a product in bfloat16, as a float: a tie goes to the even one, what is below 2^−56 becomes 0. */
float oracle_to_bf16(float x);
/* The exp2 of weights that become bfloat16, operation by operation; y ≤ 0, no NaN. */
float oracle_exp2_for_bf16(float y);

/* The integers of a row of n, less means where there are any (NULL), and the scale; NaN and all 0 where the row has
 * an element that is no finite number. */
float oracle_to_int8(const float *x, const float *means, int64_t n, int *q);

/* A merge, row by row: parts are the keys of an oracle, their logsumexp the logits and their out v. */
oracle *oracle_open_merge(const qkv_merge_desc *desc);
/* out_error and lse_error say how far the parts themselves may be off, an element for each part (and channel:
 * out_error[part·head_dim_v + c]); NULL: not at all. */
const oracle_row *oracle_merge_row(oracle *o, const qkv_merge_desc *desc, int64_t b, int64_t h, int64_t i,
                                   const double *out_error, const double *lse_error);

/* A layer's weights before packing, [in][out] contiguous; wq = NULL: raw; wo = NULL: heads side by side. */
typedef struct oracle_weights {
    const float *wq, *wk, *wv, *wo;
} oracle_weights;
/* value and bound: [batch][tokens][out_features]. Returns 0 if some row is not ORACLE_NUMBER or ORACLE_EMPTY. */
int oracle_layer(const qkv_layer_desc *desc, const oracle_weights *weights, double *value, double *bound);

/* Memory for tests: zeroed, never NULL. */
void *oracle_alloc(size_t count, size_t size);

/* ------------------------------------------------------------------------------------------------ weights in blocks */

/* Of a qkv_type in memory: terms and bytes of a block, 1 and those of an element where there are none. */
int64_t oracle_block_terms(int64_t type);
int64_t oracle_block_bytes(int64_t type);

/* A weight is scale·q + minimum, exactly; as a float it is that, rounded once. */
typedef struct oracle_term {
    int q;
    double scale, minimum;
} oracle_term;

double oracle_half(const unsigned char *p); /* binary16 */
/* Term t of a row. Of QKV_INT8 without the column's scale; of types without blocks q is 1. */
oracle_term oracle_weight(int64_t type, const void *row, int64_t t);
float oracle_weight_value(oracle_term w);

#endif
