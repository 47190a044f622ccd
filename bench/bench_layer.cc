// One whole self-attention layer: X → Q, K, V → heads → ·Wo.  SPDX-License-Identifier: MIT
#include "baselines.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bench {
namespace {

class LayerProblem : public Problem {
  public:
    explicit LayerProblem(const Case &c) {
        AttentionShape &s = shape_;
        s.heads = c.get("heads"), s.kv_heads = c.get("kv_heads", s.heads);
        s.queries = s.keys = c.get("keys"), s.dim = c.get("dim");
        s.causal = c.has("causal");
        model_ = c.get("model"), q_dim_ = s.heads * s.dim, kv_dim_ = s.kv_heads * s.dim;
        width_ = q_dim_ + 2 * kv_dim_;
        s.q_head = s.kv_head = s.dim, s.q_token = s.kv_token = width_; // as the projection leaves them

        // A token of a causal layer sees the tokens before it: the first ones are checked, all of them otherwise.
        const double each = 2.0 * static_cast<double>(model_ * (width_ + q_dim_));
        checked_ = s.causal ? std::clamp<int64_t>(static_cast<int64_t>(3e8 / each), 2, s.keys) : s.keys;

        x_ = random_floats(s.keys * model_, 1.0f, 1);
        w_qkv_ = random_floats(model_ * width_, 0.1f, 2);
        w_o_ = random_floats(q_dim_ * model_, 0.1f, 3);
        if (c.has("bias")) b_qkv_ = random_floats(width_, 1.0f, 4), b_o_ = random_floats(model_, 1.0f, 5);
        out_ = floats(s.keys * model_);
        packed_qkv_ = pack(w_qkv_, model_, {q_dim_, kv_dim_, kv_dim_});
        packed_o_ = pack(w_o_, q_dim_, {model_});

        desc_.size = sizeof desc_;
        desc_.model_dim = desc_.out_features = model_;
        desc_.x = {x_.as(), 0, 0, model_};
        desc_.out = {out_.as(), 0, 0, model_};
        desc_.w_qkv = packed_qkv_.as<void>(), desc_.w_o = packed_o_.as<void>();
        if (c.has("bias")) {
            desc_.bias_q = b_qkv_.as(), desc_.bias_k = b_qkv_.as() + q_dim_;
            desc_.bias_v = desc_.bias_k + kv_dim_, desc_.bias_o = b_o_.as();
        }
        qkv_attention_desc &attention = desc_.attention;
        attention.size = sizeof attention;
        attention.batch = 1, attention.num_heads = s.heads, attention.num_kv_heads = s.kv_heads;
        attention.seq_q = attention.seq_k = s.keys, attention.head_dim = s.dim;
        attention.flags = s.causal ? QKV_RIGHT : 0;
    }

    double flops() const override {
        const AttentionShape &s = shape_;
        const int64_t pairs = s.causal ? s.keys * (s.keys + 1) / 2 : s.keys * s.keys;
        return 2.0 * static_cast<double>(s.keys * model_ * (width_ + q_dim_) + 2 * pairs * q_dim_);
    }

    double operands() const override {
        return sizeof(float) * static_cast<double>(model_ * (width_ + q_dim_) + 2 * shape_.keys * model_);
    }

    Prepared qkv(const qkv_ctx &ctx, Pool &pool) override {
        auto operation = std::make_shared<Operation<qkv_layer_desc>>(ctx, desc_, pool.num_threads());
        return {[this, operation, &pool](int64_t) { operation->run(desc_, pool); }, operation->workspace()};
    }

    Prepared openblas(Pool &pool) override {
        if (openblas_description().empty()) return {};
        struct State {
            State(const AttentionShape &s, Pool &p) : attention(s, p) {}
            OpenblasAttention attention;
            Buffer qkv, heads;
        };
        // The heads' outputs share the strides of Q, so they lie in a matrix as wide.
        auto state = std::make_shared<State>(shape_, pool);
        state->qkv = floats(shape_.keys * width_);
        state->heads = floats(shape_.keys * width_);
        const int32_t threads = pool.num_threads();
        return {[this, state, threads](int64_t) {
                    float *q = state->qkv.as();
                    openblas_projection({shape_.keys, model_, width_}, threads, x_.as(), w_qkv_.as(), b_qkv_.as(), q);
                    state->attention.run(q, q + q_dim_, q + q_dim_ + kv_dim_, state->heads.as());
                    openblas_projection({shape_.keys, q_dim_, model_}, threads, state->heads.as(), w_o_.as(), b_o_.as(),
                                        out_.as(), width_);
                },
                state->qkv.bytes() + state->heads.bytes() + state->attention.workspace()};
    }

    std::string compare(const qkv_ctx &ref) override {
        if (reference_.bytes() == 0) {
            reference_ = floats(checked_ * model_);
            qkv_layer_desc desc = desc_;
            desc.attention.seq_q = desc.attention.seq_k = checked_;
            desc.out.data = reference_.as();
            Operation<qkv_layer_desc>(ref, desc, 1).run(desc);
        }
        for (int64_t row = 0; row < checked_; row++) {
            const int64_t at = row * model_;
            auto diff = first_difference(out_.as() + at, reference_.as() + at, model_, row);
            if (!diff.empty()) return diff;
        }
        return "";
    }

