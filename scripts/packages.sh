#!/bin/sh
# Installs what a command of this project needs, when something is missing and apt may be used without a password;
# else prints the command for your system and exits with status 1.
#
#   sh scripts/packages.sh lib|demo|test|more|languages|packaging|embedded|cross|bench|baselines|peers|llama|mpi
#
# test: what no test can do without; more: what some stages need; languages: compilers of other languages, for
# docs/integration.md; packaging: what makes and checks packages and releases; embedded: compilers and emulators for
# microcontrollers; llama: what builds llama.cpp; cross: other architectures' compilers and qemu; mpi: Open MPI, for
# examples/mpi.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/.." || exit 1

group=${1:-}
arch=$(uname -m)

# groups, what is needed, and its packages on Debian and Ubuntu, Fedora, Arch, macOS (-: none, or comes with another)
needs() {
    cat <<'TABLE'
lib,demo,test,bench,llama compiler gcc,libc6-dev gcc,glibc-devel gcc -
lib,demo,test,bench,llama command:cmake cmake cmake cmake cmake
lib,demo,test,bench,llama command:make make make make -
demo,more header:cjson/cJSON.h libcjson-dev cjson-devel cjson cjson
demo,more header:utf8proc.h libutf8proc-dev utf8proc-devel libutf8proc utf8proc
demo,more command:pkg-config pkg-config pkgconf-pkg-config pkgconf pkgconf
demo,more,llama python:pip python3,python3-pip python3-pip python-pip python
demo,more,llama certificates ca-certificates ca-certificates ca-certificates -
more python:numpy python3-numpy python3-numpy python-numpy numpy
more header:simde/x86/avx512.h libsimde-dev simde-devel simde simde
more python:ensurepip python3-venv python3 python python
test header:cmocka.h libcmocka-dev libcmocka-devel cmocka cmocka
more command:clang clang clang clang llvm
more libfuzzer libclang-rt-dev compiler-rt compiler-rt -
more,bench,llama command:c++ g++ gcc-c++ gcc -
more,bench header:benchmark/benchmark.h libbenchmark-dev google-benchmark-devel benchmark google-benchmark
bench,peers command:python3 python3 python3 python python
baselines library:openblas libopenblas-dev openblas-devel openblas openblas
baselines library:dnnl libdnnl-dev onednn-devel onednn onednn
peers python:ensurepip python3-venv python3 python python
more command:git git git git git
more command:meson meson meson meson meson
more command:ninja ninja-build ninja-build ninja ninja
more command:bmake bmake bmake bmake bmake
more command:ld.lld lld lld lld lld
more command:musl-gcc musl-tools musl-gcc musl -
more header:Python.h python3-dev python3-devel python python
packaging command:dpkg-buildpackage dpkg-dev - - -
packaging command:fakeroot fakeroot - - -
packaging command:dh debhelper - - -
packaging command:lintian lintian - - -
packaging command:mandoc mandoc mandoc mandoc -
packaging command:abidiff abigail-tools libabigail libabigail -
packaging command:xz xz-utils xz xz -
packaging command:zip zip zip zip -
packaging python:ensurepip python3-venv python3 python python
languages command:rustc rustc rust rust rust
languages command:bindgen bindgen bindgen-cli rust-bindgen rust-bindgen
languages command:go golang-go golang go go
mpi command:mpicc libopenmpi-dev openmpi-devel openmpi open-mpi
mpi command:mpirun openmpi-bin openmpi openmpi open-mpi
x86-more command:x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64 mingw64-gcc mingw-w64-gcc -
x86-more wine wine64 wine wine -
x86-more cross-gcc gcc-aarch64-linux-gnu,libc6-dev-arm64-cross gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc -
x86-more,x86-cross qemu qemu-user qemu-user qemu-user -
x86-more,x86-cross command:i686-linux-gnu-gcc gcc-i686-linux-gnu,libc6-dev-i386-cross - - -
x86-cross command:arm-linux-gnueabihf-gcc gcc-arm-linux-gnueabihf,libc6-dev-armhf-cross - - -
x86-cross command:riscv64-linux-gnu-gcc gcc-riscv64-linux-gnu,libc6-dev-riscv64-cross - - -
x86-more,x86-cross command:s390x-linux-gnu-gcc gcc-s390x-linux-gnu,libc6-dev-s390x-cross - - -
x86-cross command:powerpc64le-linux-gnu-gcc gcc-powerpc64le-linux-gnu,libc6-dev-ppc64el-cross - - -
embedded command:arm-none-eabi-gcc gcc-arm-none-eabi arm-none-eabi-gcc-cs arm-none-eabi-gcc -
embedded newlib libnewlib-arm-none-eabi arm-none-eabi-newlib arm-none-eabi-newlib -
embedded picolibc gcc-riscv64-unknown-elf,picolibc-riscv64-unknown-elf - - -
embedded command:qemu-system-arm qemu-system-arm qemu-system-arm qemu-system-arm qemu
embedded command:qemu-system-riscv32 qemu-system-misc qemu-system-riscv qemu-system-riscv qemu
TABLE
}

have_command() {
    command -v "$1" >/dev/null 2>&1
}

