#!/bin/sh
# qkv.c and qkv.h as scripts/amalgamate.sh makes them: by GCC with all kernel sets of this CPU and by clang, in C11
# without a warning, the tests of bits linked with it; in a C++ program; in two copies with prefixes of their own; by
# README's example in one line; and for AArch64, under qemu. Needs build/release.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$PWD/build/amalgamation skipped=0
. scripts/check/judge.sh
log=$build/log
test -s build/release/tests/libqkv_test_harness.a || { echo "build/release is not there"; exit 1; }
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
rm -rf "$build" && mkdir -p "$build" && sh scripts/amalgamate.sh "$build" || exit 1

skip() {
    skipped=$((skipped + 1))
    echo "skipped: amalgamation: $*"
}

tests() { # COMPILER
    for test in test_bits test_gradient_bits test_same_bits test_attention test_gemm test_softmax test_bf16 test_int8 \
        test_packed_kernels test_layer_cache; do
        cc build/release/tests/CMakeFiles/$test.dir/*/*.o build/release/tests/libqkv_test_harness.a "$build/qkv-$1.o" \
            -lcmocka -lpthread -lm -o "$build/$test" && QKV_QUICK=1 "$build/$test" >"$build/log" 2>&1
        judge $? "$1: $test"
        rm -f "$build/$test"
    done
}

with_compiler() { # COMPILER OPTION…
    compiler=$1
    shift
    command -v "$compiler" >/dev/null || { skip "$compiler is not installed (11 checks)"; return; }
    "$compiler" -std=c11 -O1 -Wall -Wextra -Wpedantic -Werror "$@" -c "$build/qkv.c" \
        -o "$build/qkv-$compiler.o" >"$build/log" 2>&1
    status=$?
    judge $status "$compiler: compiles without a warning"
    test $status != 0 || tests "$compiler"
}

in_cxx() { # a part of a C++ program
    command -v c++ >/dev/null || { skip "no C++ compiler is installed"; return; }
    c++ -std=c++17 -Wall -Werror -I"$build" -x c++ tests/consumers/consumer.c -x none "$build/qkv-gcc.o" \
        -o "$build/cxx" >"$build/log" 2>&1 && "$build/cxx" >>"$build/log" 2>&1
    judge $? "a C++17 program with it"
}

two_copies() { # of different versions in one program
    for copy in first second; do
        mkdir -p "$build/$copy" && cp "$build/qkv.c" "$build/qkv.h" "$build/$copy" &&
            cp "tests/consumers/prefixed_copy.c" "$build/$copy" || return 1
    done
    sed 's/\(QKV_VERSION_PATCH\) .*/\1 77/' "$build/qkv.h" >"$build/second/qkv.h"
    for copy in first second; do
        (
            cd "$build/$copy" && cc -std=c11 -Og -Wall -Wextra -Werror -DQKV_PREFIX=${copy}_ -DQKV_NO_AVX512 \
                -DQKV_NO_AVX2 -c qkv.c prefixed_copy.c
        ) || return 1
        nm --defined-only --extern-only "$build/$copy/qkv.o" | awk '{ print $3 }' | grep -v "^${copy}_qkv_" && return 1
    done
    cc -std=c11 tests/consumers/prefixed.c "$build"/first/*.o "$build"/second/*.o -o "$build/copies" &&
        "$build/copies" >"$build/copies.txt" && cat "$build/copies.txt"
    version=$(sed -nE 's/^#define QKV_VERSION_(MAJOR|MINOR) //p' include/qkv.h | tr '\n' .)
    grep -q "^second ${version}77, the same bits\$" "$build/copies.txt"
}

example() {
    awk '/^```c$/ { inside = 1; next } /^```$/ { if (inside) exit } inside' README.md >"$build/example.c" &&
        line=$(sed -n 's/^\(cc .*\)own\.c qkv\.c -o own$/\1-DQKV_NO_AVX512 -DQKV_NO_AVX2/p' docs/integration.md) &&
        test -n "$line" && cd "$build" && $line example.c qkv.c -o example &&
        ./example | grep -x 'head 0: 0 0.5 1 1.5'
}

on_aarch64() {
    command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null ||
        { skip "no cross compiler for AArch64 or no qemu-aarch64"; return; }
    aarch64-linux-gnu-gcc -std=c11 -O1 -Wall -Wextra -Werror -static -D_GNU_SOURCE -Iinclude tools/*.c "$build/qkv.c" \
        -o "$build/qkv-info" >"$build/log" 2>&1 && qemu-aarch64 "$build/qkv-info" --selftest >>"$build/log" 2>&1
    judge $? "AArch64: selftest of all its sets"
}

with_compiler gcc
with_compiler clang -DQKV_NO_AVX512
in_cxx
two_copies >"$build/log" 2>&1
judge $? "two copies, each with a prefix"
(example) >"$build/log" 2>&1
judge $? "README's example, by the line of integration.md"
on_aarch64
echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0
