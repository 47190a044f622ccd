/* Texts: status codes, version, build.  SPDX-License-Identifier: MIT */
#include "config.h"

#include "qkv.h"

const char *qkv_status_string(qkv_status status) {
#if !QKV_WITH(EXPLAIN)
    return status == QKV_OK ? "no error" : "an error";
#endif
    switch (status) {
    case QKV_OK: return "no error";
    case QKV_ERROR_NULL: return "a required pointer is NULL";
    case QKV_ERROR_SIZE: return "the size field names no version of the struct, or unknown bytes are not zero";
    case QKV_ERROR_NEGATIVE: return "a size is negative";
    case QKV_ERROR_OVERFLOW: return "sizes or strides exceed what memory can hold";
    case QKV_ERROR_HEADS: return "num_heads is no multiple of num_kv_heads, or columns are no multiple of head_dim";
    case QKV_ERROR_FLAGS: return "an unknown flag, layout or count, or options that exclude each other";
    case QKV_ERROR_VALUE: return "scale or softcap is NaN or infinite, or softcap is negative";
    case QKV_ERROR_SHAPE: return "fields of the descriptor contradict each other";
    case QKV_ERROR_ALIAS: return "an output overlaps an input, another output or the workspace";
    case QKV_ERROR_ALIGNMENT:
        return "workspace, packed weights or cache are not 64-byte aligned, or a tensor is misaligned";
    case QKV_ERROR_WORKSPACE: return "the workspace is smaller than plan.workspace_size, or memory than a cache";
    case QKV_ERROR_WORKERS: return "max_workers is below 1, or parallel_for is NULL";
    case QKV_ERROR_PLAN: return "the plan is of another operation, or the descriptor changed more than addresses";
    case QKV_ERROR_ISA_UNKNOWN: return "no kernel set has that name";
    case QKV_ERROR_ISA_UNAVAILABLE: return "this CPU, operating system or build can't run that kernel set";
    case QKV_ERROR_LSE: return "a gradient of attention needs the forward's lse, and it is NULL";
    case QKV_ERROR_STRIDES: return "strides of an output let two of its elements meet";
    case QKV_ERROR_INDEX:
        return "q_start or k_start decreases or leaves its tensor, or there is no such page, sequence or position";
    case QKV_ERROR_CAPACITY: return "a cache has no page or position left, or no longer what a position needs";
    case QKV_ERROR_LEFT_OUT: return "this build of the library leaves out what is asked for";
    case QKV_ERROR_CACHE: return "memory holds no cache, a damaged one, or one of another version or byte order";
    }
    return "unknown status";
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define VERSION TEXT(QKV_VERSION_MAJOR) "." TEXT(QKV_VERSION_MINOR) "." TEXT(QKV_VERSION_PATCH)

#if defined(__clang__)
#define COMPILER __VERSION__
#else
#define COMPILER "gcc " __VERSION__
#endif

#if QKV_X86_64
#define TARGET "x86_64"
#elif QKV_AARCH64
#define TARGET "aarch64"
#elif QKV_WASM
#define TARGET "wasm"
#else
#define TARGET "another architecture"
#endif

#if defined(__OPTIMIZE__)
#define OPTIMISED ""
#else
#define OPTIMISED ", built without optimisation"
#if !defined(QKV_UNOPTIMIZED)
#pragma message("qkv is compiled without optimisation, many times slower: add -O2 (or -DQKV_UNOPTIMIZED)")
#endif
#endif

#if __STDC_HOSTED__
#define HOST "hosted"
#else
#define HOST "freestanding"
#endif

const char *qkv_version(void) {
    return VERSION;
}

const char *qkv_build_info(void) {
    return "qkv " VERSION ", " COMPILER ", " TARGET ", " HOST OPTIMISED;
}
