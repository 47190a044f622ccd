// X → Q, K, V in one call: Wq|Wk|Wv packed as one matrix, out as [token][head·channel].
// SPDX-License-Identifier: MIT
#include "bench.h"

namespace bench {
namespace {

struct Shape {
    int64_t model_dim, num_heads, num_kv_heads, head_dim;
    bool bias;
};

class ProjectionWork : public Work {
public:
    ProjectionWork(int64_t tokens, const Shape &shape) : tokens_(tokens) {
        const int64_t columns[3] = {shape.num_heads, shape.num_kv_heads, shape.num_kv_heads};
        for (int64_t n : columns) out_features_ += n * shape.head_dim;
        x_ = random_floats(tokens * shape.model_dim, 1.0f, 1);
        out_ = Buffer(static_cast<size_t>(tokens * out_features_) * sizeof(float));
        bias_ = random_floats(out_features_, 1.0f, 2);

        desc_.size = sizeof desc_;
        desc_.batch = 1, desc_.tokens = tokens, desc_.in_features = shape.model_dim, desc_.num_parts = 3;
        desc_.x = {x_.as(), 0, 0, shape.model_dim};
        qkv_pack_desc pack = {};
        pack.size = sizeof pack;
        pack.in_features = shape.model_dim, pack.num_parts = 3;
        Buffer weights = random_floats(out_features_ * shape.model_dim, 0.05f, 3);
        for (int64_t i = 0, first = 0; i < 3; first += desc_.part[i].out_features, i++) {
            qkv_projection_part &part = desc_.part[i];
            part.out_features = columns[i] * shape.head_dim;
            part.head_dim = shape.head_dim;
            part.bias = shape.bias ? bias_.as() + first : nullptr;
            part.out = {out_.as() + first, 0, shape.head_dim, out_features_};
            pack.part[i].data = weights.as() + first * shape.model_dim;
            pack.part[i].out_features = part.out_features;
            pack.part[i].layout = QKV_OUT_IN;
        }
        size_t bytes = 0;
        require(qkv_packed_size(&pack, &bytes), "packed_size");
        packed_ = Buffer(bytes);
        qkv_ctx ctx;
        require(qkv_init(&ctx, nullptr), "init");
        require(qkv_pack(&ctx, &pack, packed_.as<void>()), "pack");
        desc_.packed = packed_.as<void>();
    }

    std::function<void()> prepare(const qkv_ctx &ctx, Pool &pool) override {
        std::memset(out_.as(), 0xff, out_.bytes());
        auto operation = std::make_shared<Operation<qkv_projection_desc>>(ctx, desc_, pool.num_threads());
        return [operation, &pool] { operation->run(pool); };
    }

    std::string compare(const qkv_ctx &ref) override {
        std::vector<float> expected(static_cast<size_t>(out_features_));
        const int64_t row_flops = 2 * desc_.in_features * out_features_;
        for (int64_t row : sample_rows(tokens_, 1 + 20000000 / row_flops)) {
            qkv_projection_desc one = desc_;
            one.tokens = 1;
            one.x.data = x_.as() + row * desc_.in_features;
            for (int64_t i = 0, first = 0; i < 3; first += one.part[i].out_features, i++) {
                one.part[i].out.data = expected.data() + first;
            }
            Operation<qkv_projection_desc>(ref, one, 1).run();
            auto diff = first_difference(out_.as() + row * out_features_, expected.data(), out_features_, row);
            if (!diff.empty()) return diff;
        }
        return "";
    }

private:
    int64_t tokens_, out_features_ = 0;
    Buffer x_, out_, bias_, packed_;
    qkv_projection_desc desc_ = {};
};

} // namespace

void add_projection_cases(std::vector<Case> &cases) {
    const Shape shapes[] = {
        {768, 12, 12, 64, true},   // BERT-base
        {384, 12, 12, 32, true},   // MiniLM
        {576, 9, 3, 64, false},    // SmolLM2-135M
        {4096, 32, 8, 128, false}, // Llama-3-8B
    };
    for (const Shape &shape : shapes) {
        const int64_t n = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
        for (int64_t tokens : {1, 4, 16, 64, 128, 512}) {
            Case c;
            c.operation = "projection";
            c.label = "M" + std::to_string(tokens) + "_K" + std::to_string(shape.model_dim) + "_N" + std::to_string(n);
            c.flops = 2.0 * static_cast<double>(tokens * shape.model_dim * n);
            c.bytes = tokens == 1 ? static_cast<double>(shape.model_dim * n) * sizeof(float) : 0;
            c.quick = (tokens == 1 || tokens == 128) && shape.model_dim < 4096;
            c.make = [tokens, shape] { return std::make_unique<ProjectionWork>(tokens, shape); };
            cases.push_back(c);
        }
    }
}

} // namespace bench
