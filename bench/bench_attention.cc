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

// The largest magnitude of a row becomes 127 steps, so that an int8 cache, which looks for a scale, finds kStep.
void make_exact(float *values, int64_t rows, int64_t dim) {
    for (int64_t i = 0; i < rows * dim; i++)
        values[i] = std::max(std::trunc(values[i] / kStep), -127.0f) * kStep;
    for (int64_t r = 0; r < rows; r++)
        values[r * dim + r % dim] = 127 * kStep;
}

void store(int32_t type, const float *from, int64_t n, unsigned char *to) {
    if (type == QKV_F32) {
        std::memcpy(to, from, stored_bytes(type, n));
        return;
    }
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

// Where each sequence begins among all keys, and their end: of 1/32 of `keys` to all of them, in steps of one ratio and
// in no order, or one of all.
std::vector<int64_t> key_starts(int64_t sequences, int64_t keys) {
    if (sequences == 1) return {0, keys};
    std::vector<int64_t> starts = {0};
    for (int64_t i = 0; i < sequences; i++) {
        const double place = static_cast<double>(i * 7 % sequences) / static_cast<double>(sequences - 1);
        starts.push_back(starts.back() + std::llround(static_cast<double>(keys) * std::exp2(5 * (place - 1))));
    }
    return starts;
}

class AttentionProblem : public Problem {
  public:
    explicit AttentionProblem(const Case &c) {
        AttentionShape &s = shape_;
        s.heads = c.get("heads"), s.kv_heads = c.get("kv_heads", s.heads);
        s.keys = c.get("keys"), s.queries = c.get("queries", s.keys), s.dim = c.get("dim");
        s.causal = c.has("causal");
        sequences_ = c.get("sequences", 1), value_dim_ = c.get("latent", s.dim);
        starts_ = key_starts(sequences_, s.keys);
        if (sequences_ > 1) s.queries = sequences_, s.keys = starts_.back();
        const bool nhd = c.has("nhd"), latent = c.has("latent");
        s.q_head = nhd ? s.dim : s.queries * s.dim, s.q_token = nhd ? s.heads * s.dim : s.dim;
        s.kv_head = nhd ? s.dim : s.keys * s.dim, s.kv_token = nhd ? s.kv_heads * s.dim : s.dim;
        cold_ = c.has("cold");
        type_ = type_of(c);
        const int64_t rows = s.kv_heads * s.keys;
        kv_size_ = rows * s.dim;
        kv_bytes_ = (latent ? 1 : 2) * stored_bytes(type_, kv_size_);
        if (type_ == QKV_INT8 && c.has("cache")) kv_bytes_ += 2 * stored_bytes(QKV_F32, rows);
        copies_ = cold_copies(c, kv_bytes_);

        const int64_t q_size = s.heads * s.queries * s.dim;
        q_ = random_floats(q_size, 3.0f, 1);
        k_ = random_floats(kv_size_, 1.0f, 2);
        v_ = random_floats(latent ? 0 : kv_size_, 1.0f, 3);
        if (type_ != QKV_F32) {
            make_exact(k_.as(), rows, s.dim);
            if (!latent) make_exact(v_.as(), rows, s.dim);
        }
        out_ = floats(s.heads * s.queries * value_dim_);

        qkv_attention_desc desc = {};
        desc.size = sizeof desc;
        desc.batch = sequences_, desc.num_heads = s.heads, desc.num_kv_heads = s.kv_heads;
        desc.seq_q = s.queries / sequences_, desc.seq_k = s.keys, desc.head_dim = s.dim;
        desc.head_dim_v = value_dim_;
        desc.q = {q_.as(), s.q_token, s.q_head, s.q_token};
        desc.k = desc.v = {nullptr, 0, s.kv_head, s.kv_token};
        desc.k_type = desc.v_type = type_;
        const int64_t out_token = nhd ? s.heads * value_dim_ : value_dim_;
        desc.out = {out_.as(), out_token, nhd ? value_dim_ : s.queries * value_dim_, out_token};
        desc.flags = s.causal ? QKV_RIGHT : 0;
        desc.arithmetic = c.has("in_bf16")   ? QKV_ARITHMETIC_BF16
                          : c.has("rounded") ? QKV_ARITHMETIC_INT8
                                             : QKV_ARITHMETIC_F32;
        desc.q_offset = s.causal ? s.keys - s.queries : 0;
        if (type_ == QKV_INT8 && !c.has("cache")) {
            scales_ = floats(rows);
            std::fill_n(scales_.as(), rows, kStep);
            desc.k_scales = desc.v_scales = {scales_.as(), 0, s.keys, 1};
        }
        if (c.has("cache"))
            fill_caches(desc, c.get("keys"), c.pages());
        else
            fill_rows(desc, c.get("page", 0), c.pages());
        // A call for all sequences of a copy, or one for each.
        calls_ = c.has("apart") ? sequences_ : 1;
        for (int64_t i = 0; calls_ > 1 && i < copies_; i++) {
            for (int64_t b = 0; b < calls_; b++)
                parts_.push_back(part(i, b));
        }
    }

    double flops() const override {
        const AttentionShape &s = shape_;
        double pairs = static_cast<double>(sequences_ > 1 ? s.keys : s.queries * s.keys);
        if (s.causal) pairs -= static_cast<double>(s.queries * (s.queries - 1) / 2);
        return 2.0 * pairs * static_cast<double>(s.heads * (s.dim + value_dim_));
    }
    double operands() const override {
        const int64_t q_size = shape_.heads * shape_.queries * (shape_.dim + value_dim_);
        return static_cast<double>(stored_bytes(QKV_F32, q_size) + kv_bytes_);
    }
    double bytes() const override { return cold_ ? static_cast<double>(kv_bytes_) : 0; }
    int64_t copies() const override { return copies_; }

    Prepared qkv(const qkv_ctx &ctx, Pool &pool) override {
        const auto &descs = parts_.empty() ? descs_ : parts_;
        auto operation = std::make_shared<Operation<qkv_attention_desc>>(ctx, descs[0], pool.num_threads());
        return {[this, operation, &descs, &pool](int64_t i) {
                    const auto *first = &descs[static_cast<size_t>(i % copies_ * calls_)];
                    for (int64_t b = 0; b < calls_; b++)
                        operation->run(first[b], pool);
                },
                operation->workspace()};
    }

    Prepared openblas(Pool &pool) override {
        if (openblas_description().empty()) return {};
        auto operation = std::make_shared<OpenblasAttention>(shape_, pool);
        return {[this, operation](int64_t i) {
                    const qkv_attention_desc &desc = descs_[static_cast<size_t>(i % copies_)];
                    operation->run(q_.as(), static_cast<const float *>(desc.k.data),
                                   static_cast<const float *>(desc.v.data), out_.as());
                },
                operation->workspace()};
    }

    std::string compare(const qkv_ctx &ref) override {
        sample(&ref);
        for (size_t i = 0; i < samples_.size(); i++) {
            auto diff = first_difference(got(samples_[i]), reference_.data() + i * static_cast<size_t>(value_dim_),
                                         value_dim_, samples_[i] % shape_.queries);
            if (!diff.empty()) return diff;
        }
        return "";
    }

    Errors errors() override {
        sample(nullptr);
        Errors errors;
        for (size_t i = 0; i < samples_.size(); i++) {
            for (int64_t c = 0; c < value_dim_; c++) {
                const double exact = exact_[i * static_cast<size_t>(value_dim_) + static_cast<size_t>(c)];
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
    size_t at(int64_t elements) const { return stored_bytes(type_, elements); }

    // Copies of K and V as rows, in one piece or in pages of a pool, in no order.
    void fill_rows(qkv_attention_desc desc, int64_t page, Pages pages) {
        const AttentionShape &s = shape_;
        const int64_t num_pages = page ? s.keys / page : 1;
        const size_t size = at(kv_size_);
        for (int64_t p = 0; page && p < num_pages; p++) {
            table_.push_back(static_cast<int32_t>(p));
            std::swap(table_.back(), table_[static_cast<size_t>(p * 7919 % (p + 1))]);
        }
        for (auto *each : {&k_, &v_}) {
            if (each->bytes() == 0) continue; // V is a part of K
            stored_.emplace_back(size * static_cast<size_t>(copies_), pages);
            auto *first = stored_.back().as<unsigned char>();
            if (!page) store(type_, each->as(), kv_size_, first);
            for (int64_t i = 0; page && i < s.kv_heads * num_pages; i++) {
                const int64_t head = i / num_pages, p = i % num_pages;
                store(type_, each->as() + head * s.kv_head + p * page * s.dim, page * s.dim,
                      first + at((table_[static_cast<size_t>(p)] * s.kv_heads + head) * page * s.dim));
            }
            for (int64_t i = 1; i < copies_; i++)
                std::memcpy(first + static_cast<size_t>(i) * size, first, size);
        }
        if (page) {
            desc.k = desc.v = {nullptr, s.kv_heads * page * s.dim, page * s.dim, s.dim};
            desc.page_table = table_.data(), desc.page_tokens = page;
            desc.num_pages = desc.table_stride = num_pages;
        }
        for (int64_t i = 0; i < copies_; i++) {
            desc.k.data = stored_.front().as<unsigned char>() + static_cast<size_t>(i) * size;
            desc.v.data = stored_.back().as<unsigned char>() + static_cast<size_t>(i) * size;
            descs_.push_back(desc);
        }
    }

    // Copies of the library's own cache.
    void fill_caches(qkv_attention_desc desc, int64_t max_tokens, Pages pages) {
        const AttentionShape &s = shape_;
        qkv_cache_desc cache = {};
        cache.size = sizeof cache;
        cache.num_sequences = sequences_, cache.max_tokens = max_tokens;
        cache.num_kv_heads = s.kv_heads, cache.head_dim = s.dim;
        cache.k_type = cache.v_type = type_;
        for (int64_t b = 0; b < sequences_; b++)
            cache.num_pages += (length(b) + QKV_CACHE_PAGE - 1) / QKV_CACHE_PAGE;
        size_t size = 0;
        qkv_ctx ctx;
        require(qkv_init(&ctx, nullptr), "init");
        require(qkv_cache_size(&cache, &size), "cache size");
        stored_.emplace_back(size * static_cast<size_t>(copies_), pages);
        auto *first = stored_.back().as<unsigned char>();
        require(qkv_cache_init(&cache, first, size), "cache");
        for (int64_t b = 0; b < sequences_; b++) {
            const int64_t start = starts_[static_cast<size_t>(b)] * s.kv_token;
            require(qkv_cache_append(&ctx, first, b, length(b), {k_.as() + start, 0, s.kv_head, s.kv_token},
                                     {v_.as() + start, 0, s.kv_head, s.kv_token}),
                    "append");
        }
        for (int64_t i = 0; i < copies_; i++) {
            auto *copy = first + static_cast<size_t>(i) * size;
            if (i > 0) std::memcpy(copy, first, size); // a cache holds no addresses
            require(qkv_cache_attach(copy, 0, &desc), "attach");
            descs_.push_back(desc);
        }
    }

    int64_t length(int64_t sequence) const {
        return starts_[static_cast<size_t>(sequence) + 1] - starts_[static_cast<size_t>(sequence)];
    }
    // The call for one sequence of a copy.
    qkv_attention_desc part(int64_t copy, int64_t sequence) const {
        qkv_attention_desc desc = descs_[static_cast<size_t>(copy)];
        desc.batch = 1;
        desc.q.data = static_cast<const float *>(desc.q.data) + sequence * desc.q.batch;
        desc.out.data = static_cast<float *>(desc.out.data) + sequence * desc.out.batch;
        if (desc.kv_len != nullptr) desc.kv_len += sequence;
        if (desc.page_table != nullptr) desc.page_table += sequence * desc.table_stride;
        return desc;
    }
    const float *got(int64_t sample) const {
        const qkv_output &out = descs_[0].out;
        return out_.as() + sample / shape_.queries * out.head + sample % shape_.queries * out.token;
    }

    // Sample number h·queries + i is query i of head h: computed once in double, and by the reference. Of several
    // sequences each has one query.
    void sample(const qkv_ctx *ref) {
        const AttentionShape &s = shape_;
        const size_t dim = static_cast<size_t>(value_dim_);
        if (samples_.empty()) {
            const double each = 4.0 * static_cast<double>(s.keys * s.dim);
            samples_ = sample_rows(s.heads * s.queries,
                                   std::clamp<int64_t>(static_cast<int64_t>(kSampleFlops / each), 2, 1000));
            exact_.resize(samples_.size() * dim);
            for (size_t i = 0; i < samples_.size(); i++)
                exact_row(samples_[i], exact_.data() + i * dim);
        }
        if (ref == nullptr || !reference_.empty()) return;
        reference_.resize(samples_.size() * dim);
        for (size_t i = 0; i < samples_.size(); i++) { // a row's bits don't depend on the rows around it
            const int64_t head = samples_[i] / s.queries, query = samples_[i] % s.queries;
            const int64_t kv_head = head / (s.heads / s.kv_heads);
            qkv_attention_desc one = part(0, sequences_ > 1 ? query : 0);
            one.num_heads = one.num_kv_heads = one.seq_q = 1;
            one.q.data = q_.as() + head * s.q_head + query * s.q_token;
            one.k.data = static_cast<const unsigned char *>(one.k.data) + at(kv_head * one.k.head);
            one.v.data = static_cast<const unsigned char *>(one.v.data) + at(kv_head * one.v.head);
            if (type_ == QKV_INT8) {
                one.k_scales.data = static_cast<const float *>(one.k_scales.data) + kv_head * one.k_scales.head;
                one.v_scales.data = static_cast<const float *>(one.v_scales.data) + kv_head * one.v_scales.head;
            }
            one.out = {reference_.data() + i * dim, 0, value_dim_, value_dim_};
            if (s.causal) one.q_offset += query;
            Operation<qkv_attention_desc>(*ref, one, 1).run(one);
        }
    }

    void exact_row(int64_t sample, double *out) const {
        const AttentionShape &s = shape_;
        const int64_t head = sample / s.queries, query = sample % s.queries;
        const int64_t kv_at = head / (s.heads / s.kv_heads) * s.kv_head;
        const float *q = q_.as() + head * s.q_head + query * s.q_token;
        const size_t sequence = sequences_ > 1 ? static_cast<size_t>(query) : 0;
        const float *keys = k_.as() + kv_at + starts_[sequence] * s.kv_token;
        const float *values = v_.bytes() ? v_.as() + (keys - k_.as()) : keys;
        const int64_t all = length(static_cast<int64_t>(sequence)), seen = s.causal ? all - s.queries + query + 1 : all;
        std::vector<double> logits(static_cast<size_t>(seen));
        double largest = -HUGE_VAL, sum = 0;
        for (int64_t j = 0; j < seen; j++) {
            const float *k = keys + j * s.kv_token;
            double dot = 0;
            for (int64_t c = 0; c < s.dim; c++)
                dot += static_cast<double>(q[c]) * static_cast<double>(k[c]);
            logits[static_cast<size_t>(j)] = dot / std::sqrt(static_cast<double>(s.dim));
            largest = std::max(largest, logits[static_cast<size_t>(j)]);
        }
        std::fill(out, out + value_dim_, 0.0);
        for (int64_t j = 0; j < seen; j++) {
            const float *v = values + j * s.kv_token;
            const double p = std::exp(logits[static_cast<size_t>(j)] - largest);
            for (int64_t c = 0; c < value_dim_; c++)
                out[c] += p * static_cast<double>(v[c]);
            sum += p;
        }
        for (int64_t c = 0; c < value_dim_; c++)
            out[c] /= sum;
    }

    AttentionShape shape_ = {};
    bool cold_ = false;
    int32_t type_ = QKV_F32;
    size_t kv_bytes_ = 0; // of one copy
    int64_t kv_size_ = 0, copies_ = 1, sequences_ = 1, calls_ = 1, value_dim_ = 0;
    Buffer q_, k_, v_, out_, scales_; // k_ and v_: what is stored, as floats
    std::vector<Buffer> stored_;
    std::vector<int32_t> table_;
    std::vector<int64_t> starts_;
    std::vector<qkv_attention_desc> descs_, parts_; // [copy], [copy][sequence]
    std::vector<int64_t> samples_;
    std::vector<double> exact_;    // [sample][value_dim]
    std::vector<float> reference_; // [sample][value_dim]
};

} // namespace

std::unique_ptr<Problem> make_attention(const Case &c) {
    return std::make_unique<AttentionProblem>(c);
}

} // namespace bench
