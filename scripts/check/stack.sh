#!/bin/sh
# Every function of the library has a fixed stack frame of at most 4096 bytes, from -O1 to -O3 by GCC, at -O2 by each
# other compiler that is there. Those of the vector kernels: spills.sh, which compiles them anyway.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD limit=4096
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0 checked=0
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

for cc in gcc clang aarch64-linux-gnu-gcc; do
    command -v $cc >/dev/null 2>&1 || { echo "$cc is not there: left out"; continue; }
    levels=-O2
    test $cc != gcc || levels='-O1 -O2 -O3'
    for level in $levels; do
        rm -rf "$work/out" && mkdir "$work/out" && cd "$work/out" || exit 1
        find "$root/src" -name '*.c' | grep -vE '/kernels_(avx2|avx512|neon|sve|rvv)\.c$' | sort |
            xargs -P "$jobs" -n 1 $cc -std=c11 $level -fstack-usage -I"$root/include" -c || failed=1
        # place:function <tab> bytes <tab> static | dynamic,bounded | dynamic
        cat ./*.su | awk -F '\t' -v limit=$limit '$2 > limit || $3 == "dynamic"' >bad
        if [ -s bad ]; then
            echo "$cc $level: frames that are over $limit bytes or not bounded:"
            sed 's/^/    /' bad
            failed=1
        fi
        echo "$cc $level: largest frame $(cat ./*.su | cut -f 2 | sort -n | tail -n 1) bytes"
        checked=$((checked + 1))
    done
done
test $checked -gt 0 || { echo "no compiler was found"; exit 1; }
exit $failed