    Errors errors() override {
        const std::vector<int64_t> rows = sample_rows(checked_, 16);
        if (exact_.empty()) exact(rows);
        Errors errors;
        for (size_t i = 0; i < exact_.size(); i++) {
            const size_t model = static_cast<size_t>(model_);
            const float got = out_.as()[static_cast<size_t>(rows[i / model]) * model + i % model];
            const double error = std::abs(static_cast<double>(got) - exact_[i]);
            errors.largest = std::isnan(error) ? HUGE_VAL : std::max(errors.largest, error);
            errors.scale = std::max(errors.scale, std::abs(exact_[i]));
        }
        return errors;
    }

    Buffer *output() override { return &out_; }
    std::vector<Input> inputs() const override {
        std::vector<Input> all = {{"x", x_.as(), shape_.keys * model_},
                                  {"w_qkv", w_qkv_.as(), model_ * width_},
                                  {"w_o", w_o_.as(), q_dim_ * model_}};
        if (b_o_.bytes() != 0) all.push_back({"b_qkv", b_qkv_.as(), width_}), all.push_back({"b_o", b_o_.as(), model_});
        return all;
    }

  private:
    // The columns of weights, [in][Σ out], as the parts of one packed matrix.
    static Buffer pack(const Buffer &weights, int64_t in, std::vector<int64_t> out) {
        qkv_pack_desc desc = {};
        desc.size = sizeof desc;
        desc.in_features = in, desc.num_parts = static_cast<int64_t>(out.size());
        int64_t width = 0;
        for (size_t i = 0; i < out.size(); width += out[i], i++) {
            desc.part[i].data = weights.as() + width;
            desc.part[i].out_features = out[i];
        }
        for (size_t i = 0; i < out.size(); i++)
            desc.part[i].stride = width;
        size_t bytes = 0;
        require(qkv_packed_size(&desc, &bytes), "packed_size");
        Buffer packed(bytes);
        qkv_ctx ctx;
        require(qkv_init(&ctx, nullptr), "init");
        require(qkv_pack(&ctx, &desc, packed.as<void>()), "pack");
        return packed;
    }

    using Doubles = std::vector<double>;
    // y = x·W + bias for columns [first, first + y.size()) of W, which is `width` wide
    static void project(const Doubles &x, const Buffer &w, int64_t width, const Buffer &bias, int64_t first,
                        Doubles &y) {
        for (size_t c = 0; c < y.size(); c++) {
            y[c] = bias.bytes() != 0 ? static_cast<double>(bias.as()[first + static_cast<int64_t>(c)]) : 0;
        }
        for (size_t i = 0; i < x.size(); i++) {
            const float *row = w.as() + static_cast<int64_t>(i) * width + first;
            for (size_t c = 0; c < y.size(); c++)
                y[c] += x[i] * static_cast<double>(row[c]);
        }
    }

    // The rows' results in double: K and V of all tokens that they see, Q and Wo only for the rows.
    void exact(const std::vector<int64_t> &rows) {
        const AttentionShape &s = shape_;
        const size_t kv_dim = static_cast<size_t>(kv_dim_), dim = static_cast<size_t>(s.dim);
        std::vector<Doubles> kv;
        const auto token = [&](int64_t t) { return Doubles(x_.as() + t * model_, x_.as() + (t + 1) * model_); };
        for (int64_t t = 0; t < checked_; t++) {
            kv.emplace_back(2 * kv_dim);
            project(token(t), w_qkv_, width_, b_qkv_, q_dim_, kv.back());
        }
        for (int64_t row : rows) {
            Doubles q(static_cast<size_t>(q_dim_)), heads(q.size(), 0.0), y(static_cast<size_t>(model_));
            project(token(row), w_qkv_, width_, b_qkv_, 0, q);
            const size_t seen = static_cast<size_t>(s.causal ? row + 1 : checked_);
            for (size_t h = 0; h < static_cast<size_t>(s.heads); h++) {
                const size_t at = h / static_cast<size_t>(s.heads / s.kv_heads) * dim;
                Doubles logits(seen, 0.0);
                for (size_t j = 0; j < seen; j++) {
                    for (size_t c = 0; c < dim; c++)
                        logits[j] += q[h * dim + c] * kv[j][at + c];
                    logits[j] /= std::sqrt(static_cast<double>(s.dim));
                }
                const double largest = *std::max_element(logits.begin(), logits.end());
                double sum = 0;
                for (double &p : logits)
                    sum += p = std::exp(p - largest);
                for (size_t j = 0; j < seen; j++) {
                    for (size_t c = 0; c < dim; c++)
                        heads[h * dim + c] += logits[j] / sum * kv[j][kv_dim + at + c];
                }
            }
            project(heads, w_o_, model_, b_o_, 0, y);
            exact_.insert(exact_.end(), y.begin(), y.end());
        }
    }

    AttentionShape shape_ = {};
    int64_t model_, q_dim_, kv_dim_, width_, checked_;
    Buffer x_, w_qkv_, w_o_, b_qkv_, b_o_, out_, packed_qkv_, packed_o_, reference_;
    Doubles exact_; // [sampled row][model]
    qkv_layer_desc desc_ = {};
};

} // namespace

std::unique_ptr<Problem> make_layer(const Case &c) {
    return std::make_unique<LayerProblem>(c);
}

} // namespace bench
