// What the benchmark's files share: a case of bench/cases.txt, its data and results (Problem), and what is timed
// (Prepared).   cases.txt → Case → Problem → one Prepared a kernel set or baseline → measure.cc → Google Benchmark
// SPDX-License-Identifier: MIT
#ifndef QKV_BENCH_H
#define QKV_BENCH_H

#include "pool.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bench {

enum class Pages { small, huge }; // 4 KiB, or as large as the system gives

// Zeroed memory on pages of its own. A buffer begins on a page, shifted by a few cache lines that differ from buffer
// to buffer, so that operands don't compete for the same cache sets.
class Buffer {
  public:
    explicit Buffer(size_t bytes = 0, Pages pages = Pages::small);
    ~Buffer();
    Buffer(Buffer &&other) noexcept { *this = std::move(other); }
    Buffer &operator=(Buffer &&other) noexcept {
        std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
        std::swap(mapping_, other.mapping_), std::swap(mapped_, other.mapped_);
        return *this;
    }
    template <typename T = float> T *as() const { return static_cast<T *>(data_); }
    size_t bytes() const { return bytes_; }

  private:
    void *data_ = nullptr, *mapping_ = nullptr;
    size_t bytes_ = 0, mapped_ = 0;
};

Buffer floats(int64_t count, Pages pages = Pages::small);
// Drawn evenly from (−limit, limit); the same ones for the same seed.
Buffer random_floats(int64_t count, float limit, uint64_t seed, Pages pages = Pages::small);

inline void require(qkv_status status, const char *what) {
    if (status != QKV_OK) throw std::runtime_error(std::string(what) + ": " + qkv_status_string(status));
}

// One line of bench/cases.txt.
struct Case {
    std::string operation, name;
    std::string text;                       // the options as written
    std::map<std::string, int64_t> options; // a word without "=" is 1
    std::vector<int32_t> threads = {1};
    bool has(const std::string &key) const { return options.count(key) != 0; }
    int64_t get(const std::string &key) const; // throws when it is not there
    int64_t get(const std::string &key, int64_t fallback) const;
    Pages pages() const { return has("huge") ? Pages::huge : Pages::small; }
};

std::vector<Case> read_cases(const std::string &path);

// Something that can be timed. run(i) is one call; i counts calls, so that cold cases can rotate.
struct Prepared {
    std::function<void(int64_t i)> run;
    size_t workspace = 0; // bytes beside operands and result
    explicit operator bool() const { return static_cast<bool>(run); }
};

// Where a sampled result was compared, and how far it is from a computation in double.
struct Errors {
    double largest = 0, scale = 0; // |result − double|, and the largest |double|
};

struct Input {
    std::string name;
    const float *data;
    int64_t count;
};

// A case with its data in place. The data is made once and used for every kernel set, baseline and peer; all of them
// write the same output.
class Problem {
  public:
    virtual ~Problem() = default;
    virtual double flops() const = 0;          // of one call, visible pairs only
    virtual double operands() const = 0;       // bytes of inputs and result together
    virtual double bytes() const { return 0; } // that one call must read from memory; 0: memory is not the limit
    virtual Prepared qkv(const qkv_ctx &ctx, Pool &pool) = 0;
    virtual Prepared openblas(Pool &) { return {}; } // empty: that baseline does not do this
    virtual Prepared onednn(Pool &) { return {}; }
    virtual Prepared loops() { return {}; } // plain loops, on one thread
    // Compares sampled rows of the output with those of the reference: "" or the first difference.
    virtual std::string compare(const qkv_ctx &ref) = 0;
    virtual Errors errors() = 0;  // of sampled rows of the output
    virtual Buffer *output() = 0; // floats; nullptr: nothing that could be compared by others
    virtual std::vector<Input> inputs() const { return {}; } // for peers, which copy them as often as they need
    virtual int64_t copies() const { return 1; }             // of the cold operands
    virtual double elements() const { return 0; }            // not 0: report cycles per element
};

std::unique_ptr<Problem> make_attention(const Case &c); // attention, decode
std::unique_ptr<Problem> make_projection(const Case &c);
std::unique_ptr<Problem> make_layer(const Case &c);
std::unique_ptr<Problem> make_backward(const Case &c); // of attention
std::unique_ptr<Problem> make_call(const Case &c);
std::unique_ptr<Problem> make_kernel(const Case &c);

// How many copies of `bytes` exceed the last-level cache by far, so that none is found there when its turn comes.
int64_t cold_copies(const Case &c, size_t bytes);

// At most `most` of count rows, the first and the last among them.
std::vector<int64_t> sample_rows(int64_t count, int64_t most);

// "" if the words are equal, else the place.
std::string first_difference(const float *got, const float *expected, int64_t count, int64_t row);

// One operation: its descriptor, plan and workspace. Desc decides which functions are called.
template <typename Desc> struct Api;
#define QKV_BENCH_API(op)                                                                                              \
    template <> struct Api<qkv_##op##_desc> {                                                                          \
        static constexpr auto plan = qkv_##op##_plan;                                                                  \
        static constexpr auto run = qkv_##op##_run;                                                                    \
        static constexpr auto run_parallel = qkv_##op##_run_parallel;                                                  \
    };
QKV_BENCH_API(projection)
QKV_BENCH_API(attention)
QKV_BENCH_API(attention_backward)
QKV_BENCH_API(layer)

template <typename Desc> class Operation {
  public:
    Operation(const qkv_ctx &ctx, const Desc &desc, int32_t num_threads) {
        require(Api<Desc>::plan(&ctx, &desc, num_threads, &plan_), "plan");
        workspace_ = Buffer(plan_.workspace_size);
    }
    size_t workspace() const { return plan_.workspace_size; }
    void run(const Desc &desc) {
        require(Api<Desc>::run(&plan_, &desc, workspace_.as<void>(), workspace_.bytes()), "run");
    }
    void run(const Desc &desc, Pool &pool) {
        if (pool.num_threads() == 1) return run(desc);
        require(Api<Desc>::run_parallel(&plan_, &desc, workspace_.as<void>(), workspace_.bytes(), Pool::parallel_for,
                                        &pool),
                "run");
    }

  private:
    qkv_plan plan_;
    Buffer workspace_;
};

} // namespace bench

#endif
