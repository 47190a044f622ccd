#!/bin/sh
# The tests of kernels, and those of bits above the kernel table, built by MinGW-w64 and run by wine on every kernel set
# of this CPU, each call in the calling convention of Windows (win64_abi.c): xmm6 to xmm15 stay, and a stack that is
# aligned to 16 bytes will do.
#   sh tests/windows/run.sh
# Ends with "N passed, N failed, N skipped"; the exit status is 1 if anything failed, 77 without MinGW-w64 or wine.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
folder=$PWD/build/windows
said=$(sh tests/windows/prepare.sh "$folder") || {
    status=$?
    echo "$said"
    exit $status
}
compiler="$(command -v ccache) x86_64-w64-mingw32-gcc"

# -O1: GCC spills vectors there too, which is what Windows is about.
LINK="$folder/win64_abi.o $folder/exact_fmaf.o $(cat "$folder/wraps") -lm"
TESTS="$(ls tests/kernels/test_*.c) tests/promises/test_bits.c tests/promises/test_same_bits.c"
export LINK TESTS ARGUMENTS=--qemu
# shellcheck disable=SC2086  # words
sh scripts/check/bare.sh "$folder/tests" "$folder/wine" $compiler -O1 -D__USE_MINGW_ANSI_STDIO=1 \
    2>&1 | tee "$folder/tests.log"
counts=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$folder/tests.log" | tail -n 1)
# shellcheck disable=SC2086  # words
set -- ${counts:-0 1 0}
passed=$1 failed=$2 skipped=$3

cat "$folder"/tests/log/* | awk '
    $1 == "abi:" { calls[$2 " " $3] += $4; broken[$2 " " $3] += $5; n[$2] += $4 }
    END {
        for (f in calls) {
            if (broken[f]) print "xmm6 to xmm15 changed in", broken[f], "of", calls[f], "calls:", f
            if (calls[f] < 4 && f !~ /^public /) print "not called by each alignment:", f
        }
        for (set in n) print "calls of", set ":", n[set]
    }' | sort >"$folder/calls"
cat "$folder/calls"
if grep -q '^calls of portable' "$folder/calls" && ! grep -qv '^calls of ' "$folder/calls"; then
    passed=$((passed + 1))
    echo "ok      every call left xmm6 to xmm15 as they were, every kernel was called by each alignment of the stack"
else
    failed=$((failed + 1))
    echo "FAILED  calling convention"
fi
echo "$passed passed, $failed failed, $skipped skipped"
test "$failed" = 0
