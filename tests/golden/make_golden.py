# SPDX-License-Identifier: MIT
"""Write the golden files of README.md: small random models and every stage of their forward pass.

    python make_golden.py                  # all of them, beside this script
    python make_golden.py base logmel      # some
    python make_golden.py --full DIR       # one of full size (95 M parameters), for a check by hand

The references are computed by PyTorch in float64, by transformers' eager code or by ser_mini.py,
and stored as float32. A table of PyTorch's own float32 error against them is printed.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np
import safetensors
import safetensors.numpy
import torch
import transformers

import ser_mini
from golden_models import (
    LARGE,
    TINY,
    Head,
    clip,
    labelled,
    randomize,
    recording,
    relative_error,
    run_batch,
    run_each,
    wav2vec2_config,
)

HERE = pathlib.Path(__file__).resolve().parent
EMOTIONS = ser_mini.LABELS
LENGTHS = [400, 401, 16001, 80000, 123457]
FULL_ROWS = 64  # clips of more frames than this are stored every STRIDE-th frame
STRIDE = 9


# --- Files ----------------------------------------------------------------------------------------


def save_file(tensors, path, metadata):
    safetensors.numpy.save_file(tensors, path, metadata)
    settle(path)


def settle(path):
    """The library writes metadata in a random order: make the same content the same bytes."""
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[size:])
    path.chmod(0o644)


def write(path, info, clips, reference, single, names="input"):
    """One golden file; returns the float32 error of each stage. `clips`: arrays, dicts of them."""
    tensors, errors = {}, {}
    for n, (x, stages) in enumerate(zip(clips, reference)):
        for name, value in (x if isinstance(x, dict) else {names: x}).items():
            tensors[f"{name}.{n}"] = np.ascontiguousarray(value)
        frames = len(stages["features"])
        step = STRIDE if frames > FULL_ROWS and not info.get("all_rows") else 1
        tensors[f"frames.{n}"] = np.array([frames], np.float32)
        tensors[f"stride.{n}"] = np.array([step], np.float32)
        for name, y in stages.items():
            assert torch.isfinite(y).all(), (path, n, name)
            errors[name] = max(errors.get(name, 0.0), relative_error(single[n][name], y))
            rows = y[::step] if y.dim() == 2 else y
            tensors[f"stage.{n}.{name}"] = rows.float().contiguous().numpy()
    metadata = {key: str(value) for key, value in info.items() if key != "all_rows"}
    metadata.update(
        clips=str(len(clips)),
        torch=torch.__version__,
        transformers=transformers.__version__,
        float32_error=json.dumps({k: float(f"{v:.1e}") for k, v in errors.items()}),
    )
    save_file(tensors, path, metadata)
    return errors


def check_lively(name, reference):
    """A golden whose outputs hardly depend on the weights would prove nothing."""
    stages = max(reference, key=lambda s: len(s["features"]))
    for stage, y in stages.items():
        if y.dim() == 2 and len(y) > 8 and stage != "alpha":
            assert float(y.std(0).mean()) > 0.03, (name, stage, float(y.std(0).mean()))
        if stage == "alpha" and len(y) > 8:
            assert float(y.max()) > 1.5 / len(y), (name, float(y.max()) * len(y))
    if "logits" in stages:
        assert float(stages["logits"].std()) > 0.05, name


def save_directory(model, path, do_normalize=True, **options):
    """As transformers writes it."""
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path, **options)
    masked = model.config.feat_extract_norm == "layer"
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=do_normalize, return_attention_mask=masked
    ).save_pretrained(path)
    for file in path.glob("*.safetensors"):
        file.chmod(0o644)


def respell_weight_norm(path):
    """The names that PyTorch before 2.0 gave the positional convolution."""
    file = path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    for new, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        for name in [name for name in tensors if name.endswith(new)]:
            tensors[name.replace(new, old)] = tensors.pop(name)
    save_file(tensors, file, {"format": "pt"})


def make_model(kind, config, seed):
    config._attn_implementation = "eager"
    model = kind(config).eval()
    randomize(model, seed)
    return model


def golden(path, model, clips, seed, mode, padding, model_path, all_rows=False):
    """Reference in float64, its float32 twin, and the file."""
    arrays = [np.asarray(x) for x in clips]

    def run(dtype):
        inputs = [torch.from_numpy(x.astype(np.float32)).to(dtype) for x in arrays]
        if mode == "each":
            return run_each(model, inputs)
        return run_batch(model, inputs, masked=padding == "exact")

    single = run(torch.float32)
    model.double()
    reference = run(torch.float64)
    model.float()
    check_lively(path.stem, reference)
    info = {
        "model": model_path,
        "mode": mode,
        "padding": padding,
        "seed": seed,
        "all_rows": all_rows,
    }
    return write(path, info, arrays, reference, single)


# --- The goldens ----------------------------------------------------------------------------------


def padding_of(config):
    """transformers gives group-norm models no attention mask."""
    return "hf" if config.feat_extract_norm == "group" else "exact"


def directory_golden(
    name, seed, kind, config, lengths, batch=None, dtype=None, respell=False, **save
):
    """A transformers directory, the golden of its clips alone, perhaps one of a padded batch."""
    model = make_model(kind, config, seed)
    if dtype:
        model.to(dtype)
    save_directory(model, HERE / name, **save)
    if respell:
        respell_weight_norm(HERE / name)
    # What is measured is what was written, so the directory is known to be good.
    model = kind.from_pretrained(
        HERE / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    errors = {
        name: golden(
            HERE / f"{name}.safetensors",
            model,
            [clip(n, seed + n) for n in lengths],
            seed,
            "each",
            padding_of(config),
            name,
        )
    }
    if batch:
        padded = f"{name}_padded"
        errors[padded] = golden(
            HERE / f"{padded}.safetensors",
            model,
            [clip(n, seed + 7 * n) for n in batch],
            seed,
            "batch",
            padding_of(config),
            name,
        )
    return errors


def base():
    return directory_golden(
        "base",
        1,
        transformers.Wav2Vec2ForSequenceClassification,
        wav2vec2_config(**labelled(EMOTIONS)),
        LENGTHS,
        batch=[9001, 16000, 400],
    )


def large():
    config = wav2vec2_config(
        **LARGE,
        **labelled(["neg", "neu", "pos"]),
        use_weighted_layer_sum=True,
        conv_dim=[20, 24, 24, 28, 32, 32, 36],
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=88,
    )
    return directory_golden(
        "large",
        2,
        transformers.Wav2Vec2ForSequenceClassification,
        config,
        LENGTHS,
        batch=[9001, 16000, 400],
    )


def hubert():
    config = wav2vec2_config(
        transformers.HubertConfig,
        **labelled(["neu", "hap", "ang", "sad"]),
        feat_proj_layer_norm=False,
        use_weighted_layer_sum=True,
        num_conv_pos_embeddings=31,
        num_hidden_layers=3,
        conv_dim=[16] * 7,
        conv_bias=True,
    )
    return directory_golden(
        "hubert", 3, transformers.HubertForSequenceClassification, config, [400, 16001, 24000]
    )


def hubert_large():
    """Bare backbone, names without a prefix."""
    config = wav2vec2_config(transformers.HubertConfig, **{**TINY, **LARGE})
    return directory_golden("hubert_large", 4, transformers.HubertModel, config, [400, 8003])


def backbone():
    """Bare backbone, names without a prefix."""
    return directory_golden(
        "backbone", 5, transformers.Wav2Vec2Model, wav2vec2_config(**TINY), [400, 8003]
    )


def sharded():
    config = wav2vec2_config(**{**TINY, **LARGE, "num_hidden_layers": 3})
    return directory_golden(
        "sharded",
        6,
        transformers.Wav2Vec2ForSequenceClassification,
        config,
        [400, 8003],
        max_shard_size="20KB",
    )


def old_names():
    return directory_golden(
        "old_names",
        7,
        transformers.Wav2Vec2ForSequenceClassification,
        wav2vec2_config(**TINY),
        [400, 8003],
        respell=True,
        do_normalize=False,
    )


def float16():
    return directory_golden(
        "float16",
        8,
        transformers.Wav2Vec2ForSequenceClassification,
        wav2vec2_config(**TINY),
        [400, 8003],
        dtype=torch.float16,
    )


def bfloat16():
    return directory_golden(
        "bfloat16",
        9,
        transformers.Wav2Vec2ForSequenceClassification,
        wav2vec2_config(**TINY),
        [400, 8003],
        dtype=torch.bfloat16,
    )


def ser_config(backbone, labels, padding, layer_mix, pooling, classifier):
    """The `config` of models/FORMAT.md for a transformers backbone."""
    return {
        "labels": labels,
        "padding": padding,
        "features": {
            "type": "conv",
            "conv_dim": list(backbone.conv_dim),
            "conv_kernel": list(backbone.conv_kernel),
            "conv_stride": list(backbone.conv_stride),
            "conv_bias": backbone.conv_bias,
            "norm": backbone.feat_extract_norm,
        },
        "encoder": {
            "hidden_size": backbone.hidden_size,
            "num_hidden_layers": backbone.num_hidden_layers,
            "num_attention_heads": backbone.num_attention_heads,
            "intermediate_size": backbone.intermediate_size,
            "norm": "pre" if backbone.do_stable_layer_norm else "post",
            "layer_norm_eps": backbone.layer_norm_eps,
            "feature_norm": True,
            "position_kernel": backbone.num_conv_pos_embeddings,
            "position_groups": backbone.num_conv_pos_embedding_groups,
        },
        "layer_mix": layer_mix,
        "pooling": pooling,
        "classifier": classifier,
    }


def save_ser(model, path):
    tensors = {}
    for name, p in model.named_parameters():
        if not name.endswith("masked_spec_embed"):
            name = name.replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
            tensors[name] = p.detach().numpy()
    save_file(
        tensors, path, {"format": "ser", "version": "1", "config": json.dumps(model.ser_config)}
    )


def own_golden(name, seed, backbone, config, lengths, mode):
    backbone._attn_implementation = "eager"
    model = Head(transformers.Wav2Vec2Model(backbone), config).eval()
    randomize(model, seed)
    path = HERE / f"{name}.model.safetensors"
    save_ser(model, path)
    clips = [clip(n, seed + n) for n in lengths]
    return {
        name: golden(
            HERE / f"{name}.safetensors", model, clips, seed, mode, config["padding"], path.name
        )
    }


def attention_pool():
    """The reference head on a base-like backbone; padding "exact", which no batch may change."""
    backbone = wav2vec2_config()
    config = ser_config(
        backbone,
        EMOTIONS,
        "exact",
        False,
        {"type": "attention"},
        {"sizes": [28, 20], "activation": "relu"},
    )
    return own_golden("attention_pool", 10, backbone, config, [16001, 400, 9001], "each")


def attention_pool_hf():
    """Scores with a hidden layer over mixed layers; the padding counts as speech."""
    backbone = wav2vec2_config(**TINY, num_hidden_layers=3)
    config = ser_config(
        backbone,
        ["calm", "tense"],
        "hf",
        True,
        {"type": "attention", "hidden": 12},
        {"sizes": [14], "activation": "tanh"},
    )
    return own_golden("attention_pool_hf", 21, backbone, config, [9001, 400, 12345], "batch")


MINI_STAGES = {
    "log_mel": "mel",
    "mel": "level",
    "features": "features",
    "projected": "projection",
    "hidden.0": "position",
    "alpha": "attention",
    "pooled": "pooled",
    "logits": "logits",
    "probabilities": "probabilities",
}


def mini_stages(model, x):
    """ser_mini's stages under the names of README.md."""
    with torch.no_grad():
        y = model.stages(x)
    out = {ours: y[theirs] for ours, theirs in MINI_STAGES.items()}
    out["alpha"] = out["alpha"][:, None]
    layers = model.config["encoder"]["num_hidden_layers"]
    for i in range(layers):
        out[f"hidden.{i + 1}"] = y[f"layer.{i}"]
    out[f"hidden.{layers}"] = y["encoder"]
    if model.config["pooling"]["type"] == "mean":
        del out["alpha"]
    return y["input"], out


