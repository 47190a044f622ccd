#!/usr/bin/env python3
"""The speed that each compiler gives the library, as a ratio to the first one's.

    compilers.py NAME=PROGRAM…      qkv-bench, linked with the library of each compiler

The programs run in turn, ROUNDS times, and each call's least time counts, so that what else the machine does falls on
all of them. The exit status is 1 if a ratio is below LEAST or a program failed. SPDX-License-Identifier: MIT
"""
import json
import os
import subprocess
import sys
import tempfile

ROUNDS = 3
LEAST = 0.95
CASES = {  # bench/cases.txt says what the words mean
    "attention": "attention bert-512 heads=12 keys=512 dim=64",
    "projection": "projection bert-384 tokens=384 in=768 out=2304 bias",
    "decode": "decode llama1b-4k heads=32 kv_heads=8 queries=1 keys=4096 dim=64 cold",
    "backward": "backward bert-384 heads=12 keys=384 dim=64",
}


def run(program, cases):
    """The least seconds of each operation by the fastest kernel set."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run([program, f"--cases={cases}", "--threads=1", "--benchmark_filter=/(avx512|avx2|neon)/",
                        "--benchmark_min_time=0.1", "--benchmark_repetitions=3", f"--benchmark_out={out.name}",
                        "--benchmark_out_format=json"], check=True, stdout=subprocess.DEVNULL)
        with open(out.name, encoding="utf-8") as file:
            results = json.load(file)["benchmarks"]
    best = {}
    for result in results:
        operation, _, isa = result["name"].split("/")[:3]
        if "best" in result and result.get("run_type") == "iteration":
            key = f"{operation} {isa}"
            best[key] = min(best.get(key, float("inf")), result["best"])
    return best


def main():
    programs = dict(argument.split("=", 1) for argument in sys.argv[1:])
    best = {name: {} for name in programs}
    with tempfile.TemporaryDirectory() as folder:
        cases = os.path.join(folder, "cases.txt")
        with open(cases, "w", encoding="utf-8") as file:
            file.write("\n".join(CASES.values()) + "\n")
        for number in range(ROUNDS):
            for name, program in programs.items():
                print(f"round {number + 1} of {ROUNDS}: {name}", file=sys.stderr, flush=True)
                for key, seconds in run(program, cases).items():
                    best[name][key] = min(best[name].get(key, float("inf")), seconds)
    first = next(iter(programs))
    columns = list(best[first])
    failed = not columns
    print(f"{'':10}" + "".join(f"{column:>20}" for column in columns))
    for name in programs:
        line = f"{name:10}"
        for column in columns:
            seconds = best[name].get(column, float("inf"))
            ratio = best[first][column] / seconds
            failed |= ratio < LEAST
            line += f"{1e6 * seconds:11.1f} us {ratio:4.2f}{'!' if ratio < LEAST else ' '}"
        print(line)
    print(f"times, and speed next to {first}; {'some are below' if failed else 'all at least'} {LEAST}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
