// The measuring itself.  SPDX-License-Identifier: MIT
#include "measure.h"

#include "baselines.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <set>

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kPeakEvery = 5e-3;    // seconds of a case between two short runs of the peak loop
constexpr double kShortCall = 20e-6;   // shorter calls are timed several at once
constexpr double kTolerance = 1e-4;    // largest error of a baseline, relative to the largest result
constexpr double kPeerTolerance = 0.1; // where products are of 16 or 8 bits
constexpr int64_t kPeakSteps = 50000;  // some 0.15 ms

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// That this thread was running.
double cpu_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// "family 25, model 17, stepping 1", or the Arm names of the same, as Linux has them.
std::string cpu_model() {
    std::ifstream file("/proc/cpuinfo");
    std::string text;
    for (std::string line; std::getline(file, line) && !line.empty();) {
        for (const char *key : {"cpu family", "model\t", "stepping", "CPU implementer", "CPU part", "CPU variant"}) {
            if (line.rfind(key, 0) != 0) continue;
            const std::string name = line.substr(0, line.find_first_of("\t:"));
            text += (text.empty() ? "" : ", ") + name + line.substr(line.find(':') + 1);
        }
    }
    return text.empty() ? "unknown" : text;
}

double median(std::vector<double> values) {
    if (values.empty()) return 0;
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

qkv_ctx context(const std::string &isa) {
    qkv_config config = {};
    config.size = sizeof config;
    config.isa = isa.c_str();
    qkv_ctx ctx;
    require(qkv_init(&ctx, &config), isa.c_str());
    return ctx;
}

// In fewer than 32 bits.
bool stored(const Case &c) {
    return c.has("f16") || c.has("bf16") || c.has("q8_0") || c.has("int8");
}

std::unique_ptr<Problem> make_problem(const Case &c) {
    using Make = std::unique_ptr<Problem> (*)(const Case &);
    /* clang-format off */
    static const std::map<std::string, Make> makers = {
        {"attention", make_attention}, {"decode", make_attention}, {"backward", make_backward},
        {"projection", make_projection}, {"layer", make_layer}, {"call", make_call}, {"kernel", make_kernel},
    };
    /* clang-format on */
    auto found = makers.find(c.operation);
    if (found == makers.end()) throw std::runtime_error("cases.txt: no such operation: " + c.operation);
    return found->second(c);
}

} // namespace

// Something that does the loaded case, and its Result.
struct Bench::Subject {
    std::string name;
    std::string peak_isa; // whose FMA peak it is compared with
    Result &result;
    Prepared prepared = {};
    Peer *peer = nullptr;
    int64_t calls = 0;
    double call_seconds = 0; // of the last known call
    bool ok() const { return result.failed.empty(); }
};

Bench::~Bench() = default;

Bench::Bench(const Options &options) : options_(options), cases_(read_cases(options.cases)) {
    qkv_ctx ctx;
    require(qkv_init(&ctx, nullptr), "init");
    for (int32_t i = 0; i < qkv_num_kernel_sets(); i++) {
        qkv_kernel_set set;
        require(qkv_kernel_set_query(&ctx, i, &set), "query");
        if (!options.isa.empty() && options.isa != set.name) continue;
        if (set.available) sets_.push_back(set.name);
        if (!set.available) std::printf("%s is left out: %s\n", set.name, set.reason);
    }
    if (sets_.empty()) throw std::runtime_error("no such kernel set on this CPU: " + options.isa);
    start_peers(); // they load while the machine is measured
    for (auto peer = peers_.begin(); peer != peers_.end();) {
        const bool ready = (*peer)->ready();
        const std::string name = (*peer)->name(), description = (*peer)->description();
        if (ready) machine_.emplace_back(name, description);
        if (!ready) std::printf("skipped: %s: %s\n", name.c_str(), description.c_str());
        peer = ready ? peer + 1 : peers_.erase(peer);
    }
    describe_machine();
}

void Bench::start_peers() {
    if (options_.python.empty()) {
        std::printf("skipped: PyTorch, ONNX Runtime and OpenVINO (sh scripts/bench.sh peers installs them)\n");
        return;
    }
    folder_ = std::make_unique<Folder>();
    for (const char *name : {"pytorch", "onnxruntime-attention", "onnxruntime-mha", "onnxruntime-gqa",
                             "onnxruntime-matmul", "openvino", "llama.cpp"}) {
        peers_.push_back(std::make_unique<Peer>(name, options_.python, options_.peers));
    }
}

