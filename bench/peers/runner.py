"""Runs one peer of the benchmark: qkv-bench starts `runner.py NAME` and speaks to it by lines (bench/peer.h).

SPDX-License-Identifier: MIT
"""
import os
import sys
import time

os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"  # 4 KiB pages, as the C++ cases have them
import numpy as np

from peer_case import Case


def load(name):
    """A peer: an object with `description`, can(case) → None or the reason why it does not do the case, and
    prepare(case) → (run(i), result()): run is one call, and result() is what the last one computed, as an array in the
    layout of the case."""
    if name == "pytorch":
        from pytorch_peer import PyTorch
        return PyTorch()
    if name.startswith("onnxruntime-"):
        from onnxruntime_peer import OnnxRuntime
        return OnnxRuntime(name.split("-")[1])
    if name == "openvino":
        from openvino_peer import OpenVINO
        return OpenVINO()
    if name == "llama.cpp":
        from ggml_peer import Ggml
        return Ggml()
    raise ValueError(f"there is no peer {name}")


def sample(run, seconds, calls):
    """Seconds of single calls, at least one, and as many as fit."""
    times, total = [], 0.0
    while not times or total < seconds:
        start = time.perf_counter()
        run(calls)
        times.append(time.perf_counter() - start)
        total += times[-1]
        calls += 1
    return times, calls


def main():
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the lines
    try:
        peer = load(sys.argv[1])
    except Exception as error:  # a missing package, an unknown CPU …
        print("no", str(error).replace("\n", " ") or type(error).__name__, file=answer, flush=True)
        return
    print("ready", peer.description, file=answer, flush=True)
    run, calls, call_seconds = None, 0, 0.0
    for line in sys.stdin:
        command, *words = line.split()
        reply = "ok"
        try:
            if command == "can":
                reason = peer.can(Case(words))
                reply = f"no {reason}" if reason else "ok"
            elif command == "prepare":
                case = Case(words)
                run, result = peer.prepare(case)
                start = time.perf_counter()
                run(0)
                call_seconds, calls = time.perf_counter() - start, 1
                np.ascontiguousarray(result(), dtype=np.float32).tofile(f"{case.folder}/out.f32")
                if call_seconds < 1:  # the first call may have compiled something
                    times, calls = sample(run, 0, calls)
                    call_seconds = times[-1]
            elif command == "sample":
                seconds = float(words[0])
                if call_seconds < seconds / 2:
                    run(calls)  # others have used the caches since
                times, calls = sample(run, seconds, calls + 1)
                reply = "times " + " ".join(f"{t:.9f}" for t in times)
            elif command == "drop":
                run = result = None
        except Exception as error:
            reply = f"no {type(error).__name__}: {error}".replace("\n", " ")
        print(reply, file=answer, flush=True)


if __name__ == "__main__":
    main()
