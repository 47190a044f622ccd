"""Logits of examples/generate against a decoder in float64 over the same weights: a real model, and small ones of every
architecture and type of weights.

    python3 test_logits.py GENERATE [MODEL.gguf…]       SPDX-License-Identifier: MIT"""
import os
import sys
import tempfile

import numpy as np

import gguf_file
import numpy_decoder
import results
import tiny_decoder

GENERATE, MODELS = sys.argv[1], sys.argv[2:]
TEXT = ("Attention is a weighted mean: every token asks all those before it a question, they answer with keys, and "
        "what they hold is added up in the shares that a softmax gives. Nobody told the model which token to look at; "
        "it has learned that from texts. Numbers like 3.14159 or 2026 and names such as Zürich or 東京 are cut up.")


def logits_of(path, text, tokens, *options):
    """Rows of logits, one a token."""
    with tempfile.NamedTemporaryFile() as out:
        done = results.run(GENERATE, "--model", path, "--kv", "f32", "--arithmetic", "f32", "--logits", out.name,
                           *options, text)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode())
        return np.fromfile(out.name, np.float32).reshape(len(tokens), -1)


def tokens_of(path, file, text):
    done = results.run(GENERATE, "--model", path, "--tokenize", "-", stdin=text.encode() + b"\n")
    first = file.values.get("tokenizer.ggml.add_bos_token") or file.values["tokenizer.ggml.model"] == "llama"
    return [file.values["tokenizer.ggml.bos_token_id"]] * bool(first) + eval(done.stdout) # pylint: disable=eval-used


def compare(name, path, text, least_tokens, most, *options):
    file = gguf_file.Reader(path)
    tokens = tokens_of(path, file, text)
    found = logits_of(path, text, tokens, *options)
    wanted = numpy_decoder.Decoder(file).logits(tokens)
    error, same = np.abs(found - wanted).max(), (found.argmax(axis=1) == wanted.argmax(axis=1)).sum()
    results.check(name, len(tokens) >= least_tokens and error <= most and same == len(tokens),
                  f"{same} of {len(tokens)} likeliest tokens, largest error {error:.2e} of {np.abs(wanted).max():.1f}")


def real_models():
    for path in MODELS:
        compare(os.path.basename(path), path, TEXT, 64, 2e-3)


def small_models():
    text = "the string of a thing on the shore: 12 34, again and again in another order"
    cases = [("F32", a, {}, ()) for a in ("llama", "qwen2", "qwen3", "gemma2", "gemma3")]
    cases += [(kind, "llama", {}, ()) for kind in gguf_file.TYPES if kind != "F32"]
    cases += [("F16", "llama", {}, ("output", "rope_freqs")),
              ("F32", "qwen3", {"qwen3.rope.dimension_count": 8}, ("output",))]
    cases += [("F32", a, {f"{a}.block_count": n}, ()) for a, n in (("gemma2", 46), ("gemma3", 62))] # those of 27B
    cases += [("F32", a, {f"{a}.{key}": value for key, value in changes.items()}, ()) for a, changes in (
        ("gemma3", {"attention.sliding_window_pattern": 3}),
        ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 3.0}),
        ("llama", {"rope.scaling.type": "none", "rope.scaling.factor": 3.0}),
        ("llama", {"rope.scaling.factor": 3.0}), ("llama", {"rope.scaling.factor": 0.0}),
        ("gemma3", {"rope.scale_linear": 3.0}))]
    for kind, architecture, changes, extra in cases:
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            wide = gguf_file.TYPES[kind][1] == 256
            tiny_decoder.write(file.name, architecture, kind, wide=wide, extra=extra, **changes)
            name = " ".join((f"small {architecture} of {kind}", *extra, *(f"{k}={v}" for k, v in changes.items())))
            compare(name, file.name, text, 30, 2e-4, "--chunk", "11")


if __name__ == "__main__":
    small_models()
    real_models()
    results.finish()
