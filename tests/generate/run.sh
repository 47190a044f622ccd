#!/bin/sh
# Tests examples/generate: its tokens against llama.cpp's and the package tokenizers', its logits against a decoder in
# NumPy in float64, the same text in every way of running it, what it prints, damaged files.
#   sh tests/generate/run.sh [BUILD_DIR]
#
# BUILD_DIR (default build/release) holds examples/generate, qkv-info and libqkv.a. llama.cpp is asked where
# scripts/llama.sh has built it. Ends with "N passed, N failed, N skipped"; the exit status is 1 if anything failed, 77
# if nothing could run.
# SPDX-License-Identifier: MIT
set -u
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
build=$(cd "${1:-$root/build/release}" 2>/dev/null && pwd)
tests=$root/tests/generate
generate=$build/examples/generate
# shellcheck source=../examples.sh
. "$root/tests/examples.sh"
export PYTHONPATH="$root/tests/encoder" # results.py, tokenizer_lines.py

build_asan() {
    # shellcheck disable=SC2046  # words
    ${CC:-cc} -std=c11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -I"$root/include" \
        -I"$root/adapters/pthreads" -I"$root/examples/common" "$root"/examples/common/*.c \
        $(pkg-config --cflags libutf8proc) -o "$build/generate-asan" "$root"/examples/generate/*.c \
        "$build/libqkv.a" $(pkg-config --libs libutf8proc) -lm -lpthread
}

if [ ! -x "$generate" ]; then
    skip 1 "examples/generate is not built in ${1:-build/release}: libutf8proc is missing, or the build failed"
    finish
fi
prepare_python
model=$(sh "$root/scripts/generate.sh" --fetch 2>"$log") || model=
[ -n "$model" ] || reason=$(tail -n 1 "$log")
gemma=${XDG_CACHE_HOME:-$HOME/.cache}/qkv/gemma-3-270m-q4_k_m.gguf
reference=$build/llama_reference
sh "$tests/llama_reference.sh" "$reference" >"$log" 2>&1
case $? in
0) ;;
77) reference= llama_reason=$(tail -n 1 "$log") ;;
*)
    cat "$log"
    fail "tests/generate/llama_reference.c does not compile"
    reference= llama_reason="see above"
    ;;
esac

if ! has "$python" numpy; then
    skip 217 "everything, as NumPy is not there and can't be installed"
    finish
fi
if [ -z "$model" ]; then
    skip 38 "the real model: $reason"
else
    [ -n "$reference" ] || skip 16 "comparison of tokens with llama.cpp: $llama_reason"
    run "tokens" "$python" "$tests/test_tokens.py" "$generate" "$model" ${reference:+"$reference"}
fi
if [ -e "$gemma" ]; then
    run "tokens of Gemma" "$python" "$tests/test_tokens.py" "$generate" "$gemma" ${reference:+"$reference"}
else
    gemma=
    skip 18 "Gemma 3: sh scripts/generate.sh --fetch gemma3-270m has not fetched it (238 MB)"
fi
run "logits" "$python" "$tests/test_logits.py" "$generate" ${model:+"$model"} ${gemma:+"$gemma"}
run "the same text" "$python" "$tests/test_same_text.py" "$generate" "$build/qkv-info" ${model:+"$model"}
run "the program" "$python" "$tests/test_program.py" "$generate" ${model:+"$model"}
run "damaged files" "$python" "$tests/test_damaged_gguf.py" "$generate"
if build_asan >"$log" 2>&1; then
    run "damaged files, AddressSanitizer" "$python" "$tests/test_damaged_gguf.py" "$build/generate-asan"
else
    skip 29 "damaged files under AddressSanitizer: $(tail -n 1 "$log")"
fi
finish
