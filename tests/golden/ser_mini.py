"""The small log-mel model of models/FORMAT.md in PyTorch: the definition of what libser computes.

Written to be read and compared, not to be fast: one clip at a time, a line of maths per line of
code. `Model.stages` returns every intermediate result of a clip; `forward` is the same network over
a padded batch with a length per clip, for training, and gives each clip the result it has alone.

    model = ser_mini.load("models/ser-mini.safetensors")                  # .double() for float64
    stages = model.stages(waveform)                                       # 1-D, at the model's rate
    print(model.config["labels"][int(stages["logits"].argmax())])
"""

import copy
import json
import math

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

LABELS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]

# The values of an absent key. `labels` and all of `features` but its norm have no default.
DEFAULTS = {
    "labels": None,
    "audio": {
        "sampling_rate": 16000,
        "normalize": True,
        "trim": None,
        "window": 5.0,
        "max_seconds": 30.0,
    },
    "padding": "exact",
    "features": {
        "type": "logmel",
        "mel": {"frame": 400, "hop": 160, "fft": 512, "bins": 80, "low": 50.0, "high": 8000.0,
                "floor": 1e-7},
        "conv_dim": [96, 128, 128],
        "conv_kernel": [5, 3, 3],
        "conv_stride": [2, 2, 2],
        "conv_padding": [2, 1, 1],
        "conv_bias": True,
        "norm": "layer",
    },
    "encoder": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "norm": "pre",
        "layer_norm_eps": 1e-5,
        "feature_norm": True,
        "position_kernel": 15,
        "position_groups": 16,
    },
    "layer_mix": False,
    "pooling": {"type": "attention", "hidden": 64},
    "classifier": {"sizes": [128], "activation": "gelu"},
    "training": {},
}


def default_config():
    """The example of FORMAT.md."""
    config = copy.deepcopy(DEFAULTS)
    config["labels"] = list(LABELS)
    config["audio"]["trim"] = {"threshold_db": 35.0, "margin": 0.1}
    return config


def tiny_config():
    """The same family in a few kilobytes, every size different from its neighbours, for goldens."""
    config = default_config()
    config["labels"] = ["neutral", "happy", "sad"]
    config["features"].update(conv_dim=[10, 12], conv_kernel=[5, 3], conv_stride=[2, 2],
                              conv_padding=[2, 1])
    config["features"]["mel"].update(bins=14, low=60.0, high=7600.0, floor=1e-5)
    config["encoder"].update(hidden_size=8, num_attention_heads=2, intermediate_size=18,
                             position_kernel=5, position_groups=4)
    config["pooling"]["hidden"] = 6
    config["classifier"]["sizes"] = [7]
    return config


def tiny_model(seed=0, config=None):
    """tiny_config with random weights, norms and biases included, so that a missing one shows."""
    model = Model(config or tiny_config()).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.state_dict().items()):
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("mel.mean"):
                p.copy_(noise - 3.0)
            elif name.endswith("mel.std"):
                p.copy_(2.0 + 0.5 * noise.abs())
            elif name.endswith("norm.weight") or name.endswith("weight_g"):
                p.copy_(1.0 + 0.2 * noise)
            elif p.dim() >= 2:
                p.copy_(noise / math.sqrt(p[0].numel()) * 1.5)
            else:
                p.copy_(0.2 * noise)
    return model


# --- Front end: waveform -> log-mel ---------------------------------------------------------------

def frames(x, size, hop):
    """[n] -> [1 + (n - size) / hop, size], whole frames only."""
    if x.numel() < size:
        return x.new_zeros(0, size)
    return x.unfold(0, size, hop)


def trim_span(x, rate, threshold_db, margin):
    """First and one-past-last sample of a clip without its leading and trailing silence."""
    size, hop = round(0.025 * rate), round(0.010 * rate)
    # In double: the comparison with the loudest frame decides a length, which must not hang on
    # rounding.
    power = frames(x.double(), size, hop).square().mean(1)
    if power.numel() == 0 or power.max() == 0:
        return 0, x.numel()
    loud = torch.nonzero(power > power.max() * 10.0 ** (-threshold_db / 10.0)).flatten()
    extra = round(margin * rate)
    begin = int(loud[0]) * hop - extra
    end = int(loud[-1]) * hop + size + extra
    return max(begin, 0), min(end, x.numel())


def trim(x, audio):
    if audio["trim"] is None:
        return x
    begin, end = trim_span(x, audio["sampling_rate"], **audio["trim"])
    return x[begin:end]


