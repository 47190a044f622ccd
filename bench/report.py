"""The tables of one or more result files, as text or, with --publish=NAME, as bench/results/NAME.json and a section of
docs/benchmarks.md. Reads what qkv-bench wrote (Google Benchmark's JSON) and what --publish made of it.

    python3 bench/report.py [--publish=NAME] RESULT.json…

SPDX-License-Identifier: MIT
"""
import json
import pathlib
import statistics
import sys

SETS = ("avx512bf16", "avx512vnni", "avx512", "avxvnni", "avx2", "i8mm", "dotprod", "sve", "neon", "rvv", "helium",
        "relaxed", "simd128", "portable", "ref")
ROOT = pathlib.Path(__file__).resolve().parent.parent
# What a round of a row holds, in this order; the rest is the same in all rounds.
ROUND = ("time", "best", "fma_peak", "read_bandwidth", "cpu_share")
FIXED = ("flops", "operands", "bytes", "elements", "workspace", "max_error")


class Row:
    """One implementation of one case with one number of threads. Times in seconds, the rest in bytes and GFLOP/s."""

    def __init__(self, operation, case, name, threads, fixed, rounds):
        self.operation, self.case, self.name, self.threads = operation, case, name, threads
        self.fixed, self.rounds = fixed, rounds
        for key in FIXED:
            setattr(self, key, fixed.get(key))

    def column(self, key):
        return [entry[ROUND.index(key)] for entry in self.rounds]

    @property
    def median(self):
        return statistics.median(self.column("time"))

    @property
    def best(self):
        return min(self.column("best"))

    @property
    def gflops(self):
        return 1e-9 * self.flops / self.median if self.flops else None

    @property
    def gbytes(self):
        return 1e-9 * self.bytes / self.median if self.bytes else None

    @property
    def peak_share(self):
        """The median of each round's share of the peak that was measured in it."""
        if not self.flops or not all(self.column("fma_peak")):
            return None
        return statistics.median(1e-9 * self.flops / r[0] / r[2] for r in self.rounds)

    @property
    def best_peak_share(self):
        if not self.flops or not all(self.column("fma_peak")):
            return None
        return 1e-9 * self.flops / self.best / max(self.column("fma_peak"))

    @property
    def read_share(self):
        if not self.bytes or not all(self.column("read_bandwidth")):
            return None
        return statistics.median(1e-9 * self.bytes / r[0] / r[3] for r in self.rounds)

    def speed_up_over(self, other):
        """How many times faster than `other`: the median over the rounds, which ran in turns."""
        return statistics.median(b[0] / a[0] for a, b in zip(self.rounds, other.rounds))


class Results:
    def __init__(self, machine, rows):
        self.machine, self.rows = machine, rows
        self.index = {(r.operation, r.case, r.threads, r.name): r for r in rows}

    def get(self, row, name=None, threads=None):
        return self.index.get((row.operation, row.case, threads or row.threads, name or row.name))

    def peers(self, row):
        """The others that did the same, the fastest first; OpenBLAS has a column of its own."""
        others = [r for r in self.rows if (r.operation, r.case, r.threads) == (row.operation, row.case, row.threads)
                  and r.name not in SETS + ("openblas",)]
        return sorted(others, key=lambda r: r.median)

    @property
    def sets(self):
        return [name for name in SETS if any(r.name == name for r in self.rows)]


def read(path):
    data = json.loads(pathlib.Path(path).read_text())
    if "rows" in data:
        return data["machine"], [Row(*r[:4], dict(zip(FIXED, r[4])), r[5]) for r in data["rows"]]
    machine = {k: v for k, v in data["context"].items() if isinstance(v, str)
               and k not in ("executable", "host_name", "library_build_type")}
    rows = {}
    for entry in data["benchmarks"]:
        if entry["run_type"] != "iteration" or entry.get("error_occurred") or "best" not in entry:
            continue
        operation, case, name, threads = entry["name"].split("/")[:4]
        key = operation, case, name, int(threads.split(":")[1])
        row = rows.setdefault(key, Row(*key, {k: entry.get(k) for k in FIXED}, []))
        assert entry["time_unit"] == "us"
        row.rounds.append([1e-6 * entry["real_time"], entry["best"]] + [entry.get(k) for k in ROUND[2:]])
    return machine, list(rows.values())


def load(paths):
    """Several files are one run in parts: a later one replaces what it measured again."""
    machine, rows = {}, {}
    for path in paths:
        try:
            part, more = read(path)
        except json.JSONDecodeError as error:
            sys.exit(f"{path} is no complete result: {error}")
        machine = {**part, **{k: v for k, v in machine.items() if k not in part}}
        rows.update({(r.operation, r.case, r.name, r.threads): r for r in more})
    return Results(machine, list(rows.values()))


