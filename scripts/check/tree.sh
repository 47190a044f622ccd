#!/bin/sh
# The rules of the source tree that a search can check.  SPDX-License-Identifier: MIT
set -u
export LC_ALL=C.UTF-8 # columns are characters, not bytes
cd "$(dirname "$0")/../.." || exit 1
failed=0

# forbid WHAT PATTERN FILE…: no line of the files matches. Comment lines don't count, unless COMMENTS=yes.
forbid() {
    what=$1 pattern=$2
    shift 2
    found=$(grep -nE -e "$pattern" "$@" /dev/null)
    test "${COMMENTS:-no}" = yes || found=$(printf '%s\n' "$found" | grep -vE '^[^:]+:[0-9]+: *(/\*|\*|//|#( |$))')
    if [ -n "$found" ]; then
        echo "$what:"
        printf '%s\n' "$found" | sed 's/^/    /'
        failed=1
    fi
}

files() {
    find "$@" -type f ! -path '*/__pycache__/*'
}

# shellcheck disable=SC2046  # no spaces in the names below these folders
{
    generic=$(files include src -name '*.[ch]' ! -path 'src/kernels/*/*' ! -name 'cpu*')
    vectors='_mm(256|512)?_|__m(128|256|512)|immintrin|arm_neon|float32x4|\bv(ld|st)[1-4]q_|v128_t|wasm_[if]'
    forbid "intrinsics or vector types outside src/kernels/<isa>/" "$vectors|__builtin_ia32" $generic
    forbid "an instruction set is named in src/ops" \
        '__AVX|__SSE|__ARM|__aarch64|__x86_64|__wasm|QKV_(X86_64|AARCH64|WASM)|target *\(' $(files src/ops)
    calls='[a-z]*alloc|free|alloca|[a-z]*printf|f?puts|fopen|getenv|abort|exit|assert|pthread_[a-z_]*|[a-z]*jmp'
    forbid "allocation, input and output, environment, exits or threads in the library" "\\b($calls) *\(" $(files src)
    forbid "libm in the library" 'math\.h|(^|[^>.a-z0-9_])(exp2?|log2?|tanh|fma|sqrt|pow|floor|rint|fabs|fmax)f? *\(' \
        $(files src/ops) $(files src -maxdepth 1 -name '*.[ch]')
    forbid "a build that depends on this machine or breaks IEEE arithmetic" \
        '-march=native|-mtune=native|-mcpu=native|-ffast-math|-Ofast|-funsafe-math' \
        CMakeLists.txt CMakePresets.json .ci/run $(files cmake) $(files scripts ! -name tree.sh ! -name flags.sh) \
        $(files adapters tests examples bench tools python -name CMakeLists.txt)
    for isa in $(cd src/kernels && find . -mindepth 1 -maxdepth 1 -type d | sed 's:./::'); do
        # Beside system headers: the contract, the templates, its own headers, the scalar functions.
        for header in $(cat $(files "src/kernels/$isa") | sed -n 's/^ *# *include *"\(.*\)".*/\1/p' | sort -u); do
            case $header in
            ../kernels.h | ../*.inc.h | *"_$isa.h" | ../repeat.h | ../../ref/*.h | ../../config.h) ;;
            *)
                echo "src/kernels/$isa includes $header"
                failed=1
                ;;
            esac
        done
    done

    sources=$(files include src adapters tests bench tools examples python scripts cmake packaging .ci \
        ! -name '*.json' ! -name '*.txt' ! -name '*.svg' ! -name '*.md' ! -name py.typed ! -name usage)
    lists="meson.build meson_options.txt BUILD.bazel MODULE.bazel"
    lists="$lists CMakeLists.txt $(files adapters tests examples bench tools python -name CMakeLists.txt)"
    sources="$sources pyproject.toml $lists"
    COMMENTS=yes
    forbid "a line over 120 columns" '^.{121}' $(echo "$sources" | tr ' ' '\n' | grep -v '\.py$')
    forbid "a tab or a space at the end of a line" '(	|[ ]+$)' $(files include src adapters -name '*.[ch]')
    forbid "unfinished work" '\b(TODO|FIXME|XXX)\b' $(echo "$sources" | tr ' ' '\n' | grep -v tree.sh)
    for file in $sources; do
        lines=$(wc -l <"$file")
        most=600
        test "$file" != include/qkv.h || most=1200 # the whole interface in one file
        test "$lines" -le $most || { echo "$file has $lines lines, over $most"; failed=1; }
        head -n 40 "$file" | grep -q 'SPDX-License-Identifier: MIT' || { echo "$file has no SPDX line"; failed=1; }
    done
    same=$(files include src adapters tests bench tools examples python -name '*.[ch]*' ! -name .clang-format |
        sed 's:.*/::' | sort | uniq -d)
    test -z "$same" || { echo "file names that are not unique: $same"; failed=1; }
}
test $failed = 0 && echo "$(echo "$sources" | wc -w) files, every rule holds"
exit $failed
