#!/bin/sh
# The adapter inside the newest ggml that the packages have: its own tests, and of ggml's backend tests
# (test-backend-ops) those of attention and of products by weights. Builds ggml, which takes most of the time.
#
#   sh tests/ggml/run.sh [all]     all: every case of ggml's tests instead of those of some head sizes, and the oldest
#                                  ggml with sinks too: some twenty minutes
#
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
cases='hsk=(64|80|576),' versions=newest
test "${1:-}" != all || { cases=. versions='newest oldest'; }
passed=0 failed=0
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT

for version in $versions; do
    if test $version = newest; then set --; else set -- oldest; fi
    host=$(sh scripts/ggml.sh tests "$@")
    status=$?
    test $status != 77 || { echo "PyPI can't be reached: no ggml to test in ($version)"; exit 77; }
    test $status = 0 || exit 1
    host=$(echo "$host" | tail -n 1)
    build=$(echo "$host" | sed -n 's:.*/build-\([0-9.]*\)/bin$:build/ggml-\1:p')
    adapter=$PWD/$build/libggml-qkv.so
    echo "ggml of $host"

    own() { # SETTING PROGRAM ARGUMENT…: one of the adapter's own tests
        setting=$1 program=$2
        shift 2
        env "$setting" "$build/$program" "$host" "$adapter" "$@" >"$work/own" 2>&1 || failed=$((failed + 1))
        cat "$work/own"
        passed=$((passed + $(grep -c '^ok: ' "$work/own")))
        grep -q ' passed, ' "$work/own" || echo "FAILED: $program did not come to its end"
    }
    own QKV_MIN_WORK=0 test_ggml
    own QKV_WEIGHTS=1 test_products
    own QKV_WEIGHTS=q4_1,q6_K test_products q4_1,q6_K
    own QKV_WEIGHTS=1 test_experts

    test $version = newest || continue # the others' cases say nothing new of it
    ops() { # OP DEVICE PATTERN LEFT: cases of ggml's tests; what those are that are left to ggml
        program=$PWD/$build/test-backend-ops
        (cd "$host" &&
            QKV_MIN_WORK=0 QKV_WEIGHTS=1 GGML_BACKEND_PATH=$adapter "$program" test -o "$1" -b "$2" -p "$3") \
            >"$work/ops" 2>&1 || failed=$((failed + 1))
        good=$(grep -c 'OK' "$work/ops") left=$(grep -c 'not supported' "$work/ops") bad=$(grep -c 'FAIL' "$work/ops")
        grep 'FAIL' "$work/ops"
        echo "test-backend-ops $1: $good cases passed, $bad failed, $left left to ggml ($4)"
        passed=$((passed + good))
        test "$good" -gt 100 || { echo "FAILED: too few cases"; tail -n 5 "$work/ops"; failed=$((failed + 1)); }
    }
    ops FLASH_ATTN_EXT QKV "$cases" "other types of K and V"
    types='type_a=(q4_0|q4_1|q5_0|q5_1|q8_0|q4_K|q5_K|q6_K),'
    ops MUL_MAT QKV_WEIGHTS "$types" "several matrices, views, rows in f16"
    ops MUL_MAT_ID QKV_WEIGHTS "$types.*n_mats=[0-9]{1,2}," "none" # some with 128 experts take 5 GB

    if QKV_WEIGHTS=0 "$build/test_products" "$host" "$adapter" >"$work/none" 2>&1 ||
        ! grep -q 'there is no QKV_WEIGHTS' "$work/none"; then
        echo "FAILED: QKV_WEIGHTS=0 leaves a device for weights"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
    if QKV_ISA=none "$build/test_ggml" "$host" "$adapter" >"$work/isa" 2>&1 ||
        ! grep -q 'QKV_ISA=none: ' "$work/isa"; then
        echo "FAILED: a kernel set that there isn't was not refused"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
test $failed = 0
