#!/bin/sh
# docs/embedded.md, followed: its commands build an image for each microcontroller, which an emulator runs. Then the
# self-test on each of them, on every kernel set; the example's layer with other weights and kernel sets, against plain
# loops; and the page's table, whose numbers must be those measured here, within 5 %.
#
#   sh tests/embedded/run.sh [TARGET…]    m4 m55 rv32 rv64; all of them without an argument
#   sh tests/embedded/run.sh --write      and writes the table into the page
#
# QKV=DIR takes the library from a copy in DIR. CMSIS_NN=DIR, a copy of CMSIS-NN, counts its products' instructions too.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD page=$PWD/docs/embedded.md
QKV=${QKV:-$PWD} CMSIS_NN=${CMSIS_NN:-}
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
write=no
test "${1:-}" != --write || { write=yes; shift; }
targets=${*:-m4 m55 rv32 rv64}

heading() { # TARGET: what the page calls it
    case $1 in
    m4) echo "Cortex-M4F" ;;
    m55) echo "Cortex-M55" ;;
    rv32) echo "RV32IMAFC" ;;
    rv64) echo "RV64GC" ;;
    *) echo "no target is named $1" >&2; exit 2 ;;
    esac
}

commands() { # HEADING: the first block of commands below it
    awk -v heading="$1" '
        /^#+ / { inside = $0 ~ "^#+ " heading "$" }
        inside && /^```sh$/ { block = 1; next }
        block && /^```$/ { exit }
        block' "$page"
}

count() { # STATUS WHAT
    if test "$1" = 0; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $2"
    fi
}

# Links an image: NAME SOURCES LIBRARY [OPTION…], with the target's variables, in its folder.
image() {
    name=$1 sources=$2 objects=$3
    shift 3
    # shellcheck disable=SC2086  # words
    $CC $FLAGS "$@" -I"$QKV/include" -I"$QKV/examples/embedded" $sources "$QKV/examples/embedded/board.c" \
        "$QKV/examples/embedded/$BOARD.c" $objects $LINK -Wl,-Map="$name.map" -lm -o "$name.elf"
}

library() { # FOLDER FLAG…
    folder=$1
    shift
    # shellcheck disable=SC2086  # words
    mkdir "$folder" && (cd "$folder" && $CC $CPU $COMMON "$@" -I"$QKV/include" -c "$QKV"/src/*.c "$QKV"/src/*/*.c \
        "$QKV"/src/*/*/*.c)
}

# Runs an image: prints what it printed, and fails where it does, or goes on for more than two minutes.
run() { # NAME
    # shellcheck disable=SC2086  # words
    timeout 120 $RUN -kernel "$1.elf" </dev/null >"$1.out" 2>&1
    status=$?
    sed "s/^/    /" "$1.out"
    test $status = 0
}

number() { # NAME TEXT: what its image printed behind it
    sed -n "s/^$2: //p" "$1.out" | head -n 1
}

value='function value(hex, i, n) { # of a hexadecimal number
    for (i = 1; i <= length(hex); i++) n = 16 * n + index("0123456789abcdef", substr(hex, i, 1)) - 1
    return n
}'

