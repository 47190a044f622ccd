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
venv=${XDG_CACHE_HOME:-$HOME/.cache}/qkv/test-venv
tokenizers=0.23.3
numpy=2.4.6
passed=0 failed=0 skipped=0
export PYTHONDONTWRITEBYTECODE=1

skip() { # COUNT REASON
    echo "skipped: $2 ($1 tests)"
    skipped=$((skipped + $1))
}

run() { # NAME PYTHON SCRIPT ARGUMENT…
    echo "-- $1"
    name=$1
    shift
    "$@" >"$log" 2>&1
    status=$?
    grep -v '^counts ' "$log"
    counts=$(grep '^counts ' "$log")
    if [ -z "$counts" ]; then
        echo "FAILED  $name ended with status $status before its last line"
        counts='counts 0 1 0'
    fi
    # shellcheck disable=SC2086  # words
    set -- $counts
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ] || exit 1
    [ "$passed" -gt 0 ] || exit 77
    exit 0
}

has() { # PYTHON MODULE
    "$1" -c "import $2" >/dev/null 2>&1
}

# A Python of our own beside the model: with the pinned tokenizers, and NumPy if the system has none.
prepare_python() {
    [ -x "$venv/bin/python" ] || python3 -m venv --system-site-packages "$venv" || return 1
    [ "$("$venv/bin/python" -c 'import tokenizers; print(tokenizers.__version__)' 2>/dev/null)" = "$tokenizers" ] ||
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 --timeout 20 \
            "tokenizers==$tokenizers"
    has "$venv/bin/python" numpy || "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --retries 1 --timeout 20 "numpy==$numpy"
}

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
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

prepare_python >"$log" 2>&1 || echo "no Python environment of our own: $(tail -n 1 "$log")"
python=python3
[ ! -x "$venv/bin/python" ] || python=$venv/bin/python
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
