#!/bin/sh
# No hot loop of a kernel set uses the stack, at -O2 and -O3, by each compiler that is there; nor may such loops be
# missing. What is hot: scripts/check/loops.awk.   sh scripts/check/spills.sh [SET…]
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0 checked=0

# So many hot loops there must be: panels or any B, and fetching ahead; maximum and exponentials; pack.
least='gemm:3 softmax:2 pack:1'

# What clang 14 does nevertheless, as function/fmas:instructions. With AVX2 the exponential's nine constants and two
# vectors are more than 16 registers, and some constants come from the stack where GCC takes them from read-only data.
# With AVX-512 softmax of a single row keeps its sum there: arrays of one vector stay in memory.
allowed() { # SET COMPILER
    case $1-$2 in
    avx2-clang) echo softmax/12:5 ;;
    avx512-clang) echo softmax/6:4 ;;
    esac
}

check() { # SET FMAS-OF-A-HOT-LOOP OBJDUMP COMPILER [OPTION…]
    set=$1 tile=$2 objdump=$3 cc=$4
    shift 4
    for tool in "$cc" "$objdump"; do
        command -v "$tool" >/dev/null 2>&1 || { echo "skipped: $set by $cc: $tool is not installed"; return; }
    done
    for level in -O2 -O3; do
        $cc "$@" -std=c11 $level -Iinclude -c "src/kernels/$set/kernels_$set.c" -o "$work/kernels.o" &&
            $objdump -d --no-show-raw-insn "$work/kernels.o" >"$work/text" || { failed=1; continue; }
        awk -v tile="$tile" -f scripts/check/loops.awk "$work/text" |
            awk -v what="$set $cc $level" -v least="$least" -v allowed="$(allowed "$set" "$cc")" '
            BEGIN {
                for (i = split(least, part, /[: ]/) - 1; i > 0; i -= 2) minimum[part[i]] = part[i + 1]
                for (i = split(allowed, part, /[: ]/) - 1; i > 0; i -= 2) maximum[part[i]] = part[i + 1]
            }
            $1 == "loop" {
                spills = $7 == "hot" && $6 > maximum[$2 "/" $5] + 0
                if ($7 == "hot") { found[$2 ~ /gemm/ ? "gemm" : $2]++; hot++ } else if ($6) others++
                if (spills) { print what ": the loop of " $2 " at " $3 ", " $5 " fmas, uses the stack:"; bad = 1 }
                next
            }
            spills && /^!/ { print "    " substr($0, 3) }
            END {
                for (name in minimum)
                    if (found[name] < minimum[name]) {
                        print what ": " name " has " found[name] + 0 " hot loops, expected are " minimum[name]
                        bad = 1
                    }
                print what ": " hot + 0 " hot loops, " found["gemm"] + 0 " of them in gemm; " others + 0 \
                    " other loops use the stack"
                exit bad
            }' || failed=1
        checked=$((checked + 1))
    done
}

machine=$(uname -m)
for set in ${*:-avx512 avx2 neon}; do
    case $set-$machine in
    avx512-x86_64)
        check $set 24 objdump gcc # 6 rows × 4 vectors
        check $set 24 objdump clang
        ;;
    avx2-x86_64)
        check $set 12 objdump gcc # 6 × 2
        check $set 12 objdump clang
        ;;
    neon-aarch64)
        check $set 32 objdump gcc # 2 × 4, four steps; single steps are what is left over
        check $set 32 objdump clang
        ;;
    neon-*)
        check $set 32 aarch64-linux-gnu-objdump aarch64-linux-gnu-gcc
        check $set 32 aarch64-linux-gnu-objdump clang --target=aarch64-linux-gnu
        ;;
    *) echo "skipped: $set: no compilers for it are known on $machine" ;;
    esac
done
test $checked -gt 0 || { echo "no compiler was found"; exit 77; }
exit $failed
