# SPDX-License-Identifier: MIT
"""What training.py prints, from the dictionary that it writes.

    python3 training_table.py RESULTS.json        print the tables of every run in the file again
"""

import math
from collections import namedtuple

import table
from table import (
    BEST,
    COMPILED,
    OURS,
    USUAL,
    columns,
    device_seconds,
    host_seconds,
    level,
    number,
    percent,
    times,
)

# Wanted of an H200 with wav2vec2-base on 5 s clips, and at least so many times as fast as PyTorch
# (of memory: at most so much of it). `other`: the best of those with convolutions in their steps.
# The shares of the peak are what the times wanted of that step are of 790 TFLOP/s.
Target = namedtuple("Target", "name batch cached measure unit floor must strong stretch usual best "
                    "other", defaults=(False,))
TARGETS = (
    Target("step, B=32, cached", 32, True, "host", "ms", 6.31, 12.5, 10.5, 9.2, 4.0, 1.5),
    Target("the same, peers without a cache", 32, True, "host", "ms", 6.31, 12.5, 10.5, 9.2, 4.0,
           1.8, True),
    Target("step, B=32, CNN in it", 32, False, "host", "ms", 7.31, 14.5, 12.2, 10.7, 4.0, 1.7),
    Target("step, B=8, cached", 8, True, "host", "ms", 2.02, 4.5, 3.6, 3.0, 6.0, 2.0),
    Target("clip and AdamW", 32, True, "update", "ms", 0.587, 0.75, 0.68, 0.65, 2.0, 1.15),
    Target("memory, B=32, cached", 32, True, "memory", "GB", 3.4, 5.0, 4.2, 3.6, 0.4, 0.6),
    Target("of peak, B=32, cached", 32, True, "share", "%", 100.0, 46.0, 55.0, 62.0, None, None),
)
UPDATE_OPS = ("adamw", "sum_squares")


# --- Numbers --------------------------------------------------------------------------------------


def title(size):
    place = "features cached" if size["cached"] else "CNN in the step"
    return f"{size['precision']}, B={size['batch']}, {place}"


def p90(values):
    """The smallest value that 90 % of all do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(0.9 * len(values)) - 1]


def update_seconds(worker):
    """Norm, clipping and AdamW on the device; of libser the kernels' sum in the trace."""
    if worker.get("update"):
        return table.median(worker["update"])
    ops = worker.get("ops") or {}
    found = [ops[name] for name in UPDATE_OPS if name in ops]
    return sum(found) * 1e-6 if len(found) == len(UPDATE_OPS) else None


def share(run, size, worker):
    """FLOP of a step / its time on the host's clock / the probed peak."""
    tflops, _ = table.probed(size)
    if not tflops or not host_seconds(worker) or not run["flop"]:
        return None
    flop = run["flop"]["cached" if size["cached"] else "step"] * size["batch"]
    return flop / host_seconds(worker) * 1e-12 / tflops


MEASURES = {
    "host": lambda run, size, worker: host_seconds(worker),
    "update": lambda run, size, worker: update_seconds(worker),
    "memory": lambda run, size, worker: worker.get("memory"),
    "share": share,
}
SCALES = {"host": 1e3, "update": 1e3, "memory": 1e-9, "share": 100.0}


def find_size(run, precision, batch, cached):
    for size in run["sizes"]:
        if (size["precision"], size["batch"], size["cached"]) == (precision, batch, cached):
            return size
    return None


def measure(run, target, name, cached):
    """The target's number of a worker, in bf16; None if unmeasured."""
    size = find_size(run, "bf16", target.batch, cached)
    worker = size and size["workers"].get(name)
    return worker and MEASURES[target.measure](run, size, worker)


def ratio(run, target, name):
    """Theirs over libser's; of memory the other way round. Within one run."""
    ours = measure(run, target, OURS, target.cached)
    theirs = measure(run, target, name, target.cached and not (target.other and name in BEST))
    if not ours or not theirs:
        return None
    return ours / theirs if target.measure == "memory" else theirs / ours


def reached(target, value):
    """The highest of must, strong, stretch."""
    if target.unit == "%":  # more is better
        return next((name for name in table.LEVELS if value >= getattr(target, name)), "-")
    return level(target, value)


# --- Text -----------------------------------------------------------------------------------------


