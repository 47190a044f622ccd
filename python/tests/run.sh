#!/bin/sh
# Builds the package's sdist, and from that its wheel; installs the wheel into an empty environment and runs the tests
# there. Then those of qkv.torch and qkv.transformers, where the hosts of requirements.txt can be installed.
#   sh python/tests/run.sh [pytest option…]
# Ends with "N passed, N failed, N skipped"; the exit status is 1 if anything failed, 77 where nothing could be run.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$PWD/build/python tests=$PWD/python/tests
passed=0 failed=0 skipped=0

skip() {
    echo "skipped: $*"
    exit 77
}

environment() { # NAME package…: made if it is not there, with those packages
    name=$1
    shift
    test -x "$work/$name/bin/python" || python3 -m venv "$work/$name" || return 1
    test $# = 0 || "$work/$name/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"
}

counted() { # WORD: how often the last line of pytest has it
    tail -n 1 "$work/log" | tr ',' '\n' | sed -nE "s/(.*[^0-9])?([0-9]+) $1.*/\2/p"
}

run() { # ENVIRONMENT pytest argument…: from a folder where only the installed package is found
    python=$work/$1/bin/python
    shift
    (cd "$work" && "$python" -m pytest -p no:cacheprovider -q --tb=short -rs --color=no "$@") >"$work/log" 2>&1
    status=$?
    cat "$work/log"
    p=$(counted passed) f=$(counted failed) e=$(counted 'errors?') s=$(counted skipped)
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0} + ${e:-0})) skipped=$((skipped + ${s:-0}))
    test $status = 0 || test $((${f:-0} + ${e:-0})) -gt 0 || failed=$((failed + 1))
}

mkdir -p "$work"
python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    skip "Python 3.11 with venv is not installed"
environment tools build 'scikit-build-core>=0.10' >"$work/log" 2>&1 ||
    skip "build and scikit-build-core can't be installed: $(tail -n 1 "$work/log")"
rm -rf "$work/dist" "$work/empty"
"$work/tools/bin/python" -m build --no-isolation --skip-dependency-check --outdir "$work/dist" . >"$work/log" 2>&1 ||
    { tail -n 30 "$work/log"; echo "the package does not build"; exit 1; }
grep -E 'warning:' "$work/log" && { echo "the package builds with warnings"; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
echo "$(basename "$work"/dist/*.tar.gz), $(basename "$wheel")"
case $wheel in *-cp311-abi3-*) ;; *) echo "that is no wheel for the stable ABI"; exit 1 ;; esac
tar -tzf "$work"/dist/*.tar.gz | grep -q '/include/qkv.h$' || { echo "the sdist lacks the library"; exit 1; }

environment empty "$wheel" pytest >"$work/log" 2>&1 ||
    skip "NumPy and pytest can't be installed: $(tail -n 1 "$work/log")"
run empty "$tests/test_arrays.py" "$@"
if environment hosts pytest --requirement "$tests/requirements.txt" >"$work/log" 2>&1 &&
    environment hosts --force-reinstall --no-deps "$wheel" >"$work/log" 2>&1; then
    run hosts "$tests/test_torch.py" "$tests/test_transformers.py" "$@"
else
    echo "skipped: PyTorch and Transformers can't be installed: $(tail -n 1 "$work/log")"
    skipped=$((skipped + $(cat "$tests/test_torch.py" "$tests/test_transformers.py" | grep -c '^def test_')))
fi
echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0 && test $passed -gt 0
