#!/bin/sh
# The header and all sources as clang-cl takes them, for Windows on x86-64 and Arm: no warning under /W4. Then the
# library by clang-cl for x86-64, linked by MinGW-w64 with its libraries in place of Microsoft's: qkv-info --selftest
# under wine, each call in the calling convention of Windows (tests/windows).
#   sh scripts/check/clang_cl.sh
# Microsoft's headers are not needed: beside clang's own the library includes <string.h> alone, of which four functions.
# Ends with "N passed, N failed, N skipped"; the exit status is 1 if anything failed, 77 without clang.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
clang=${CLANG:-clang} mingw=x86_64-w64-mingw32-gcc
command -v "$clang" >/dev/null || { echo "$clang is not installed"; exit 77; }
folder=$PWD/build/clang-cl
rm -rf "$folder" && mkdir -p "$folder/headers" "$folder/objects" || exit 1
. scripts/check/judge.sh

cat >"$folder/headers/string.h" <<'HEADER'
#include <stddef.h>
void *memcpy(void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
int memcmp(const void *, const void *, size_t);
HEADER
cl="$clang --driver-mode=cl /imsvc $folder/headers -Iinclude /W4 /WX /DQKV_UNOPTIMIZED"
free=/clang:-ffreestanding # or clang's headers of intrinsics ask for <stdlib.h>

sources() {
    ls src/*.c src/*/*.c src/*/*/*.c
}

for target in x86_64 aarch64; do
    target=$target-pc-windows-msvc
    for language in /TC /TP; do
        # shellcheck disable=SC2086  # words
        $cl $free --target=$target -fsyntax-only $language tests/headers/header_alone.c
        judge $? "$target: qkv.h, $language"
    done
    # shellcheck disable=SC2086  # words
    sources | xargs -n 1 $cl $free --target=$target /std:c11 -fsyntax-only &&
        $cl --target=$target /std:c11 -fsyntax-only src/cpu_hosted.c
    judge $? "$target: $(sources | wc -l) sources"
done

said=$(sh tests/windows/prepare.sh "$folder")
status=$?
if [ $status = 77 ]; then
    echo "skipped: what clang-cl compiles is not run: $said"
    echo "$passed passed, $failed failed, 2 skipped"
    test $failed = 0
    exit
fi
# Linkers take the names of a shared library from a section of the object files.
mkdir "$folder/shared"
sources | grep -v '^src/kernels' | FOLDER=$folder/shared xargs -P 2 -I '{}' sh -c "
    $cl $free --target=x86_64-pc-windows-msvc /std:c11 /DQKV_SHARED /Od /c {} /Fo\"\$FOLDER/\$(basename {} .c).obj\"" &&
    for object in "$folder"/shared/*.obj; do x86_64-w64-mingw32-objdump -s -j .drectve "$object"; done |
    sed -nE 's/^ [0-9a-f]{4,} .{37}(.*)/\1/p' | tr -d '\n' | grep -oE 'EXPORT:qkv_[a-z0-9_]+' | cut -d : -f 2 |
        sort -u | diff - "$folder/public"
judge $? "x86_64-pc-windows-msvc: with QKV_SHARED the $(wc -l <"$folder/public") functions of qkv.h are exported"
# /GS- and /Zl: no stack cookies and no library of Microsoft's, which are not here to be linked.
sources | FOLDER=$folder/objects xargs -P 2 -I '{}' sh -c "
    $cl $free --target=x86_64-pc-windows-msvc /std:c11 /O1 /GS- /Zl /c {} /Fo\"\$FOLDER/\$(basename {} .c).obj\"" &&
    # shellcheck disable=SC2046  # words
    $mingw -std=c11 -O1 -D__USE_MINGW_ANSI_STDIO=1 -Iinclude tools/*.c "$folder/win64_abi.o" "$folder"/objects/*.obj \
        $(cat "$folder/wraps") -o "$folder/qkv-info.exe" &&
    "$folder/wine" "$folder/qkv-info.exe" --selftest >"$folder/selftest.log"
judge $? "x86_64-pc-windows-msvc: selftest under wine"
grep -v '^abi: ' "$folder/selftest.log"
echo "$passed passed, $failed failed, 0 skipped"
test $failed = 0
