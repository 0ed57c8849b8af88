# SPDX-License-Identifier: MIT
"""What bench.py needs beside the peers: weights, right answers, what the machine reaches.

Tasks of peers.py: "make" (a random wav2vec2-base), "reference" (float64), "probe".
"""

import collections
import pathlib
import sys
import time

import numpy as np

from peers import load_classifier
from serve import reason

HERE = pathlib.Path(__file__).resolve().parent


def make(task, say):
    """A random wav2vec2-base with a classifier, as transformers writes it."""
    sys.path.insert(0, str(HERE.parents[1] / "golden"))
    import golden_models
    import transformers

    names = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
    config = transformers.Wav2Vec2Config(**golden_models.labelled(names))
    model = transformers.Wav2Vec2ForSequenceClassification(config).eval()
    golden_models.randomize(model, 14)
    model.save_pretrained(task["model"])
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(
        task["model"]
    )
    say({})


def reference(task, say):
    """float64 by transformers, and its plain bf16 (weights and activations), for every clip."""
    import torch

    device = task["device"] if torch.cuda.is_available() else "cpu"
    clips = torch.from_numpy(np.load(task["clips"]))
    rows = collections.defaultdict(list)
    for name, dtype in (("", torch.float64), ("plain_", torch.bfloat16)):
        model = load_classifier(task["model"], dtype=torch.float32).to(device, dtype)
        for part in clips.split(8):
            x = part.to(device, torch.float64)
            x = x - x.mean(1, keepdim=True)
            x = x / (x.square().mean(1, keepdim=True) + 1e-7).sqrt()
            with torch.inference_mode():
                hidden = model.wav2vec2(x.to(dtype)).last_hidden_state
                logits = model(x.to(dtype)).logits
            rows[name + "hidden"].append(hidden.double().mean(1).cpu().numpy())
            rows[name + "logits"].append(logits.double().cpu().numpy())
    np.savez(task["outputs"], **{name: np.concatenate(row) for name, row in rows.items()})
    say({"torch": torch.__version__})


# --- What the machine reaches ---------------------------------------------------------------------


class TorchProbe:
    """A large product and a copy within the card's memory."""

    def __init__(self, precision):
        import torch

        if not torch.cuda.is_available():
            raise RuntimeError("no GPU for PyTorch")
        self.torch, self.type = torch, precision
        torch.backends.cuda.matmul.allow_tf32 = False
        dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[precision]
        self.a, self.b = torch.randn(2, 8192, 8192, device="cuda").to(dtype).unbind(0)
        self.source = torch.randn(2**29, device="cuda")
        self.target = torch.empty_like(self.source)

    def seconds(self, run):
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        run()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def probe(self):
        product = self.seconds(lambda: self.torch.mm(self.a, self.b))
        copy = self.seconds(lambda: self.target.copy_(self.source))
        moved = 2 * self.source.nbytes
        return {"tflops": 2 * 8192**3 / product * 1e-12, "bandwidth": moved / copy * 1e-12}


class HostProbe:
    """The same of NumPy, so that the benchmark can be tried without a card."""

    def __init__(self, precision):
        self.type = "f32 on the host"
        self.a = np.random.default_rng(0).standard_normal((256, 256), np.float32)
        self.source = np.ones(2**20, np.float32)
        self.target = np.empty_like(self.source)

    def seconds(self, run):
        run()
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    def probe(self):
        product = self.seconds(lambda: self.a @ self.a)
        copy = self.seconds(lambda: np.copyto(self.target, self.source))
        moved = 2 * self.source.nbytes
        return {"tflops": 2 * 256**3 / product * 1e-12, "bandwidth": moved / copy * 1e-12}


def probe(task, say):
    note = None
    try:
        peak = TorchProbe(task["precision"])
    except (ImportError, RuntimeError) as error:
        peak, note = HostProbe(task["precision"]), f"the probe ran on the host: {reason(error)}"
    say({"ready": {"type": peak.type, "note": note}})
    for _ in sys.stdin:
        say(peak.probe())
