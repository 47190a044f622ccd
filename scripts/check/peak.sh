#!/bin/sh
# The benchmark's measure of the FMA peak is honest: the loops of bench/peak.cc compile to FMAs in registers, the loop's
# counter and its jump, nothing else.  SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0 checked=0

for cxx in g++ clang++ aarch64-linux-gnu-g++; do
    command -v $cxx >/dev/null 2>&1 || { echo "$cxx is not there: left out"; continue; }
    objdump=objdump
    test $cxx = aarch64-linux-gnu-g++ && objdump=aarch64-linux-gnu-objdump
    checked=$((checked + 1))
    $cxx -std=c++17 -O2 -Iinclude -Iadapters/pthreads -c bench/peak.cc -o "$work/peak.o" || { failed=1; continue; }
    # The innermost loop of each fma_loop_…: from the target of the first backward jump to that jump.
    $objdump -d --no-show-raw-insn "$work/peak.o" | awk '
        /^[0-9a-f]+ <.*>:$/ {
            inside = /fma_loop_/; n = 0
            name = $2; sub(/.*fma_loop_/, "", name); sub(/E.*/, "", name)
        }
        inside && /^ +[0-9a-f]+:\t/ {
            address = $1; sub(/:/, "", address)
            op[++n] = $2; at[address] = n; text[n] = $0
            if ($2 !~ /^(j|b\.|cbnz)/ || !($3 in at)) next
            fma = other = memory = 0
            for (i = at[$3]; i <= n; i++) {
                if (op[i] ~ /^(vfmadd|vdpbf16ps|vpdpbusd|fmla)/) fma++; else other++
                if (text[i] ~ /[(\[]/) memory++
            }
            print name ": " fma " FMAs, " other " other instructions, " memory " operands in memory"
            loops++; inside = 0
            if (fma % 12 != 0 || other > 4 || memory) bad = 1
        }
        /^$/ { split("", at) }
        END { exit bad || !loops }' || { echo "$cxx: a loop is not pure"; failed=1; }
done
test $checked -gt 0 || { echo "no C++ compiler was found"; exit 77; }
exit $failed
