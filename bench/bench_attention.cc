// Attention: encoders, causal prefill, and decode (one query on a long cache). Tensors are [head][token][channel], as
// most libraries take them, or [token][head][channel] ("NHD"), as a projection leaves them.
// SPDX-License-Identifier: MIT
#include "bench.h"

#include <algorithm>

namespace bench {
namespace {

struct Shape {
    int64_t num_heads, num_kv_heads, seq_q, seq_k, head_dim;
    bool causal, quick;
    bool nhd = false;
};

class AttentionWork : public Work {
public:
    explicit AttentionWork(const Shape &shape) : shape_(shape) {
        const int64_t d = shape.head_dim, q_size = shape.num_heads * shape.seq_q * d;
        const int64_t kv_size = shape.num_kv_heads * shape.seq_k * d;
        q_ = random_floats(q_size, 3.0f, 1);
        k_ = random_floats(kv_size, 1.0f, 2);
        v_ = random_floats(kv_size, 1.0f, 3);
        out_ = Buffer(static_cast<size_t>(q_size) * sizeof(float));
        const int64_t q_head = shape.nhd ? d : shape.seq_q * d, q_token = shape.nhd ? shape.num_heads * d : d;
        const int64_t kv_head = shape.nhd ? d : shape.seq_k * d, kv_token = shape.nhd ? shape.num_kv_heads * d : d;
        desc_.size = sizeof desc_;
        desc_.batch = 1, desc_.num_heads = shape.num_heads, desc_.num_kv_heads = shape.num_kv_heads;
        desc_.seq_q = shape.seq_q, desc_.seq_k = shape.seq_k, desc_.head_dim = shape.head_dim;
        desc_.q = {q_.as(), 0, q_head, q_token};
        desc_.k = {k_.as(), 0, kv_head, kv_token};
        desc_.v = {v_.as(), 0, kv_head, kv_token};
        desc_.out = {out_.as(), 0, q_head, q_token};
        desc_.flags = shape.causal ? QKV_RIGHT : 0;
        desc_.q_offset = shape.causal ? shape.seq_k - shape.seq_q : 0;
    }

    std::function<void()> prepare(const qkv_ctx &ctx, Pool &pool) override {
        std::memset(out_.as(), 0xff, out_.bytes());
        auto operation = std::make_shared<Operation<qkv_attention_desc>>(ctx, desc_, pool.num_threads());
        return [operation, &pool] { operation->run(pool); };
    }

    // A row's bits don't depend on the rows around it: the reference computes single queries of all heads.
    std::string compare(const qkv_ctx &ref) override {
        const int64_t d = shape_.head_dim, width = shape_.num_heads * d;
        const int64_t row_flops = 4 * shape_.seq_k * width;
        std::vector<float> expected(static_cast<size_t>(width));
        for (int64_t row : sample_rows(shape_.seq_q, 2 + 10000000 / row_flops)) {
            qkv_attention_desc one = desc_;
            one.seq_q = 1;
            one.q.data = q_.as() + row * desc_.q.token;
            one.out = {expected.data(), 0, d, width};
            one.q_offset += row;
            Operation<qkv_attention_desc>(ref, one, 1).run();
            for (int64_t h = 0; h < shape_.num_heads; h++) {
                const float *got = out_.as() + h * desc_.out.head + row * desc_.out.token;
                auto diff = first_difference(got, expected.data() + h * d, d, row);
                if (!diff.empty()) return diff;
            }
        }
        return "";
    }

private:
    Shape shape_;
    Buffer q_, k_, v_, out_;
    qkv_attention_desc desc_ = {};
};

// Only pairs that causality leaves visible are counted.
int64_t visible_pairs(const Shape &s) {
    if (!s.causal) return s.seq_q * s.seq_k;
    int64_t pairs = 0;
    for (int64_t i = 0; i < s.seq_q; i++) pairs += std::min(s.seq_k, s.seq_k - s.seq_q + i + 1);
    return pairs;
}

std::string name(const Shape &s, bool decode) {
    std::string text = "B1_H" + std::to_string(s.num_heads);
    if (s.num_kv_heads != s.num_heads) text += "_KV" + std::to_string(s.num_kv_heads);
    text += (decode ? "_K" : "_S") + std::to_string(s.seq_k) + "_D" + std::to_string(s.head_dim);
    text += s.causal ? "_causal" : "";
    return text + (s.nhd ? "_NHD" : "");
}

} // namespace

void add_attention_cases(std::vector<Case> &cases) {
    const Shape shapes[] = {
        {12, 12, 128, 128, 32, false, true},    // MiniLM
        {12, 12, 384, 384, 64, false, true},    // BERT-base
        {12, 12, 1024, 1024, 64, false, true},  //
        {1, 1, 1024, 1024, 64, false, true},    // one head: K and V stay in the L2 cache
        {12, 12, 1024, 1024, 64, false, true, true},
        {4, 4, 2048, 2048, 128, false, false},  //
        {9, 3, 512, 512, 64, true, true},       // SmolLM2-135M
        {32, 8, 512, 512, 128, true, true},     // Llama-3-8B
        {32, 8, 512, 512, 128, true, false, true},
        {32, 8, 2048, 2048, 128, true, false},  //
        {32, 8, 1, 1024, 128, false, true},     // its decode
        {32, 8, 1, 4096, 128, false, true},     //
    };
    for (const Shape &shape : shapes) {
        const bool decode = shape.seq_q == 1;
        Case c;
        c.operation = decode ? "decode" : "attention_fwd";
        c.label = name(shape, decode);
        c.flops = 4.0 * static_cast<double>(visible_pairs(shape) * shape.num_heads * shape.head_dim);
        c.bytes = decode ? 2.0 * static_cast<double>(shape.seq_k * shape.num_kv_heads * shape.head_dim) * 4 : 0;
        c.quick = shape.quick;
        c.make = [shape] { return std::make_unique<AttentionWork>(shape); };
        cases.push_back(c);
    }
}

} // namespace bench
