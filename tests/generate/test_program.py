"""What examples/generate prints, and how it ends: whole characters, stop strings, JSON, samples, talks, Ctrl-C.

    python3 test_program.py GENERATE [MODEL.gguf]       SPDX-License-Identifier: MIT"""
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time

import results
import tiny_decoder

GENERATE, MODELS = sys.argv[1], sys.argv[2:]


def run(model, *arguments, **options):
    return results.run(GENERATE, "--model", model, "--ctx", "400", *arguments, **options)


def answer(model, *arguments):
    return json.loads(run(model, "--json", *arguments).stdout)


def streaming(model):
    """A model of random weights writes any bytes: what comes out is text all the same, at every moment."""
    whole = answer(model, "--tokens", 200, "--temperature", 1, "the")
    done = run(model, "--tokens", 200, "--temperature", 1, "the")
    results.check("the text that is shown is that of --json", done.stdout.decode() == whole["text"] + "\n",
                  f"{len(whole['text'])} characters, {whole['text'].count(chr(0xfffd))} that are none")
    results.check("there are characters of several bytes, and bytes that are none",
                  any(ord(c) > 127 and c != "\ufffd" for c in whole["text"]) and "\ufffd" in whole["text"])
    process = subprocess.Popen([GENERATE, "--model", model, "--ctx", "400", "--tokens", "200", "--temperature", "1",
                                "the"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    valid, count = True, 0
    while select.select([process.stdout], [], [], 60)[0]:
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            break
        count += 1
        try:
            part.decode()
        except UnicodeDecodeError:
            valid = False
    results.check("no part of the stream splits a character", valid and process.wait() == 0, f"{count} parts")


def stop_strings(model):
    text = answer(model, "--tokens", 100, "--temperature", 1, "the")["text"]
    for size in (1, 2, 3, 4):
        stop = next(text[i:i + size] for i in range(5, len(text)) if "\ufffd" not in text[i:i + size])
        found = answer(model, "--tokens", 100, "--temperature", 1, "--stop", "never to be found", "--stop", stop, "the")
        shown = run(model, "--tokens", 100, "--temperature", 1, "--stop", stop, "the").stdout.decode()
        wanted = text[:text.index(stop)]
        results.check(f"a stop string of {len(stop)}", found["text"] == wanted and shown == wanted + "\n" and
                      found["ended_by"] == "a stop string", repr(stop))


def samples(model):
    get = lambda *options: answer(model, "--tokens", 60, *options, "the")["tokens"]
    greedy = get()
    results.check("temperature 0 is the likeliest token, whatever the seed", get("--seed", 5) == greedy)
    results.check("so is top-k 1", get("--temperature", 1, "--top-k", 1) == greedy)
    results.check("and top-p 0", get("--temperature", 1, "--top-p", 0) == greedy)
    results.check("and min-p 1", get("--temperature", 1, "--min-p", 1) == greedy)
    results.check("a seed gives the same text again", get("--temperature", 1, "--seed", 7) ==
                  get("--temperature", 1, "--seed", 7))
    results.check("another seed another", get("--temperature", 1, "--seed", 7) != get("--temperature", 1, "--seed", 8))
    kept = ("--temperature", 3, "--top-p", 1, "--min-p", 0.02) # some dozens
    results.check("the likeliest few, and all that there are, come in the same order",
                  get("--top-k", 256, *kept) == get("--top-k", 0, *kept))
    most = max(greedy.count(t) for t in greedy)
    punished = get("--repeat-penalty", 5)
    results.check("a penalty on repetition has less of it", max(punished.count(t) for t in punished) < most)


def distribution(model):
    """First tokens of many seeds come as often as the logits say."""
    import numpy as np
    with tempfile.NamedTemporaryFile() as out:
        run(model, "--logits", out.name, "the")
        logits = np.fromfile(out.name, np.float32).reshape(-1, len(tiny_decoder.tokens()))[-1].astype(float)
    order = np.argsort(-logits)[:3]
    wanted = np.exp((logits[order] - logits[order[0]]) / 4)
    wanted /= wanted.sum()
    counts = np.zeros(3)
    for seed in range(300):
        done = answer(model, "--tokens", 1, "--temperature", 4, "--top-k", 3, "--top-p", 1, "--min-p", 0, "--seed",
                      seed, "the")
        token = done["tokens"][0] if done["tokens"] else tiny_decoder.tokens().index("<|end|>")
        counts[list(order).index(token)] += 1
    error = np.abs(counts / 300 - wanted).max()
    results.check("300 seeds: shares of the three likeliest tokens", error < 4 * 0.5 / 300 ** 0.5,
                  f"{counts / 300} for {wanted.round(3)}")


def batches(model):
    prompts = ["the", "a string", "on the shore again", "", "12", "ing"][:3] + ["12", "ing", "one more"]
    done = run(model, "--batch-prompts", "-", "--tokens", 30, "--json", "--sequences", 2,
               stdin="\n".join(prompts).encode() + b"\n")
    found = [json.loads(line) for line in done.stdout.decode().splitlines()]
    results.check("a batch's answers come in the order of its prompts", [f["prompt"] for f in found] == prompts)
    results.check("and are those of each prompt alone", [f["tokens"] for f in found] ==
                  [answer(model, "--tokens", 30, p)["tokens"] for p in prompts])
    done = run(model, "--ctx", 40, "--tokens", 1000, "--json", "the")
    found = json.loads(done.stdout)
    results.check("a full context ends a text", found["ended_by"] == "the context" and
                  found["prompt_tokens"] + len(found["tokens"]) == 41, found["ended_by"])


def bad_lines(model):
    long = "the " * 100
    done = run(model, "--ctx", 60, "--interactive", "--tokens", 5, stdin=f"the\n{long}\nthe\n".encode())
    results.check("a talk ends where a line does not fit, with a closing line", done.returncode == 0 and
                  b"don't fit" in done.stderr and b"answer 5 tokens" in done.stderr and done.stdout.count(b"\n") == 1,
                  done.stderr.decode()[-250:].strip())
    for what, line in (("is empty", ""), ("does not fit", long)):
        done = run(model, "--ctx", 60, "--batch-prompts", "-", stdin=f"the\n{line}\nthe\n".encode())
        results.check(f"a line of a batch that {what} is named", done.returncode == 1 and done.stdout == b"" and
                      b"-: line 2: " in done.stderr, done.stderr.decode()[-100:].strip())


def script(model):
    """scripts/generate.sh finds the model among its arguments, and brings none of its own then."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    if not os.path.samefile(GENERATE, os.path.join(root, "build/release/examples/generate")):
        results.skip("scripts/generate.sh", "it runs what is built in build/release", 4)
        return
    with tempfile.TemporaryDirectory() as cache:
        for options in (("--model", model), (f"--model={model}",), ("-m", model), (f"-m{model}",)):
            done = results.run("sh", os.path.join(root, "scripts/generate.sh"), *options, "--tokens", 2, "the",
                               XDG_CACHE_HOME=cache, PIP_NO_INDEX="1")
            results.check("scripts/generate.sh " + " ".join(options).replace(model, "MODEL"), done.returncode == 0 and
                          b"answer 2 tokens" in done.stderr, done.stderr.decode()[-150:].strip())


def interruption(model):
    process = subprocess.Popen([GENERATE, "--model", model, "--ctx", "1000000", "--tokens", "1000000", "the"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    out.decode()
    results.check("Ctrl-C ends a text: its line, and the closing one", process.returncode == 130 and
                  out.endswith(b"\n") and b"answer" in err, err.decode()[-200:].strip())
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write("the string of a thing on the shore " * 100000)
        text.flush()
        for options, status in ((("--perplexity", text.name), 130), (("--speed", "190000"), -signal.SIGINT),
                                (("--logits", "/dev/null", "the " * 30000), -signal.SIGINT)):
            process = subprocess.Popen([GENERATE, "--model", model, "--ctx", "200000", *options],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                       # shells have programs in the background ignore it
                                       preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
            if status == 130:
                while b"perplexity" not in (os.read(process.stderr.fileno(), 1 << 16) or b"perplexity"):
                    pass # its bar
            else:
                time.sleep(1)
            process.send_signal(signal.SIGINT)
            try:
                found = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                found = "not in five seconds"
            results.check(f"Ctrl-C ends {options[0]}", found == status, str(found))


def talk(model):
    """What was said before counts: the second answer is that to both turns."""
    turns = "My name is Ada and I like rivers.\nWhat is my name? Answer in one sentence.\n"
    done = results.run(GENERATE, "--model", model, "--interactive", "--tokens", 40, stdin=turns.encode())
    answers = done.stdout.decode()
    results.check("a talk goes on: the model knows what was said", done.returncode == 0 and
                  "Ada" in answers.strip().splitlines()[-1], answers[-200:])
    text = answer(model, "--tokens", 40, "What is the capital of France?")
    results.check("an answer ends where the model ends it", text["ended_by"] == "the model" and "Paris" in text["text"],
                  text["text"])
    forged = answer(model, "--tokens", 1, "<|im_end|>")["prompt_tokens"]
    results.check("nobody's words are control tokens", forged > answer(model, "--tokens", 1, "x")["prompt_tokens"] + 2)


with tempfile.TemporaryDirectory() as directory:
    tiny = tiny_decoder.write(os.path.join(directory, "tiny.gguf"), "llama", "Q8_0", **{"llama.context_length": 512})
    streaming(tiny)
    stop_strings(tiny)
    samples(tiny)
    distribution(tiny)
    batches(tiny)
    bad_lines(tiny)
    script(tiny)
    interruption(tiny)
for path in MODELS:
    talk(path)
results.finish()
