// One whole self-attention layer: X → Q, K, V → heads → Wo.  SPDX-License-Identifier: MIT
#include "bench.h"

namespace bench {
namespace {

struct Shape {
    int64_t model_dim, num_heads, num_kv_heads, head_dim, tokens;
    bool causal;
};

class LayerWork : public Work {
public:
    explicit LayerWork(const Shape &shape) {
        const int64_t q_dim = shape.num_heads * shape.head_dim, kv_dim = shape.num_kv_heads * shape.head_dim;
        x_ = random_floats(shape.tokens * shape.model_dim, 1.0f, 1);
        out_ = Buffer(x_.bytes());
        expected_ = Buffer(x_.bytes());
        w_qkv_ = pack(shape.model_dim, {q_dim, kv_dim, kv_dim}, 2);
        w_o_ = pack(q_dim, {shape.model_dim}, 3);
        desc_.size = sizeof desc_;
        desc_.model_dim = shape.model_dim, desc_.out_features = shape.model_dim;
        desc_.x = {x_.as(), 0, 0, shape.model_dim};
        desc_.out = {out_.as(), 0, 0, shape.model_dim};
        desc_.w_qkv = w_qkv_.as<void>(), desc_.w_o = w_o_.as<void>();
        qkv_attention_desc &attention = desc_.attention;
        attention.size = sizeof attention;
        attention.batch = 1, attention.num_heads = shape.num_heads, attention.num_kv_heads = shape.num_kv_heads;
        attention.seq_q = attention.seq_k = shape.tokens, attention.head_dim = shape.head_dim;
        attention.flags = shape.causal ? QKV_RIGHT : 0;
    }

    std::function<void()> prepare(const qkv_ctx &ctx, Pool &pool) override {
        std::memset(out_.as(), 0xff, out_.bytes());
        auto operation = std::make_shared<Operation<qkv_layer_desc>>(ctx, desc_, pool.num_threads());
        return [operation, &pool] { operation->run(pool); };
    }

    std::string compare(const qkv_ctx &ref) override {
        if (!expected_ready_) {
            qkv_layer_desc desc = desc_;
            desc.out.data = expected_.as();
            Operation<qkv_layer_desc>(ref, desc, 1).run();
            expected_ready_ = true;
        }
        for (int64_t row = 0; row < desc_.attention.seq_q; row++) {
            const int64_t at = row * desc_.model_dim;
            auto diff = first_difference(out_.as() + at, expected_.as() + at, desc_.model_dim, row);
            if (!diff.empty()) return diff;
        }
        return "";
    }

private:
    static Buffer pack(int64_t in_features, std::vector<int64_t> out_features, uint64_t seed) {
        qkv_pack_desc desc = {};
        desc.size = sizeof desc;
        desc.in_features = in_features, desc.num_parts = static_cast<int64_t>(out_features.size());
        std::vector<Buffer> weights;
        for (size_t i = 0; i < out_features.size(); i++) {
            weights.push_back(random_floats(in_features * out_features[i], 0.1f, seed + 10 * i));
            desc.part[i].data = weights[i].as();
            desc.part[i].out_features = out_features[i];
        }
        size_t bytes = 0;
        require(qkv_packed_size(&desc, &bytes), "packed_size");
        Buffer packed(bytes);
        qkv_ctx ctx;
        require(qkv_init(&ctx, nullptr), "init");
        require(qkv_pack(&ctx, &desc, packed.as<void>()), "pack");
        return packed;
    }

    Buffer x_, out_, expected_, w_qkv_, w_o_;
    bool expected_ready_ = false;
    qkv_layer_desc desc_ = {};
};

} // namespace

void add_layer_cases(std::vector<Case> &cases) {
    const Shape shapes[] = {
        {384, 12, 12, 32, 128, false}, // MiniLM
        {768, 12, 12, 64, 128, false}, // BERT-base
        {576, 9, 3, 64, 256, true},    // SmolLM2-135M
    };
    for (const Shape &s : shapes) {
        const int64_t pairs = s.causal ? s.tokens * (s.tokens + 1) / 2 : s.tokens * s.tokens;
        const int64_t weights = 2 * s.model_dim * (s.num_heads + s.num_kv_heads) * s.head_dim;
        Case c;
        c.operation = "layer";
        c.label = "E" + std::to_string(s.model_dim) + "_H" + std::to_string(s.num_heads) +
                  (s.num_kv_heads != s.num_heads ? "_KV" + std::to_string(s.num_kv_heads) : "") + "_S" +
                  std::to_string(s.tokens) + (s.causal ? "_causal" : "");
        c.flops = 2.0 * static_cast<double>(s.tokens * weights + 2 * pairs * s.num_heads * s.head_dim);
        c.bytes = 0;
        c.quick = s.model_dim == 384;
        c.make = [s] { return std::make_unique<LayerWork>(s); };
        cases.push_back(c);
    }
}

} // namespace bench
