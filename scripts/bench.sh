#!/bin/sh
# Benchmarks, and what is made of their results.
#
#   sh scripts/bench.sh quick [OPTION…]          some cases on one core, in less than a minute
#   sh scripts/bench.sh full [OPTION…]           every case, one and two threads, in less than 20 minutes
#   sh scripts/bench.sh peers                    installs PyTorch, ONNX Runtime and OpenVINO (in build/peers): the runs
#                                                after it compare with them
#   sh scripts/bench.sh ggml                     after that: adds llama.cpp, whose ggml it compiles for this CPU
#   sh scripts/bench.sh engines [THREADS]        models in llama.cpp, PyTorch and Transformers with qkv and without:
#                                                adapters/ggml/README.md, python/README.md
#   sh scripts/bench.sh generate speed|perplexity [OPTION…]   the tables of docs/generate.md
#   sh scripts/bench.sh compilers [NAME…]        the speed by each compiler of scripts/compilers.sh next to the first,
#                                                which must be 0.95 of it
#   sh scripts/bench.sh report RESULT.json…      the table of a run again
#   sh scripts/bench.sh plot RESULT.json         its pictures, beside it: a roofline, and each case next to the others
#   sh scripts/bench.sh publish NAME RESULT.json…   table and pictures of a CPU: bench/results, docs/benchmarks.md
#
# OPTION: --out=FILE (default build/bench/results.json), --threads=1,4, --isa=avx2, --no-peers, and those of Google
# Benchmark, such as --benchmark_filter=decode. SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
python=build/peers/bin/python

usage() {
    sed -n '2,19s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

build() {
    sh scripts/packages.sh bench
    sh scripts/packages.sh baselines || echo "qkv: going on without the baselines that are missing"
    cmake -S . -B build/bench -DCMAKE_BUILD_TYPE=Release -DQKV_BUILD_TESTS=OFF -DQKV_BUILD_EXAMPLES=OFF >/dev/null
    cmake --build build/bench -j "$(getconf _NPROCESSORS_ONLN)" >/dev/null
}

what=${1:-full}
case $what in
--*) what=full ;;
*) test $# = 0 || shift ;;
esac
case $what in
quick | full)
    out=build/bench/results.json peers=yes
    for option in "$@"; do
        shift
        case $option in
        --out=*) out=${option#--out=} ;;
        --no-peers) peers=no ;;
        *) set -- "$@" "$option" ;;
        esac
    done
    export QKV_BENCH_COMMAND="sh scripts/bench.sh $what${*:+ $*}"
    test $what = full || set -- --quick "$@"
    build
    if [ $peers = yes ] && [ -x $python ]; then
        set -- --python=$python --peers=bench/peers/runner.py "$@"
    fi
    mkdir -p "$(dirname "$out")"
    status=0
    build/bench/bench/qkv-bench --benchmark_out="$out" --benchmark_out_format=json "$@" || status=$?
    test -s "$out" && python3 bench/report.py "$out"
    exit $status
    ;;
peers)
    sh scripts/packages.sh peers
    test -x $python || python3 -m venv build/peers
    $python -m pip install --quiet --requirement bench/peers/requirements.txt
    $python -m pip list 2>/dev/null | grep -E '^(torch|onnxruntime|openvino|matplotlib) '
    ;;
ggml)
    test -x $python || usage
    sources=$(sh scripts/ggml.sh sources | tail -n 1)
    set -- -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON
    for part in COMMON TESTS TOOLS EXAMPLES SERVER; do set -- "$@" -DLLAMA_BUILD_$part=OFF; done
    rm -rf build/peers/ggml
    cmake -S "$sources" -B build/peers/ggml "$@" >/dev/null
    cmake --build build/peers/ggml --target ggml-cpu -j "$(getconf _NPROCESSORS_ONLN)" >/dev/null
    ;;
engines)
    threads=${1:-$(getconf _NPROCESSORS_ONLN)}
    sh scripts/llama.sh --speed --threads "$threads"
    hosts=build/python/hosts/bin/python
    test -x $hosts || { echo "skipped: PyTorch and Transformers: sh scripts/test.sh python installs them"; exit 0; }
    exec $hosts bench/engines/pytorch.py --threads="$threads"
    ;;
generate) exec sh bench/engines/generate.sh "$@" ;;
compilers)
    build
    test $# -gt 0 || set -- $(sh scripts/compilers.sh list)
    link=$(cat build/bench/bench/CMakeFiles/qkv-bench.dir/link.txt) root=$PWD programs=
    for name in "$@"; do
        cc=$(sh scripts/compilers.sh find "$name" | tail -n 1)
        test -x "$cc" || { echo "skipped: $name: $cc"; continue; }
        folder=$root/build/bench/$name
        mkdir -p "$folder"
        for source in src/*.c src/*/*.c src/*/*/*.c; do
            "$cc" -std=c11 -O3 -DNDEBUG -Iinclude -c "$source" -o "$folder/$(basename "$source" .c).o"
        done
        rm -f "$folder/libqkv.a" && ar rcs "$folder/libqkv.a" "$folder"/*.o
        (cd build/bench/bench && eval "$(echo "$link" |
            sed "s|\.\./libqkv\.a|'$folder/libqkv.a'|; s|-o qkv-bench |-o '$folder/qkv-bench' |")")
        programs="$programs $name=$folder/qkv-bench"
    done
    # shellcheck disable=SC2086  # words
    exec python3 bench/compilers.py $programs
    ;;
report) python3 bench/report.py "$@" ;;
plot)
    test $# -ge 1 || usage
    test -x $python || python=python3 # which then needs matplotlib
    exec $python bench/plot.py "$@"
    ;;
publish)
    test $# -ge 2 || usage
    name=$1
    shift
    test -x $python || python=python3
    python3 bench/report.py --publish="$name" "$@"
    $python bench/plot.py "bench/results/$name.json"
    ;;
*) usage ;;
esac
