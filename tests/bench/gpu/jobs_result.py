# SPDX-License-Identifier: MIT
"""What jobs.py makes of its runs: what a run left behind, where its time went, tables, verdicts."""

import json
import math
import re
import statistics
import sys

from files_result import RunFailure, median

AIMS = "wanted of an H200: must 10 s, strong 7.5 s, stretch 6 s"
RATIOS = (("trainer", 8.0), ("the fastest peer", 3.0))
NOISE = 2.0  # standard deviations of one run within which a mean counts as equal


def relative(value, reference):
    return abs(value - reference) / abs(reference) if math.isfinite(value) else math.inf


# --- One run --------------------------------------------------------------------------------------


def collect(out, epochs):
    """{epochs, test, checkpoint_bytes}: what metrics.jsonl, report.json and checkpoints/ of a run
    hold; RunFailure if the job was not done."""
    try:
        text = (out / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        part = json.loads((out / "report.json").read_text(encoding="utf-8"))["parts"][0]
    except (OSError, ValueError, LookupError) as error:
        raise RunFailure(f"no metrics or no report: {error}") from None
    names = "train_loss", "validation_loss", "validation_uar", "validation_accuracy", "seconds"
    found = [{name: line[name] for name in names} for line in lines if line["kind"] == "epoch"]
    if len(found) != epochs:
        raise RunFailure(f"{len(found)} epochs in metrics.jsonl, not {epochs}")
    bad = [n for n, epoch in enumerate(found, 1) if not all(map(is_number, epoch.values()))]
    if bad:
        raise RunFailure(f"epoch {bad[0]}: not a number among {found[bad[0] - 1]}")
    models = [path for path in (out / "best.safetensors", out / "best" / "model.safetensors")
              if path.exists()]  # fmt: skip
    if not models:
        raise RunFailure("there is no best model")
    kept = [path for path in (out / "checkpoints").rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in kept if not path.name.startswith("best-")]
    if not sizes:
        raise RunFailure("there is no checkpoint")
    return {
        "epochs": found,
        "test": {name: part[name] for name in ("nll", "uar", "accuracy")},
        "model_bytes": models[0].stat().st_size,
        "checkpoint_bytes": sum(sizes),
    }


def is_number(value):
    return value is not None and math.isfinite(value)


def stages(lines, seconds, epochs):
    """
    Seconds by what is told on standard error, [when, line]: a stage that is not told is part of the
    next. Of the epochs behind the first, training and the rest apart.
    """
    data = [when for when, line in lines if re.match(r"Data: \d+ clips", line)]
    ends = [when for when, line in lines if re.search(r"\bepoch \d+/\d+: loss", line)]
    result, before = {}, 0.0
    if data:
        result["start, reading"] = before = data[0]
    if ends:
        result["first epoch"] = ends[0] - before
        training = sum(epoch["seconds"] for epoch in epochs[1:])
        result["training"] = training
        result["validation, saving"] = ends[-1] - ends[0] - training
        before = ends[-1]
    result["end"] = seconds - before
    return result


# --- Tables ---------------------------------------------------------------------------------------


def entries_of(result):
    return {name: entry for name, entry in result["measures"].items() if entry["runs"]}


def job_rows(result):
    entries = entries_of(result)
    ours = median(entries["libser"], "seconds") if "libser" in entries else math.nan
    rows = [
        f"{'':18s} {'runs':>4s} {'min s':>8s} {'median':>8s} {'x libser':>8s} {'CPU s':>8s} "
        f"{'peak MB':>8s} {'device MB':>9s}"
    ]
    for name, entry in entries.items():
        runs, seconds = entry["runs"], median(entry, "seconds")
        cpu = median(entry, "user_seconds") + median(entry, "system_seconds")
        device = [run["device_peak_bytes"] for run in runs if "device_peak_bytes" in run]
        rows.append(
            f"{name:18s} {len(runs):4d} {min(run['seconds'] for run in runs):8.2f} {seconds:8.2f} "
            f"{seconds / ours:8.2f} {cpu:8.2f} "
            f"{max(run['peak_bytes'] for run in runs) / 1e6:8.0f} "
            f"{format(max(device) / 1e6, '.0f') if device else '-':>9s}"
        )
    return rows


def stage_rows(result):
    names = "start, reading", "first epoch", "training", "validation, saving", "end"
    rows = [f"{'median s':18s} " + " ".join(f"{name:>18s}" for name in names)]
    for name, entry in entries_of(result).items():
        told = [run["stages"] for run in entry["runs"]]
        values = [statistics.median(stage.get(part, 0.0) for stage in told) for part in names]
        rows.append(f"{name:18s} " + " ".join(f"{value:18.2f}" for value in values))
    return rows


def spread(values):
    """Mean and standard deviation of a run; the latter is None of one run."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def finals(entry, key):
    """What the last epoch of every run had."""
    return [run["epochs"][-1][key] for run in entry["runs"]]


def with_spread(values, scale, digits):
    mean, deviation = spread([scale * value for value in values])
    text = "?" if deviation is None else format(deviation, f".{digits}f")
    return f"{mean:.{digits}f} +- {text}"


def loss_rows(result):
    rows = [
        f"{'after the last epoch':20s} {'training loss':>18s} {'validation loss':>18s} "
        f"{'UAR %':>14s} {'accuracy %':>14s} {'test UAR %':>14s} {'first weights':>13s}"
    ]
    for name, entry in entries_of(result).items():
        first = entry.get("first_validation_loss")
        rows.append(
            f"{name:20s} {with_spread(finals(entry, 'train_loss'), 1, 4):>18s} "
            f"{with_spread(finals(entry, 'validation_loss'), 1, 4):>18s} "
            f"{with_spread(finals(entry, 'validation_uar'), 100, 1):>14s} "
            f"{with_spread(finals(entry, 'validation_accuracy'), 100, 1):>14s} "
            f"{with_spread([run['test']['uar'] for run in entry['runs']], 100, 1):>14s} "
            f"{'-' if first is None else format(first, '.6f'):>13s}"
        )
    return rows


def verdicts(result):
    """Lines that say whether libser learns as PyTorch does in f32, and how the aims are met."""
    entries, lines = entries_of(result), []
    reference = entries.get("loop-f32")
    for name in ("libser", "libser-f32"):
        if name in entries and reference is not None:
            for key in ("train_loss", "validation_loss", "validation_uar"):
                verdict = judge(finals(entries[name], key), finals(reference, key))
                lines.append(f"{name}, {key}: {verdict}")
    if "libser" not in entries:
        return lines
    ours = median(entries["libser"], "seconds")
    if result["setting"]["device"] != "cpu":
        lines.append(f"libser: {ours:.2f} s; {AIMS}")
    peers = {n: median(e, "seconds") for n, e in entries.items() if is_tuned_peer(n)}
    fastest = min(peers, key=peers.get, default=None)
    for (what, wanted), name in zip(RATIOS, ("trainer", fastest)):
        if name in entries:
            ratio = median(entries[name], "seconds") / ours
            lines.append(f"{what} ({name}) takes {ratio:.2f} times libser's; wanted {wanted:g}")
    return lines


def is_tuned_peer(name):
    return name.startswith(("trainer-", "loop")) and not name.endswith("-f32")


def judge(values, reference):
    """Whether the means of two lists lie within the seed noise, the deviation of single runs."""
    (mean, own), (center, other) = spread(values), spread(reference)
    if own is None or other is None:
        return "not judged, which takes two runs of both"
    deviation = math.sqrt((own * own + other * other) / 2.0)
    within = abs(mean - center) <= NOISE * deviation
    return (
        f"{mean:.4f}, loop-f32 has {center:.4f}: {'within' if within else 'OUTSIDE'} {NOISE:g} "
        f"standard deviations of a run, {deviation:.4f}"
    )


def print_result(result):
    setting = result["setting"]
    clips = setting["clips"]
    print(
        f"{setting['card'] or setting['cpu']}, {setting['cores']} cores, {setting['libser']}: "
        f"{setting['epochs']} epochs of {clips['train']} clips, batches of {setting['batch_size']} "
        f"({setting['steps']} steps); {clips['validation']} clips validate after each, "
        f"{clips['test']} are tested at the end; runs on {setting['file_system']}"
    )
    if entries_of(result):
        rows = job_rows(result) + stage_rows(result) + loss_rows(result) + verdicts(result)
        print("\n".join(rows))
    for name, entry in result["measures"].items():
        if entry["failure"]:
            print(f"{name}: {entry['failure']}", file=sys.stderr)
        without = [run for run in entry["runs"] if run.get("report", {}).get("graph_failure")]
        if without:
            reason = without[0]["report"]["graph_failure"]
            print(f"{name}: {len(without)} runs without CUDA graphs: {reason}", file=sys.stderr)
