# SPDX-License-Identifier: MIT
"""Write bf16_training.safetensors: how far PyTorch's own training in bf16 is from float64.

    python bf16_training.py      # of the cases of training_golden.py, two minutes

Every case runs under torch.autocast(bfloat16) over float32 weights, which is how people train, and
in float64: 16 draws of it, each without a few more of the first samples of every clip, since a
single error is a matter of luck. For each parameter `<golden>/grad.<name>` is
|bf16 - float64| / |float64|, norms over all its elements, [draws]; `vanishing` are an exception.
`<golden>/losses` and `<golden>/norms` are the same of the ten steps, [draws, steps].
tests/net/test_golden_training.c measures bf16 in libser against them.

A table compares it with weights in bf16, with fused and with eager attention, and with autocast as
it is on GPUs, where norms give float32. These are not stored.
"""

import contextlib
import math

import numpy as np
import torch
import transformers

import training_golden
from bf16_errors import HERE, VARIANTS, Variant, mini_to, root_mean_square
from golden_models import backbone_of
from make_golden import save_file

OUTPUT = "bf16_training.safetensors"
STORED = "autocast"
CUT = 101  # samples more for every draw
CUTS = [CUT * draw for draw in range(16)]
COMPARED = {name: VARIANTS[name] for name in ("autocast", "bf16", "eager")}
COMPARED["gpu"] = Variant(torch.float32, "sdpa", True)

KINDS = {  # by a part of the name; norms and vanishing ones excepted
    "conv_layers": "convolutions",
    "feature_projection": "projection",
    "pos_conv_embed": "position",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "pooling": "head",
    "layer_mix": "head",
    "classifier": "head",
}


def kind_of(name):
    if vanishing(name):
        return "vanishing"
    if "norm" in name:
        return "norms"
    return next(kind for part, kind in KINDS.items() if f"{part}." in name)


def vanishing(name):
    """Softmax does not see a shift, so these gradients are 0 but for rounding. They are measured by
    the gradient of the weight beside them, of which this is the name; of others None."""
    if name.endswith("k_proj.bias") or name == "pooling.score.bias":
        return name.removesuffix("bias") + "weight"
    return None


@contextlib.contextmanager
def norms_in_float32():
    """Autocast on GPUs computes them in float32 and leaves the result so; on CPUs it does not."""
    kept = {name: getattr(torch, name) for name in ("layer_norm", "group_norm")}

    def in_float32(function):
        def call(x, *rest):
            with torch.autocast("cpu", enabled=False):
                return function(x.float(), *rest)

        return call

    for name, function in kept.items():
        setattr(torch, name, in_float32(function))
    yield
    for name, function in kept.items():
        setattr(torch, name, function)


class Bf16Case(training_golden.Case):
    def __init__(self, name, variant):
        super().__init__(name)
        self.variant = COMPARED[variant]
        self.norms = norms_in_float32 if variant == "gpu" else contextlib.nullcontext
        self.dtype = torch.float32 if name == "logmel" else self.variant.dtype  # of the clips
        if name == "logmel":
            mini_to(self.model, self.variant.dtype, torch.bfloat16)
        else:
            self.model.to(self.variant.dtype)
            backbone_of(self.model).set_attn_implementation(self.variant.attention)

    def loss(self, cut):
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.variant.autocast)
        with self.norms(), autocast:
            return super().loss(self.dtype, cut)


class Reference(training_golden.Case):
    def __init__(self, name):
        super().__init__(name)
        self.model.double()
        self.draws = [self.gradients(self.loss(cut)) for cut in CUTS]

    def loss(self, cut):
        return super().loss(torch.float64, cut)

    def errors(self, draw, gradients):
        wanted, norm = self.draws[draw], torch.linalg.vector_norm
        return {
            name: float(norm(y.double() - wanted[name]) / norm(wanted[vanishing(name) or name]))
            for name, y in gradients.items()
        }


def gradient_errors(reference, case):
    """{name: [draws]}"""
    draws = [reference.errors(i, case.gradients(case.loss(cut))) for i, cut in enumerate(CUTS)]
    return {name: [errors[name] for errors in draws] for name in draws[0]}


def step_errors(reference, case):
    """Of losses and norms, [draws, steps] each."""
    out = []
    for cut in CUTS:
        wanted = np.array(reference.train(lambda: reference.loss(cut)))
        out.append((np.array(case.train(lambda: case.loss(cut))) - wanted) / wanted)
    return np.moveaxis(np.abs(out), 1, 0)


def typical(errors):
    """[parameters, draws]: root mean square over parameters, geometric mean over draws."""
    return math.exp(np.mean([math.log(root_mean_square(draw)) for draw in zip(*errors)]))


def print_table(name, by_variant):
    for kind in dict.fromkeys(map(kind_of, by_variant[STORED])):
        row = [
            typical([errors[key] for key in errors if kind_of(key) == kind])
            for errors in by_variant.values()
        ]
        print(f"{name:18s} {kind:14s}" + "".join(f" {x:9.1e}" for x in row), flush=True)


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    tensors = {}
    print("PyTorch's gradients against float64, relative L2; losses and norms, step by step:")
    print(f"{'golden':18s} {'parameters':14s}" + "".join(f" {name:>9s}" for name in COMPARED))
    for name in training_golden.MODELS:
        reference = Reference(name)
        cases = {variant: Bf16Case(name, variant) for variant in COMPARED}
        by_variant = {key: gradient_errors(reference, case) for key, case in cases.items()}
        print_table(name, by_variant)
        for key, errors in by_variant[STORED].items():
            tensors[f"{name}/grad.{key}"] = np.array(errors, np.float32)
        losses, norms = step_errors(reference, cases[STORED])
        tensors[f"{name}/losses"] = losses.astype(np.float32)
        tensors[f"{name}/norms"] = norms.astype(np.float32)
        for key, errors in (("losses", losses), ("norms", norms)):
            steps = np.sqrt(np.mean(errors**2, 0))
            print(f"{name:18s} {key:14s} " + " ".join(f"{x:.1e}" for x in steps), flush=True)
    info = {"torch": torch.__version__, "transformers": transformers.__version__}
    info |= {"cut": str(CUT), "draws": str(len(CUTS))}
    save_file(tensors, HERE / OUTPUT, info)


if __name__ == "__main__":
    main()
