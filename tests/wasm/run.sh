#!/bin/sh
# The kernel sets of WebAssembly under Node: every test of kernels and functions, and of the bits, for both and for what
# runs without them; the choice among them; and the program of docs/wasm.md, by the page's own commands.
#
#   sh tests/wasm/run.sh             ends with "N passed, N failed, N skipped"
#   sh tests/wasm/run.sh measure     what each set costs, with and without SIMD in the module
#
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD work=$PWD/build/wasm
missing() {
    echo "$*"
    exit 77
}
node=$(command -v node) || missing "node is not installed: no kernel set of WebAssembly is tested (about 290 tests)"
test "$("$node" -p 'parseInt(process.versions.node)')" -ge 20 || missing "node is older than 20 (about 290 tests)"
zig=$(sh scripts/compilers.sh find zig | tail -n 1)
test -x "$zig" || missing "$zig (about 290 tests)"
mkdir -p "$work"
"$zig" --version | head -n 1
echo "node $("$node" --version)"

# Each source by itself, the library's and others, then a program.
program() { # FILE 'SOURCE…' OPTION…
    file=$1 sources=$2
    shift 2
    rm -rf "$file.objects" && mkdir -p "$file.objects" || return 1
    # shellcheck disable=SC2086  # words
    printf '%s\n' src/*.c src/*/*.c src/*/*/*.c $sources | FILE=$file ZIG=$zig xargs -I '{}' sh -c '
        source=$0
        "$ZIG" -target wasm32-wasi -std=c11 -O2 -Iinclude -Isrc "$@" -c "$source" \
            -o "$FILE.objects/$(basename "$source" .c).o"' '{}' "$@" || return 1
    "$zig" -target wasm32-wasi "$file.objects"/*.o -o "$file"
}

if test "${1:-}" = measure; then
    for simd in "-msimd128 -mrelaxed-simd" ""; do
        echo "compiled with ${simd:-no option}:"
        # shellcheck disable=SC2086  # words
        program "$work/measure.wasm" tests/wasm/measure.c $simd && "$node" tests/wasm/run.mjs "$work/measure.wasm" ||
            exit 1
    done
    exit 0
fi

passed=0 failed=0 skipped=0
judge() { # STATUS WHAT LOG
    if test "$1" = 0; then
        passed=$((passed + 1))
        echo "ok      $2"
    else
        failed=$((failed + 1))
        tail -n 25 "$3"
        echo "FAILED  $2"
    fi
}

printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$node" "$root/tests/wasm/run.mjs" >"$work/run" && chmod +x "$work/run"
ARGUMENTS=--qemu sh scripts/check/bare.sh "$work/tests" "$work/run" "$zig" -target wasm32-wasi -O2 \
    -msimd128 -mrelaxed-simd >"$work/tests.log" 2>&1
cat "$work/tests.log"
# shellcheck disable=SC2046  # words
set -- $(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$work/tests.log" | tail -n 1)
passed=${1:-0} failed=${2:-1} skipped=${3:-0}
for set in simd128 relaxed; do
    test "$set" = simd128 || "$node" -p process.arch | grep -qx arm64 || grep -qw fma /proc/cpuinfo 2>/dev/null || {
        echo "skipped: relaxed: the CPU has no fma"
        skipped=$((skipped + 1))
        continue
    }
    grep -q "^kernel sets: .* $set .*tested" "$work/tests/log/test_gemm"
    judge $? "the tests ran on $set" "$work/tests/log/test_gemm"
done

# Which set is chosen, by an engine that rounds relaxed SIMD's multiply-add once and by one that rounds it twice.
selected() { # SET V8-OPTION…
    want=$1
    shift
    "$node" "$@" tests/wasm/run.mjs "$work/qkv-info.wasm" >"$work/info.log" 2>&1 &&
        grep -qE "^ +$want +selected" "$work/info.log"
}
"$zig" -target wasm32-wasi -std=c11 -O1 -D_GNU_SOURCE -Iinclude tools/*.c "$work"/tests/qkv/*.o \
    -o "$work/qkv-info.wasm" >"$work/info.log" 2>&1 &&
    "$node" tests/wasm/run.mjs "$work/qkv-info.wasm" --selftest >"$work/info.log" 2>&1
judge $? "qkv-info --selftest" "$work/info.log"
if grep -qw fma /proc/cpuinfo 2>/dev/null && "$node" -p process.arch | grep -qx x64; then
    selected relaxed
    judge $? "relaxed is chosen where its multiply-add is an fma" "$work/info.log"
    selected simd128 --no-enable-fma3 && grep -q 'relaxed.*missing: relaxed_fma' "$work/info.log"
    judge $? "simd128 is chosen where it rounds twice" "$work/info.log"
else
    echo "skipped: the choice: the CPU is no x86-64 with fma"
    skipped=$((skipped + 2))
fi

# The page's program: fences "```c own.c" are files, "```sh" commands, "```text" what the last of them prints, where
# the CPU has fma.
rm -rf "$work/page" && mkdir -p "$work/page/bin"
printf '#!/bin/sh\nshift\nexec "%s" "$@"\n' "$zig" >"$work/page/bin/zig" && chmod +x "$work/page/bin/zig"
(
    cd "$work/page" && awk '
        /^```/ && file { close(file); file = ""; next }
        /^```[a-z]+ [^ ]+$/ { file = $2; next }
        /^```sh$/ { file = "commands"; next }
        /^```text$/ { file = "output"; next }
        file { print > file }' "$root/docs/wasm.md" &&
        QKV=$root PATH=$work/page/bin:$PATH sh -e ./commands >printed &&
        sed 's/^simd128:/relaxed:/' printed | diff output -
) >"$work/page.log" 2>&1
judge $? "the program of docs/wasm.md" "$work/page.log"

echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0
