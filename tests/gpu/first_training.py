#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""First figures of training against PyTorch in one interleaved run on a card.

    SER_LIBRARY=BUILD/lib/libser.so.0 SER_MODULE_PATH=BUILD/lib/ops/cuda PYTHONPATH=bindings/python \\
        python3 tests/gpu/first_training.py WAV2VEC2_DIR [--rounds 30] [--json FILE]

WAV2VEC2_DIR is a transformers directory of a wav2vec 2.0 encoder. Both sides train it with a small
head on the same 5 s clips, convolutions frozen and computed in every step by PyTorch, cached by
libser and, as "uncached", computed in every step too. PyTorch: autocast bf16 over f32 weights, scaled
dot product attention, fused AdamW, gradient norm clipped, eager. libser: batches submitted one ahead.
Prints milliseconds per step (min and median over rounds of 10 steps) at B = 8 and 32, the ratio of the
medians, and the losses of the last step. `--device cpu` is for trying the script out.
"""

import argparse
import json
import statistics
import time

import numpy as np
import ser
import torch
from transformers import Wav2Vec2Model

SAMPLES = 80000
LABELS = [str(i) for i in range(8)]
STEPS = 10
OFF = dict(projection_dropout=0.0, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
           classifier_dropout=0.0, mask_time_probability=0.0)


class Peer(torch.nn.Module):
    """The encoder, mean pooling and one linear layer."""

    def __init__(self, path):
        super().__init__()
        self.encoder = Wav2Vec2Model.from_pretrained(path, dtype=torch.float32,
                                                     attn_implementation="sdpa", apply_spec_augment=False,
                                                     hidden_dropout=0.0, attention_dropout=0.0,
                                                     feat_proj_dropout=0.0, layerdrop=0.0)
        self.encoder.freeze_feature_encoder()
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, len(LABELS))

    def forward(self, x):
        return self.head(self.encoder(x).last_hidden_state.mean(1))


def torch_peer(path, device, clips, labels):
    model = Peer(path).to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=3e-5, weight_decay=0.01, fused=True)
    x = torch.from_numpy(clips).to(device)
    y = torch.from_numpy(labels).to(device)

    def run():
        for _ in range(STEPS):
            with torch.autocast(device, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(x).float(), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return loss.item()  # waits

    return run


def ser_peer(path, device, clips, labels, precision, cached):
    model = ser.Model.create(path, labels=LABELS, device=device, precision=precision)
    trainer = ser.Trainer(model, steps=100000, rate=3e-5, schedule="constant", warmup_steps=0,
                          cache_bytes=2**31 if cached else 0, **OFF)
    batch = trainer.batch(list(clips), [LABELS[i] for i in labels], sampling_rate=16000)

    def run():
        loss = None
        for _ in range(STEPS):
            trainer.submit(batch)
        while (result := trainer.collect()) is not None:
            loss = result.loss
        return loss

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    results = {"device": name, "torch": torch.__version__, "steps": STEPS}
    random = np.random.default_rng(1)
    for size in arguments.batches:
        clips = random.standard_normal((size, SAMPLES)).astype(np.float32) * 0.1
        labels = random.integers(0, len(LABELS), size)
        place = (arguments.model, arguments.device, clips, labels)
        peers = {"libser bf16": ser_peer(*place, "bf16", True),
                 "libser bf16 uncached": ser_peer(*place, "bf16", False),
                 "libser f32": ser_peer(*place, "f32", True),
                 "PyTorch autocast": torch_peer(*place)}
        times = {peer: [] for peer in peers}
        losses = {peer: run() for peer, run in peers.items()}  # first use, then recording
        for _ in range(arguments.rounds):
            for peer, run in peers.items():
                begin = time.perf_counter()
                losses[peer] = run()
                times[peer].append(1e3 * (time.perf_counter() - begin) / STEPS)
        for peer, values in times.items():
            median = statistics.median(values)
            ratio = statistics.median(times["PyTorch autocast"]) / median
            print(f"B={size:2d} {peer:21s} min {min(values):8.2f} ms  median {median:8.2f} ms  "
                  f"{ratio:5.2f} x PyTorch  loss {losses[peer]:.4f}")
            results[f"B={size} {peer}"] = {"milliseconds": values, "loss": losses[peer]}
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
