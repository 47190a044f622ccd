#!/bin/sh
# Every way to link the library, each by building and running one small program: find_package and pkg-config from an
# installed tree that was moved afterwards, static and shared; add_subdirectory; files copied into a C or C++ project.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD consumers=$PWD/tests/consumers
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
cc=${CC:-cc} failed=0

try() { # WHAT FUNCTION
    ( # not as a condition, where set -e would do nothing
        set -e
        cd "$work"
        "$2"
    ) >"$work/log" 2>&1
    status=$?
    if [ $status = 0 ]; then
        echo "$1: $(tail -n 1 "$work/log")"
    else
        echo "$1 failed:"
        sed 's/^/    /' "$work/log" | tail -n 30
        failed=1
    fi
}

install_to() { # DIRECTORY SHARED
    rm -rf build-lib first "$1"
    cmake -S "$root" -B build-lib -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS="$2" -DQKV_BUILD_TESTS=OFF \
        -DQKV_BUILD_BENCH=OFF -DQKV_BUILD_EXAMPLES=OFF -DCMAKE_INSTALL_PREFIX="$work/first"
    cmake --build build-lib -j 2
    cmake --install build-lib
    mv first "$1"
    find "$1" -type f | wc -l | sed 's/$/ files/'
}

with_find_package() {
    rm -rf build-find
    cmake -S "$consumers/find_package" -B build-find -DCMAKE_PREFIX_PATH="$work/$tree"
    cmake --build build-find
    ./build-find/consumer
}

with_pkg_config() {
    command -v pkg-config >/dev/null || { echo "left out: pkg-config is not installed"; return 0; }
    PKG_CONFIG_PATH=$(dirname "$(find "$work/$tree" -name qkv.pc)")
    export PKG_CONFIG_PATH
    # shellcheck disable=SC2046
    "$cc" "$consumers/consumer.c" $(pkg-config --cflags --libs qkv) -o consumer-pc
    test "$(pkg-config --modversion qkv)" = "$(sed -nE 's/^#define QKV_VERSION_[A-Z]+ //p' \
        "$root/include/qkv.h" | tr '\n' '.' | sed 's/\.$//')"
    LD_LIBRARY_PATH=$(pkg-config --variable=libdir qkv) ./consumer-pc
}

installed_tool() {
    LD_LIBRARY_PATH=$(dirname "$(find "$work/$tree" -name 'libqkv.*' | head -n 1)") "$work/$tree/bin/qkv-info" >info
    head -n 1 info
}

with_add_subdirectory() {
    cmake -S "$consumers/add_subdirectory" -B build-sub
    cmake --build build-sub -j 2
    ./build-sub/consumer
}

copy_files() {
    rm -rf copied && mkdir copied
    cp -r "$root/src" "$root/include" "$consumers/consumer.c" copied
    cd copied
}

with_copied_files() {
    copy_files
    "$cc" -O2 -Iinclude consumer.c src/*.c src/*/*.c src/*/*/*.c -o consumer
    ./consumer
}

with_cxx() { # a C++ program on the C library
    command -v c++ >/dev/null || { echo "left out: no C++ compiler is installed"; return 0; }
    copy_files
    mkdir objects && (cd objects && "$cc" -O2 -I../include -c ../src/*.c ../src/*/*.c ../src/*/*/*.c)
    c++ -std=c++17 -x c++ -Iinclude consumer.c -x none objects/*.o -o consumer
    ./consumer
}

for kind in static shared; do
    tree=moved/$kind
    mkdir -p "$work/moved"
    shared=OFF
    test $kind = shared && shared=ON
    do_install() { install_to "$tree" $shared; }
    try "install, $kind" do_install
    try "find_package, $kind" with_find_package
    try "pkg-config, $kind" with_pkg_config
    try "installed qkv-info, $kind" installed_tool
done
try "add_subdirectory" with_add_subdirectory
try "copied files" with_copied_files
try "copied files, C++" with_cxx
exit $failed