def mini_golden(name, seed, config, lengths):
    """Log-mel models start from recordings: the front end is a stage, too."""
    model = ser_mini.tiny_model(seed, config)
    path = HERE / f"{name}.model.safetensors"
    ser_mini.save(model, path)
    settle(path)
    raw = [recording(n, seed + n) for n in lengths]
    single = [mini_stages(model, torch.from_numpy(x))[1] for x in raw]
    model.double()
    inputs, reference = zip(*(mini_stages(model, torch.from_numpy(x).double()) for x in raw))
    check_lively(name, reference)
    trimmed = any(len(y) < len(x) for x, y in zip(raw, inputs))
    assert trimmed == bool(config["audio"]["trim"]), name
    clips = [{"raw": x, "input": y.float().numpy()} for x, y in zip(raw, inputs)]
    info = {"model": path.name, "mode": "each", "padding": "exact", "seed": seed}
    return {name: write(HERE / f"{name}.safetensors", info, clips, reference, single)}


def logmel():
    return mini_golden("logmel", 12, ser_mini.tiny_config(), [16001, 3200, 20011])


def logmel_post():
    """The other value of every switch."""
    config = ser_mini.tiny_config()
    config["audio"].update(trim=None, normalize=False)
    config["features"]["conv_bias"] = False
    config["encoder"].update(norm="post", feature_norm=False, position_kernel=6)
    config.update(
        layer_mix=True, pooling={"type": "mean"}, classifier={"sizes": [], "activation": "relu"}
    )
    return mini_golden("logmel_post", 13, config, [16001, 3200])


