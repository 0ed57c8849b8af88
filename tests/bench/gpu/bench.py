#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Inference of libser beside PyTorch on one card, wav2vec2-base on 5 s clips; see README.md.

    SER_LIBRARY=BUILD/lib/libser.so.0 SER_MODULE_PATH=BUILD/lib/ops/cuda \\
        PYTHONPATH=bindings/python python3 tests/bench/gpu/bench.py [--work DIR]

Builds nothing. Makes weights and inputs once in the folder of --work, compares everybody's outputs
with float64, measures round-robin, prints tables and writes all samples to a JSON file. What was
measured is kept when --time-limit, Ctrl-C or a signal ends the run.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import shlex
import signal
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE))

import floors  # noqa: E402
import machine  # noqa: E402
import peers  # noqa: E402
import table  # noqa: E402
from machine import Failed, Process, TimeUp  # noqa: E402

F32_LIMIT = 1e-4  # of the largest logit
TF32_LIMIT = 1e-2
LIBSER_LIMIT, PEER_LIMIT = 1.1, 2.0  # times the error of PyTorch's plain bf16
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072,
        "conv_dim": [512] * 7}

# What is measured unless the command line says otherwise.
USUAL = {"seconds": 5.0, "batches": [1, 8, 64], "rounds": 10, "runs": 20, "warm": 2, "starts": 2,
         "results": ROOT / "tests" / "bench" / "results"}
TINY = {"model": ROOT / "tests" / "golden" / "base", "seconds": 1.0, "batches": [1, 2],
        "rounds": 2, "runs": 2, "warm": 1, "starts": 1}


class Disagreement(Exception):
    """libser's outputs are wrong."""


# --- Weights, inputs, reference -------------------------------------------------------------------


def make_clips(count, samples):
    """Noise with roughly the spectrum and syllables of speech, at 16 bits: [count, samples]."""
    random = np.random.default_rng(7)
    x = random.standard_normal((count, samples), np.float32)
    x[:, 1:] += 0.9 * x[:, :-1]
    t = np.arange(samples, dtype=np.float32) / peers.RATE
    phases = random.uniform(0, 6, (count, 1)).astype(np.float32)
    x *= 0.03 * np.clip(np.sin(2 * np.pi * 3.7 * t + phases) + 0.6, 0.01, None)
    return np.round(np.clip(x, -1, 1) * 32767) / np.float32(32768)


def once(task, work, deadline):
    """A task of peers.py that ends by itself."""
    process = Process(task, work, deadline)
    process.stop()
    return process.first


def prepare(arguments, deadline):
    """What is made once per folder: weights, inputs."""
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.model is None:
        arguments.model = work / "wav2vec2-base"
        if not (arguments.model / "preprocessor_config.json").exists():
            once({"do": "make", "model": str(arguments.model)}, work, deadline)
    arguments.samples = round(arguments.seconds * peers.RATE)
    shape = peers.ROTATION * max(arguments.batches), arguments.samples
    arguments.clips = work / f"clips-{shape[0]}-{shape[1]}.npy"
    if not arguments.clips.exists():
        np.save(arguments.clips, make_clips(*shape).astype(np.float32))


def reference_path(arguments):
    """One file per weights and inputs."""
    weights = arguments.model / "model.safetensors"
    stamp = f"{arguments.clips.stem}-{arguments.model.name}-{weights.stat().st_mtime_ns}"
    return arguments.work / f"reference-{stamp}.npz"


def read_reference(arguments, deadline):
    """float64 and PyTorch's plain bf16 for every clip, computed once."""
    return read_or_make(reference_path(arguments), lambda partial: once(
        {"do": "reference", "model": str(arguments.model), "clips": str(arguments.clips),
         "device": arguments.device, "outputs": str(partial)}, arguments.work, deadline))


