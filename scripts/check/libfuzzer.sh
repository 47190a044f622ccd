# Looks for a clang that has libFuzzer; read by the checks that fuzz, which have set dir.
# SPDX-License-Identifier: MIT
# shellcheck shell=sh disable=SC2154
clang=
for cc in clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do
    echo 'int LLVMFuzzerTestOneInput(const char *d, long n); int LLVMFuzzerTestOneInput(const char *d, long n)' \
        '{ (void)d; (void)n; return 0; }' >"$dir/probe.c"
    $cc -fsanitize=fuzzer,address "$dir/probe.c" -o "$dir/probe" 2>/dev/null && clang=$cc && break
done
test -n "$clang" || { echo "no clang with libFuzzer is installed (Debian: clang and libclang-rt-dev)"; exit 77; }
