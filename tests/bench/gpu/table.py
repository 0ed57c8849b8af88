# SPDX-License-Identifier: MIT
"""What bench.py prints, from the dictionary that it writes: medians, ratios, targets, shares.

    python3 table.py RESULTS.json        print the tables of every run in the file again
"""

import json
import math
import pathlib
import statistics
import sys
from collections import namedtuple

# Who is who in the targets: the first is what users run, the others are the best of PyTorch.
USUAL = "eager"
BEST = ("tuned", "tuned-b", "compiled", "compiled-b", "graph", "graph-b")
COMPILED = ("compiled", "compiled-b")
OURS = "libser-bf16"

# Wanted of an H200 with wav2vec2-base on 5 s clips, and at least so many times as fast as PyTorch.
# `ops`: what the names of the ops begin with that the row is the sum of; `per` divides it; `parts`:
# the parts of network.py that a graph peer computes instead.
Target = namedtuple("Target", "name batch unit floor must strong stretch usual best ops per parts",
                    defaults=((), 1, ()))
TARGETS = (
    Target("B=1", 1, "ms", 0.091, 0.50, 0.35, 0.22, 12.0, 2.5),
    Target("B=8", 8, "ms", 0.73, 1.6, 1.25, 1.05, 6.0, 2.0),
    Target("B=64", 64, "clips/s", 11020.0, 5500.0, 6900.0, 7700.0, 4.0, 1.7),
    Target("convolutions, B=64", 64, "ms", 2.24, 3.3, 2.8, 2.5, None, 2.0,
           ("wave_conv", "conv "), 1, ("front", "convolutions")),
    Target("pos_conv, B=32", 32, "ms", 0.095, 0.25, 0.17, 0.13, None, 1.5,
           ("pos_conv",), 1, ("position",)),
    Target("attention, a layer, B=32", 32, "us", 8.0, 25.0, 16.0, 13.0, None, None,
           ("attention",), 12),
)
START = Target("start to first result", None, "s", None, 1.5, 0.8, 0.4, 8.0, 50.0)
CHOICES = ("attention", "fullgraph", "freezing", "update", "cached", "max_batch", "upload")
NOT_ASKED = "not asked for"
LEVELS = ("stretch", "strong", "must")


# --- Numbers --------------------------------------------------------------------------------------


def p99(values):
    """The smallest value that 99 % of all do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def median(values):
    return statistics.median(values) if values else None


def device_seconds(worker):
    """Median seconds on the device: the smaller of what events and a trace of activities say.

    libser has the trace alone. Python that launches slower under the profiler makes a peer's trace
    longer than its events, so the smaller one is in the peer's favour.
    """
    clocks = [median(worker.get(name)) for name in ("events", "span")]
    return min((seconds for seconds in clocks if seconds), default=None)


def host_seconds(worker):
    return median(worker.get("host"))


def ratio(size, peer, clock):
    """How many times as long the peer takes as libser at the same precision; None if unmeasured."""
    ours = size["workers"].get(f"libser-{size['precision']}")
    theirs = size["workers"].get(peer)
    if not ours or not theirs or not clock(ours) or not clock(theirs):
        return None
    return clock(theirs) / clock(ours)


def measured(size):
    """Whether libser was."""
    return bool(size["workers"].get(f"libser-{size['precision']}", {}).get("host"))


def level(target, value):
    """The highest of must, strong, stretch that `value` reaches, or "-"."""
    for name in LEVELS:
        wanted = getattr(target, name)
        if value >= wanted if target.unit == "clips/s" else value <= wanted:
            return name
    return "-"


def in_unit(target, seconds):
    if target.unit == "clips/s":
        return target.batch / seconds
    return seconds * {"s": 1.0, "ms": 1e3, "us": 1e6}[target.unit] / target.per


def find_size(run, precision, batch):
    for size in run["sizes"]:
        if size["precision"] == precision and size["batch"] == batch:
            return size
    return None


def probed(size):
    """Median TFLOP/s and TB/s of the probe beside a size; (None, None) without it."""
    probe = size.get("probe", {})
    return median(probe.get("tflops")), median(probe.get("bandwidth"))


# --- Text -----------------------------------------------------------------------------------------


def number(value, digits=3):
    """`digits` significant digits without an exponent; "-" for what was not measured."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def times(value):
    return "-" if value is None else f"{number(value)}x"


def percent(value):
    return "-" if value is None else f"{100 * value:.1f} %"


