"""Draws bench/results/NAME-peers.svg (each case next to the other libraries) and NAME-roofline.svg from a result file.

    python3 bench/plot.py RESULT.json [FOLDER]

SPDX-License-Identifier: MIT
"""
import math
import pathlib
import re
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

import report  # noqa: E402

# Colour-blind safe (Okabe and Ito), and a shape each.
STYLE = {"OpenBLAS": ("#999999", "s"), "oneDNN": ("#000000", "x"), "PyTorch": ("#D55E00", "o"),
         "ONNX Runtime": ("#009E73", "^"), "OpenVINO": ("#CC79A7", "D"), "plain loops": ("#E69F00", "P")}
OTHER_STYLE = ("#555555", "v")
OURS, OURS_EDGE = "#9CC9E8", "#0072B2"
NAMES = {"openblas": "OpenBLAS", "onednn": "oneDNN", "pytorch": "PyTorch", "openvino": "OpenVINO",
         "loops": "plain loops"}
plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "qkv", "font.family": "sans-serif",
                     "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"], "font.size": 9,
                     "axes.spines.top": False, "axes.spines.right": False})


def library(name):
    return NAMES.get(name, "ONNX Runtime" if name.startswith("onnxruntime") else name)


def share(row, of_reading):
    value = row.read_share if of_reading else row.peak_share
    return None if value is None else 100 * value


def ours(results, operations, cold):
    best = results.sets[0]
    return [r for r in results.rows if r.name == best and r.threads == 1 and r.operation in operations
            and bool(r.bytes) == cold and not r.case.endswith("-huge")]


def others(results, row, of_reading):
    """library → its best share"""
    found = {}
    for other in results.rows:
        if (other.operation, other.case, other.threads) != (row.operation, row.case, row.threads):
            continue
        if other.name in report.SETS:
            continue
        value = share(other, of_reading)
        found[library(other.name)] = max(value, found.get(library(other.name), 0))
    return found


def panel(axes, results, rows, title, limit, of_reading):
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    top = 100
    for y, row in enumerate(rows):
        value = share(row, of_reading)
        axes.barh(y, value, height=0.72, color=OURS, edgecolor=OURS_EDGE, linewidth=0.8, zorder=2)
        for name, other in others(results, row, of_reading).items():
            colour, marker = STYLE.get(name, OTHER_STYLE)
            edge = {"markeredgecolor": colour, "markeredgewidth": 1.4} if marker == "x" else \
                {"markeredgecolor": "white", "markeredgewidth": 0.5}
            axes.plot(other, y, marker, color=colour, markersize=5, zorder=3, **edge)
            top = max(top, other)
        top = max(top, value)
    for y, row in enumerate(rows):
        axes.text(top + 3, y, f"{share(row, of_reading):.0f}", va="center", ha="left", color=OURS_EDGE, fontsize=8.5)
    axes.set_yticks(range(len(rows)), [(f"{row.operation} " if row.operation in ("layer", "backward") else "") + row.case
                                          for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, top + 3)
    axes.set_xlabel(limit)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7, zorder=0)
    axes.axvline(100, color="#555555", linewidth=0.8, linestyle=":")


def draw_peers(results, path):
    panels = [("Attention, prefill", "% of FMA peak", ours(results, ("attention", "backward"), False), False),
              ("Projections and layers", "% of FMA peak", ours(results, ("projection", "layer"), False), False),
              ("Decode, cold cache", "% of read bandwidth", ours(results, ("decode",), True), True),
              ("Projections, cold weights", "% of read bandwidth", ours(results, ("projection",), True), True)]
    rows = [max(len(panels[i][2]), len(panels[i + 1][2]), 1) for i in (0, 2)]
    figure, grid = plt.subplots(2, 2, figsize=(9.6, 2.0 + 0.2 * sum(rows)), layout="constrained",
                                gridspec_kw={"height_ratios": [rows[0] + 2, rows[1] + 2]})
    for axes, (title, limit, cases, of_reading) in zip(grid.flat, panels):
        if cases:
            panel(axes, results, cases, title, limit, of_reading)
        else:
            axes.set_axis_off()
    seen = {library(r.name) for r in results.rows if r.name not in report.SETS}
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=OURS, edgecolor=OURS_EDGE, label=f"qkv ({results.sets[0]})")]
    for name in [n for n in STYLE if n in seen] + sorted(seen - STYLE.keys()): # every mark that is drawn
        colour, marker = STYLE.get(name, OTHER_STYLE)
        handles.append(plt.Line2D([], [], color=colour, marker=marker, linestyle="", label=name))
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False,
                           title=f"{results.machine['cpu']}, one core, f32: share of what the machine can do")
    legend.get_title().set_fontsize(11)
    save(figure, path)


