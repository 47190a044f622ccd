#!/bin/sh
# The first C block of README.md is a whole program: it compiles without a warning against the header and the library,
# runs, exits with status 0, and prints what README.md says.   sh scripts/check/readme.sh [libqkv.a]
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
library=${1:-build/release/libqkv.a}
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT

test -e README.md || { echo "there is no README.md"; exit 1; }
awk '/^```c *$/ { inside = 1; next } inside && /^```/ { exit } inside' README.md >"$work/example.c"
grep -q 'main *(' "$work/example.c" || { echo 'README.md has no ```c block with a main program'; exit 1; }
${CC:-cc} -std=c11 -O2 -Wall -Wextra -Wpedantic -Werror -Iinclude "$work/example.c" "$library" -o "$work/example" ||
    { echo "the example of README.md does not compile"; exit 1; }
"$work/example" >"$work/output" || { echo "the example of README.md failed with status $?"; exit 1; }
while read -r line; do
    grep -Fxq -e "$line" README.md || { echo "README.md does not show the line its example prints: $line"; exit 1; }
done <"$work/output"
echo "README.md's example ($(wc -l <"$work/example.c") lines) printed:"
head -n 20 "$work/output"
