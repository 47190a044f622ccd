#!/bin/sh
# Builds and runs the benchmarks.   sh scripts/bench.sh [quick] [qkv-bench's options, such as --threads=4 --isa=avx2]
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
sh scripts/packages.sh bench
cmake -S . -B build/bench -DCMAKE_BUILD_TYPE=Release -DQKV_BUILD_TESTS=OFF -DQKV_BUILD_EXAMPLES=OFF >/dev/null
cmake --build build/bench -j "$(getconf _NPROCESSORS_ONLN)" >/dev/null
if [ "${1:-}" = quick ]; then
    shift
    set -- --quick "$@"
fi
exec build/bench/bench/qkv-bench "$@"
