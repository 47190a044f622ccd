"""The same text for any number of threads, kernel set, division of the prompt, and alone or among others.

    python3 test_same_text.py GENERATE QKV_INFO [MODEL.gguf]       SPDX-License-Identifier: MIT"""
import json
import sys
import tempfile

import results
import tiny_decoder

GENERATE, INFO, MODELS = sys.argv[1], sys.argv[2], sys.argv[3:]
PROMPTS = ["Why is the sky blue? Explain it to a child.", "Name three rivers of Europe and the seas they end in.",
           "Write a short story about a lighthouse keeper who found a letter in a bottle that had come from the other side "
           "of the ocean, and about what was written in it, and what he did then.", "What is 12 times 12?"]


def kernel_sets():
    return [name for name in ("avx512", "avx2", "neon", "portable", "ref")
            if results.run(INFO, QKV_ISA=name).returncode == 0]


def answers(model, prompts, count, *options):
    """Tokens of the answers, and how they ended."""
    lines = "".join(p + "\n" for p in prompts).encode()
    done = results.run(GENERATE, "--model", model, "--json", "--tokens", count, "--batch-prompts", "-", *options, stdin=lines)
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
        results.check(f"{name}: {what}", found == wanted, f"{len(found)} texts, up to {length} tokens" if found == wanted
                      else f"the first text differs from token {same} on")
    return wanted


def alone_and_together(model, name, count, *options):
    together = answers(model, PROMPTS, count, "--sequences", "4", *options)
    for sequences in ("1", "2", "3"):
        found = answers(model, PROMPTS, count, "--sequences", sequences, *options)
        results.check(f"{name}: four prompts, {sequences} at a time", found == together,
                      str([len(tokens) for tokens, _ in together]))
    return together


def small_models():
    for kind, architecture, cache in (("Q8_0", "llama", "f16"), ("Q4_1", "qwen3", "f32"), ("F32", "gemma3", "int8"),
                                      ("Q4_K", "llama", "bf16")):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            tiny_decoder.write(file.name, architecture, kind, wide=kind == "Q4_K",
                               **{f"{architecture}.context_length": 512})
            options = ("--raw", "--kv", cache, "--ctx", "512")
            name = f"small {architecture} of {kind}, cache {cache}"
            variants = [(f"{isa}, {threads} threads", ("--isa", isa, "--threads", threads))
                        for isa in kernel_sets() for threads in (1, 2)]
            variants += [(f"{chunk} at a time", ("--chunk", chunk)) for chunk in (1, 7, 64)]
            compare(file.name, name, PROMPTS[:1], 256, variants, *options)
            alone_and_together(file.name, name, 64, *options)


def real_model(model):
    options = ("--kv", "f32")
    variants = [("2 threads", ("--threads", 2)), ("1 thread", ("--threads", 1)), ("7 at a time", ("--chunk", 7))]
    compare(model, "SmolLM2", PROMPTS[2:3], 256, variants, *options)
    together = alone_and_together(model, "SmolLM2", 48, *options)
    results.check("SmolLM2: the models say when they have finished", any(end == "the model" for _, end in together))
    sets = [("the fastest", ())] + [(isa, ("--isa", isa)) for isa in kernel_sets()]
    compare(model, "SmolLM2, kernel set", PROMPTS[3:], 3, sets, *options)


small_models()
for path in MODELS:
    real_model(path)
results.finish()