def columns(rows, left=1):
    """Lines with aligned columns; the first `left` are words."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def size_lines(run, size):
    """All workers at one precision and batch."""
    tflops, bandwidth = probed(size)
    head = ["", "median ms", "p99 ms", "device ms", "clips/s", "of peak", "x libser", "x device",
            "memory MB", "peak MB", "logits", "hidden", "n"]
    rows = [head]
    for name, worker in size["workers"].items():
        host, device = host_seconds(worker), device_seconds(worker)
        if not host:
            continue
        error = worker.get("error", {})
        flops = run["flop"] and run["flop"] * size["batch"]
        share = flops / (device or host) * 1e-12 / tflops if tflops and flops else None
        rows.append([
            name, number(host * 1e3), number(p99(worker["host"]) * 1e3),
            number(device and device * 1e3), number(size["batch"] / host, 4), percent(share),
            times(ratio(size, name, host_seconds)), times(ratio(size, name, device_seconds)),
            *(number(worker.get(key) and worker[key] / 1e6) for key in ("memory", "memory_peak")),
            "-" if error.get("logits") is None else f"{error['logits']:.1e}",
            "-" if error.get("hidden") is None else f"{error['hidden']:.1e}",
            str(len(worker["host"])),
        ])
    title = f"{size['precision']}, B={size['batch']}"
    if tflops:
        kind = size["probe"]["type"]
        title += f"; probe {number(tflops)} TFLOP/s ({kind}), {number(bandwidth)} TB/s"
    if size.get("floors"):
        title += f", floor {number(sum(size['floors'].values()) * 1e3)} ms"
    if not size.get("complete"):
        title += "; stopped early"
    return [title, *columns(rows), ""]


def measured_sizes(runs, batch):
    """Of bf16, in the order of the runs."""
    found = [find_size(run, "bf16", batch) for run in runs]
    return [size for size in found if size and measured(size)]


def chosen_lines(size):
    """What every worker chose for a batch size, and how long that took with all compiling."""
    rows = [["chosen", "prepared s", ""]]
    for name, worker in size["workers"].items():
        facts = worker.get("facts", {})
        words = [f"{part}: {way}" for part, way in facts.get("parts", {}).items()]
        words += [f"{key}: {facts[key]}" for key in CHOICES if key in facts]
        rows.append([name, number(facts.get("prepare_seconds")), "; ".join(words)])
    lines = columns([row[:2] for row in rows])
    return [f"{line}  {row[2]}".rstrip() for line, row in zip(lines, rows)] + [""]


def part_seconds(worker, parts):
    """The fastest ways of a graph peer to compute these parts, on the device."""
    seconds = (worker or {}).get("facts", {}).get("seconds", {})
    if not all(seconds.get(part) for part in parts):
        return None
    return sum(min(seconds[part].values()) for part in parts)


def row_seconds(size, target, name):
    """Seconds of one row by one worker and the clock; of libser's ops by trace."""
    worker = size["workers"].get(name) or {}
    if not target.ops:
        device = device_seconds(worker)
        return (device, "device") if device else (host_seconds(worker), "host")
    if name != OURS:
        return part_seconds(worker, target.parts) if target.parts else None, "device"
    found = [us for op, us in (worker.get("ops") or {}).items() if op.startswith(target.ops)]
    return (sum(found) * 1e-6, "trace") if found else (None, "no trace")


def row_ratio(size, target, name):
    """Of whole passes by the host's clock, of parts by the device's."""
    if not target.ops:
        return ratio(size, name, host_seconds)
    ours, theirs = row_seconds(size, target, OURS)[0], row_seconds(size, target, name)[0]
    return theirs / ours if ours and theirs else None


def latest(values):
    """Name and value of each pair that has one; of several with one name the last."""
    return {name: value for name, value in values if value is not None}


def target_row(runs, target):
    sizes = measured_sizes(runs, target.batch)
    found = [row_seconds(size, target, OURS) for size in sizes]
    default = found[-1] if found else (None, "not measured")
    seconds, clock = next((pair for pair in reversed(found) if pair[0]), default)
    value = seconds and in_unit(target, seconds)
    ratios = latest((name, row_ratio(size, target, name)) for size in sizes
                    for name in (USUAL, *BEST))
    usual = ratios.pop(USUAL, None)
    best = min(ratios, key=ratios.get, default=None)
    return [
        target.name, number(value), clock, target.unit, level(target, value) if value else "-",
        *(number(getattr(target, bar)) for bar in ("floor", "must", "strong", "stretch")),
        *wanted(usual, target.usual), *wanted(ratios.get(best), target.best), best or "-",
    ]


def wanted(value, least):
    """A ratio and what it must be at least."""
    return times(value), "-" if least is None else f">={least:g}x"


def start_seconds(runs, name):
    """The shortest of the measured starts, so with every cache of files and kernels warm."""
    return min((start["total"] for run in runs for start in run["starts"].get(name, ())),
               default=None)


def start_row(runs):
    ours, usual = start_seconds(runs, OURS), start_seconds(runs, USUAL)
    others = latest((name, start_seconds(runs, name)) for name in COMPILED)
    best = min(others, key=others.get, default=None)
    return [
        START.name, number(ours), "host", "s", level(START, ours) if ours else "-", "-",
        *(number(getattr(START, bar)) for bar in ("must", "strong", "stretch")),
        *wanted(usual / ours if usual and ours else None, START.usual),
        *wanted(others[best] / ours if best and ours else None, START.best), best or "-",
    ]


def comparable(data, run):
    """The runs of a file with this run's card, network and clips."""
    return [old for old in data["runs"]
            if all(old.get(key) == run[key] for key in ("card", "standard", "samples"))]


