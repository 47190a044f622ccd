#!/bin/sh
# The library built by one line, without CMake and without flags, into DIR/libqkv.a.
#   sh scripts/check/oneline.sh DIR [COMPILER]
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/../.."
mkdir -p "$1"
dir=$(cd "$1" && pwd)
cc=${2:-cc}
rm -f "$dir"/*.o "$dir/libqkv.a"
root=$PWD
cd "$dir"
"$cc" -O2 -I"$root/include" -c "$root"/src/*.c "$root"/src/*/*.c "$root"/src/*/*/*.c
ar rcs libqkv.a ./*.o
echo "$("$cc" --version | head -n 1): $(wc -c <libqkv.a) bytes"
