#!/bin/sh
# What programs for Windows are linked with and run by here: in FOLDER win64_abi.o, exact_fmaf.o and the linker's
# options in "wraps", and "wine", a command that runs a program under wine with a configuration of its own.
#   sh tests/windows/prepare.sh FOLDER
# The exit status is 77, with the reason, where the compiler or wine is missing.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
folder=$1 cc=x86_64-w64-mingw32-gcc
command -v $cc >/dev/null || { echo "$cc is not installed"; exit 77; }
wine=$(command -v wine64 || command -v wine || ls /usr/lib/wine/wine64 2>/dev/null) ||
    { echo "wine is not installed"; exit 77; }
test "$(uname -m)" = x86_64 || { echo "wine runs programs for x86-64 on x86-64 only"; exit 77; }
mkdir -p "$folder" || exit 1
folder=$(cd "$folder" && pwd)
cat >"$folder/wine" <<SCRIPT
#!/bin/sh
WINEPREFIX=$folder/prefix WINEDEBUG=-all WINEDLLOVERRIDES=mscoree,mshtml= exec $wine "\$@"
SCRIPT
chmod +x "$folder/wine"
test -e "$folder/prefix/system.reg" || "$folder/wine" wineboot >"$folder/wineboot.log" 2>&1 ||
    { echo "wine does not start: $(tail -n 1 "$folder/wineboot.log")"; exit 77; }

$cc -E -P -DQKV_API= -Iinclude include/qkv.h | grep -oE '\bqkv_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u >"$folder/public"
sed 's/.*/PUBLIC(&)/' "$folder/public" >"$folder/public_functions.inc"
sed 's/^/-Wl,--wrap=/' "$folder/public" | tr '\n' ' ' >"$folder/wraps"
for source in win64_abi exact_fmaf; do
    $cc -std=c11 -O1 -Wall -Wextra -Werror -D__USE_MINGW_ANSI_STDIO=1 -Iinclude -Isrc -I"$folder" \
        -c tests/windows/$source.c -o "$folder/$source.o" || exit 1
done