def full(directory):
    """Full size: what transformers makes of wav2vec2-base with a classifier, 5 s."""
    directory.mkdir(parents=True, exist_ok=True)
    config = transformers.Wav2Vec2Config(**labelled(EMOTIONS))
    model = make_model(transformers.Wav2Vec2ForSequenceClassification, config, 14)
    save_directory(model, directory / "full")
    return {
        "full": golden(
            directory / "full.safetensors",
            model,
            [clip(80000, 14)],
            14,
            "each",
            padding_of(config),
            "full",
            all_rows=True,
        )
    }


GOLDENS = [
    base,
    large,
    hubert,
    hubert_large,
    backbone,
    sharded,
    old_names,
    float16,
    bfloat16,
    attention_pool,
    attention_pool_hf,
    logmel,
    logmel_post,
]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="goldens to write; default: all")
    parser.add_argument(
        "--full", metavar="DIR", type=pathlib.Path, help="write the full-size golden here"
    )
    arguments = parser.parse_args()
    known = {make.__name__: make for make in GOLDENS}
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    chosen = [known[name] for name in arguments.names] or ([] if arguments.full else GOLDENS)
    errors = {}
    for make in chosen:
        errors.update(make())
    if arguments.full:
        errors.update(full(arguments.full))
    print("PyTorch float32 against float64, largest error over largest value:")
    print(f"{'golden':20s} {'features':>9s} {'last':>9s} {'logits':>9s} {'worst stage':>22s}")
    for name, stages in errors.items():
        last = max((s for s in stages if s.startswith("hidden.")), key=lambda s: int(s[7:]))
        worst = max(stages, key=stages.get)
        logits = f"{stages['logits']:9.1e}" if "logits" in stages else f"{'-':>9s}"
        print(
            f"{name:20s} {stages['features']:9.1e} {stages[last]:9.1e} {logits} "
            f"{worst:>12s} {stages[worst]:9.1e}"
        )


if __name__ == "__main__":
    main()
