#!/bin/sh
# Everything but the one hosted file compiles for a machine without an operating system, and asks for nothing but
# memcpy, memset, memmove and memcmp.  SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD hosted=src/cpu_hosted.c
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0 checked=0
test -e $hosted || { echo "$hosted is not there"; exit 1; }

for cc in gcc clang aarch64-linux-gnu-gcc; do
    command -v $cc >/dev/null 2>&1 || { echo "$cc is not there: left out"; continue; }
    case $cc in
    aarch64-*) nm=aarch64-linux-gnu-nm ;;
    *) nm=nm ;;
    esac
    rm -rf "$work/out" && mkdir "$work/out" && cd "$work/out" || exit 1
    # vector kernels at -O1, where GCC takes half as long
    for source in $(cd "$root" && find src -name '*.c' ! -path $hosted | sort); do
        case $source in src/kernels/*) level=-O1 ;; *) level=-O2 ;; esac
        echo "$level $root/$source"
    done | xargs -P "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)" -n 2 $cc -std=c11 -ffreestanding \
        -fno-stack-protector -Wall -Wextra -Wpedantic -Werror -I"$root/include" -c || { failed=1; continue; }
    cat >allowed <<'NAMES'
_GLOBAL_OFFSET_TABLE_
memcmp
memcpy
memmove
memset
NAMES
    "$cc" -std=c11 -O2 -I"$root/include" -c "$root/$hosted" -o hosted.out || failed=1
    "$nm" --defined-only --extern-only hosted.out | awk 'NF == 3 { print $3 }' >>allowed
    "$nm" --defined-only --extern-only ./*.o | awk 'NF == 3 { print $3 }' >>allowed
    sort -u allowed -o allowed
    "$nm" --undefined-only ./*.o | awk 'NF == 2 { print $2 }' | sort -u | comm -23 - allowed >bad
    if [ -s bad ]; then
        echo "$cc -ffreestanding: the core needs $(tr '\n' ' ' <bad)"
        failed=1
    fi
    checked=$((checked + 1))
done
# Where clang knows no C library, fmaf is a call to it: the reference does without.
if command -v clang >/dev/null; then
    mkdir -p "$work/bare" && cd "$work/bare" || exit 1
    printf '%s\n' '#include <stddef.h>' 'void *memcpy(void *, const void *, size_t);' \
        'void *memmove(void *, const void *, size_t);' 'void *memset(void *, int, size_t);' \
        'int memcmp(const void *, const void *, size_t);' >string.h
    for target in riscv64-unknown-elf,-march=rv64gc aarch64-none-elf thumbv7em-none-eabihf,-mfpu=fpv4-sp-d16; do
        # shellcheck disable=SC2046  # words
        clang -target $(echo "$target" | tr ',' ' ') -std=c11 -O2 -ffreestanding -isystem . -I"$root/include" -c \
            "$root/src/ref/ref.c" -o ref.o || failed=1
        nm --undefined-only ref.o | grep -v ' \(mem...\|memmove\|__aeabi_.*\)$' >bad &&
            { echo "clang for $target: the reference needs $(tr -s ' \n' ' ' <bad)"; failed=1; }
    done
fi
test $checked -gt 0 || { echo "no compiler was found"; exit 1; }
test $failed = 0 && echo "$checked compilers: all but $hosted is freestanding"
exit $failed
