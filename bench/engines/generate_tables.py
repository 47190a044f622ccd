"""Tables of examples/generate for docs/generate.md, beside llama.cpp on the same files, made in turns.

    python3 generate_tables.py speed GENERATE LLAMA_REFERENCE MODEL… [--threads N] [--rounds N] [--prompt N…] [--sides …]
    python3 generate_tables.py perplexity GENERATE TEXT MODEL… [--caches f32 f16 …]

generate.sh beside this file brings what it needs and runs it.
SPDX-License-Identifier: MIT"""
import argparse
import os
import re
import statistics
import subprocess

STEPS = 32


def output(*command):
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
                          text=True).stdout


def speed(options):
    """Tokens a second: of one thread by its processor time, which other programs hardly disturb; else by the clock."""
    clock = 1 if options.threads == 1 else 0
    print(f"{options.threads} thread{'s' * (options.threads > 1)}, medians of {options.rounds} rounds in turns: tokens "
          f"a second by {'processor time' if clock else 'the clock'}\n")
    print("| Model | Tokens before | What | " + " | ".join(options.sides) + " | int8 / llama.cpp |\n|---|---|---|" +
          "---|" * len(options.sides) + "---|")
    for model in options.files:
        for tokens in options.prompt:
            found = {side: [] for side in options.sides}
            for _ in range(options.rounds):
                for side, values in found.items():
                    if side == "llama.cpp":
                        line = output(options.llama, "speed", model, options.threads, tokens, STEPS)
                    else:
                        line = output(options.generate, "--model", model, "--threads", options.threads, "--speed",
                                      tokens, "--arithmetic", side, "--ctx", tokens + STEPS, "--chunk", 512)
                    numbers = [float(n) for n in line.split()]
                    values.append((tokens / numbers[clock], STEPS / numbers[2 + clock]))
            for i, what in enumerate(("prompt", "generation")):
                middle = {side: statistics.median(v[i] for v in values) for side, values in found.items()}
                ratio = statistics.median(a[i] / b[i] for a, b in zip(found["int8"], found["llama.cpp"]))
                print(f"| {os.path.basename(model)} | {tokens if i else 0} | {what} | " +
                      " | ".join(f"{x:.1f}" for x in middle.values()) + f" | {ratio:.2f} |", flush=True)


def perplexity(options):
    print("| Weights | Products | " + " | ".join(f"Cache {c}" for c in options.caches) + " |\n|---|---|" +
          "---|" * len(options.caches))
    for model in options.files:
        first = None
        for arithmetic in ("f32", "bf16", "int8"):
            cells = []
            for cache in options.caches:
                text = output(options.generate, "--model", model, "--perplexity", options.text, "--kv", cache,
                              "--arithmetic", arithmetic, "--ctx", 512, "--threads", options.threads)
                value = float(re.match(r"perplexity ([0-9.]+)", text).group(1))
                cells.append(f"{value:.4f}" + (f" ({100 * (value / first - 1):+.2f} %)" if first else ""))
                first = first or value
            print(f"| {os.path.basename(model)} | {arithmetic} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "perplexity"))
    parser.add_argument("generate")
    parser.add_argument("other", help="LLAMA_REFERENCE or TEXT")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, nargs="+", default=[512])
    parser.add_argument("--sides", nargs="+", default=["f32", "int8", "llama.cpp"], help="the last two at least")
    parser.add_argument("--caches", nargs="+", default=["f32", "f16", "bf16", "int8"])
    options = parser.parse_args()
    options.llama = options.text = options.other
    {"speed": speed, "perplexity": perplexity}[options.what](options)


main()
