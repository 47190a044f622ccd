// What a call costs when there is next to nothing to compute, and single entries of a kernel set in cycles per element.
// SPDX-License-Identifier: MIT
#include "bench.h"

#include "kernels/kernels.h" // private: the entries that are timed by themselves

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bench {
namespace {

// One head, one query.
class CallProblem : public Problem {
  public:
    explicit CallProblem(const Case &c) : attention_(make_attention(c)), prepared_(c.has("prepared")) {
        dim_ = c.get("dim"), keys_ = c.get("keys");
        desc_.size = sizeof desc_;
        desc_.batch = desc_.num_heads = desc_.num_kv_heads = desc_.seq_q = 1;
        desc_.seq_k = keys_, desc_.head_dim = dim_;
        const auto inputs = attention_->inputs();
        desc_.q = {inputs[0].data, 0, dim_, dim_};
        desc_.k = {inputs[1].data, 0, keys_ * dim_, dim_};
        desc_.v = {inputs[2].data, 0, keys_ * dim_, dim_};
        desc_.out = {attention_->output()->as(), 0, dim_, dim_};
    }
    double flops() const override { return attention_->flops(); }
    double operands() const override { return attention_->operands(); }
    Prepared qkv(const qkv_ctx &ctx, Pool &pool) override {
        if (prepared_) return attention_->qkv(ctx, pool);
        qkv_plan plan;
        require(qkv_attention_plan(&ctx, &desc_, 1, &plan), "plan");
        auto workspace = std::make_shared<Buffer>(plan.workspace_size);
        return {[this, ctx, workspace](int64_t) {
                    qkv_plan made;
                    qkv_status status = qkv_attention_plan(&ctx, &desc_, 1, &made);
                    if (status == QKV_OK) {
                        status = qkv_attention_run(&made, &desc_, workspace->as<void>(), workspace->bytes());
                    }
                    require(status, "call");
                },
                plan.workspace_size};
    }
    std::string compare(const qkv_ctx &ref) override { return attention_->compare(ref); }
    Errors errors() override { return attention_->errors(); }
    Buffer *output() override { return attention_->output(); }

  private:
    std::unique_ptr<Problem> attention_;
    bool prepared_;
    int64_t dim_, keys_;
    qkv_attention_desc desc_ = {};
};

// kernels->softmax, exp2 or scale, as attention calls them: 6 rows of one block of 256 keys, again and again.
class KernelProblem : public Problem {
  public:
    explicit KernelProblem(const Case &c) : softmax_(c.name == "softmax"), exp2_(c.name == "exp2-scale") {
        if (!softmax_ && !exp2_ && c.name != "scale") throw std::runtime_error("no such entry: " + c.name);
        input_ = random_floats(kSize, softmax_ ? 10.0f : 30.0f, 1);
        for (int64_t i = 0; i < kSize; i++) {
            float &y = input_.as()[i];
            y = softmax_ ? y : -std::abs(y);
        }
        work_ = floats(kCopies * kSize);
        out_ = floats(kSize);
    }
    double flops() const override { return 0; }
    double operands() const override { return sizeof(float) * elements(); }
    double elements() const override { return static_cast<double>(kSize * kCopies); }

    // All work in place. A softmax of its own result is as good as any; exp2 takes y ≤ 0 only, so that scale has to
    // turn the sign of its result: the case "scale" is the cost of that alone.
    Prepared qkv(const qkv_ctx &ctx, Pool &) override {
        for (int64_t i = 0; i < kCopies; i++)
            std::memcpy(work_.as() + i * kSize, input_.as(), input_.bytes());
        const qkv_kernels *kernels = ctx.kernels;
        return {[this, kernels](int64_t call) {
            for (int64_t i = 0; i < kCopies; i++)
                run(kernels, work_.as() + i * kSize);
            if (call == 0) std::memcpy(out_.as(), work_.as(), out_.bytes());
        }};
    }
    std::string compare(const qkv_ctx &ref) override {
        std::vector<float> expected(input_.as(), input_.as() + kSize);
        run(ref.kernels, expected.data());
        return first_difference(out_.as(), expected.data(), kSize, 0);
    }
    Errors errors() override {
        Errors errors;
        for (int64_t row = 0; row < kRows; row++) {
            const float *y = input_.as() + row * kKeys;
            const double top = softmax_ ? static_cast<double>(*std::max_element(y, y + kKeys)) : 0;
            for (int64_t j = 0; j < kKeys; j++) {
                const double x = static_cast<double>(y[j]) - top;
                const double exact = softmax_ || exp2_ ? std::exp2(x) : std::abs(x);
                const double got = std::abs(static_cast<double>(out_.as()[row * kKeys + j]));
                errors.largest = std::max(errors.largest, std::abs(got - exact));
                errors.scale = std::max(errors.scale, exact);
            }
        }
        return errors;
    }
    Buffer *output() override { return nullptr; }

  private:
    static constexpr int64_t kRows = 6, kKeys = 256, kSize = kRows * kKeys, kCopies = 4; // 24 KiB

    void run(const qkv_kernels *kernels, float *y) const {
        float m[QKV_MAX_ROWS], l[QKV_MAX_ROWS];
        if (softmax_) {
            kernels->softmax(y, kKeys, kRows, kKeys, m, l);
        } else {
            if (exp2_) kernels->exp2(y, kSize);
            const float minus[kRows] = {-1, -1, -1, -1, -1, -1};
            kernels->scale(y, kKeys, y, kKeys, minus, kRows, kKeys);
        }
    }

    bool softmax_, exp2_;
    Buffer input_, work_, out_;
};

} // namespace

std::unique_ptr<Problem> make_call(const Case &c) {
    return std::make_unique<CallProblem>(c);
}
std::unique_ptr<Problem> make_kernel(const Case &c) {
    return std::make_unique<KernelProblem>(c);
}

} // namespace bench
