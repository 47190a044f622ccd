#!/bin/sh
# Every way to take the library in, each by building and running one small program: find_package and pkg-config from an
# installed tree that was moved afterwards, static and shared; as a part of a CMake project, with what such projects do
# (no build type, a package of their own, hidden symbols, unity builds, FetchContent, C++); in projects of CMake, Meson,
# make and Bazel as docs/integration.md has them; in plugins and in a Python extension; by what compilers and targets
# there are: optimised at link time, position-independent, musl, 32 bits, every level of optimisation, MinGW.
#   sh scripts/check/consumers.sh [WORD]     all, or those whose name holds the word
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD consumers=$PWD/tests/consumers
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
cc=${CC:-cc} failed=0 wanted=${1:-}

skip() { # WHY: the last thing a consumer says
    echo "skipped: $*"
    exit 0
}

absent() { # PATTERN FILE (an assertion, which "! grep" is not where set -e holds)
    if grep -E -e "$1" "$2"; then
        echo "that should not be in $2"
        return 1
    fi
}

try() { # WHAT FUNCTION
    case $1 in *"$wanted"*) ;; *) return ;; esac
    ( # not as a condition, where set -e would do nothing
        set -e
        cd "$work"
        "$2"
    ) >"$work/log" 2>&1
    status=$?
    last=$(tail -n 1 "$work/log")
    if [ $status = 0 ] && [ "${last#skipped: }" != "$last" ]; then
        echo "skipped: $1: ${last#skipped: }"
    elif [ $status = 0 ]; then
        echo "$1: $last"
    else
        echo "$1 failed:"
        sed 's/^/    /' "$work/log" | tail -n 30
        failed=1
    fi
}

# -Og wherever it is not the speed that is looked at: GCC takes a third as long as for -O3, and half as long as for -O0.
install_to() { # DIRECTORY SHARED
    rm -rf build-lib first "$1"
    cmake -S "$root" -B build-lib -DCMAKE_C_FLAGS_RELEASE='-Og -DNDEBUG' -DBUILD_SHARED_LIBS="$2" \
        -DQKV_BUILD_TESTS=OFF -DQKV_BUILD_BENCH=OFF -DQKV_BUILD_EXAMPLES=OFF -DCMAKE_INSTALL_PREFIX="$work/first"
    cmake --build build-lib -j 2
    cmake --install build-lib
    mv first "$1"
    if grep -rlI -e "$work" -e "$root" "$1"; then # it would not find itself where it was moved
        echo "these files name the folders where they were made"
        return 1
    fi
    find "$1" -type f | wc -l | sed 's/$/ files/'
}

need_installed() { # KIND: in moved/KIND, also where only what comes later was asked for
    test -d "moved/$1" || install_to "moved/$1" "$(test "$1" = shared && echo ON || echo OFF)"
}

run_adapters() { # BUILD: what includes the headers beside qkv.h; of OpenMP's where the compiler has that
    "$1/pthreads_alone"
    test ! -e "$1/openmp_alone" || "$1/openmp_alone"
}

with_find_package() {
    rm -rf build-find
    cmake -S "$consumers/find_package" -B build-find -DCMAKE_PREFIX_PATH="$work/$tree"
    cmake --build build-find
    run_adapters build-find
    ./build-find/consumer
}

with_pkg_config() {
    command -v pkg-config >/dev/null || skip "pkg-config is not installed"
    PKG_CONFIG_PATH=$(dirname "$(find "$work/$tree" -name qkv.pc)")
    export PKG_CONFIG_PATH
    # shellcheck disable=SC2046
    "$cc" "$consumers/consumer.c" $(pkg-config --cflags --libs qkv) -o consumer-pc
    test "$(pkg-config --modversion qkv)" = "$(sed -nE 's/^#define QKV_VERSION_[A-Z]+ //p' \
        "$root/include/qkv.h" | tr '\n' '.' | sed 's/\.$//')"
    # shellcheck disable=SC2046
    "$cc" -Werror "$root/tests/headers/pthreads_alone.c" $(pkg-config --cflags qkv) -pthread -o pthreads_alone
    ./pthreads_alone
    LD_LIBRARY_PATH=$(pkg-config --variable=libdir qkv) ./consumer-pc
}

installed_tool() {
    "$work/$tree/bin/qkv-info" >info
    absent 'without optimisation' info
    head -n 1 info
}

# ------------------------------------------------------------------------------------------ as a part of a project

embed() { # FOLDER CMake option…: tests/consumers/add_subdirectory in build-FOLDER
    folder=build-$1
    shift
    cmake -S "$consumers/add_subdirectory" -B "$folder" "$@" >configured 2>&1 || { cat configured; return 1; }
    absent 'Warning|Error' configured
}

command_for() { # FILE FOLDER: how it is compiled, in the file command
    grep -m1 "\"command\": .*/$1" "$2/compile_commands.json" >command
}

