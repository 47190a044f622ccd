// Gradients of attention, given the forward's out and lse: dQ, dK and dV.  SPDX-License-Identifier: MIT
#include "bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bench {
namespace {

constexpr int64_t kKeys = 8; // sampled at the start of the first and of the last block of keys

class BackwardProblem : public Problem {
  public:
    explicit BackwardProblem(const Case &c) {
        heads_ = c.get("heads"), kv_heads_ = c.get("kv_heads", heads_), group_ = heads_ / kv_heads_;
        keys_ = c.get("keys"), dim_ = c.get("dim"), causal_ = c.has("causal");
        q_size_ = heads_ * keys_ * dim_, kv_size_ = kv_heads_ * keys_ * dim_;
        q_ = random_floats(q_size_, 3.0f, 1), d_out_ = random_floats(q_size_, 1.0f, 4);
        k_ = random_floats(kv_size_, 1.0f, 2), v_ = random_floats(kv_size_, 1.0f, 3);
        out_ = floats(q_size_), lse_ = floats(heads_ * keys_);
        gradients_ = floats(q_size_ + 2 * kv_size_); // dQ, dK, dV
        queries_ = sample_rows(keys_, 16);
        key_starts_ = {0, (keys_ - 1) / QKV_KEY_BLOCK * QKV_KEY_BLOCK};

        const int64_t head = keys_ * dim_;
        desc_.size = sizeof desc_;
        desc_.grad_out = {d_out_.as(), 0, head, dim_};
        desc_.grad_q = {dq(), 0, head, dim_};
        desc_.grad_k = {dk(), 0, head, dim_};
        desc_.grad_v = {dv(), 0, head, dim_};
        qkv_attention_desc &forward = desc_.forward;
        forward.size = sizeof forward;
        forward.batch = 1, forward.num_heads = heads_, forward.num_kv_heads = kv_heads_;
        forward.seq_q = forward.seq_k = keys_, forward.head_dim = dim_;
        forward.q = {q_.as(), 0, head, dim_};
        forward.k = {k_.as(), 0, head, dim_};
        forward.v = {v_.as(), 0, head, dim_};
        forward.out = {out_.as(), 0, head, dim_};
        forward.lse = {lse_.as(), 0, keys_, 1};
        forward.flags = causal_ ? QKV_RIGHT : 0;
        forward.arithmetic = c.has("in_bf16") ? QKV_ARITHMETIC_BF16 : QKV_ARITHMETIC_F32;
        qkv_ctx ctx;
        require(qkv_init(&ctx, nullptr), "init");
        Operation<qkv_attention_desc>(ctx, forward, 1).run(forward);
    }

    double flops() const override { // 2.5 × the forward's
        const double pairs = static_cast<double>(causal_ ? keys_ * (keys_ + 1) / 2 : keys_ * keys_);
        return 10.0 * pairs * static_cast<double>(heads_ * dim_);
    }
    double operands() const override {
        return sizeof(float) * static_cast<double>(4 * q_size_ + 4 * kv_size_ + heads_ * keys_);
    }

    Prepared qkv(const qkv_ctx &ctx, Pool &pool) override {
        auto operation = std::make_shared<Operation<qkv_attention_backward_desc>>(ctx, desc_, pool.num_threads());
        return {[this, operation, &pool](int64_t) { operation->run(desc_, pool); }, operation->workspace()};
    }

    // The loops of llm.c's attention_backward, which are cubic: the softmax is differentiated pair by pair. P is kept
    // from a forward that is not timed.
    Prepared loops() override {
        const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
        auto kept = std::make_shared<std::vector<float>>(static_cast<size_t>(heads_ * keys_ * keys_));
        for (int64_t row = 0; row < heads_ * keys_; row++) {
            const float *q = q_.as() + row * dim_, *k = k_.as() + row / keys_ / group_ * keys_ * dim_;
            for (int64_t j = 0; j < seen(row); j++) {
                float dot = 0;
                for (int64_t i = 0; i < dim_; i++)
                    dot += q[i] * k[j * dim_ + i];
                (*kept)[static_cast<size_t>(row * keys_ + j)] = std::exp(dot * scale - lse_.as()[row]);
            }
        }
        return {[this, kept, scale](int64_t) { run_loops(kept->data(), scale); }, kept->size() * sizeof(float)};
    }

