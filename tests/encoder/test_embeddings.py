"""The encoder's vectors against a NumPy encoder in float64, and against themselves for every kernel set, number of
threads and batch.

    python3 test_embeddings.py ENCODER MODEL       SPDX-License-Identifier: MIT"""
import random
import sys

import numpy as np

import numpy_encoder
import results
import tokenizer_lines

KERNEL_SETS = ["ref", "portable", "simd128", "relaxed", "neon", "dotprod", "i8mm", "avx2", "avxvnni", "avx512", "avx512vnni",
               "avx512bf16"]
COSINE, DIFFERENCE = 0.999999, 1e-5


def sentences():
    """Sentences of 2 … 256 tokens, [CLS] and [SEP] included, lengths well mixed; the last is cut at 256."""
    rng = random.Random(7)
    words = "time year people way day man thing woman life child world school state family student group".split()
    lengths = list(range(0, 16)) + [20, 30, 31, 45, 62, 63, 64, 98, 126, 127, 140, 198, 253, 254, 300]
    lines = [" ".join(rng.choice(words) for _ in range(n)).encode() for n in lengths]
    lines += [line.encode() for line in tokenizer_lines.SENTENCES_DECODED if "\n" not in line and "\r" not in line]
    rng.shuffle(lines)
    return lines


def compare_with_oracle(name, found, expected):
    vectors = np.array([f["embedding"] for f in found])
    lengths = np.sqrt((vectors * vectors).sum(axis=1))
    cosine = ((vectors * expected).sum(axis=1) / lengths).min()
    difference = np.abs(vectors - expected).max()
    results.check(f"{name}: like the NumPy encoder", cosine >= COSINE and difference <= DIFFERENCE,
                  f"{len(found)} sentences, smallest cosine 1 - {1 - cosine:.1e}, largest difference {difference:.1e}")
    results.check(f"{name}: unit length", np.abs(lengths - 1.0).max() < 1e-6)


def output(encoder, model, lines, *arguments, **environment):
    done = results.run(encoder, "--model", model, "--json", "--input", "-", *arguments,
                       stdin=b"".join(line + b"\n" for line in lines), **environment)
    return done.stdout if done.returncode == 0 else done


def main():
    encoder, model = sys.argv[1:]
    lines = sentences()
    best = output(encoder, model, lines)
    found = results.run_json(encoder, "--model", model, "--json", lines=lines)
    tokens = [len(f["tokens"]) for f in found]
    results.check("at least 50 sentences of 2 to 256 tokens",
                  len(found) == len(lines) >= 50 and min(tokens) == 2 and max(tokens) == 256,
                  f"{len(found)} sentences, {sum(tokens)} tokens")
    oracle = numpy_encoder.Encoder(model)
    expected = np.array([oracle.encode(f["tokens"]) for f in found])
    compare_with_oracle("the best kernel set", found, expected)

    for isa in KERNEL_SETS:
        # The scalar reference takes a hundred times as long and gets the sentences of at most 12 tokens.
        chosen = [i for i in range(len(lines)) if isa != "ref" or tokens[i] <= 12]
        out = output(encoder, model, [lines[i] for i in chosen], "--isa", isa)
        if isinstance(out, bytes):
            results.check(f"{isa}: the same bytes", out.split(b"\n")[:-1] == [best.split(b"\n")[i] for i in chosen],
                          f"{len(chosen)} sentences, {sum(tokens[i] for i in chosen)} tokens")
            results.check(f"{isa}: the same bytes by QKV_ISA",
                          output(encoder, model, [lines[chosen[0]]], QKV_ISA=isa) ==
                          best.split(b"\n")[chosen[0]] + b"\n")
        else:
            results.skip(f"kernel set {isa}", out.stderr.decode().strip(), 2)
    for threads in (1, 2, 3, 8):
        results.check(f"{threads} threads: the same bytes", output(encoder, model, lines, "--threads", threads) == best)

    alone = [results.run_json(encoder, "--model", model, "--json", lines=[line])[0] for line in lines[::6]]
    results.check("alone or in a batch: the same numbers", alone == found[::6], f"{len(alone)} sentences")
    back = output(encoder, model, lines[::-1])
    results.check("in reverse: the same bytes", back.split(b"\n")[-2::-1] == best.split(b"\n")[:-1])
    results.check("as arguments: the same bytes",
                  results.run(encoder, "--model", model, "--json", "--", lines[0].decode()).stdout ==
                  best.split(b"\n")[0] + b"\n")
    results.finish()


main()
