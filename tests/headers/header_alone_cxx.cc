// qkv.h as the first include of a C++ program, with C linkage.  SPDX-License-Identifier: MIT
#include <qkv.h>
#include <qkv.h>

#include <type_traits>

static_assert(std::is_standard_layout<qkv_plan>::value && std::is_trivial<qkv_plan>::value, "a plan is a plain value");
static_assert(std::is_trivial<qkv_layer_desc>::value, "a descriptor is a plain value");

uint64_t header_alone();

uint64_t header_alone() {
    qkv_attention_desc desc = {};
    desc.size = sizeof desc;
    desc.flags = QKV_LEFT | QKV_RIGHT;
    qkv_ctx ctx = {};
    qkv_plan plan = {};
    if (qkv_init(&ctx, nullptr) != QKV_OK || qkv_attention_plan(&ctx, &desc, 1, &plan) != QKV_OK)
        return 0;
    return QKV_CPU_AVX2 | QKV_CPU_OS_ZMM;
}
