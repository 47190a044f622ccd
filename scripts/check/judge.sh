# Sourced by scripts that count for themselves: checks, a line each, and how many passed and failed. A script that says
# in $log where what it runs writes to shows the end of that where a check failed.  SPDX-License-Identifier: MIT
passed=0 failed=0 log=

judge() { # STATUS WHAT
    if [ "$1" = 0 ]; then
        passed=$((passed + 1))
        echo "ok      $2"
    else
        failed=$((failed + 1))
        echo "FAILED  $2"
        test ! -s "$log" || tail -n 20 "$log" | sed 's/^/    /'
    fi
}