def number(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value):
    return "-" if value is None else f"{100 * value:.1f}"


def duration(seconds):
    """Three or four digits and a unit."""
    for unit, scale in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.{2 if seconds < 10 * scale else 1}f} {unit}"
    return f"{1e9 * seconds:.0f} ns"


def size(count):
    if count is None:
        return "-"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.{1 if count < 100 * scale else 0}f} {unit}"
    return f"{count:.0f} B"


def main_table(results):
    head = ["case", "set", "threads", "median", "best", "GFLOP/s", "% peak", "% (best)", "GB/s", "% read",
            "x OpenBLAS", "x best peer", "best peer", "max error", "operands", "workspace"]
    body = []
    for row in results.rows:
        if row.name not in SETS or row.operation in ("call", "kernel"):
            continue
        openblas, peers = results.get(row, "openblas"), results.peers(row)
        body.append([
            f"{row.operation} {row.case}", row.name, str(row.threads), duration(row.median), duration(row.best),
            number(row.gflops), percent(row.peak_share), percent(row.best_peak_share), number(row.gbytes),
            percent(row.read_share), number(row.speed_up_over(openblas) if openblas else None, 2),
            number(row.speed_up_over(peers[0]) if peers else None, 2), peers[0].name if peers else "-",
            f"{row.max_error:.1e}", size(row.operands), size(row.workspace)])
    return head, body


def peer_table(results):
    """GFLOP/s, or GB/s where memory is the limit, of everything on one thread."""
    others = [n for n in dict.fromkeys(r.name for r in results.rows) if n not in SETS]
    sets = [name for name in results.sets if name not in ("portable", "ref")]
    head = ["case, one thread", "unit"] + sets + others
    body = []
    for row in results.rows:
        if row.name != results.sets[0] or row.threads != 1 or row.operation in ("call", "kernel"):
            continue
        cells = [results.get(row, name) for name in sets + others]
        unit = "gbytes" if row.bytes else "gflops"
        body.append([f"{row.operation} {row.case}", "GB/s" if row.bytes else "GFLOP/s"] +
                    [number(getattr(cell, unit)) if cell else "-" for cell in cells])
    return head, body


def scaling_table(results):
    head = ["case", "set", "threads", "one", "all", "speed-up", "of the best", "OpenBLAS", "best peer"]
    body = []
    for row in results.rows:
        one = results.get(row, threads=1)
        if row.name not in SETS or row.threads == 1 or one is None:
            continue

        def gain(name):
            single, many = results.get(row, name, 1), results.get(row, name)
            return number(single.median / many.median, 2) if single and many else "-"
        peers = results.peers(row)
        body.append([f"{row.operation} {row.case}", row.name, str(row.threads), duration(one.median),
                     duration(row.median), number(one.median / row.median, 2), number(one.best / row.best, 2), gain("openblas"),
                     gain(peers[0].name) if peers else "-"])
    return head, body


def cost_table(results):
    head = ["what", "set", "median", "best", "cycles per element"]
    body = []
    clock = 1e6 * float(results.machine.get("clock_mhz", "nan"))
    for row in results.rows:
        if row.operation not in ("call", "kernel") or row.name not in SETS:
            continue
        cycles = row.median * clock / row.elements if row.elements else None
        body.append([f"{row.operation} {row.case}", row.name, duration(row.median), duration(row.best),
                     number(cycles, 3)])
        scale = results.index.get(("kernel", "scale", 1, row.name))
        if row.case == "exp2-scale" and scale:
            difference = row.median - scale.median
            body.append(["kernel exp2 (the difference)", row.name, duration(difference), "-",
                         number(difference * clock / row.elements, 3)])
    return head, body


def notes(results):
    share = [s for r in results.rows if r.threads == 1 for s in r.column("cpu_share") if s]
    lost = 1 - statistics.mean(share) if share else 0
    lines = ["Times are medians and bests of the calls. A share is the median over the rounds, each compared with the "
             "peak or bandwidth measured in it; \"% (best)\" is the fastest call as a share of the highest peak.",
             "\"x\" means: so many times as fast; all implementations of a case ran in turns. Causal cases count visible "
             "pairs only. \"max error\" is the largest difference from a computation in double on sampled rows; the "
             "kernel sets also equal the reference bit for bit.",
             "GB/s counts every byte of K and V, or of the weights, once. Those operands rotate through memory larger "
             "than the last-level cache, on 4 KiB pages; \"-huge\" cases have huge pages, and are compared with the "
             "bandwidth on huge pages."]
    if lost > 0.02:
        lines.append(f"NOTE: other programs had this core for {100 * lost:.0f} % of the time. Medians suffer from that; "
                     "use a quiet machine.")
    return lines


