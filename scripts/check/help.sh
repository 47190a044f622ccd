#!/bin/sh
# scripts/demo.sh, why.sh and generate.sh --help print what their programs do, where nothing is installed to build them.
#   sh scripts/check/help.sh [BUILD_DIR]
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:-build/release}
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
for tool in sh sed dirname; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
failed=0 compared=0
while read -r script program; do
    test -x "$build/examples/$program" || { echo "skipped: $program is not built: a library is missing"; continue; }
    compared=$((compared + 1))
    PATH=$work/bin sh "scripts/$script.sh" --help >"$work/script" || failed=1
    "$build/examples/$program" --help >"$work/program"
    diff "$work/program" "$work/script" && echo "$script: $(wc -l <"$work/script") lines, the same" || failed=1
done <<'TABLE'
demo encoder
why why_projections
generate generate
TABLE
test $compared -gt 0 || { echo "neither program is built: libcjson or libutf8proc is missing"; exit 77; }
exit $failed
