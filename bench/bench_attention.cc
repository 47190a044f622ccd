// Attention: encoders, causal prefill, and decode (one query on a long cache).  SPDX-License-Identifier: MIT
#include "baselines.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bench {
namespace {

constexpr double kSampleFlops = 2e7; // of the rows that are computed again by the reference and in double

class AttentionProblem : public Problem {
public:
    explicit AttentionProblem(const Case &c) {
        AttentionShape &s = shape_;
        s.heads = c.get("heads"), s.kv_heads = c.get("kv_heads", s.heads);
        s.keys = c.get("keys"), s.queries = c.get("queries", s.keys), s.dim = c.get("dim");
        s.causal = c.has("causal");
        const bool nhd = c.has("nhd");
        s.q_head = nhd ? s.dim : s.queries * s.dim, s.q_token = nhd ? s.heads * s.dim : s.dim;
        s.kv_head = nhd ? s.dim : s.keys * s.dim, s.kv_token = nhd ? s.kv_heads * s.dim : s.dim;
        cold_ = c.has("cold");
        kv_size_ = s.kv_heads * s.keys * s.dim;
        copies_ = cold_copies(c, static_cast<size_t>(kv_size_) * 2 * sizeof(float));

        const int64_t q_size = s.heads * s.queries * s.dim;
        q_ = random_floats(q_size, 3.0f, 1);
        k_ = repeated(random_floats(kv_size_, 1.0f, 2), c.pages());
        v_ = repeated(random_floats(kv_size_, 1.0f, 3), c.pages());
        out_ = floats(q_size);

        desc_.size = sizeof desc_;
        desc_.batch = 1, desc_.num_heads = s.heads, desc_.num_kv_heads = s.kv_heads;
        desc_.seq_q = s.queries, desc_.seq_k = s.keys, desc_.head_dim = s.dim;
        desc_.q = {q_.as(), 0, s.q_head, s.q_token};
        desc_.k = {k_.as(), 0, s.kv_head, s.kv_token};
        desc_.v = {v_.as(), 0, s.kv_head, s.kv_token};
        desc_.out = {out_.as(), 0, s.q_head, s.q_token};
        desc_.flags = s.causal ? QKV_RIGHT : 0;
        desc_.q_offset = s.causal ? s.keys - s.queries : 0;
    }

    double flops() const override {
        const AttentionShape &s = shape_;
        double pairs = static_cast<double>(s.queries * s.keys);
        if (s.causal) pairs -= static_cast<double>(s.queries * (s.queries - 1) / 2);
        return 4.0 * pairs * static_cast<double>(s.heads * s.dim);
    }
    double operands() const override {
        return 2.0 * sizeof(float) * static_cast<double>(shape_.heads * shape_.queries * shape_.dim + kv_size_);
    }
    double bytes() const override { return cold_ ? 2.0 * sizeof(float) * static_cast<double>(kv_size_) : 0; }
    int64_t copies() const override { return copies_; }

    Prepared qkv(const qkv_ctx &ctx, Pool &pool) override {
        auto operation = std::make_shared<Operation<qkv_attention_desc>>(ctx, desc_, pool.num_threads());
        return {[this, operation, &pool](int64_t i) {
                    qkv_attention_desc desc = desc_;
                    desc.k.data = copy(k_, i), desc.v.data = copy(v_, i);
                    operation->run(desc, pool);
                },
                operation->workspace()};
    }

    Prepared openblas(Pool &pool) override {
        if (openblas_description().empty()) return {};
        auto operation = std::make_shared<OpenblasAttention>(shape_, pool);
        return {[this, operation](int64_t i) {
                    operation->run(q_.as(), copy(k_, i), copy(v_, i), out_.as());
                },
                operation->workspace()};
    }

    std::string compare(const qkv_ctx &ref) override {
        sample(&ref);
        const AttentionShape &s = shape_;
        for (size_t i = 0; i < samples_.size(); i++) {
            auto diff = first_difference(got(samples_[i]), reference_.data() + i * static_cast<size_t>(s.dim), s.dim,
                                         samples_[i] % s.queries);
            if (!diff.empty()) return diff;
        }
        return "";
    }

    Errors errors() override {
        sample(nullptr);
        Errors errors;
        for (size_t i = 0; i < samples_.size(); i++) {
            for (int64_t c = 0; c < shape_.dim; c++) {
                const double exact = exact_[i * static_cast<size_t>(shape_.dim) + static_cast<size_t>(c)];
                const double error = std::abs(static_cast<double>(got(samples_[i])[c]) - exact);
                errors.largest = std::isnan(error) ? HUGE_VAL : std::max(errors.largest, error);
                errors.scale = std::max(errors.scale, std::abs(exact));
            }
        }
        return errors;
    }

