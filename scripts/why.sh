#!/bin/sh
# Why attention learns Wq, Wk and Wv: installs what is missing, builds, runs examples/why_projections.
#
#   sh scripts/why.sh [OPTION]…     draws into build/why; --help lists the options
#
# SPDX-License-Identifier: MIT
set -u
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
program=why_projections
# shellcheck source=example.sh
. "$root/scripts/example.sh"

answer_help why_projections/why.c "$@"
test -x "$built" || sh "$root/scripts/packages.sh" lib >&2 || exit 1
build_program
exec "$built" --output "$root/build/why" "$@"
