#!/bin/sh
# Makes the files of a release from a commit, into build/release-VERSION/: the sources as a tarball, the library as one
# file with its header, and SHA256SUMS. Each is made twice, from two checkouts, and must come out the same; then the
# tarball is unpacked, built by its README's commands, and the README's example runs on it.
#
#   sh scripts/release.sh [COMMIT]    a tag as a rule; default: HEAD
#   sh scripts/release.sh --check     only: do all version numbers of the working tree agree, is the ABI recorded
#
# Nothing is signed; docs/releasing.md says how to.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT

fail() {
    echo "release: $*" >&2
    exit 1
}

# --------------------------------------------------------------------------------------------------- the versions

version_of() { # TREE
    sed -nE 's/^#define QKV_VERSION_(MAJOR|MINOR|PATCH) //p' "$1/include/qkv.h" | paste -s -d . -
}

# What every place of a tree says its version is: WHERE VERSION. Files that read qkv.h are not here.
versions() { # TREE
    (
        cd "$1"
        echo "include/qkv.h $(version_of .)"
        echo "CHANGELOG.md $(sed -nE 's/^## (Unreleased: )?\[?([0-9]+(\.[0-9]+){2}).*/\2/p' CHANGELOG.md | head -n 1)"
        echo "debian/changelog $(sed -nE '1s/^qkv \(([0-9.]+)-.*/\1/p' debian/changelog)"
        echo "vcpkg.json $(sed -nE 's/.*"version[a-z-]*": "([^"]*)".*/\1/p' packaging/vcpkg/ports/qkv/vcpkg.json)"
        grep -q 'load(self, self._tree / "include" / "qkv.h")' packaging/conan/conanfile.py ||
            echo "conanfile.py $(sed -nE 's/^ *version = "([^"]*)".*/\1/p' packaging/conan/conanfile.py)"
        grep -q '^input = "include/qkv.h"' pyproject.toml ||
            echo "pyproject.toml $(sed -nE 's/^version = "([^"]*)".*/\1/p' pyproject.toml)"
        test ! -e meson.build || grep -q 'include/qkv\.h' meson.build ||
            echo "meson.build $(sed -nE "s/.*[^_a-z]version *: *'([0-9.]+)'.*/\1/p" meson.build | head -n 1)"
        echo "libqkv.symbols $(sed -nE 's/.*@Base ([0-9.]+)$/\1/p' debian/libqkv*.symbols | sort -V | tail -n 1)"
        echo "abi $(cat "abi/libqkv.so.$(version_of . | cut -d. -f1).abi" | sed -nE '1s/.*as of ([0-9.]+);.*/\1/p')"
    )
}

check() { # TREE
    version=$(version_of "$1")
    versions "$1" >"$work/versions"
    while read -r where found; do
        case $where in
        abi) test -n "$found" || { echo "$where: nothing is recorded: sh scripts/check/abi.sh --record"; } ;;
        *.symbols) test "$(printf '%s\n' "$version" "$found" | sort -V | tail -n 1)" = "$version" ||
            echo "$where: $found, later than $version" ;;
        *) test "$found" = "$version" || echo "$where: ${found:-no version}, not $version" ;;
        esac
    done <"$work/versions" >"$work/wrong"
    test ! -s "$work/wrong" || { cat "$work/wrong" >&2; fail "the version of include/qkv.h is $version"; }
    (cd "$1" && sh scripts/check/abi.sh no-build) >"$work/abi" || { cat "$work/abi" >&2; fail "the ABI is broken"; }
    grep -q '\.abi, .*: unchanged$' "$work/abi" || {
        sed -n '/^grown: qkv/p' "$work/abi" >&2
        fail "the ABI has grown: sh scripts/check/abi.sh --record"
    }
    echo "version $version: $(cut -d ' ' -f 1 "$work/versions" | paste -s -d ' ' -) agree; the ABI is the recorded one"
}

if [ "${1:-}" = --check ]; then
    check "$root"
    exit
fi

# ------------------------------------------------------------------------------------------------------- the files

commit=$(git rev-parse --verify --quiet "${1:-HEAD}^{commit}") || fail "there is no commit ${1:-HEAD}"
time=$(git log -1 --format=%ct "$commit")
for tool in git xz zip sha256sum; do
    command -v $tool >/dev/null 2>&1 || fail "$tool is not installed"
done

# git sorts names, and takes the commit's time and no user: the bytes depend on the commit, and on the versions of git,
# xz and zip.
make_files() { # INTO
    mkdir -p "$1/tree" "$1/files"
    git -c tar.umask=0022 archive --format=tar --prefix="$name/" "$commit" >"$1/$name.tar"
    xz --check=crc64 --threads=1 -9 <"$1/$name.tar" >"$1/files/$name.tar.xz"
    tar -C "$1/tree" -xf "$1/$name.tar"
    if [ -e "$1/tree/$name/scripts/amalgamate.sh" ]; then
        (cd "$1/tree/$name" && sh scripts/amalgamate.sh "$1/amalgamated") >"$1/log" 2>&1 ||
            { cat "$1/log" >&2; fail "scripts/amalgamate.sh fails"; }
        for file in qkv.c qkv.h; do
            test -s "$1/amalgamated/$file" || fail "scripts/amalgamate.sh writes no $file"
        done
        cp "$1/tree/$name/LICENSE" "$1/amalgamated"
        (
            cd "$1/amalgamated"
            TZ=UTC touch -d "@$time" LICENSE qkv.c qkv.h
            TZ=UTC zip -q -X -9 "$1/files/$name-amalgamated.zip" LICENSE qkv.c qkv.h
        )
    fi
    (cd "$1/files" && sha256sum -- * >"$1/SHA256SUMS")
}

mkdir "$work/head"
git archive "$commit" | tar -C "$work/head" -xf -
name=qkv-$(version_of "$work/head")
check "$work/head"
git describe --exact-match --tags --match "v${name#qkv-}" "$commit" >/dev/null 2>&1 ||
    echo "note: $commit has no tag v${name#qkv-}"
make_files "$work/first"
make_files "$work/second"
cmp "$work/first/SHA256SUMS" "$work/second/SHA256SUMS" || fail "made twice, the files differ"
test -e "$work/head/scripts/amalgamate.sh" || echo "note: there is no scripts/amalgamate.sh, so no library as one file"

# ------------------------------------------------------------------------------------- what was packed must work

tree=$work/unpacked/$name
mkdir -p "$work/unpacked"
xz -dc "$work/first/files/$name.tar.xz" | tar -C "$work/unpacked" -xf -
awk '/^```c *$/ && !c++ { inside = 1; next } /^```/ { inside = 0 } inside' "$tree/README.md" >"$tree/example.c"
awk '/^```sh *$/ && seen { inside = 1; seen = 0; next } /^```c *$/ { seen = 1 } inside && /^```/ { exit } inside' \
    "$tree/README.md" | sed 's/-O2/-Og/g' >"$tree/commands" # which takes a third of the time
grep -q 'src/' "$tree/commands" || fail "the README has no commands behind its example"
(cd "$tree" && cat commands && sh -e commands) || fail "the README's commands do not run on the tarball"
sh "$tree/scripts/check/readme.sh" build/qkv/libqkv.a >"$work/log" ||
    fail "the README's example prints otherwise: $(cat "$work/log")"
if [ -e "$work/first/amalgamated/qkv.c" ]; then
    mkdir "$work/one" && cd "$work/one"
    python3 -m zipfile -e "$work/first/files/$name-amalgamated.zip" .
    cc -std=c11 -O1 -I. "$tree/tests/consumers/consumer.c" qkv.c -o consumer
    ./consumer
    cd "$root"
fi

out=$root/build/release-${name#qkv-}
rm -rf "$out" && mkdir -p "$out"
cp "$work"/first/files/* "$work/first/SHA256SUMS" "$out"
(cd "$out" && sha256sum -c SHA256SUMS)
echo "$out: $(find "$out" -type f | wc -l) files, the same when made again. Nothing is signed: docs/releasing.md"
