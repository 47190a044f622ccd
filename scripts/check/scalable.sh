#!/bin/sh
# The kernel sets for vectors without a fixed size, at vectors of 128, 256 and 512 bits by qemu: sve and rvv against
# the reference. Tests of kernels at every length; at 256 bits those of packed weights, exp2 over its whole range,
# and attention and layers against the reference. cmocka for these machines is not needed: tests/bare stands in for it.
#
#   sh scripts/check/scalable.sh [sve] [rvv]
#
# SVE is compiled by aarch64-linux-gnu-gcc, V by zig (scripts/compilers.sh), both without an option that names the
# extension. Ends with "N passed, N failed, N skipped"; the exit status is 1 if anything failed, 77 if nothing ran.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
out=build/scalable
mkdir -p $out

at_one_length='test_packed_kernels test_exp2 test_exp2_for_bf16 test_same_bits test_bits'
at_all_lengths=$(ls tests/kernels/test_*.c | sed 's:.*/\(.*\)\.c:\1:' | grep -v '^test_packed_kernels$')

# One source into FOLDER: "zig cc -c" takes no more at a time.
cat >$out/compile <<'SCRIPT'
folder=$1 source=$2
shift 2
case $source in
src/kernels/*/*) level=-O2 ;; # as people build what is tested here
*) level=-O1 ;;
esac
"$@" -std=c11 $level -D_GNU_SOURCE -Itests/bare -Itests -Iinclude -Isrc -c "$source" \
    -o "$folder/$(basename "$source" .c).o" || { echo "FAILED: $source"; exit 255; }
SCRIPT

# One program at one length: a line "LENGTH TEST STATUS PASSED FAILED" for the sum.
cat >$out/run <<'SCRIPT'
folder=$1 set=$2 length=$3 test=$4
case $set in
sve) emulator="qemu-aarch64 -cpu max,sve-max-vq=$((length / 128))" ;;
rvv) emulator="qemu-riscv64 -cpu rv64,v=true,vlen=$length,elen=64,rvv_ta_all_1s=true,rvv_ma_all_1s=true" ;;
esac
log=$folder/$test.$length.log
QKV_ISA=$set QKV_QEMU=1 QKV_QUICK=1 $emulator "$folder/$test" >"$log" 2>&1 </dev/null
status=$?
grep -q "^kernel sets: $set tested" "$log" || { status=1; echo "$set has not been tested" >>"$log"; }
passed=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p' "$log")
failed=$(sed -nE 's/^\[  FAILED  \] ([0-9]+) test.*/\1/p' "$log")
test $status = 0 || { failed=${failed:-1}; tail -n 30 "$log" >&2; }
echo "$length $test $status ${passed:-0} ${failed:-0}" >>"$folder/results"
SCRIPT

check() { # SET EMULATOR COMPILER [OPTION…]
    set=$1 emulator=$2 folder=$out/$1
    shift 2
    for tool in "$emulator" "$1"; do
        command -v "$tool" >/dev/null || { echo "skipped: $set: ${tool##*/} is not installed"; return; }
    done
    rm -rf "$folder" && mkdir -p "$folder" || return
    ls src/*.c src/*/*.c src/*/*/*.c tests/harness.c tests/harness_memory.c tests/harness_posix.c tests/oracle*.c \
        tests/bare/cmocka_bare.c tests/kernels/test_*.c tests/functions/test_exp2*.c tests/promises/test_bits.c \
        tests/promises/test_same_bits.c |
        xargs -P "$jobs" -I '{}' sh $out/compile "$folder" '{}' "$@" || { echo "0 x 1 0 1" >"$folder/results"; return; }
    objects=$(ls "$folder"/*.o | grep -v '/test_')
    for test in $at_one_length $at_all_lengths; do
        # shellcheck disable=SC2086  # words
        "$@" -static "$folder/$test.o" $objects -o "$folder/$test" -lpthread -lm ||
            echo "0 $test 1 0 1" >>"$folder/results"
    done
    {
        for test in $at_one_length; do echo "256 $test"; done
        for length in 512 256 128; do
            for test in $at_all_lengths; do echo "$length $test"; done
        done
    } | xargs -P "$jobs" -n 2 sh $out/run "$folder" "$set"
    awk -v set="$set" '
        { p[$1] += $4; f[$1] += $5; if ($3) print set ", " $1 " bits: " $2 " failed" }
        END { for (length_ in p) print set ", " length_ " bits: " p[length_] " passed, " f[length_] " failed" }' \
        "$folder/results"
}

rm -f $out/*/results
for set in ${*:-sve rvv}; do
    case $set in
    sve) check sve qemu-aarch64 aarch64-linux-gnu-gcc ;;
    rvv)
        zig=$(sh scripts/compilers.sh find zig | tail -n 1)
        test -x "$zig" || { echo "skipped: rvv: $zig"; continue; }
        check rvv qemu-riscv64 "$zig" -target riscv64-linux-musl
        ;;
    *) echo "skipped: $set: not known" ;;
    esac
done
test -n "$(ls $out/*/results 2>/dev/null)" || { echo "neither set could be tested here"; exit 77; }
cat $out/*/results | awk '{ p += $4; f += $5 } END { print p + 0 " passed, " f + 0 " failed, 0 skipped"; exit f > 0 }'
