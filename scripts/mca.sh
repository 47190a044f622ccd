#!/bin/sh
# What llvm-mca predicts for the hot loops of the NEON kernels, as a table in Markdown: for each core the cycles of one
# turn, the share of its FMA pipes that the loop's fmas fill, and how busy these are with all that they do.
#
#   sh scripts/mca.sh [CPU…]       neoverse-n1 and cortex-a55 unless others are named
#
# Needs llvm-mca of LLVM 19 or newer (Debian 12: apt-get install llvm-19; version 14 takes the Neoverse N1 for an A57),
# and GCC or clang for AArch64. The loops come from the object code at -O3, as a release build has it; nothing is run.
# What is hot: scripts/check/loops.awk. Loops with branches inside (fetching ahead, edges of panels) are left out, as
# llvm-mca reads straight lines only. The exit status is 77 when a tool is missing.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
turns=200 tile=32

find_tool() { # NAME…: the first one that is installed
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 && { echo "$tool"; return; }
    done
    echo "$1 is not installed" >&2
    exit 77
}

mca=$(find_tool llvm-mca-19 llvm-mca-20 llvm-mca-21 llvm-mca-22 llvm-mca) || exit 77
version=$($mca --version | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p')
test "$version" -ge 19 || { echo "$mca is of LLVM $version; 19 is needed (Debian: llvm-19)"; exit 77; }
objdump=$(find_tool aarch64-linux-gnu-objdump llvm-objdump) || exit 77

# The loops as assembler text, a region each.
loops() {
    awk '
    function end_region() {
        if (inside) print "# LLVM-MCA-END"
        inside = 0
    }
    $1 == "loop" {
        end_region()
        if ($7 != "hot" || $8 != "straight" || ($5 == 0 && $2 != "softmax")) next
        inside = 1
        print "# LLVM-MCA-BEGIN " $2 " " $3 " " $4 " " $5
        print "L" ++n ":"
        next
    }
    inside {
        sub(/^[! ] [0-9a-f]+\t/, "")
        sub(/[0-9a-f]+ <.*>/, "L" n) # every jump goes to the top
        print
    }
    END { end_region() }'
}

# Cells of each region, a line each.
cells() {
    awk -v turns=$turns '
    function share(count) {
        return pipes && count > 0 ? sprintf("%.1f %%", 100 * count / (pipes * cycles)) : "-"
    }
    /Code Region/ { fmas = $NF; split("", pipe); pipes = 0 }
    /^Total Cycles:/ { cycles = $3 / turns }
    /^\[[0-9.]+\] +- .*(N1UnitV[01]|UnitFPMAC)$/ { pipe[$1] = 1; pipes++ }
    /^Resource pressure per iteration/ {
        getline; columns = split($0, column, " ")
        getline; split($0, pressure, " ")
        busy = 0
        for (i = 1; i <= columns; i++)
            if (column[i] in pipe && pressure[i] != "-") busy += pressure[i]
        printf " %.1f | %s | %s |\n", cycles, share(fmas), share(busy)
    }'
}

cpus=${*:-neoverse-n1 cortex-a55}
printf '| compiler | loop | instructions | fmas |'
for cpu in $cpus; do
    printf ' %s: cycles | fmas, of FMA pipes | pipes busy |' "$cpu"
done
printf '\n|---|---|---|---|'
for cpu in $cpus; do
    printf '%s' '---|---|---|'
done
echo
found=0
for cc in aarch64-linux-gnu-gcc clang; do
    command -v $cc >/dev/null 2>&1 || continue
    target=
    test $cc = clang && target=--target=aarch64-linux-gnu
    $cc $target -std=c11 -O3 -Iinclude -c src/kernels/neon/kernels_neon.c -o "$work/kernels.o" || exit 1
    $objdump -d --no-show-raw-insn "$work/kernels.o" |
        awk -v tile=$tile -f scripts/check/loops.awk | loops >"$work/loops.s"
    sed -n "s/^# LLVM-MCA-BEGIN \([^ ]*\) [^ ]* \([0-9]*\) \([0-9]*\)/| ${cc#aarch64-linux-gnu-} | \1 | \2 | \3 |/p" \
        "$work/loops.s" >"$work/rows"
    for cpu in $cpus; do
        $mca -mtriple=aarch64-linux-gnu -mcpu="$cpu" -iterations=$turns -instruction-info=0 "$work/loops.s" \
            >"$work/mca" || exit 1
        cells <"$work/mca" | paste -d '' "$work/rows" - >"$work/wider" && mv "$work/wider" "$work/rows"
    done
    cat "$work/rows"
    found=1
done
test $found = 1 || { echo "no compiler for AArch64 is installed" >&2; exit 77; }
echo
$mca --version | sed -n 's/^ *\(.*LLVM version.*\)/\1/p'
