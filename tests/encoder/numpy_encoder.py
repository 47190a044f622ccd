"""A BERT sentence encoder in float64 with NumPy, written from the model's description and not from examples/encoder:
the oracle of test_embeddings.py.  SPDX-License-Identifier: MIT"""
import json
import math
import os

import numpy as np


def load_tensors(path):
    """name → float64 array of a safetensors file with F32 tensors"""
    with open(path, "rb") as file:
        blob = file.read()
    start = 8 + int.from_bytes(blob[:8], "little")
    tensors = {}
    for name, info in json.loads(blob[8:start]).items():
        if name != "__metadata__" and info["dtype"] == "F32":
            begin, end = info["data_offsets"]
            flat = np.frombuffer(blob[start + begin:start + end], dtype="<f4")
            tensors[name.removeprefix("bert.")] = flat.reshape(info["shape"]).astype(np.float64)
    return tensors


_STEP = 1.0 / 512
_GRID = np.arange(-6 * 512, 6 * 512 + 2) * _STEP
_ERF = np.array([math.erf(x) for x in _GRID])
_SLOPE = 2.0 / math.sqrt(math.pi) * np.exp(-_GRID * _GRID) * _STEP


def erf(x):
    """Cubic Hermite interpolation of math.erf; off by less than 1e-12."""
    x = np.clip(x, -6.0, 6.0)
    i = np.floor((x - _GRID[0]) / _STEP).astype(int)
    t = (x - _GRID[i]) / _STEP
    u = 1.0 - t
    return (_ERF[i] * (1.0 + 2.0 * t) * u * u + _ERF[i + 1] * (3.0 - 2.0 * t) * t * t +
            _SLOPE[i] * t * u * u - _SLOPE[i + 1] * t * t * u)


class Encoder:
    def __init__(self, directory):
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
            self.config = json.load(file)
        self.tensors = load_tensors(os.path.join(directory, "model.safetensors"))

    def linear(self, x, name):
        return x @ self.tensors[name + ".weight"].T + self.tensors[name + ".bias"]

    def layer_norm(self, x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        return (centred / np.sqrt(variance + self.config["layer_norm_eps"]) * self.tensors[name + ".weight"] +
                self.tensors[name + ".bias"])

    def attention(self, x, name):
        """(heads side by side, probabilities [head][query][key])"""
        tokens, heads = len(x), self.config["num_attention_heads"]
        split = lambda part: self.linear(x, f"{name}.self.{part}").reshape(tokens, heads, -1).transpose(1, 0, 2)
        q, k, v = split("query"), split("key"), split("value")
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities = scores / scores.sum(axis=-1, keepdims=True)
        return (probabilities @ v).transpose(1, 0, 2).reshape(tokens, -1), probabilities

    def layer(self, x, index):
        name = f"encoder.layer.{index}"
        heads, _ = self.attention(x, name + ".attention")
        x = self.layer_norm(x + self.linear(heads, name + ".attention.output.dense"),
                            name + ".attention.output.LayerNorm")
        wide = self.linear(x, name + ".intermediate.dense")
        wide = 0.5 * wide * (1.0 + erf(wide / math.sqrt(2.0)))
        return self.layer_norm(x + self.linear(wide, name + ".output.dense"), name + ".output.LayerNorm")

    def embeddings(self, tokens):
        x = (self.tensors["embeddings.word_embeddings.weight"][tokens] +
             self.tensors["embeddings.position_embeddings.weight"][:len(tokens)] +
             self.tensors["embeddings.token_type_embeddings.weight"][0])
        return self.layer_norm(x, "embeddings.LayerNorm")

    def encode(self, tokens):
        """The mean of the last layer's tokens at unit length."""
        x = self.embeddings(tokens)
        for index in range(self.config["num_hidden_layers"]):
            x = self.layer(x, index)
        mean = x.mean(axis=0)
        return mean / np.sqrt((mean * mean).sum())
