#!/bin/sh
# Builds that leave parts of the library out (src/config.h), made of qkv.c: what each still computes has the bits of the
# whole, and what it lacks is refused; and how large each is.
#
#   sh scripts/profiles.sh test       each by itself, and those of several parts; ends with "N passed, N failed, …"
#   sh scripts/profiles.sh sizes      a table of KiB at -Os, for compilers that are there: docs/profiles.md
#
# Vectors are left out in both, as their sets are compiled for minutes; the README has their sizes.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/.." || exit 1
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
build=$PWD/build/profiles
export build
scalar='-DQKV_NO_AVX512 -DQKV_NO_AVX2 -DQKV_NO_NEON -DQKV_NO_SVE'
export scalar

profiles() { # options, by commas
    echo
    sed -nE 's/^ \* +(-DQKV_NO_[A-Z]+) .*/\1/p' src/config.h | grep -v AVX
    printf '%s\n' -DQKV_NO_PORTABLE -DQKV_FORWARD_ONLY -DQKV_FORWARD_ONLY,-DQKV_NO_CACHE,-DQKV_NO_QUANTIZED \
        -DQKV_MINIMAL -DQKV_MINIMAL,-DQKV_NO_CHECKS -DQKV_MINIMAL,-DQKV_NO_QUANTIZED,-DQKV_NO_CHECKS
}

amalgamate() {
    command -v python3 >/dev/null || { echo "skipped: profiles: python3 is not installed"; exit 77; }
    mkdir -p "$build" && sh scripts/amalgamate.sh "$build" || exit 1
}

one() { # OPTIONS: builds and runs one profile
    options=$(echo "$1" | tr ',' ' ')
    program=$build/profile$(echo "$1" | tr -d ',')
    # shellcheck disable=SC2086  # words
    ${CC:-cc} -std=c11 -O1 -Wall -Wextra -Wpedantic -Werror $scalar $options -I"$build" -c "$build/qkv.c" \
        -o "$program.o" &&
        ${CC:-cc} -std=c11 -O1 -Wall -Wextra -Werror $scalar $options -Isrc -Iinclude tests/profiles/profile_cases.c \
            "$program.o" -o "$program" && "$program" >"$program.txt" || return 1
    grep -v ' left out$' "$program.txt" | sort >"$program.has"
    test -s "$program.has" && test -z "$(sort "$build/profile.txt" | comm -13 - "$program.has")"
}

text_kib() { # COMPILER OPTION…
    compiler=$1 size=$2
    shift 2
    # shellcheck disable=SC2086  # words
    $compiler -std=c11 -Os -I"$build" -c "$build/qkv.c" -o "$build/size.o" $scalar "$@" &&
        "$size" "$build/size.o" | awk 'NR == 2 { printf "%.1f", $1 / 1024 }'
}

case ${1:-} in
test)
    amalgamate
    one '' || { echo "FAILED  the whole"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
    profiles | sed 1d | xargs -P "$jobs" -I '{}' sh scripts/profiles.sh one '{}' | tee "$build/results"
    failed=$(grep -c '^FAILED' "$build/results")
    echo "$(grep -c '^ok' "$build/results") passed, $failed failed, 0 skipped"
    test "$failed" = 0 && grep -q '^ok' "$build/results"
    ;;
one)
    if said=$(one "$2" 2>&1); then
        echo "ok      $2: $(wc -l <"$build/profile$(echo "$2" | tr -d ',').has") results"
    else
        printf 'FAILED  %s\n%s\n' "$2" "$said"
    fi
    ;;
sizes)
    amalgamate >/dev/null
    cortex_m4f=-mthumb:-mcpu=cortex-m4:-mfloat-abi=hard:-mfpu=fpv4-sp-d16
    echo '| Left out | x86-64 | AArch64 | Cortex-M4F, `ref` alone |'
    echo '|---|---|---|---|'
    profiles | while read -r options; do
        words=$(echo "$options" | tr ',' ' ')
        row="| ${words:+\`$words\`} |"
        for target in cc,size, aarch64-linux-gnu-gcc,aarch64-linux-gnu-size, \
            "arm-none-eabi-gcc,arm-none-eabi-size,$cortex_m4f:-DQKV_NO_PORTABLE"; do
            compiler=${target%%,*} rest=${target#*,}
            # shellcheck disable=SC2086,SC2046  # words
            command -v "$compiler" >/dev/null &&
                kib=$(text_kib "$compiler" "${rest%%,*}" $(echo "${rest#*,}" | tr ':' ' ') $words) || kib=-
            row="$row $kib |"
        done
        echo "$row"
    done
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
