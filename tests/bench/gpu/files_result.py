# SPDX-License-Identifier: MIT
"""What files.py makes of its runs: answers compared, results merged and written, tables."""

import datetime
import functools
import json
import math
import pathlib
import platform
import re
import statistics
import subprocess
import sys


class RunFailure(Exception):
    """A command that did not end well, or with bad answers."""


# --- Answers --------------------------------------------------------------------------------------


def read_answers(path):
    """{file: (label, {label: score}, seconds)}"""
    answers = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "error" in row:
            raise RunFailure(f"{row['file']}: {row['error']}")
        answers[row["file"]] = row["label"], row["scores"], row.get("duration")
    return answers


def compare(reference, answers, limit):
    """
    Largest difference of a probability, clips with another label, and a complaint or "". Within the
    limit labels can differ only where the two best are nearer than twice that.
    """
    if answers.keys() != reference.keys():
        return {}, f"answers {len(answers)} clips, not the {len(reference)} of the reference"
    worst, where, labels = 0.0, "", 0
    for file, (label, scores, _) in reference.items():
        other_label, other, _ = answers[file]
        if other.keys() != scores.keys():
            return {}, f"{file}: other labels than the reference"
        labels += label != other_label
        apart = [abs(scores[name] - other[name]) for name in scores]
        difference = max(apart) if all(map(math.isfinite, apart)) else math.inf
        if difference > worst:
            worst, where = difference, file
    result = {"largest_difference": worst, "other_labels": labels}
    if limit is not None and worst > limit:
        return result, f"{where}: a probability is off by {worst:.2g}, more than {limit:g}"
    return result, ""


# --- The result -----------------------------------------------------------------------------------


@functools.cache
def card():
    """What the first card is and how it is set; {} without nvidia-smi. Without persistence mode the
    driver may start the card anew for every process."""
    names = "name", "driver_version", "memory.total", "clocks.max.sm", "power.limit"
    names += ("persistence_mode",)
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=" + ",".join(names), "--format=csv,noheader"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(names, done.stdout.splitlines()[0].split(", ")))


def cpu_name():
    match = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()


def named(words, names):
    """Words of a command with the names of places for their paths."""
    words = [str(word) for word in words]
    for path, name in names:
        words = [re.sub("^" + re.escape(path) + "(?=/|$)", lambda _: name, word) for word in words]
    return words


def result_of(setting, measures, names=()):
    """What is written: the setting, and of every measure that ran its command, runs and facts."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    measured = {
        m.name: {
            "date": now,
            "command": named(m.command, names),
            "environment": dict(zip(m.environment, named(m.environment.values(), names))),
            "failure": m.failure,
            **m.facts,
            "runs": m.runs,
        }
        for m in measures
        if m.runs or m.failure
    }
    return {"date": now, "setting": setting, "nvidia_smi": card(), "measures": measured}


def merge(old, new):
    """`new` with the measures that only `old` has, and more runs where both have the same command.
    A measure that failed anew does not replace one that did not."""
    for name, value in new["setting"].items():
        if old["setting"].get(name) != value:
            sys.exit(
                f"--append: {name} was {old['setting'].get(name)} and is {value} now: these are "
                "results of another setting"
            )
    measures = dict(old["measures"])
    for name, entry in new["measures"].items():
        before = measures.get(name)
        if before is not None and before["runs"] and not entry["runs"]:
            continue
        same = before is not None and all(
            before[key] == entry[key] for key in ("command", "environment")
        )
        runs = before["runs"] + entry["runs"] if same else entry["runs"]
        measures[name] = {**entry, "runs": runs}
    return {**new, "measures": measures}


def write_result(path, result):
    """Replaced at once, so that an end by force leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)


def median(entry, key):
    return statistics.median(run[key] for run in entry["runs"])


def job_rows(result):
    """Lines of the table of jobs."""
    setting = result["setting"]
    entries = {
        n: e for n, e in result["measures"].items() if not n.startswith("first-") and e["runs"]
    }
    ours = median(entries["libser"], "seconds") if "libser" in entries else None
    rows = [
        f"{'':18s} {'min s':>7s} {'median':>7s} {'x libser':>8s} {'clips/s':>8s} {'x audio':>8s} "
        f"{'CPU s':>7s} {'peak MB':>8s} {'apart':>8s} {'labels':>6s}"
    ]
    for name, entry in entries.items():
        seconds = median(entry, "seconds")
        cpu = median(entry, "user_seconds") + median(entry, "system_seconds")
        apart, labels = entry.get("largest_difference"), entry.get("other_labels")
        rows.append(
            f"{name:18s} {min(run['seconds'] for run in entry['runs']):7.2f} {seconds:7.2f} "
            f"{seconds / ours if ours else float('nan'):8.2f} {setting['clips'] / seconds:8.1f} "
            f"{setting['audio_seconds'] / seconds:8.0f} {cpu:7.2f} "
            f"{max(run['peak_bytes'] for run in entry['runs']) / 1e6:8.0f} "
            f"{'-' if apart is None else format(apart, '.1e'):>8s} "
            f"{'-' if labels is None else labels:>6}"
        )
    return rows


def first_rows(result):
    """Lines of the table of first answers, with the stages where they are told."""
    rows = [
        f"{'':24s} {'first s':>8s} {'exit s':>8s} {'CPU s':>7s} {'peak MB':>8s}  "
        "(first-libser on a GPU: must 1.5 s, strong 0.8, stretch 0.4)"
    ]
    for name, entry in result["measures"].items():
        if not name.startswith("first-") or not entry["runs"]:
            continue
        cpu = median(entry, "user_seconds") + median(entry, "system_seconds")
        told = [run["stages"] for run in entry["runs"]]
        text = ", ".join(
            f"{stage} {statistics.median(run.get(stage, 0.0) for run in told):.3f}"
            for stage in told[-1]
        )
        rows.append(
            f"{name:24s} {median(entry, 'first_seconds'):8.3f} {median(entry, 'seconds'):8.3f} "
            f"{cpu:7.2f} {max(run['peak_bytes'] for run in entry['runs']) / 1e6:8.0f}  {text}"
        )
    return rows


def print_result(result):
    setting = result["setting"]
    print(
        f"{setting['card'] or setting['cpu']}, {setting['cores']} cores, {setting['libser']}: "
        f"{setting['clips']} clips, {setting['audio_seconds']:.0f} s of audio"
    )
    jobs, firsts = job_rows(result), first_rows(result)
    print("\n".join((jobs if len(jobs) > 1 else []) + (firsts if len(firsts) > 1 else [])))
    for name, entry in result["measures"].items():
        if entry["failure"]:
            print(f"{name}: {entry['failure']}", file=sys.stderr)
