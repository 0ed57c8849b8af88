#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Training by libser beside PyTorch on one card, wav2vec2-base on 5 s clips; see README.md.

    SER_LIBRARY=BUILD/lib/libser.so.0 SER_MODULE_PATH=BUILD/lib/ops/cuda \\
        PYTHONPATH=bindings/python python3 tests/bench/gpu/training.py [--work DIR]

Everybody begins with the same weights. The losses of the first ten steps are compared with float64,
without dropout and masks; steps are timed with them, round-robin. The rest is as in bench.py: it
builds nothing, and what was measured is kept when --time-limit, Ctrl-C or a signal ends the run.
"""

import argparse
import math
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bench  # noqa: E402
import floors  # noqa: E402
import training_peers  # noqa: E402
import training_table  # noqa: E402
from bench import Disagreement  # noqa: E402
from machine import Failed, Process  # noqa: E402

PROGRAM = "training_peers.py"
LABELS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]

# Errors of the losses of the first steps: in float32 the largest one, in bf16 the root mean square
# over all draws and steps, times that of PyTorch's autocast. These are few numbers, and those of
# one draw err together: draws of one network differ by a factor of 2, so 1.1 cannot be asked for.
F32_LIMIT, TF32_LIMIT = 2e-5, 1e-2
LIBSER_LIMIT, PEER_LIMIT = 2.0, 3.0

USUAL = {**bench.USUAL, "batches": [8, 32], "warm": 4}
TINY = dict(bench.TINY)
FEATURES = {"cached": [True], "step": [False], "both": [True, False]}


def prepare(arguments, deadline):
    """What is made once per folder: network, inputs, the weights that everybody begins with."""
    bench.prepare(arguments, deadline)
    stamp = (arguments.model / "model.safetensors").stat().st_mtime_ns
    arguments.start = arguments.work / f"start-{arguments.model.name}-{stamp}.safetensors"
    if not arguments.start.exists():
        once({"do": "start", "model": str(arguments.model), "start": str(arguments.start),
              "labels": LABELS}, arguments, deadline)


def once(task, arguments, deadline):
    """A task of training_reference.py."""
    Process(task, arguments.work, deadline, program=PROGRAM).stop()


def reference_path(arguments, batch):
    """One file per weights, inputs and batch size."""
    return arguments.work / f"losses-{arguments.clips.stem}-{arguments.start.stem}-{batch}.npz"


def read_reference(arguments, batch, deadline):
    """Losses and norms by float64 and by PyTorch's autocast, computed once."""
    return bench.read_or_make(reference_path(arguments, batch), lambda partial: once(
        {"do": "reference", "model": str(arguments.model), "start": str(arguments.start),
         "clips": str(arguments.clips), "device": arguments.device, "batch": batch,
         "outputs": str(partial)}, arguments, deadline))


# --- Agreement ------------------------------------------------------------------------------------


def root_mean_square(x):
    return float(np.sqrt(np.mean(np.square(x))))


def errors(found, reference):
    """Relative ones over all draws and steps: of losses the largest and the root mean square, of
    norms the latter."""
    draws = len(found["losses"])
    losses, norms = (np.array(found[name]) / reference[name][:draws] - 1
                     for name in ("losses", "norms"))
    return {"largest": float(np.abs(losses).max()), "losses": root_mean_square(losses),
            "norms": root_mean_square(norms)}


def plain_errors(reference):
    """Of PyTorch's autocast."""
    return errors({name: reference[f"plain_{name}"] for name in ("losses", "norms")}, reference)


def objection(name, precision, error, plain):
    """Why these losses are wrong, or None."""
    if precision == "f32":
        limit = TF32_LIMIT if name.startswith("tf32") else F32_LIMIT
        value, kind = error["largest"], "a loss"
    else:
        limit = plain["losses"] * (LIBSER_LIMIT if name.startswith("libser") else PEER_LIMIT)
        value, kind = error["losses"], "the losses"
    return None if value <= limit else f"error of {kind} {value:.2e}, allowed {limit:.2e}"


def misbehaviour(name, found):
    """What is wrong with a worker whatever the reference says, or None."""
    if not np.isfinite([found["losses"], found["norms"]]).all() or not np.isfinite(
            found["noisy"]).all():
        return "its losses or norms are not finite"
    if found["noisy"] == found["losses"][0]:
        return "dropout and masks change nothing"
    if name.startswith("libser") and not (found["same"] and found["same_noisy"]):
        return "the same ten steps twice gave other losses or norms"
    return None


