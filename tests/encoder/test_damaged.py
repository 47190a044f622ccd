"""Files that are damaged, cut short, or of another kind; mistakes on the command line: always exit status 1 with a
message on standard error and nothing on standard output, never a crash.

    python3 test_damaged.py ENCODER [MODEL]       SPDX-License-Identifier: MIT"""
import copy
import json
import os
import random
import struct
import sys
import tempfile

import numpy as np

import results
import tiny_model as tiny

ENCODER, MODEL = (sys.argv + [None])[1:3]
TEXT = ["--json", "--threads", "1", "--isa", "ref", "The cats sat, [MASK] cat's."]


def outcome(files=None, arguments=None):
    """The finished program, over a folder of these files or none."""
    with tempfile.TemporaryDirectory() as directory:
        tiny.write(directory, files or {})
        model = ["--model", directory] if files is not None else []
        return results.run(ENCODER, *model, *(TEXT if arguments is None else arguments))


def refused(done):
    return (done.returncode == 1 and done.stdout == b"" and done.stderr.strip() != b"" and
            b"Sanitizer" not in done.stderr and b"runtime error" not in done.stderr)


def describe(done):
    message = " / ".join(done.stderr.decode(errors="replace").strip().splitlines())
    return f"exit status {done.returncode}: {message[-300:]}"


def must_refuse(name, files=None, arguments=None):
    done = outcome(files, arguments)
    results.check(name, refused(done), describe(done))


def many(name, variants, may_pass=False):
    """One test over many variants of a file: (what, files)."""
    count, wrong = 0, None
    for what, files in variants:
        done = outcome(files)
        fine = refused(done) or (may_pass and done.returncode == 0 and json.loads(done.stdout))
        wrong = wrong or (None if fine else f"{what}: {describe(done)}")
        count += 1
    results.check(name, not wrong, wrong or f"{count} variants")


