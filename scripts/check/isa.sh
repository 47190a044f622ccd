#!/bin/sh
# Only the objects of an x86 kernel set hold instructions beyond x86-64's baseline: no AVX (VEX, EVEX), no BMI in what
# every CPU runs; no AVX-512 in the AVX2 kernels.   sh scripts/check/isa.sh [libqkv.a]
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
library=${1:-build/release/libqkv.a}
test -s "$library" || { echo "$library is not there; build it first"; exit 1; }
case $(objdump -f "$library" | grep -m1 'file format') in
*x86-64*) ;;
*)
    echo "$library is not for x86-64: there is no baseline to overstep"
    exit 77
    ;;
esac
objdump -d --no-show-raw-insn "$library" | awk '
    / file format / { file = $1; sub(/:$/, "", file); objects++ }
    /^ +[0-9a-f]+:\t/ {
        split($0, field, "\t"); split(field[2], word, " "); name = word[1]; instructions++
        bits = name ~ /^(andn|bextr|blsi|blsmsk|blsr|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx)[lq]?$/ ||
            name ~ /^([lt]zcnt|popcnt|movbe)[lq]?$/
        vex = bits || name ~ /^v[a-z]/ && name !~ /^ver[rw]$/ || field[2] ~ /%[yz]mm|%k[0-7]/
        evex = field[2] ~ /%zmm|%[xyz]mm(1[6-9]|2[0-9]|3[01])|%k[0-7]/
        if (file ~ /avx512/) { if (evex) seen512++ }
        else if (file ~ /avx2/) { if (vex) seen2++; if (evex) bad(file, field[2]) }
        else if (vex) bad(file, field[2])
    }
    function bad(file, text) { if (++count <= 20) print file ": " text }
    END {
        if (!seen2) { print "no AVX instruction in the avx2 object: this check sees nothing"; count++ }
        if (!seen512) { print "no AVX-512 instruction in the avx512 object: this check sees nothing"; count++ }
        if (!count) print objects " objects, " instructions " instructions: none out of place"
        exit count > 0
    }'
