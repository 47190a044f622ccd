#!/bin/sh
# docs/integration.md: each section with a program is built by the page's own commands, against an installed library,
# and must print what the page says. Sections of "Taking it in" are tried by consumers.sh.
#   sh scripts/check/integration.sh [BUILD [WORD]]     all sections, or those whose heading holds the word
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
page=$PWD/docs/integration.md build=${1:-build/release} wanted=${2:-}
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
. scripts/check/page.sh

# The tools of a section; what is not there is named.
missing() { # HEADING
    case $1 in
    Rust) tools="bindgen rustc" ;;
    Go) tools="go pkg-config" ;;
    Zig) tools=zig ;;
    Threads) tools=openmp ;;
    *) tools="cmake pkg-config" ;;
    esac
    for tool in $tools; do
        case $tool in
        openmp) echo '#include <omp.h>' | cc -fopenmp -x c -E - >/dev/null 2>&1 || echo "OpenMP" ;;
        *) command -v "$tool" >/dev/null || echo "$tool" ;;
        esac
    done
}

section() { # HEADING
    cd "$work/section" || exit 1
    test -s commands && test -s output || { echo "$1: no commands or no output on the page"; return 1; }
    (set -e && . ./commands) >printed 2>log || { echo "$1 failed:"; tail -n 20 printed log; return 1; }
    # Every program of a section prints the whole output; what builds it may print besides.
    grep -Fx -f output printed >lines
    programs=$(grep -cE '^(\./|build/)' commands)
    for _ in $(seq "$programs"); do cat output; done >expected
    diff expected lines && echo "$1: $programs run, $(tail -n 1 lines)"
}

QKV=$work/qkv
export QKV
cmake --install "$build" --prefix "$QKV" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
mkdir "$work/bin"
command -v zig >/dev/null || zig=$(sh scripts/compilers.sh find zig 2>"$work/log" | tail -n 1)
if test -x "${zig:-}"; then
    printf '#!/bin/sh\nexec "%s/python" -m ziglang "$@"\n' "${zig%/*}" >"$work/bin/zig" && chmod +x "$work/bin/zig"
fi
PATH=$work/bin:$PATH

sed -n 's/^## //p' "$page" >"$work/headings"
while read -r heading; do
    case $heading in *"$wanted"*) ;; *) continue ;; esac
    rm -rf "$work/section" && mkdir "$work/section"
    (cd "$work/section" && unpack "$page" "$heading")
    test -n "$(ls "$work/section")" || continue # a section without a program
    absent=$(missing "$heading" | paste -s -d ' ' -)
    if [ -n "$absent" ]; then
        echo "skipped: $heading: not installed: $absent"
        skipped=$((skipped + 1))
    elif (section "$heading"); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
done <"$work/headings"
echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0 && test $((passed + skipped)) -gt 0
