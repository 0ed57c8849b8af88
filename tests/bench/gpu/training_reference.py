# SPDX-License-Identifier: MIT
"""What training.py needs beside the peers.

Tasks of training_peers.py: "start" (the weights that everybody begins with, by libser), "reference"
(the losses of the first steps by PyTorch in float64 and in autocast).
"""

import numpy as np

from training_peers import DRAWS, ROTATION, STEPS, Eager


def start(task, say):
    """transformers' network with libser's fresh head, as libser writes it."""
    import ser

    with ser.Model.create(task["model"], labels=task["labels"], device="cpu", precision="f32",
                          seed=1) as model:
        model.save(task["start"])
    say({"version": ser.version()})


class Plain(Eager):
    """G1 without dropout and masks: the losses of its first steps are what bf16 is measured by."""

    def tune(self):
        if self.double:
            self.dtype = self.torch.float64

    def __init__(self, double):
        self.double = double
        self.precision = "f32" if double else "bf16"

    def build(self, model):
        super().build(model.to(self.dtype) if self.double else model)

    def draws(self, clips):
        clips = [part.astype(np.float64) for part in clips] if self.double else clips
        self.prepare(clips, False, False, True)
        found = []
        for draw in range(DRAWS):
            self.begin(draw)
            found.append(self.run(STEPS))
        return np.moveaxis(np.array(found), 1, 0)


def reference(task, say):
    """[draws, steps] each: losses and norms in float64, the same in autocast ("plain_")."""
    import torch

    device = task["device"] if torch.cuda.is_available() else "cpu"
    clips = np.load(task["clips"], mmap_mode="r")
    batch = task["batch"]
    batches = [np.array(clips[i * batch :][:batch]) for i in range(ROTATION)]
    out = {}
    for name, double in (("", True), ("plain_", False)):
        peer = Plain(double)
        peer.start({"device": device, "compile": False})
        peer.load(task)
        out[name + "losses"], out[name + "norms"] = peer.draws(batches)
    np.savez(task["outputs"], **out)
    say({"torch": torch.__version__})
