// Other libraries, each in a Python process of its own (bench/peers/), stopped while anything else is timed.
// SPDX-License-Identifier: MIT
#ifndef QKV_BENCH_PEER_H
#define QKV_BENCH_PEER_H

#include "bench.h"

#include <cstdio>
#include <sys/types.h>

namespace bench {

// The conversation is one line each way:
//   (start)                             ready DESCRIPTION | no REASON
//   can operation= name= KEY=VALUE …    ok | no REASON
//   prepare the same threads= copies= dir=   ok | no REASON   the operands are DIR/NAME.f32, the result DIR/out.f32
//   sample SECONDS                      times T1 T2 …         seconds of single calls, at least one
//   drop                                ok
class Peer {
  public:
    Peer(const std::string &name, const std::string &python, const std::string &script);
    ~Peer();
    Peer(const Peer &) = delete;
    Peer &operator=(const Peer &) = delete;

    const std::string &name() const { return name_; }
    // Waits for the process to have loaded its library. False: it can't; description() says why.
    bool ready();
    const std::string &description() const { return description_; } // version, threads, detected core
    // "" or the reason why this peer does not do the case.
    std::string can(const Case &c);
    // "" or the reason why it failed. The inputs lie in `folder`; the result is read into output.
    std::string prepare(const Case &c, int32_t threads, int64_t copies, const std::string &folder, Buffer &output);
    std::vector<double> sample(double seconds);
    void drop();

  private:
    std::string ask(const std::string &line); // the answer; throws when the process is gone
    void pause(bool stopped);
    std::string name_, description_;
    pid_t pid_ = -1;
    bool ready_ = false, asked_ = false;
    std::FILE *in_ = nullptr, *out_ = nullptr; // of the process
};

// A temporary folder, removed at the end, for the operands that the peers read.
class Folder {
  public:
    Folder();
    ~Folder();
    const std::string &path() const { return path_; }
    void write(const Input &input);
    void clear();

  private:
    std::string path_;
    std::vector<std::string> files_;
};

} // namespace bench

#endif
