"""GGUF files that are damaged, cut short or of another kind: exit status 1 with a message on standard error and nothing
on standard output; a bit flipped in the header may also leave a model. Memory is limited, so that no length in a file
is believed.

    python3 test_damaged_gguf.py GENERATE       SPDX-License-Identifier: MIT"""
import random
import resource
import struct
import subprocess
import sys
import tempfile

import gguf_file
import results
import tiny_decoder

GENERATE = sys.argv[1]
SANITIZED = "asan" in GENERATE # takes terabytes of addresses
LIMIT = 512 << 20


def limit_memory():
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))


def outcome(content, *options):
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(content)
        file.flush()
        return subprocess.run([GENERATE, "--model", file.name, "--threads", "1", "--ctx", "64", "--json", "--tokens",
                               "2", *options, "the thing"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
                              check=False, preexec_fn=limit_memory)


def refused(done):
    return (done.returncode == 1 and done.stdout == b"" and b"generate: " in done.stderr and
            not any(word in done.stderr for word in (b"Sanitizer", b"runtime error", b"out of memory")))


def fine(done):
    return done.returncode == 0 and done.stdout.startswith(b"{")


def describe(done):
    return f"exit status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}"


def many(name, variants, may_pass=False):
    count, passed, wrong, messages = 0, 0, None, set()
    for what, content in variants:
        done = outcome(content)
        if not (refused(done) or may_pass and fine(done)):
            wrong = wrong or f"{what}: {describe(done)}"
        passed += done.returncode == 0
        messages.add(done.stderr[-60:])
        count += 1
    results.check(name, not wrong, wrong or f"{count} files, {passed} still a model, {len(messages)} messages")


VALUES, TENSORS = tiny_decoder.model("llama", "Q8_0")
GOOD = gguf_file.pack(VALUES, TENSORS)
HEADER = GOOD.index(TENSORS["token_embd.weight"][2][:64])


def changed_values():
    for key, value in {
        "general.architecture": "mamba", "llama.block_count": 3, "llama.embedding_length": 32,
        "llama.feed_forward_length": 64, "llama.attention.head_count": 3, "llama.attention.head_count_kv": 3,
        "llama.attention.key_length": 7, "llama.attention.value_length": 8, "llama.rope.dimension_count": 17,
        "llama.context_length": 0, "tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "unheard-of",
        "tokenizer.ggml.token_type": [1, 3], "tokenizer.ggml.merges": ["th e q"], "tokenizer.ggml.eos_token_id": 10**6,
        "tokenizer.ggml.tokens": ["a", "b"], "llama.rope.scaling.type": "yarn", "general.alignment": 33,
        "llama.rope.freq_base": -1.0, "llama.attention.layer_norm_rms_epsilon": float("nan"),
    }.items():
        yield f"{key} = {value}", gguf_file.pack({**VALUES, key: value}, TENSORS)
    for alignment in (1, 2, 4):
        yield f"an alignment of {alignment}", gguf_file.pack({**VALUES, "general.alignment": alignment}, TENSORS)
    for key in ("general.architecture", "llama.block_count", "llama.embedding_length", "llama.context_length",
                "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.pre"):
        yield f"no {key}", gguf_file.pack({k: v for k, v in VALUES.items() if k != key}, TENSORS)
        yield f"{key} a list", gguf_file.pack({**VALUES, key: [1.5, 2.5]}, TENSORS)
        yield f"{key} a truth value", gguf_file.pack({**VALUES, key: True}, TENSORS)


def changed_tensors():
    name = "blk.1.ffn_up.weight"
    kind, shape, content = TENSORS[name]
    yield "transposed", gguf_file.pack(VALUES, {**TENSORS, name: (kind, shape[::-1], content)})
    yield "missing", gguf_file.pack(VALUES, {k: v for k, v in TENSORS.items() if k != name})
    yield "one too many", gguf_file.pack(VALUES, {**TENSORS, "blk.0.ffn_gate_exps.weight": (kind, shape, content)})
    yield "four axes", gguf_file.pack(VALUES, {**TENSORS, name: (kind, [2, 3, 16, 64], content)})
    at = GOOD.index(name.encode()) + len(name)
    axes, offset = at + 4, at + 4 + 16 + 4
    for what, place, form, value in [("axes", at, "<I", n) for n in (0, 5, 2**31, 2**32 - 1)] + \
            [("columns", axes, "<Q", n) for n in (0, 1, 33, 2**32, 2**61, 2**62 + 32, 2**63, 2**64 - 32)] + \
            [("rows", axes + 8, "<Q", n) for n in (0, 2**31, 2**58, 2**63, 2**63 + 96, 2**64 - 1)] + \
            [("type", axes + 16, "<I", n) for n in (1, 4, 9, 16, 31, 39, 1000, 2**32 - 1)] + \
            [("offset", offset, "<Q", n) for n in (1, 2**20, 2**40, 2**63, 2**64 - 32)]:
        damaged = bytearray(GOOD)
        struct.pack_into(form, damaged, place, value)
        yield f"{what} = {value}", bytes(damaged)


def changed_header():
    for at, form, values in ((0, "<I", (0, 0x46554746)), (4, "<I", (0, 1, 4, 0x03000000)),
                             (8, "<Q", (0, 1, len(TENSORS) + 1, 2**32, 2**60, 2**64 - 1)),
                             (16, "<Q", (0, 1, len(VALUES) - 1, len(VALUES) + 1, 2**32, 2**60, 2**64 - 1))):
        for value in values:
            damaged = bytearray(GOOD)
            struct.pack_into(form, damaged, at, value)
            yield f"{value} at {at}", bytes(damaged)
    # each length of a text or list, wherever its bytes stand
    for name in list(VALUES) + list(TENSORS):
        at = GOOD.index(struct.pack("<Q", len(name)) + name.encode())
        for value in (0, len(name) + 1, 2**31, 2**62, 2**64 - 1):
            damaged = bytearray(GOOD)
            struct.pack_into("<Q", damaged, at, value)
            yield f"length of {name} = {value}", bytes(damaged)
    at = GOOD.index(b"tokenizer.ggml.tokens") + 21 + 8
    for value in (0, 1, 2**31, 2**32, 2**61, 2**64 - 1):
        damaged = bytearray(GOOD)
        struct.pack_into("<Q", damaged, at, value)
        yield f"{value} tokens", bytes(damaged)


def cuts():
    rng = random.Random(3)
    for n in sorted({0, 1, 3, 4, 7, 8, 16, 23, 24, HEADER - 1, HEADER, HEADER + 1, len(GOOD) - 1, len(GOOD) - 31} |
                    {rng.randrange(HEADER) for _ in range(40)} | {rng.randrange(len(GOOD) - 32) for _ in range(20)}):
        yield f"cut at {n}", GOOD[:n]


def foreign():
    with open(GENERATE, "rb") as file:
        yield "a program", file.read(100000)
    yield "safetensors", struct.pack("<Q", 2) + b"{}"
    yield "a zip", b"PK\3\4" + bytes(1000)
    yield "a web page", b"<!DOCTYPE html><html><body>Not found</body></html>"
    yield "zeros", bytes(5000)
    yield "ones", b"\xff" * 5000


def flipped():
    rng = random.Random(5)
    for _ in range(250):
        at, damaged = rng.randrange(HEADER), bytearray(GOOD)
        damaged[at] ^= 1 << rng.randrange(8)
        yield f"byte {at} = {damaged[at]}", bytes(damaged)


def command_line():
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(GOOD)
        file.flush()
        model = ["--model", file.name]
        for arguments in ([], ["a"], model, [*model, "a", "b"], [*model, "--kv", "q4", "a"],
                          [*model, "--isa", "sse9", "a"], [*model, "--arithmetic", "f64", "a"],
                          [*model, "--threads", "0", "a"], [*model, "--top-p", "2", "a"],
                          [*model, "--temperature", "nan", "a"], [*model, "--stop", "", "a"],
                          [*model, "--ctx", "1", "a"],
                          [*model, "--interactive", "--json"], [*model, "--batch-prompts", "/nonexistent"],
                          [*model, "--perplexity", "/nonexistent"], [*model, "--perplexity", "/dev/null"],
                          [*model, "--ctx", "3", "more words than fit"], ["--model", "/nonexistent", "a"],
                          ["--model", "/", "a"], ["--model", "/dev/null", "a"], [*model, "--nonsense"], [*model, ""]):
            done = results.run(GENERATE, *arguments)
            results.check("refused: generate " + " ".join(arguments).replace(file.name, "MODEL"),
                          done.returncode == 1 and done.stdout == b"" and done.stderr, describe(done))


results.check("the undamaged model works", fine(outcome(GOOD)), describe(outcome(GOOD)))
many("header: numbers and lengths that lie", changed_header())
many("values: missing, of another kind, contradicting", changed_values())
many("tensors that lie", changed_tensors())
many("cut short", cuts())
many("files of another kind", foreign())
many("a bit flipped in the header: refused or still a model", flipped(), may_pass=True)
command_line()
results.finish()
