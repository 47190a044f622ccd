#!/bin/sh
# 100,000 random descriptors of every operation under libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, always
# the same ones: tests/fuzz/fuzz_descriptors.c. As many lives of a KV cache, whole and damaged: tests/fuzz/fuzz_cache.c.
#   sh scripts/check/fuzz.sh [RUNS] [SEED]
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
runs=${1:-100000} seed=${2:-1} dir=build/fuzz
rm -rf "$dir/objects" && mkdir -p "$dir/objects" || exit 1
rm -f "$dir"/crash-*
# shellcheck source=libfuzzer.sh
. scripts/check/libfuzzer.sh
sources=$(find src -name '*.c' | sort)
# Coverage without comparisons, which cost more than the rest: fields are drawn, not guessed.
flags='-std=c11 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all'
flags="$flags -fsanitize-coverage=inline-8bit-counters,pc-table"
for source in $sources; do
    object=$dir/objects/$(echo "$source" | tr / -).o
    case $source in # vector kernels take minutes to instrument; tests with guard pages watch them
    src/kernels/* | src/ref/*) echo "$clang -std=c11 -O1 -g -Iinclude -c $source -o $object" ;;
    *) echo "$clang $flags -Iinclude -c $source -o $object" ;;
    esac
done | xargs -P "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)" -I '{}' sh -c '{}' || exit 1
failed=0
for program in fuzz_cache fuzz_descriptors; do
    # shellcheck disable=SC2086  # words
    $clang $flags -D_GNU_SOURCE -Iinclude -Isrc -c tests/fuzz/$program.c -o "$dir/$program.o" &&
        $clang -fsanitize=fuzzer,address,undefined "$dir/$program.o" "$dir"/objects/*.o -o "$dir/$program" || exit 1
    pids=''
    for part in 1 2; do
        mkdir -p "$dir/corpus$part" && rm -f "$dir/corpus$part"/*
        ASAN_OPTIONS=quarantine_size_mb=4 UBSAN_OPTIONS=print_stacktrace=1 "$dir/$program" \
            -runs=$((runs / 2)) -seed=$((seed * 2 + part)) -max_len=256 -len_control=0 -entropic=0 -timeout=60 \
            -artifact_prefix="$dir/" "$dir/corpus$part" >"$dir/$program.log$part" 2>&1 &
        pids="$pids $!"
    done
    for pid in $pids; do
        wait "$pid" || failed=1
    done
    tail -n 30 "$dir/$program.log1" "$dir/$program.log2"
done
exit $failed
