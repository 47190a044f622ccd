#!/bin/sh
# Options that change floating-point arithmetic are refused with a message or change nothing: with each of them the
# library of the one line either does not compile, for our own reason, or passes its self-test, golden hashes included.
#   sh scripts/check/flags.sh [COMPILER…]
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0 checked=0 refused=0
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# Those after "gcc" it refuses one by one; clang takes them, and has them all in -funsafe-math-optimizations.
options='-ffinite-math-only
-funsafe-math-optimizations
gcc -fassociative-math -fno-signed-zeros -fno-trapping-math
gcc -freciprocal-math
gcc -fno-signed-zeros
-ffast-math
-ffast-math -fno-finite-math-only
-Ofast
-fsingle-precision-constant
-fno-honor-nans -fapprox-func
-fno-honor-infinities -fdenormal-fp-math=positive-zero
-mfpmath=387
-frounding-math -mrecip -fno-trapping-math
-fexcess-precision=fast
-mfma -ffp-contract=fast'

# check COMPILER OPTION…: an option that the compiler does not know says nothing.
check() {
    cc=$1
    shift
    echo 'int x;' >"$work/probe.c"
    "$cc" -Werror "$@" -c "$work/probe.c" -o "$work/probe.o" 2>/dev/null || return 0
    case $* in *-mfma*) grep -qw fma /proc/cpuinfo 2>/dev/null || return 0 ;; esac
    rm -rf "$work/out" && mkdir "$work/out" && cd "$work/out" || exit 1
    checked=$((checked + 1))
    # One file first: a refusal is the same in all of them.
    if ! "$cc" -O1 "$@" -I"$root/include" -c "$root/src/ref/ref.c" 2>log; then
        if grep -qE '#error.*qkv (promises|needs)|error: "?qkv (promises|needs)' log; then
            refused=$((refused + 1))
            echo "$cc $*: refused"
        else
            cat log
            failed=1
        fi
    elif ! ls "$root"/src/*.c "$root"/src/*/*.c "$root"/src/*/*/*.c | grep -v "$idle" |
        xargs -P "$jobs" -n 1 "$cc" -O1 "$@" -I"$root/include" -c ||
        ! "$cc" -O1 -D_GNU_SOURCE -I"$root/include" "$root"/tools/*.c ./*.o "$work/idle/"*.o -lm -o info; then
        failed=1
    elif ./info --selftest >log; then
        echo "$cc $*: the same bits"
    else
        echo "$cc $*: OTHER BITS"
        cat log
        failed=1
    fi
    cd "$root" || exit 1
}

for cc in ${*:-gcc clang}; do
    command -v "$cc" >/dev/null 2>&1 || { echo "$cc is not there: left out"; continue; }
    # Kernels that this CPU can't run are compiled once, so that the library links.
    idle=none-of-them
    case $(uname -m) in x86_64) grep -qw avx512dq /proc/cpuinfo 2>/dev/null || idle=kernels_avx512 ;; esac
    rm -rf "$work/idle" && mkdir "$work/idle"
    (cd "$work/idle" && "$cc" -O1 -I"$root/include" -c "$root"/src/kernels/${idle#kernels_}/$idle.c) 2>/dev/null ||
        "$cc" -x c -c /dev/null -o "$work/idle/none.o"
    while read -r line; do
        case $line in gcc*) case ${cc##*/} in gcc*) line=${line#gcc} ;; *) continue ;; esac ;; esac
        # shellcheck disable=SC2086  # several options a line
        check "$cc" $line
    done <<OPTIONS
$options
OPTIONS
done
test $checked -gt 0 || { echo "no compiler was found"; exit 77; }
test $refused -gt 0 || { echo "nothing was refused: this check sees nothing"; failed=1; }
test $failed = 0 && echo "$checked builds: $refused refused, the others give the same bits"
exit $failed