# --- The run --------------------------------------------------------------------------------------


class Training(bench.Bench):
    """One run. A size is a precision, a batch size, and whether features are cached."""

    kind, entries = "training", training_peers.PEERS

    def __init__(self, arguments, deadline):
        super().__init__(arguments, deadline)
        self.run["flop"] = {name: self.flop(cached)
                            for name, cached in (("cached", True), ("step", False))}

    def flop(self, cached):
        """Of a step, for each clip."""
        ops = floors.training_ops(self.config, self.run["samples"], 1, 2, cached=cached)
        return sum(op.flop for op in ops)

    def title(self, size):
        return training_table.title(size)

    def request(self, size):
        return {"batch": size["batch"], "cached": size["cached"]}

    def runs(self, size):
        return self.arguments.runs

    def task(self, name):
        a = self.arguments
        return {"do": "work", "name": name, "model": str(a.model), "start": str(a.start),
                "clips": str(a.clips), "device": a.device, "compile": not a.skip_compiled,
                "first": {"batch": a.batches[0], "cached": a.cached[0]}}

    def process(self, name):
        return Process(self.task(name), self.arguments.work, self.deadline,
                       self.entries[name].environment, PROGRAM)

    # --- One size

    def make_ready(self, name, worker, size):
        """Prepare a worker and check what it computes. Alone: its memory is its own."""
        found = {}
        with self.memory.peak(found):
            chosen = worker.ask("size", **self.request(size))
            agreed = worker.ask("agree", draws=self.arguments.draws)
        entry = {"host": [], "events": [], "span": [], "loss": [], "facts": chosen, **agreed}
        self.count_memory(entry, worker, found)
        size["workers"][name] = entry
        why = misbehaviour(name, entry)
        if not why and self.reference is not None:
            entry["error"] = errors(entry, self.reference)
            why = objection(name, size["precision"], entry["error"], size["plain"])
        if why and name.startswith("libser"):
            raise Disagreement(f"{name}, {self.title(size)}: {why}")
        if why:
            size["workers"].pop(name)
            raise Failed(f"its losses are wrong: {why}")

    def turn(self, name, size, runs, first):
        answer = self.workers[name].ask("turn", steps=runs, warm=self.arguments.warm)
        if not math.isfinite(answer["loss"]):
            raise Failed("its loss is no longer finite")
        entry = size["workers"][name]
        entry["host"].append(answer["host"])
        entry["loss"].append(answer["loss"])
        entry["events"] += [answer["events"]] if answer["events"] else []

    def update(self, name, size):
        """Clipping and AdamW alone."""
        found = self.workers[name].ask("update", repeats=self.arguments.runs)
        size["workers"][name].update(found)

    def begin(self):
        pass  # every batch size has a reference of its own

    def begin_size(self, size):
        try:
            self.reference = read_reference(self.arguments, size["batch"], self.deadline)
            size["plain"] = plain_errors(self.reference)
            size["reference"] = {name: value.tolist() for name, value in self.reference.items()}
        except Failed as why:
            self.reference = None
            self.note(f"losses were not compared with float64: {why}")

    def afterwards(self):
        return self.update, self.trace

    def sizes(self):
        return [{"batch": batch, "cached": cached}
                for batch in self.arguments.batches for cached in self.arguments.cached]

    def ops(self, size, width):
        return floors.training_ops(self.config, self.run["samples"], size["batch"], width,
                                   cached=size["cached"])


# --- Command line ---------------------------------------------------------------------------------


def parse(argv=None):
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--features", choices=FEATURES, default="both",
                     help="cached, convolutions in every step, or both (default)")
    own.add_argument("--draws", type=int, choices=range(1, training_peers.DRAWS + 1),
                     default=training_peers.DRAWS, help="ten steps so often; default: %(default)s")
    arguments = bench.parse(argv, training_peers.PEERS, USUAL, TINY, __doc__, [own])
    arguments.cached = FEATURES[arguments.features]
    return arguments


def main(argv=None):
    return bench.measure(parse(argv), prepare, Training, training_table)


if __name__ == "__main__":
    sys.exit(main())