def draw_roofline(results, path):
    figure, axes = plt.subplots(figsize=(8.4, 5.2), layout="constrained")
    machine = {k: float(v) for k, v in results.machine.items() if k.startswith(("peak_", "read_")) and k.endswith("_1t")}
    peak = machine[f"peak_{results.sets[0]}_1t"]
    low, high = 0.25, 2048
    roofs = [(f"{results.sets[0]} FMA", peak, OURS_EDGE, "-")]
    roofs += [(name, machine[f"peak_{name}_1t"], "#888888", "--") for name in ("bf16", "int8")
              if f"peak_{name}_1t" in machine]
    slope, huge = machine["read_4k_1t"], machine.get("read_huge_1t")
    for name, roof, colour, line in roofs:
        axes.plot([roof / slope, high], [roof, roof], color=colour, linestyle=line, linewidth=1.4)
        axes.text(high, roof * 1.06, f"{name} {roof:.0f} {'GOP/s' if name == 'int8' else 'GFLOP/s'}", ha="right",
                  va="bottom", color=colour, fontsize=8.5)
    ridge = max(roof for _, roof, _, _ in roofs) / slope
    axes.plot([low, ridge], [low * slope, ridge * slope], color=OURS_EDGE, linewidth=1.4)
    if huge:
        axes.plot([low, ridge], [low * huge, ridge * huge], color="#888888", linewidth=1, linestyle="--")
    kinds = [("attention", "prefill", "#0072B2", "o"), ("backward", "backward", "#E69F00", "v"), ("decode", "decode", "#D55E00", "^"),
             ("projection", "projection", "#009E73", "s"), ("layer", "layer", "#CC79A7", "D")]
    for operation, label, colour, marker in kinds:
        rows = [r for r in results.rows if r.operation == operation and r.threads == 1 and r.name == results.sets[0]
                and not r.case.endswith("-huge")]
        if not rows:
            continue
        axes.plot([r.flops / r.operands for r in rows], [r.gflops for r in rows], marker, color=colour, label=label,
                  markersize=5.5, markeredgecolor="white", markeredgewidth=0.6, linestyle="")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.set_xlim(low, high)
    axes.set_ylim(low * slope / 2, 2 * max(roof for _, roof, _, _ in roofs))
    axes.set_xlabel("flops per byte of operands and result")
    axes.set_ylabel("GFLOP/s")
    axes.grid(color="#e5e5e5", linewidth=0.7, zorder=0)
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(f"{results.machine['cpu']}, one core, {results.sets[0]}, f32", fontsize=11)
    steepest = max(slope, huge or 0)
    label = axes.text(low * 1.2, low * 1.2 * steepest * 1.2,
                      f"memory: {slope:.0f} GB/s on 4 KiB pages" + (f", {huge:.0f} on huge ones" if huge else ""),
                      rotation_mode="anchor", color=OURS_EDGE, fontsize=8.5)
    figure.canvas.draw()  # the layout, and with it the slope of the roof on paper
    (x0, y0), (x1, y1) = axes.transData.transform([(low, low * steepest), (4 * low, 4 * low * steepest)])
    label.set_rotation(math.degrees(math.atan2(y1 - y0, x1 - x0)))
    for operation, case, text, offset in (("attention", "tiny-32", "tiny-32", (7, -3)),
                                          ("decode", "llama8b-32k", "decode llama8b-32k", (7, -3)),
                                          ("projection", "llama8b-m1", "llama8b-m1", (7, -3)),
                                          ("attention", "dense-d128-2048", "dense-d128-2048", (2, -12)),
                                          ("projection", "bert-m4", "bert-m4, weights in cache", (-6, 3))):
        row = results.index.get((operation, case, 1, results.sets[0]))
        if row is not None:
            axes.annotate(text, (row.flops / row.operands, row.gflops), xytext=offset, textcoords="offset points",
                          ha="right" if offset[0] < 0 else "left", fontsize=8, color="#444444")
    save(figure, path)


def save(figure, path):
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    path.write_text(re.sub(r"(\d\.\d\d)\d+", r"\1", path.read_text()))  # hundredths of a point are enough
    print(path)


def main(arguments):
    source = pathlib.Path(arguments[0])
    folder = pathlib.Path(arguments[1]) if len(arguments) > 1 else source.parent
    results = report.load([source])
    draw_peers(results, folder / f"{source.stem}-peers.svg")
    draw_roofline(results, folder / f"{source.stem}-roofline.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
