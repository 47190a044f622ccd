#!/bin/sh
# Installs what the tests need, then builds and runs everything that must pass: many compilers, sanitizers, every kernel
# set, other architectures under qemu, the promises about the library as a file, and whoever uses it. Logs lie in
# build/logs.
#
#   sh scripts/test.sh [STAGE…]      those whose name begins with an argument; else all but matrix and cross
#   sh scripts/test.sh matrix cross  the library by eight compilers, and for twenty other targets: about half an hour
#   sh scripts/test.sh --list        their names, and the minutes of one processor that each takes
#
# Two stages run at a time, because many keep one processor busy only; each says its line when it ends. The last line is
# "N passed, N failed, N skipped"; the exit status is 1 if anything failed. Without what the tests can't do without it
# says how to install that, and stops; what only some stages need is skipped, and said.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/.." || exit 1
logs=$PWD/build/logs
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
wanted=$*
begin=$(date +%s)

# ---------------------------------------------------------------------------------------------- the stages' frame

# They take longer than all others together; those see both compilers of this system and two architectures.
is_extra() {
    case $1 in matrix-* | cross-*) return 0 ;; esac
    return 1
}

is_wanted() {
    if test -z "$wanted"; then
        ! is_extra "$1"
        return
    fi
    for prefix in $wanted; do
        case $1 in "$prefix"*) return 0 ;; esac
    done
    return 1
}

wants_cross() {
    for target in $(stage_names | grep '^cross-'); do is_wanted "$target" && return 0; done
    return 1
}

stages_below() { # names and seconds, as they stand below
    sed -nE 's/^ *stage ([a-z0-9_-]+) ([0-9]+) .*/\1 \2/p' scripts/test.sh
}

stage_names() {
    stages_below | cut -d ' ' -f 1
}

# What a stage is at, every half minute, for people and for machines that end what is silent.
progress() { # NAME LOG
    waited=0
    while sleep 30 >/dev/null 2>&1; do
        waited=$((waited + 30))
        at=$(grep -aE '^ *[0-9]+/[0-9]+ Test +#|^\[ *[0-9]+%\]|^(ok|PASSED|FAILED)' "$2" | tail -n 1 | tr -s ' .' ' ')
        test -n "$at" || at=$(tail -n 1 "$2")
        printf '  %s, %d s: %.90s\n' "$1" $waited "$at"
    done
}