def normalize(x):
    """Zero mean and unit variance over the clip (moments in double, as the clip may be long)."""
    mean = x.double().mean()
    var = (x.double() - mean).square().mean()
    return ((x.double() - mean) / torch.sqrt(var + 1e-7)).to(x.dtype)


def mel_filters(mel, rate, dtype=torch.float64):
    """[fft / 2 + 1, bins]: triangles of peak 1 on the HTK scale, at the DFT bin centres."""
    def to_mel(hz):
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    points = torch.linspace(to_mel(mel["low"]), to_mel(mel["high"]), mel["bins"] + 2,
                            dtype=torch.float64)
    edges = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    hz = torch.arange(mel["fft"] // 2 + 1, dtype=torch.float64)[:, None] * rate / mel["fft"]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (hz - left) / (centre - left)
    falling = (right - hz) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0.0).to(dtype)


def log_mel(x, mel, rate):
    """[n] -> [frames, bins]: ln(triangles of the power spectrum + floor), no padding."""
    size, fft = mel["frame"], mel["fft"]
    n = torch.arange(size, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2.0 * math.pi * n / size)
    windowed = frames(x, size, mel["hop"]) * window.to(x.dtype)
    spectrum = torch.fft.rfft(windowed, n=fft)
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log(power @ mel_filters(mel, rate, x.dtype) + mel["floor"])


def output_length(n, features):
    """Frames after the convolutions, for n frames before them (int or tensor)."""
    for k, s, p in zip(features["conv_kernel"], features["conv_stride"], features["conv_padding"]):
        n = (n + 2 * p - k) // s + 1
    return n


# --- The network; attributes are nested so that state_dict has the names of the file --------------

class Mel(nn.Module):
    """The level: x - mean[bin], minus the clip's mean of that, divided by std[bin]."""

    def __init__(self, bins):
        super().__init__()
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("std", torch.ones(bins))

    def forward(self, x, mask):
        x = (x - self.mean) * mask
        cells = mask.sum((1, 2), keepdim=True) * x.shape[2]
        return (x - x.sum((1, 2), keepdim=True) / cells) / self.std * mask


class ConvLayer(nn.Module):
    """Convolution, LayerNorm over the channels, GELU."""

    def __init__(self, inputs, outputs, kernel, stride, padding, bias):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, padding, bias=bias)
        self.layer_norm = nn.LayerNorm(outputs)

    def forward(self, x):
        return F.gelu(self.layer_norm(self.conv(x.transpose(1, 2)).transpose(1, 2)))


class FeatureExtractor(nn.Module):
    def __init__(self, features):
        super().__init__()
        dims = [features["mel"]["bins"]] + features["conv_dim"]
        self.mel = Mel(dims[0])
        self.conv_layers = nn.ModuleList(
            ConvLayer(i, o, k, s, p, features["conv_bias"])
            for i, o, k, s, p in zip(dims, dims[1:], features["conv_kernel"],
                                     features["conv_stride"], features["conv_padding"]))


class FeatureProjection(nn.Module):
    def __init__(self, channels, hidden, norm, eps):
        super().__init__()
        if norm:
            self.layer_norm = nn.LayerNorm(channels, eps=eps)
        self.projection = nn.Linear(channels, hidden)

    def forward(self, x):
        return self.projection(self.layer_norm(x) if hasattr(self, "layer_norm") else x)


