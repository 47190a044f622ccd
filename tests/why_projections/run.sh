#!/bin/sh
# Tests examples/why_projections: what it prints and draws, the hash of the trained weights included, is the same, byte
# for byte, on every kernel set and number of threads; and it is what docs/why-projections.md shows.
#
#   sh tests/why_projections/run.sh PROGRAM…     the program, behind an emulator if it needs one
#
# QKV_ISA: this kernel set alone. QKV_QUICK or QKV_QEMU: without the runs of full length. The exit status is 1 if
# anything failed, 77 if nothing could run.
# SPDX-License-Identifier: MIT
set -u
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
doc=$root/docs/why-projections
pictures='keys.svg loss.svg heads.svg spaces.svg'
# Of all weights after ten steps for every layer. It changes with the training and on no other occasion.
quick_hash=db4be8d362ee62f1
sets=${QKV_ISA:-avx512 avx2 neon ref}
skipped=0
. "$root/scripts/check/judge.sh"
unset QKV_ISA

# One word to call it by, whatever stands before it and whatever its path is.
{
    printf '#!/bin/sh\nexec'
    printf " '%s'" "$@"
    echo ' "$@"'
} >"$work/program"

story() { # NAME OPTION…: the folder NAME holds what is printed and the pictures
    name=$1
    shift
    mkdir -p "$work/$name"
    sh "$work/program" --output "$work/$name" "$@" >"$work/$name/story" 2>"$work/$name/log" && return 0
    tail -n 3 "$work/$name/log"
    return 1
}

same() { # NAME OPTION…: runs it; every byte is that of the folder "first", which the first of all runs becomes
    story "$@" || return 1
    test -d "$work/first" || cp -R "$work/$1" "$work/first"
    for file in story $pictures; do
        cmp "$work/first/$file" "$work/$1/$file" || return 1
    done
}

has_hash() { # NAME HASH
    grep -Fxq "Hash of all trained weights: $2" "$work/$1/story" || { tail -n 1 "$work/$1/story"; return 1; }
}

# Every line of the page's text blocks is printed by the run of full length, and its pictures are those drawn there.
is_documented() { # NAME
    awk '/^```text$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$doc.md" >"$work/shown"
    test -s "$work/shown" || { echo "$doc.md shows nothing"; return 1; }
    while IFS= read -r line; do
        grep -Fxq -e "$line" "$work/$1/story" || { echo "shown, but not printed: $line"; return 1; }
    done <"$work/shown"
    for file in $pictures; do
        cmp "$doc/$file" "$work/$1/$file" || return 1
    done
}

# Raw attention is near chance in every column, layers with several heads are right in 99 % and more.
learns() { # NAME
    awk '
    function row(low, high) { rows++; if ($(NF-6) < low || $(NF-6) > high || $(NF-4) < low || $(NF-4) > high ||
                                          $(NF-2) < low || $(NF-2) > high) { print; bad = 1 } }
    /^   raw: / { row(0, 10) }
    /^   (two|four) heads +[0-9]/ { row(99, 100) }
    /^   two wide heads without Wq, Wk/ { row(0, 10) }
    END { exit bad || rows != 4 }' "$work/$1/story"
}

for set in $sets; do
    same "$set-1" --quick --isa "$set" --threads 1
    status=$?
    if reason=$(grep "kernel set \"$set\"" "$work/$set-1/log"); then
        rm -rf "$work/$set-1"
        echo "skipped: why_projections on $set: ${reason#*: }"
        skipped=$((skipped + 1))
        continue
    fi
    judge $status "$set: the same story, pictures and hash"
    has_hash "$set-1" $quick_hash
    judge $? "$set: the hash is $quick_hash"
    for threads in 2 3; do
        same "$set-$threads" --quick --isa "$set" --threads $threads
        judge $? "$set with $threads threads: the same again"
    done
done

if [ -z "${QKV_QUICK:-}${QKV_QEMU:-}" ]; then
    for set in $sets; do
        [ -d "$work/$set-1" ] || continue
        [ "$set" != ref ] || [ "$sets" = ref ] || continue # two minutes, where there is no faster one
        story "full-$set" --isa "$set"
        judge $? "$set: the whole story"
        learns "full-$set"
        judge $? "$set: several heads learn the task, raw attention does not"
        is_documented "full-$set"
        judge $? "$set: docs/why-projections.md shows what is printed and drawn"
    done
fi

echo "[  PASSED  ] $passed test(s)."
[ $failed = 0 ] || echo "[  FAILED  ] $failed test(s), marked above."
[ $skipped = 0 ] || echo "[  SKIPPED ] $skipped test(s)."
[ $failed = 0 ] || exit 1
[ $passed -gt 0 ] || exit 77
