# The library as a part of other build systems' projects: those of docs/integration.md, section "Taking it in", by the
# page's own files and commands; then what each of them promises besides. Read by scripts/check/consumers.sh.
# SPDX-License-Identifier: MIT
. "$root/scripts/check/page.sh"
page=$root/docs/integration.md

# A copy of what a user takes, without the kernel sets of single architectures, as the README says that they are left
# out: what compiles every source of it takes a third of the time, and shows that no build system misses them.
need_light() { # in $work/light
    test ! -d "$work/light" || return 0
    mkdir "$work/light"
    for part in CMakeLists.txt cmake meson.build meson_options.txt BUILD.bazel MODULE.bazel include src adapters \
        tools; do
        cp -r "$root/$part" "$work/light"
    done
    mkdir "$work/light/docs" && cp -r "$root/docs/man" "$work/light/docs"
    for set in "$work"/light/src/kernels/*/; do
        test "$(basename "$set")" = portable || rm -r "$set"
    done
    sed -i -E '/^    SET\(/{/\((portable|ref),/!d;}' "$work/light/src/context.c"
    test "$(grep -cE '^    SET\(' "$work/light/src/context.c")" = 2
}

# The project of a section, in the folder page-SECTION, with the library in FOLDER of it; its commands changed by sed.
take_in() { # SECTION SOURCE FOLDER SED-COMMAND [FUNCTION, before the commands]
    rm -rf "page-$1" && mkdir -p "page-$1/$(dirname "$3")"
    ln -s "$2" "page-$1/$3"
    cd "page-$1"
    unpack "$page" "An engine in C or C++"
    rm commands CMakeLists.txt
    unpack "$page" "$1"
    sed "$4" commands >changed
    if cmp -s commands changed; then
        echo "nothing to change in the commands of $1: they would take minutes"
        return 1
    fi
    test $# -lt 5 || "$5"
    . ./changed >printed 2>&1 || { cat printed; return 1; }
    grep -Fx -f output printed >lines
    diff output lines
}

with_page_cmake() {
    need_light
    take_in CMake "$work/light" third_party/qkv 's/-DCMAKE_BUILD_TYPE=Release/-DCMAKE_C_FLAGS=-Og/'
    tail -n 1 lines
}

with_page_line() { # also: objects of one folder have different names
    take_in "One line" "$root" third_party/qkv 's/-O2/-Og/'
    twice=$(cd "$root" && find src -name '*.c' | sed 's:.*/::' | sort | uniq -d)
    test -z "$twice" || { echo "two sources are called $twice"; return 1; }
    tail -n 1 lines
}

# ------------------------------------------------------------------------------------------------------------ Meson

need_meson() {
    command -v meson >/dev/null || skip "meson is not installed"
    command -v ninja >/dev/null || skip "ninja is not installed"
}

with_page_meson() {
    need_meson
    need_light
    take_in Meson "$work/light" subprojects/qkv 's/^meson setup build/& -Doptimization=g/'
    # By default it is static, the library alone, and nothing of it is installed.
    test -e build/subprojects/qkv/libqkv.a
    find build -name '*.so*' -o -name 'qkv-info*' >made
    absent . made
    mkdir installed
    DESTDIR=$PWD/installed meson install -C build >/dev/null
    find installed -type f >made
    absent . made
    # A project that has chosen nothing: the library optimises itself, and only itself; all sources are compiled.
    sed -i 's/, .buildtype=release.//' meson.build
    meson setup plain >configured
    command_for subprojects/qkv/src/plan.c plain
    grep -e ' -O3 ' command
    command_for own.c plain
    absent ' -O[1-3s]|QKV_' command
    meson setup slow -Dqkv:optimize=false -Dqkv:default_library=shared -Dqkv:install=enabled \
        -Dqkv:tools=enabled >>configured
    command_for subprojects/qkv/src/plan.c slow
    absent ' -O[1-3s]' command
    grep -e '-DQKV_UNOPTIMIZED' command
    grep -q qkv-info slow/build.ninja
    grep -o '"file": ".*/qkv/src/.*\.c"' plain/compile_commands.json | wc -l >compiled
    find "$work/light/src" -name '*.c' | wc -l | diff - compiled
    absent 'WARNING' configured
    tail -n 1 lines
}

