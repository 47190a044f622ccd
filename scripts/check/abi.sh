#!/bin/sh
# The ABI against the last one that was recorded, abi/libqkv.so.SOVERSION.abi: functions, constants, and every member of
# every struct (on 64-bit systems). It is "unchanged", has "grown compatibly", or is "broken: needs a new SOVERSION",
# which fails. Then what such a record can't say: the library takes descriptors of the recorded sizes; and against the
# last release, the newest tag vX.Y.Z: abidiff, and its own selftest, built with its header, run on this library.
#   sh scripts/check/abi.sh [BUILD_DIR]
#   sh scripts/check/abi.sh --record        writes the record: with a release, or with a new SOVERSION
# Ends with "N passed, N failed, N skipped".
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD build=${1:-build/release} cc=${CC:-cc}
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

number() { # MAJOR|MINOR|PATCH
    sed -nE "s/^#define QKV_VERSION_$1 //p" include/qkv.h
}
soversion=$(number MAJOR)
record=abi/libqkv.so.$soversion.abi

describe() { # HEADER: its ABI
    "$cc" -E -P -DQKV_API= "$1" >"$work/preprocessed" && "$cc" -E -dM -DQKV_API= "$1" >"$work/macros" &&
        python3 scripts/check/abi.py describe "$work/preprocessed" "$work/macros" "$cc" "$(dirname "$1")"
}

ok() {
    printf '%s\n' "$*" # with backslashes as they are
    passed=$((passed + 1))
}

bad() {
    printf 'FAILED: %s\n' "$*"
    failed=$((failed + 1))
}

skip() {
    echo "skipped: $*"
    skipped=$((skipped + 1))
}

command -v python3 >/dev/null 2>&1 || { echo "python3 is not installed"; exit 77; }
test "$(getconf LONG_BIT)" = 64 || { echo "the record is of 64-bit systems, and this is none"; exit 77; }
describe include/qkv.h >"$work/now" || exit 1

if [ "$build" = --record ]; then
    {
        echo "# The ABI of libqkv.so.$soversion, as of $(number MAJOR).$(number MINOR).$(number PATCH); 64-bit systems."
        echo "# Written by sh scripts/check/abi.sh --record with each release.  SPDX-License-Identifier: MIT"
        cat "$work/now"
    } >"$record"
    echo "$record: $(wc -l <"$record") lines"
    exit 0
fi

# ----------------------------------------------------------------------------------------------------- the record

test -s "$record" || { echo "$record is not there: sh scripts/check/abi.sh --record"; exit 1; }
python3 scripts/check/abi.py compare "$record" "$work/now" >"$work/said"
status=$?
cat "$work/said"
if [ $status = 0 ] || [ $status = 3 ]; then
    ok "$record, $(sed -n '1s/.*as of \([0-9.]*[0-9]\).*/\1/p' "$record"): $(tail -n 1 "$work/said")"
else
    bad "$record: $(tail -n 1 "$work/said")"
fi

# The comparison itself: each change of a copy of the header has its verdict.
verdict() { # EXPECTED RECORDED NOW WHAT
    python3 scripts/check/abi.py compare "$2" "$3" >"$work/said"
    said=$(tail -n 1 "$work/said")
    if [ "${said%%[: ]*}" = "$1" ]; then
        ok "$1: $4"
    else
        bad "\"$said\" instead of $1: $4"
    fi
}

edit() { # EXPRESSION FILE: the ABI of the header so changed
    mkdir -p "$work/copy"
    sed -E "$1" include/qkv.h >"$work/copy/qkv.h"
    cmp -s include/qkv.h "$work/copy/qkv.h" && bad "this changes nothing: $1"
    describe "$work/copy/qkv.h" >"$2" || bad "this is no header: $1"
}

edit 's/^\} qkv_cache_desc;/    int32_t last_one;\n&/' "$work/padded"
edit 's/^\} qkv_cache_desc;/    int32_t last_one, one_more;\n&/' "$work/changed"
verdict broken "$work/padded" "$work/changed" "a member in what was padding"
while read -r expected change; do
    edit "$change" "$work/changed"
    verdict "$expected" "$work/now" "$work/changed" "$change"