    // Of the last KV head: rows of dQ, which depend on no other query, and rows of dK and dV, which depend on no other
    // key.
    std::string compare(const qkv_ctx &ref) override {
        const int64_t last = heads_ - 1, first = heads_ - group_, kv = (kv_heads_ - 1) * keys_ * dim_;
        if (reference_.empty()) {
            const size_t row = static_cast<size_t>(dim_);
            reference_.resize((queries_.size() + 2 * key_starts_.size() * kKeys) * row);
            float *to = reference_.data();
            for (int64_t query : queries_) {
                qkv_attention_backward_desc one = of_heads(last, 1);
                const int64_t at = (last * keys_ + query) * dim_;
                one.forward.seq_q = 1, one.forward.q_offset = query;
                one.forward.q.data = q_.as() + at, one.grad_out.data = d_out_.as() + at;
                one.forward.out.data = out_.as() + at, one.forward.lse.data = lse_.as() + last * keys_ + query;
                one.grad_q.data = to;
                Operation<qkv_attention_backward_desc>(ref, one, 1).run(one);
                to += dim_;
            }
            for (int64_t start : key_starts_) {
                qkv_attention_backward_desc some = of_heads(first, group_);
                some.forward.seq_k = keys_from(start), some.forward.q_offset = -start;
                some.forward.k.data = k_.as() + kv + start * dim_, some.forward.v.data = v_.as() + kv + start * dim_;
                some.grad_k.data = to, some.grad_v.data = to + kKeys * dim_;
                Operation<qkv_attention_backward_desc>(ref, some, 1).run(some);
                to += 2 * kKeys * dim_;
            }
        }
        return each_sample([&](const float *got, size_t at, int64_t n, int64_t row) {
            return first_difference(got, reference_.data() + at, n, row);
        });
    }

    Errors errors() override {
        if (exact_.empty()) exact();
        Errors errors;
        each_sample([&](const float *got, size_t at, int64_t n, int64_t) {
            for (int64_t i = 0; i < n; i++) {
                const double right = exact_[at + static_cast<size_t>(i)];
                const double error = std::abs(static_cast<double>(got[i]) - right);
                errors.largest = std::isnan(error) ? HUGE_VAL : std::max(errors.largest, error);
                errors.scale = std::max(errors.scale, std::abs(right));
            }
            return std::string();
        });
        return errors;
    }

    Buffer *output() override { return &gradients_; }
    std::vector<Input> inputs() const override {
        return {{"q", q_.as(), q_size_},
                {"k", k_.as(), kv_size_},
                {"v", v_.as(), kv_size_},
                {"d_out", d_out_.as(), q_size_}};
    }

  private:
    float *dq() const { return gradients_.as(); }
    float *dk() const { return gradients_.as() + q_size_; }
    float *dv() const { return dk() + kv_size_; }
    int64_t seen(int64_t row) const { return causal_ ? row % keys_ + 1 : keys_; } // keys
    void run_loops(const float *p, float scale) {
        std::memset(gradients_.as(), 0, gradients_.bytes());
        std::vector<float> d_p(static_cast<size_t>(keys_)), d_s(static_cast<size_t>(keys_));
        for (int64_t row = 0; row < heads_ * keys_; row++, p += keys_) {
            const int64_t kv = row / keys_ / group_ * keys_ * dim_, n = seen(row);
            const float *q = q_.as() + row * dim_, *d_out = d_out_.as() + row * dim_;
            std::fill(d_p.begin(), d_p.end(), 0.0f);
            std::fill(d_s.begin(), d_s.end(), 0.0f);
            for (int64_t j = 0; j < n; j++) {
                const float *v = v_.as() + kv + j * dim_;
                float *d_v = dv() + kv + j * dim_;
                for (int64_t i = 0; i < dim_; i++) {
                    d_p[static_cast<size_t>(j)] += v[i] * d_out[i];
                    d_v[i] += p[j] * d_out[i];
                }
            }
            for (int64_t a = 0; a < n; a++) {
                for (int64_t b = 0; b < n; b++) {
                    const float derivative = p[a] * ((a == b ? 1.0f : 0.0f) - p[b]);
                    d_s[static_cast<size_t>(b)] += derivative * d_p[static_cast<size_t>(a)];
                }
            }
            for (int64_t j = 0; j < n; j++) {
                const float *k = k_.as() + kv + j * dim_, by = d_s[static_cast<size_t>(j)] * scale;
                float *d_q = dq() + row * dim_, *d_k = dk() + kv + j * dim_;
                for (int64_t i = 0; i < dim_; i++) {
                    d_q[i] += k[i] * by;
                    d_k[i] += q[i] * by;
                }
            }
        }
    }
    int64_t keys_from(int64_t start) const { return std::min(kKeys, keys_ - start); }

