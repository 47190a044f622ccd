#!/bin/sh
# The library as one source and one header: qkv.c and qkv.h, to copy into any tree.
#   sh scripts/amalgamate.sh FOLDER      needs python3
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
test $# = 1 || { sed -n '2,3s/^# \{0,1\}//p' scripts/amalgamate.sh >&2; exit 2; }
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 1; }
mkdir -p "$1"
python3 scripts/amalgamate.py "$1"