def read_or_make(path, make):
    """The arrays of a file, which `make`(another path) writes where it is not there."""
    if not path.exists():
        partial = path.with_suffix(".partial.npz")
        make(partial)
        partial.replace(path)
    with np.load(path) as file:
        return dict(file)


# --- Agreement ------------------------------------------------------------------------------------


def norm_error(x, reference):
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


def errors(outputs, reference):
    """Of logits: the largest difference over the largest logit ("largest"). Of logits and of the
    mean of the last hidden state over the frames: norms of difference over reference."""
    count = len(outputs["logits"])
    logits = reference["logits"][:count]
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    found = {
        "largest": float(np.abs(outputs["logits"] - logits).max() / np.abs(logits).max()),
        "logits": norm_error(outputs["logits"], logits),
        "probabilities": float(np.abs(outputs["probabilities"] - expected).max()),
        "hidden": None,
    }
    if "hidden" in outputs:
        found["hidden"] = norm_error(outputs["hidden"], reference["hidden"][:count])
    return found


def plain_errors(reference, count):
    """Of the first clips, as errors() has them."""
    return {name: norm_error(reference["plain_" + name][:count], reference[name][:count])
            for name in ("hidden", "logits")}


def objection(name, precision, error, plain):
    """Why these outputs are wrong, or None. In bf16 the mean frame decides where there is one: it
    is an average over a thousand times as many values as the logits are."""
    if precision == "f32":
        limit = TF32_LIMIT if name.startswith("tf32") else F32_LIMIT
        kind, value = "largest", error["largest"]
    else:
        kind = "logits" if error["hidden"] is None else "hidden"
        limit = plain[kind] * (LIBSER_LIMIT if name.startswith("libser") else PEER_LIMIT)
        value = error[kind]
    return None if value <= limit else f"error of {kind} {value:.2e}, allowed {limit:.2e}"


# --- The run --------------------------------------------------------------------------------------


def result_path(folder, card, kind="inference"):
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return folder / f"gpu-{kind}-{slug}.json"


