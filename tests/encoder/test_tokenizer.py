"""The encoder's tokens against those of the package `tokenizers` with the model's own tokenizer.json.

    python3 test_tokenizer.py ENCODER MODEL       SPDX-License-Identifier: MIT"""
import json
import os
import sys
import tempfile

import tokenizers

import results
import tokenizer_lines


def reference(tokenizer, lines):
    texts = [line.decode("utf-8", "replace") for line in lines]
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def compare(name, encoder, model, tokenizer, lines):
    expected = reference(tokenizer, lines)
    found = results.run_json(encoder, "--model", model, "--tokens", lines=lines)
    wrong = [i for i in range(len(lines)) if i >= len(found) or found[i]["tokens"] != expected[i]]
    detail = f"{len(lines)} lines"
    if wrong:
        i = wrong[0]
        detail += f", {len(wrong)} differ, the first: {lines[i]!r}\n  expected {expected[i]}\n  found    " + \
            (str(found[i]["tokens"]) if i < len(found) else "nothing")
    results.check(name, not wrong and len(found) == len(lines), detail)
    return found


def other_options(encoder, model, lines):
    """The model's tokenizer.json with other options."""
    with open(os.path.join(model, "tokenizer.json"), encoding="utf-8") as file:
        whole = json.load(file)
    # Words of the vocabulary, so that their numbers are what they are to the package too.
    more = [{"id": whole["model"]["vocab"][content], "content": content, "single_word": single,
             "normalized": normalized, "lstrip": False, "rstrip": False, "special": False}
            for content, single, normalized in (("the", True, True), ("un", False, True), ("it", True, False),
                                                ("ing", False, False), ("##s", False, False), ("!", True, True),
                                                ("д", True, False), ("e", True, True), ("in", False, True))]
    for name, normalizer, added in (("cased", {"lowercase": False}, []), ("accents kept", {"strip_accents": False}, []),
                                    ("cased, accents stripped", {"lowercase": False, "strip_accents": True}, []),
                                    ("text not cleaned", {"clean_text": False}, []),
                                    ("CJK not apart", {"handle_chinese_chars": False}, []), ("added tokens", {}, more)):
        changed = {**whole, "truncation": None, "padding": None, "added_tokens": whole["added_tokens"] + added,
                   "normalizer": {**whole["normalizer"], **normalizer}}
        with tempfile.TemporaryDirectory() as directory:
            for link in ("config.json", "vocab.txt"):
                os.symlink(os.path.abspath(os.path.join(model, link)), os.path.join(directory, link))
            path = os.path.join(directory, "tokenizer.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(changed, file)
            tokenizer = tokenizers.Tokenizer.from_file(path)
            tokenizer.enable_truncation(256)
            compare(f"other options: {name}", encoder, directory, tokenizer, lines)


def main():
    encoder, model = sys.argv[1:]
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    print(f"tokenizers {tokenizers.__version__}")
    vocabulary = sorted(tokenizer.get_vocab())
    total = 0
    named = tokenizer_lines.all_lines(vocabulary)
    for name, lines in named.items():
        total += len(lines)
        found = compare(name, encoder, model, tokenizer, lines)
        if name == "invalid UTF-8":
            texts = [line.decode("utf-8", "replace").removesuffix("\r") for line in lines]
            results.check("invalid UTF-8 is given back as U+FFFD", [f["text"] for f in found] == texts)
    results.check("there are at least 2,000 lines", total >= 2000, str(total))
    other_options(encoder, model, [line for lines in named.values() for line in lines])
    lines = [line.encode() for line in tokenizer_lines.every_code_point()]
    compare("every code point of Unicode, in four surroundings", encoder, model, tokenizer, lines)
    results.finish()


main()
