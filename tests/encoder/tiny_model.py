"""Small BERT models with random weights, whole or with something wrong.  SPDX-License-Identifier: MIT"""
import json
import os
import struct

import numpy as np

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "the", "cat", "Cat", "sat", "##s", "##at", "m",
         ".", ",", "'", "é", "e", "è", "猫"]


def config(**changes):
    sizes = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": len(WORDS), "type_vocab_size": 2,
             "max_position_embeddings": 32, "layer_norm_eps": 1e-12}
    return {k: v for k, v in {**sizes, **changes}.items() if v is not None}


def weights(sizes, seed=1):
    """name → float32 array whose values F16 and BF16 hold exactly"""
    rng = np.random.default_rng(seed)
    hidden, wide = sizes["hidden_size"], sizes["intermediate_size"]
    shapes = {"embeddings.word_embeddings.weight": (sizes["vocab_size"], hidden),
              "embeddings.position_embeddings.weight": (sizes["max_position_embeddings"], hidden),
              "embeddings.token_type_embeddings.weight": (sizes["type_vocab_size"], hidden),
              "embeddings.LayerNorm.weight": (hidden,), "embeddings.LayerNorm.bias": (hidden,)}
    for i in range(sizes["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        for name, rows, columns in (("attention.self.query", hidden, hidden), ("attention.self.key", hidden, hidden),
                                    ("attention.self.value", hidden, hidden),
                                    ("attention.output.dense", hidden, hidden), ("intermediate.dense", wide, hidden),
                                    ("output.dense", hidden, wide)):
            shapes[layer + name + ".weight"] = (rows, columns)
            shapes[layer + name + ".bias"] = (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[layer + name + ".weight"] = shapes[layer + name + ".bias"] = (hidden,)
    # Multiples of 1/64 up to 1: seven bits.
    return {name: (rng.integers(-64, 65, shape) / 64).astype(np.float32) for name, shape in shapes.items()}


def as_bytes(array, dtype):
    if dtype == "F16":
        return array.astype("<f2").tobytes()
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype("<f4").tobytes()


def layout(tensors, dtype="F32", prefix=""):
    """(header, data) of a safetensors file"""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        chunk = as_bytes(array, dtype)
        header[prefix + name] = {"dtype": dtype, "shape": list(array.shape),
                                 "data_offsets": [len(data), len(data) + len(chunk)]}
        data += chunk
    return header, data


def pack(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tokenizer_json(words=None, lowercase=True, **changes):
    words = words or WORDS
    added = [{"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, w in enumerate(words) if w.startswith("[")]
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
             "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                            "strip_accents": None, "lowercase": lowercase},
             "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None, "decoder": None,
             "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                       "max_input_chars_per_word": 100, "vocab": {w: i for i, w in enumerate(words)}}}
    return {**whole, **changes}


def write(directory, files):
    """files: name → bytes, or something for JSON, or None to leave it out"""
    for name, content in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if content is not None:
            with open(path, "wb") as file:
                file.write(content if isinstance(content, bytes) else json.dumps(content).encode())


def model_files(sizes=None, dtype="F32", prefix="", **more):
    sizes = sizes or config()
    files = {"config.json": sizes, "vocab.txt": "".join(w + "\n" for w in WORDS).encode(),
             "model.safetensors": pack(*layout(weights(sizes), dtype, prefix))}
    return {**files, **more}
