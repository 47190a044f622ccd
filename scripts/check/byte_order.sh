#!/bin/sh
# Files of packed weights and KV caches on a big-endian machine, s390x under qemu: what it writes are the bytes that
# this machine writes, and from what either has written both compute the same bits.
#   sh scripts/check/byte_order.sh [BUILD]    a folder with libqkv.a (build/release)
# Ends with "N passed, N failed, N skipped".
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
library=${1:-build/release}/libqkv.a program=tests/byte_order/packed_file.c
cc=s390x-linux-gnu-gcc
test -s "$library" || { echo "$library is not there; build it first"; exit 1; }
command -v $cc >/dev/null || { echo "$cc is not installed"; exit 77; }
qemu=$(command -v qemu-s390x || command -v qemu-s390x-static) || { echo "qemu-s390x is not installed"; exit 77; }
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
mkdir "$work/objects" "$work/here" "$work/there"
. scripts/check/judge.sh

compiler=$(command -v ccache) # or nothing
for source in src/*.c src/*/*.c src/*/*/*.c; do echo "$source"; done |
    OUT=$work/objects xargs -P 2 -I '{}' sh -c '
        '"$compiler"' '$cc' -O1 -Wall -Wextra -Werror -Iinclude -c {} -o "$OUT/$(basename {} .c).o"' &&
    $cc -O1 -static -Iinclude $program "$work"/objects/*.o -o "$work/program-there" &&
    cc -O1 -Iinclude $program "$library" -o "$work/program-here"
judge $? "both programs build"

"$work/program-here" write "$work/here" && "$qemu" "$work/program-there" write "$work/there"
judge $? "both write their files"
diff -r "$work/here" "$work/there" && test "$(find "$work/here" -type f | wc -l)" -gt 12
judge $? "the $(find "$work/here" -type f | wc -l) files are the same bytes"
for machine in here there; do
    "$work/program-here" read "$work/$machine" >"$work/$machine-here" &&
        "$qemu" "$work/program-there" read "$work/$machine" >"$work/$machine-there" &&
        cmp "$work/$machine-here" "$work/$machine-there" && test -s "$work/$machine-here"
    judge $? "written $machine, read and multiplied on both: $(wc -l <"$work/$machine-here") results with the same bits"
done
cmp "$work/here-here" "$work/there-here"
judge $? "and the same whoever has written them"
echo "$passed passed, $failed failed, 0 skipped"
test $failed = 0
