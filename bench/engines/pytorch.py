#!/usr/bin/env python3
"""PyTorch and Transformers with their own attention on CPUs ("sdpa") and with qkv, in turns.

    python3 bench/engines/pytorch.py [--quick] [--threads=1,2] [--rounds=5] [--only=WORD]

Needs the package qkv and python/tests/requirements.txt. Prints a table: time or speed of both, the medians of the rounds,
and the median of each round's ratio; above 1 qkv is faster. One thread is timed in processor time, to which a busy
machine adds nothing. Weights are drawn at random. SPDX-License-Identifier: MIT
"""
import argparse
import statistics
import time

import torch
import torch.nn.functional as F
import transformers as hf

import qkv
import qkv.torch
import qkv.transformers

MODEL = dict(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_hidden_layers=4, vocab_size=4096,
             max_position_embeddings=8192)


def seconds(function, at_least):
    """Of one call: several, if one is short."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin, calls = clock(), 0
    while True:
        function()
        calls += 1
        taken = clock() - begin
        if taken >= at_least:
            return taken / calls


def in_turns(theirs, ours, rounds, at_least):
    for function in (theirs, ours):
        function()
    pairs = [(seconds(theirs, at_least), seconds(ours, at_least)) for _ in range(rounds)]
    return (statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
            statistics.median(a / b for a, b in pairs))


def attention_cases(lengths):
    """Name, unit, work in it, and a function for each side."""
    for heads, kv_heads, dim in ((12, 12, 64), (8, 2, 128)):
        for n in lengths:
            shape = f"{heads}:{kv_heads} heads, D {dim}, S {n}"
            q, k, v = (torch.randn(1, n, h, dim).transpose(1, 2).requires_grad_() for h in (heads, kv_heads, kv_heads))
            for causal in (False, True):
                def forward(sdpa, q=q, k=k, v=v, causal=causal):
                    with torch.no_grad():
                        return sdpa(q, k, v, is_causal=causal, enable_gqa=True)

                def train(sdpa, q=q, k=k, v=v, causal=causal):
                    out = sdpa(q, k, v, is_causal=causal, enable_gqa=True)
                    return torch.autograd.grad(out, (q, k, v), out)
                kind = "causal" if causal else "full"
                for what, function in (("forward", forward), ("training", train)):
                    yield (f"{what}, {kind}, {shape}", "ms", None,
                           lambda f=function: f(F.scaled_dot_product_attention),
                           lambda f=function: f(qkv.torch.scaled_dot_product_attention))


def llama(implementation):
    torch.manual_seed(1)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**MODEL, num_key_value_heads=3, attn_implementation=implementation)).eval()


def bert(implementation):
    torch.manual_seed(1)
    config = hf.BertConfig(**{**MODEL, "num_attention_heads": 9}, attention_probs_dropout_prob=0.0,
                           hidden_dropout_prob=0.0)
    config._attn_implementation = implementation
    return hf.BertForMaskedLM(config).eval()


def model_cases(lengths):
    qkv.transformers.register()
    for name, build in (("Llama", llama), ("BERT", bert)):
        models = build("sdpa"), build("qkv")
        for n in lengths:
            ids = torch.randint(4096, (1, n))

            def prefill(model, ids=ids):
                with torch.no_grad():
                    model.base_model(ids)

            def step(model, ids=ids):
                model(ids, labels=ids).loss.backward()
                model.zero_grad()
            yield f"{name} prefill, S {n}", "tokens/s", n, *((lambda m=m, f=prefill: f(m)) for m in models)
            yield f"{name} training step, S {n}", "steps/s", 1, *((lambda m=m, f=step: f(m)) for m in models)
        if name == "Llama":
            for depth in (16, lengths[-1]):
                ids = torch.randint(4096, (1, depth))

                def generate(model, tokens, ids=ids):
                    model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
                for tokens in (1, 33):
                    yield (f"{name} prefill of {depth} and {tokens} new", "calls/s", 1,
                           *((lambda m=m, f=generate, t=tokens: f(m, t)) for m in models))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, help="5, or 3 with --quick")
    parser.add_argument("--quick", action="store_true", help="shorter sequences, three rounds")
    parser.add_argument("--only", default="", help="cases whose name holds this word")
    given = parser.parse_args()
    rounds = given.rounds or (3 if given.quick else 5)
    info = qkv.info()
    print(f"qkv {info['version']} ({info['isa']}), PyTorch {torch.__version__}, Transformers {hf.__version__}, "
          f"{info['cpu']}; medians of {rounds} rounds in turns")
    print("| | threads | unit | sdpa | qkv | ratio |\n|---|---|---|---|---|---|")
    for threads in map(int, given.threads.split(",")):
        torch.set_num_threads(threads)
        cases = [attention_cases((128, 512, 1024) if given.quick else (128, 512, 1024, 2048, 4096)),
                 model_cases((256, 1024) if given.quick else (256, 1024, 2048))]
        for name, unit, work, theirs, ours in (case for group in cases for case in group):
            if given.only not in name:
                continue
            a, b, ratio = in_turns(theirs, ours, rounds, 0.02 if given.quick else 0.1)
            shown = [x * 1e3 if work is None else work / x for x in (a, b)]
            print(f"| {name} | {threads} | {unit} | {shown[0]:.4g} | {shown[1]:.4g} | {ratio:.2f} |", flush=True)


main()
