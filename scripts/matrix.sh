#!/bin/sh
# The library by a compiler of scripts/compilers.sh, at -O0 to -O3 and -Os: no warning, the bits of the reference and of
# the kernels by qkv-info and the tests of build/release, linked again, and no spill in a hot loop. Or for a target that
# this machine is not: it builds, and qkv-info --selftest passes under an emulator.
#
#   sh scripts/matrix.sh compiler NAME     gcc-12, clang-19 … (sh scripts/compilers.sh list); needs build/release
#   sh scripts/matrix.sh cross TARGET      i686, armhf, riscv64, s390x, wasm32 … (the table of targets below)
#
# Ends with "N passed, N failed, N skipped"; the exit status is 1 if anything failed, 77 if there is no such compiler.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# What runs beside the selftest, which compares all kernel sets with the reference, and that with recorded hashes.
tests_of() { # OPTION
    case $1 in
    -O2) ls tests/kernels/test_*.c tests/functions/test_*.c tests/promises/test_sinks.c ;;
    *) ls tests/kernels/test_logits.c tests/kernels/test_softmax.c tests/promises/test_sinks.c ;;
    esac
}

missing() {
    echo "$*"
    exit 77
}

finish() { # FILE…: what the jobs found
    passed=$(cat "$@" | grep -c '^ok  ')
    failed=$(cat "$@" | grep -c '^FAILED  ')
    echo "$passed passed, $failed failed, $(cat "$@" | grep -c '^skipped: ') skipped"
    test "$failed" = 0 && test "$passed" -gt 0
}

judge() { # STATUS WHAT [LOG]: a line that finish counts
    if [ "$1" = 0 ]; then
        echo "ok      $2"
    else
        echo "FAILED  $2"
        test $# -lt 3 || tail -n 20 "$3"
    fi
}

warnings() { # those of CMakeLists.txt
    sed -n '/^set(_qkv_warnings/,/-Wold-style-definition/p' CMakeLists.txt | grep -o -e '-W[a-z-]*' | tr '\n' ' '
}

# Each source by itself into FOLDER, then libqkv.a: "zig cc -c" takes one source only.
compile() { # FOLDER COMPILER [OPTION…]
    folder=$1
    shift
    rm -rf "$folder" && mkdir -p "$folder" || return 1
    for source in src/*.c src/*/*.c src/*/*/*.c; do
        "$@" -Iinclude -c "$source" -o "$folder/$(basename "$source" .c).o" || return 1
    done
    ar rcs "$folder/libqkv.a" "$folder"/*.o
}

# ----------------------------------------------------------------------------------------------- one compiler

level() { # NAME COMPILER OPTION…: one way to compile, which has the name of its first option
    name=$1 cc=$2
    shift 2
    folder=build/matrix/$name$1
    what="$name $1"
    test "$name" != zig || set -- "$@" -fno-sanitize=undefined # which it turns on where nothing is optimised
    # shellcheck disable=SC2046  # words
    compile "$folder" "$cc" "$@" $(warnings) -Werror >"$folder.log" 2>&1
    status=$?
    judge $status "$what: compiles without a warning" "$folder.log"
    test $status = 0 || return 0
    cc build/release/CMakeFiles/qkv-info.dir/tools/*.o "$folder/libqkv.a" -o "$folder/qkv-info" &&
        "$folder/qkv-info" --selftest >"$folder.log" 2>&1
    judge $? "$what: selftest" "$folder.log"
    for test in $(tests_of "$1"); do
        test=$(basename "$test" .c)
        program=$folder/$test
        cc build/release/tests/CMakeFiles/"$test".dir/*/*.o build/release/tests/libqkv_test_harness.a \
            "$folder/libqkv.a" -lcmocka -lpthread -lm -o "$program" &&
            QKV_QUICK=1 "$program" >"$folder.log" 2>&1
        judge $? "$what: $test" "$folder.log"
        rm -f "$program"
    done
}

compiler() { # NAME
    cc=$(sh scripts/compilers.sh find "$1" | tail -n 1)
    test -x "$cc" || missing "${cc:-$1 is not to be had} (about 45 checks)"
    test -s build/release/tests/libqkv_test_harness.a || { echo "build/release is not there"; exit 1; }
    "$cc" --version | head -n 1
    logs=build/matrix/$1.jobs
    rm -rf "$logs" && mkdir -p "$logs" || exit 1
    # As one line builds it, and at last as CMake does.
    printf '%s\n' -O0 -O1 -O2 -Os '-O3 -std=c11 -DNDEBUG' | NAME=$1 CC=$cc LOGS=$logs xargs -P "$jobs" -I '{}' sh -c '
        sh scripts/matrix.sh level "$NAME" "$CC" {} >"$LOGS/job$$" 2>&1
        cat "$LOGS/job$$"'
    {
        QKV_SPILL_COMPILERS=$cc QKV_SPILL_LEVELS="-O2 -O3" sh scripts/check/spills.sh >"$logs/spills.log" 2>&1
        judge $? "$1: hot loops stay in registers" "$logs/spills.log"
    } | tee "$logs/job-spills"
    finish "$logs"/job*
}

