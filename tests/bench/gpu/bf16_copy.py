# SPDX-License-Identifier: MIT
"""A copy of a transformers directory whose f32 weights are rounded to bf16.

python bf16_copy.py MODEL COPY

A program of its own: the memory that this takes would count as that of the commands which files.py
starts.
"""

import json
import pathlib
import shutil
import sys

import numpy as np


def bf16_copy(model, folder):
    """The transformers directory with its f32 weights rounded to bf16 (nearest even)."""
    folder.mkdir(exist_ok=True)
    for source in model.glob("*.json"):
        shutil.copy(source, folder)
    data = (model / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    blocks, end = [], 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, stop = (start + offset for offset in tensor["data_offsets"])
        block = data[begin:stop]
        if tensor["dtype"] == "F32":
            bits = np.frombuffer(block, "<u4")
            block = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
            tensor["dtype"] = "BF16"
        tensor["data_offsets"] = [end, end + len(block)]
        end += len(block)
        blocks.append(block)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.writelines(blocks)


if __name__ == "__main__":
    bf16_copy(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
