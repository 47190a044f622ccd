#!/bin/sh
# llama.cpp and its ggml from the sources of the package llama-cpp-python, and adapters/ggml for it. What is fetched and
# built lies below ${XDG_CACHE_HOME:-~/.cache}/qkv/ggml. The last line on standard output is a folder.
#
#   sh scripts/ggml.sh sources [VERSION]     of llama.cpp
#   sh scripts/ggml.sh tests [VERSION]       builds ggml, the adapter, and the tests of both
#   sh scripts/ggml.sh llama                 builds llama.cpp, the adapter, and what compares them
#
# VERSION is one of the package: that of bench/peers/sources.txt, or "oldest". Status 77: it could not be fetched.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
oldest=0.3.16 # the first whose ggml has sinks
newest=$(sed -n 's/^llama-cpp-python==//p' bench/peers/sources.txt)
what=${1:-} version=${2:-$newest}
test "$version" != oldest || version=$oldest
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qkv/ggml
sources=$cache/$version/vendor/llama.cpp
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

say() {
    echo "qkv: $*" >&2
}

fetch() {
    test ! -d "$sources" || return 0
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/unpacking.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    say "fetching the sources of llama.cpp (llama-cpp-python $version, 75 MB) with pip"
    python3 -m pip --disable-pip-version-check download --no-deps --no-cache-dir --no-binary llama-cpp-python \
        --retries 1 --timeout 20 --dest "$work" "llama-cpp-python==$version" >&2 || {
        say "llama-cpp-python $version could not be fetched from PyPI"
        exit 77
    }
    mkdir "$work/out"
    tar -C "$work/out" --strip-components=1 -xzf "$work"/llama_cpp_python-*.tar.gz
    test -d "$cache/$version" || mv "$work/out" "$cache/$version" # complete or not there
}

# ggml's own way to fit the CPU (GGML_NATIVE) is not for backends in shared libraries; its options by name are.
cpu_options() {
    flags=" $(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1) "
    test "$(uname -m)" = x86_64 || return 0
    while read -r option flag; do
        case $flags in
        *" $flag "*) echo "-DGGML_$option=ON" ;;
        *) echo "-DGGML_$option=OFF" ;;
        esac
    done <<'TABLE'
AVX avx
AVX2 avx2
FMA fma
F16C f16c
BMI2 bmi2
AVX_VNNI avx_vnni
AVX512 avx512vl
AVX512_VBMI avx512_vbmi
AVX512_VNNI avx512_vnni
AVX512_BF16 avx512_bf16
TABLE
}

build() { # SOURCE FOLDER LOG TARGETS OPTION…
    from=$1 to=$2 log=$3 targets=$4
    shift 4
    mkdir -p "$to"
    say "building $targets in $to"
    # shellcheck disable=SC2086  # words
    if ! { cmake -S "$from" -B "$to" -DCMAKE_BUILD_TYPE=Release "$@" &&
        cmake --build "$to" -j "$jobs" --target $targets; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        say "that failed; all of its output is in $log"
        exit 1
    fi
}

# Backends as shared libraries, as distributions have them.
build_host() { # TARGETS
    parts=
    for part in COMMON TESTS TOOLS EXAMPLES SERVER; do parts="$parts -DLLAMA_BUILD_$part=OFF"; done
    # shellcheck disable=SC2046,SC2086  # words
    build "$sources" "$cache/build-$version" "$cache/build-$version.log" "$1" -DBUILD_SHARED_LIBS=ON \
        -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$cache/build-$version/bin" \
        -DCMAKE_RUNTIME_OUTPUT_DIRECTORY="$cache/build-$version/bin" $parts $(cpu_options)
}

build_adapter() { # TARGETS OPTION…
    targets=$1
    shift
    build adapters/ggml "build/ggml-$version" "build/ggml-$version.log" "$targets" \
        -DQKV_GGML_SOURCE="$sources/ggml" -DQKV_GGML_LIBRARIES="$cache/build-$version/bin" "$@"
}

case $what in
sources)
    fetch
    echo "$sources"
    ;;
tests)
    fetch
    build_host "ggml ggml-cpu"
    test "$version" = $oldest || more=test-backend-ops # which is of the newest only, and slow to compile
    build_adapter "ggml-qkv test_ggml test_products test_experts ${more:-}" -DQKV_GGML_TESTS=ON
    echo "$cache/build-$version/bin"
    ;;
llama)
    fetch
    build_host "ggml ggml-cpu llama"
    build_adapter "ggml-qkv llama_compare ggml_experts" -DQKV_GGML_COMPARE=ON
    echo "$PWD/build/ggml-$version"
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
