# SPDX-License-Identifier: MIT
"""Write *.training.safetensors: gradients of whole networks and the losses of ten AdamW steps.

    python training_golden.py        # needs the models that make_golden.py wrote beside this script

Three clips, each run alone, so that nothing depends on padding; one weighted cross entropy with
label smoothing over them. All in float64, dropout off; stored as float32.
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
import transformers

import ser_mini
from golden_models import Head, clip
from make_golden import save_file, wav2vec2_config

HERE = pathlib.Path(__file__).resolve().parent
LENGTHS = [6000, 9001, 7700]
STEPS, RATE, DECAY, BETAS, EPS, CLIP = 10, 1e-3, 0.05, (0.9, 0.98), 1e-8, 1.0
SMOOTHING = 0.1


def read_ser(path):
    """Tensors and config of a model file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}
        return tensors, json.loads(f.metadata()["config"])


def attention_pool():
    tensors, config = read_ser(HERE / "attention_pool.model.safetensors")
    backbone = wav2vec2_config()
    backbone._attn_implementation = "eager"
    model = Head(transformers.Wav2Vec2Model(backbone), config)
    missing = model.load_state_dict(
        {
            name.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): value
            for name, value in tensors.items()
        },
        strict=False,
    )
    assert missing.missing_keys == ["wav2vec2.masked_spec_embed"], missing
    assert not missing.unexpected_keys

    def logits(x):
        states = model.wav2vec2(x[None], output_hidden_states=True).hidden_states
        return model(states, {})[0]

    return model, logits


def large():
    kind = transformers.Wav2Vec2ForSequenceClassification
    model = kind.from_pretrained(HERE / "large", attn_implementation="eager")
    model.config.tie_last_hidden_states = True
    return model, lambda x: model(x[None]).logits[0]


def logmel():
    """Gradients from the samples on, through the fixed analysis, in ser_mini's own code."""
    model = ser_mini.load(HERE / "logmel.model.safetensors")

    def logits(x):
        with torch.autocast("cpu", enabled=False):  # of bf16_training.py: the analysis is no layer
            mel = ser_mini.log_mel(x, model.config["features"]["mel"], 16000)
        return model(mel[None], torch.tensor([mel.shape[0]]))[0]

    return model, logits


def own_name(name):
    """libser's name of a parameter."""
    name = name.replace("parametrizations.weight.original0", "weight_g")
    name = name.replace("parametrizations.weight.original1", "weight_v")
    if name == "layer_weights":
        return "layer_mix.weight"
    for ours, theirs in (("classifier.1.", "classifier."), ("classifier.0.", "projector.")):
        rest = name.removeprefix(theirs)
        if rest in ("weight", "bias"):
            return ours + rest
    return name


def decays(name, p):
    return p.dim() >= 2 and not name.endswith("original0") and not name.endswith("weight_g")


def train(model, loss):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if decays(n, p)], "weight_decay": DECAY},
            {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
        ],
        lr=RATE,
        betas=BETAS,
        eps=EPS,
    )
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_([p for _, p in named], CLIP)))
        optimizer.step()
        losses.append(float(value.detach()))
    return losses, norms


class Case:
    """A network, three clips, and the loss over them."""

    def __init__(self, name, seed=900):
        self.model, self.logits = MODELS[name]()
        self.model.eval()
        for n, p in self.model.named_parameters():
            p.requires_grad_(not n.endswith("masked_spec_embed") and ".mel." not in n)
        self.inputs = [clip(n, seed + n) for n in LENGTHS]
        classes = [p for n, p in self.model.named_parameters() if n.startswith("classifier")][-1]
        self.labels = torch.tensor([1, 0, len(classes) - 1])
        self.weight = torch.linspace(0.5, 1.5, len(classes), dtype=torch.float64)

    def loss(self, dtype, cut=0):
        """Of the clips in that type without their first samples; from the logits on at least
        float32."""
        clips = [torch.from_numpy(x[cut:].astype(np.float64)).to(dtype) for x in self.inputs]
        rows = [self.logits(x) for x in clips]
        logits = torch.stack([x if x.dtype == torch.float64 else x.float() for x in rows])
        weight = self.weight.to(logits.dtype)
        return F.cross_entropy(logits, self.labels, weight=weight, label_smoothing=SMOOTHING)

    def gradients(self, loss):
        """{libser's name: gradient}"""
        self.model.zero_grad()
        loss.backward()
        named = self.model.named_parameters()
        return {own_name(n): p.grad for n, p in named if p.requires_grad and p.grad is not None}

    def train(self, loss):
        """Losses and norms of ten steps; the weights are afterwards as they were."""
        kept = [p.detach().clone() for p in self.model.parameters()]
        values = train(self.model, loss)
        for p, value in zip(self.model.parameters(), kept):
            p.data.copy_(value)
        return values


def write(name, directory=HERE, seed=900):
    case = Case(name, seed)
    case.model.double()
    tensors = {f"input.{i}": x for i, x in enumerate(case.inputs)}
    for n, gradient in case.gradients(case.loss(torch.float64)).items():
        tensors["grad." + n] = gradient.float().numpy()
    losses, norms = case.train(lambda: case.loss(torch.float64))
    tensors["labels"] = case.labels.float().numpy()
    tensors["class_weight"] = case.weight.float().numpy()
    tensors["losses"] = np.array(losses, np.float32)
    tensors["norms"] = np.array(norms, np.float32)
    numbers = {"rate": RATE, "decay": DECAY, "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS}
    numbers |= {"clip": CLIP, "smoothing": SMOOTHING}
    save_file(
        tensors,
        directory / f"{name}.training.safetensors",
        {"torch": torch.__version__, "transformers": transformers.__version__}
        | {key: repr(value) for key, value in numbers.items()},
    )
    print(name, "losses", " ".join(f"{x:.4f}" for x in losses), "norm", f"{norms[0]:.3f}")


MODELS = {"attention_pool": attention_pool, "large": large, "logmel": logmel}

if __name__ == "__main__":
    for name in MODELS:
        write(name)