    // `count` heads from `head` on, all of the last KV head, and no gradients.
    qkv_attention_backward_desc of_heads(int64_t head, int64_t count) const {
        qkv_attention_backward_desc some = desc_;
        const int64_t at = head * keys_ * dim_, kv = (kv_heads_ - 1) * keys_ * dim_;
        some.forward.num_heads = count, some.forward.num_kv_heads = 1;
        some.forward.q.data = q_.as() + at, some.grad_out.data = d_out_.as() + at;
        some.forward.out.data = out_.as() + at, some.forward.lse.data = lse_.as() + head * keys_;
        some.forward.k.data = k_.as() + kv, some.forward.v.data = v_.as() + kv;
        some.grad_q.data = some.grad_k.data = some.grad_v.data = nullptr;
        return some;
    }

    // use(got, place among the samples, floats, row) until it returns something.
    template <typename Use> std::string each_sample(Use use) const {
        size_t at = 0;
        for (int64_t query : queries_) {
            auto text = use(dq() + ((heads_ - 1) * keys_ + query) * dim_, at, dim_, query);
            if (!text.empty()) return "dQ, " + text;
            at += static_cast<size_t>(dim_);
        }
        for (int64_t start : key_starts_) {
            for (const float *gradient : {dk(), dv()}) {
                const float *got = gradient + ((kv_heads_ - 1) * keys_ + start) * dim_;
                auto text = use(got, at, keys_from(start) * dim_, start);
                if (!text.empty()) return (gradient == dk() ? "dK, " : "dV, ") + text;
                at += static_cast<size_t>(kKeys * dim_);
            }
        }
        return "";
    }

    double dot(const float *a, const float *b) const {
        double sum[4] = {};
        for (int64_t c = 0; c < dim_; c++)
            sum[c % 4] += static_cast<double>(a[c]) * static_cast<double>(b[c]);
        return sum[0] + sum[1] + sum[2] + sum[3];
    }

    // The samples in double, by the definition: P, δ = Σ dO·O, dS = P·(dO·V − δ).
    void exact() {
        const size_t dim = static_cast<size_t>(dim_), keys = static_cast<size_t>(keys_);
        const float *k = k_.as() + (kv_heads_ - 1) * keys_ * dim_, *v = v_.as() + (kv_heads_ - 1) * keys_ * dim_;
        const double scale = 1 / std::sqrt(static_cast<double>(dim_));
        exact_.assign((queries_.size() + 2 * key_starts_.size() * kKeys) * dim, 0.0);
        std::vector<double> p(keys), dp(keys);
        for (int64_t row = 0; row < group_ * keys_; row++) {
            const int64_t head = heads_ - group_ + row / keys_, query = row % keys_;
            const int64_t at = (head * keys_ + query) * dim_;
            const float *q = q_.as() + at, *d_out = d_out_.as() + at;
            const size_t seen = static_cast<size_t>(causal_ ? query + 1 : keys_);
            double largest = -HUGE_VAL, sum = 0, delta = 0;
            for (size_t j = 0; j < seen; j++) {
                p[j] = scale * dot(q, k + j * dim);
                dp[j] = dot(d_out, v + j * dim);
                largest = std::max(largest, p[j]);
            }
            for (size_t j = 0; j < seen; j++)
                sum += p[j] = std::exp(p[j] - largest);
            for (size_t j = 0; j < seen; j++)
                p[j] /= sum, delta += p[j] * dp[j];
            const auto found = std::find(queries_.begin(), queries_.end(), query);
            if (head == heads_ - 1 && found != queries_.end()) {
                double *out = exact_.data() + static_cast<size_t>(found - queries_.begin()) * dim;
                for (size_t j = 0; j < seen; j++)
                    add(out, scale * p[j] * (dp[j] - delta), k + j * dim);
            }
            double *out = exact_.data() + queries_.size() * dim;
            for (int64_t start : key_starts_) {
                for (size_t x = 0; x < static_cast<size_t>(keys_from(start)); x++) {
                    const size_t j = static_cast<size_t>(start) + x;
                    if (j >= seen) break;
                    add(out + x * dim, scale * p[j] * (dp[j] - delta), q);
                    add(out + (kKeys + static_cast<int64_t>(x)) * dim_, p[j], d_out);
                }
                out += 2 * kKeys * dim_;
            }
        }
    }
    void add(double *out, double factor, const float *row) const {
        for (int64_t c = 0; c < dim_; c++)
            out[c] += factor * static_cast<double>(row[c]);
    }

    int64_t heads_, kv_heads_, group_, keys_, dim_, q_size_, kv_size_;
    bool causal_;
    Buffer q_, k_, v_, out_, lse_, d_out_, gradients_;
    std::vector<int64_t> queries_, key_starts_;
    std::vector<float> reference_; // rows of dQ; then for each start of keys: kKeys rows of dK, kKeys of dV
    std::vector<double> exact_;
    qkv_attention_backward_desc desc_ = {};
};

} // namespace

std::unique_ptr<Problem> make_backward(const Case &c) {
    return std::make_unique<BackwardProblem>(c);
}

} // namespace bench
