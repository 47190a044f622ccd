#!/bin/sh
# The packages, each made, looked at, and used by a program: Debian's (built from sources, lintian without a word,
# installed into a throw-away copy of this system where root may make one), a Conan package, static and shared, and the
# vcpkg port, which runs without vcpkg (scripts/check/vcpkg.cmake). And the manual page, and the files of a release.
#   sh scripts/check/packaging.sh [BUILD_DIR [WORD]]     all, or those whose name holds the word
# Ends with "N passed, N failed, N skipped".
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD build=${1:-build/release} wanted=${2:-}
consumers=$root/tests/consumers
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
conan_version=2.34.0

skip() { # WHY: the last thing a check says
    echo "skipped: $*"
    exit 0
}

need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || skip "$1 is not installed (Debian: $2)"
}

try() { # WHAT FUNCTION
    case $1 in *"$wanted"*) ;; *) return ;; esac
    ( # not as a condition, where set -e would do nothing
        set -e
        "$2"
    ) >"$work/log" 2>&1
    status=$?
    last=$(tail -n 1 "$work/log")
    if [ $status = 0 ] && [ "${last#skipped: }" != "$last" ]; then
        echo "skipped: $1: ${last#skipped: }"
        skipped=$((skipped + 1))
    elif [ $status = 0 ]; then
        echo "$1: $last"
        passed=$((passed + 1))
    else
        echo "$1 failed:"
        sed 's/^/    /' "$work/log" | tail -n 40
        failed=$((failed + 1))
    fi
}

number() { # of the version: 0.1.0
    sed -nE 's/^#define QKV_VERSION_[A-Z]+ //p' "$root/include/qkv.h" | paste -s -d . -
}

# ---------------------------------------------------------------------------------------------------- manual page

manual() {
    need mandoc mandoc
    mandoc -Tlint -W all docs/man/qkv-info.1
    "$build/qkv-info" --help | grep -oE -e '--[a-z]+' | sort -u >"$work/help"
    echo '--help' | sort -u - "$work/help" >"$work/known"
    sed -nE 's/^\.It Fl -([a-z]+).*/--\1/p' docs/man/qkv-info.1 | sort >"$work/manual"
    diff "$work/known" "$work/manual"
    sed -nE '/^\.Sh SYNOPSIS/,/^\.Sh DESCRIPTION/s/^\.(Op )?Fl/&/p' docs/man/qkv-info.1 | grep -oE 'Fl -[a-z]+' |
        sed 's/Fl -/--/' | sort -u | diff - "$work/known"
    echo "$(wc -l <"$work/known") options, those of --help"
}

# --------------------------------------------------------------------------------------------------------- Debian

# The tree as it is, uncommitted changes too, as an upstream tarball and debian/ beside it.
debian_sources() {
    tree=$work/debian/qkv-$(number)
    mkdir -p "$tree"
    git ls-files -co --exclude-standard | while read -r file; do test ! -e "$file" || echo "$file"; done |
        tar -cf - --no-recursion -T - | tar -C "$tree" -xf -
    tar -C "$work/debian" --exclude="${tree##*/}/debian" -czf "$work/debian/qkv_$(number).orig.tar.gz" "${tree##*/}"
}

debian_build() {
    need dpkg-buildpackage dpkg-dev
    need dh debhelper
    need git git
    debian_sources
    # -Og: nobody looks at the speed of these. The selftest runs where they are installed. -d: cmake and the compiler
    # need not come from packages.
    (cd "$tree" && DEB_CFLAGS_APPEND='-Og -g0' DEB_BUILD_OPTIONS='nocheck noautodbgsym parallel=2' \
        dpkg-buildpackage -d -us -uc)
    find "$work/debian" -name '*.deb' | grep -c . | sed 's/$/ packages/'
}

debian_built() {
    ls "$work"/debian/*.changes >/dev/null 2>&1 || skip "the packages were not built"
}

debian_lintian() {
    need lintian lintian
    debian_built
    fail_on=error,warning
    case $(lintian --print-version) in 2.116.*) fail_on=$fail_on,info,pedantic ;; esac # others have other opinions
    lintian --info --display-info --pedantic --fail-on $fail_on "$work"/debian/*.changes >"$work/said" 2>&1 ||
        { cat "$work/said"; return 1; }
    echo "no tag of $fail_on"
}

debian_symbols() { # what the packages depend on by is what abi/ records
    awk '$1 ~ /@/ { sub("@.*", "", $1); print $1 }' debian/libqkv0.symbols | sort >"$work/symbols"
    sed -nE 's/^function .*\b(qkv_[a-z0-9_]+)\(.*/\1/p' abi/libqkv.so.*.abi | sort | diff - "$work/symbols"
    echo "$(wc -l <"$work/symbols") functions"
}

