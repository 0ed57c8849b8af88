#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""First figures against PyTorch in one interleaved run on a card.

    SER_LIBRARY=BUILD/lib/libser.so.0 SER_MODULE_PATH=BUILD/lib/ops/cuda PYTHONPATH=bindings/python \\
        python3 tests/gpu/first_figures.py WAV2VEC2_DIR [--rounds 30] [--json FILE]

WAV2VEC2_DIR is a transformers directory of a finished classifier (Wav2Vec2ForSequenceClassification),
for example one with random weights of tests/golden/make_golden.py --full. Both sides get the same 5 s
clips in host memory and give probabilities in host memory. PyTorch runs in bf16 with scaled dot
product attention, eager. The first outputs are compared. Prints min and median milliseconds at
B = 1, 8, 64 and the ratio of the medians.
"""

import argparse
import json
import statistics
import time

import numpy as np
import ser
import torch
from transformers import AutoModelForAudioClassification

SAMPLES = 80000


def torch_peer(path):
    model = AutoModelForAudioClassification.from_pretrained(path, dtype=torch.bfloat16,
                                                            attn_implementation="sdpa")
    model = model.cuda().eval()

    def run(batch):
        with torch.inference_mode():
            x = torch.from_numpy(batch).cuda().to(torch.bfloat16)
            return model(x).logits.float().softmax(-1).cpu().numpy()

    return run


def ser_peer(path, precision):
    model = ser.Model.load(path, device="cuda", precision=precision)

    def run(batch):
        return model.predict_proba(list(batch), sampling_rate=16000)

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    peers = {"libser bf16": ser_peer(arguments.model, "bf16"),
             "libser f32": ser_peer(arguments.model, "f32"),
             "PyTorch bf16": torch_peer(arguments.model)}
    random = np.random.default_rng(1)
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
               "rounds": arguments.rounds}
    for size in (1, 8, 64):
        batches = [random.standard_normal((size, SAMPLES)).astype(np.float32) for _ in range(3)]
        outputs = {name: run(batches[0]) for name, run in peers.items()}
        times = {name: [] for name in peers}
        for turn in range(3 + arguments.rounds):
            for name, run in peers.items():
                begin = time.perf_counter()
                run(batches[turn % 3])
                if turn >= 3:
                    times[name].append(1e3 * (time.perf_counter() - begin))
        base = statistics.median(times["libser bf16"])
        for name in peers:
            median = statistics.median(times[name])
            apart = float(np.abs(outputs[name] - outputs["libser f32"]).max())
            results[f"B={size} {name}"] = {"min_ms": min(times[name]), "median_ms": median,
                                           "difference": apart}
            print(f"B={size:<3} {name:<14} min {min(times[name]):8.2f} ms  median {median:8.2f} ms  "
                  f"x libser bf16 {median / base:5.2f}  off f32 by {apart:.1e}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
