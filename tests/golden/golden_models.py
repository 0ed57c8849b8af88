# SPDX-License-Identifier: MIT
"""Inputs, weights and forward passes of the golden files; make_golden.py writes them."""

import math

import numpy as np
import torch
import transformers
from torch import nn

import ser_mini

# Geometry of wav2vec 2.0: 320 samples per frame, 400 samples for the first.
KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]

# --- Inputs and weights ---------------------------------------------------------------------------


def clip(samples, seed):
    """A voiced sound with syllables and breath noise: zero mean, unit variance, float16."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16000.0
    pitch = 130.0 + 45.0 * np.sin(2 * np.pi * 1.3 * t + rng.uniform(0, 6)) + 20.0 * t
    phase = 2 * np.pi * np.cumsum(pitch) / 16000.0
    voice = sum(
        np.sin(h * phase + rng.uniform(0, 6)) / h ** rng.uniform(0.6, 1.4) for h in range(1, 12)
    )
    syllables = np.clip(np.sin(2 * np.pi * 3.7 * t + rng.uniform(0, 2)) + 0.6, 0.0, None)
    x = voice * (syllables + 0.01) + rng.normal(0.0, 0.05, samples)
    return ((x - x.mean()) / x.std()).astype(np.float16)


def recording(samples, seed):
    """What a microphone gives: quiet ends, low level, an offset; multiples of 2^-15."""
    x = 0.07 * clip(samples, seed).astype(np.float64) / 3.0
    rng = np.random.default_rng(seed + 1)
    ends = samples // 4
    x[:ends] *= 1e-3
    x[-(ends // 2) :] *= 1e-3
    x += 1e-4 * rng.normal(size=samples) + 1e-4
    return (np.round(x * 32768.0) / 32768.0).astype(np.float32)


def randomize(model, seed):
    """Weights that keep the variance and leave nothing at its neutral value.

    Queries and keys are large enough for attention to choose, norms and biases differ from 1 and 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if name.endswith("original0") or name.endswith("weight_g"):  # of the positional convolution
            value = math.sqrt(model.config.hidden_size / p.numel()) * (1.0 + 0.2 * noise)
        elif name.endswith("norm.weight"):
            value = 1.0 + 0.2 * noise
        elif name.endswith("layer_weights") or name.startswith("layer_mix"):
            value = noise
        elif p.dim() < 2:
            value = 0.2 * noise
        else:
            value = noise / math.sqrt(p[0].numel()) * gain(name)
        p.data.copy_(value)


def gain(name):
    if "q_proj" in name or "k_proj" in name or name.startswith("pooling"):
        return 1.6
    # The feed-forward sums and GELU lose power, which the next layer must find again.
    if "conv_layers" in name or "dense" in name:
        return 1.5
    # Attention averages: unchecked, it makes all frames of a deep network alike.
    if "out_proj" in name:
        return 0.5
    return 1.0


def wav2vec2_config(kind=transformers.Wav2Vec2Config, **changes):
    """Base-like: group norm, post-norm. Every entry of `changes` replaces one of these."""
    config = {
        "conv_dim": [24] * 7,
        "conv_kernel": KERNELS,
        "conv_stride": STRIDES,
        "conv_bias": False,
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 80,
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
        "classifier_proj_size": 20,
    }
    config.update(changes)
    return kind(**config)


def labelled(names):
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }


LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
TINY = {
    "conv_dim": [8, 8, 8, 8, 8, 8, 12],
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 10,
}


# --- Forward passes -------------------------------------------------------------------------------


