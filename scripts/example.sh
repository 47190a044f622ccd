# What the scripts that run one of the examples share; read by them, which have set root and program.
# SPDX-License-Identifier: MIT
# shellcheck shell=sh disable=SC2154
build=$root/build/release
built=$build/examples/$program

say() {
    echo "qkv: $*" >&2
}

# The program's own text, which needs no build, if an argument asks for it.
answer_help() { # SOURCE ARGUMENT…
    source=$root/examples/$1
    shift
    for argument; do
        case $argument in
        --) return ;;
        -h | --help)
            sed -n "/^    \"usage: $program/,/;\$/s/^    \"\\(.*\\)\\\\n\";*\$/\\1/p" "$source"
            exit 0
            ;;
        esac
    done
}

build_program() {
    log=$root/build/$program.log
    mkdir -p "$root/build" || exit 1
    test -x "$built" || say "building in $build"
    { cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release &&
        cmake --build "$build" --target "$program" --parallel "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"; } \
        >"$log" 2>&1 && return
    tail -n 20 "$log" >&2
    say "the build failed; all of its output is in $log"
    exit 1
}
