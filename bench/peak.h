// The machine's own limits, measured between the runs of what is compared with them.  SPDX-License-Identifier: MIT
#ifndef QKV_BENCH_PEAK_H
#define QKV_BENCH_PEAK_H

#include "bench.h"

namespace bench {

// GFLOP/s of the widest FMA of a kernel set ("avx512", …), or of "bf16" and "int8" dot products (GOP/s); summed over
// the threads of the pool, all at once; the best of `tries` runs of so many steps. 0: no such instruction here.
double fma_peak(const std::string &isa, Pool &pool, int tries, int64_t steps);

double clock_ghz(); // one addition a cycle

// Reads a buffer much larger than the last-level cache, with the loop that was the fastest on this machine.
class ReadBandwidth {
  public:
    ReadBandwidth(Pages pages, Pool &pool, size_t bytes);
    double measure(int tries); // GB/s of all threads together, the best of so many passes
    double best() const { return best_; }

  private:
    struct Loop {
        size_t streams, ahead;
    };
    double pass(const Loop &loop);
    Pool &pool_;
    Buffer buffer_;
    Loop fastest_ = {1, 0};
    double best_ = 0;
};

} // namespace bench

#endif