have() {
    case $1 in
    compiler) have_command cc && echo '#include <stdio.h>' | cc -x c -E - >/dev/null 2>&1 ;;
    newlib) echo '#include <string.h>' | arm-none-eabi-gcc -x c -E - >/dev/null 2>&1 ;;
    picolibc) echo '#include <string.h>' | riscv64-unknown-elf-gcc --specs=picolibc.specs -x c -E - >/dev/null 2>&1 ;;
    cross-gcc) have_command aarch64-linux-gnu-gcc ;;
    command:*) have_command "${1#command:}" ;;
    library:*) echo 'int main(void) { return 0; }' | cc -x c - -o /dev/null "-l${1#library:}" 2>/dev/null ;;
    header:Python.h) test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ;;
    libfuzzer)
        echo 'int LLVMFuzzerTestOneInput(void); int LLVMFuzzerTestOneInput(void) { return 0; }' |
            clang -fsanitize=fuzzer -x c - -o /dev/null 2>/dev/null
        ;;
    wine) have_command wine64 || have_command wine || test -x /usr/lib/wine/wine64 ;;
    qemu) have_command qemu-aarch64 || have_command qemu-aarch64-static ;;
    certificates) test -s /etc/ssl/certs/ca-certificates.crt || test -d /etc/pki/tls || test -e /etc/ssl/cert.pem ;;
    python:*) python3 -c "import ${1#python:}" >/dev/null 2>&1 ;;
    header:benchmark/*) echo "#include <${1#header:}>" | c++ -x c++ -E - >/dev/null 2>&1 ;;
    header:*) echo "#include <${1#header:}>" | cc -x c -E - >/dev/null 2>&1 ;;
    esac
}

# The packages (column $1 of the table: 3 Debian, 4 Fedora, 5 Arch, 6 macOS) for everything that is not there.
missing() {
    needs | while read -r groups what debian fedora arch_linux macos; do
        case ,$groups, in
        *,"$group",*) ;;
        *,x86-"$group",*) [ "$arch" = x86_64 ] && [ "$(uname -s)" = Linux ] || continue ;;
        *) continue ;;
        esac
        have "$what" && continue
        case $1 in
        3) echo "$debian" ;;
        4) echo "$fedora" ;;
        5) echo "$arch_linux" ;;
        6) echo "$macos" ;;
        esac
    done | tr ',' '\n' | grep -v '^-$' | sort -u | tr '\n' ' '
}

say_commands() {
    echo "qkv: packages are missing. Install them with the line for your system, then run this again:"
    echo "  Debian, Ubuntu:  sudo apt-get install $(missing 3)"
    echo "  Fedora:          sudo dnf install $(missing 4)"
    echo "  Arch:            sudo pacman -S $(missing 5)"
    if [ "$group" = lib ] || [ "$group" = demo ]; then
        echo "  macOS:           xcode-select --install; brew install $(missing 6)"
    else
        echo "  macOS:           xcode-select --install; brew install $(missing 6) (no cross tests there)"
    fi
}

# The arm64 build of cmocka, unpacked beside the builds. apt looks into a state of its own, so neither root nor a
# foreign architecture is needed.
cmocka_for_arm64() {
    deps=$PWD/build/aarch64-deps
    test -e "$deps/usr/include/cmocka.h" && return 0
    apt=$PWD/build/aarch64-apt
    rm -rf "$apt" && mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$deps" || return 1
    : >"$apt/status"
    cat >"$apt/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Sandbox::User "";
CONF
    (
        cd "$apt" && export APT_CONFIG="$apt/apt.conf" &&
            apt-get -qq update && apt-get -qq download libcmocka0 libcmocka-dev &&
            for deb in ./*.deb; do dpkg -x "$deb" "$deps" || exit 1; done
    )
    status=$?
    rm -rf "$apt"
    test $status -eq 0 -a -e "$deps/usr/include/cmocka.h"
}

case $group in
lib | demo | test | more | languages | packaging | embedded | cross | bench | baselines | peers | llama | mpi) ;;
*)
    sed -n '5s/^# */usage: /p' "$0" >&2
    exit 2
    ;;
esac

if [ -n "$(missing 3)" ]; then
    if ! have_command apt-get; then
        say_commands
        exit 1
    elif [ "$(id -u)" = 0 ]; then
        as_root=
    elif have_command sudo && sudo -n true 2>/dev/null; then
        as_root='sudo -n'
    else
        say_commands
        exit 1
    fi
    packages=$(missing 3)
    echo "qkv: installing $packages"
    install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends"
    install="$install -o DPkg::Lock::Timeout=300 install"
    $as_root apt-get -qq update || echo "qkv: apt-get update failed, trying with the package lists that are there"
    # shellcheck disable=SC2086  # words
    if ! $install $packages >/dev/null; then
        for package in $packages; do # one by one: as much as there is
            $install "$package" >/dev/null || echo "qkv: could not install $package"
        done
    fi
    if [ -n "$(missing 3)" ]; then
        say_commands
        exit 1
    fi
fi

if [ "$group" = more ] && [ "$arch" = x86_64 ] && have_command dpkg; then
    cmocka_for_arm64 || {
        echo "qkv: could not fetch libcmocka for arm64; the tests under qemu will be skipped"
        exit 1
    }
fi
exit 0
