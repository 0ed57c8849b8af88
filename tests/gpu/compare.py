#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The probabilities of ser-predict --format csv on the CPU against those on a card.

    python3 tests/gpu/compare.py CPU.csv CUDA.csv...

Prints the largest difference and the share of equal labels for each file. Status 1 if f32 differs by
more than 1e-4 anywhere, or bf16 (in the file's name) by more than 0.05, or a clip is missing.
"""

import csv
import sys


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main():
    reference = read(sys.argv[1])
    numbers = [c for c in reference[0] if c not in ("file", "start", "end", "label", "score", "flags")]
    worst = 0
    for path in sys.argv[2:]:
        rows = read(path)
        limit = 0.05 if ".bf16." in path else 1e-4
        if [r["file"] for r in rows] != [r["file"] for r in reference]:
            print(f"{path}: other clips than {sys.argv[1]}")
            worst = 1
            continue
        differences = []
        for row, wanted in zip(rows, reference):
            for column in numbers:
                try:
                    differences.append(abs(float(row[column]) - float(wanted[column])))
                except ValueError:
                    continue
        equal = sum(r["label"] == w["label"] for r, w in zip(rows, reference))
        print(f"{path}: largest difference {max(differences):.2e} (limit {limit:g}), "
              f"{equal} of {len(rows)} labels equal")
        worst |= max(differences) > limit
    return worst


if __name__ == "__main__":
    sys.exit(main())