# Other targets are compiled as if there were no qkv, and those that link with it get the folders of its headers.
nothing_leaks() { # FOLDER
    for file in plugin_host.c /consumer.c; do
        grep "\"command\": .*$file\"" "$1/compile_commands.json" |
            sed -E 's/[a-z]+\.dir//g; s/plugin_host|consumer\.c/FILE/g; s/\.c//g; s/[^ ]*FILE//g'
    done | sed -E 's: -I[^ ]*/(include|adapters/(openmp|pthreads))\b::g; s/ +/ /g' | sort -u >commands
    cat commands
    test "$(wc -l <commands)" = 1
    grep -o 'consumer.c.o.*' "$1/CMakeFiles/consumer.dir/link.txt" >link
    absent ' -[^o]' link
}

as_subdirectory() { # without a build type: the library optimises itself, and only itself
    embed untyped
    grep 'qkv: .*-O3' configured
    command_for src/plan.c build-untyped
    grep -e ' -O3 ' command
    absent ' -W' command # warnings are the parent's affair
    command_for wrapper.c build-untyped
    absent ' -O' command
    nothing_leaks build-untyped
    embed own -DCMAKE_C_FLAGS=-Og -DQKV_INSTALL=ON -DPYTHON_INCLUDE="$python_include" \
        -DCMAKE_INSTALL_PREFIX="$work/own"
    cmake --build build-own -j 2
    run_adapters build-own
    ./build-own/consumer
}

flags_of_parent() { # a parent's own flags and Debug are a choice
    embed chosen -DCMAKE_C_FLAGS=-O1
    command_for src/plan.c build-chosen
    absent ' -O3' command
    absent 'qkv: ' configured
    embed debug -DCMAKE_BUILD_TYPE=Debug
    command_for src/plan.c build-debug
    absent ' -O' command
    grep -o 'qkv: Debug builds compile the library without optimisation' configured
}

as_part_of_package() { # the parent installs a static library that holds qkv: two packages, or one
    cmake --install build-own
    mv own moved/own
    cmake -S "$consumers/find_wrapper" -B build-wrapper -DCMAKE_PREFIX_PATH="$work/moved/own"
    cmake --build build-wrapper
    ./build-wrapper/consumer
    embed one-package -DQKV_INSTALL=OFF -DCMAKE_BUILD_TYPE=Debug
    ./build-wrapper/consumer
}

as_extension() {
    test -e "$python_include/Python.h" || skip "Python.h is not installed"
    PYTHONPATH=build-own python3 -c 'import extension; print("Python runs qkv", extension.version())'
}

hidden_and_shared() {
    embed hidden -DCMAKE_C_VISIBILITY_PRESET=hidden -DBUILD_SHARED_LIBS=ON -DCMAKE_C_FLAGS=-Og
    cmake --build build-hidden -j 2
    ./build-hidden/consumer
}

unity() { # in one unit, and without a warning at -O0
    embed unity -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=0 -DCMAKE_BUILD_TYPE=Debug \
        -DCMAKE_C_FLAGS='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
    cmake --build build-unity -j 2
    test "$(find build-unity/qkv -name '*.o' | wc -l)" -lt 12
    ./build-unity/consumer
}

