#!/bin/sh
# Tests examples/mpi: the bits of one machine on 1 to 8 ranks, forward and backward; bytes moved are those of the
# formulas in its README.md; memory of a rank shrinks with their number; dead and stopped ranks end in a message.
#   sh tests/mpi/run.sh [BUILD_DIR]
#
# BUILD_DIR (default build/release) holds libqkv.a. The program is compiled here, by mpicc. Ends with "N passed,
# N failed, N skipped"; the exit status is 1 if anything failed, 77 if nothing could run.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:-build/release}
sh scripts/packages.sh mpi || {
    echo "Open MPI is not installed (Debian: libopenmpi-dev, openmpi-bin): examples/mpi is not tested"
    exit 77
}
test -e "$build/libqkv.a" || { echo "$build/libqkv.a is not there"; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
. scripts/check/judge.sh
log=$work/out skipped=0

# More ranks than processors, on this machine alone, be it by root in a container. Messages are copied twice by way of
# shared memory rather than once by a system call that containers forbid; networks are not looked for.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_pml=ob1
export OMPI_MCA_plm=isolated

ranks() { # N OPTION…: what it prints goes to $work/out
    n=$1
    shift
    timeout -k 5 100 mpirun -n "$n" "$work/context_parallel" "$@" >"$work/out" 2>&1 </dev/null
}

same_bits() { # N OPTION…
    ranks "$@" && grep -q '^the same bits as on one machine' "$work/out"
    status=$?
    shift
    judge $status "$n rank$(test "$n" = 1 || echo s), the bits of one machine: $*"
}

says() { # PATTERN
    grep -Eq -e "$1" "$work/out"
}

OMPI_CC=${CC:-cc} mpicc -std=c11 -O1 -Wall -Wextra -Wpedantic -Werror -Iinclude -Iadapters/pthreads -Iexamples/common \
    examples/mpi/*.c examples/common/support.c "$build/libqkv.a" -lpthread -lm -o "$work/context_parallel" \
    >"$work/out" 2>&1
judge $? "mpicc compiles it without a warning"
test -x "$work/context_parallel" || { echo "$passed passed, $failed failed, $skipped skipped"; exit 1; }

# ---------------------------------------------------------------------------------------------------------- bits

for n in 1 2 3 4 8; do
    # 10 blocks, the last one short, queries in chunks that end anywhere
    same_bits $n --tokens 2500 --heads 4 --kv-heads 2 --causal --backward --chunk 192
    # odd widths, all see all, the heads of a group on their own ways
    same_bits $n --tokens 1337 --heads 3 --kv-heads 1 --head-dim 33 --head-dim-v 17 --backward
    # every option that changes logits; windows leave out ranks at both ends
    same_bits $n --tokens 2100 --heads 4 --kv-heads 2 --head-dim 32 --causal --window 600 --softcap 15 --sinks --alibi \
        --backward
done
same_bits 4 --tokens 3000 --heads 2 --kv-heads 2 --causal --backward --balance
same_bits 3 --tokens 2048 --heads 2 --kv-heads 2 --window 300 --backward                  # sees all that comes after it
same_bits 4 --tokens 3000 --queries 3 --heads 8 --kv-heads 2 --causal --backward          # decoding: most have no query
same_bits 8 --tokens 600 --heads 2 --kv-heads 1 --causal --backward                       # most have no key
same_bits 8 --tokens 1 --heads 2 --kv-heads 1 --backward
same_bits 4 --tokens 2000 --heads 4 --kv-heads 1 --backward --slots 1 --chunk 64
same_bits 4 --tokens 2000 --heads 4 --kv-heads 1 --causal --backward --slots 8 --chunk 512
same_bits 4 --tokens 2048 --heads 8 --kv-heads 1 --chunk 128 # results return while an attention is half done
same_bits 2 --tokens 700 --heads 2 --kv-heads 1 --head-dim 16 --causal --backward --isa ref
same_bits 2 --tokens 1500 --heads 2 --kv-heads 1 --causal --backward --isa portable

# --------------------------------------------------------------------------------------------- bytes and memory

# Of README.md: 4·H·(D + Dv + 2)·(R² − 1)/R forward and 4·H·(2·D + 2·Dv + 1)·(R² − 1)/R backward, where all see all.
ranks 4 --tokens 2048 --heads 4 --kv-heads 2 --backward --no-check &&
    says '^forward: .* 7800 bytes moved per query, 7800 computed' &&
    says '^backward: .* 15420 bytes moved per query, 15420 computed'
judge $? "full attention on 4 ranks moves 7800 bytes a query forward, 15420 backward"

# Causal: a query visits the ranks up to its own, 4·H·((R − 1)/R·D + (R − 1)/2·(D + Dv + 2)).
ranks 4 --tokens 4096 --heads 4 --kv-heads 2 --causal --no-check &&
    says '^forward: .* 3888 bytes moved per query, 3888 computed'
judge $? "causal attention on 4 ranks moves 3888 bytes a query"

most_memory() {
    sed -n 's/^memory of each rank.*the most is \([0-9]*\) bytes a key$/\1/p' "$work/out"
}
ranks 1 --tokens 8192 --heads 2 --kv-heads 2 --causal --window 256 --backward --no-check
one=$(most_memory)
ranks 8 --tokens 8192 --heads 2 --kv-heads 2 --causal --window 256 --backward --no-check
eight=$(most_memory)
ranks 8 --tokens 16384 --heads 2 --kv-heads 2 --causal --window 256 --backward --no-check
twice=$(most_memory)
echo "bytes of a rank a key: $one on one rank, $eight on 8, with twice as many keys $twice on 8"
# Twice the keys on 8 ranks: what does not grow is spread over more, what grows stays below 1/8 of the whole.
test -n "$one" && test -n "$eight" && test -n "$twice" && test "$twice" -lt "$eight" &&
    test $((2 * twice - eight)) -le $((one / 8 + 16))
judge $? "memory of a rank is an eighth of the whole, and a rest that does not grow"

# --------------------------------------------------------------------------------------------- ranks that are gone

long='--tokens 6000 --heads 4 --kv-heads 2 --timeout 1 --no-check'

in_time() { # LIMIT N OPTION…: whether it ends within so many seconds
    limit=$1
    shift
    start=$(date +%s)
    ranks "$@"
    status=$?
    test $(($(date +%s) - start)) -le "$limit"
}

# shellcheck disable=SC2086  # words
{
    in_time 20 4 $long --die 2@3 && test $status != 0 && says 'rank 2 .*exited on signal 9'
    judge $? "a killed rank: the launcher ends all, and says which one it was"

    # A launcher that lets the others live, as one that can't see the death: they find out.
    export OMPI_MCA_orte_enable_recovery=1
    in_time 30 4 $long --die 2@3 && says 'No answer from rank 2: dead, stopped or cut off'
    judge $? "a killed rank that nobody reports: the others name it and end"
    unset OMPI_MCA_orte_enable_recovery

    in_time 30 4 $long --stop 1@3 && test $status = 3 && says 'No answer from rank 1: dead, stopped or cut off'
    judge $? "a rank that is stopped: the others name it and end with status 3"
    ! says 'No answer from rank [023]'
    judge $? "… and name no other, though rank 3 waits for rank 2"
}

# Rank 0 computes the whole, which takes longer than the others' patience: they ask, and go on waiting.
same_bits 3 --tokens 6000 --heads 8 --kv-heads 4 --causal --backward --timeout 0.5

ranks 2 --chunk 100
test $? != 0 && test "$(grep -c 'chunk is no multiple of 64' "$work/out")" = 1
judge $? "wrong options are refused, once"
ranks 2 --help && test "$(grep -c '^usage: ' "$work/out")" = 1
judge $? "--help is printed, once"

# --------------------------------------------------------------------------------------------------------- CMake

if command -v cmake >/dev/null 2>&1; then
    cmake -S . -B "$work/cmake" -DQKV_BUILD_TESTS=OFF -DQKV_BUILD_BENCH=OFF -DQKV_BUILD_TOOLS=OFF >"$work/out" 2>&1 &&
        cmake --build "$work/cmake" --target help >>"$work/out" 2>&1 && says '\.\.\. context_parallel$'
    judge $? "CMake finds MPI and has the target"
else
    skipped=$((skipped + 1))
    echo "skipped: examples/mpi by CMake: cmake is not installed"
fi

echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0
