#!/bin/sh
# qkv.h stands alone in C99, C11, C++11 and C++20, without a warning.  SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
warnings="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Wstrict-prototypes -Werror"
failed=0 checked=0

# check COMPILER STANDARD FILE FLAGS
check() {
    command -v "$1" >/dev/null 2>&1 || { echo "$1 is not there: left out"; return; }
    # shellcheck disable=SC2086  # words
    if "$1" -std="$2" -pedantic-errors $4 -Iinclude -c "tests/headers/$3" -o /dev/null; then
        checked=$((checked + 1))
    else
        echo "$1 -std=$2 refuses qkv.h"
        failed=1
    fi
}

for std in c99 c11 c17; do
    check gcc $std header_alone.c "$warnings"
    check clang $std header_alone.c "$warnings"
done
cxx_warnings=$(echo "$warnings" | sed 's/-Wstrict-prototypes//')
for std in c++11 c++17 c++20; do
    check g++ $std header_alone_cxx.cc "$cxx_warnings -Wold-style-cast"
    check clang++ $std header_alone_cxx.cc "$cxx_warnings -Wold-style-cast"
done
test $checked -gt 0 || { echo "no compiler was found"; exit 1; }
test $failed = 0 && echo "$checked compilations of qkv.h alone"
exit $failed
