#!/bin/sh
# Runs a program that was linked for it on qemu's mps3-an547: an547.sh PROGRAM ARGUMENT…. Environment: ICOUNT=1, an
# instruction takes a nanosecond, which is how they are counted.  SPDX-License-Identifier: MIT
program=$1
shift
words=arg=${program##*/}
for word in "$@"; do
    words=$words,arg=$word
done
exec timeout "${SECONDS_AT_MOST:-300}" qemu-system-arm -M mps3-an547 -nographic -monitor none -serial none \
    ${ICOUNT:+-icount shift=0} -semihosting-config "enable=on,target=native,$words" -kernel "$program"
