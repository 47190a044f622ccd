#!/bin/sh
# scripts/demo.sh --help prints what the encoder does, where nothing is installed to build it.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
encoder=build/release/examples/encoder
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
test -x $encoder || { echo "the encoder is not built: libcjson or libutf8proc is missing"; exit 77; }

mkdir "$work/bin"
for tool in sh sed dirname; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
PATH=$work/bin sh scripts/demo.sh --help >"$work/demo" || { echo "scripts/demo.sh --help failed"; exit 1; }
$encoder --help >"$work/encoder"
diff "$work/encoder" "$work/demo" && echo "$(wc -l <"$work/demo") lines, the same"
