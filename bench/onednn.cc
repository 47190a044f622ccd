// Projections on oneDNN: its matmul, with the weights in the layout that it asks for.  SPDX-License-Identifier: MIT
#include "baselines.h"

#if defined(QKV_BENCH_ONEDNN)
#include <dnnl.hpp>

#include <unordered_map>

#if defined(__GNUC__)
extern "C" void omp_set_num_threads(int) __attribute__((weak)); // where oneDNN runs on OpenMP
#endif
#endif

namespace bench {

#if !defined(QKV_BENCH_ONEDNN)

struct OnednnProjection::State {};
std::string onednn_description() {
    return "";
}
OnednnProjection::OnednnProjection(const ProjectionShape &, int32_t, int64_t, const float *const *, const float *) {}
OnednnProjection::~OnednnProjection() = default;
void OnednnProjection::run(int64_t, const float *, float *) {}

#else

std::string onednn_description() {
    const dnnl_version_t *v = dnnl_version();
    const char *isa = "other";
    switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_avx2: isa = "avx2"; break;
    case dnnl_cpu_isa_avx512_core: isa = "avx512_core"; break;
    case dnnl_cpu_isa_avx512_core_vnni: isa = "avx512_core_vnni"; break;
    case dnnl_cpu_isa_avx512_core_bf16: isa = "avx512_core_bf16"; break;
    default: break;
    }
    const std::string runtime = v->cpu_runtime == DNNL_RUNTIME_OMP ? "OpenMP" : "another runtime";
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch) +
           ", " + runtime + ", core " + isa;
}

using Dims = dnnl::memory::dims;
using Tag = dnnl::memory::format_tag;

struct OnednnProjection::State {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    dnnl::matmul matmul;
    dnnl::memory x, y, bias;
    std::vector<dnnl::memory> weights;
    bool has_bias = false;
    int32_t threads = 1;
};

OnednnProjection::OnednnProjection(const ProjectionShape &s, int32_t threads, int64_t copies,
                                   const float *const *weights, const float *bias)
    : state_(new State) {
    const auto f32 = dnnl::memory::data_type::f32;
    State &t = *state_;
    t.threads = threads;
    if (omp_set_num_threads) omp_set_num_threads(threads);
    const dnnl::memory::desc x(Dims{s.tokens, s.in}, f32, Tag::ab), y(Dims{s.tokens, s.out}, f32, Tag::ab);
    const dnnl::memory::desc plain(Dims{s.in, s.out}, f32, Tag::ab), any(Dims{s.in, s.out}, f32, Tag::any);
    const dnnl::memory::desc bias_desc(Dims{1, s.out}, f32, Tag::ab);
#if DNNL_VERSION_MAJOR >= 3
    t.has_bias = bias != nullptr;
    dnnl::matmul::primitive_desc primitive = t.has_bias ? dnnl::matmul::primitive_desc(t.engine, x, any, bias_desc, y)
                                                        : dnnl::matmul::primitive_desc(t.engine, x, any, y);
#else
    t.has_bias = bias != nullptr;
    dnnl::matmul::desc operation =
        t.has_bias ? dnnl::matmul::desc(x, any, bias_desc, y) : dnnl::matmul::desc(x, any, y);
    dnnl::matmul::primitive_desc primitive(operation, t.engine);
#endif
    t.matmul = dnnl::matmul(primitive);
    t.x = dnnl::memory(x, t.engine, nullptr);
    t.y = dnnl::memory(y, t.engine, nullptr);
    if (t.has_bias) t.bias = dnnl::memory(bias_desc, t.engine, const_cast<float *>(bias));
    for (int64_t i = 0; i < copies; i++) {
        dnnl::memory source(plain, t.engine, const_cast<float *>(weights[i]));
        t.weights.emplace_back(primitive.weights_desc(), t.engine);
        dnnl::reorder(source, t.weights.back()).execute(t.stream, source, t.weights.back());
        t.stream.wait();
    }
}

OnednnProjection::~OnednnProjection() = default;

void OnednnProjection::run(int64_t copy, const float *x, float *y) {
    State &t = *state_;
    if (omp_set_num_threads) omp_set_num_threads(t.threads);
    t.x.set_data_handle(const_cast<float *>(x));
    t.y.set_data_handle(y);
    std::unordered_map<int, dnnl::memory> arguments = {
        {DNNL_ARG_SRC, t.x}, {DNNL_ARG_WEIGHTS, t.weights[static_cast<size_t>(copy)]}, {DNNL_ARG_DST, t.y}};
    if (t.has_bias) arguments.insert({DNNL_ARG_BIAS, t.bias});
    t.matmul.execute(t.stream, arguments);
    t.stream.wait();
}

#endif

} // namespace bench
