#!/bin/sh
# Unpacks a file of PyPI into a folder. One that was put into ${XDG_CACHE_HOME:-~/.cache}/qkv by hand will do.
#
#   sh scripts/pypi.sh PACKAGE VERSION FILE SHA256 FOLDER     FILE: a wheel, or the sources (.tar.gz)
#
# Messages go to standard error; exit status 1 if it can't be had.
# SPDX-License-Identifier: MIT
set -u
package=$1 version=$2 name=$3 sha256=$4 folder=$5
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qkv

by_hand() {
    echo "qkv: $1. Get $name from PyPI (package $package $version) and put it into $cache, then run this again" >&2
    exit 1
}

sha256_of() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$1" | cut -d' ' -f1
    elif command -v shasum >/dev/null 2>&1; then
        shasum -a 256 "$1" | cut -d' ' -f1
    else
        python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"
    fi
}

unpack() {
    case $name in
    *.tar.gz) tar -C "$folder" -xzf "$1" ;;
    *) unzip -qo "$1" -d "$folder" 2>/dev/null || python3 -m zipfile -e "$1" "$folder" ;;
    esac
}

mkdir -p "$folder" || exit 1
file=$cache/$name
if [ ! -f "$file" ]; then
    file=$folder/$name
    python3 -m pip --version >/dev/null 2>&1 || by_hand "python3 with pip is missing"
    kind=--only-binary
    test "$name" = "${name%.tar.gz}" || kind=--no-binary
    python3 -m pip --disable-pip-version-check download --no-deps --no-cache-dir $kind :all: --retries 1 --timeout 20 \
        --dest "$folder" "$package==$version" >&2 || by_hand "$package $version could not be fetched"
fi
found=$(sha256_of "$file")
test "$found" = "$sha256" || by_hand "$file is damaged (sha256 $found instead of $sha256)"
unpack "$file" || by_hand "$file could not be unpacked"
rm -f "$folder/$name"
