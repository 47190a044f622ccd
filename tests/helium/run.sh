#!/bin/sh
# The kernel set "helium" on an emulated Cortex-M55: its entries against the reference word for word, whole calls, and
# the self-test with the recorded hashes. Needs arm-none-eabi-gcc with newlib, and qemu-system-arm.
#
#   sh tests/helium/run.sh             ends with "N passed, N failed, N skipped"
#   sh tests/helium/run.sh counts      how many instructions take what, of each kernel set (docs/helium.md)
#
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1

sh scripts/packages.sh embedded || {
    echo "the compiler for Cortex-M, newlib or qemu-system-arm is missing"
    exit 77
}
newlib=/usr/include/newlib
test -e $newlib/inttypes.h || newlib=$(arm-none-eabi-gcc -print-sysroot)/include
compiler=arm-none-eabi-gcc
command -v ccache >/dev/null 2>&1 && compiler="ccache $compiler"
options="-mcpu=cortex-m55 -mthumb -mfloat-abi=hard -O2 -ffunction-sections -isystem $newlib -D_Thread_local="
link="tests/helium/start_an547.c --specs=rdimon.specs -nostartfiles -Wl,--gc-sections -Ttests/helium/an547.ld -lm"
folder=build/helium
mkdir -p $folder || exit 1

if [ "${1:-}" = counts ]; then
    # shellcheck disable=SC2086  # words
    $compiler $options -std=c11 -Iinclude -Isrc -DQKV_API= -ffreestanding tests/helium/counts.c \
        $(find src -name '*.c') $link -o $folder/counts.elf && ICOUNT=1 sh tests/helium/an547.sh $folder/counts.elf
    exit
fi

# What calls entries that are the set's own, and calls above them.
tests=$(ls tests/kernels/test_*.c tests/helium/test_*.c)
# shellcheck disable=SC2086  # words
TESTS="$tests tests/functions/test_exp2.c tests/functions/test_exp2_for_bf16.c tests/promises/test_bits.c
    tests/promises/test_same_bits.c" ARGUMENTS="--qemu --isa helium" LINK=$link \
    sh scripts/check/bare.sh $folder "sh tests/helium/an547.sh" $compiler $options >$folder.log 2>&1
sed '$d' $folder.log
passed=$(sed -nE '$s/^([0-9]+) passed, .*/\1/p' $folder.log)
failed=$(sed -nE '$s/.* ([0-9]+) failed, .*/\1/p' $folder.log)
skipped=$(sed -nE '$s/.* ([0-9]+) skipped$/\1/p' $folder.log)

# Random calls, and hashes of results that are the same on every CPU.
# shellcheck disable=SC2086  # words
$compiler $options -std=c11 -Iinclude -Isrc -Itools tools/qkv-info.c tools/selftest.c tools/golden.c $folder/qkv/*.o \
    $link -o $folder/qkv-info.elf &&
    sh tests/helium/an547.sh $folder/qkv-info.elf --selftest >$folder/selftest.log 2>&1
status=$?
tail -n 3 $folder/selftest.log
if [ $status = 0 ] && grep -q '^helium: .* all equal to ref$' $folder/selftest.log; then
    passed=$((passed + 1))
else
    failed=$((${failed:-0} + 1))
fi

# No compiler makes vectors of the other sets' floats: those would flush (src/config.h).
for source in src/kernels/portable/kernels_portable.c src/ref/ref.c; do
    # shellcheck disable=SC2086  # words
    vectors=$($compiler $options -O3 -std=c11 -Iinclude -Isrc -S -o - $source |
        grep -cE '^[[:space:]]v(add|sub|mul|fma|fms|neg|abs|cmp|cvt)[a-z]*\.f32.*\<q[0-7]')
    if [ "$vectors" = 0 ]; then
        passed=$((${passed:-0} + 1))
    else
        echo "$source: $vectors instructions with vectors of floats at -O3"
        failed=$((${failed:-0} + 1))
    fi
done
echo "${passed:-0} passed, ${failed:-1} failed, ${skipped:-0} skipped"
test "${failed:-1}" = 0
