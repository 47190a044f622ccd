#!/bin/sh
# The tables of docs/generate.md: brings the models and the text, has llama.cpp make the other types of weights, and
# measures. Without llama.cpp (sh scripts/llama.sh builds it) only perplexity, of the files as they come.
#
#   sh bench/engines/generate.sh speed [OPTION…]          --threads 2 --rounds 5 --prompt 512 4096
#   sh bench/engines/generate.sh perplexity [OPTION…]     --caches f32 f16; 40 cells, each about half a minute of a core
#
# SPDX-License-Identifier: MIT
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
program=generate
# shellcheck source=../../scripts/example.sh
. "$root/scripts/example.sh"
models=${XDG_CACHE_HOME:-$HOME/.cache}/qkv
what=${1:-}
test "$what" = speed || test "$what" = perplexity || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
shift
sh "$root/scripts/packages.sh" demo >&2
build_program

smollm2=$(sh "$root/scripts/generate.sh" --fetch)
gemma=$(sh "$root/scripts/generate.sh" --fetch gemma3-270m)
reference=$build/llama_reference
reason=$(sh "$root/tests/generate/llama_reference.sh" "$reference" 2>&1) || {
    say "without llama.cpp: $(echo "$reason" | tail -n 1)"
    reference=
}

smollm2_of() { # TYPE: prints the file, made of the Q4_1 one
    file=$models/SmolLM2-135M-Instruct.$1.gguf
    if [ ! -e "$file" ]; then
        "$reference" quantize "$smollm2" "$file.part" "$(echo "$1" | tr Q q)" >&2
        mv "$file.part" "$file"
    fi
    echo "$file"
}

tables() {
    python3 "$root/bench/engines/generate_tables.py" "$@"
}

if [ "$what" = speed ]; then
    test -n "$reference" || exit 77
    tables speed "$built" "$reference" "$smollm2" "$(smollm2_of Q4_0)" "$gemma" "$@"
    exit
fi

# Prose under a free licence (MIT or Apache 2.0): 6,300 tokens on the design of the package trio.
text=$models/trio-0.31.0/docs/source/design.rst
if [ ! -e "$text" ]; then
    work=$(mktemp -d "$models/unpacking.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    sh "$root/scripts/pypi.sh" trio 0.31.0 trio-0.31.0.tar.gz \
        f71d551ccaa79d0cb73017a33ef3264fde8335728eb4c6391451fe5d253a9d5b "$work"
    mv "$work/trio-0.31.0" "$models/"
fi
set -- "$gemma" "$@"
test -z "$reference" || set -- "$(smollm2_of Q8_0)" "$(smollm2_of Q5_0)" "$(smollm2_of Q4_0)" "$@"
tables perplexity "$built" "$text" "$smollm2" "$@"
if [ -n "$reference" ]; then
    echo
    for file in f16 Q4_1 Q8_0 Q5_0 Q4_0; do
        echo "llama.cpp, $file: $("$reference" perplexity "$(smollm2_of $file)" "$(getconf _NPROCESSORS_ONLN)" "$text")"
    done
fi