def as_text(head, body):
    widths = [max(len(r[i]) for r in [head] + body) for i in range(len(head))]
    left = {i for i, title in enumerate(head) if title in ("case", "set", "best peer", "what", "case, one thread", "unit")}

    def line(cells):
        return "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))).rstrip()
    return "\n".join([line(head)] + [line(r) for r in body])


def as_markdown(head, body):
    left = ("case", "set", "best peer", "what", "case, one thread", "unit")
    rule = ["---" if title in left else "---:" for title in head]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule] + body)


TABLES = (("Every case", main_table), ("Threads", scaling_table), ("Everything beside each other", peer_table),
          ("Calls and kernels", cost_table))


def write_compact(results, path):
    keys = list(results.machine)
    lines = [json.dumps([r.operation, r.case, r.name, r.threads, [r.fixed.get(k) for k in FIXED],
                         [[float(f"{x:.6g}") if x else x for x in entry] for entry in r.rounds]]) for r in results.rows]
    machine = json.dumps({k: results.machine[k] for k in keys}, indent=1, ensure_ascii=False)
    columns = json.dumps(["operation", "case", "implementation", "threads", list(FIXED), [list(ROUND)]])
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{"machine": {machine},\n"columns": {columns},\n"rows": [\n' + ",\n".join(lines) + "\n]}\n")


def label(key):
    """peak_avx512_1t → FMA peak avx512, 1 thread (GFLOP/s)"""
    kind, _, rest = key.partition("_")
    name, _, threads = rest.rpartition("_")
    if kind not in ("peak", "read") or not threads.endswith("t"):
        return {"clock_mhz": "clock (MHz)", "caches": "caches of a core", "sample_seconds": "seconds of a sample"}.get(
            key, key.replace("_", " "))
    what = f"FMA peak {name}" if kind == "peak" else f"read bandwidth, {name.replace('4k', '4 KiB')} pages"
    unit = "GB/s" if kind == "read" else "GOP/s" if name == "int8" else "GFLOP/s"
    return f"{what}, {threads[:-1]} thread{'s' if threads != '1t' else ''} ({unit})"


def write_docs(results, name):
    """Replaces the section of this CPU in docs/benchmarks.md, or adds one."""
    path = ROOT / "docs" / "benchmarks.md"
    text = path.read_text()
    begin, end = f"<!-- results of {name}: made by scripts/bench.sh publish -->", f"<!-- end of {name} -->"
    machine = results.machine
    section = [begin, f"## {machine['cpu']} ({name})", "", "| | |", "|---|---|"]
    first = ("cpu", "cpu_model", "cores", "caches", "clock_mhz", "peak", "read", "qkv", "openblas", "onednn", "pytorch",
             "onnxruntime", "openvino", "llama.cpp")

    def place(key):
        return next((i for i, start in enumerate(first) if key == start or key.startswith((f"{start}_", f"{start}-"))),
                    len(first))
    section += [f"| {label(key)} | {machine[key]} |" for key in sorted(machine, key=place)]
    section += ["", f"![Share of the machine's limits, next to other libraries](../bench/results/{name}-peers.svg)", "",
                f"![Roofline](../bench/results/{name}-roofline.svg)", ""]
    for title, table in TABLES:
        head, body = table(results)
        if body:
            section += [f"### {title}", "", as_markdown(head, body), ""]
        if table is main_table:
            section += ["\n\n".join(notes(results)), ""]
    section.append(end)
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    path.write_text(before.rstrip("\n") + "\n\n" + "\n".join(section) + after)


def main(arguments):
    publish = [a.split("=", 1)[1] for a in arguments if a.startswith("--publish=")]
    results = load([a for a in arguments if not a.startswith("--")])
    if not results.rows:
        print("no results")
        return
    if publish:
        write_compact(results, ROOT / "bench" / "results" / f"{publish[0]}.json")
        write_docs(results, publish[0])
        return
    for title, table in TABLES[1:]:
        head, body = table(results)
        if body:
            print(f"\n{title}\n" + as_text(head, body))
    print("\n" + as_text(*main_table(results)) + "\n\n" + "\n".join(notes(results)))


if __name__ == "__main__":
    main(sys.argv[1:])
