# SPDX-License-Identifier: MIT
"""What the training peers share and needs no PyTorch: clips, scores, journal, recipe, batches."""

import concurrent.futures
import csv
import importlib
import json
import sys

import pipeline_peer

RATE = pipeline_peer.RATE
LONGEST = 5 * RATE  # of a training clip: ser-train's window
PARTS = "train", "validation", "test"
SORTED = 16  # batches whose clips are sorted by length together, as in ser-train
# What no peer here does: the recipe must not ask for it.
NOT_HERE = {
    "accumulate": 1,
    "max-steps": 0,
    "lr-head": 0.0,
    "layer-decay": 1.0,
    "layer-mix": False,
    "schedule": "linear",
    "ema": 0.0,
    "label-smoothing": 0.0,
    "class-weight": "none",
    "layerdrop": 0.0,
    "mask-channel-prob": 0.0,
    "train-features": False,
    "freeze-layers": 0,
    "patience": 0,
}


# --- Clips ----------------------------------------------------------------------------------------


class Clips:
    """The manifest: paths, labels as numbers, and for every part the indices of its clips."""

    def __init__(self, manifest, audio, labels):
        with open(manifest, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.paths = [audio / row["path"] for row in rows]
        self.names = labels
        self.labels = [labels.index(row["label"]) for row in rows]
        self.parts = {
            part: [i for i, row in enumerate(rows) if row["split"] == part] for part in PARTS
        }

    def __len__(self):
        return len(self.paths)


def middle(samples):
    """At most LONGEST samples of a clip."""
    first = max(len(samples) - LONGEST, 0) // 2
    return samples[first : first + LONGEST]


def decode_all(clips, decoder, threads):
    """16-bit samples of every clip; of training clips at most 5 s."""
    importlib.import_module("numpy")  # not by the threads, all at once
    train = set(clips.parts["train"])

    def decode(i):
        samples = decoder.read(clips.paths[i], "int16")
        return middle(samples) if i in train else samples

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(decode, range(len(clips))))


# --- Results --------------------------------------------------------------------------------------


def score(logits, labels, classes):
    """{loss, uar, accuracy} of NumPy arrays [clips, classes] and [clips]; classes without a clip do
    not count in the unweighted average recall."""
    import numpy as np

    logits = logits.astype(np.float64)
    logits = logits - logits.max(1, keepdims=True)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    right = logits.argmax(1) == labels
    recalls = [right[labels == c].mean() for c in range(classes) if (labels == c).any()]
    return {
        "loss": float(-log[np.arange(len(labels)), labels].mean()),
        "uar": float(np.mean(recalls)),
        "accuracy": float(right.mean()),
    }


class Journal:
    """What ser-train writes, too: lines on standard error, metrics.jsonl, report.json."""

    def __init__(self, out, epochs):
        self.out, self.epochs, self.done = out, epochs, 0
        out.mkdir(parents=True)

    @staticmethod
    def data(clips):
        print(f"Data: {len(clips)} clips", file=sys.stderr, flush=True)

    def epoch(self, loss, scores, seconds):
        """`seconds` without validation and saving."""
        self.done += 1
        line = {"kind": "epoch", "epoch": self.done, "train_loss": loss, "seconds": seconds}
        line.update({f"validation_{name}": value for name, value in scores.items()})
        with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        text = f"epoch {self.done}/{self.epochs}: loss {loss:.3f}; validation UAR"
        print(f"{text} {100 * scores['uar']:.1f} %", file=sys.stderr, flush=True)

    def finish(self, scores):
        test = {"name": "test", "nll": scores["loss"]}
        test.update(uar=scores["uar"], accuracy=scores["accuracy"])
        (self.out / "report.json").write_text(json.dumps({"parts": [test]}) + "\n")


# --- The recipe ----------------------------------------------------------------------------------


def check_recipe(recipe):
    for name, wanted in NOT_HERE.items():
        if recipe.get(name, wanted) != wanted:
            sys.exit(f"--recipe: {name} is {recipe[name]}; the peers know {wanted} only")


def dropouts(recipe):
    """ser-train's settings under the names of a transformers configuration."""
    return {
        "feat_proj_dropout": recipe["projection-dropout"],
        "hidden_dropout": recipe["hidden-dropout"],
        "attention_dropout": recipe["attention-dropout"],
        "activation_dropout": recipe["activation-dropout"],
        "layerdrop": 0.0,
        "apply_spec_augment": recipe["mask-time-prob"] > 0.0,
        "mask_time_prob": recipe["mask-time-prob"],
        "mask_time_length": recipe["mask-time-length"],
        "mask_time_min_masks": 0,
        "mask_feature_prob": 0.0,
    }


def rate_factor(step, steps, warmup):
    """ser-train's schedule: rises over `warmup` steps, then straight to 0."""
    rise = (step + 1) / warmup if step < warmup else 1.0
    return min(rise, 1.0 - max(step - warmup, 0) / (steps - warmup))


def warmup_steps(amount, steps):
    return min(round(amount * steps) if amount < 1 else round(amount), steps - 1)


def batches_of(indices, lengths, size, generator):
    """Random groups of SORTED batches, sorted by length, cut; batches in random order."""
    order, batches = generator.permutation(indices), []
    for i in range(0, len(order), size * SORTED):
        group = sorted(order[i : i + size * SORTED], key=lambda clip: -lengths[clip])
        batches += [group[k : k + size] for k in range(0, len(group), size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def mask_spans(keep, frames, indices, probability, length, generator):
    """False in random spans of frames, as ser-train masks them; rows of `indices` only."""
    keep[:] = True
    for i in indices:
        places = frames[i] - length + 1
        count = int(probability * frames[i] / length + generator.random())
        for start in generator.permutation(places)[:count] if places > 0 else ():
            keep[i, start : start + length] = False


def frame_count(config, samples):
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        samples = (samples - kernel) // stride + 1
    return samples
