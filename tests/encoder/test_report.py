"""What the encoder prints and draws.

    python3 test_report.py ENCODER MODEL       SPDX-License-Identifier: MIT"""
import json
import math
import os
import re
import sys
import tempfile
import xml.etree.ElementTree

import numpy as np

import numpy_encoder
import results

ENCODER, MODEL = sys.argv[1:]
SVG = "{http://www.w3.org/2000/svg}"
SHADES = 40


def head_distance(probabilities):
    """Mean Jensen–Shannon distance over all pairs of heads and all queries."""
    heads, distances = len(probabilities), []
    log_share = lambda p, m: np.where(p > 0, p * np.log2(np.where(p > 0, p, 1) / m), 0.0)
    for a in range(heads):
        for b in range(a + 1, heads):
            p, q = probabilities[a], probabilities[b]
            m = np.where(p + q > 0, (p + q) / 2, 1)
            divergence = (log_share(p, m) + log_share(q, m)).sum(axis=-1) / 2
            distances.append(np.sqrt(np.maximum(divergence, 0)))
    return np.mean(distances)


def softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def drawn_shades(panel, palette, size):
    """The picture of one head as numbers of shades."""
    cells = np.full((size, size), palette[panel.find(SVG + "rect").get("fill")])
    for path in panel.findall(SVG + "path"):
        for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", path.get("d")):
            cells[int(y), int(x)] = palette[path.get("fill")]
    return cells


def picture(path):
    root = xml.etree.ElementTree.parse(path).getroot()
    panels = [g for g in root.iter(SVG + "g") if "scale" in g.get("transform", "")]
    titles = [t.text for t in root.iter(SVG + "text") if t.get("class") == "title"]
    return root, panels, titles


def report_of_real_model():
    text = "The animal did not cross the street because it was <too> tired & \"old\"."
    tokens = results.run_json(ENCODER, "--model", MODEL, "--tokens", lines=[text.encode()])[0]["tokens"]
    oracle = numpy_encoder.Encoder(MODEL)
    x = oracle.embeddings(tokens)
    for layer in range(1, 7):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "a.svg")
            done = results.run(ENCODER, "--model", MODEL, "--layer", layer, "--heatmap", path, text, "Another one.")
            out = done.stdout.decode()
            root, panels, titles = picture(path)
        _, learned = oracle.attention(x, f"encoder.layer.{layer - 1}.attention")
        raw = softmax(x @ x.T / math.sqrt(x.shape[1]))
        found = re.search(r"distance between heads: raw (\S+), learned (\S+)", out)
        results.check(f"layer {layer}: distance of the heads, raw exactly 0",
                      found and found[1] == "0" and abs(float(found[2]) - head_distance(learned)) < 6e-4,
                      f"{found and found[0]}, NumPy {head_distance(learned):.4f}")
        results.check(f"layer {layer}: a picture of raw attention and of each head",
                      len(panels) == 13 and sum("head " in t for t in titles) >= 12)
        legend = [r.get("fill") for r in root.iter(SVG + "rect") if r.get("height") == "12" and r.get("fill")]
        palette = {colour: shade for shade, colour in enumerate(legend)}
        off = [np.abs(drawn_shades(panel, palette, len(tokens)) - np.sqrt(p) * (SHADES - 1)).max()
               for panel, p in zip(panels, [raw, *learned])]
        results.check(f"layer {layer}: the shades are those of NumPy's probabilities",
                      len(palette) == SHADES and max(off) < 0.51, f"off by {max(off):.3f} of a shade")
        favourites = re.findall(r"^ +\d+  (\S+) +(\d+) %", out, re.M)
        shares = learned.mean(axis=1)
        expected = [round(100 * s.max()) for s in shares]
        results.check(f"layer {layer}: which token each head attends to most",
                      len(favourites) == 12 and all(abs(int(f[1]) - e) <= 1 for f, e in zip(favourites, expected)))
        x = oracle.layer(x, layer - 1)
    results.check("similarity, sentences per second, kernel set", "1.00" in out and
                  re.search(r"\d+ sentences per second .* kernel set \w+, \d+ thread", out))


