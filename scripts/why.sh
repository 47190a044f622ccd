#!/bin/sh
# Why attention learns Wq, Wk and Wv: installs what is missing, builds, runs examples/why_projections.
#
#   sh scripts/why.sh [OPTION]…     draws into build/why; --help lists the options
#
# SPDX-License-Identifier: MIT
set -u
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
build=$root/build/release
log=$root/build/why.log

[ -x "$build/examples/why_projections" ] || sh "$root/scripts/packages.sh" lib >&2 || exit 1

mkdir -p "$root/build" || exit 1
if ! { cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release &&
    cmake --build "$build" --target why_projections --parallel "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"; } \
    >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "qkv: the build failed; all of its output is in $log" >&2
    exit 1
fi
exec "$build/examples/why_projections" --output "$root/build/why" "$@"