# Processor seconds of everything that has been waited for. In no subshell, whose children are others.
cpu_seconds() { # FILE, to write to
    times >"$1"
    cpu=$(awk 'NR == 2 { split($1, u, /[ms]/); split($2, s, /[ms]/); print int(60 * (u[1] + s[1]) + u[2] + s[2]) }' \
        "$1")
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

# stage NAME SECONDS COMMAND…: SECONDS of one processor, roughly. Status 77 means skipped, with the reason as the last
# line. A stage that leaves "passed failed skipped" in NAME.counts counts for more than one.
stage() {
    test "$1" = "$name" || return 0
    shift 2
    log=$logs/$name.log
    start=$(date +%s)
    : >"$log"
    progress "$name" "$log" </dev/null &
    watch=$!
    trap 'kill $watch 2>/dev/null' EXIT
    trap 'exit 130' INT TERM
    ("$@") >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(($(date +%s) - start))
    cpu_seconds "$logs/$name.times"
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
    {
        result_line "$name" $result "$p" "$f" "$s" $seconds "$cpu"
        if [ $result = FAILED ]; then
            echo "---- the end of build/logs/$name.log:"
            test "$(wc -l <"$log")" -le 25 ||
                grep -nE '\[  FAILED|\*\*\*Failed|\*\*\*Not Run|ERROR|error:' "$log" | head -n 20
            tail -n 25 "$log"
            echo "----"
        fi
    } >"$logs/$name.said"
    cat "$logs/$name.said" # at once, as another stage may speak too
    head -n 1 "$logs/$name.said" >"$logs/$name.result"
}

result_line() { # NAME RESULT PASSED FAILED SKIPPED SECONDS CPU
    printf '%-22s %-8s %6d passed %4d failed %4d skipped %6d s, CPU %5d s\n' "$@"
}

# Waits for the end of a stage that stands before this one, if it runs.
after() { # NAME
    test ! -e "$logs/$1.log" || until test -e "$logs/$1.result"; do sleep 1; done
}

skip() {
    echo "$*"
    exit 77
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# ---------------------------------------------------------------------------------------------------- the stages

build() { # PRESET [CMake option…]: of that all, or what the variable targets names
    preset=$1
    shift
    # A build folder that came with a copy of the tree is of no use here.
    grep -qsxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "build/$preset/CMakeCache.txt" || rm -rf "build/$preset"
    # What does not compile is one failure; the rest is built and run all the same.
    # shellcheck disable=SC2086  # words
    cmake --preset "$preset" "$@" &&
        { cmake --build "build/$preset" -j "$jobs" ${targets:+--target $targets} -- -k || echo "BUILD FAILED"; }
}

# The library, its tools and its tests as GCC builds them, for stages that look at it or link with it: up to date,
# whichever stage comes first; others wait for it.
need_release() {
    if mkdir "$logs/release" 2>/dev/null; then
        build release >"$logs/release.log" 2>&1 && : >"$logs/release/good"
        : >"$logs/release/ended"
    fi
    until test -e "$logs/release/ended"; do sleep 1; done
    test -e "$logs/release/good" || { tail -n 30 "$logs/release.log"; return 1; }
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

# Adds up what several runs of a stage counted.
add_counts() { # FILE…
    cat "$@" | awk '{ p += $1; f += $2; s += $3 } END { print p, f, s }' >"$logs/$name.sum"
    mv "$logs/$name.sum" "$logs/$name.counts"
}

kernel_tests() { # as a regular expression: those of kernels and their functions
    ls tests/kernels/test_*.c tests/functions/test_*.c | sed 's:.*/\(.*\)\.c:^\1$:' | paste -s -d '|' -
}

# Kernels on all sets, everything else on the fastest one, which it compares with the reference; and on that what is
# said of a set by itself. Above the kernel table the code is the same whatever the set.
with_gcc() {
    need_release || return 1
    cat "$logs/release.log"
    failures=0
    echo "kernels on all sets:"
    run_tests release -R "$(kernel_tests)" || failures=1
    mv "$logs/$name.counts" "$logs/$name.first"
    set=$(fastest_set build/release/qkv-info)
    echo "everything else on $set:"
    (export QKV_ISA="$set" && run_tests release -E "$(kernel_tests)") || failures=1
    mv "$logs/$name.counts" "$logs/$name.second"
    echo "and on ref:"
    (export QKV_ISA=ref QKV_QUICK=1 && run_tests release -R 'test_(same_bits|visibility|windows|sinks|sizes|bits)$') ||
        failures=1
    mv "$logs/$name.counts" "$logs/$name.third"
    add_counts "$logs/$name.first" "$logs/$name.second" "$logs/$name.third"
    return $failures
}

# The fastest kernel set of this CPU. All builds but GCC's run the tests on it alone: above the kernel table the code is
# the same whatever the set, and the matrix tests the kernels of all sets by all compilers.
fastest_set() { # PROGRAM…: qkv-info, behind an emulator if it needs one
    "$@" | sed -nE 's/^ +([a-z0-9]+) +selected.*/\1/p'
}

on_fastest_set() { # PRESET SET [CTest option…]
    preset=$1 set=$2
    shift 2
    test -n "$set" || { echo "no kernel set is selected"; return 1; }
    echo "all tests on $set:"
    QKV_ISA=$set QKV_QUICK=1 run_tests "$preset" "$@"
}

# The same where sets are emulated that differ in products in 8 bits and bfloat16 only: those by all.
on_set_and_variants() { # PRESET SET [CTest option…]
    on_fastest_set "$@"
    status=$?
    mv "$logs/$name.counts" "$logs/$name.first"
    echo "products in 8 bits on all sets:"
    QKV_QUICK=1 run_tests "$1" -R '^test_(packed_kernels|int8)$' || status=1
    mv "$logs/$name.counts" "$logs/$name.second"
    add_counts "$logs/$name.first" "$logs/$name.second"
    return $status
}

# Options that let the reference use the CPU's fma, in place of one in integers that takes most of a test's time. GCC's
# build and the matrix test that one.
reference_fma() { # BUILD-TYPE OPTIONS-OF-THAT-TYPE
    if test "$(uname -m)" = x86_64 && grep -qw fma /proc/cpuinfo 2>/dev/null; then
        echo "-DCMAKE_C_FLAGS_$1=$2 -mfma"
    else
        echo "-DCMAKE_C_FLAGS_$1=$2"
    fi
}

with_clang() {
    have clang || skip "clang is not installed"
    # its benchmarks are compiled only
    build clang "$(reference_fma RELEASE '-O3 -DNDEBUG')" -DCMAKE_CXX_FLAGS_RELEASE=-O1 &&
        on_fastest_set clang "$(fastest_set build/clang/qkv-info)"
}

with_asan() {
    export ASAN_OPTIONS=detect_stack_use_after_return=1
    build asan "$(reference_fma DEBUG -g)" && on_fastest_set asan "$(fastest_set build/asan/qkv-info)" || return 1
    mv "$logs/$name.counts" "$logs/$name.first"
    echo "kernels on ref:"
    QKV_ISA=ref QKV_QUICK=1 run_tests asan -R "$(kernel_tests)"
    status=$?
    mv "$logs/$name.counts" "$logs/$name.second"
    add_counts "$logs/$name.first" "$logs/$name.second"
    return $status
}

with_tsan() { # the tests that start threads; a race shows in few cases
    export TSAN_OPTIONS=halt_on_error=1
    targets='harness_selftest test_same_bits test_layer test_gradients test_pthreads why_projections'
    targets="$targets qkv-info" build tsan "$(reference_fma DEBUG -g)" &&
        QKV_QEMU=1 on_fastest_set tsan "$(fastest_set build/tsan/qkv-info)" -R "^($(echo $targets | tr ' ' '|'))\$"
}

with_emulated_avx512() {
    need_release || return 1
    case $(build/release/qkv-info 2>/dev/null) in
    *"missing: "*avx512*) ;;
    *) skip "the CPU has AVX-512 itself, or is no x86-64" ;;
    esac
    echo '#include <simde/x86/avx512.h>' | cc -x c -E - >/dev/null 2>&1 || skip "SIMDe is not installed"
    build emulated "$(reference_fma RELEASE '-O3 -DNDEBUG')" && QKV_QEMU=1 on_set_and_variants emulated avx512bf16
}

with_aarch64() {
    test "$(uname -m)" = x86_64 || skip "cross build and qemu are set up for x86-64 hosts only"
    have aarch64-linux-gnu-gcc || skip "aarch64-linux-gnu-gcc is not installed"
    have qemu-aarch64 || have qemu-aarch64-static || skip "qemu-user is not installed"
    test -e build/aarch64-deps/usr/include/cmocka.h || skip "libcmocka for arm64 could not be fetched"
    # what examples and adapters do is seen natively; under emulation their speed tables and teams take minutes
    build aarch64 && QKV_QEMU=1 on_set_and_variants aarch64 i8mm -E '^(engine|test_pthreads|test_openmp)$'
}

with_one_set() { # chosen by name, as a user would
    need_release || return 1
    QKV_ISA=$1 build/release/qkv-info >/dev/null || skip "$1: $(QKV_ISA=$1 build/release/qkv-info 2>&1 | tail -n 1)"
    QKV_ISA=$1 build/release/qkv-info --selftest
}

# The tests of attention, linked with the library that one line built; the matrix tests the kernels like that.
with_one_line() { # COMPILER
    have "$1" || skip "$1 is not installed"
    need_release || return 1
    dir=build/oneline-$1
    sh scripts/check/oneline.sh "$dir" "$1" || return 1
    for test in test_attention test_attention_backward; do echo $test; done |
        DIR=$dir xargs -P "$jobs" -I '{}' sh -c '
            program=$DIR/{}
            cc build/release/tests/CMakeFiles/{}.dir/*/*.o build/release/tests/libqkv_test_harness.a \
                "$DIR/libqkv.a" -lcmocka -lpthread -lm -o "$program" && QKV_QEMU=1 "$program" >"$program.log" 2>&1
            status=$?
            cat "$program.log"
            test $status = 0 && echo "PASSED: {}" || echo "FAILED: {}"'
    p=$(grep -c '^PASSED: ' "$logs/$name.log") f=$(grep -c '^FAILED: ' "$logs/$name.log")
    echo "$p $f 0" >"$logs/$name.counts"
    test "$f" = 0 && test "$p" -gt 0
}

aarch64_symbols() {
    after aarch64
    test -e build/aarch64/libqkv.a || skip "there is no build for AArch64"
    CC=aarch64-linux-gnu-gcc NM=aarch64-linux-gnu-nm OBJDUMP=aarch64-linux-gnu-objdump \
        sh scripts/check/symbols.sh build/aarch64/libqkv.a
}

benchmarks() { # each checks its result before it is timed; here the time does not matter
    need_release || return 1
    test -x build/release/bench/qkv-bench || skip "Google Benchmark is not installed"
    build/release/bench/qkv-bench --quick --benchmark_min_time=0.01
}

counted() { # COMMAND…: ends with a line like ours
    "$@"
    status=$?
    sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$logs/$name.log" | tail -n 1 \
        >"$logs/$name.counts"
    return $status
}

integration() { # programs of docs/integration.md; toolchains that are not there are skips
    need_release || return 1
    sh scripts/packages.sh languages || echo "go on with the toolchains that are there"
    counted sh scripts/check/integration.sh build/release
}

embedded() { # images for microcontrollers, run
    sh scripts/packages.sh embedded || echo "go on with the targets that are there"
    counted sh tests/embedded/run.sh
}

encoder() {
    need_release && counted sh tests/encoder/run.sh
}

generate() { # in the Python environment of the encoder's tests
    after encoder
    need_release && counted sh tests/generate/run.sh
}

mpi() { # examples/mpi on up to eight ranks; asks for Open MPI itself
    need_release && counted sh tests/mpi/run.sh build/release
}

matrix() { # compiler NAME | cross TARGET
    case $1 in
    compiler) need_release || return 1 ;;
    esac
    counted sh scripts/matrix.sh "$@"
}

on_release() { # COMMAND…: looks at build/release
    need_release && "$@"
}

torch() { # gradients against PyTorch's autograd; the package's tests have installed it, where they could
    after python
    need_release || return 1
    interpreter=build/python/hosts/bin/python
    test -x $interpreter || interpreter=python3
    have $interpreter || skip "python3 is not installed"
    $interpreter -c 'import torch' 2>/dev/null ||
        skip "PyTorch is not installed: no comparison with its autograd (60 cases)"
    counted $interpreter tests/torch/test_autograd.py build/release/tests/torch_parity
}
ggml() { # the adapter in llama.cpp's
    sh scripts/packages.sh llama >/dev/null 2>&1 || skip "a C++ compiler or pip is missing: no ggml to test in"
    counted sh tests/ggml/run.sh
}

python() { # the package, in environments of its own
    counted sh python/tests/run.sh
}

packaging() { # packages, a release, the manual page
    need_release || return 1
    counted sh scripts/check/packaging.sh build/release
}

abi() {
    need_release && counted sh scripts/check/abi.sh build/release
}

# Those that take long come first, so that at the end both processors are busy; one that waits for another comes late.
all_stages() {
    stage tree 5 sh scripts/check/tree.sh
    stage headers 5 sh scripts/check/headers.sh
    stage names 15 sh scripts/check/names.sh
    stage format 15 sh scripts/check/format.sh
    stage gcc 620 with_gcc
    stage asan 400 with_asan
    stage aarch64 620 with_aarch64
    stage python 220 python
    stage encoder 170 encoder
    stage scalable 170 counted sh scripts/check/scalable.sh
    stage consumers 310 sh scripts/check/consumers.sh
    stage tsan 180 with_tsan
    stage flags 225 sh scripts/check/flags.sh
    stage clang 180 with_clang
    stage packaging 140 packaging
    stage amalgamation 160 counted on_release sh scripts/check/amalgamation.sh
    stage profiles 110 counted sh scripts/profiles.sh test
    stage fuzz-readers 120 on_release sh scripts/check/fuzz_readers.sh
    stage avx512-emulated 120 with_emulated_avx512
    stage ggml 236 ggml
    stage generate 150 generate
    stage windows 60 counted sh tests/windows/run.sh
    stage clang-cl 30 counted sh scripts/check/clang_cl.sh
    stage byte-order 25 counted on_release sh scripts/check/byte_order.sh
    stage integration 40 integration # the first time zig compiles its translator of C: two minutes
    stage mpi 25 mpi
    stage wasm 90 counted sh tests/wasm/run.sh # zig compiles a C library, once: a minute more
    stage embedded 90 embedded
    stage stack 80 sh scripts/check/stack.sh
    stage spills 180 sh scripts/check/spills.sh
    stage fuzz 130 sh scripts/check/fuzz.sh
    stage freestanding 90 sh scripts/check/freestanding.sh
    stage oneline-gcc 55 with_one_line gcc
    stage oneline-clang 55 with_one_line clang
    stage symbols 25 on_release sh scripts/check/symbols.sh
    stage symbols-aarch64 20 aarch64_symbols
    stage torch 16 torch
    stage bench 12 benchmarks
    stage abi 10 abi
    stage peak 5 sh scripts/check/peak.sh
    stage selftest 5 on_release build/release/qkv-info --selftest
    stage isa 5 on_release sh scripts/check/isa.sh
    stage readme 5 on_release sh scripts/check/readme.sh
    stage help 5 on_release sh scripts/check/help.sh
    stage set-ref 5 with_one_set ref
    stage set-portable 5 with_one_set portable
    stage set-avx2 5 with_one_set avx2
    stage set-avxvnni 5 with_one_set avxvnni
    stage set-avx512 5 with_one_set avx512
    stage set-avx512bf16 5 with_one_set avx512bf16
    stage set-avx512vnni 5 with_one_set avx512vnni
    stage helium 150 counted sh tests/helium/run.sh
    stage set-neon 5 with_one_set neon
    stage set-sve 5 with_one_set sve
    stage set-rvv 5 with_one_set rvv
    stage set-i8mm 5 with_one_set i8mm
    stage set-dotprod 5 with_one_set dotprod
    stage matrix-gcc12 220 matrix compiler gcc-12
    stage matrix-gcc13 220 matrix compiler gcc-13
    stage matrix-gcc14 220 matrix compiler gcc-14
    stage matrix-clang14 220 matrix compiler clang-14
    stage matrix-clang17 220 matrix compiler clang-17
    stage matrix-clang19 220 matrix compiler clang-19
    stage matrix-clang22 220 matrix compiler clang-22
    stage matrix-zig 220 matrix compiler zig
    stage cross-wasm32 60 matrix cross wasm32 # zig compiles a C library, once
    stage cross-aarch64_be 60 matrix cross aarch64_be
    stage cross-i686 20 matrix cross i686
    stage cross-armhf 20 matrix cross armhf
    stage cross-armhf-neon 25 matrix cross armhf-neon
    stage cross-ppc64le 30 matrix cross ppc64le
    stage cross-ppc64 60 matrix cross ppc64
    stage cross-loongarch64 60 matrix cross loongarch64 # without vectors, which qemu 7.2 lacks
    stage cross-macos-arm64 30 matrix cross macos-arm64 # these six are built only: the first time zig compiles a libc
    stage cross-macos-x86_64 60 matrix cross macos-x86_64
    stage cross-freebsd-arm64 60 matrix cross freebsd-arm64
    stage cross-openbsd-arm64 60 matrix cross openbsd-arm64
    stage cross-netbsd-arm64 60 matrix cross netbsd-arm64
    stage cross-windows-arm64 60 matrix cross windows-arm64
    stage cross-riscv64 20 matrix cross riscv64
    stage cross-s390x 20 matrix cross s390x
    stage cross-s390x-clang 20 matrix cross s390x-clang
}

case ${1:-} in
--stage) # NAME: how this script calls itself
    name=$2
    all_stages
    exit 0
    ;;
--list)
    stages_below | awk '{ printf "%-22s %4.1f\n", $1, $2 / 60 }'
    exit 0
    ;;
-*)
    sed -n '2,11s/^# \{0,1\}//p' scripts/test.sh >&2
    exit 2
    ;;
esac

chosen=$(for name in $(stage_names); do ! is_wanted "$name" || echo "$name"; done)
test -n "$chosen" || { echo "no stage begins with: $wanted (sh scripts/test.sh --list)"; exit 2; }
mkdir -p "$logs" && rm -rf "${logs:?}"/*
sh scripts/packages.sh test || exit 1
estimate=$(stages_below | awk -v chosen="$(echo "$chosen" | tr "\n" " ")" '
    BEGIN { split(chosen, name); for (i in name) wanted[name[i]] = 1 }
    $1 in wanted { sum += $2 }
    END { print int(sum / 120) + 1 }')
echo "$(echo "$chosen" | wc -l) stages, about $estimate minutes on two idle cores; this machine has $jobs processors"
for group in more cross; do # what single stages need: they say what they miss
    test $group = more || wants_cross || continue
    sh scripts/packages.sh $group >"$logs/packages-$group.log" 2>&1 || cat "$logs/packages-$group.log"
done

echo "$chosen" | xargs -P 2 -n 1 sh scripts/test.sh --stage

# --------------------------------------------------------------------------------------------------- the summary

for name in $chosen; do
    test -s "$logs/$name.result" || result_line "$name" FAILED 0 1 0 0 0 >"$logs/$name.result" # it was killed
    cat "$logs/$name.result"
done >"$logs/table"
if test -z "$wanted"; then # said and counted
    for name in $(stage_names); do
        ! is_extra "$name" || echo "$name: not asked for (sh scripts/test.sh matrix cross)"
    done | tee "$logs/extras" >>"$logs/skips"
fi
extras=$(cat "$logs/extras" 2>/dev/null | wc -l)
seconds=$(($(date +%s) - begin))
cpu_seconds "$logs/times"
echo
echo "Summary"
cat "$logs/table"
if [ -s "$logs/skips" ]; then
    echo
    echo "Skipped"
    sort -u "$logs/skips"
fi
echo
echo "Total time: $((seconds / 60)) min $((seconds % 60)) s on $jobs processors; CPU $((cpu / 60)) min," \
    "so about $((cpu / 120)) min on two idle cores"
awk -v extras="$extras" '{ p += $3; f += $5; s += $7 }
    END { printf "%d passed, %d failed, %d skipped\n", p, f, s + extras; exit f || !p }' "$logs/table"
