// Runs everything that does a case (kernel sets, baselines, peers), in turns, so that what is compared was measured at
// the same time.  SPDX-License-Identifier: MIT
#ifndef QKV_BENCH_MEASURE_H
#define QKV_BENCH_MEASURE_H

#include "peak.h"
#include "peer.h"

namespace bench {

struct Options {
    bool quick = false;
    std::vector<int32_t> threads;     // empty: those of each case
    std::string isa;                  // empty: every available set
    std::string cases, python, peers; // bench/cases.txt; a Python that has the peers' packages, and their script
    double seconds = 0.15;            // of each sample
    int rounds = 5;
};

// One turn of one implementation.
struct Sample {
    double median, best;    // seconds of a call
    double peak, bandwidth; // GFLOP/s and GB/s of the machine next to it; 0: nothing to compare with
    double cpu_share;       // of one thread; less than 1: other programs had the core meanwhile. 0: unknown
};

struct Result {
    std::vector<Sample> samples;
    double flops = 0, operands = 0, bytes = 0, elements = 0, workspace = -1, max_error = -1; // below 0: unknown
    std::string failed;                                                                      // why there are no samples
};

class Bench {
  public:
    explicit Bench(const Options &options);
    ~Bench();

    const std::vector<Case> &cases() const { return cases_; }
    const std::vector<std::string> &kernel_sets() const { return sets_; }
    const std::vector<std::pair<std::string, std::string>> &machine() const { return machine_; } // key, value
    // The names of what does a case with so many threads.
    std::vector<std::string> implementations(const Case &c, int32_t threads);
    // Measures all of `names` on the first call for a case and number of threads; later ones get what is known.
    const Result &measure(const Case &c, int32_t threads, const std::string &name,
                          const std::vector<std::string> &names);

  private:
    struct Subject;
    void describe_machine();
    void start_peers();
    Pool &pool(int32_t threads);
    ReadBandwidth &bandwidth(Pages pages, int32_t threads);
    void load(const Case &c);
    void prepare(const Case &c, int32_t threads, Subject &subject);
    void check(Subject &subject, bool bits, double tolerance);
    Sample sample(const Case &c, int32_t threads, Subject &subject);

    Options options_;
    std::vector<Case> cases_;
    std::vector<std::string> sets_;
    std::vector<std::pair<std::string, std::string>> machine_;
    std::map<int32_t, std::unique_ptr<Pool>> pools_;
    std::map<std::pair<Pages, int32_t>, std::unique_ptr<ReadBandwidth>> bandwidths_;
    std::unique_ptr<Folder> folder_;
    std::vector<std::unique_ptr<Peer>> peers_; // those that are ready
    const Case *loaded_ = nullptr;             // whose data is in problem_
    std::unique_ptr<Problem> problem_;
    bool written_ = false;                  // the operands lie in folder_
    std::map<std::string, Result> results_; // by operation, case, threads and implementation
};

} // namespace bench

#endif
