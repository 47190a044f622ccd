#!/bin/sh
# What the library exports, needs and holds: only qkv_ names; as a shared library exactly the functions of qkv.h, inside
# another shared object nothing; nothing but memcpy, memset, memmove, memcmp and getauxval; no mutable data and no
# constructors.   sh scripts/check/symbols.sh [libqkv.a]
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
library=${1:-build/release/libqkv.a}
cc=${CC:-cc} nm=${NM:-nm} objdump=${OBJDUMP:-objdump}
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0

fail() {
    echo "$library: $1"
    sed 's/^/    /' "$2"
    failed=1
}

test -s "$library" || { echo "$library is not there; build it first"; exit 1; }
"$nm" --defined-only --extern-only "$library" | awk 'NF == 3 { print $3 }' | sort -u >"$work/defined"
test -s "$work/defined" || { echo "$library defines nothing"; exit 1; }
grep -v '^qkv_' "$work/defined" >"$work/bad" && fail "exported without the prefix qkv_" "$work/bad"

# Shared, and as a part of another shared object.
exports() { # OBJECT
    "$nm" -D --defined-only "$1" | awk '$2 ~ /[TRDBVWi]/ { print $3 }' | grep -v '^_\(init\|fini\)$' | sort
}
"$cc" -E -P -DQKV_API= -Iinclude include/qkv.h | grep -oE '\bqkv_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u >"$work/public"
# shellcheck disable=SC2046  # no spaces below src/
"$cc" -std=c11 -Og -fPIC -shared -DQKV_SHARED -Iinclude $(find src -name '*.c') \
    -o "$work/libqkv.so" || failed=1
exports "$work/libqkv.so" | comm -3 - "$work/public" >"$work/bad"
test -s "$work/bad" && fail "the shared library does not export exactly qkv.h: only there, or missing" "$work/bad"
"$cc" -shared -Wl,--whole-archive "$library" -Wl,--no-whole-archive -o "$work/plugin.so" || failed=1
exports "$work/plugin.so" >"$work/bad"
test -s "$work/bad" && fail "a shared object that holds the static library exports" "$work/bad"

# A compiler that puts stack protectors or position-independent code into every program may do so here too.
echo 'int f(char *); int g(void); int g(void) { char text[64]; return f(text); }' >"$work/probe.c"
"$cc" -O2 -c "$work/probe.c" -o "$work/probe.o"
{
    printf '%s\n' memcpy memset memmove memcmp getauxval _GLOBAL_OFFSET_TABLE_
    "$nm" -u "$work/probe.o" | awk '{ print $2 }' | grep '^__stack_chk_'
} | sort -u >"$work/allowed"
"$nm" --undefined-only "$library" | awk 'NF == 2 { print $2 }' | sort -u >"$work/undefined"
comm -23 "$work/undefined" "$work/defined" | comm -23 - "$work/allowed" >"$work/bad"
test -s "$work/bad" && fail "needs more than memcpy, memset, memmove, memcmp and getauxval" "$work/bad"

# Constant tables of pointers lie in .data.rel.ro, which is read-only once loaded.
"$objdump" -h "$library" | awk '/file format/ { file = $1 }
    $2 ~ /^\.(data|bss|tdata|tbss|init_array|fini_array|ctors|dtors)/ && $2 !~ /^\.data\.rel\.ro/ && $3 !~ /^0+$/ {
        print file, $2, "0x" $3
    }' >"$work/bad"
"$nm" "$library" | awk '$2 == "C"' >>"$work/bad"
test -s "$work/bad" && fail "holds mutable data or constructors" "$work/bad"

if [ $failed = 0 ]; then
    echo "$library: $(wc -l <"$work/defined") symbols, all qkv_; shared it exports $(wc -l <"$work/public") of them;" \
        "no mutable data; needs only:"
    comm -23 "$work/undefined" "$work/defined" | tr '\n' ' '
    echo
fi
exit $failed
