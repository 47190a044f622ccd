/* Descriptors that are refused: what the tests of status codes share. Everything is static: one program, one file.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_REFUSALS_H
#define QKV_TESTS_REFUSALS_H

#include "oracle_cases.h"

#include <stdlib.h>
#include <string.h>

static qkv_ctx ctx;
static bool reached[QKV_ERROR_CACHE + 1];

static void expect_status(qkv_status want, qkv_status got, const char *what) {
    reached[want] = true;
    QT_EXPECT(want == got, "%s: want \"%s\", got \"%s\"", what, qkv_status_string(want), qkv_status_string(got));
    qt_count_words(1);
}

/* The explanation begins with the operation and names what the change is about: the field behind "d.", or the whole
 * that it is a part of; else the workspace. */
static void expect_named(const char *operation, qkv_status status, const char *change, const char *text) {
    char path[64] = "workspace";
    const char *from = strstr(change, "d.");
    if (from) {
        size_t n = strspn(from + 2, "abcdefghijklmnopqrstuvwxyz_0123456789.[]");
        assert_true(n < sizeof path);
        memcpy(path, from + 2, n);
        path[n] = 0;
    }
    bool named = strstr(text, path) != NULL;
    char *last = strrchr(path, '.');
    if (!named && last) {
        *last = 0;
        named = strstr(text, path) != NULL;
    }
    if (status == QKV_ERROR_PLAN)
        named = strstr(text, "plan is of another") != NULL;
    for (const char *s = operation, *t = text; *s; s++, t++)
        QT_EXPECT(*t == (*s == '_' ? ' ' : *s), "%s with %s: \"%s\"", operation, change, text);
    QT_EXPECT(named && !strpbrk(text, "%&"), "%s with %s names not \"%s\": \"%s\"", operation, change, path, text);
    qt_count_words(1);
}

/* A descriptor `good` with one change is refused by the plan with this status, and the plan stays as it was. */
#define PLAN_REFUSES(operation, status, change)                                                                        \
    do {                                                                                                               \
        qkv_##operation##_desc d = good;                                                                               \
        change;                                                                                                        \
        qkv_plan plan, before;                                                                                         \
        memset(&plan, 0xa5, sizeof plan);                                                                              \
        memset(&before, 0xa5, sizeof before);                                                                          \
        expect_status(status, qkv_##operation##_plan(&ctx, &d, 2, &plan), #operation " plan with " #change);           \
        qt_expect_bytes("the plan", &before, &plan, sizeof plan);                                                      \
        char text[256];                                                                                                \
        expect_named(#operation, status, #change, qkv_##operation##_explain_plan(&ctx, &d, 2, text, sizeof text));     \
    } while (0)

/* The same for a run with a plan of `good`: check, run and run_parallel agree, and nothing is written. */
#define RUN_REFUSES(operation, status, change)                                                                         \
    do {                                                                                                               \
        qkv_##operation##_desc d = good;                                                                               \
        qkv_plan plan;                                                                                                 \
        assert_int_equal(qkv_##operation##_plan(&ctx, &d, 2, &plan), QKV_OK);                                          \
        size_t size = plan.workspace_size;                                                                             \
        char *workspace = space;                                                                                       \
        change;                                                                                                        \
        qt_pool pool = {2, 0};                                                                                         \
        const char *what = #operation " run with " #change;                                                            \
        expect_status(status, qkv_##operation##_check(&plan, &d, workspace, size), what);                              \
        expect_status(status, qkv_##operation##_run(&plan, &d, workspace, size), what);                                \
        expect_status(status, qkv_##operation##_run_parallel(&plan, &d, workspace, size, qt_parallel_for, &pool),      \
                      what);                                                                                           \
        qt_expect_untouched("out", out);                                                                               \
        qt_expect_untouched("lse", lse);                                                                               \
        qt_expect_untouched("workspace", space);                                                                       \
        char text[256];                                                                                                \
        expect_named(#operation, status, #change,                                                                      \
                     qkv_##operation##_explain_run(&plan, &d, workspace, size, text, sizeof text));                    \
    } while (0)

/* What every operation refuses alike. */
#define COMMON_REFUSALS(operation)                                                                                     \
    do {                                                                                                               \
        qkv_plan p;                                                                                                    \
        expect_status(QKV_ERROR_NULL, qkv_##operation##_plan(NULL, &good, 1, &p), "no ctx");                           \
        expect_status(QKV_ERROR_NULL, qkv_##operation##_plan(&ctx, NULL, 1, &p), "no descriptor");                     \
        expect_status(QKV_ERROR_NULL, qkv_##operation##_plan(&ctx, &good, 1, NULL), "no plan");                        \
        expect_status(QKV_ERROR_WORKERS, qkv_##operation##_plan(&ctx, &good, 0, &p), "0 workers");                     \
        expect_status(QKV_ERROR_WORKERS, qkv_##operation##_plan(&ctx, &good, -3, &p), "-3 workers");                   \
        PLAN_REFUSES(operation, QKV_ERROR_SIZE, d.size = 0);                                                           \
        PLAN_REFUSES(operation, QKV_ERROR_SIZE, d.size--);                                                             \
        PLAN_REFUSES(operation, QKV_ERROR_SIZE, d.size = (size_t)1 << 40);                                             \
        assert_int_equal(qkv_##operation##_plan(&ctx, &good, 2, &p), QKV_OK);                                          \
        expect_status(QKV_ERROR_NULL, qkv_##operation##_run(NULL, &good, space, 1 << 20), "run without plan");         \
        expect_status(QKV_ERROR_NULL, qkv_##operation##_run(&p, NULL, space, 1 << 20), "run without descriptor");      \
        expect_status(QKV_ERROR_WORKERS,                                                                               \
                      qkv_##operation##_run_parallel(&p, &good, space, p.workspace_size, NULL, NULL),                  \
                      "no parallel_for");                                                                              \
        RUN_REFUSES(operation, QKV_ERROR_PLAN, memset(&plan, 0, sizeof plan));                                         \
        if (p.workspace_size > 0) {                                                                                    \
            RUN_REFUSES(operation, QKV_ERROR_WORKSPACE, size--);                                                       \
            RUN_REFUSES(operation, QKV_ERROR_WORKSPACE, size = 0);                                                     \
            RUN_REFUSES(operation, QKV_ERROR_NULL, workspace = NULL);                                                  \
            RUN_REFUSES(operation, QKV_ERROR_ALIGNMENT, workspace += 4);                                               \
            RUN_REFUSES(operation, QKV_ERROR_ALIGNMENT, workspace += 32);                                              \
        }                                                                                                              \
    } while (0)

static void *space; /* a workspace large enough for every descriptor here */
static float *out, *lse;

static void allocate(qt_rng *rng) {
    space = qt_alloc(1 << 20, 64, QT_TAIL);
    out = case_floats(rng, 5000);
    lse = case_floats(rng, 64);
}

static void *shifted(const void *p, ptrdiff_t bytes) {
    return (char *)(uintptr_t)p + bytes;
}

static const int64_t far = INT64_MAX / 4;

#endif
