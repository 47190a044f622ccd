"""Models of other shapes, types and options than the real one.

    python3 test_models.py ENCODER       SPDX-License-Identifier: MIT"""
import json
import sys
import tempfile

import numpy as np

import numpy_encoder
import results
import tiny_model as tiny

ENCODER = sys.argv[1]


def run_tiny(files, text="The cats sat, [MASK] Cat é 猫 cat's.", *arguments):
    with tempfile.TemporaryDirectory() as directory:
        tiny.write(directory, files)
        done = results.run(ENCODER, "--model", directory, "--json", *arguments, text)
        if done.returncode != 0:
            return {"error": done.stderr.decode()}, None
        found = json.loads(done.stdout)
        in_f32 = b'"F32"' in files["model.safetensors"]
        return found, numpy_encoder.Encoder(directory).encode(found["tokens"]) if in_f32 else None


def other_models():
    base, expected = run_tiny(tiny.model_files())
    for what, files in {
        "3 heads of 8": tiny.model_files(),
        "1 layer, 1 head of 7": tiny.model_files(tiny.config(hidden_size=7, num_attention_heads=1,
                                                             num_hidden_layers=1)),
        "12 heads of 1, wide 129": tiny.model_files(tiny.config(hidden_size=12, num_attention_heads=12,
                                                                intermediate_size=129)),
        "5 layers of 130, eps 1e-5": tiny.model_files(tiny.config(hidden_size=130, num_attention_heads=2,
                                                                  num_hidden_layers=5, layer_norm_eps=1e-5)),
        "names with bert.": tiny.model_files(prefix="bert."),
        "more rows than words": tiny.model_files(tiny.config(vocab_size=30)),
    }.items():
        found, oracle = run_tiny(files)
        good = oracle is not None and np.abs(np.array(found["embedding"]) - oracle).max() < 1e-5
        results.check(f"model: {what}", good, str(found.get("error", "")))
    for dtype in ("F16", "BF16"):
        found, _ = run_tiny(tiny.model_files(dtype=dtype))
        results.check(f"model in {dtype}: the numbers of F32", found == base, str(found.get("error", "")))
    first = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    found, _ = run_tiny(tiny.model_files(**{"1_Pooling/config.json": first}))
    results.check("model that takes the vector of [CLS]", found["embedding"] != base["embedding"] and
                  abs(sum(v * v for v in found["embedding"]) - 1) < 1e-6)
    found, _ = run_tiny(tiny.model_files(**{"sentence_bert_config.json": {"max_seq_length": 5}}))
    results.check("model with its own greatest length", found["tokens"] == base["tokens"][:4] + [3])
    for what, files, expected in (
        ("without tokenizer.json: lower case", {}, base["tokens"]),
        ("do_lower_case false", {"tokenizer_config.json": {"do_lower_case": False}}, [10, 18]),
        ("tokenizer.json: lowercase false", {"tokenizer.json": tiny.tokenizer_json(lowercase=False)}, [10, 18]),
        ("tokenizer.json wins", {"tokenizer.json": tiny.tokenizer_json(), "tokenizer_config.json":
                                 {"do_lower_case": False}}, [9, 19]),
        ("strip_accents false", {"tokenizer_config.json": {"strip_accents": False}}, [9, 18]),
        ("Chinese not set apart", {"tokenizer_config.json": {"tokenize_chinese_chars": False}}, [9, 19]),
    ):
        text = "Cat é" if len(expected) == 2 else None
        found, _ = run_tiny(tiny.model_files(**files), *([text] if text else []))
        tokens = found.get("tokens", [])
        results.check(f"tokens: {what}", (tokens[1:-1] if text else tokens) == expected,
                      str(found.get("error", tokens)))
    extra = {"single_word": True, "normalized": True, "lstrip": False, "rstrip": False, "special": False}
    with_extra = tiny.tokenizer_json()
    with_extra["added_tokens"].append({"id": 8, "content": "Sat Cat", **extra})
    found, _ = run_tiny(tiny.model_files(**{"tokenizer.json": with_extra}), "A SAT CAT, sat cats [MASK]")
    results.check("tokens: an added token in normalised text", found.get("tokens") == [2, 5, 8, 16, 11, 9, 12, 4, 3],
                  str(found))


other_models()
results.finish()