class Bench:
    """One run: what is measured goes into self.run, which save() writes."""

    kind, entries = "inference", peers.PEERS

    def __init__(self, arguments, deadline):
        self.arguments, self.deadline = arguments, deadline
        self.memory, self.workers, self.reference = machine.Memory(arguments.device), {}, None
        config = json.loads((arguments.model / "config.json").read_text())
        self.config = config
        card = machine.nvidia_smi("name", "driver_version") if arguments.device == "cuda" else None
        self.run = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
            "card": card[0] if card else machine.cpu_name(),
            "driver": card and card[1],
            "host": f"{machine.cpu_name()}, {len(os.sched_getaffinity(0))} CPUs",
            "versions": machine.versions(),
            "samples": arguments.samples,
            "standard": arguments.samples == 80000
            and all(config.get(key) == value for key, value in BASE.items()),
            "flop": sum(op.flop for op in floors.forward_ops(config, arguments.samples, 1, 2)),
            "peers": {name: self.entries[name].label for name in arguments.names},
            "starts": {},
            "facts": {},
            "not_measured": dict(arguments.left_out),
            "notes": [],
            "sizes": [],
        }
        self.path, self.old = None, {"runs": []}
        if arguments.results:
            self.path = result_path(arguments.results, self.run["card"], self.kind)
            if arguments.append:
                self.old = table.read(self.path)

    def save(self):
        for size in self.run["sizes"]:
            size["floors"] = self.floors(size)
        if self.path:
            table.write(self.path, table.merged(self.old, self.run))

    def say(self, text):
        print(f"{text}", file=sys.stderr, flush=True)

    def note(self, text):
        if text not in self.run["notes"]:
            self.run["notes"].append(text)
            self.say(f"note: {text}")

    def leave_out(self, name, why):
        self.run["not_measured"][name] = str(why)
        self.say(f"not measured: {name}: {why}")

    def title(self, size):
        return f"{size['precision']}, B={size['batch']}"

    def task(self, name):
        a = self.arguments
        return {"do": "work", "name": name, "model": str(a.model), "clips": str(a.clips),
                "device": a.device, "compile": not a.skip_compiled,
                "outputs": str(a.work / f"outputs-{name}.npz")}

    # --- Starting

    def process(self, name):
        return Process(self.task(name), self.arguments.work, self.deadline,
                       peers.PEERS[name].environment)

    def start(self, name):
        """Start a worker `--starts` times; the last one stays."""
        found = {}
        for i in range(self.arguments.starts):
            self.say(f"starting {name}")
            with self.memory.peak(found):
                worker = self.process(name)
            ready = worker.first["ready"]
            parts = {part: ready.pop(part) for part in ("import", "load", "first")}
            self.run["starts"].setdefault(name, []).append({**parts, "total": worker.seconds})
            self.run["facts"][name] = ready
            if i + 1 < self.arguments.starts:
                worker.stop()
        worker.held = found.get("kept")
        self.workers[name] = worker

    def start_all(self, precision):
        self.probe = Process({"do": "probe", "precision": precision}, self.arguments.work,
                             self.deadline)
        self.workers["probe"] = self.probe
        if self.probe.first["ready"]["note"]:
            self.note(self.probe.first["ready"]["note"])
        for name in self.arguments.names:
            if self.entries[name].precision == precision:
                try:
                    self.start(name)
                except Failed as why:
                    self.leave_out(name, why)

    def stop_all(self):
        for worker in self.workers.values():
            worker.stop()
        self.workers = {}

    # --- One batch size

    def request(self, size):
        """What a worker has to know of it."""
        return {"batch": size["batch"]}

    def make_ready(self, name, worker, size):
        """Prepare a worker for a size and check what it computes. Alone: its memory is its own."""
        found = {}
        with self.memory.peak(found):
            chosen = worker.ask("size", **self.request(size))
        entry = {"host": [], "events": [], "span": [], "facts": chosen}
        self.count_memory(entry, worker, found)
        self.compare(name, worker, size, entry)
        size["workers"][name] = entry

    def count_memory(self, entry, worker, found):
        """Of the device, since the worker was started."""
        if found and worker.held is not None:
            entry["memory_peak"] = worker.held + found["peak"]
            worker.held += found["kept"]
            entry["memory"] = worker.held

    def compare(self, name, worker, size, entry):
        worker.ask("outputs")
        if self.reference is None:
            return
        with np.load(self.arguments.work / f"outputs-{name}.npz") as outputs:
            entry["error"] = errors(outputs, self.reference)
            size["plain_bf16"] = plain_errors(self.reference, len(outputs["logits"]))
        why = objection(name, size["precision"], entry["error"], size["plain_bf16"])
        if why and name.startswith("libser"):
            size["workers"][name] = entry
            raise Disagreement(f"{name}, B={size['batch']}: {why}")
        if why:
            size["workers"].pop(name, None)
            raise Failed(f"its outputs are wrong: {why}")

    def turn(self, name, size, runs, first):
        answer = self.workers[name].ask("turn", runs=runs, warm=self.arguments.warm, first=first)
        entry = size["workers"][name]
        entry["host"] += answer["host"]
        entry["events"] += answer["events"] or []

    def runs(self, size):
        """Of every worker in a round."""
        return self.arguments.runs if size["batch"] < 32 else max(2, self.arguments.runs // 4)

    def rounds(self, size):
        """Everybody in turn, starting with another one in each round."""
        names = list(size["workers"])
        runs = self.runs(size)
        for n in range(self.arguments.rounds):
            self.deadline.check()
            found = self.probe.ask("probe")
            size["probe"]["tflops"].append(found["tflops"])
            size["probe"]["bandwidth"].append(found["bandwidth"])
            turn = n % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                self.each(size, name, lambda name=name: self.turn(name, size, runs, n * runs))
            if self.run["driver"]:
                size["clocks"].append(machine.nvidia_smi(*machine.CLOCKS))
            self.say(f"round {n + 1} of {self.arguments.rounds}")

    def each(self, size, name, action):
        """A worker that fails is out of this size; the others go on."""
        if name not in self.workers or name in size["failed"]:
            return
        try:
            action()
        except Failed as why:
            size["failed"].append(name)
            self.leave_out(f"{name}, {self.title(size)}", why)
            if self.workers[name].process.poll() is not None:
                self.workers.pop(name).stop()

    def trace(self, name, size):
        """libser in another process: PyTorch's profiler brings in PyTorch with its libraries."""
        own = name.startswith("libser")
        try:
            worker = self.process(name) if own else self.workers[name]
            try:
                if own:
                    worker.ask("size", **self.request(size))
                answer = worker.ask("trace", runs=self.arguments.traces)
            finally:
                if own:
                    worker.stop()
        except Failed as why:
            answer = {"why": f"{name}, {self.title(size)}: {why}"}
        if "why" in answer:
            self.note(f"no trace of the device: {answer.pop('why')}")
        size["workers"][name].update(answer)

    def measure(self, precision, **chosen):
        """One size."""
        size = {"precision": precision, **chosen, "complete": False, "failed": [],
                "probe": {"type": self.probe.first["ready"]["type"], "tflops": [], "bandwidth": []},
                "clocks": [], "workers": {}}
        self.run["sizes"].append(size)
        self.say(self.title(size))
        self.begin_size(size)
        for name, worker in list(self.workers.items()):
            if worker is not self.probe:
                self.each(size, name, lambda: self.make_ready(name, worker, size))
        self.rounds(size)
        self.save()
        # After the host's clock has been read: the profiler makes launches slower.
        names = [name for name in size["workers"] if name not in size["failed"]]
        for action in self.afterwards():
            for name in names:
                self.each(size, name, lambda: action(name, size))
        size["complete"] = True
        self.save()

    def afterwards(self):
        """What is done with every worker when it has been timed, as functions of name and size."""
        def compare_again(name, size):  # still right after all that
            self.compare(name, self.workers[name], size, size["workers"][name])

        return self.trace, compare_again

    def begin(self):
        """Before the first worker is started."""
        try:
            self.reference = read_reference(self.arguments, self.deadline)
        except Failed as why:
            self.note(f"outputs were not compared with float64: {why}")

    def begin_size(self, size):
        """Before its first worker is made ready."""

    def everything(self):
        if self.arguments.device == "cpu":
            self.note("on the CPU libser computes in f32, whatever is asked for")
        self.begin()
        for precision in self.arguments.precisions:
            try:
                self.start_all(precision)
                for chosen in self.sizes():
                    self.measure(precision, **chosen)
            finally:
                self.stop_all()

    def sizes(self):
        """Of one precision."""
        return [{"batch": batch} for batch in self.arguments.batches]

    def floors(self, size):
        """Seconds per op at the probed peak."""
        tflops, bandwidth = table.probed(size)
        if not tflops:
            return {}
        peak = floors.Peak(tflops, bandwidth)
        width = 2 if size["precision"] == "bf16" else 4
        return {op.name: floors.floor_seconds(op, peak) for op in self.ops(size, width)}

    def ops(self, size, width):
        """With values of `width` bytes."""
        return floors.forward_ops(self.config, self.run["samples"], size["batch"], width)


# --- Command line ---------------------------------------------------------------------------------


def parse(argv, entries=peers.PEERS, usual=USUAL, tiny=TINY, description=__doc__, parents=()):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=parents)
    others = [name for name in entries if not name.startswith("libser")]
    add = parser.add_argument
    add("--work", type=pathlib.Path, default=pathlib.Path("/var/tmp/ser-gpu-bench"),
        help="folder for weights, inputs, caches, logs (0.6 GB)")
    add("--model", type=pathlib.Path, help="transformers directory; default: made in --work")
    add("--seconds", type=float, help="length of a clip; default: 5")
    add("--batches", type=int, nargs="+",
        help=f"default: {' '.join(map(str, usual['batches']))}")
    add("--peers", default=",".join(others), help='comma-separated, "" for none; of: %(default)s')
    add("--only", choices=["bf16", "f32"], help="of libser and of the peers")
    add("--skip-compiled", action="store_true", help="nothing by torch.compile")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--rounds", type=int, help="default: 10")
    add("--runs", type=int,
        help="per round and worker (inference: a quarter of it from B=32); default: 20")
    add("--warm", type=int, help=f"runs before them that do not count; default: {usual['warm']}")
    add("--starts", type=int, help="how often every worker is started; default: 2")
    add("--traces", type=int, default=10, help="runs under the profiler")
    add("--time-limit", type=float, default=1e9, metavar="S", help="stop after so many seconds")
    add("--results", type=pathlib.Path, help="folder for the JSON file; default: ../results")
    add("--append", action="store_true", help="keep the runs that are in the file")
    add("--tiny", action="store_true",
        help="try everything with a network of tests/golden and 1 s; no file without --results")
    arguments = parser.parse_args(argv)
    for name, value in (tiny if arguments.tiny else usual).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if min(arguments.batches + [arguments.rounds, arguments.runs, arguments.starts]) < 1:
        parser.error("batches, rounds, runs and starts must be at least 1")
    choose_names(parser, arguments, entries)
    return arguments