class WeightNormConv(nn.Module):
    """Grouped convolution whose weight is g[k] v[:, :, k] / |v[:, :, k]|."""

    def __init__(self, hidden, kernel, groups):
        super().__init__()
        self.groups = groups
        self.weight_v = nn.Parameter(
            torch.randn(hidden, hidden // groups, kernel) * math.sqrt(4.0 / (kernel * hidden)))
        self.weight_g = nn.Parameter(self.weight_v.detach().square().sum((0, 1), True).sqrt())
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x):
        kernel = self.weight_v.shape[2]
        norm = self.weight_v.square().sum((0, 1), keepdim=True).sqrt()
        y = F.conv1d(x.transpose(1, 2), self.weight_g * self.weight_v / norm, self.bias,
                     padding=kernel // 2, groups=self.groups)
        return y[:, :, :x.shape[1]].transpose(1, 2)    # an even kernel gives one frame too many


class PositionEmbedding(nn.Module):
    def __init__(self, hidden, kernel, groups):
        super().__init__()
        self.conv = WeightNormConv(hidden, kernel, groups)

    def forward(self, x):
        return F.gelu(self.conv(x))


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, hidden)

    def forward(self, x, mask):
        batch, time, hidden = x.shape
        q, k, v = (p(x).view(batch, time, self.heads, -1).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))
        score = q @ k.transpose(2, 3) / math.sqrt(hidden // self.heads)
        score = score.masked_fill(mask[:, None, None, :, 0] == 0, -math.inf)
        return self.out_proj((score.softmax(3) @ v).transpose(1, 2).reshape(batch, time, hidden))


class FeedForward(nn.Module):
    def __init__(self, hidden, intermediate):
        super().__init__()
        self.intermediate_dense = nn.Linear(hidden, intermediate)
        self.output_dense = nn.Linear(intermediate, hidden)

    def forward(self, x):
        return self.output_dense(F.gelu(self.intermediate_dense(x)))


class EncoderLayer(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        hidden, eps = encoder["hidden_size"], encoder["layer_norm_eps"]
        self.pre = encoder["norm"] == "pre"
        self.attention = Attention(hidden, encoder["num_attention_heads"])
        self.layer_norm = nn.LayerNorm(hidden, eps=eps)
        self.feed_forward = FeedForward(hidden, encoder["intermediate_size"])
        self.final_layer_norm = nn.LayerNorm(hidden, eps=eps)

    def forward(self, x, mask, dropout):
        if self.pre:
            x = x + dropout(self.attention(self.layer_norm(x), mask))
            return x + dropout(self.feed_forward(self.final_layer_norm(x)))
        x = self.layer_norm(x + dropout(self.attention(x, mask)))
        return self.final_layer_norm(x + dropout(self.feed_forward(x)))


class Encoder(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        hidden = encoder["hidden_size"]
        self.pos_conv_embed = PositionEmbedding(hidden, encoder["position_kernel"],
                                                encoder["position_groups"])
        self.layer_norm = nn.LayerNorm(hidden, eps=encoder["layer_norm_eps"])
        self.layers = nn.ModuleList(EncoderLayer(encoder)
                                    for _ in range(encoder["num_hidden_layers"]))


class Backbone(nn.Module):
    def __init__(self, features, encoder):
        super().__init__()
        self.feature_extractor = FeatureExtractor(features)
        self.feature_projection = FeatureProjection(features["conv_dim"][-1],
                                                    encoder["hidden_size"],
                                                    encoder["feature_norm"],
                                                    encoder["layer_norm_eps"])
        self.encoder = Encoder(encoder)


class LayerMix(nn.Module):
    def __init__(self, states):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(states))


class Pooling(nn.Module):
    """Score per frame, softmax over the clip's frames, weighted mean; or the plain mean."""

    def __init__(self, hidden, pooling):
        super().__init__()
        self.type = pooling["type"]
        size = pooling.get("hidden", 0)
        if self.type == "attention":
            if size > 0:
                self.hidden = nn.Linear(hidden, size)
            self.score = nn.Linear(size or hidden, 1)

    def forward(self, x, mask):
        if self.type == "mean":
            weight = mask / mask.sum(1, keepdim=True)
        else:
            score = self.score(torch.tanh(self.hidden(x)) if hasattr(self, "hidden") else x)
            weight = score.masked_fill(mask == 0, -math.inf).softmax(1)
        return (weight * x).sum(1), weight[:, :, 0]


ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "none": lambda x: x}


def complete_config(config, defaults=DEFAULTS, path="config"):
    """The config with defaults filled in; unknown keys are errors, as in the library."""
    unknown = set(config) - set(defaults)
    if unknown:
        raise ValueError(f"{path}: unknown keys {sorted(unknown)}")
    out = {}
    for key, value in defaults.items():
        if isinstance(value, dict) and key not in ("training", "pooling") and key in config:
            out[key] = complete_config(config[key], value, f"{path}.{key}")
        else:
            out[key] = copy.deepcopy(config.get(key, value))
    return out


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config = complete_config(config)
        if config["features"]["type"] != "logmel" or config["features"]["norm"] != "layer":
            raise ValueError("this module knows log-mel features only")
        encoder = config["encoder"]
        hidden = encoder["hidden_size"]
        self.wav2vec2 = Backbone(config["features"], encoder)
        if config["layer_mix"]:
            self.layer_mix = LayerMix(encoder["num_hidden_layers"] + 1)
        self.pooling = Pooling(hidden, config["pooling"])
        sizes = [hidden] + config["classifier"]["sizes"] + [len(config["labels"])]
        self.classifier = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))
        self.activation = ACTIVATIONS[config["classifier"]["activation"]]
        # Of training only; eval() switches them off, the file does not hold them.
        self.dropout = nn.Dropout(0.1)
        self.head_dropout = nn.Dropout(0.3)

    def front_end(self, x):
        """Waveform -> (trimmed and normalised waveform, log-mel before the level is taken out)."""
        audio = self.config["audio"]
        if x.numel() > audio["max_seconds"] * audio["sampling_rate"]:
            raise ValueError("longer than max_seconds: cut it in windows first")
        x = trim(x, audio)
        if audio["normalize"]:
            x = normalize(x)
        return x, log_mel(x, self.config["features"]["mel"], audio["sampling_rate"])

    def stages(self, x):
        """Every stage of one clip: a 1-D waveform at the model's rate, as floating point."""
        x = x.to(self.wav2vec2.feature_extractor.mel.mean.dtype)
        out = {}
        out["input"], out["mel"] = self.front_end(x)
        batch = {}
        logits = self(out["mel"][None], torch.tensor([out["mel"].shape[0]]), batch)
        out.update((name, value[0]) for name, value in batch.items())
        out["logits"] = logits[0]
        out["probabilities"] = logits[0].softmax(0)
        return out

    def forward(self, mel, lengths, stages=None):
        """Log-mel [batch, time, bins] with a number of frames per clip -> logits [batch, labels].

        What lies behind a clip's last frame is set to zero wherever a convolution would see it, so
        that it reads the zeros that it reads at the end of a clip alone.
        """
        def keep(name, value):
            if stages is not None:
                stages[name] = value

        def mask_of(n, time, like):
            return (torch.arange(time) < n[:, None]).to(like.dtype)[:, :, None]

        features, encoder = self.config["features"], self.config["encoder"]
        extractor = self.wav2vec2.feature_extractor
        n = lengths
        mask = mask_of(n, mel.shape[1], mel)
        x = extractor.mel(mel, mask)
        keep("level", x)
        for i, layer in enumerate(extractor.conv_layers):
            x = layer(x)
            n = (n + 2 * features["conv_padding"][i] - features["conv_kernel"][i]) \
                // features["conv_stride"][i] + 1
            mask = mask_of(n, x.shape[1], x)
            x = x * mask
            keep(f"conv.{i}", x)
        keep("features", x)
        x = self.dropout(self.wav2vec2.feature_projection(x)) * mask
        keep("projection", x)

        blocks = self.wav2vec2.encoder
        x = x + blocks.pos_conv_embed(x)
        if encoder["norm"] == "post":
            x = blocks.layer_norm(x)
        keep("position", x)
        hidden_states = [x]
        for i, layer in enumerate(blocks.layers):
            x = layer(x, mask, self.dropout)
            keep(f"layer.{i}", x)
            hidden_states.append(x)
        if encoder["norm"] == "pre":
            x = hidden_states[-1] = blocks.layer_norm(x)
        keep("encoder", x)
        if self.config["layer_mix"]:
            weight = self.layer_mix.weight.softmax(0)
            x = sum(w * state for w, state in zip(weight, hidden_states))
            keep("mix", x)

        x, weight = self.pooling(x, mask)
        keep("attention", weight)
        keep("pooled", x)
        for i, layer in enumerate(self.classifier):
            if i > 0:
                x = self.head_dropout(self.activation(x))
            x = layer(x)
        return x


# --- The file -------------------------------------------------------------------------------------

def save(model, path):
    tensors = {name: value.detach().float().contiguous()
               for name, value in model.state_dict().items()}
    safetensors.torch.save_file(tensors, path, metadata={
        "format": "ser", "version": "1", "config": json.dumps(model.config)})


def load(path):
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    if (metadata.get("format"), metadata.get("version")) != ("ser", "1"):
        raise ValueError(f"{path}: not a ser model, version 1")
    model = Model(json.loads(metadata["config"]))
    model.load_state_dict(tensors)
    return model.eval()


def predict(model, x):
    """Index of the label and the logits of a waveform (numpy or tensor)."""
    with torch.inference_mode():
        logits = model.stages(torch.as_tensor(np.asarray(x)))["logits"]
    return int(logits.argmax()), logits