def weights_in_fewer_bits():
    """The vectors stay close to those of f32, and the report says how close."""
    texts = ["The animal did not cross the street.", "A weary dog refused to walk.", "Attention is all you need."]
    lines = [text.encode() for text in texts]
    vectors = lambda *a: np.array([found["embedding"] for found in results.run_json(
        ENCODER, "--model", MODEL, "--json", *a, lines=lines)])
    plain = vectors()
    for name, least in ("bf16", 0.99995), ("int8", 0.997), ("q8_0", 0.999):
        cosines = (plain * vectors("--weights", name)).sum(axis=-1)
        out = results.run(ENCODER, "--model", MODEL, "--weights", name, *texts).stdout.decode()
        found = re.search(rf"weights in {name}, products in \w+, of attention in \w+: cosine to the vectors of f32 (\S+) on average, (\S+) at least", out)
        results.check(f"weights in {name}: as close to f32 as the report says",
                      found and abs(float(found[1]) - cosines.mean()) < 2e-6 and
                      abs(float(found[2]) - cosines.min()) < 2e-6 and 1 - 1e-9 > cosines.min() >= least,
                      f"{cosines.min():.6f}")
    for weights in "f32", "bf16":
        cosines = (plain * vectors("--weights", weights, "--arithmetic", "bf16")).sum(axis=-1)
        results.check(f"weights in {weights}, products in bf16: close to f32", 1 - 1e-9 > cosines.min() >= 0.9999,
                      f"{cosines.min():.6f}")
    refused = results.run(ENCODER, "--model", MODEL, "--arithmetic", "int8")
    results.check("products of integers that there are not are refused",
                  refused.returncode == 1 and b"q8_0" in refused.stderr)
    refused = results.run(ENCODER, "--model", MODEL, "--weights", "q3")
    results.check("weights of an unknown name are refused", refused.returncode == 1 and b"q8_0" in refused.stderr)


def other_reports():
    done = results.run(ENCODER, "--model", MODEL)
    results.check("without arguments it has sentences of its own",
                  done.returncode == 0 and b"similarity" in done.stdout)
    lines = b"".join(b"Sentence number %d.\n" % i for i in range(30))
    done = results.run(ENCODER, "--model", MODEL, "--input", "-", stdin=lines)
    results.check("many sentences: the closest pairs", done.returncode == 0 and b"closest pairs of 30" in done.stdout)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "a.svg")
        done = results.run(ENCODER, "--model", MODEL, "--heatmap", path, "word " * 300)
        root, panels, _ = picture(path)
        notes = [t.text for t in root.iter(SVG + "text")]
        results.check("a long sentence: its first 64 tokens are drawn",
                      done.returncode == 0 and "Drawn: the first 64 of 256 tokens." in notes and
                      panels[0].find(SVG + "rect").get("width") == "64")
        sizes = [float(g.get("font-size")) for g in root.iter(SVG + "g") if g.get("class") == "label"]
        results.check("its labels can be read", len(sizes) == 13 and min(sizes) >= 9)
    results.check("a sentence that is cut is said to be", b"1 sentence is longer than the 256 tokens" in done.stderr)
    done = results.run(ENCODER, "--model", MODEL, "--tokens", "b " * 254, "b " * 255, "b " * 256)
    results.check("which is the first to be cut, and how many are", done.stderr.endswith(
        b"2 sentences are longer than the 256 tokens that the model reads, number 2 is the first: the end is left out\n"))
    done = results.run(ENCODER, "--model", MODEL, "--json", "--input", "-", stdin=b"")
    results.check("--json of nothing is nothing", done.returncode == 0 and done.stdout == b"")
    found = results.run_json(ENCODER, "--model", MODEL, "--json", lines=[b"a\r", b"", b"b\"\\\t\x01\xff\xc3\xa9"])
    results.check("--json: line ends, empty lines, escapes", [f["text"] for f in found] ==
                  ["a", "", "b\"\\\t\x01\ufffdé"] and [len(f["tokens"]) for f in found[:2]] == [3, 2])
    done = results.run(ENCODER, "--model", MODEL, "--json", "--input", "-", stdin=b"no newline at the end")
    fields = list(json.loads(done.stdout))
    digits = re.findall(rb"-?[0-9.e+-]+", done.stdout.split(b"embedding")[1])
    significant = [d.split(b"e")[0].lstrip(b"-0.").replace(b".", b"") for d in digits]
    results.check("--json: text, tokens, 384 numbers of at most 9 digits",
                  fields == ["text", "tokens", "embedding"] and len(digits) == 384 and
                  max(map(len, significant)) == 9)
    if os.path.exists("/dev/full"):
        done = results.run("sh", "-c", f'"{ENCODER}" --model "{MODEL}" --tokens a >/dev/full')
        results.check("a full disk is noticed", done.returncode == 1 and b"encoder: " in done.stderr)


report_of_real_model()
weights_in_fewer_bits()
other_reports()
results.finish()