def header_variants():
    """Headers that lie."""
    header, data = tiny.layout(tiny.weights(tiny.config()))
    name = "encoder.layer.0.attention.self.query.weight"
    begin, end = header[name]["data_offsets"]
    for what, change in {
        "dtype unknown": {"dtype": "F33"}, "dtype a number": {"dtype": 4}, "dtype I32": {"dtype": "I32"},
        "dtype F16": {"dtype": "F16"}, "no dtype": {"dtype": None}, "shape transposed away": {"shape": [576]},
        "shape 12 × 48": {"shape": [12, 48]}, "shape of three": {"shape": [24, 24, 1]}, "shape null": {"shape": None},
        "shape negative": {"shape": [-24, -24]}, "shape a fraction": {"shape": [24.5, 24]},
        "shape huge": {"shape": [2**53, 2**53]}, "shape overflows": {"shape": [2**32, 2**31, 2**3]},
        "shape of strings": {"shape": ["24", "24"]}, "shape with zero": {"shape": [0, 2**40]},
        "shape an object": {"shape": {"a": 24, "b": 24}}, "offsets reversed": {"data_offsets": [end, begin]},
        "offsets past the end": {"data_offsets": [begin, 2**50]}, "offsets negative": {"data_offsets": [-4, end]},
        "offsets overlap": {"data_offsets": [begin - 4, end - 4]}, "one offset": {"data_offsets": [begin]},
        "three offsets": {"data_offsets": [begin, end, end]}, "offsets null": {"data_offsets": None},
        "offsets 1e400": {"data_offsets": [0, float("inf")]},
    }.items():
        changed = copy.deepcopy(header)
        changed[name].update(change)
        yield what, tiny.pack(changed, data)
    for what, value in {"a tensor is a number": 3, "a tensor is null": None, "a tensor is a list": [1, 2]}.items():
        yield what, tiny.pack({**header, name: value}, data)
    yield "a tensor is missing", tiny.pack({k: v for k, v in header.items() if k != name}, data)
    yield "no tensor", tiny.pack({}, b"")
    yield "a gap", tiny.pack({**header, "more": {"dtype": "U8", "shape": [1], "data_offsets": [len(data) + 1,
                                                                                                len(data) + 2]}},
                             data + b"xx")
    yield "more bytes", tiny.pack(header, data + b"\0")
    text = json.dumps(header).encode()
    for what, damaged in {"no JSON": b"x" * len(text), "a list": b"[" + text + b"]", "nested": b"[" * 100000,
                          "nested objects": b'{"a":' * 5000, "null": b"null", "empty": b"",
                          "half": text[:len(text) // 2],
                          "two objects": text + text, "a byte 0 inside": text[:20] + b"\0" + text[20:]}.items():
        yield "header: " + what, tiny.pack(damaged, data)
    for length in (0, 1, 7, len(text) - 1, len(text) + 1, len(text) + len(data), len(text) + len(data) + 1, 10**8 + 1,
                   2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1):
        yield f"header length {length}", struct.pack("<Q", length) + text + data
    for value in (float("nan"), float("inf"), -float("inf")):
        for dtype in ("F32", "F16", "BF16"):
            weights = tiny.weights(tiny.config())
            weights[name][3, 4] = value
            yield f"{value} in {dtype}", tiny.pack(*tiny.layout(weights, dtype))
    huge = {n: np.full_like(w, 3e38) for n, w in tiny.weights(tiny.config()).items()}
    yield "weights that overflow", tiny.pack(*tiny.layout(huge))


def foreign_files():
    with open(ENCODER, "rb") as file:
        yield "a program", file.read(100000)
    yield "GGUF", b"GGUF\3\0\0\0" + b"\0" * 1000
    yield "a pickle in a zip", b"PK\3\4" + b"\0" * 1000
    yield "PNG", b"\x89PNG\r\n\x1a\n" + bytes(1000)
    yield "a web page", b"<!DOCTYPE html><html><body>Not found</body></html>"
    yield "a pointer of git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
    yield "zeros", bytes(5000)
    yield "ones", b"\xff" * 5000
    yield "empty", b""


def cuts(size, header, seed=3):
    rng = random.Random(seed)
    places = set(range(0, 24)) | set(range(24, header, header // 60))
    places |= {size - 1, size - 2, size - 4, header, header + 1}
    return sorted(places | {rng.randrange(size) for _ in range(60)})


def weights_file():
    good = tiny.model_files()["model.safetensors"]
    header = 8 + struct.unpack("<Q", good[:8])[0]
    with_weights = lambda content: tiny.model_files(**{"model.safetensors": content})
    many("weights: headers that lie", ((w, with_weights(c)) for w, c in header_variants()))
    many("weights: files of another kind", ((w, with_weights(c)) for w, c in foreign_files()))
    many("weights: cut short", ((f"at {n}", with_weights(good[:n])) for n in cuts(len(good), header)))
    rng = random.Random(5)

    def flipped():
        for _ in range(250):
            at, damaged = rng.randrange(header if rng.random() < 0.8 else len(good)), bytearray(good)
            damaged[at] ^= 1 << rng.randrange(8)
            yield f"byte {at} = {damaged[at]}", with_weights(bytes(damaged))

    many("weights: a bit flipped: refused or still a model", flipped(), may_pass=True)


def config_file():
    for what, change in {
        "no hidden_size": {"hidden_size": None}, "hidden_size 0": {"hidden_size": 0},
        "hidden_size -24": {"hidden_size": -24},
        "hidden_size 24.5": {"hidden_size": 24.5}, "hidden_size a string": {"hidden_size": "24"},
        "hidden_size huge": {"hidden_size": 10**18}, "hidden_size of another model": {"hidden_size": 48},
        "heads do not divide": {"num_attention_heads": 5}, "more layers": {"num_hidden_layers": 3},
        "a million layers": {"num_hidden_layers": 10**6}, "vocab_size of another model": {"vocab_size": 23},
        "vocab_size too small": {"vocab_size": 20}, "positions of another model": {"max_position_embeddings": 33},
        "RoBERTa": {"model_type": "roberta"}, "ReLU": {"hidden_act": "relu"},
        "relative positions": {"position_embedding_type": "relative_key"}, "eps negative": {"layer_norm_eps": -1.0},
        "eps a string": {"layer_norm_eps": "small"}, "hidden_act a list": {"hidden_act": []},
    }.items():
        must_refuse(f"config.json: {what}", tiny.model_files(**{"config.json": {**tiny.config(), **change}}))
    good = json.dumps(tiny.config()).encode()
    many("config.json: cut short", ((f"at {n}", tiny.model_files(**{"config.json": good[:n]}))
                                    for n in range(len(good))))
    many("config.json: files of another kind", ((w, tiny.model_files(**{"config.json": c}))
                                                for w, c in foreign_files()))
    many("config.json and vocab.txt: missing", ((n, tiny.model_files(**{n: None}))
                                                for n in ("config.json", "vocab.txt", "model.safetensors")))
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}
    must_refuse("pooling that is not known", tiny.model_files(**{"1_Pooling/config.json": pooling}))
    must_refuse("max_seq_length -1", tiny.model_files(**{"sentence_bert_config.json": {"max_seq_length": -1}}))


def tokenizer_files():
    lines = [w.encode() for w in tiny.WORDS]
    for what, content in {
        "empty": b"", "no [CLS]": b"\n".join(w for w in lines if w != b"[CLS]"),
        "too many words": b"\n".join(lines * 2),
        "not UTF-8": b"\n".join(lines[:-1]) + b"\n\xe7\x8c\n", "a byte 0": b"\n".join(lines) + b"\0\n",
        "one long line": b"x" * 10**6, "a long word": b"\n".join(lines[:-1]) + b"\n" + b"y" * 600 + b"\n",
    }.items():
        must_refuse(f"vocab.txt: {what}", tiny.model_files(**{"vocab.txt": content}))
    with_json = lambda content: tiny.model_files(**{"tokenizer.json": content})
    whole = tiny.tokenizer_json()
    for what, content in {
        "BPE": {**whole, "model": {"type": "BPE", "vocab": {}, "merges": []}}, "no model": {**whole, "model": None},
        "another normalizer": {**whole, "normalizer": {"type": "NFC"}}, "no normalizer": {**whole, "normalizer": None},
        "another pre_tokenizer": {**whole, "pre_tokenizer": {"type": "ByteLevel"}},
        "other words": tiny.tokenizer_json(tiny.WORDS[:-1] + ["x"]),
        "fewer words": tiny.tokenizer_json(tiny.WORDS[:-1]),
        "more words": tiny.tokenizer_json(tiny.WORDS + ["x"]),
        "a number out of range": {**whole, "added_tokens": [{"id": 10**6, "content": "cat"}]},
        "a negative number": {**whole, "added_tokens": [{"id": -1, "content": "cat"}]},
        "a token without text": {**whole, "added_tokens": [{"id": 1}]},
        "numbers as words": {**whole, "added_tokens": [5]},
    }.items():
        must_refuse(f"tokenizer.json: {what}", with_json(content))
    good = json.dumps(whole).encode()
    many("tokenizer.json: cut short", ((f"at {n}", with_json(good[:n])) for n in range(0, len(good), 11)))
    many("vocab.txt: cut short where tokenizer.json tells",
         ((f"at {n}", tiny.model_files(**{"tokenizer.json": whole, "vocab.txt": (b"\n".join(lines))[:n]}))
          for n in range(0, len(b"\n".join(lines)) - 1, 3)))


def command_line():
    good = tiny.model_files()
    for arguments in (["--nonsense"], ["--threads", "0"], ["--threads", "two"], ["--threads", "99999"],
                      ["--layer", "0"], ["--layer", "3", "a"], ["--isa", "sse9", "a"], ["--input", "/nonexistent"],
                      ["--input", "/nonexistent", "a"], ["--input", "/", "--json"],
                      ["--json", "--heatmap", "x.svg", "a"],
                      ["--heatmap", "/nonexistent/x.svg", "a"], ["--model"], ["--model", "/nonexistent", "a"],
                      ["--model", "/dev/null", "a"], ["--input", "/dev/null"]):
        done = outcome(good, arguments)
        # A report may have begun before the picture can't be written.
        fine = refused(done) or ("--heatmap" in arguments and done.returncode == 1 and done.stderr)
        results.check("refused: encoder " + " ".join(arguments), fine, describe(done))


def real_model():
    """The real files, cut at a few places."""
    path = os.path.join(MODEL, "model.safetensors")
    size = os.path.getsize(path)
    with tempfile.TemporaryDirectory() as directory:
        for name in ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"):
            os.symlink(os.path.abspath(os.path.join(MODEL, name)), os.path.join(directory, name))
        cut_file = os.path.join(directory, "model.safetensors")
        with open(path, "rb") as source, open(cut_file, "wb") as target:
            target.write(source.read())
        for length in (size - 1, size // 2, 20000, 11416, 11000, 100, 8, 3, 0):
            os.truncate(cut_file, length)
            done = results.run(ENCODER, "--model", directory, *TEXT)
            results.check(f"the real model cut to {length} bytes", refused(done), describe(done))


results.check("the undamaged model works", outcome(tiny.model_files()).returncode == 0,
              describe(outcome(tiny.model_files())))
weights_file()
config_file()
tokenizer_files()
command_line()
if MODEL:
    real_model()
results.finish()
