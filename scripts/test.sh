#!/bin/sh
# Installs what the tests need, then builds and runs everything that must pass: both compilers, sanitizers, every kernel
# set, AArch64 under qemu, the promises about the library as a file, and whoever uses it. Logs lie in build/logs.
#
#   sh scripts/test.sh [STAGE…]      all stages, or those whose name begins with one of the arguments
#
# Ends with the line "N passed, N failed, N skipped"; the exit status is 1 if anything failed.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/.." || exit 1
logs=$PWD/build/logs
mkdir -p "$logs" && rm -f "$logs"/*
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
wanted=$*
begin=$(date +%s)
passed=0 failed=0 skipped=0

# ---------------------------------------------------------------------------------------------- the stages' frame

is_wanted() {
    test -z "$wanted" && return 0
    for prefix in $wanted; do
        case $1 in "$prefix"*) return 0 ;; esac
    done
    return 1
}

# Sums up what CTest ran: cmocka counts for itself, any other program is one test.
count_tests() {
    awk '
    function close_test() {
        if (!inside) return
        if (gone) outcome = "Failed"
        if (!p && !f && !s) { if (outcome == "Passed") p = 1; else if (outcome == "Skipped") s = 1; else f = 1 }
        if (outcome == "Failed" && !f) f = 1
        P += p; F += f; S += s
    }
    /^[0-9]+\/[0-9]+ Testing: / { close_test(); inside = 1; p = f = s = 0; outcome = "Failed"; gone = lost; lost = 0 }
    /^\[  PASSED  \] [0-9]+ test/ { p += $4 }
    /^\[  FAILED  \] [0-9]+ test/ { f += $4 }
    /^\[  SKIPPED \] [0-9]+ test/ { s += $4 }
    /^Test Passed\./ { outcome = "Passed" }
    /^Test (Skipped|not run)/ { outcome = "Skipped" }
    /^Unable to find executable/ { lost = 1 } # stands before the test, which is then said to have passed
    END { close_test(); print P + 0, F + 0, S + 0 }' "$1"
}

# stage NAME COMMAND…: status 77 means skipped, with the reason as the last line. A stage that leaves "passed failed
# skipped" in NAME.counts counts for more than one.
stage() {
    name=$1
    shift
    is_wanted "$name" || return 0
    log=$logs/$name.log
    start=$(date +%s)
    ("$@") >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(($(date +%s) - start))
    p=0 f=0 s=0
    test -s "$logs/$name.counts" && read -r p f s <"$logs/$name.counts"
    case $status in
    0)
        result=ok
        test $((p + f + s)) -gt 0 || p=1
        ;;
    77)
        result=skipped s=1
        echo "$name: $(tail -n 1 "$log")" >>"$logs/skips"
        ;;
    *)
        result=FAILED
        test "$f" -gt 0 || f=1
        ;;
    esac
    # CTest puts the test's number before each line.
    sed -nE "s/^([0-9]+: )?skipped: /$name: /p" "$log" | sort -u >>"$logs/skips"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-22s %-8s %6d passed %4d failed %4d skipped %6d s\n' "$name" $result $p $f $s $seconds |
        tee -a "$logs/table"
    if [ $result = FAILED ]; then
        echo "---- the end of build/logs/$name.log:"
        test "$(wc -l <"$log")" -le 25 ||
            grep -nE '\[  FAILED|\*\*\*Failed|\*\*\*Not Run|ERROR|error:' "$log" | head -n 20
        tail -n 25 "$log"
        echo "----"
    fi
    return 0
}

skip() {
    echo "$*"
    exit 77
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# ---------------------------------------------------------------------------------------------------- the stages

build() { # PRESET [CMake option…]
    preset=$1
    shift
    # A build folder that came with a copy of the tree is of no use here.
    grep -qsxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "build/$preset/CMakeCache.txt" || rm -rf "build/$preset"
    # What does not compile is one failure; the rest is built and run all the same.
    cmake --preset "$preset" "$@" && { cmake --build "build/$preset" -j "$jobs" -- -k || echo "BUILD FAILED"; }
}

run_tests() { # PRESET [CTest option…]: all tests of a build
    preset=$1
    shift
    test -d "build/$preset" || { echo "build/$preset is not there"; return 1; }
    ctest --test-dir "build/$preset" --verbose --no-tests=error -j "$jobs" "$@"
    status=$?
    count_tests "build/$preset/Testing/Temporary/LastTest.log" >"$logs/$name.counts"
    ! grep -q '^BUILD FAILED$' "$logs/$name.log" && return $status
}

with_gcc() {
    build release && run_tests release
}

with_clang() {
    have clang || skip "clang is not installed"
    build clang && QKV_QUICK=1 run_tests clang
}

with_asan() {
    build asan && QKV_QUICK=1 ASAN_OPTIONS=detect_stack_use_after_return=1 run_tests asan
}

with_tsan() { # the tests that start threads
    build tsan && QKV_QUICK=1 TSAN_OPTIONS=halt_on_error=1 \
        run_tests tsan -R 'harness|same_bits|test_layer$|test_gradients|why_projections'
}

with_aarch64() {
    test "$(uname -m)" = x86_64 || skip "cross build and qemu are set up for x86-64 hosts only"
    have aarch64-linux-gnu-gcc || skip "aarch64-linux-gnu-gcc is not installed"
    have qemu-aarch64 || have qemu-aarch64-static || skip "qemu-user is not installed"
    test -e build/aarch64-deps/usr/include/cmocka.h || skip "libcmocka for arm64 could not be fetched"
    build aarch64 && QKV_QEMU=1 QKV_QUICK=1 run_tests aarch64
}

with_one_set() { # every test with this kernel set alone
    test -x build/release/qkv-info || { echo "build/release is not there"; return 1; }
    QKV_ISA=$1 build/release/qkv-info >/dev/null || skip "$1: $(QKV_ISA=$1 build/release/qkv-info 2>&1 | tail -n 1)"
    QKV_ISA=$1 QKV_QUICK=1 run_tests release
}

# The tests of the bits against a library that one line built, themselves built without CMake.
with_one_line() { # COMPILER
    have "$1" || skip "$1 is not installed"
    dir=build/oneline-$1
    sh scripts/check/oneline.sh "$dir" "$1" || return 1
    mkdir -p "$dir/harness"
    for source in tests/harness.c tests/harness_memory.c tests/oracle*.c; do
        object=$dir/harness/$(basename "$source" .c).o
        "$1" -O2 -D_GNU_SOURCE -Iinclude -Isrc -Itests -c "$source" -o "$object" || return 1
    done
    ls tests/kernels/test_*.c tests/functions/test_*.c tests/ops/test_attention*.c |
        CC=$1 DIR=$dir xargs -P "$jobs" -I '{}' sh -c '
            program=$DIR/$(basename "{}" .c)
            $CC -O2 -D_GNU_SOURCE -Iinclude -Isrc -Itests "{}" "$DIR"/harness/*.o "$DIR/libqkv.a" \
                -lcmocka -lpthread -lm -o "$program" && QKV_QUICK=1 "$program" >"$program.log" 2>&1
            status=$?
            cat "$program.log"
            test $status = 0 && echo "PASSED: {}" || echo "FAILED: {}"'
    p=$(grep -c '^PASSED: ' "$logs/$name.log") f=$(grep -c '^FAILED: ' "$logs/$name.log")
    echo "$p $f 0" >"$logs/$name.counts"
    test "$f" = 0 && test "$p" -gt 0
}

aarch64_symbols() {
    test -e build/aarch64/libqkv.a || skip "there is no build for AArch64"
    CC=aarch64-linux-gnu-gcc NM=aarch64-linux-gnu-nm OBJDUMP=aarch64-linux-gnu-objdump \
        sh scripts/check/symbols.sh build/aarch64/libqkv.a
}

benchmarks() { # each checks its result before it is timed; here the time does not matter
    test -x build/release/qkv-info || { echo "build/release is not there"; return 1; }
    test -x build/release/bench/qkv-bench || skip "Google Benchmark is not installed"
    build/release/bench/qkv-bench --quick --benchmark_min_time=0.01
}

encoder() { # ends with a line like ours
    sh tests/encoder/run.sh
    status=$?
    sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$logs/$name.log" | tail -n 1 \
        >"$logs/$name.counts"
    return $status
}

torch() { # gradients against PyTorch's autograd
    test -x build/release/tests/torch_parity || { echo "build/release is not there"; return 1; }
    have python3 || skip "python3 is not installed"
    python3 -c 'import torch' 2>/dev/null || skip "PyTorch is not installed: no comparison with its autograd (60 cases)"
    python3 tests/torch/test_autograd.py build/release/tests/torch_parity
    status=$?
    sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$logs/$name.log" | tail -n 1 \
        >"$logs/$name.counts"
    return $status
}

stage packages sh scripts/packages.sh test
stage tree sh scripts/check/tree.sh
stage headers sh scripts/check/headers.sh
stage gcc with_gcc
stage selftest build/release/qkv-info --selftest
stage symbols sh scripts/check/symbols.sh
stage isa sh scripts/check/isa.sh
stage stack sh scripts/check/stack.sh
stage spills sh scripts/check/spills.sh
stage freestanding sh scripts/check/freestanding.sh
stage readme sh scripts/check/readme.sh
stage consumers sh scripts/check/consumers.sh
stage encoder encoder
stage torch torch
stage peak sh scripts/check/peak.sh
stage bench benchmarks
stage oneline-gcc with_one_line gcc
stage oneline-clang with_one_line clang
stage clang with_clang
for set in ref avx2 avx512 neon; do
    stage set-$set with_one_set $set
done
stage fuzz sh scripts/check/fuzz.sh
stage asan with_asan
stage tsan with_tsan
stage aarch64 with_aarch64
stage symbols-aarch64 aarch64_symbols

# --------------------------------------------------------------------------------------------------- the summary

seconds=$(($(date +%s) - begin))
echo
echo "Summary"
cat "$logs/table" 2>/dev/null
if [ -s "$logs/skips" ]; then
    echo
    echo "Skipped"
    sort -u "$logs/skips"
fi
echo
echo "Total time: $((seconds / 60)) min $((seconds % 60)) s on $jobs processors"
echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0 && test $passed -gt 0
