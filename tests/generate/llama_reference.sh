#!/bin/sh
# Compiles llama_reference.c for the llama.cpp that scripts/llama.sh has built.
#
#   sh tests/generate/llama_reference.sh PROGRAM     exit status 77: llama.cpp is not there
#
# SPDX-License-Identifier: MIT
set -u
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
version=$(sed -n 's/^llama-cpp-python==//p' "$root/bench/peers/sources.txt")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qkv/ggml
sources=$cache/$version/vendor/llama.cpp libraries=$cache/build-$version/bin
if [ ! -e "$libraries/libllama.so" ]; then
    echo "llama.cpp is not built (sh scripts/llama.sh does, in ten minutes)"
    exit 77
fi
exec ${CC:-cc} -O2 -std=c11 -D_POSIX_C_SOURCE=200809L "-DBACKENDS=\"$libraries\"" -I"$sources/include" \
    -I"$sources/ggml/include" "$root/tests/generate/llama_reference.c" "$root/bench/engines/llama_side.c" \
    -L"$libraries" -lllama -lggml -lggml-base -Wl,-rpath,"$libraries" -lm -o "$1"