    Buffer *output() override { return &out_; }
    std::vector<Input> inputs() const override {
        const int64_t q_size = shape_.heads * shape_.queries * shape_.dim;
        return {{"q", q_.as(), q_size}, {"k", k_.as(), kv_size_}, {"v", v_.as(), kv_size_}};
    }

private:
    Buffer repeated(const Buffer &source, Pages pages) const {
        Buffer all = floats(copies_ * kv_size_, pages);
        for (int64_t i = 0; i < copies_; i++) std::memcpy(all.as() + i * kv_size_, source.as(), source.bytes());
        return all;
    }
    const float *copy(const Buffer &all, int64_t i) const { return all.as() + i % copies_ * kv_size_; }
    const float *got(int64_t sample) const {
        return out_.as() + sample / shape_.queries * desc_.out.head + sample % shape_.queries * desc_.out.token;
    }

    // Sample number h·queries + i is query i of head h: computed once in double, and by the reference.
    void sample(const qkv_ctx *ref) {
        const AttentionShape &s = shape_;
        const size_t dim = static_cast<size_t>(s.dim);
        if (samples_.empty()) {
            const double each = 4.0 * static_cast<double>(s.keys * s.dim);
            samples_ = sample_rows(s.heads * s.queries,
                                   std::clamp<int64_t>(static_cast<int64_t>(kSampleFlops / each), 2, 1000));
            exact_.resize(samples_.size() * dim);
            for (size_t i = 0; i < samples_.size(); i++) exact_row(samples_[i], exact_.data() + i * dim);
        }
        if (ref == nullptr || !reference_.empty()) return;
        reference_.resize(samples_.size() * dim);
        for (size_t i = 0; i < samples_.size(); i++) { // a row's bits don't depend on the rows around it
            const int64_t head = samples_[i] / s.queries, query = samples_[i] % s.queries;
            const int64_t kv_at = head / (s.heads / s.kv_heads) * s.kv_head;
            qkv_attention_desc one = desc_;
            one.num_heads = one.num_kv_heads = one.seq_q = 1;
            one.q.data = q_.as() + head * s.q_head + query * s.q_token;
            one.k.data = k_.as() + kv_at, one.v.data = v_.as() + kv_at;
            one.out = {reference_.data() + i * dim, 0, s.dim, s.dim};
            one.q_offset += query;
            Operation<qkv_attention_desc>(*ref, one, 1).run(one);
        }
    }

    void exact_row(int64_t sample, double *out) const {
        const AttentionShape &s = shape_;
        const int64_t head = sample / s.queries, query = sample % s.queries;
        const int64_t kv_at = head / (s.heads / s.kv_heads) * s.kv_head;
        const float *q = q_.as() + head * s.q_head + query * s.q_token;
        const int64_t seen = s.causal ? s.keys - s.queries + query + 1 : s.keys;
        std::vector<double> logits(static_cast<size_t>(seen));
        double largest = -HUGE_VAL, sum = 0;
        for (int64_t j = 0; j < seen; j++) {
            const float *k = k_.as() + kv_at + j * s.kv_token;
            double dot = 0;
            for (int64_t c = 0; c < s.dim; c++) dot += static_cast<double>(q[c]) * static_cast<double>(k[c]);
            logits[static_cast<size_t>(j)] = dot / std::sqrt(static_cast<double>(s.dim));
            largest = std::max(largest, logits[static_cast<size_t>(j)]);
        }
        std::fill(out, out + s.dim, 0.0);
        for (int64_t j = 0; j < seen; j++) {
            const float *v = v_.as() + kv_at + j * s.kv_token;
            const double p = std::exp(logits[static_cast<size_t>(j)] - largest);
            for (int64_t c = 0; c < s.dim; c++) out[c] += p * static_cast<double>(v[c]);
            sum += p;
        }
        for (int64_t c = 0; c < s.dim; c++) out[c] /= sum;
    }

    AttentionShape shape_ = {};
    bool cold_ = false;
    int64_t kv_size_ = 0, copies_ = 1;
    Buffer q_, k_, v_, out_;
    qkv_attention_desc desc_ = {};
    std::vector<int64_t> samples_;
    std::vector<double> exact_;    // [sample][dim]
    std::vector<float> reference_; // [sample][dim]
};

} // namespace

std::unique_ptr<Problem> make_attention(const Case &c) {
    return std::make_unique<AttentionProblem>(c);
}

} // namespace bench
