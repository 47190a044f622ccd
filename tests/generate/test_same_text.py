"""The same text for any number of threads, kernel set, division of the prompt, and alone or among others.

    python3 test_same_text.py GENERATE QKV_INFO [MODEL.gguf]       SPDX-License-Identifier: MIT"""
import json
import sys
import tempfile

import gguf_file
import results
import tiny_decoder

GENERATE, INFO, MODELS = sys.argv[1], sys.argv[2], sys.argv[3:]
PROMPTS = ["Why is the sky blue? Explain it to a child.", "Name three rivers of Europe and the seas they end in.",
           "Write a short story about a lighthouse keeper who found a letter in a bottle that had come from the other "
           "side of the ocean, and about what was written in it, and what he did then.", "What is 12 times 12?"]


def kernel_sets():
    lines = results.run(INFO).stdout.decode().split("kernel sets")[1].splitlines()
    return [line.split()[0] for line in lines if line.split()[1:2] in (["selected"], ["available:"])]


def answers(model, prompts, count, *options):
    """Tokens of the answers, and how they ended."""
    lines = "".join(p + "\n" for p in prompts).encode()
    done = results.run(GENERATE, "--model", model, "--json", "--tokens", count, "--batch-prompts", "-", *options,
                       stdin=lines)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode())
    return [(answer["tokens"], answer["ended_by"]) for answer in map(json.loads, done.stdout.decode().splitlines())]


def compare(model, name, prompts, count, variants, *options):
    wanted = None
    for what, more in variants:
        found = answers(model, prompts, count, *options, *more)
        wanted = wanted or found
        length = max(len(tokens) for tokens, _ in found)
        same = next((i for i in range(length) if found[0][0][:i + 1] != wanted[0][0][:i + 1]), length)
        results.check(f"{name}: {what}", found == wanted, f"{len(found)} texts, up to {length} tokens" if
                      found == wanted else f"the first text differs from token {same} on")
    return wanted


def small_models():
    for kind, architecture, cache, arithmetic in (
            ("Q8_0", "llama", "f16", "int8"), ("Q4_1", "qwen3", "f32", "f32"), ("Q6_K", "gemma3", "int8", "int8"),
            ("Q5_0", "gemma3", "f16", "f32"), ("Q4_K", "llama", "bf16", "int8"), ("BF16", "qwen2", "f32", "f32"),
            ("Q4_0", "qwen3", "bf16", "bf16")):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            tiny_decoder.write(file.name, architecture, kind, wide=gguf_file.TYPES[kind][1] == 256,
                               **{f"{architecture}.context_length": 512})
            options = ("--raw", "--kv", cache, "--ctx", "512", "--arithmetic", arithmetic)
            name = f"small {architecture} of {kind}, products in {arithmetic}, cache {cache}"
            variants = [(f"{isa}, 1 thread", ("--isa", isa, "--threads", 1)) for isa in kernel_sets()]
            variants += [("2 threads, 7 tokens at a time", ("--threads", 2, "--chunk", 7)),
                         ("2 threads, token by token", ("--threads", 2, "--chunk", 1))]
            compare(file.name, name, PROMPTS[:1], 256, variants, *options)
            together = [(f"four prompts, {n} at a time", ("--sequences", n)) for n in (4, 1, 3)]
            compare(file.name, name, PROMPTS, 48, together, *options)


def real_model(model):
    for arithmetic, most in (("f32", 256), ("int8", 64)):
        options, name = ("--arithmetic", arithmetic), f"SmolLM2, products in {arithmetic}"
        variants = [("1 thread", ("--threads", 1)), ("2 threads, 7 tokens of the prompt at a time",
                                                     ("--threads", 2, "--chunk", 7))]
        alone = compare(model, name, PROMPTS[2:3], most, variants, *options)
        together = answers(model, PROMPTS, most, "--sequences", "4", *options)
        results.check(f"{name}: among four", together[2] == alone[0], str([len(tokens) for tokens, _ in together]))
        results.check(f"{name}: the model says when it has finished", any(end == "the model" for _, end in together))
        sets = [("the fastest", ())] + [(isa, ("--isa", isa)) for isa in kernel_sets()]
        compare(model, f"{name}, kernel set", ["Once"], 2, sets, "--raw", *options)


small_models()
for path in MODELS:
    real_model(path)
results.finish()