def size_lines(run, size):
    """All workers at one precision and batch."""
    tflops, bandwidth = table.probed(size)
    rows = [["", "median ms", "min ms", "p90 ms", "device ms", "clips/s", "of peak", "x libser",
             "x device", "update ms", "memory MB", "peak MB", "losses", "norms", "n"]]
    for name, worker in size["workers"].items():
        host, device, error = host_seconds(worker), device_seconds(worker), worker.get("error", {})
        if not host:
            continue
        update = update_seconds(worker)
        rows.append([
            name, number(host * 1e3), number(min(worker["host"]) * 1e3),
            number(p90(worker["host"]) * 1e3), number(device and device * 1e3),
            number(size["batch"] / host, 4), percent(share(run, size, worker)),
            times(table.ratio(size, name, host_seconds)),
            times(table.ratio(size, name, device_seconds)), number(update and update * 1e3),
            *(number(worker.get(key) and worker[key] / 1e6) for key in ("memory", "memory_peak")),
            *(f"{error[key]:.1e}" if key in error else "-" for key in ("losses", "norms")),
            str(len(worker["host"])),
        ])
    head = title(size)
    if tflops:
        head += f"; probe {number(tflops)} TFLOP/s ({size['probe']['type']}), "
        head += f"{number(bandwidth)} TB/s"
    if size.get("floors"):
        head += f", floor {number(sum(size['floors'].values()) * 1e3)} ms"
    if not size.get("complete"):
        head += "; stopped early"
    return [head, *columns(rows), ""]


def error_lines(run):
    """libser's error over that of PyTorch's autocast, both against float64; the repeats."""
    rows = [["losses of the first steps", "autocast", "libser", "over it", "repeated"]]
    for size in run["sizes"]:
        ours = size["workers"].get(f"libser-{size['precision']}", {})
        if not ours.get("error") or not size.get("plain"):
            continue
        plain = size["plain"]["losses"] if size["precision"] == "bf16" else None
        error, same = ours["error"]["losses"], ours["same"] and ours["same_noisy"]
        rows.append([title(size), f"{plain:.1e}" if plain else "-", f"{error:.1e}",
                     f"{error / plain:.2g}" if plain else "-",
                     "the same bits" if same else "OTHER BITS"])
    return [*columns(rows), ""] if len(rows) > 1 else []


def lines(run):
    """The report of one run, but for the targets."""
    return table.lines(run, size_lines, error_lines)


def target_row(runs, target):
    found = table.latest((0, measure(run, target, OURS, target.cached)) for run in runs)
    value = found[0] * SCALES[target.measure] if found else None
    ratios = table.latest((name, ratio(run, target, name)) for run in runs
                          for name in (USUAL, *BEST))
    usual = ratios.pop(USUAL, None)
    # the strongest peer: the one that libser is the least ahead of
    strongest = max if target.measure == "memory" else min
    best = strongest(ratios, key=ratios.get, default=None)
    sign = "<=" if target.measure == "memory" else ">="
    return [
        target.name, number(value), target.unit, reached(target, value) if value else "-",
        *(number(getattr(target, bar)) for bar in ("floor", "must", "strong", "stretch")),
        times(usual), wanted(sign, target.usual), times(ratios.get(best)),
        wanted(sign, target.best), best or "-",
    ]


def wanted(sign, bar):
    return "-" if bar is None else f"{sign}{bar:g}x"


def target_lines(runs):
    """The rows of wanted numbers from comparable runs, ratios within one; where several have
    measured the same, from the last."""
    if not runs[-1]["standard"]:
        return ["no targets: they are for wav2vec2-base and clips of 5 s"]
    head = ["bf16", "measured", "", "reached", "floor", "must", "strong", "stretch", f"x {USUAL}",
            "wanted", "x best", "wanted", "best"]
    heading = f"targets, from {len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    if "H200" not in runs[-1]["card"]:
        heading += f" (set for an H200; this is {runs[-1]['card']})"
    return [heading, *columns([head, *(target_row(runs, target) for target in TARGETS)]),
            *first_step_lines(runs)]


def first_step_lines(runs):
    """Seconds from creating the process to its first finished step, the shortest start."""
    found = {name: table.start_seconds(runs, name) for name in (OURS, USUAL, *COMPILED, "graph")}
    text = ", ".join(f"{name} {number(seconds)} s" for name, seconds in found.items() if seconds)
    return [f"to the first finished step: {text}"] if text else []


if __name__ == "__main__":
    table.main(lines, target_lines)