def target_lines(runs):
    """The rows of wanted numbers from comparable runs, ratios within one; where several have
    measured the same, from the last."""
    if not runs[-1]["standard"]:
        return ["no targets: they are for wav2vec2-base and clips of 5 s"]
    head = ["bf16", "measured", "clock", "", "reached", "floor", "must", "strong", "stretch",
            f"x {USUAL}", "wanted", "x best", "wanted", "best"]
    rows = [head, *(target_row(runs, target) for target in TARGETS), start_row(runs)]
    title = f"targets, from {len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    if "H200" not in runs[-1]["card"]:
        title += f" (set for an H200; this is {runs[-1]['card']})"
    return [title, *columns(rows)]


def op_floor(name, floor_of):
    """Seconds; a trace may know several convolutions only together, as "conv 5 and on"."""
    if not name.endswith(" and on"):
        return floor_of.get(name)
    first = name.removesuffix(" and on")
    names = [other for other in floor_of if other[:5] == first[:5] and other >= first]
    return sum(floor_of[other] for other in names) or None


def op_lines(size):
    """libser's ops against their floors at the probed peak."""
    floor_of = size.get("floors", {})
    worker = size["workers"].get(f"libser-{size['precision']}", {})
    ops = worker.get("ops")
    if not ops:
        return []
    rows = [["op", "us", "floor us", "share", "of all"]]
    total = sum(ops.values())
    for name, microseconds in sorted(ops.items(), key=lambda pair: -pair[1]):
        floor = op_floor(name, floor_of)
        share = floor * 1e6 / microseconds if floor and microseconds else None
        rows.append([name, number(microseconds), number(floor and floor * 1e6), percent(share),
                     percent(microseconds / total)])
    floor = sum(floor_of.values()) if floor_of else None
    rows.append(["together", number(total), number(floor and floor * 1e6),
                 percent(floor and floor * 1e6 / total), percent(1.0)])
    return [f"ops of libser {size['precision']}, B={size['batch']}", *columns(rows), ""]


def start_lines(run):
    rows = [["start", "total s", "import", "load", "first", "of"]]
    for name, starts in run["starts"].items():
        least = min(starts, key=lambda start: start["total"])
        rows.append([name, number(least["total"]), *(number(least[part]) for part in
                     ("import", "load", "first")), str(len(starts))])
    return [*columns(rows), ""] if len(rows) > 1 else []


def error_lines(run):
    """libser's error in bf16 over PyTorch's own."""
    rows = [["bf16 against float64", "PyTorch", "libser", "over it", "at most"]]
    for size in run["sizes"]:
        error, plain = size["workers"].get(OURS, {}).get("error"), size.get("plain_bf16")
        if not error or not plain or size["precision"] != "bf16":
            continue
        for name, limit in (("hidden", "1.1"), ("logits", "-")):
            rows.append([f"{name}, B={size['batch']}", f"{plain[name]:.1e}", f"{error[name]:.1e}",
                         f"{error[name] / plain[name]:.2f}", limit])
    return [*columns(rows), ""] if len(rows) > 1 else []


def note_lines(run):
    """What was not measured, and whatever else is to be said."""
    out = [f"not measured: {name}: {why}" for name, why in run["not_measured"].items()
           if why != NOT_ASKED]
    unasked = [name for name, why in run["not_measured"].items() if why == NOT_ASKED]
    out += [f"{NOT_ASKED}: {', '.join(unasked)}"] if unasked else []
    return out + [f"note: {note}" for note in run["notes"]]


def lines(run, size_lines=size_lines, error_lines=error_lines):
    """The report of one run, but for the targets."""
    out = [f"{run['date']}, {run['card']}, " + ", ".join(
        f"{name} {version}" for name, version in run["versions"].items()), ""]
    for size in run["sizes"]:
        out += size_lines(run, size) + chosen_lines(size) + op_lines(size)
    return out + start_lines(run) + error_lines(run) + note_lines(run)


# --- Files ----------------------------------------------------------------------------------------


def read(path):
    """The runs of a file; none if it is not there."""
    if not path.exists():
        return {"runs": []}
    data = json.loads(path.read_text())
    if not isinstance(data, dict) or not isinstance(data.get("runs"), list):
        raise ValueError(f'{path} has no list "runs": it was not written by bench.py')
    return data


def merged(data, run):
    """`data` with `run` in the place of the run of the same date, or at the end."""
    runs = [old for old in data["runs"] if old["date"] != run["date"]]
    return {"runs": [*runs, run]}


def write(path, data):
    """The old file or the new one, whatever stops us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    temporary.replace(path)


def main(lines=lines, target_lines=target_lines):
    """Print the tables of a file."""
    data = read(pathlib.Path(sys.argv[1]))
    for run in data["runs"]:
        print("\n".join([*lines(run), ""]))
    if data["runs"]:
        print("\n".join(target_lines(comparable(data, data["runs"][-1]))))


if __name__ == "__main__":
    main()