# dpkg -i and what autopkgtest would run, where they see and change a copy of this system's files only.
debian_installed() {
    debian_built
    test "$(id -u)" = 0 || skip "only root may install: the packages were built, not installed"
    command -v unshare >/dev/null && mkdir "$work/upper" "$work/lower" "$work/copy" &&
        mount_copy='mount -t tmpfs tmpfs "$0/lower" && mkdir "$0/lower/upper" "$0/lower/work" &&
            mount -t overlay overlay -o "lowerdir=/,upperdir=$0/lower/upper,workdir=$0/lower/work" "$0/copy"' &&
        unshare -m sh -c "$mount_copy" "$work" || skip "this system lets nobody mount a copy of itself"
    mkdir "$work/packages"
    cp "$work"/debian/*.deb "$work/packages"
    unshare -m sh -c "$mount_copy"' && mount --rbind /dev "$0/copy/dev" && mount -t proc proc "$0/copy/proc" &&
        mkdir -p "$0/copy/qkv/work" && cp -r "$0/packages" "$1/debian" "$1/tests" "$0/copy/qkv" &&
        exec chroot "$0/copy" sh -ec "
            dpkg -i /qkv/packages/*.deb
            AUTOPKGTEST_TMP=/qkv/work sh /qkv/debian/tests/consumer
            dpkg --purge libqkv-dev qkv-tools libqkv0
            ! ls /usr/include/qkv.h /usr/include/qkv /usr/bin/qkv-info 2>/dev/null"' "$work" "$root"
    echo "installed, used and removed"
}

# ---------------------------------------------------------------------------------------------------------- Conan

conan_install() {
    python3 -c 'import venv, ensurepip' 2>/dev/null || skip "Python's venv is not installed (Debian: python3-venv)"
    { test -x build/conan/bin/conan || python3 -m venv build/conan; } &&
        build/conan/bin/python -m pip install --quiet --disable-pip-version-check "conan==$conan_version" ||
        skip "Conan $conan_version can't be installed"
    export CONAN_HOME="$work/conan"
    test -e "$CONAN_HOME/profiles/default" || build/conan/bin/conan profile detect
}

conan_create() { # SHARED
    conan_install
    build/conan/bin/conan create packaging/conan --options "qkv/*:shared=$1" --conf tools.build:jobs=2 \
        --conf "tools.cmake.cmake_layout:test_folder=$work/conan-test" \
        --conf tools.cmake.cmaketoolchain:user_presets= \
        --conf 'tools.cmake.cmaketoolchain:extra_variables={"CMAKE_C_FLAGS_RELEASE": "-Og -DNDEBUG"}'
    build/conan/bin/conan list "qkv/$(number):*" >"$work/list" && grep -q "shared: $1" "$work/list"
    echo "qkv/$(number), shared=$1: created, its test run"
}

# ---------------------------------------------------------------------------------------------------------- vcpkg

vcpkg() {
    cmake -DPORT_DIR="$root/packaging/vcpkg/ports/qkv" -DWORK="$work/vcpkg" -DLINKAGE=static -DFEATURES=tools \
        -DOPTIONS='-DCMAKE_C_FLAGS_RELEASE=-Og -DNDEBUG' -P scripts/check/vcpkg.cmake
    mv "$work/vcpkg/package" "$work/moved"
    cmake -S "$consumers/find_package" -B "$work/vcpkg-consumer" -DCMAKE_PREFIX_PATH="$work/moved"
    cmake --build "$work/vcpkg-consumer"
    "$work/moved/tools/qkv/qkv-info" >/dev/null
    "$work/vcpkg-consumer/consumer"
}

# -------------------------------------------------------------------------------------------------------- release

release() { # of the last commit
    git rev-parse --quiet --verify HEAD >/dev/null 2>&1 || skip "this is no git checkout"
    need zip zip
    need xz xz-utils
    sh scripts/release.sh
}

conan_static() { conan_create False; }
conan_shared() { conan_create True; }

sh scripts/packages.sh packaging || echo "go on with what is there"
try "manual page" manual
try "Debian, build" debian_build
try "Debian, lintian" debian_lintian
try "Debian, symbols" debian_symbols
try "Debian, installed" debian_installed
try "Conan, static" conan_static
try "Conan, shared" conan_shared
try "vcpkg's port, without vcpkg" vcpkg
try "release, made twice" release
echo "$passed passed, $failed failed, $skipped skipped"
test $failed = 0 && { test $passed -gt 0 || exit 77; }
