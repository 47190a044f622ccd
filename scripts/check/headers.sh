#!/bin/sh
# qkv.h stands alone from C99 to C23 and from C++11 to C++23, without a warning; so do the adapters for threads.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
adapters="-Iadapters/openmp -Iadapters/pthreads -fopenmp"
warnings="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Wstrict-prototypes -Werror"
failed=0 checked=0

# Without omp.h, which comes with a package of its own, its adapter is left out.
has_openmp() {
    echo '#include <omp.h>' | "$1" -fopenmp -x c -E - >/dev/null 2>&1 && return
    echo "skipped: $1 has no omp.h: qkv/openmp.h is left out"
    return 1
}

# check COMPILER STANDARD FILE FLAGS
check() {
    command -v "$1" >/dev/null 2>&1 || { echo "$1 is not there: left out"; return; }
    # shellcheck disable=SC2086  # words
    if "$1" -std="$2" -pedantic-errors $4 -Iinclude -c "tests/headers/$3" -o /dev/null; then
        checked=$((checked + 1))
    else
        echo "$1 -std=$2 refuses tests/headers/$3"
        failed=1
    fi
}

for std in c99 c11 c17 c2x; do
    check gcc $std header_alone.c "$warnings"
    check clang $std header_alone.c "$warnings"
    for cc in gcc clang; do
        check $cc $std pthreads_alone.c "$warnings $adapters"
        has_openmp $cc && check $cc $std openmp_alone.c "$warnings $adapters"
    done
done
cxx_warnings="$(echo "$warnings" | sed 's/-Wstrict-prototypes//') -Wold-style-cast -Wzero-as-null-pointer-constant"
for std in c++11 c++17 c++20 c++2b; do
    check g++ $std header_alone_cxx.cc "$cxx_warnings"
    check clang++ $std header_alone_cxx.cc "$cxx_warnings"
    for cxx in g++ clang++; do
        check $cxx $std pthreads_alone.c "-x c++ $cxx_warnings $adapters"
        has_openmp $cxx && check $cxx $std openmp_alone.c "-x c++ $cxx_warnings $adapters"
    done
done
# What a test of the header alone does not use, it does not test.
for name in $(sed -nE 's/^\} (qkv_[a-z0-9_]+);$/\1/p; s/^typedef void \(\*(qkv_[a-z_]+)\).*/\1/p
    s/^#define (QKV_[A-Z0-9_]+).*/\1/p; s/^    (QKV_[A-Z0-9_]+) = .*/\1/p' include/qkv.h); do
    case $name in QKV_H | QKV_API) continue ;; esac
    grep -qw "$name" tests/headers/header_alone.c || { echo "header_alone.c does not use $name"; failed=1; }
done
test $checked -gt 0 || { echo "no compiler was found"; exit 1; }
test $failed = 0 && echo "$checked compilations of qkv.h, qkv/pthreads.h and qkv/openmp.h alone"
exit $failed
