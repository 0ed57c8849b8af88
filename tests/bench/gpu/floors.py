# SPDX-License-Identifier: MIT
"""What each op of wav2vec 2.0 must at least compute and move, and how long that takes at a peak.

python3 floors.py CONFIG.json [--samples 80000] [--batch 1] [--bytes 2] [--tflops 790]
                  [--bandwidth 4.3]

FLOP: two for each multiply-add of a product or convolution, on valid frames only, as if nothing
were known of the zeros around a clip (12.9 % of the positional convolution at 5 s). What is done
element by element is not counted: it takes less time than its bytes.
Bytes: what goes in is read once, what comes out written once, weights once for the whole batch.
Nothing that an op keeps to itself (scores, sums before GELU) is counted.
"""

import argparse
import dataclasses
import json

F32 = 4  # bytes: samples, parameters of norms, the head


@dataclasses.dataclass(frozen=True)
class Op:
    """Of all `count` times that the op runs in a pass, together."""

    name: str
    flop: float
    bytes: float
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Peak:
    tflops: float  # 10^12 FLOP/s of products in the type at hand
    bandwidth: float  # 10^12 bytes/s to and from memory


H200_BF16 = Peak(790, 4.3)  # both measured on such a card


def floor_seconds(op, peak):
    """No card of this peak can do the op faster, unless its data are in the cache already."""
    return max(op.flop / peak.tflops, op.bytes / peak.bandwidth) * 1e-12


@dataclasses.dataclass(frozen=True)
class Shape:
    """A batch going through the network of a transformers config. Both directions start from it."""

    config: dict
    samples: int  # of a clip
    batch: int
    value: int  # bytes of an activation or weight

    def __getitem__(self, key):
        if key not in self.config:
            raise ValueError(f"the config has no {key!r}: is it that of a wav2vec2 model?")
        return self.config[key]

    def levels(self):
        """Valid frames of a clip: samples, then the output of every convolution."""
        lengths = [self.samples]
        for kernel, stride in zip(self["conv_kernel"], self["conv_stride"], strict=True):
            lengths.append((lengths[-1] - kernel) // stride + 1)
            if lengths[-1] < 1:
                raise ValueError(f"{self.samples} samples are too few for one frame")
        return lengths

    def rows(self):
        """Frames of the encoder in the whole batch."""
        return self.batch * self.levels()[-1]


def product(shape, name, inputs, outputs, count=1):
    """y = x W^T + b on all frames."""
    rows = shape.rows()
    values = rows * (inputs + outputs) + outputs * (inputs + 1)
    return Op(name, count * 2 * rows * inputs * outputs, count * values * shape.value, count)


def norm(shape, name, width, passes, count=1):
    """LayerNorm; `passes`: how many times the frames go through memory."""
    values = shape.rows() * width * passes
    return Op(name, 0, count * (values * shape.value + 2 * width * F32), count)


def features(shape):
    """PCM to features, each convolution with its norm and GELU."""
    ops, lengths, channels = [], shape.levels(), 1
    for i, (width, kernel) in enumerate(zip(shape["conv_dim"], shape["conv_kernel"], strict=True)):
        rows = shape.batch * lengths[i + 1]
        weights = width * kernel * channels
        values = rows * width + weights + (width if shape["conv_bias"] else 0)
        inputs = shape.batch * lengths[i] * (channels * shape.value if i > 0 else F32)
        ops.append(
            Op(
                f"conv {i}" if i > 0 else "wave_conv",
                2 * rows * weights,
                inputs + values * shape.value,
            )
        )
        channels = width
    return ops


def positions(shape):
    """Features to the input of block 0."""
    channels, hidden = shape["conv_dim"][-1], shape["hidden_size"]
    taps = shape["num_conv_pos_embeddings"] * hidden // shape["num_conv_pos_embedding_groups"]
    values = 2 * shape.rows() * hidden + hidden * (taps + 1)
    ops = (
        [norm(shape, "feature_norm", channels, 2)]
        if shape.config.get("feat_proj_layer_norm", 1)
        else []
    )
    return ops + [
        product(shape, "projection", channels, hidden),
        Op("pos_conv", 2 * shape.rows() * hidden * taps, values * shape.value),
        norm(shape, "encoder_norm", hidden, 2),
    ]


def blocks(shape):
    """All blocks. A norm reads x and what is added; pre-norm blocks also store the sum."""
    hidden, inner, layers = (
        shape["hidden_size"],
        shape["intermediate_size"],
        shape["num_hidden_layers"],
    )
    frames, rows = shape.levels()[-1], shape.rows()
    passes = 4 if shape["do_stable_layer_norm"] else 3
    return [
        product(shape, "qkv", hidden, 3 * hidden, layers),
        Op(
            "attention",
            layers * 4 * rows * frames * hidden,
            layers * 4 * rows * hidden * shape.value,
            layers,
        ),
        product(shape, "out", hidden, hidden, layers),
        norm(shape, "residual_norm", hidden, passes, 2 * layers),
        product(shape, "ffn 1", hidden, inner, layers),
        product(shape, "ffn 2", inner, hidden, layers),
    ]


def head(shape):
    """Mean over the frames, projector and classifier in f32; before them the learned mix of hidden
    states where the config wants it."""
    rows, hidden, batch = shape.rows(), shape["hidden_size"], shape.batch
    states = shape["num_hidden_layers"] + 1
    mixes = shape.config.get("use_weighted_layer_sum", False)
    inner = shape.config.get("classifier_proj_size", 256)
    labels = len(shape.config.get("id2label", range(2)))
    width = F32 if mixes else shape.value
    weights = hidden * inner + inner * labels
    values = weights + inner + labels + batch * (hidden + 2 * inner + labels)
    mix = Op("layer_mix", 0, rows * hidden * (states * shape.value + F32), states)
    return ([mix] if mixes else []) + [
        Op("attn_pool", 0, rows * hidden * width + batch * hidden * F32),
        Op("classifier", 2 * batch * weights, values * F32),
    ]


def forward_ops(config, samples, batch, bytes_per_value):
    """The ops of a forward pass in their order, PCM to logits, those of blocks summed over them."""
    shape = Shape(config, samples, batch, bytes_per_value)
    return features(shape) + positions(shape) + blocks(shape) + head(shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--samples", type=int, default=80000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=2, help="of a value")
    parser.add_argument("--tflops", type=float, default=H200_BF16.tflops)
    parser.add_argument("--bandwidth", type=float, default=H200_BF16.bandwidth, help="TB/s")
    arguments = parser.parse_args()
    with open(arguments.config, encoding="utf-8") as file:
        config = json.load(file)
    peak = Peak(arguments.tflops, arguments.bandwidth)
    ops = forward_ops(config, arguments.samples, arguments.batch, arguments.bytes)
    print(f"{'op':14} {'count':>5} {'GFLOP':>10} {'MB':>9} {'us':>9}")
    rows = [(op.name, op.count, op.flop, op.bytes, floor_seconds(op, peak)) for op in ops]
    rows.append(("sum", "", *(sum(row[i] for row in rows) for i in (2, 3, 4))))
    for name, count, flop, size, seconds in rows:
        print(f"{name:14} {count:>5} {flop / 1e9:10.3f} {size / 1e6:9.2f} {seconds * 1e6:9.2f}")


if __name__ == "__main__":
    main()
