"""Tokens of examples/generate against llama.cpp's, and against the package `tokenizers` with the vocabulary and merges
of the file.

    python3 test_tokens.py GENERATE MODEL.gguf [LLAMA_REFERENCE]       SPDX-License-Identifier: MIT"""
import json
import subprocess
import sys

import gguf_file
import results
import tokenizer_lines

GENERATE, MODEL, LLAMA = (sys.argv + [None])[1:4]


def lines_of(file):
    """name → lines: those of the encoder's tests, and what is special here."""
    named = tokenizer_lines.all_lines([t for t in file.values["tokenizer.ggml.tokens"] if t.isprintable()][:20000])
    named["special tokens inside text"] += [b"<|im_start|>", b"a<|im_end|>b", b"<|endoftext|><|im_start|>user",
                                            b"<start_of_turn>", b"<bos>x", b"<|im_start", b"<unused5> <unused55>"]
    texts = ("", "x", "1", "12 345", "don't", "'re 'LL", "\u3000", "\u2581", "a\u00a0b")
    named["spaces and digits"] = [(" " * a + text + " " * b + text + "\t" * a + "\r").encode()
                                  for a in range(5) for b in range(4) for text in texts]
    return {name: [line.replace(b"\n", b" ") for line in lines] for name, lines in named.items()}


def run(command, lines):
    done = subprocess.run(command, input=b"".join(line + b"\n" for line in lines), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(name, lines, found, wanted):
    wrong = [i for i in range(len(lines)) if found[i] != wanted[i]]
    detail = f"{len(lines)} lines"
    if wrong:
        i = wrong[0]
        detail += f", {len(wrong)} differ, the first: {lines[i]!r}\n  expected {wanted[i]}\n  found    {found[i]}"
    results.check(name, not wrong and len(found) == len(wanted), detail)


def by_package(file, lines):
    import tokenizers
    from tokenizers import models, pre_tokenizers
    vocabulary = {text: i for i, text in enumerate(file.values["tokenizer.ggml.tokens"])}
    merges = [tuple(line.split(" ")) for line in file.values["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return [encoding.ids for encoding in tokenizer.encode_batch([line.decode() for line in lines])]


def main():
    file = gguf_file.Reader(MODEL)
    named = lines_of(file)
    valid = {name: lines for name, lines in named.items() if name != "invalid UTF-8"}
    random_lines = set(valid["random characters of all of Unicode"]) # newest ones: their kind depends on the version
    lines = [line for of_name in valid.values() for line in of_name]
    found = run([GENERATE, "--model", MODEL, "--tokenize", "-"], lines)
    results.check("there are at least 2,000 lines", len(lines) >= 2000, str(len(lines)))
    if file.values["tokenizer.ggml.model"] == "gpt2":
        try:
            old = [i for i, line in enumerate(lines) if line not in random_lines]
            compare("the package tokenizers", [lines[i] for i in old], [found[i] for i in old],
                    by_package(file, [lines[i] for i in old]))
        except ImportError as error:
            results.skip("comparison with tokenizers", str(error))
    if LLAMA:
        wanted, at = run([LLAMA, "tokens", MODEL], lines), 0
        for name, of_name in valid.items():
            compare(f"llama.cpp: {name}", of_name, found[at:at + len(of_name)], wanted[at:at + len(of_name)])
            at += len(of_name)
    damaged = named["invalid UTF-8"]
    results.check("bytes that are no text", len(run([GENERATE, "--model", MODEL, "--tokenize", "-"], damaged)) ==
                  len(damaged), f"{len(damaged)} lines")
    results.finish()


main()