void Bench::describe_machine() {
    const auto add = [this](const std::string &key, const std::string &value) { machine_.emplace_back(key, value); };
    const auto number = [](double value) {
        char text[32];
        std::snprintf(text, sizeof text, "%.1f", value);
        return std::string(text);
    };
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    add("cpu", cpu.name[0] ? cpu.name : "unknown");
    add("cpu_model", cpu_model());
    add("cores", std::to_string(num_cores()));
    add("caches", std::to_string(cpu.l1d_size >> 10) + " KiB L1d, " + std::to_string(cpu.l2_size >> 10) + " KiB L2, " +
                      std::to_string(cpu.l3_size >> 20) + " MiB L3");
    add("qkv", qkv_build_info());
    for (const auto &baseline :
         {std::make_pair("openblas", openblas_description()), std::make_pair("onednn", onednn_description())}) {
        if (!baseline.second.empty()) add(baseline.first, baseline.second);
        if (baseline.second.empty()) std::printf("skipped: %s (it was not found by CMake)\n", baseline.first);
    }
    if (std::getenv("OPENBLAS_CORETYPE") && !openblas_description().empty())
        std::printf("warning: OPENBLAS_CORETYPE is set, so OpenBLAS does not choose its kernels by itself; unset it "
                    "for figures that are fair to it\n");
    add("clock_mhz", number(1000 * clock_ghz()));
    std::vector<int32_t> counts = {1};
    for (int32_t n : options_.threads) {
        if (n <= num_cores()) counts.push_back(n); // as register_all does
    }
    if (!options_.quick && options_.threads.empty()) counts.push_back(num_cores());
    std::sort(counts.begin(), counts.end());
    counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
    for (int32_t threads : counts) {
        const std::string suffix = "_" + std::to_string(threads) + "t";
        std::vector<std::string> units = sets_;
        units.insert(units.end(), {"bf16", "int8"});
        for (const std::string &unit : units) {
            const double peak = fma_peak(unit, pool(threads), 20, 20 * kPeakSteps);
            if (peak > 0) add("peak_" + unit + suffix, number(peak));
        }
        for (Pages pages : {Pages::small, Pages::huge}) {
            add(std::string("read_") + (pages == Pages::huge ? "huge" : "4k") + suffix,
                number(bandwidth(pages, threads).best()));
        }
    }
}

Pool &Bench::pool(int32_t threads) {
    auto &pool = pools_[threads];
    if (!pool) pool = std::make_unique<Pool>(threads);
    return *pool;
}

ReadBandwidth &Bench::bandwidth(Pages pages, int32_t threads) {
    auto &entry = bandwidths_[{pages, threads}];
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    const size_t cache = static_cast<size_t>(std::max(cpu.l2_size, cpu.l3_size));
    const size_t bytes = std::max(size_t{128} << 20, 4 * cache);
    if (!entry) entry = std::make_unique<ReadBandwidth>(pages, pool(threads), bytes);
    return *entry;
}

namespace {

// Sets that differ from another one in products in 8 bits and bfloat16 only.
const std::map<std::string, std::string> kVariants = {
    {"avx512bf16", "avx512"}, {"avx512vnni", "avx512"}, {"avxvnni", "avx2"}, {"dotprod", "neon"}, {"i8mm", "neon"}};

// Whether operands are rounded on the way, not before.
bool converts(const Case &c) {
    return c.operation != "projection" && (c.has("in_bf16") || c.has("rounded"));
}

// Whose peak a set's products are compared with.
std::string peak_of(const std::string &set, const Case &c) {
    const auto variant = kVariants.find(set);
    if (variant == kVariants.end()) return set;
    if (c.has("rounded") && !converts(c) && variant->second == "avx512") return "int8";
    if ((c.has("in_bf16") || converts(c)) && set == "avx512bf16") return "bf16";
    return variant->second;
}

} // namespace

std::vector<std::string> Bench::implementations(const Case &c, int32_t threads) {
    std::vector<std::string> names;
    for (const std::string &set : sets_) {
        if ((set == "ref" || set == "portable") && !c.has("ref")) continue;
        if (kVariants.count(set) && !c.has("rounded") && !c.has("in_bf16")) continue;
        if (threads > 1 && !names.empty()) continue; // says little new
        names.push_back(set);
    }
    // What Problem::openblas and Problem::onednn are written for. Their memory is on 4 KiB pages.
    static const std::set<std::string> blas = {"attention", "decode", "projection", "layer"};
    const bool rows = !stored(c) && !converts(c) && !c.has("cache") && !c.has("page") && !c.has("latent");
    if (!c.has("huge") && rows && blas.count(c.operation) && !openblas_description().empty())
        names.push_back("openblas");
    if (!c.has("huge") && c.operation == "projection" && !onednn_description().empty()) names.push_back("onednn");
    if (c.has("loops") && threads == 1) names.push_back("loops");
    if (c.has("own")) return names;
    for (const auto &peer : peers_) {
        if (peer->can(c).empty()) names.push_back(peer->name());
    }
    return names;
}

void Bench::load(const Case &c) {
    if (loaded_ == &c) return;
    loaded_ = nullptr;
    problem_.reset(); // its memory first
    problem_ = make_problem(c);
    loaded_ = &c;
    written_ = false;
    if (folder_) folder_->clear();
}

void Bench::check(Subject &subject, bool bits, double tolerance) {
    if (bits) {
        const std::string difference = problem_->compare(context("ref"));
        if (!difference.empty()) throw std::runtime_error("wrong result: " + difference);
    }
    const Errors errors = problem_->errors();
    subject.result.max_error = errors.largest;
    if (!(errors.largest <= tolerance * std::max(errors.scale, 1e-30))) {
        throw std::runtime_error("wrong result: an error of " + std::to_string(errors.largest) + " in " +
                                 std::to_string(errors.scale));
    }
}

