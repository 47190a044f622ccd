// Memory, the case list, and comparing results.  SPDX-License-Identifier: MIT
#include "bench.h"

#include <sys/mman.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <new>
#include <sstream>
#include <thread>

namespace bench {

int32_t num_cores() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
}

Buffer::Buffer(size_t bytes, Pages pages) : bytes_(bytes) {
    if (bytes == 0) return;
    static std::atomic<size_t> count{0};
    const size_t huge = size_t{2} << 20, shift = (count.fetch_add(1) * 5 % 16) * 64;
    mapped_ = bytes + shift + (pages == Pages::huge ? huge : 0);
    mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) throw std::bad_alloc();
    char *start = static_cast<char *>(mapping_);
    if (pages == Pages::huge) start += (huge - reinterpret_cast<uintptr_t>(start) % huge) % huge;
    data_ = start + shift;
#if defined(__linux__)
    madvise(mapping_, mapped_, pages == Pages::huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
    std::memset(data_, 0, bytes); // no page is missing when it counts
}

Buffer::~Buffer() {
    if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

Buffer floats(int64_t count, Pages pages) {
    return Buffer(static_cast<size_t>(count) * sizeof(float), pages);
}

Buffer random_floats(int64_t count, float limit, uint64_t seed, Pages pages) {
    Buffer buffer = floats(count, pages);
    uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (int64_t i = 0; i < count; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        buffer.as()[i] = limit * (static_cast<float>(x >> 40) * 0x1p-23f - 1.0f);
    }
    return buffer;
}

int64_t Case::get(const std::string &key) const {
    auto found = options.find(key);
    if (found == options.end()) throw std::runtime_error(operation + " " + name + ": there is no " + key);
    return found->second;
}

int64_t Case::get(const std::string &key, int64_t fallback) const {
    return has(key) ? get(key) : fallback;
}

std::vector<Case> read_cases(const std::string &path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("can't read " + path);
    std::vector<Case> cases;
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line.substr(0, line.find('#')));
        Case c;
        if (!(words >> c.operation >> c.name)) continue;
        for (std::string word; words >> word;) {
            c.text += (c.text.empty() ? "" : " ") + word;
            const size_t equals = word.find('=');
            const std::string key = word.substr(0, equals);
            const std::string value = equals < word.size() ? word.substr(equals + 1) : "1";
            if (key != "threads") {
                c.options[key] = std::stoll(value);
                continue;
            }
            c.threads.clear();
            std::istringstream counts(value);
            for (std::string count; std::getline(counts, count, ',');)
                c.threads.push_back(std::stoi(count));
        }
        cases.push_back(c);
    }
    return cases;
}

int64_t cold_copies(const Case &c, size_t bytes) {
    if (!c.has("cold")) return 1;
    qkv_cpu cpu;
    qkv_cpu_query(&cpu);
    const size_t cache = static_cast<size_t>(std::max(cpu.l2_size, cpu.l3_size));
    const size_t wanted = std::max(4 * cache, size_t{128} << 20);
    return static_cast<int64_t>(std::max<size_t>(1, (wanted + bytes - 1) / bytes));
}

std::vector<int64_t> sample_rows(int64_t count, int64_t most) {
    most = std::min(most, count);
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < most; i++)
        rows.push_back(most == 1 ? 0 : i * (count - 1) / (most - 1));
    return rows;
}

std::string first_difference(const float *got, const float *expected, int64_t count, int64_t row) {
    if (std::memcmp(got, expected, static_cast<size_t>(count) * sizeof(float)) == 0) return "";
    for (int64_t i = 0; i < count; i++) {
        if (std::memcmp(&got[i], &expected[i], sizeof(float)) == 0) continue;
        char text[120];
        std::snprintf(text, sizeof text, "row %lld, element %lld: %.9g, the reference has %.9g",
                      static_cast<long long>(row), static_cast<long long>(i), static_cast<double>(got[i]),
                      static_cast<double>(expected[i]));
        return text;
    }
    return "";
}

} // namespace bench
