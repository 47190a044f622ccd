// What users write today with a BLAS or with oneDNN, for comparison: openblas.cc, onednn.cc.
// SPDX-License-Identifier: MIT
#ifndef QKV_BENCH_BASELINES_H
#define QKV_BENCH_BASELINES_H

#include "bench.h"

namespace bench {

// Sizes and strides (in floats) of one attention call; q and out share theirs, and so do k and v.
struct AttentionShape {
    int64_t heads, kv_heads, queries, keys, dim;
    bool causal; // the last query sees the last key
    int64_t q_head, q_token, kv_head, kv_token;
};

// Y[tokens][out] = X[tokens][in] · W + bias; bias may be nullptr.
struct ProjectionShape {
    int64_t tokens, in, out;
};

// Version, threading and detected core; "" when the benchmark was built without it.
std::string openblas_description();
std::string onednn_description();

// One call of the path that a BLAS leaves to its user: for each head and block of queries sgemm, softmax, sgemm.
class OpenblasAttention {
  public:
    OpenblasAttention(const AttentionShape &shape, Pool &pool);
    void run(const float *q, const float *k, const float *v, float *out);
    size_t workspace() const { return scores_.bytes(); }

  private:
    void block(int64_t kv_head, int64_t first, int64_t rows, int64_t q_head, const float *q, const float *k,
               const float *v, float *out, float *scores) const;
    AttentionShape shape_;
    Pool &pool_;
    int64_t block_rows_;
    Buffer scores_; // of one block for each thread
};

// weights: [in][out]; ldx: floats from a row of x to the next, 0 for `in`
void openblas_projection(const ProjectionShape &shape, int32_t threads, const float *x, const float *weights,
                         const float *bias, float *y, int64_t ldx = 0);

// The weights, [copies][in][out], are brought into the layout that oneDNN prefers ahead of time.
class OnednnProjection {
  public:
    OnednnProjection(const ProjectionShape &shape, int32_t threads, int64_t copies, const float *const *weights,
                     const float *bias);
    ~OnednnProjection();
    void run(int64_t copy, const float *x, float *y);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace bench

#endif