// Plans, runs once and checks the result.
void Bench::prepare(const Case &c, int32_t threads, Subject &subject) {
    Result &result = subject.result;
    result.flops = problem_->flops(), result.operands = problem_->operands();
    result.bytes = problem_->bytes(), result.elements = problem_->elements();
    if (Buffer *output = problem_->output()) std::memset(output->as<void>(), 0xff, output->bytes());
    const bool ours = std::find(sets_.begin(), sets_.end(), subject.name) != sets_.end();
    subject.peak_isa = peak_of(ours ? subject.name : sets_[0], c);
    for (auto &peer : peers_) {
        if (peer->name() == subject.name) subject.peer = peer.get();
    }
    if (subject.peer != nullptr) {
        if (!written_) {
            for (const auto &input : problem_->inputs())
                folder_->write(input);
            written_ = true;
        }
        result.failed = subject.peer->prepare(c, threads, problem_->copies(), folder_->path(), *problem_->output());
        if (result.failed.empty()) check(subject, false, stored(c) || c.has("in_bf16") ? kPeerTolerance : kTolerance);
        return;
    }
    subject.prepared = ours                         ? problem_->qkv(context(subject.name), pool(threads))
                       : subject.name == "openblas" ? problem_->openblas(pool(threads))
                       : subject.name == "loops"    ? problem_->loops()
                                                    : problem_->onednn(pool(threads));
    result.workspace = static_cast<double>(subject.prepared.workspace);
    const auto start = Clock::now();
    subject.prepared.run(subject.calls++);
    subject.call_seconds = seconds_since(start);
    const bool exact = ours ? !converts(c) : !c.has("rounded") && !c.has("in_bf16");
    check(subject, ours && subject.name != "ref", exact ? kTolerance : kPeerTolerance);
}

Sample Bench::sample(const Case &c, int32_t threads, Subject &subject) {
    Pool &threads_pool = pool(threads);
    std::vector<double> times, peaks, reads;
    double cpu_share = 0;
    const auto peak = [&] {
        if (problem_->flops() > 0) peaks.push_back(fma_peak(subject.peak_isa, threads_pool, 1, kPeakSteps));
    };
    const auto reading = [&] {
        if (problem_->bytes() > 0) reads.push_back(bandwidth(c.pages(), threads).measure(1));
    };
    reading();
    if (subject.peer != nullptr) {
        for (int i = 0; i < 3; i++)
            peak();
        times = subject.peer->sample(options_.seconds);
        for (int i = 0; i < 3; i++)
            peak();
    } else {
        const auto &run = subject.prepared.run;
        if (subject.call_seconds < options_.seconds / 2) run(subject.calls++); // others have used the caches since
        const int64_t batch = std::max<int64_t>(1, static_cast<int64_t>(kShortCall / subject.call_seconds));
        double since_peak = kPeakEvery, total = 0, cpu_total = 0;
        while (times.empty() || total < options_.seconds) {
            if (since_peak >= kPeakEvery) peak(), since_peak = 0;
            const double cpu_start = cpu_seconds();
            const auto start = Clock::now();
            for (int64_t i = 0; i < batch; i++)
                run(subject.calls++);
            const double seconds = seconds_since(start);
            cpu_total += cpu_seconds() - cpu_start;
            times.push_back(seconds / static_cast<double>(batch));
            since_peak += seconds, total += seconds;
        }
        peak();
        subject.call_seconds = median(times);
        cpu_share = threads == 1 ? cpu_total / total : 0;
    }
    reading();
    return {median(times), *std::min_element(times.begin(), times.end()), median(peaks), median(reads), cpu_share};
}

const Result &Bench::measure(const Case &c, int32_t threads, const std::string &name,
                             const std::vector<std::string> &names) {
    const std::string group = c.operation + "/" + c.name + "/" + std::to_string(threads) + "/";
    auto known = results_.find(group + name);
    if (known != results_.end()) return known->second;
    load(c);
    std::vector<Subject> subjects;
    for (const std::string &each : names)
        subjects.push_back({each, "", results_[group + each]});
    for (Subject &subject : subjects) {
        try {
            prepare(c, threads, subject);
        } catch (const std::exception &error) {
            subject.result.failed = error.what();
        }
    }
    for (int round = 0; round < options_.rounds; round++) {
        for (Subject &subject : subjects) {
            if (!subject.ok()) continue;
            try {
                subject.result.samples.push_back(sample(c, threads, subject));
            } catch (const std::exception &error) {
                subject.result.failed = error.what();
            }
        }
    }
    for (Subject &subject : subjects) {
        try {
            if (subject.peer != nullptr) subject.peer->drop();
        } catch (const std::exception &) { // it ended: the next case will say so
        }
    }
    return results_[group + name];
}

} // namespace bench