# A row of the table: text and data in flash without weights, what of it comes from objects in folders, that is from the
# library, static RAM without the stack, the stack that was used, instructions.
row() { # NAME WHAT
    weights=$($NM -S "$1.elf" | awk "$value"'
        $4 ~ /^keyword_(w_qkv|w_o|expected)$/ { sum += value($2) } END { print sum + 0 }')
    own=$(awk "$value"'
        /^Linker script and memory map/ { inside = 1 }
        !inside { next }
        NF == 1 && /^ \.(text|rodata)/ { getline line; $0 = $0 " " line }
        $1 ~ /^\.(text|rodata)/ && $4 ~ /^(library|fast|least)\// { sum += value(substr($3, 3)) }
        END { print sum + 0 }' "$1.map")
    $SIZE "$1.elf" | awk -v name="$(heading "$target")" -v what="$2" -v weights="$weights" -v own="$own" \
        -v reserved=8192 -v stack="$(number "$1" "bytes of stack")" \
        -v p="$(number "$1" "instructions of the projections")" \
        -v a="$(number "$1" "instructions of the attention")" -v plans="$(number "$1" "instructions of the plans")" '
        function thousands(n) { return n == "" ? "-" : sprintf("%.0f", n / 1000) }
        NR == 2 {
            printf "| %s | %s | %.1f | %.1f | %.1f | %.1f | %d | %s | %s | %s |\n", name, what,
                ($1 + $2 - weights) / 1024, own / 1024, weights / 1024, ($2 + $3 - reserved) / 1024, stack,
                thousands(p), thousands(a), thousands(plans)
        }' >>"$work/rows"
}

measure() { # NAME WHAT SOURCES LIBRARY [OPTION…]: builds, runs and notes it
    name=$1 what=$2
    shift 2
    echo "$target: $what"
    image "$name" "$@" && run "$name"
    status=$?
    test $status != 0 || row "$name" "$what"
    count $status "$target: $what"
}

# The page's own commands, in an empty folder.
recipe() {
    set -e
    eval "$(commands "The image")"
    eval "$(commands "Run and check")" >recipe.out 2>&1
}

on_target() {
    mkdir "$work/$target" && cd "$work/$target" || exit 1
    eval "$(commands "$(heading "$target")")"
    NM=${CC%gcc}nm
    for tool in $CC ${RUN%% *}; do
        command -v "$tool" >/dev/null && continue
        echo "skipped: $target: $tool is not installed"
        skipped=$((skipped + 1))
        return
    done
    echo "$target: the page's commands"
    cp "$work/f32/keyword_model.h" .
    (recipe)
    status=$?
    sed 's/^/    /' recipe.out
    grep -q '^the output has the bits' recipe.out || status=1
    count $status "$target: the page's commands"
    eval "$(commands "The image" | grep -E '^(COMMON|SMALL|FLAGS|LINK)=')"
    eval "$(commands "Faster")"
    eval "$(commands "Least")"
    example=$QKV/examples/embedded/keyword.c plain=$QKV/examples/embedded/plain_keyword.c

    # shellcheck disable=SC2086  # words
    library all -O2 && library fast $FAST && library least $LEAST
    count $? "$target: libraries for the self-test, for speed and for size"
    echo "$target: self-test"
    image golden "$QKV/examples/embedded/golden_image.c $QKV/tools/golden.c" 'all/*.o' -Wl,--defsym=ram_size=512K \
        -Wl,--defsym=flash_size=512K -Wl,--defsym=stack_size=20K && run golden &&
        grep -q '^ref: [0-9]* golden results, all as recorded' golden.out
    count $? "$target: self-test"
    printf '| %s | self-test | %d | %d |\n' "$(heading "$target")" "$(grep -c 'all as recorded' golden.out)" \
        "$(number golden "bytes of stack")" >>"$work/rows"

    measure f32 "smallest, f32" "$example" 'library/*.o' -I"$work/f32"
    measure int8 "smallest, int8 weights" "$example" 'library/*.o' -I"$work/int8"
    measure products "smallest, int8 products" "$example" 'library/*.o' -I"$work/int8-products"
    FLAGS="$CPU $COMMON $LEAST"
    measure f32-least "least, f32" "$example" 'least/*.o' -I"$work/f32"
    FLAGS="$CPU $COMMON $FAST"
    measure f32-fast "faster, f32" "$example" 'fast/*.o' -I"$work/f32"
    measure int8-fast "faster, int8 weights" "$example" 'fast/*.o' -I"$work/int8"
    measure products-fast "faster, int8 products" "$example" 'fast/*.o' -I"$work/int8-products"
    measure plain "plain loops, f32" "$plain" '' -I"$work/plain" -ffp-contract=fast
    case $target in
    m*)
        test -n "$CMSIS_NN" || { echo "$target: without CMSIS_NN no comparison with its products"; return; }
        measure cmsis "CMSIS-NN, int8" "$root/tests/embedded/cmsis_keyword.c" \
            "$(echo "$CMSIS_NN"/Source/NNSupportFunctions/*_s8*.c)" -I"$CMSIS_NN/Include"
        ;;
    esac
}

echo "the computer's part"
(set -e && cd "$work" && eval "$(commands "Weights, on a computer")") && for kind in f32 int8 int8-products plain; do
    mkdir "$work/$kind" && "$work/keyword_prepare" $kind >"$work/$kind/keyword_model.h" || break
done
count $? "the computer's part" # the last of them
cc -std=c11 -O1 -Wall -Wextra -Werror -fsyntax-only -I"$QKV/include" -I"$work/f32" "$QKV"/examples/embedded/keyword.c \
    "$QKV/examples/embedded/board_hosted.c"
count $? "the image's sources on this computer"
for target in $targets; do
    on_target
    cd "$root" || exit 1
done

# Rows of the page's tables, known by their first two cells: those measured in place of the old ones, and compared with
# them, number by number.
keys='function key(line) { split(line, part, / *[|] */); return part[2] "|" part[3] }'
if test $write = yes; then
    awk -v rows="$work/rows" "$keys"'
        BEGIN { while ((getline line <rows) > 0) measured[key(line)] = line }
        key($0) in measured { $0 = measured[key($0)] }
        { print }' "$page" >"$work/page" && cat "$work/page" >"$page"
fi
if test -s "$work/rows"; then
    awk -v page="$page" "$keys"'
        BEGIN { while ((getline line <page) > 0) said[key(line)] = line }
        !(key($0) in said) { print "the page lacks the row: " $0; bad = 1; next }
        {
            n = split($0, is, / *[|] */)
            split(said[key($0)], was, / *[|] */)
            for (i = 4; i < n; i++)
                if (is[i] != was[i] && (is[i] + 0 > 1.05 * was[i] || is[i] + 0 < 0.95 * was[i])) {
                    print "measured: " $0 "\nthe page: " said[key($0)]
                    bad = 1
                    break
                }
        }
        END { exit bad }' "$work/rows"
    count $? "the page's tables are not what was measured (sh tests/embedded/run.sh --write)"
fi
# What the page promises of the least: the library's 24 KiB on Cortex-M4F, and 4 KiB of stack everywhere.
if test -s "$work/rows"; then
    awk -F ' *[|] *' '$3 == "least, f32" && ($8 > 4096 || ($2 == "Cortex-M4F" && $5 > 24)) { print; bad = 1 }
        END { exit bad }' "$work/rows"
    count $? "the least is more than 24 KiB, or its stack more than 4 KiB"
fi
echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0 || exit 1
test -s "$work/rows" || { echo "neither a compiler nor an emulator for microcontrollers is installed"; exit 77; }
