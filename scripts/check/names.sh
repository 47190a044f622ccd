#!/bin/sh
# Names of one or two capital letters are the user's: every source compiles with all of them defined as macros.
#   sh scripts/check/names.sh
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0 checked=0

awk 'BEGIN {
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for (i = 1; i <= 26; i++) {
        print "#define " substr(letters, i, 1) " 1"
        for (j = 1; j <= 26; j++) print "#define " substr(letters, i, 1) substr(letters, j, 1) " 1"
    }
}' >"$work/macros.h"

for cc in gcc clang aarch64-linux-gnu-gcc; do
    command -v $cc >/dev/null 2>&1 || { echo "skipped: $cc is not installed"; continue; }
    for source in $(find src -name '*.c' | sort); do
        $cc -std=c11 -fsyntax-only -Iinclude -include "$work/macros.h" "$source" || failed=1
    done
    checked=$((checked + 1))
done
test $checked -gt 0 || { echo "no compiler was found"; exit 77; }
exit $failed
