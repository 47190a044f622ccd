// Attention: encoders, causal prefill, and decode (one query on a long cache).  SPDX-License-Identifier: MIT
#include "baselines.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bench {
namespace {

constexpr double kSampleFlops = 2e7; // of the rows that are computed again by the reference and in double

// How K and V are stored. Their elements are multiples of 1/128 below 1, which every type holds exactly.
constexpr float kStep = 1.0f / 128;

int32_t type_of(const Case &c) {
    return c.has("f16")    ? QKV_F16
           : c.has("bf16") ? QKV_BF16
           : c.has("q8_0") ? QKV_Q8_0
           : c.has("int8") ? QKV_INT8
                           : QKV_F32;
}

size_t stored_bytes(int32_t type, int64_t n) {
    const size_t count = static_cast<size_t>(n);
    return type == QKV_F32 ? 4 * count : type == QKV_Q8_0 ? count / 32 * 34 : type == QKV_INT8 ? count : 2 * count;
}

void store(int32_t type, const float *from, int64_t n, unsigned char *to) {
    const uint16_t step = 0x2000; // kStep as binary16
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        std::memcpy(&bits, &from[i], sizeof bits);
        const auto number = static_cast<int8_t>(from[i] / kStep);
        uint16_t half = static_cast<uint16_t>(bits >> 16);
        if (type == QKV_F16)
            half = static_cast<uint16_t>(from[i] == 0 ? 0 : (half & 0x8000) | ((bits & 0x7fffffff) - 0x38000000) >> 13);
        if (type == QKV_Q8_0) {
            if (i % 32 == 0) std::memcpy(to + i / 32 * 34, &step, sizeof step);
            std::memcpy(to + i / 32 * 34 + 2 + i % 32, &number, 1);
        } else if (type == QKV_INT8) {
            std::memcpy(to + i, &number, 1);
        } else {
            std::memcpy(to + 2 * i, &half, sizeof half);
        }
    }
}

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
        type_ = type_of(c);
        copies_ = cold_copies(c, 2 * stored_bytes(type_, kv_size_));

        const int64_t q_size = s.heads * s.queries * s.dim;
        q_ = random_floats(q_size, 3.0f, 1);
        k_ = random_floats(kv_size_, 1.0f, 2);
        v_ = random_floats(kv_size_, 1.0f, 3);
        k_copies_ = repeated(k_, c.pages());
        v_copies_ = repeated(v_, c.pages());
        out_ = floats(q_size);

        desc_.size = sizeof desc_;
        desc_.batch = 1, desc_.num_heads = s.heads, desc_.num_kv_heads = s.kv_heads;
        desc_.seq_q = s.queries, desc_.seq_k = s.keys, desc_.head_dim = s.dim;
        desc_.q = {q_.as(), 0, s.q_head, s.q_token};
        desc_.k = {k_copies_.as<void>(), 0, s.kv_head, s.kv_token};
        desc_.v = {v_copies_.as<void>(), 0, s.kv_head, s.kv_token};
        desc_.k_type = desc_.v_type = type_;
        if (type_ == QKV_INT8) {
            scales_ = floats(s.kv_heads * s.keys);
            std::fill_n(scales_.as(), s.kv_heads * s.keys, kStep);
            desc_.k_scales = desc_.v_scales = {scales_.as(), 0, s.keys, 1};
        }
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
        const int64_t q_size = shape_.heads * shape_.queries * shape_.dim;
        return 2.0 * static_cast<double>(stored_bytes(QKV_F32, q_size) + stored_bytes(type_, kv_size_));
    }
    double bytes() const override { return cold_ ? 2.0 * static_cast<double>(stored_bytes(type_, kv_size_)) : 0; }
    int64_t copies() const override { return copies_; }

    Prepared qkv(const qkv_ctx &ctx, Pool &pool) override {
        auto operation = std::make_shared<Operation<qkv_attention_desc>>(ctx, desc_, pool.num_threads());
        return {[this, operation, &pool](int64_t i) {
                    qkv_attention_desc desc = desc_;
                    desc.k.data = copy(k_copies_, i), desc.v.data = copy(v_copies_, i);
                    operation->run(desc, pool);
                },
                operation->workspace()};
    }

    Prepared openblas(Pool &pool) override {
        if (openblas_description().empty() || type_ != QKV_F32) return {};
        auto operation = std::make_shared<OpenblasAttention>(shape_, pool);
        return {[this, operation](int64_t i) {
                    operation->run(q_.as(), static_cast<const float *>(copy(k_copies_, i)),
                                   static_cast<const float *>(copy(v_copies_, i)), out_.as());
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
    // Copies of K or V as they are stored; where not as floats, source becomes what they mean.
    Buffer repeated(Buffer &source, Pages pages) const {
        const size_t size = stored_bytes(type_, kv_size_);
        Buffer all(size * static_cast<size_t>(copies_), pages);
        auto *first = all.as<unsigned char>();
        for (int64_t i = 0; type_ != QKV_F32 && i < kv_size_; i++)
            source.as()[i] = std::trunc(source.as()[i] / kStep) * kStep;
        if (type_ == QKV_F32)
            std::memcpy(first, source.as(), size);
        else
            store(type_, source.as(), kv_size_, first);
        for (int64_t i = 1; i < copies_; i++) std::memcpy(first + static_cast<size_t>(i) * size, first, size);
        return all;
    }
    const void *copy(const Buffer &all, int64_t i) const {
        return all.as<unsigned char>() + static_cast<size_t>(i % copies_) * stored_bytes(type_, kv_size_);
    }
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
            one.k.data = k_copies_.as<unsigned char>() + stored_bytes(type_, kv_at);
            one.v.data = v_copies_.as<unsigned char>() + stored_bytes(type_, kv_at);
            one.k_scales.head = one.v_scales.head = 0; // all the same
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
    int32_t type_ = QKV_F32;
    int64_t kv_size_ = 0, copies_ = 1;
    Buffer q_, k_, v_, out_, k_copies_, v_copies_, scales_;
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
