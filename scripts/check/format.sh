#!/bin/sh
# C and C++ are formatted as .clang-format says, by clang-format 14 (another version formats otherwise): the system's,
# or the one of PyPI, unpacked below build/.
#   sh scripts/check/format.sh [--fix] [FILE…]     --fix formats; else it shows what is to be changed
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
version=14.0.6 unpacked=build/clang-format
wheel=clang_format-$version-py2.py3-none-manylinux_2_12_x86_64.manylinux2010_x86_64.whl
sha256=d7c1c5e404c58e55f0170f01b3c5611dce6c119e62b5d1020347e0ad97d5a047
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
fix=no
test "${1:-}" != --fix || { fix=yes && shift; }

format=
for candidate in clang-format-14 clang-format $unpacked/clang_format/data/bin/clang-format; do
    "$candidate" --version 2>/dev/null | grep -q 'version 14\.' && format=$candidate && break
done
if [ -z "$format" ] && [ "$(uname -sm)" = "Linux x86_64" ] &&
    sh scripts/pypi.sh clang-format $version $wheel $sha256 $unpacked >&2; then
    format=$unpacked/clang_format/data/bin/clang-format
    chmod +x $format
fi
test -n "$format" || {
    echo "clang-format 14 is not installed (Debian 12: clang-format-14) and can't be fetched"
    exit 77
}

if [ $# -gt 0 ]; then
    printf '%s\n' "$@"
else
    find include src adapters tests bench tools examples python -name '*.[ch]' -o -name '*.cc'
fi | sort >"$work/files"
if [ $fix = yes ]; then
    xargs "$format" -i --style=file <"$work/files"
    exit
fi
while read -r file; do
    "$format" --style=file "$file" | diff -u "$file" - >>"$work/diff"
done <"$work/files"
if [ -s "$work/diff" ]; then
    head -n 60 "$work/diff"
    echo "$(grep -c '^-[^-]\|^-$' "$work/diff") lines of $(grep -c '^--- ' "$work/diff") files are to be formatted:" \
        "sh scripts/check/format.sh --fix"
    exit 1
fi
echo "$(wc -l <"$work/files") files, formatted by $("$format" --version)"
