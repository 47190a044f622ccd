"""Small models with random weights, of every architecture and type of weights that examples/generate knows.
SPDX-License-Identifier: MIT"""
import numpy as np

import gguf_file

BYTES = [chr(b) if 33 <= b <= 126 or 161 <= b <= 255 and b != 173 else None for b in range(256)]
_more = iter(range(256, 512))
BYTES = [c or chr(next(_more)) for c in BYTES] # as GPT-2 writes bytes
MERGES = ["t h", "th e", "Ġ t", "Ġ the", "i n", "a n", "e r", "Ġ a", "o n", "r e", "Ġ s", "in g"]


def tokens():
    """The bytes, what the merges make, and some special ones."""
    return BYTES + [m.replace(" ", "") for m in MERGES] + ["<|end|>", "<|start|>"]


def values(architecture, **changes):
    names = tokens()
    found = {
        "general.architecture": architecture, "general.name": "tiny",
        f"{architecture}.block_count": 2, f"{architecture}.context_length": 128, f"{architecture}.embedding_length": 64,
        f"{architecture}.feed_forward_length": 96, f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 2, f"{architecture}.rope.freq_base": 1000.0,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [3 if n.startswith("<|") else 1 for n in names],
        "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.eos_token_id": names.index("<|end|>"),
        "tokenizer.ggml.bos_token_id": names.index("<|start|>"), "tokenizer.ggml.add_bos_token": False}
    if architecture.startswith("gemma"):
        found |= {f"{architecture}.attention.sliding_window": 7, f"{architecture}.attention.key_length": 32,
                  f"{architecture}.attention.value_length": 32}
    if architecture == "gemma2":
        found |= {"gemma2.final_logit_softcapping": 3.0, "gemma2.attn_logit_softcapping": 2.0}
    if architecture == "gemma3":
        found |= {"gemma3.block_count": 6}
    return {k: v for k, v in (found | changes).items() if v is not None}


def model(architecture="llama", kind="F32", seed=1, wide=False, extra=(), **changes):
    """values and tensors; wide: sizes that K-quants can have."""
    if wide:
        changes = {f"{architecture}.embedding_length": 256, f"{architecture}.feed_forward_length": 512,
                   f"{architecture}.attention.head_count": 4, f"{architecture}.attention.key_length": 64,
                   f"{architecture}.attention.value_length": 64} | changes
    v = values(architecture, **changes)
    rng = np.random.default_rng(seed)
    get = lambda key, default=None: v.get(f"{architecture}.{key}", default)
    dim, ff, heads = get("embedding_length"), get("feed_forward_length"), get("attention.head_count")
    head_dim = get("attention.key_length", dim // heads)
    kv = get("attention.head_count_kv") * head_dim
    tensors = {}

    def matrix(name, rows, columns, size=None):
        tensors[name] = (kind, [rows, columns], gguf_file.random_blocks(rng, kind, (rows, columns),
                                                                        size or 1.5 / columns ** 0.5))

    def vector(name, size, mean=1.0, spread=0.2):
        tensors[name] = ("F32", [size], (mean + spread * rng.normal(size=size)).astype("<f4").tobytes())

    matrix("token_embd.weight", len(v["tokenizer.ggml.tokens"]), dim, 0.6)
    vector("output_norm.weight", dim)
    if "output" in extra:
        matrix("output.weight", len(v["tokenizer.ggml.tokens"]), dim)
    if "rope_freqs" in extra:
        vector("rope_freqs.weight", head_dim // 2, 3.0)
    for i in range(get("block_count")):
        name = f"blk.{i}."
        vector(name + "attn_norm.weight", dim)
        vector(name + "ffn_norm.weight", dim)
        matrix(name + "attn_q.weight", heads * head_dim, dim)
        matrix(name + "attn_k.weight", kv, dim)
        matrix(name + "attn_v.weight", kv, dim)
        matrix(name + "attn_output.weight", dim, heads * head_dim)
        matrix(name + "ffn_gate.weight", ff, dim)
        matrix(name + "ffn_up.weight", ff, dim)
        matrix(name + "ffn_down.weight", dim, ff)
        if architecture == "qwen2":
            for part, size in (("q", heads * head_dim), ("k", kv), ("v", kv)):
                vector(name + f"attn_{part}.bias", size, 0.0, 0.5)
        if architecture in ("qwen3", "gemma3"):
            vector(name + "attn_q_norm.weight", head_dim)
            vector(name + "attn_k_norm.weight", head_dim)
        if architecture.startswith("gemma"):
            vector(name + "post_attention_norm.weight", dim)
            vector(name + "post_ffw_norm.weight", dim)
    return v, tensors


def write(path, *arguments, **options):
    with open(path, "wb") as file:
        file.write(gguf_file.pack(*model(*arguments, **options)))
    return path