def choose_names(parser, arguments, entries):
    """arguments.names: libser and the peers to be measured; .left_out: those not asked for."""
    others = [name for name in entries if not name.startswith("libser")]
    asked = [name for name in arguments.peers.split(",") if name]
    unknown = [name for name in asked if name not in others]
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(others)}")
    arguments.precisions = [arguments.only] if arguments.only else ["bf16", "f32"]
    arguments.batches = sorted(set(arguments.batches))
    arguments.names = [
        name
        for name, entry in entries.items()
        if entry.precision in arguments.precisions and (name in asked or name.startswith("libser"))
    ]
    arguments.left_out = {name: table.NOT_ASKED for name in others if name not in arguments.names}
    if arguments.skip_compiled:
        for name in set(arguments.names) & set(table.COMPILED):
            arguments.names.remove(name)
            arguments.left_out[name] = "--skip-compiled"


def interrupt(signum, frame):
    raise KeyboardInterrupt


def main(argv=None):
    return measure(parse(argv), prepare, Bench, table)


def measure(arguments, prepare, kind, report):
    """Prepare, everything that `kind` of benchmark does, its tables by the module `report`."""
    signal.signal(signal.SIGTERM, interrupt)
    deadline = machine.Deadline(arguments.time_limit)
    try:
        prepare(arguments, deadline)
    except (Failed, TimeUp) as why:
        sys.exit(f"weights and inputs could not be made: {why}")
    try:
        bench = kind(arguments, deadline)
    except (OSError, ValueError) as why:  # the config, the results to append to
        sys.exit(str(why))
    status = 0
    try:
        bench.everything()
    except TimeUp as why:
        bench.note(f"stopped by the time limit: {why}")
    except KeyboardInterrupt:
        bench.note("interrupted")
        status = 130
    except Failed as why:  # without the probe nothing is measured
        bench.note(f"stopped: {why}")
        status = 1
    except Disagreement as why:
        bench.note(f"STOPPED: libser is wrong: {why}")
        status = 1
    if not status and not any(table.measured(size) for size in bench.run["sizes"]):
        bench.note("libser was not measured")
        status = 1
    bench.save()
    together = table.comparable(table.merged(bench.old, bench.run), bench.run)
    print("\n".join([*report.lines(bench.run), "", *report.target_lines(together)]))
    if bench.path:
        print(bench.path)
    return status


if __name__ == "__main__":
    sys.exit(main())
