// The C++ side of bench/peers/: starting a process, a line to it, a line back.  SPDX-License-Identifier: MIT
#include "peer.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include <cstdlib>
#include <cstring>
#include <sstream>

namespace bench {

Peer::Peer(const std::string &name, const std::string &python, const std::string &script) : name_(name) {
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0) throw std::runtime_error("no pipe");
    std::fflush(nullptr);
    pid_ = fork();
    if (pid_ < 0) throw std::runtime_error("can't start a process");
    if (pid_ == 0) {
#if defined(__linux__)
        prctl(PR_SET_PDEATHSIG, SIGKILL); // not to outlive us, stopped
#endif
        setpgid(0, 0); // so that what it starts is stopped and killed with it
        dup2(to[0], 0), dup2(from[1], 1);
        for (int fd = 3; fd < 1024; fd++)
            close(fd); // pipes of the other peers, locks of the caller …
        execl(python.c_str(), python.c_str(), script.c_str(), name.c_str(), static_cast<char *>(nullptr));
        _exit(127);
    }
    setpgid(pid_, pid_); // here too: whoever comes first
    close(to[0]), close(from[1]);
    signal(SIGPIPE, SIG_IGN);
    in_ = fdopen(to[1], "w"), out_ = fdopen(from[0], "r");
}

Peer::~Peer() {
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    std::fclose(in_), std::fclose(out_);
}

void Peer::pause(bool stopped) {
    kill(-pid_, stopped ? SIGSTOP : SIGCONT);
}

std::string Peer::ask(const std::string &line) {
    if (!line.empty()) {
        pause(false);
        std::fprintf(in_, "%s\n", line.c_str());
        std::fflush(in_);
    }
    std::string answer;
    for (int c; (c = std::getc(out_)) != '\n';) {
        if (c == EOF) throw std::runtime_error(name_ + " has ended");
        answer += static_cast<char>(c);
    }
    pause(true);
    return answer;
}

bool Peer::ready() {
    if (!asked_) {
        asked_ = true;
        try {
            description_ = ask("");
            ready_ = description_.rfind("ready ", 0) == 0;
            description_.erase(0, description_.find(' ') + 1);
        } catch (const std::exception &error) {
            description_ = error.what();
        }
    }
    return ready_;
}

namespace {

std::string described(const Case &c) {
    std::string text = " operation=" + c.operation + " name=" + c.name;
    for (const auto &option : c.options)
        text += " " + option.first + "=" + std::to_string(option.second);
    return text;
}

// "" for "ok", else what stands behind "no".
std::string refusal(const std::string &answer) {
    return answer == "ok" ? "" : answer.substr(answer.find(' ') + 1);
}

} // namespace

std::string Peer::can(const Case &c) {
    return refusal(ask("can" + described(c)));
}

std::string Peer::prepare(const Case &c, int32_t threads, int64_t copies, const std::string &folder, Buffer &output) {
    const std::string reason = refusal(ask("prepare" + described(c) + " threads=" + std::to_string(threads) +
                                           " copies=" + std::to_string(copies) + " dir=" + folder));
    if (!reason.empty()) return reason;
    const std::string path = folder + "/out.f32";
    std::FILE *file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) return "it left no result";
    const size_t got = std::fread(output.as<void>(), 1, output.bytes(), file);
    const bool longer = std::getc(file) != EOF;
    std::fclose(file);
    std::remove(path.c_str());
    return got != output.bytes() || longer ? "its result has another size" : "";
}

std::vector<double> Peer::sample(double seconds) {
    std::istringstream words(ask("sample " + std::to_string(seconds)));
    std::string word;
    words >> word;
    if (word != "times") throw std::runtime_error(name_ + ": " + words.str());
    std::vector<double> times;
    for (double t; words >> t;)
        times.push_back(t);
    if (times.empty()) throw std::runtime_error(name_ + " gave no times");
    return times;
}

void Peer::drop() {
    ask("drop");
}

Folder::Folder() {
    const char *temporary = std::getenv("TMPDIR");
    path_ = std::string(temporary != nullptr && *temporary ? temporary : "/tmp") + "/qkv-bench-XXXXXX";
    if (mkdtemp(&path_[0]) == nullptr) throw std::runtime_error("can't make a folder like " + path_);
}

Folder::~Folder() {
    clear();
    rmdir(path_.c_str());
}

void Folder::write(const Input &input) {
    const std::string path = path_ + "/" + input.name + ".f32";
    const size_t count = static_cast<size_t>(input.count);
    std::FILE *file = std::fopen(path.c_str(), "wb");
    files_.push_back(path);
    const bool ok = file != nullptr && std::fwrite(input.data, sizeof(float), count, file) == count;
    if ((file != nullptr && std::fclose(file) != 0) || !ok) throw std::runtime_error("can't write " + path);
}

void Folder::clear() {
    for (const std::string &path : files_)
        std::remove(path.c_str());
    files_.clear();
}

} // namespace bench
