# SPDX-License-Identifier: MIT
"""Write bf16_errors.safetensors: how far PyTorch's own bf16 is from the golden files.

    python bf16_errors.py                  # of all golden files beside this script, a minute
    python bf16_errors.py --full DIR       # of the one that make_golden.py --full wrote

Every model runs on the clips of its golden file with weights and activations in bf16, as
`model.bfloat16()` leaves them. For each stage that libser has, too, the scalar
`<golden>/stage.N.<name>` is |bf16 - golden| / |golden|, both norms over all elements that the
golden file holds. tests/net/test_golden.c measures bf16 in libser against these numbers.

What is stored is transformers' default, its fused attention. A table compares it with eager
attention and with torch.autocast over float32 weights, which are not stored.
"""

import argparse
import collections
import contextlib
import json
import math
import pathlib

import numpy as np
import safetensors
import safetensors.numpy
import torch
import transformers

import ser_mini
from golden_models import Head, backbone_of, frame_count, wav2vec2_config
from make_golden import MINI_STAGES, save_file

HERE = pathlib.Path(__file__).resolve().parent
OUTPUT = "bf16_errors.safetensors"

# Name in the table: type of weights and activations, attention of transformers, autocast.
Variant = collections.namedtuple("Variant", "dtype attention autocast")
VARIANTS = {
    "bf16": Variant(torch.bfloat16, "sdpa", False),
    "eager": Variant(torch.bfloat16, "eager", False),
    "autocast": Variant(torch.float32, "sdpa", True),
}
STORED = "bf16"


# --- Models ---------------------------------------------------------------------------------------


def load_directory(path):
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    return getattr(transformers, name).from_pretrained(path, dtype=torch.float32).eval()


def load_ser(path):
    """A file of our own format with a transformers backbone, as make_golden.save_ser wrote it."""
    with safetensors.safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    features, encoder = config["features"], config["encoder"]
    backbone = wav2vec2_config(
        conv_dim=features["conv_dim"],
        conv_kernel=features["conv_kernel"],
        conv_stride=features["conv_stride"],
        conv_bias=features["conv_bias"],
        feat_extract_norm=features["norm"],
        hidden_size=encoder["hidden_size"],
        num_hidden_layers=encoder["num_hidden_layers"],
        num_attention_heads=encoder["num_attention_heads"],
        intermediate_size=encoder["intermediate_size"],
        do_stable_layer_norm=encoder["norm"] == "pre",
        layer_norm_eps=encoder["layer_norm_eps"],
        num_conv_pos_embeddings=encoder["position_kernel"],
        num_conv_pos_embedding_groups=encoder["position_groups"],
    )
    assert encoder["feature_norm"]
    model = Head(transformers.Wav2Vec2Model(backbone), config).eval()
    parameters = dict(model.named_parameters())
    for name, p in parameters.items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        if not name.endswith("masked_spec_embed"):
            p.data.copy_(tensors.pop(name))
    assert not tensors, sorted(tensors)
    return model


# --- Forward passes, stages under the names of README.md ------------------------------------------


def pool(model, states, mask):
    """As transformers does, which projects first."""
    x = states[-1]
    if model.config.use_weighted_layer_sum:
        weight = model.layer_weights.softmax(-1)
        x = (torch.stack(states, 1) * weight.view(-1, 1, 1)).sum(1)
    if mask is None:
        return x.mean(1)
    kept = model._get_feature_vector_attention_mask(x.shape[1], mask)
    return (x * kept[:, :, None]).sum(1) / kept.sum(1)[:, None]


def forward(model, x, mask):
    """A padded batch through transformers."""
    backbone, stages = backbone_of(model), {}
    hooks = [
        backbone.feature_extractor.register_forward_hook(
            lambda module, inputs, y: stages.update(features=y.transpose(1, 2))
        ),
        backbone.feature_projection.register_forward_hook(
            lambda module, inputs, y: stages.update(projected=y[0] if isinstance(y, tuple) else y)
        ),
    ]
    model.config.tie_last_hidden_states = True  # as the golden files have it
    states = backbone(x, attention_mask=mask, output_hidden_states=True).hidden_states
    stages.update((f"hidden.{i}", state) for i, state in enumerate(states))
    if isinstance(model, Head):
        stages["logits"] = model(states, stages)
    elif model is not backbone:
        stages["pooled"] = pool(model, states, mask)
        stages["logits"] = model(x, attention_mask=mask).logits
    for hook in hooks:
        hook.remove()
    if "logits" in stages:
        stages["probabilities"] = stages["logits"].softmax(-1)
    return stages


def run_transformers(model, clips, batch, masked, variant, context):
    """A list of stages, one entry per clip."""
    model.to(variant.dtype)
    backbone_of(model).set_attn_implementation(variant.attention)
    inputs = [torch.from_numpy(x.astype(np.float32)).to(variant.dtype) for x in clips]
    if not batch:
        with context():
            runs = [forward(model, x[None], None) for x in inputs]
        return [{name: y[0] for name, y in stages.items()} for stages in runs]
    longest = max(len(x) for x in inputs)
    x = torch.stack([torch.nn.functional.pad(x, (0, longest - len(x))) for x in inputs])
    mask = torch.stack([(torch.arange(longest) < len(x)).long() for x in inputs])
    with context():
        stages = forward(model, x, mask if masked else None)
    out = []
    for i, clip in enumerate(inputs):
        count = frame_count(model.config, len(clip) if masked else longest)
        out.append({name: y[i, :count] if y.dim() == 3 else y[i] for name, y in stages.items()})
    return out


