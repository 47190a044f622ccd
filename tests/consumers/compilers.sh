# The library by options and compilers of other kinds: none of them changes a bit. Read by scripts/check/consumers.sh.
# SPDX-License-Identifier: MIT

# All sources and qkv-info by COMMAND…, from FOLDER, and its selftest: every kernel set gives the bits of the reference,
# and that the recorded ones. Into info-NAME.
selftest_by() { # NAME FOLDER COMMAND…
    name=$1 source=$2
    shift 2
    rm -rf "objects-$name" && mkdir "objects-$name" && cd "objects-$name"
    find "$source/src" -name '*.c' | xargs -n 12 -P 2 "$@" -I"$source/include" -c
    "$@" -D_GNU_SOURCE -I"$source/include" "$source"/tools/*.c ./*.o -lm -o "../info-$name"
    cd ..
    "./info-$name" --selftest >selftest || { cat selftest; return 1; }
    grep golden selftest
}

# ------------------------------------------------------------------------------------------------ at link time

contraction() { # COMMAND…: what a function of the library and one of a program make of the same a*b + c
    if [ "$(uname -m)" != x86_64 ] || ! grep -qw fma /proc/cpuinfo 2>/dev/null; then
        echo "no fma here: contraction can't be seen"
        return 0
    fi
    for options in -O2 -O3 -Ofast; do # the last is the program's, not the library's
        library=$options
        test $options != -Ofast || library=-O3
        "$@" $library -mfma -I"$root/src" -c "$consumers/lto/kept.c"
        "$@" $options -mfma -c "$consumers/lto/fused.c" "$consumers/lto/contraction.c"
        "$@" $options -mfma kept.o fused.o contraction.o -o contraction
        ./contraction
    done
}

gcc_lto() {
    command -v gcc >/dev/null || skip "gcc is not installed"
    contraction gcc -flto
    selftest_by gcc "$root" gcc -flto=2 -O1
}

clang_lto() { # as a whole, and thin
    command -v clang >/dev/null || skip "clang is not installed"
    command -v ld.lld >/dev/null || skip "lld is not installed"
    set -- clang -fuse-ld=lld -Wno-unused-command-line-argument
    contraction "$@" -flto
    contraction "$@" -flto=thin
    selftest_by clang "$root" "$@" -flto=thin -O1
}

# ------------------------------------------------------------------------------------------------- other targets

static_pie() {
    need_installed static
    "$cc" -fPIE -static-pie "$consumers/consumer.c" -Imoved/static/include \
        "$(find moved/static -name libqkv.a)" -o pie
    readelf -h pie | grep -E 'Type: +DYN'
    readelf -d pie >dynamic
    absent 'NEEDED|TEXTREL' dynamic
    ./pie
}

with_musl() {
    command -v musl-gcc >/dev/null || skip "musl-gcc is not installed"
    need_light
    selftest_by musl "$work/light" musl-gcc -std=c11 -Werror -Og -DQKV_UNOPTIMIZED -static
}

with_32_bits() {
    set -- "$cc" -m32
    echo 'int main(void) { return 0; }' >empty.c
    "$@" empty.c -o empty 2>/dev/null || set -- i686-linux-gnu-gcc
    command -v "$1" >/dev/null || skip "neither cc -m32 nor i686-linux-gnu-gcc is there"
    case $(uname -m) in x86_64 | i?86) ;; *) skip "this machine does not run programs for x86" ;; esac
    need_light
    "$@" -c "$work/light/src/plan.c" -I"$work/light/include" 2>refusal && return 1
    grep -o -e '-msse2 -mfpmath=sse on x86' refusal
    selftest_by 32 "$work/light" "$@" -msse2 -mfpmath=sse -Og -static
}

# -------------------------------------------------------------------------------------------- options of parents

parent() { # NAME CMake option…: tests/consumers/parent in build-NAME
    folder=build-$1
    shift
    rm -rf "$folder"
    cmake -S "$consumers/parent" -B "$folder" -DQKV_SOURCE="$work/light" "$@" >configured 2>&1
}

levels() { # each is the parent's, for all its targets
    need_light
    for level in 0 1 2 3 s g; do
        parent "level-$level" "-DCMAKE_C_FLAGS=-O$level"
        absent 'qkv: ' configured
        cmake --build "build-level-$level" -j 2 >built 2>&1 || { cat built; return 1; }
        "build-level-$level/bits" >"bits-$level" || { cat "bits-$level"; return 1; }
        diff bits-0 "bits-$level"
    done
    echo "-O0 -O1 -O2 -O3 -Os -Og: $(cat bits-g)"
}

refused() { # COMPILER FLAG PLACE CMake option…: CMake names both, and the way out
    compiler=$1 flag=$2 place=$3
    shift 3
    if parent refused -DCMAKE_C_COMPILER="$compiler" "$@"; then
        echo "$compiler $*: not refused"
        return 1
    fi
    tr -s ' \n' '  ' <configured >message
    grep -q -e "can't be built with $flag, which all targets get from $place\\. Give" message &&
        grep -q "target_compile_options(your_target PRIVATE $flag)" message || { cat configured; return 1; }
}

taken() { # COMPILER CMake option…
    compiler=$1
    shift
    parent taken -DCMAKE_C_COMPILER="$compiler" "$@" || { cat configured; return 1; }
}

fast_math() { # for all targets: refused before anything is built; for a target of one's own: no bit changes
    need_light
    refusals=0
    for compiler in gcc clang; do
        command -v $compiler >/dev/null || { echo "$compiler is not installed"; continue; }
        refused $compiler -ffast-math CMAKE_C_FLAGS -DCMAKE_C_FLAGS='-O2 -ffast-math'
        refused $compiler -Ofast CMAKE_C_FLAGS_RELEASE -DCMAKE_C_FLAGS_RELEASE=-Ofast -DCMAKE_BUILD_TYPE=Release
        refused $compiler -ffinite-math-only add_compile_options -DOPTIONS='-O2;-ffinite-math-only'
        # What stands behind may undo it; what is another language's is none of ours.
        taken $compiler -DCMAKE_C_FLAGS='-Ofast -fno-fast-math'
        taken $compiler -DOPTIONS='$<$<COMPILE_LANGUAGE:CXX>:-ffast-math>'
        refusals=$((refusals + 3))
    done
    refused gcc -fno-signed-zeros CMAKE_C_FLAGS -DCMAKE_C_FLAGS=-fno-signed-zeros
    ! command -v clang >/dev/null || taken clang -DCMAKE_C_FLAGS=-fno-signed-zeros # config.h undoes it
    parent fast -DCMAKE_C_FLAGS=-Og -DOWN='-O2;-ffast-math'
    command_for src/plan.c build-fast
    absent 'fast-math' command
    command_for bits.c build-fast
    grep -e '-ffast-math' command
    if command -v meson >/dev/null; then
        for flag in -ffast-math -Ofast; do
            if CFLAGS="-O2 $flag" meson setup build-refused-meson "$work/light" >configured; then
                echo "Meson takes $flag"
                return 1
            fi
            grep -e "can't be built with $flag in c_args. Give such options to targets" configured
            refusals=$((refusals + 1))
        done
    fi
    echo "$((refusals + 1)) builds refused"
}
