#!/bin/sh
# No hot loop of a kernel set uses the stack, from -O1 to -O3, by each compiler that is there; nor may such loops be
# missing. What is hot: scripts/check/loops.awk. And what stack.sh asks of the rest of the library: no frame of a kernel
# is over 4096 bytes or not bounded.   sh scripts/check/spills.sh [SET…]
# QKV_SPILL_COMPILERS lists other compilers than gcc and clang, commands without options; for a foreign set only those
# named clang… (which get --target) or after its architecture are asked, and for rvv zig.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0 checked=0

# So many hot loops there must be: panels or any B, and fetching ahead; maximum and exponentials; pack.
least='gemm:3 softmax:2 pack:1'

# What happens nevertheless, as function/fmas:instructions. With AVX2 the exponential's nine constants and two vectors
# are more than 16 registers, and those of rounding to bfloat16 come on top: some constants are taken from the stack,
# not from read-only data. For NEON clang 14 at -O1 does so with one, GCC at -O1 where it rounds to bfloat16. Few rows
# of weights of 5 and 6 bits are multiplied by eight words of terms, of which some are on the stack.
allowed() { # SET
    case $1 in
    avx2) echo softmax/12:5 gemm_weights_5_16/1:5 gemm_weights_5_0/2:5 gemm_weights_6_32/2:6 softmax_bf16/8:8 ;;
    avx512) # GCC 14 compares with a loop's end on the stack, and has maxima of rows there
        echo gemm_6x4/48:1 gemm_pairs_6x4/48:1 spread_dots_halves/32:1 softmax_bf16/16:2
        ;;
    neon) echo softmax/24:1 gemm_weights_5_16/1:2 gemm_weights_5_0/2:2 ;;
    esac
}

check() { # SET FMAS-OF-A-HOT-LOOP OBJDUMP COMPILER [OPTION…]
    set=$1 tile=$2 objdump=$3 cc=$4
    shift 4
    for tool in "$cc" "$objdump"; do
        command -v "$tool" >/dev/null 2>&1 || { echo "skipped: $set by $cc: $tool is not installed"; return; }
    done
    for level in ${QKV_SPILL_LEVELS:--O1 -O2 -O3}; do
        rm -f "$work/kernels.su"
        : >"$work/text"
        $cc "$@" -std=c11 $level -fstack-usage -Iinclude -c "src/kernels/$set/kernels_$set.c" -o "$work/kernels.o" &&
            $objdump -d --no-show-raw-insn "$work/kernels.o" >"$work/text" || { failed=1; continue; }
        grep -q '<softmax>:' "$work/text" || { echo "skipped: $set by $cc: it does not know the set"; return; }
        test "$(grep -cF .insn "$work/text")" -lt 100 ||
            { echo "skipped: $set by $cc: $objdump does not know its instructions"; return; }
        test "${cc##*/}" = zig || # which writes none
            awk -F '\t' -v what="$set $cc $level" -v limit=4096 '
            $2 > limit || $3 == "dynamic" { print what ": over " limit " bytes or not bounded: " $0; bad = 1 }
            END { exit bad }' "$work/kernels.su" || failed=1
        case $set in sve | rvv) scalable=1 ;; *) scalable=0 ;; esac
        awk -v tile="$tile" -v scalable=$scalable -f scripts/check/loops.awk "$work/text" |
            awk -v what="$set $cc $level" -v least="$least" -v allowed="$(allowed "$set")" '
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
for set in ${*:-avx512 avx2 neon sve rvv}; do
    case $set in # fmas of a hot loop: a step of 6 rows × 4 vectors, of 6 × 2, or four steps of 2 × 4
    avx512) tile=24 native=x86_64 ;;
    avx2) tile=12 native=x86_64 ;;
    neon) tile=32 native=aarch64 ;;
    sve) tile=24 native=aarch64 ;; # one step of 6 × 4
    rvv) tile=24 native=riscv64 ;; # four steps of 6 × 1
    *) echo "skipped: $set: not known"; continue ;;
    esac
    if [ "$machine" = "$native" ]; then
        for cc in ${QKV_SPILL_COMPILERS:-gcc clang}; do
            check $set $tile objdump "$cc"
        done
    elif [ $native = aarch64 ]; then
        for cc in ${QKV_SPILL_COMPILERS:-aarch64-linux-gnu-gcc clang}; do
            case ${cc##*/} in
            clang*) check $set $tile aarch64-linux-gnu-objdump "$cc" --target=aarch64-linux-gnu ;;
            aarch64*) check $set $tile aarch64-linux-gnu-objdump "$cc" ;;
            *) echo "skipped: $set by $cc: not a compiler for it" ;;
            esac
        done
    elif [ $native = riscv64 ]; then
        for cc in ${QKV_SPILL_COMPILERS:-riscv64-linux-gnu-gcc $(sh scripts/compilers.sh find zig | tail -n 1)}; do
            case ${cc##*/} in # disassemblers go by what the whole file may use
            clang*) check $set $tile riscv64-linux-gnu-objdump "$cc" --target=riscv64-linux-gnu -march=rv64gcv \
                -mno-relax ;;
            riscv64*) check $set $tile riscv64-linux-gnu-objdump "$cc" -mno-relax ;;
            zig) check $set $tile riscv64-linux-gnu-objdump "$cc" -target riscv64-linux-musl -mcpu=baseline_rv64+v ;;
            *) echo "skipped: $set by $cc: not a compiler for it" ;;
            esac
        done
    else
        echo "skipped: $set: no compilers for it are known on $machine"
    fi
done
test $checked -gt 0 || { echo "no compiler was found"; exit 77; }
exit $failed