done <<'TABLE'
grown s/^\} qkv_attention_desc;/    int64_t one_more;\n&/
grown s/^    uint32_t reserved; .*\/\* 0 \*\//    uint32_t more;/
grown s/^(#define QKV_CPU_AVX2) .*/&\n#define QKV_CPU_MORE 1/
grown s/^QKV_API const char \*qkv_version\(void\);/&\nQKV_API int qkv_more(void);/
unchanged s/qkv_ctx \*ctx, const qkv_config \*config\)/qkv_ctx *context, const qkv_config *wish)/
broken s/^\} qkv_plan;/    int64_t one_more;\n&/
broken s/^\} qkv_head_steps;/    int64_t one_more;\n&/
broken s/^    int64_t num_heads;$/    int32_t num_heads;/
broken s/^    int64_t seq_q, seq_k;$/    int64_t seq_k, seq_q;/
broken s/^    int64_t left, right;$/    int64_t one_more, left, right;/
broken s/^(#define QKV_RIGHT) 2u/\1 8u/
broken s/QKV_ERROR_NULL = 1,/QKV_ERROR_NULL = 21,/
broken s/^QKV_API const char \*qkv_version\(void\);//
broken s/qkv_num_kernel_sets\(void\)/qkv_num_kernel_sets(int64_t kind)/
broken s/void \(\*qkv_task\)\(void \*arg, /void (*qkv_task)(const void *arg, /
TABLE

# ---------------------------------------------------------------------------------------- programs that are built

awk '$1 == "struct" { name = $2; size = $3; first = 1; next }
    first && /^ 0 8 size_t size$/ { print "RECORDED(" name ", " size ")" }
    { first = 0 }' "$record" >"$work/recorded.h"
if [ ! -s "$build/libqkv.a" ]; then
    skip "descriptors of recorded sizes: $build/libqkv.a is not there"
elif "$cc" -std=c11 -Werror -Iinclude -I"$work" tests/abi/recorded_sizes.c "$build/libqkv.a" -o "$work/sizes" &&
    "$work/sizes"; then
    ok "programs with descriptors of $record run"
else
    bad "programs with descriptors of $record are refused: broken"
fi

# -------------------------------------------------------------------------------------------------- the last release

# All that is not a kernel, as a shared library with debug information: abidiff looks at nothing else.
shared_library() { # TREE FILE
    {
        echo '#include "kernels/kernels.h"'
        sed -n '/^extern const qkv_kernels/p' "$1/src/kernels/kernels.h" | grep -oE 'qkv_kernels_[a-z0-9]+' |
            grep -v '_ref$' | sed 's/.*/QKV_HIDDEN const qkv_kernels & = {.name = ""};/'
    } >"$work/no_kernels.c"
    # shellcheck disable=SC2046  # no spaces below src/
    "$cc" -std=c11 -O0 -g -w -fPIC -shared -DQKV_SHARED -DQKV_UNOPTIMIZED -I"$1/src" -I"$1/include" \
        $(find "$1/src" -name '*.c' ! -path '*/kernels/*') "$work/no_kernels.c" \
        -Wl,-soname,"libqkv.so.$(sed -n 's/^#define QKV_VERSION_MAJOR //p' "$1/include/qkv.h")" -o "$2"
}

release=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null)
if [ -z "$release" ]; then
    skip "abidiff, and the selftest of the last release: there is no tag vX.Y.Z yet"
elif [ "${release%%.*}" != "v$soversion" ]; then
    skip "abidiff, and the selftest of the last release: $release has another SOVERSION"
else
    mkdir "$work/release" && git archive "$release" | tar -C "$work/release" -xf - || exit 1
    cat >"$work/grows" <<'RULES'
[suppress_type]
  type_kind = struct
  name_regexp = ^qkv_(.*_desc|config)$
  has_data_member_inserted_at = end
RULES
    if ! command -v abidiff >/dev/null 2>&1; then
        skip "abidiff is not installed (Debian: abigail-tools)"
    elif shared_library "$work/release" "$work/old.so" && shared_library "$root" "$work/new.so" &&
        abidiff --suppressions "$work/grows" --headers-dir1 "$work/release/include" --headers-dir2 include \
            --no-added-syms "$work/old.so" "$work/new.so"; then
        ok "abidiff: a program of $release finds all it needs"
    else
        bad "abidiff: broken since $release: needs a new SOVERSION"
    fi
    if [ ! -s "$build/libqkv.a" ]; then
        skip "the selftest of $release: $build/libqkv.a is not there"
    elif ! "$cc" -std=c11 -O1 -D_GNU_SOURCE -I"$work/release/include" "$work"/release/tools/*.c "$build/libqkv.a" \
        -o "$work/selftest"; then
        bad "the selftest of $release does not link with this library"
    elif "$work/selftest" --selftest >"$work/said" 2>&1; then
        ok "the selftest of $release, built with its header, passes on this library"
    elif grep 'gives other bits than recorded' "$work/said" &&
        ! grep -qE 'differs from ref|^qkv-info: ' "$work/said"; then
        ok "the selftest of $release runs on this library, whose bits are others: a new minor version"
    else
        cat "$work/said"
        bad "the selftest of $release, built with its header, fails on this library"
    fi
fi
echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0
