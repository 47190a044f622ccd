// qkv-bench: registers operation/case/implementation/threads with Google Benchmark. Nothing is timed before its result
// equals the reference (kernel sets) or is near a computation in double (baselines, peers). bench/report.py makes the
// table of the JSON that --benchmark_out=FILE gets.
//
//   qkv-bench [--quick] [--threads=N[,N…]] [--isa=NAME] [--cases=FILE] [--python=PROGRAM --peers=SCRIPT]
//             [Google Benchmark's own options: --benchmark_filter, --benchmark_out …]
//
// --benchmark_min_time is the time of one sample, --benchmark_repetitions the number of samples.
// SPDX-License-Identifier: MIT
#include "measure.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <regex>
#include <sstream>

namespace bench {
namespace {

// Says nothing: report() does, as soon as a result is there.
class Silent : public benchmark::BenchmarkReporter {
  public:
    bool ReportContext(const Context &) override { return true; }
    void ReportRuns(const std::vector<Run> &) override {}
};

struct Session {
    Bench bench;
    bool failed = false;
    size_t registered = 0, done = 0;
};

void print_progress(Session &session, const std::string &name, const Result &result) {
    std::printf("[%3zu/%zu] %-52s ", ++session.done, session.registered, name.c_str());
    if (!result.failed.empty()) {
        std::printf("FAILED: %s\n", result.failed.c_str());
    } else {
        std::vector<double> times;
        for (const Sample &sample : result.samples)
            times.push_back(sample.median);
        std::sort(times.begin(), times.end());
        std::printf("%12.2f us\n", 1e6 * times[times.size() / 2]);
    }
    std::fflush(stdout);
}

void report(benchmark::State &state, Session &session, const Result &result, int64_t repetition, int32_t threads) {
    if (!result.failed.empty()) {
        session.failed = true;
        state.SkipWithError(result.failed.c_str());
        return;
    }
    const Sample &sample = result.samples[static_cast<size_t>(repetition) % result.samples.size()];
    for (auto _ : state)
        state.SetIterationTime(sample.median);
    const auto counter = [&state](const char *name, double value, bool there) {
        if (there) state.counters[name] = value;
    };
    counter("best", sample.best, true);
    counter("flops", result.flops, result.flops > 0);
    counter("operands", result.operands, true);
    counter("bytes", result.bytes, result.bytes > 0);
    counter("elements", result.elements, result.elements > 0);
    counter("fma_peak", sample.peak, sample.peak > 0);                 // GFLOP/s
    counter("read_bandwidth", sample.bandwidth, sample.bandwidth > 0); // GB/s
    counter("workspace", result.workspace, result.workspace >= 0);
    counter("max_error", result.max_error, result.max_error >= 0);
    counter("cpu_share", sample.cpu_share, sample.cpu_share > 0);
    counter("cores", threads, true);
}

std::string full_name(const Case &c, int32_t threads, const std::string &name) {
    return c.operation + "/" + c.name + "/" + name + "/threads:" + std::to_string(threads);
}

void add(Session &session, const Case &c, int32_t threads, const std::string &name,
         const std::vector<std::string> &names, int rounds) {
    const std::string full = full_name(c, threads, name);
    auto repetition = std::make_shared<int64_t>(0);
    benchmark::RegisterBenchmark(full.c_str(),
                                 [=, &session, &c](benchmark::State &state) {
                                     const Result &result = session.bench.measure(c, threads, name, names);
                                     if (*repetition == 0) print_progress(session, full, result);
                                     report(state, session, result, (*repetition)++, threads);
                                 })
        ->UseManualTime()
        ->Iterations(1)
        ->Repetitions(rounds)
        ->Unit(benchmark::kMicrosecond);
    session.registered++;
}

void register_all(Session &session, const Options &options, const std::string &filter) {
    const std::regex wanted(filter);
    int32_t skipped = 0;
    for (const Case &c : session.bench.cases()) {
        if (options.quick && !c.has("quick")) continue;
        const std::vector<int32_t> one = {1};
        for (int32_t threads : !options.threads.empty() ? options.threads : options.quick ? one : c.threads) {
            if (threads > num_cores()) {
                skipped++;
                continue;
            }
            std::vector<std::string> names;
            for (const std::string &name : session.bench.implementations(c, threads)) {
                if (std::regex_search(full_name(c, threads, name), wanted)) names.push_back(name);
            }
            for (const std::string &name : names)
                add(session, c, threads, name, names, options.rounds);
        }
    }
    if (skipped > 0) {
        std::printf("skipped: %d cases with more threads than the %d cores this process may use\n", skipped,
                    num_cores());
    }
}

int run(const Options &options, const std::string &filter) {
    Session session = {Bench(options)};
    if (const char *command = std::getenv("QKV_BENCH_COMMAND")) benchmark::AddCustomContext("command", command);
    benchmark::AddCustomContext("sample_seconds", std::to_string(options.seconds));
    for (const auto &entry : session.bench.machine()) {
        benchmark::AddCustomContext(entry.first, entry.second);
        std::printf("%-24s %s\n", entry.first.c_str(), entry.second.c_str());
    }
    register_all(session, options, filter);
    Silent silent;
    benchmark::RunSpecifiedBenchmarks(&silent);
    if (session.failed) std::printf("\nSome cases FAILED: they have no times.\n");
    return session.failed ? 1 : 0;
}

std::vector<int32_t> numbers(const std::string &list) {
    std::vector<int32_t> all;
    std::istringstream words(list);
    for (std::string word; std::getline(words, word, ',');)
        all.push_back(std::max(1, std::atoi(word.c_str())));
    return all;
}

// Takes our own options out of args, and looks at those of Google Benchmark that we must know.
Options take_options(std::vector<char *> &args, std::string &filter) {
    Options options;
    options.cases = QKV_BENCH_CASES;
    if (const char *isa = std::getenv("QKV_ISA")) options.isa = isa;
    bool seconds_given = false;
    std::vector<char *> rest;
    for (char *arg : args) {
        const std::string text = arg, key = text.substr(0, text.find('='));
        const std::string value = key.size() < text.size() ? text.substr(key.size() + 1) : "";
        if (key == "--quick")
            options.quick = true;
        else if (key == "--threads")
            options.threads = numbers(value);
        else if (key == "--isa")
            options.isa = value;
        else if (key == "--cases")
            options.cases = value;
        else if (key == "--python")
            options.python = value;
        else if (key == "--peers")
            options.peers = value;
        else
            rest.push_back(arg);
        if (key == "--benchmark_filter") filter = value;
        if (key == "--benchmark_repetitions") options.rounds = std::max(1, std::atoi(value.c_str()));
        if (key == "--benchmark_min_time") options.seconds = std::atof(value.c_str()), seconds_given = true;
    }
    if (options.quick && !seconds_given) options.seconds = 0.05;
    if (options.peers.empty()) options.python.clear();
    args = rest;
    return options;
}

} // namespace
} // namespace bench

int main(int argc, char **argv) {
    std::vector<char *> args(argv, argv + argc);
    std::string filter = ".";
    const bench::Options options = bench::take_options(args, filter);
    int count = static_cast<int>(args.size());
    args.push_back(nullptr);
    benchmark::Initialize(&count, args.data());
    if (benchmark::ReportUnrecognizedArguments(count, args.data())) return 2;
    try {
        return bench::run(options, filter);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "qkv-bench: %s\n", error.what());
        return 1;
    }
}
