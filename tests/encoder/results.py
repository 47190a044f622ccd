"""Counting what the tests of examples/encoder find, and running the program.  SPDX-License-Identifier: MIT"""
import json
import os
import subprocess
import sys

passed = failed = skipped = 0


def check(name, good, detail=""):
    """One test: says what failed, or shortly what was found."""
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
    print(f"{'ok    ' if good else 'FAILED'}  {name}{': ' + detail if detail else ''}", flush=True)
    return good


def skip(name, reason, count=1):
    """What can't run here."""
    global skipped
    skipped += count
    print(f"skipped: {name}: {reason}", flush=True)


def finish():
    """The last line of every test program here; run.sh adds them up."""
    print(f"counts {passed} {failed} {skipped}")
    sys.exit(1 if failed else 0)


def run(encoder, *arguments, stdin=b"", **environment):
    """Runs the program and gives what subprocess.run gives."""
    return subprocess.run([encoder, *map(str, arguments)], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, **environment}, timeout=600, check=False)


def run_json(encoder, *arguments, lines=(), **environment):
    """--json over lines (bytes): a list of objects."""
    done = run(encoder, "--input", "-", *arguments, stdin=b"".join(line + b"\n" for line in lines), **environment)
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.decode(errors='replace')}")
    return [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
