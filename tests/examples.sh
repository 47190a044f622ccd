# What the tests of examples/encoder and examples/generate share; read by their run.sh, which have set root.
# SPDX-License-Identifier: MIT
# shellcheck shell=sh disable=SC2034
venv=${XDG_CACHE_HOME:-$HOME/.cache}/qkv/test-venv
tokenizers=0.23.3
numpy=2.4.6
passed=0 failed=0 skipped=0
export PYTHONDONTWRITEBYTECODE=1
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

skip() { # COUNT REASON
    echo "skipped: $2 ($1 tests)"
    skipped=$((skipped + $1))
}

fail() { # REASON
    echo "FAILED  $1"
    failed=$((failed + 1))
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
        fail "$name ended with status $status before its last line"
        return
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

# A Python of our own beside the models: with the pinned tokenizers, and NumPy if the system has none.
prepare_python() { # sets python
    python=python3
    { [ -x "$venv/bin/python" ] || python3 -m venv --system-site-packages "$venv"; } >"$log" 2>&1 &&
        { [ "$("$venv/bin/python" -c 'import tokenizers; print(tokenizers.__version__)' 2>/dev/null)" = $tokenizers ] ||
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 --timeout 20 \
                "tokenizers==$tokenizers"; } >"$log" 2>&1 &&
        { has "$venv/bin/python" numpy || "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --no-deps --retries 1 --timeout 20 "numpy==$numpy"; } >"$log" 2>&1 ||
        echo "no Python environment of our own: $(tail -n 1 "$log")"
    [ ! -x "$venv/bin/python" ] || python=$venv/bin/python
}
