#!/bin/sh
# The library and its tests by a compiler for a target without cmocka, pages, threads, processes or longjmp: with
# tests/bare in their place, run by an emulator.
#
#   sh scripts/check/bare.sh FOLDER RUNNER COMPILER [OPTION…]
#   sh scripts/check/bare.sh build/bare env gcc -O1
#
# FOLDER takes what is compiled; RUNNER is called as "RUNNER PROGRAM ARGUMENT…". Environment: TESTS, sources of test
# programs (else the kernels', the functions', test_bits and test_same_bits); ARGUMENTS for each (else --quick; also
# --qemu, --isa NAME, --seed N, a filter: targets without environment variables have those only); LINK, what is linked
# behind (else -lm); JOBS (else as many as there are processors). Debian's newlib wants the option
# "-isystem /usr/include/newlib": GCC's own stdint.h hides the one that its inttypes.h needs. By hand, a program is
#
#   COMPILER -std=c11 -Itests/bare -Itests -Iinclude -Isrc tests/FOLDER/test_NAME.c \
#       tests/harness.c tests/harness_memory.c tests/bare/cmocka_bare.c tests/bare/harness_bare.c \
#       [tests/oracle*.c, for those of tests/promises] LIBRARY -lm
#
# Ends with "N passed, N failed, N skipped"; the exit status is 1 if anything failed.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
test $# -ge 3 || {
    sed -n '2,22s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
folder=$1 runner=$2
shift 2
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
tests=${TESTS:-$(ls tests/kernels/test_*.c tests/functions/test_*.c) tests/promises/test_bits.c
    tests/promises/test_same_bits.c}
rm -rf "$folder" && mkdir -p "$folder/qkv" "$folder/harness" "$folder/log" || exit 1

# One source at a time: "zig cc -c" takes no more.
cat >"$folder/compile" <<'SCRIPT'
folder=$1 source=$2
shift 2
case $source in
src/*) object=$folder/qkv/$(basename "$source" .c).o ;;
tests/harness*.c | tests/oracle*.c | tests/bare/*_bare.c) object=$folder/harness/$(basename "$source" .c).o ;;
*) object=$folder/$(basename "$source" .c).o ;;
esac
"$@" -std=c11 -Itests/bare -Itests -Iinclude -Isrc -c "$source" -o "$object" || { echo "FAILED: $source"; exit 1; }
SCRIPT
# shellcheck disable=SC2086  # words
for source in src/*.c src/*/*.c src/*/*/*.c tests/harness.c tests/harness_memory.c tests/oracle*.c tests/bare/*.c \
    $tests; do
    echo "$source"
done | xargs -P "$jobs" -I '{}' sh "$folder/compile" "$folder" '{}' "$@" || {
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
}
cat >"$folder/run" <<'SCRIPT'
folder=$1 runner=$2 name=$3
shift 3
log=$folder/log/$name
# shellcheck disable=SC2086  # words
"$@" "$folder/$name.o" "$folder"/harness/*.o "$folder"/qkv/*.o ${LINK:--lm} -o "$folder/$name.program" >"$log" 2>&1 &&
    $runner "$folder/$name.program" ${ARGUMENTS---quick} >>"$log" 2>&1 </dev/null
echo "exit status $?" >>"$log"
rm -f "$folder/$name.program"
SCRIPT
# shellcheck disable=SC2086  # words
for source in tests/bare/bare_selftest.c $tests; do
    basename "$source" .c
done | xargs -P "$jobs" -I '{}' sh "$folder/run" "$folder" "$runner" '{}' "$@"

# What its tests plant, the stand-ins find.
caught=$(grep -c '^\[  FAILED  \] caught: ' "$folder/log/bare_selftest")
passed=0 failed=0 skipped=0
if test "$caught" = "$(grep -c 'qt_once("caught: ' tests/bare/bare_selftest.c)" &&
    ! grep '^\[  FAILED  \] ' "$folder/log/bare_selftest" | grep -qvE 'caught: |test\(s\)' &&
    grep -q '^\[       OK \] inside again' "$folder/log/bare_selftest"; then
    passed=1
    echo "ok      bare_selftest: $caught faults were caught"
else
    failed=1
    cat "$folder/log/bare_selftest"
    echo "FAILED  bare_selftest"
fi
# shellcheck disable=SC2086  # words
for source in $tests; do
    name=$(basename "$source" .c) log=$folder/log/$(basename "$source" .c)
    p=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p' "$log")
    f=$(sed -nE 's/^\[  FAILED  \] ([0-9]+) test.*/\1/p' "$log")
    s=$(sed -nE 's/^\[  SKIPPED \] ([0-9]+) test.*/\1/p' "$log")
    grep -q '^exit status 0$' "$log" || f=${f:-1} # and nothing is said where a program broke off
    test -n "$p$f" || f=1
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0})) skipped=$((skipped + ${s:-0}))
    if test "${f:-0}" = 0; then
        echo "ok      $name: ${p:-0} passed, ${s:-0} skipped"
    else
        tail -n 30 "$log"
        echo "FAILED  $name: ${p:-0} passed, ${f:-0} failed"
    fi
    sed -n 's/^skipped: /skipped: '"$name"': /p' "$log"
done
sed -n '/^kernel sets: /{p;q;}' "$folder/log/$name"
echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0
