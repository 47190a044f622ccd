// One packed matrix: Y = X·W + bias, out as [token][column]. Wq|Wk|Wv of a model are one such matrix.
// SPDX-License-Identifier: MIT
#include "baselines.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bench {
namespace {

constexpr double kSampleFlops = 2e7;

// Weights as engines store them. A type in blocks has so many terms and bytes each, and binary16 numbers in places.
struct StoredType {
    const char *name;
    qkv_type type;
    int64_t terms, bytes;
    std::vector<int64_t> halves;
};
const std::vector<StoredType> kStoredTypes = {
    {"f16", QKV_F16, 1, 2, {0}},          {"bf16", QKV_BF16, 1, 2, {}},        {"int8", QKV_INT8, 1, 1, {}},
    {"q8_0", QKV_Q8_0, 32, 34, {0}},      {"q4_0", QKV_Q4_0, 32, 18, {0}},     {"q4_1", QKV_Q4_1, 32, 20, {0, 2}},
    {"q4_k", QKV_Q4_K, 256, 144, {0, 2}}, {"q6_k", QKV_Q6_K, 256, 210, {208}},
};

// Random weights [out][in] of a type; what is a float or a scale is small.
std::vector<unsigned char> random_stored(const StoredType &type, int64_t count) {
    std::vector<unsigned char> data(static_cast<size_t>(count / type.terms * type.bytes));
    uint32_t state = 1;
    for (unsigned char &byte : data) {
        state = state * 1664525u + 1013904223u;
        byte = static_cast<unsigned char>(state >> 24);
    }
    for (size_t block = 0; block < data.size(); block += static_cast<size_t>(type.bytes)) {
        if (type.type == QKV_BF16) // 2^-7 … 2^-5
            data[block + 1] = static_cast<unsigned char>((data[block + 1] & 0x80) | 0x3c);
        for (int64_t at : type.halves) { // 2^-10 … 2^-9
            unsigned char &upper = data[block + static_cast<size_t>(at) + 1];
            upper = static_cast<unsigned char>((type.type == QKV_F16 ? upper & 0x80 : 0) | 0x14 | (upper & 3));
        }
    }
    return data;
}

class ProjectionProblem : public Problem {
  public:
    explicit ProjectionProblem(const Case &c)
        : shape_{c.get("tokens"), c.get("in"), c.get("out")}, cold_(c.has("cold")) {
        const ProjectionShape &s = shape_;
        weight_size_ = s.in * s.out;
        x_ = random_floats(s.tokens * s.in, 1.0f, 1);
        if (c.has("bias")) bias_ = random_floats(s.out, 1.0f, 2);
        out_ = floats(s.tokens * s.out);
        rounded_ = c.has("rounded"), in_bf16_ = c.has("in_bf16");
        for (const StoredType &type : kStoredTypes) {
            if (c.has(type.name)) stored_ = &type;
        }

        qkv_pack_desc pack = {};
        pack.size = sizeof pack;
        pack.in_features = s.in, pack.num_parts = 1;
        pack.part[0].out_features = s.out;
        std::vector<unsigned char> data;
        std::vector<float> scales(static_cast<size_t>(s.out), 0x1p-10f);
        if (stored_) {
            data = random_stored(*stored_, weight_size_);
            pack.part[0].data = data.data();
            pack.part[0].scales = scales.data();
            pack.part[0].type = stored_->type;
            pack.part[0].layout = QKV_OUT_IN;
            weights_ = floats(weight_size_);
        } else {
            weights_ = random_floats(weight_size_, 0.05f, 3);
            pack.part[0].data = weights_.as();
        }
        size_t bytes = 0;
        require(qkv_packed_size(&pack, &bytes), "packed_size");
        copies_ = cold_copies(c, bytes);
        packed_size_ = static_cast<int64_t>(bytes / sizeof(float));
        packed_ = floats(copies_ * packed_size_, c.pages());
        qkv_ctx ctx;
        require(qkv_init(&ctx, nullptr), "init");
        for (int64_t i = 0; i < copies_; i++) {
            require(qkv_pack(&ctx, &pack, packed_.as() + i * packed_size_), "pack");
        }
        if (stored_) { // the floats they mean, for whoever knows only those
            pack.part[0].layout = QKV_IN_OUT;
            pack.part[0].unpacked = weights_.as();
            require(qkv_unpack(&pack, packed_.as()), "unpack");
        }

        desc_.size = sizeof desc_;
        desc_.batch = 1, desc_.tokens = s.tokens, desc_.in_features = s.in, desc_.num_parts = 1;
        desc_.x = {x_.as(), 0, 0, s.in};
        desc_.packed = packed_.as<void>();
        desc_.part[0].out_features = s.out;
        desc_.part[0].bias = bias_.as();
        desc_.part[0].out = {out_.as(), 0, 0, s.out};
        if (stored_) desc_.part[0].type = stored_->type;
        if (rounded_) desc_.arithmetic = QKV_ARITHMETIC_INT8;
        if (in_bf16_) {
            desc_.arithmetic = QKV_ARITHMETIC_BF16;
            for (int64_t i = 0; i < weight_size_; i++)
                weights_.as()[i] = to_bf16(weights_.as()[i]);
        }
    }