meson_installs() { # what CMake installs, static and shared, but CMake's own files
    need_meson
    need_light
    rm -rf build-meson meson-first
    meson setup build-meson "$work/light" -Doptimization=g -Ddefault_library=both -Dwerror=true --libdir=lib \
        --prefix="$work/meson-first"
    meson compile -C build-meson
    meson install -C build-meson
    mv meson-first moved/meson
    (cd moved/meson && find . -type f -o -type l) | sort >by-meson
    for kind in static shared; do
        tree=moved/$kind
        need_installed $kind >&2
        (cd "$tree" && find . -type f -o -type l)
    done | grep -v /cmake/ | sort -u | diff - by-meson
    diff moved/static/lib/pkgconfig/qkv.pc moved/meson/lib/pkgconfig/qkv.pc
    tree=moved/meson
    with_pkg_config
    installed_tool
    nm -D --defined-only moved/meson/lib/libqkv.so | awk '{ print $3 }' | sort >by-meson
    nm -D --defined-only moved/shared/lib/libqkv.so | awk '{ print $3 }' | sort | diff - by-meson
    "$cc" -shared -o wrapper-meson.so -fPIC -Imoved/meson/include "$consumers/wrapper.c" moved/meson/lib/libqkv.a
    nm -D --defined-only wrapper-meson.so >exported
    absent 'qkv_' exported # a static one stays private
    echo "$(find moved/meson -type f | wc -l) files"
}

# ------------------------------------------------------------------------------------------------------------- make

with_page_make() {
    need_light
    cp -r "$work/light" light-make # objects lie beside the sources
    take_in make "$work/light-make" third_party/qkv 's/^make$/make -j 2 CFLAGS=-Og/'
    for make in make bmake; do
        command -v $make >/dev/null || { echo "$make is not installed"; continue; }
        $make -n CFLAGS=-Og >idle
        absent ' -c |^rm ' idle
        sleep 1 # BSD make looks at whole seconds
        touch third_party/qkv/src/status.c
        $make CFLAGS=-Og >again
        test "$(grep -c -e ' -c ' again)" = 1 || { cat again; return 1; }
        made="${made:-} $make"
    done
    touch third_party/qkv/include/qkv.h
    make -n | grep -c -e ' -c ' >all
    find third_party/qkv/src own.c -name '*.c' | wc -l | diff - all
    make clean >/dev/null
    find . third_party/qkv/ -name "*.[oa]" >left
    absent . left
    echo "$(tail -n 1 lines) (with$made)"
}

# ------------------------------------------------------------------------------------------------------------ Bazel

bazel_files() { # without Bazel: they parse, and name what CMake compiles
    python3 "$consumers/bazel/read_build_files.py" "$root" "$page"
}

# Bazel 4, Debian's, has the rules itself that newer ones fetch, so that it needs no network; it does not read
# MODULE.bazel.
settle_bazel() {
    echo "startup --batch --output_user_root=$work/bazel" >.bazelrc
    case $(sed -n 's/^ii *bazel-bootstrap *\([0-9]*\).*/\1/p' "$work/bazel-package") in
    4 | 5) ;;
    *) return 0 ;;
    esac
    for rules in rules_cc rules_java; do
        mkdir -p "$rules/${rules#rules_}"
        touch $rules/WORKSPACE "$rules/${rules#rules_}/BUILD"
        echo "local_repository(name = \"$rules\", path = \"$rules\")" >>WORKSPACE
    done
    for rule in cc_binary cc_library cc_toolchain cc_toolchain_suite; do
        echo "$rule = native.$rule" | tee -a rules_cc/cc/defs.bzl >rules_cc/cc/$rule.bzl
    done
    for rule in java_binary java_import java_library java_plugin java_runtime java_toolchain; do
        echo "$rule = native.$rule" >>rules_java/java/defs.bzl
    done
    echo 'local_repository(name = "qkv", path = "third_party/qkv")' >>WORKSPACE
    touch third_party/qkv/WORKSPACE
}

with_page_bazel() {
    command -v bazel >/dev/null || skip "bazel is not installed, which takes 150 MB: its files are read, not built"
    need_light
    cp -r "$work/light" light-bazel
    dpkg -l bazel-bootstrap >bazel-package 2>/dev/null || : # it does not know its own version
    take_in Bazel "$work/light-bazel" third_party/qkv 's/-c opt/-c dbg --copt=-Og/' settle_bazel
    bazel aquery 'mnemonic("CppCompile", @qkv//:qkv)' 2>/dev/null >actions # where nobody has chosen
    grep -qe '-O3' actions
    tail -n 1 lines
}