class Head(nn.Module):
    """Pooling and classifier of models/FORMAT.md on a transformers backbone."""

    def __init__(self, backbone, config):
        super().__init__()
        self.wav2vec2 = backbone
        self.config = backbone.config
        self.ser_config = config
        hidden = self.config.hidden_size
        if config["layer_mix"]:
            self.layer_mix = ser_mini.LayerMix(self.config.num_hidden_layers + 1)
        self.pooling = ser_mini.Pooling(hidden, config["pooling"])
        sizes = [hidden] + config["classifier"]["sizes"] + [len(config["labels"])]
        self.classifier = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))

    def forward(self, hidden_states, stages):
        x = hidden_states[-1]
        if self.ser_config["layer_mix"]:
            weight = self.layer_mix.weight.softmax(0)
            x = sum(w * state for w, state in zip(weight, hidden_states))
        x, alpha = self.pooling(x, torch.ones_like(x[:, :, :1]))
        stages["alpha"] = alpha[:, :, None]
        stages["pooled"] = x
        activation = ser_mini.ACTIVATIONS[self.ser_config["classifier"]["activation"]]
        for i, layer in enumerate(self.classifier):
            x = layer(activation(x) if i > 0 else x)
        return x


def backbone_of(model):
    return getattr(model, "wav2vec2", None) or getattr(model, "hubert", None) or model


def forward(model, x, mask=None):
    """Stages of a padded batch [B, samples] under the names of README.md, [B, rows, channels]."""
    backbone, stages, hooks = backbone_of(model), {}, []

    def keep(name, pick):
        def hook(module, inputs, output):
            stages[name] = pick(output).clone()

        return hook

    hooks.append(
        backbone.feature_extractor.register_forward_hook(
            keep("features", lambda y: y.transpose(1, 2))
        )
    )
    hooks.append(
        backbone.feature_projection.register_forward_hook(
            keep("projected", lambda y: y[0] if isinstance(y, tuple) else y)
        )
    )
    # The last hidden state is after the final LayerNorm, with pre-norm, too: the weighted sums of
    # published models were trained on that. transformers 5 does so only when told.
    model.config.tie_last_hidden_states = True
    try:
        with torch.no_grad():
            base = backbone(x, attention_mask=mask, output_hidden_states=True)
            states = base.hidden_states
            for i, state in enumerate(states):
                stages[f"hidden.{i}"] = state
            if isinstance(model, Head):
                stages["logits"] = model(states, stages)
            elif model is not backbone:
                stages["pooled"] = mean_pooled(model, states, mask)
                stages["logits"] = model(x, attention_mask=mask).logits
                again = model.classifier(model.projector(stages["pooled"]))
                assert relative_error(again, stages["logits"]) < 1e-5
    finally:
        for hook in hooks:
            hook.remove()
    assert len(states) == model.config.num_hidden_layers + 1
    assert torch.equal(states[-1], base.last_hidden_state)
    if "logits" in stages:
        stages["probabilities"] = stages["logits"].softmax(-1)
    return stages


def mean_pooled(model, states, mask):
    """What transformers pools; it projects first, which commutes with the mean."""
    x = states[-1]
    if model.config.use_weighted_layer_sum:
        weight = model.layer_weights.softmax(0)
        x = sum(w * state for w, state in zip(weight, states))
    keep = torch.ones_like(x[:, :, 0])
    if mask is not None:
        keep = model._get_feature_vector_attention_mask(x.shape[1], mask).to(x.dtype)
    return (x * keep[:, :, None]).sum(1) / keep.sum(1, keepdim=True)


def frame_count(config, samples):
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        samples = (samples - kernel) // stride + 1
    return samples


def run_each(model, clips):
    """Every clip alone."""
    out = []
    for x in clips:
        stages = forward(model, x[None])
        out.append({name: y[0] for name, y in stages.items()})
    return out


def run_batch(model, clips, masked):
    """All clips in one zero-padded batch; with a mask, only the frames that it leaves are kept."""
    longest = max(len(x) for x in clips)
    batch = torch.stack([nn.functional.pad(x, (0, longest - len(x))) for x in clips])
    mask = torch.stack([(torch.arange(longest) < len(x)).long() for x in clips]) if masked else None
    stages = forward(model, batch, mask)
    out = []
    for i, x in enumerate(clips):
        count = frame_count(model.config, len(x) if masked else longest)
        out.append({name: y[i, :count] if y.dim() == 3 else y[i] for name, y in stages.items()})
    return out


def relative_error(x, y):
    """Largest difference over the largest reference value."""
    return float((x.double() - y.double()).abs().max() / y.double().abs().max())