    double flops() const override { return 2.0 * static_cast<double>(shape_.tokens * weight_size_); }
    double operands() const override {
        const ProjectionShape &s = shape_;
        return sizeof(float) * static_cast<double>(packed_size_ + s.tokens * (s.in + s.out));
    }
    double bytes() const override { return cold_ ? sizeof(float) * static_cast<double>(packed_size_) : 0; }
    int64_t copies() const override { return copies_; }

    Prepared qkv(const qkv_ctx &ctx, Pool &pool) override {
        auto operation = std::make_shared<Operation<qkv_projection_desc>>(ctx, desc_, pool.num_threads());
        return {[this, operation, &pool](int64_t i) {
                    qkv_projection_desc desc = desc_;
                    desc.packed = packed_.as() + i % copies_ * packed_size_;
                    operation->run(desc, pool);
                },
                operation->workspace()};
    }

    Prepared openblas(Pool &pool) override {
        if (openblas_description().empty()) return {};
        const int32_t threads = pool.num_threads();
        unpack_copies();
        return {[this, threads](int64_t i) {
            openblas_projection(shape_, threads, x_.as(), plain_[static_cast<size_t>(i % copies_)], bias_.as(),
                                out_.as());
        }};
    }

    Prepared onednn(Pool &pool) override {
        if (onednn_description().empty()) return {};
        unpack_copies();
        auto operation =
            std::make_shared<OnednnProjection>(shape_, pool.num_threads(), copies_, plain_.data(), bias_.as());
        return {[this, operation](int64_t i) { operation->run(i % copies_, x_.as(), out_.as()); }};
    }

    std::string compare(const qkv_ctx &ref) override {
        if (reference_.bytes() == 0) {
            rows_ = sample();
            reference_ = floats(static_cast<int64_t>(rows_.size()) * shape_.out);
            for (size_t i = 0; i < rows_.size(); i++) {
                qkv_projection_desc one = desc_;
                one.tokens = 1;
                one.x.data = x_.as() + rows_[i] * shape_.in;
                one.part[0].out.data = reference_.as() + static_cast<int64_t>(i) * shape_.out;
                Operation<qkv_projection_desc>(ref, one, 1).run(one);
            }
        }
        for (size_t i = 0; i < rows_.size(); i++) {
            auto diff = first_difference(out_.as() + rows_[i] * shape_.out,
                                         reference_.as() + static_cast<int64_t>(i) * shape_.out, shape_.out, rows_[i]);
            if (!diff.empty()) return diff;
        }
        return "";
    }

