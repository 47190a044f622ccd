// qkv-bench: registers operation/kernel set/shape for every kernel set this CPU can run, and prints each as a share of
// the FMA peak (or read bandwidth) measured in this process. Nothing is timed before its result equals the reference.
//
//   qkv-bench [--quick] [--threads=N] [--isa=NAME] [Google Benchmark's own options]
//
// SPDX-License-Identifier: MIT
#include "bench.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <map>

namespace bench {
namespace {

constexpr double kMostRefFlops = 5e7; // the reference takes part in small cases only: it is slow by design
constexpr double kLeastRead = 4e6;    // bytes; below, the share of a cache's bandwidth says little
constexpr double kPeakEvery = 5e-3;   // seconds of a case between two short runs of the peak loop

struct Options {
    int32_t threads = 1;
    bool quick = false;
    std::string isa; // empty: every available set
};

struct Row {
    std::string name, isa;
    double median, best, flops, bytes;
    double peak, best_peak; // of runs between those of the case: clocks change within a second
    double bandwidth;
};

struct Session {
    explicit Session(const Options &o) : options(o), pool(o.threads) {}
    Options options;
    Pool pool;
    std::vector<Case> cases;
    std::map<double, double> bandwidth;      // GB/s by bytes read
    std::vector<Row> rows;
    const Case *loaded = nullptr;            // the case whose data is in `work`
    std::unique_ptr<Work> work;
    bool failed = false;                     // a case was not timed because its result was wrong
    std::string checked;                     // label and kernel set whose result was compared last
};

qkv_ctx context(const std::string &isa) {
    qkv_config config = {};
    config.size = sizeof config;
    config.isa = isa.c_str();
    qkv_ctx ctx;
    require(qkv_init(&ctx, &config), isa.c_str());
    return ctx;
}

void measure(benchmark::State &state, Session &session, const Case &c, const std::string &isa) {
    if (session.loaded != &c) {
        session.loaded = nullptr;
        session.work.reset();
        session.work = c.make();
        session.loaded = &c;
    }
    auto run = session.work->prepare(context(isa), session.pool);
    run();
    if (isa != "ref" && session.checked != c.label + isa) { // Google Benchmark calls several times
        const std::string difference = session.work->compare(context("ref"));
        if (!difference.empty()) throw std::runtime_error("wrong result: " + difference);
        session.checked = c.label + isa;
    }

    using Clock = std::chrono::steady_clock;
    std::vector<double> times, peaks;
    double since_peak = kPeakEvery;
    for (auto _ : state) {
        if (since_peak >= kPeakEvery) {
            peaks.push_back(fma_peak_gflops(isa, session.pool, 1, 100000)); // some 0.2 ms
            since_peak = 0;
        }
        auto start = Clock::now();
        run();
        times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
        since_peak += times.back();
        state.SetIterationTime(times.back());
    }
    std::sort(times.begin(), times.end());
    std::sort(peaks.begin(), peaks.end());
    Row row = {c.operation + "/" + c.label, isa, times[times.size() / 2], times[0], c.flops, c.bytes, 0, 0, 0};
    row.peak = peaks[peaks.size() / 2];
    row.best_peak = peaks.back();
    state.counters["GFLOP/s"] = 1e-9 * c.flops / row.median;
    if (row.peak > 0) state.counters["%peak"] = 1e-7 * c.flops / row.median / row.peak;
    if (c.bytes > 0) {
        double &bandwidth = session.bandwidth[c.bytes];
        if (bandwidth == 0 && c.bytes >= kLeastRead) {
            bandwidth = read_bandwidth(static_cast<size_t>(c.bytes), session.pool);
        }
        row.bandwidth = bandwidth;
        state.counters["GB/s"] = 1e-9 * c.bytes / row.median;
    }
    // The last call has the most iterations.
    if (!session.rows.empty() && session.rows.back().name == row.name && session.rows.back().isa == isa) {
        session.rows.pop_back();
    }
    session.rows.push_back(row);
}

void add(Session &session, const Case &c, const std::string &isa) {
    const std::string name = c.operation + "/" + isa + "/" + c.label;
    benchmark::RegisterBenchmark(name.c_str(), [&session, &c, isa](benchmark::State &state) {
        try {
            measure(state, session, c, isa);
        } catch (const std::exception &error) {
            session.failed = true;
            state.SkipWithError(error.what());
        }
    })->UseManualTime()->Unit(benchmark::kMicrosecond);
}

std::vector<std::string> kernel_sets(const Options &options) {
    qkv_ctx ctx;
    require(qkv_init(&ctx, nullptr), "init");
    std::vector<std::string> names;
    for (int32_t i = 0; i < qkv_num_kernel_sets(); i++) {
        qkv_kernel_set set;
        require(qkv_kernel_set_query(&ctx, i, &set), "query");
        if (!options.isa.empty() && options.isa != set.name) continue;
        if (set.available) {
            names.push_back(set.name);
        } else {
            std::printf("%-8s left out: %s\n", set.name, set.reason);
        }
    }
    if (names.empty()) throw std::runtime_error("no such kernel set on this CPU: " + options.isa);
    return names;
}

// "95.1%", or "-" without a limit to compare with.
std::string percent(double share) {
    char text[16] = "-";
    if (share > 0) std::snprintf(text, sizeof text, "%.1f%%", 100 * share);
    return text;
}

void print_table(const Session &session) {
    std::printf("\n%-44s %-7s %11s %9s %7s %7s %8s %8s\n", "case", "set", "time (us)", "GFLOP/s", "% peak", "best",
                "GB/s", "% read");
    for (const Row &r : session.rows) {
        const double gflops = 1e-9 * r.flops / r.median, gbytes = 1e-9 * r.bytes / r.median;
        char gb[16] = "-";
        if (r.bytes > 0) std::snprintf(gb, sizeof gb, "%.1f", gbytes);
        std::printf("%-44s %-7s %11.1f %9.1f %7s %7s %8s %8s\n", r.name.c_str(), r.isa.c_str(), 1e6 * r.median, gflops,
                    percent(r.peak > 0 ? gflops / r.peak : 0).c_str(),
                    percent(r.peak > 0 ? gflops * r.median / r.best / r.best_peak : 0).c_str(), gb,
                    percent(r.bandwidth > 0 ? gbytes / r.bandwidth : 0).c_str());
    }
    std::printf("\nTimes are medians, as a share of the median peak measured between them; \"best\" is the fastest run "
                "as a share\nof the highest peak. Causal cases count visible pairs only.\n");
}

int run(const Options &options) {
    Session session(options);
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    std::printf("%s, qkv %s, %d thread%s\n", cpu.name[0] ? cpu.name : "unknown CPU", qkv_version(), options.threads,
                options.threads == 1 ? "" : "s");
    std::vector<std::string> sets = kernel_sets(options);
    for (const std::string &isa : sets) {
        double peak = fma_peak_gflops(isa, session.pool, 40, 1000000);
        if (peak > 0) std::printf("%-8s FMA peak %.1f GFLOP/s\n", isa.c_str(), peak);
    }
    std::printf("read bandwidth %.1f GB/s (256 MiB)\n", read_bandwidth(size_t{256} << 20, session.pool));

    add_projection_cases(session.cases);
    add_attention_cases(session.cases);
    add_layer_cases(session.cases);
    for (const Case &c : session.cases) {
        if (options.quick && !c.quick) continue;
        for (const std::string &isa : sets) {
            if (isa != "ref" || c.flops <= kMostRefFlops) add(session, c, isa);
        }
    }
    benchmark::RunSpecifiedBenchmarks();
    print_table(session);
    if (session.failed) std::printf("\nSome results were wrong: those cases are not in the table.\n");
    return session.failed ? 1 : 0;
}

// Takes our own options out of argv.
Options take_options(std::vector<char *> &args) {
    Options options;
    if (const char *isa = std::getenv("QKV_ISA")) options.isa = isa;
    std::vector<char *> rest;
    for (char *arg : args) {
        const std::string text = arg;
        if (text == "--quick") {
            options.quick = true;
        } else if (text.rfind("--threads=", 0) == 0) {
            options.threads = std::max(1, std::atoi(arg + 10));
        } else if (text.rfind("--isa=", 0) == 0) {
            options.isa = text.substr(6);
        } else {
            rest.push_back(arg);
        }
    }
    args = rest;
    return options;
}

} // namespace
} // namespace bench

int main(int argc, char **argv) {
    std::vector<char *> args(argv, argv + argc);
    bench::Options options = bench::take_options(args);
    static char min_time[] = "--benchmark_min_time=0.3", quick_time[] = "--benchmark_min_time=0.1";
    args.insert(args.begin() + 1, options.quick ? quick_time : min_time); // before the user's own, which then counts
    int count = static_cast<int>(args.size());
    args.push_back(nullptr);
    benchmark::Initialize(&count, args.data());
    if (benchmark::ReportUnrecognizedArguments(count, args.data())) return 2;
    try {
        return bench::run(options);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "qkv-bench: %s\n", error.what());
        return 1;
    }
}
