"""A decoder of Llama's kind in float64, over the dequantised weights of a GGUF file: the oracle for the logits of
examples/generate, written after the models' papers.  SPDX-License-Identifier: MIT"""
import numpy as np


class Decoder:
    def __init__(self, file):
        self.file = file
        self.architecture = file.values["general.architecture"]
        get = lambda key, default=None: file.values.get(f"{self.architecture}.{key}", default)
        self.layers, self.dim = get("block_count"), get("embedding_length")
        self.heads = get("attention.head_count")
        self.kv_heads = get("attention.head_count_kv", self.heads)
        self.head_dim = get("attention.key_length", self.dim // self.heads)
        self.rotary = get("rope.dimension_count", self.head_dim)
        self.base = get("rope.freq_base", 10000.0)
        self.factor = get("rope.scaling.factor", get("rope.scale_linear", 1)) or 1
        if get("rope.scaling.type") == "none":
            self.factor = 1
        self.epsilon = get("attention.layer_norm_rms_epsilon", 1e-5)
        self.softcap, self.attention_softcap = get("final_logit_softcapping", 0), get("attn_logit_softcapping", 0)
        self.gemma = self.architecture.startswith("gemma")
        self.window = get("attention.sliding_window", 0) if self.gemma else 0
        self.every = get("attention.sliding_window_pattern", {"gemma2": 2, "gemma3": 6}.get(self.architecture, 0))
        self.local_base = 10000.0 if self.architecture == "gemma3" else self.base
        large = {"gemma2": 46, "gemma3": 62}.get(self.architecture) == self.layers # the two of 27B
        self.scale = (self.dim // self.heads if large else self.head_dim) ** -0.5

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon) * self.file.matrix(name)

    def maybe(self, name):
        return self.file.matrix(name) if name in self.file.tensors else None

    def rotate(self, x, base, factor):
        """x is (tokens, heads, head_dim)."""
        pairs = self.rotary // 2
        angles = np.arange(len(x))[:, None] / factor * base ** (-np.arange(pairs) / pairs)[None, :]
        factors = self.maybe("rope_freqs.weight")
        if factors is not None:
            angles = angles / factors
        cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
        x = x.copy()
        if self.architecture == "llama": # channels 2i and 2i + 1
            a, b = x[..., 0:self.rotary:2], x[..., 1:self.rotary:2]
        else:
            a, b = x[..., :pairs], x[..., pairs:self.rotary]
        a[...], b[...] = a * cos - b * sin, b * cos + a * sin
        return x

    def attention(self, x, layer):
        name = lambda part: f"blk.{layer}.attn_{part}"
        local = self.window > 0 and (layer + 1) % self.every != 0

        def heads(part, count):
            y = x @ self.file.matrix(name(part) + ".weight").T
            bias = self.maybe(name(part) + ".bias")
            y = (y if bias is None else y + bias).reshape(len(x), count, self.head_dim)
            if name(part) + "_norm.weight" in self.file.tensors:
                y = self.norm(y, name(part) + "_norm.weight")
            return y

        rope = (self.local_base, 1) if local else (self.base, self.factor)
        q, k = self.rotate(heads("q", self.heads), *rope), self.rotate(heads("k", self.kv_heads), *rope)
        v = heads("v", self.kv_heads)
        distance = np.arange(len(x))[:, None] - np.arange(len(x))[None, :]
        hidden = (distance < 0) | ((distance >= self.window) if local else False)
        out = np.empty_like(q)
        for h in range(self.heads):
            shared = h // (self.heads // self.kv_heads)
            s = q[:, h] @ k[:, shared].T * self.scale
            if self.attention_softcap:
                s = self.attention_softcap * np.tanh(s / self.attention_softcap)
            s[hidden] = -np.inf
            p = np.exp(s - s.max(axis=1, keepdims=True))
            out[:, h] = p / p.sum(axis=1, keepdims=True) @ v[:, shared]
        return out.reshape(len(x), -1) @ self.file.matrix(name("output.weight")).T

    def feed_forward(self, x, layer):
        gate = x @ self.file.matrix(f"blk.{layer}.ffn_gate.weight").T
        if self.gemma:
            gate = gate * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate ** 3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        return (gate * (x @ self.file.matrix(f"blk.{layer}.ffn_up.weight").T)) @ \
            self.file.matrix(f"blk.{layer}.ffn_down.weight").T

    def logits(self, tokens):
        embedding = self.file.matrix("token_embd.weight", np.float32)
        x = embedding[tokens].astype(np.float64) * (np.sqrt(self.dim) if self.gemma else 1)
        for layer in range(self.layers):
            name = f"blk.{layer}."
            y = self.attention(self.norm(x, name + "attn_norm.weight"), layer)
            if name + "post_attention_norm.weight" in self.file.tensors:
                y = self.norm(y, name + "post_attention_norm.weight")
            x = x + y
            y = self.feed_forward(self.norm(x, name + "ffn_norm.weight"), layer)
            if name + "post_ffw_norm.weight" in self.file.tensors:
                y = self.norm(y, name + "post_ffw_norm.weight")
            x = x + y
        output = self.file.matrix("output.weight", np.float32) if "output.weight" in self.file.tensors else embedding
        x = self.norm(x, "output_norm.weight")
        found = [x @ output[i:i + 8192].astype(np.float64).T for i in range(0, len(output), 8192)]
        found = np.concatenate(found, axis=1)
        return self.softcap * np.tanh(found / self.softcap) if self.softcap else found