one_unit() { # without CMake: all but the kernel sets, in both orders
    (cd "$root" && ls src/*.c src/*/*.c src/ops/*/*.c) | sed 's/.*/#include "&"/' >one.c
    sort -r one.c >other.c
    for compiler in gcc clang; do
        command -v $compiler >/dev/null || { echo "$compiler is not installed"; continue; }
        for unit in one other; do
            $compiler -std=c11 -Wall -Wextra -Wshadow -Werror -I"$root" -I"$root/include" -O1 -c $unit.c -o $unit.o
        done
    done
    echo "$(wc -l <one.c) files"
}

fetched() {
    command -v git >/dev/null || skip "git is not installed"
    command -v c++ >/dev/null || skip "no C++ compiler is installed"
    rm -rf upstream && mkdir upstream
    cp -r "$root/CMakeLists.txt" "$root/cmake" "$root/include" "$root/src" "$root/adapters" upstream
    git -C upstream init -q
    git -C upstream checkout -q -b main
    git -C upstream add .
    git -C upstream -c user.name=qkv -c user.email=qkv@localhost commit -qm all
    cmake -S "$consumers/fetch_content" -B build-fetched -DQKV_URL="file://$work/upstream" -DCMAKE_C_FLAGS=-Og
    cmake --build build-fetched -j 2
    ./build-fetched/consumer
}

# ---------------------------------------------------------------------------------------------- files by themselves

plugins() { # two shared objects, each with a static qkv of its own, in one name space
    test "$(uname -s)" = Linux || skip "the names of this system's linker are not known here"
    mkdir -p plugins && cd plugins
    "$cc" -Og -fPIC -I"$root/include" -c "$root"/src/*.c "$root"/src/*/*.c "$root"/src/*/*/*.c
    rm -f status.o
    for patch in 7 8; do
        mkdir -p v$patch
        sed "s/\\(QKV_VERSION_PATCH\\) .*/\\1 $patch/" "$root/include/qkv.h" >v$patch/qkv.h
        "$cc" -Og -fPIC -Iv$patch -c "$root/src/status.c" -o v$patch/status.o
        ar rcs v$patch/libqkv.a ./*.o v$patch/status.o
        "$cc" -Og -shared -fPIC -Iv$patch "$consumers/wrapper.c" v$patch/libqkv.a -o plugin$patch.so
        nm -D --defined-only plugin$patch.so >exported
        absent 'qkv_' exported
    done
    version=$(sed -nE 's/^#define QKV_VERSION_(MAJOR|MINOR) //p' "$root/include/qkv.h" | tr '\n' .)
    "$cc" "$consumers/plugin_host.c" -ldl -o host
    ./host ./plugin7.so "${version}7" ./plugin8.so "${version}8"
}

with_cxx() { # a C++ program on the C library
    command -v c++ >/dev/null || skip "no C++ compiler is installed"
    need_installed static
    rm -rf build-cxx
    cmake -S "$consumers/cxx" -B build-cxx -DCMAKE_PREFIX_PATH="$work/moved/static"
    cmake --build build-cxx
    ./build-cxx/consumer
}

with_mingw() { # the README's commands, cross compiled
    mingw=x86_64-w64-mingw32
    command -v $mingw-gcc >/dev/null || skip "$mingw-gcc is not installed"
    cmake -S "$root" -B build-mingw -DCMAKE_SYSTEM_NAME=Windows -DCMAKE_SYSTEM_PROCESSOR=x86_64 \
        -DCMAKE_C_COMPILER=$mingw-gcc -DBUILD_SHARED_LIBS="$1" -DCMAKE_C_FLAGS=-Werror \
        -DCMAKE_C_FLAGS_RELEASE='-Og -DNDEBUG' -DQKV_BUILD_TESTS=OFF -DQKV_BUILD_BENCH=OFF \
        -DQKV_BUILD_EXAMPLES=OFF -DCMAKE_INSTALL_PREFIX="$work/mingw"
    cmake --build build-mingw -j 2
    cmake --install build-mingw
    # The stack is aligned to 16 bytes there: no move to or from it may ask for more.
    $mingw-objdump -d --no-show-raw-insn build-mingw/libqkv* mingw/bin/* >code
    grep -q 'vmovups.*zmm' code
    grep '[yz]mm' code >vectors
    absent 'vmov(ap[sd]|dqa(32|64)?) .*\(' vectors
    wine=$(command -v wine64 || command -v wine || ls /usr/lib/wine/wine64 2>/dev/null) ||
        skip "built, but not run: wine is not installed"
    WINEPREFIX=$work/wine WINEDEBUG=-all "$wine" mingw/bin/qkv-info.exe --selftest
}

mingw_moves() { # so it is also where GCC is not patched
    mingw=x86_64-w64-mingw32
    command -v $mingw-gcc >/dev/null || skip "$mingw-gcc is not installed"
    cat >moves.c <<'SOURCE'
#include "kernels/win64.inc.h"
void moves(void);
void moves(void) { __asm__("vmovaps %ymm1, 32(%rsp)\n\tvmovdqa64 64(%rsp), %zmm3{%k1}{z}"); }
SOURCE
    for level in -O0 -O2; do
        $mingw-gcc $level -I"$root/src" -c moves.c
        test "$($mingw-objdump -d moves.o | grep -cE 'vmov(ups|dqu64)')" = 2
    done
    echo "aligned moves become unaligned ones"
}

. "$consumers/build_systems.sh"
. "$consumers/compilers.sh"
python_include=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null)
test -e "$python_include/Python.h" || python_include=
mkdir -p "$work/moved"
for kind in static shared; do
    tree=moved/$kind
    do_install() { need_installed $kind; }
    try "install, $kind" do_install
    try "find_package, $kind" with_find_package
    try "pkg-config, $kind" with_pkg_config
    try "installed qkv-info, $kind" installed_tool
done
try "add_subdirectory, no build type" as_subdirectory
try "add_subdirectory, package of its own" as_part_of_package
try "add_subdirectory, Python extension" as_extension
try "add_subdirectory, flags of the parent" flags_of_parent
try "add_subdirectory, hidden and shared" hidden_and_shared
try "unity build" unity
try "one unit" one_unit
try "FetchContent" fetched
try "two plugins" plugins
try "installed, C++" with_cxx
try "CMake, as on the page" with_page_cmake
try "one line, as on the page" with_page_line
try "Meson, as on the page" with_page_meson
try "Meson, installed" meson_installs
try "make, as on the page" with_page_make
try "Bazel, files" bazel_files
try "Bazel, as on the page" with_page_bazel
try "LTO, gcc" gcc_lto
try "LTO, clang" clang_lto
try "static PIE" static_pie
try "musl" with_musl
try "32 bits" with_32_bits
try "levels of optimisation" levels
try "fast-math" fast_math
mingw_static() { with_mingw OFF; }
mingw_shared() { with_mingw ON; }
try "MinGW, static" mingw_static
try "MinGW, shared" mingw_shared
try "MinGW, moves" mingw_moves
exit $failed
