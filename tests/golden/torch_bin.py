# SPDX-License-Identifier: MIT
"""Write tests/golden/torch_bin: pytorch_model.bin files by PyTorch, and what is in them.

    python torch_bin.py        # PyTorch 2.11 and transformers 5.23 were used

<name>/pytorch_model.bin beside its config.json is what people download; <name>.safetensors has the
same tensors as F32, contiguous, for comparison. Every seed is here; PyTorch stores a hash of its
version in the archives, so the bytes change with it, the tensors do not.
"""

import copy
import json
import pathlib
import shutil

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent / "torch_bin"
SHAPE = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    conv_dim=(8, 8),
    conv_kernel=(10, 3),
    conv_stride=(5, 2),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
)
LABELS = dict(enumerate(["neutral", "happy", "sad"]))
PREPROCESSOR = {"do_normalize": True, "feature_size": 1, "padding_value": 0.0, "sampling_rate": 16000}


def randomized(model, seed):
    """The state dict with values that all differ, norms included."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for value in state.values():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return state


def as_floats(state):
    return {k: v.detach().clone().to(torch.float32).contiguous() for k, v in state.items()}


def write(name, config, state, shards=None):
    """A directory with config and archive, and the tensors as they are to be read."""
    folder = HERE / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1, default=str) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR) + "\n")
    safetensors.torch.save_file(as_floats(state), HERE / f"{name}.safetensors", {"format": "pt"})
    if shards is None:
        torch.save(state, folder / "pytorch_model.bin")
        return
    where = {}
    for i in range(shards):
        base = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin"
        part = {k: v.clone() for j, (k, v) in enumerate(state.items()) if j % shards == i}
        torch.save(part, folder / base)
        where.update(dict.fromkeys(part, base))
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


def renamed(state, old, new):
    result = copy.copy(state)  # keeps _metadata, which torch.save writes
    for key in list(state):
        value = result.pop(key)
        result[key.replace(old[0], new[0]).replace(old[1], new[1])] = value
    return result


def pretraining():
    """What most backbones are published as; the positional convolution as PyTorch 1 spelled it."""
    config = transformers.Wav2Vec2Config(
        **SHAPE, codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=4,
        num_codevector_groups=2, architectures=["Wav2Vec2ForPreTraining"])
    state = randomized(transformers.Wav2Vec2ForPreTraining(config), 1)
    state = renamed(state, ("parametrizations.weight.original0", "parametrizations.weight.original1"),
                    ("weight_g", "weight_v"))
    write("pretraining", config, state)


def bare():
    """Names without a prefix, in two files."""
    config = transformers.Wav2Vec2Config(
        **SHAPE, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True,
        architectures=["Wav2Vec2Model"])
    write("bare", config, randomized(transformers.Wav2Vec2Model(config), 2), shards=2)


def classifier():
    """A finished classifier whose tensors lie as they like: transposed, in one storage, as slices."""
    config = transformers.Wav2Vec2Config(
        **SHAPE, classifier_proj_size=12, id2label=LABELS, label2id={v: k for k, v in LABELS.items()},
        architectures=["Wav2Vec2ForSequenceClassification"])
    state = randomized(transformers.Wav2Vec2ForSequenceClassification(config), 3)
    state["projector.weight"] = state["projector.weight"].t().contiguous().t()
    for i in range(config.num_hidden_layers):
        names = [f"wav2vec2.encoder.layers.{i}.attention.{p}_proj.weight" for p in "qkv"]
        for name, part in zip(names, torch.cat([state[n] for n in names]).chunk(3)):
            state[name] = part
        norm = f"wav2vec2.encoder.layers.{i}.final_layer_norm.weight"
        state[norm] = torch.stack([state[norm], torch.zeros(16)], dim=1)[:, 0]
    conv = "wav2vec2.feature_extractor.conv_layers.1.conv.weight"
    state[conv] = state[conv].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    write("classifier", config, state)


def half():
    """Values of 16 bits, in both formats."""
    config = transformers.HubertConfig(
        **SHAPE, classifier_proj_size=12, id2label=LABELS, label2id={v: k for k, v in LABELS.items()},
        architectures=["HubertForSequenceClassification"])
    state = randomized(transformers.HubertForSequenceClassification(config), 4)
    for key in state:
        state[key] = state[key].to(torch.bfloat16 if "encoder" in key else torch.float16)
    transposed = "hubert.feature_projection.projection.weight"
    state[transposed] = state[transposed].t().contiguous().t()
    write("half", config, state)


def views():
    """Tensors of all kinds, without a model around them."""
    big = torch.arange(120, dtype=torch.float32).reshape(4, 5, 6)
    state = {
        "plain": big.clone(),
        "permuted": big.clone().permute(2, 0, 1),
        "slice": big.clone()[1:3, ::2, 1:6:3],
        "shared.all": big,
        "shared.row": big[2],
        "shared.column": big[:, 3, 4],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 7),
        "unit": torch.arange(3.0).reshape(3, 1, 1).expand(3, 1, 1),
        "parameter": torch.nn.Parameter(torch.arange(4.0)),
        "half": torch.tensor([1.0, -2.5, 65504.0, 6e-8]).to(torch.float16),
        "bfloat": torch.tensor([1.0, -2.5, 3e38, 1e-40]).to(torch.bfloat16),
        "half.permuted": torch.arange(6.0).reshape(2, 3).to(torch.float16).t(),
    }
    others = {
        "double": torch.tensor([0.5], dtype=torch.float64),
        "long": torch.tensor([2**40]),
        "int": torch.tensor([7], dtype=torch.int32),
        "short": torch.tensor([7], dtype=torch.int16),
        "char": torch.tensor([7], dtype=torch.int8),
        "byte": torch.tensor([7], dtype=torch.uint8),
        "bool": torch.tensor([True]),
    }
    torch.save({**state, **others}, HERE / "views.bin")
    safetensors.torch.save_file(as_floats(state), HERE / "views.safetensors")


def refused():
    """Files of PyTorch that are not read."""
    state = {"weight": torch.arange(3.0)}
    torch.save(state, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(state, HERE / "protocol4.bin", pickle_protocol=4)
    torch.save(torch.nn.Linear(1, 1), HERE / "module.bin")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), HERE / "script.bin")
    torch.save({"state_dict": state, "epoch": 3}, HERE / "nested.bin")
    torch.save({"weight": torch.zeros(2).to(torch.complex64)}, HERE / "complex.bin")


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    for make in (pretraining, bare, classifier, half, views, refused):
        make()
    for path in HERE.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    print(sum(p.stat().st_size for p in HERE.rglob("*") if p.is_file()), "bytes")


main()