    Errors errors() override {
        const std::vector<int64_t> rows = sample();
        const size_t out = static_cast<size_t>(shape_.out);
        if (exact_.empty()) {
            for (int64_t row : rows) {
                std::vector<double> sum(out, 0.0);
                const std::vector<double> multiplied = row_of_x(row);
                for (int64_t x = 0; x < shape_.in; x++) {
                    const double a = multiplied[static_cast<size_t>(x)];
                    const float *w = weights_.as() + x * shape_.out;
                    for (size_t c = 0; c < out; c++)
                        sum[c] += a * static_cast<double>(w[c]);
                }
                for (size_t c = 0; bias_.as() != nullptr && c < out; c++)
                    sum[c] += static_cast<double>(bias_.as()[c]);
                exact_.insert(exact_.end(), sum.begin(), sum.end());
            }
        }
        Errors errors;
        for (size_t i = 0; i < exact_.size(); i++) {
            const float got = out_.as()[static_cast<size_t>(rows[i / out]) * out + i % out];
            const double error = std::abs(static_cast<double>(got) - exact_[i]);
            errors.largest = std::isnan(error) ? HUGE_VAL : std::max(errors.largest, error);
            errors.scale = std::max(errors.scale, std::abs(exact_[i]));
        }
        return errors;
    }

    Buffer *output() override { return &out_; }
    std::vector<Input> inputs() const override {
        const ProjectionShape &s = shape_;
        std::vector<Input> all = {{"x", x_.as(), s.tokens * s.in}, {"w", weights_.as(), weight_size_}};
        if (bias_.bytes() != 0) all.push_back({"bias", bias_.as(), s.out});
        return all;
    }

  private:
    static float to_bf16(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
        std::memcpy(&x, &bits, sizeof bits);
        return x;
    }

    // A row as it is multiplied: in 8 bits, of 32 terms with one scale, or in bfloat16, where the case says so.
    std::vector<double> row_of_x(int64_t row) const {
        std::vector<double> all(x_.as() + row * shape_.in, x_.as() + (row + 1) * shape_.in);
        for (size_t first = 0; rounded_ && first < all.size(); first += 32) {
            double most = 0;
            const size_t end = std::min(first + 32, all.size());
            for (size_t i = first; i < end; i++)
                most = std::max(most, std::abs(all[i]));
            for (size_t i = first; i < end; i++)
                all[i] = std::nearbyint(all[i] * 127 / most) * most / 127;
        }
        for (double &x : all)
            x = in_bf16_ ? to_bf16(static_cast<float>(x)) : x;
        return all;
    }

    std::vector<int64_t> sample() const {
        const double rows = kSampleFlops / 2 / static_cast<double>(weight_size_);
        return sample_rows(shape_.tokens, 1 + static_cast<int64_t>(rows));
    }
    // Plain [in][out] copies for the baselines, on 4 KiB pages.
    void unpack_copies() {
        if (!plain_.empty()) return;
        plain_.push_back(weights_.as());
        more_ = floats((copies_ - 1) * weight_size_);
        for (int64_t i = 1; i < copies_; i++) {
            plain_.push_back(more_.as() + (i - 1) * weight_size_);
            std::memcpy(more_.as() + (i - 1) * weight_size_, weights_.as(), weights_.bytes());
        }
    }

    ProjectionShape shape_;
    bool cold_, rounded_ = false, in_bf16_ = false;
    const StoredType *stored_ = nullptr; // nullptr: floats
    int64_t weight_size_ = 0, packed_size_ = 0, copies_ = 1;
    Buffer x_, bias_, weights_, more_, packed_, out_, reference_;
    std::vector<const float *> plain_;
    std::vector<int64_t> rows_;
    std::vector<double> exact_; // [sampled row][out]
    qkv_projection_desc desc_ = {};
};

} // namespace

std::unique_ptr<Problem> make_projection(const Case &c) {
    return std::make_unique<ProjectionProblem>(c);
}

} // namespace bench