# ------------------------------------------------------------------------------------------------- one target

# Name, compiler and options, emulator (none: nothing here runs it, so it is built at one level only), and what builds
# and links the program (-: the same).
targets() {
    cat <<'TABLE'
i686 i686-linux-gnu-gcc,-msse2,-mfpmath=sse env -
armhf arm-linux-gnueabihf-gcc qemu-arm -
armhf-neon arm-linux-gnueabihf-gcc,-mfpu=neon-vfpv4 qemu-arm -
riscv64 riscv64-linux-gnu-gcc qemu-riscv64 -
s390x s390x-linux-gnu-gcc qemu-s390x -
s390x-clang zig,-target,s390x-linux-gnu qemu-s390x s390x-linux-gnu-gcc
ppc64le powerpc64le-linux-gnu-gcc qemu-ppc64le -
ppc64 zig,-target,powerpc64-linux-musl qemu-ppc64 -
loongarch64 zig,-target,loongarch64-linux-musl,-mcpu=la464-lsx-lasx qemu-loongarch64 -
wasm32 zig,-target,wasm32-wasi wasm -
aarch64_be zig,-target,aarch64_be-linux-musl qemu-aarch64_be -
macos-arm64 zig,-target,aarch64-macos none -
macos-x86_64 zig,-target,x86_64-macos none -
freebsd-arm64 zig,-target,aarch64-freebsd none -
openbsd-arm64 zig,-target,aarch64-openbsd none -
netbsd-arm64 zig,-target,aarch64-netbsd none -
windows-arm64 zig,-target,aarch64-windows-gnu none -
TABLE
}

emulate() { # EMULATOR PROGRAM ARGUMENT…
    case $1 in
    wasm)
        shift
        "$(dirname "$cc")/python" - "$@" <<'PYTHON'
import sys
import wasmtime
engine = wasmtime.Engine()
linker, store, wasi = wasmtime.Linker(engine), wasmtime.Store(engine), wasmtime.WasiConfig()
wasi.argv = sys.argv[1:]
wasi.inherit_stdout()
wasi.inherit_stderr()
store.set_wasi(wasi)
linker.define_wasi()
module = wasmtime.Module.from_file(engine, sys.argv[1])
try:
    linker.instantiate(store, module).exports(store)["_start"](store)
except wasmtime.ExitTrap as trap:
    sys.exit(trap.code)
PYTHON
        ;;
    *) "$@" ;;
    esac
}

cross() { # TARGET
    # shellcheck disable=SC2046  # words
    set -- $(targets | grep "^$1 ")
    test $# = 4 || missing "no such target"
    target=$1 cc=${2%%,*} emulator=$3 linker=$4
    options=$(echo "${2#"$cc"}" | tr ',' ' ')
    case $cc in
    zig)
        cc=$(sh scripts/compilers.sh find zig | tail -n 1)
        test -x "$cc" || missing "$cc (4 checks)"
        ;;
    *) command -v "$cc" >/dev/null || missing "$cc is not installed (4 checks)" ;;
    esac
    case $emulator in
    qemu-*)
        command -v "$emulator" >/dev/null || emulator=$emulator-static
        command -v "$emulator" >/dev/null || missing "${emulator%-static} is not installed (4 checks)"
        ;;
    esac
    test "$linker" != - || linker="$cc $options"
    static=-static levels="-O1 -O3"
    test $emulator != none || static='' levels=-O1
    "$cc" --version | head -n 1
    for level in $levels; do
        folder=build/matrix/$target$level
        # shellcheck disable=SC2086  # words
        {
            compile "$folder" "$cc" $level $options -Wall -Wextra -Werror &&
                $linker -O2 $static -std=c11 -D_GNU_SOURCE -Iinclude tools/*.c "$folder"/*.o -o "$folder/qkv-info"
        } >"$folder.log" 2>&1
        status=$?
        judge $status "$target $level: builds" "$folder.log"
        test $status = 0 || continue
        test "$emulator" != none || { echo "skipped: $target: selftest: nothing here runs its programs"; continue; }
        emulate "$emulator" "$folder/qkv-info" --selftest >"$folder.log" 2>&1
        judge $? "$target $level: selftest" "$folder.log"
        cat "$folder.log"
    done | tee "build/matrix/$target.jobs"
    finish "build/matrix/$target.jobs"
}

mkdir -p build/matrix
case ${1:-} in
compiler | cross) "$1" "${2:-}" ;;
level)
    shift
    level "$@"
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