def mini_to(model, weights, activations):
    """Give ser_mini's weights that type, and round what goes into its layers; returns the hook."""
    for p in model.parameters():  # mean and deviation of the log-mels are buffers
        p.data = p.data.to(weights)
    return model.wav2vec2.feature_extractor.mel.register_forward_hook(
        lambda module, inputs, y: y.to(activations)
    )


def run_mini(model, raw, variant, context):
    """ser_mini. The front end and the level after it, which are no layers of a network, stay in
    float32; what they give is rounded."""
    hook = mini_to(model, variant.dtype, variant.dtype)
    layers = model.config["encoder"]["num_hidden_layers"]
    names = {theirs: ours for ours, theirs in MINI_STAGES.items() if theirs != "mel"}
    names.update((f"layer.{i}", f"hidden.{i + 1}") for i in range(layers - 1))
    names["encoder"] = f"hidden.{layers}"
    out = []
    for x in raw:
        mel = model.front_end(torch.from_numpy(x))[1]
        y = {}
        with context():
            logits = model(mel[None], torch.tensor([len(mel)]), y)
        y.update(logits=logits, probabilities=logits.softmax(1))
        stages = {names[theirs]: value[0] for theirs, value in y.items() if theirs in names}
        stages["alpha"] = stages["alpha"][:, None]
        out.append(stages)
    hook.remove()
    return out


# --- Errors ---------------------------------------------------------------------------------------


def relative_l2(x, y):
    return float(torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y))


class Golden:
    def __init__(self, path):
        self.name = path.stem
        with safetensors.safe_open(path, "np") as file:
            self.info = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.model_path = path.parent / self.info["model"]
        self.clips = int(self.info["clips"])

    def inputs(self, kind):
        return [self.tensors[f"{kind}.{n}"] for n in range(self.clips)]

    def run(self, variant):
        def context():
            stack = contextlib.ExitStack()
            stack.enter_context(torch.no_grad())
            stack.enter_context(
                torch.autocast("cpu", dtype=torch.bfloat16, enabled=variant.autocast)
            )
            return stack

        if "raw.0" in self.tensors:
            return run_mini(ser_mini.load(self.model_path), self.inputs("raw"), variant, context)
        load = load_directory if self.model_path.is_dir() else load_ser
        return run_transformers(
            load(self.model_path),
            self.inputs("input"),
            self.info["mode"] == "batch",
            self.info["padding"] == "exact",
            variant,
            context,
        )

    def errors(self, variant):
        """{stage.N.name: relative L2}; every stage of the file but the log-mels must be there."""
        errors = {}
        for n, stages in enumerate(self.run(variant)):
            step = int(self.tensors[f"stride.{n}"][0])
            for name, y in stages.items():
                key = f"stage.{n}.{name}"
                if key in self.tensors:
                    rows = y[::step] if y.dim() == 2 else y
                    wanted = torch.from_numpy(self.tensors[key]).double()
                    assert rows.shape == wanted.shape, (self.name, key, rows.shape, wanted.shape)
                    errors[key] = relative_l2(rows.double(), wanted)
        known = {key for key in self.tensors if key.startswith("stage.") and "log_mel" not in key}
        assert set(errors) == known, sorted(known.symmetric_difference(errors))
        return errors


def kind_of(key):
    return key.split(".", 2)[2]


def root_mean_square(values):
    return math.sqrt(sum(x * x for x in values) / len(values))


def print_table(name, by_variant):
    kinds = list(dict.fromkeys(kind_of(key) for key in by_variant[STORED]))
    for kind in kinds:
        row = [
            root_mean_square([e for key, e in errors.items() if kind_of(key) == kind])
            for errors in by_variant.values()
        ]
        print(f"{name:18s} {kind:14s}" + "".join(f" {x:9.1e}" for x in row), flush=True)


def golden_paths(directory):
    for path in sorted(directory.glob("*.safetensors")):
        with safetensors.safe_open(path, "np") as file:
            if (file.metadata() or {}).get("float32_error"):
                yield path


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full", metavar="DIR", type=pathlib.Path, help="the full-size golden here, and its errors"
    )
    directory = parser.parse_args().full or HERE
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    tensors = {}
    print("PyTorch against the golden files, relative L2, root mean square over the clips:")
    print(f"{'golden':18s} {'stage':14s}" + "".join(f" {name:>9s}" for name in VARIANTS))
    for path in golden_paths(directory):
        golden = Golden(path)
        by_variant = {name: golden.errors(variant) for name, variant in VARIANTS.items()}
        print_table(golden.name, by_variant)
        for key, error in by_variant[STORED].items():
            tensors[f"{golden.name}/{key}"] = np.array([error], np.float32)
    info = {
        "attention": VARIANTS[STORED].attention,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    save_file(tensors, directory / OUTPUT, info)


if __name__ == "__main__":
    main()
