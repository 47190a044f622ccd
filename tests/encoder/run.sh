#!/bin/sh
# Tests examples/encoder: its tokens against the package tokenizers, its vectors against a NumPy encoder in float64,
# what it prints and draws, models of other kinds, damaged files.      sh tests/encoder/run.sh [BUILD_DIR]
#
# BUILD_DIR (default build/release) holds examples/encoder and libqkv.a. Ends with "N passed, N failed, N skipped"; the
# exit status is 1 if anything failed, 77 if nothing could run.
# SPDX-License-Identifier: MIT
set -u
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
build=$(cd "${1:-$root/build/release}" 2>/dev/null && pwd)
tests=$root/tests/encoder
encoder=$build/examples/encoder
# shellcheck source=../examples.sh
. "$root/tests/examples.sh"

build_asan() {
    # shellcheck disable=SC2046  # words
    ${CC:-cc} -std=c11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -I"$root/include" \
        -I"$root/adapters/pthreads" -I"$root/examples/common" "$root"/examples/common/*.c \
        $(pkg-config --cflags libcjson libutf8proc) -o "$build/encoder-asan" "$root"/examples/encoder/*.c \
        "$build/libqkv.a" $(pkg-config --libs libcjson libutf8proc) -lm -lpthread
}

if [ ! -x "$encoder" ]; then
    skip 1 "the encoder is not built in ${1:-build/release}: libcjson or libutf8proc is missing, or the build failed"
    finish
fi
prepare_python
model=$(sh "$root/scripts/model.sh" 2>"$log") || model=
[ -n "$model" ] || reason=$(tail -n 1 "$log")

if [ -z "$model" ]; then
    skip 24 "comparison with tokenizers: $reason"
elif ! has "$python" tokenizers; then
    skip 24 "comparison with tokenizers: the package tokenizers $tokenizers can't be installed"
else
    run "tokens" "$python" "$tests/test_tokenizer.py" "$encoder" "$model"
fi

if ! has "$python" numpy; then
    skip 239 "everything that needs NumPy, which is not there and can't be installed"
    finish
fi
if [ -z "$model" ]; then
    skip 55 "vectors and reports of the real model: $reason"
else
    run "vectors" "$python" "$tests/test_embeddings.py" "$encoder" "$model"
    run "reports" "$python" "$tests/test_report.py" "$encoder" "$model"
fi
run "models of other kinds" "$python" "$tests/test_models.py" "$encoder"
run "damaged files" "$python" "$tests/test_damaged.py" "$encoder" ${model:+"$model"}
if build_asan >"$log" 2>&1; then
    run "damaged files, AddressSanitizer" "$python" "$tests/test_damaged.py" "$build/encoder-asan" ${model:+"$model"}
    run "models of other kinds, AddressSanitizer" "$python" "$tests/test_models.py" "$build/encoder-asan"
else
    skip 92 "damaged files under AddressSanitizer: $(tail -n 1 "$log")"
fi
finish
