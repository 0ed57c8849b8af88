# SPDX-License-Identifier: MIT
"""What each op of wav2vec 2.0 must at least compute and move, and how long that takes at a peak.

python3 floors.py CONFIG.json [--samples 80000] [--batch 1] [--bytes 2] [--tflops 790]
                  [--bandwidth 4.3] [--training [--cached]]

FLOP: two for each multiply-add of a product or convolution, on valid frames only, as if nothing
were known of the zeros around a clip (12.9 % of the positional convolution at 5 s). What is done
element by element is not counted: it takes less time than its bytes.
Bytes: what goes in is read once, what comes out written once, weights once for the whole batch.
Nothing that an op keeps to itself (scores, sums before GELU) is counted.

A step of training has the ops that libser cuts it into (lib/net): what one of them writes for
another counts for both. Gradients of parameters are f32 and written once: that they are cleared
first and then added to is libser's choice, not the op's.
"""

import argparse
import dataclasses
import json

F32 = 4  # bytes: samples, parameters of norms, the head, gradients of parameters, the optimiser's


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


# --- Training ---


def passes(shape, name, width, count, times=1):
    """`count` times over all frames of `width` values."""
    return Op(name, 0, times * count * shape.rows() * width * shape.value, times)


def product_gradients(shape, name, inputs, outputs, count=1):
    """Of y = x W^T + b: dx = dy W, dW = dy^T x, db = the sum of dy over the frames."""
    rows, weights = shape.rows(), inputs * outputs
    flop = count * 2 * rows * weights
    values = rows * (inputs + outputs) * shape.value
    return [
        Op(f"{name} db", 0, count * (rows * shape.value + F32) * outputs, count),
        Op(f"{name} dw", flop, count * (values + weights * F32), count),
        Op(f"{name} dx", flop, count * (values + weights * shape.value), count),
    ]


def norm_gradients(shape, name, width, count, times=1):
    """LayerNorm: `count` passes, mean and deviation of every frame, gradients of gain and shift."""
    moved = shape.rows() * (width * count * shape.value + 2 * F32) + 3 * width * F32
    return Op(name, 0, times * moved, times)


def kept_norm(shape, name, width, count, times=1):
    """norm(), mean and deviation of every frame kept."""
    op = norm(shape, name, width, count, times)
    return dataclasses.replace(op, bytes=op.bytes + times * shape.rows() * 2 * F32)


def fold_size(shape):
    """Weights of the positional convolution."""
    return (
        shape["num_conv_pos_embeddings"]
        * shape["hidden_size"] ** 2
        // shape["num_conv_pos_embedding_groups"]
    )


def parameters(shape):
    """Those that are trained: all behind the convolutions."""
    channels, hidden, inner = (
        shape["conv_dim"][-1],
        shape["hidden_size"],
        shape["intermediate_size"],
    )
    middle = shape.config.get("classifier_proj_size", 256)
    labels = len(shape.config.get("id2label", range(2)))
    block = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden
    norms = 2 * channels * bool(shape.config.get("feat_proj_layer_norm", 1)) + 2 * hidden
    mix = shape["num_hidden_layers"] + 1 if shape.config.get("use_weighted_layer_sum") else 0
    return (
        norms
        + (channels + 1) * hidden
        + fold_size(shape)
        + shape["num_conv_pos_embeddings"]
        + hidden
        + shape["num_hidden_layers"] * block
        + mix
        + (hidden + 1) * middle
        + (middle + 1) * labels
    )


def training_forward(shape, cached):
    """As forward_ops; what backward reads is written, dropout is a pass where no norm has it."""
    channels, hidden, inner, layers = (
        shape["conv_dim"][-1],
        shape["hidden_size"],
        shape["intermediate_size"],
        shape["num_hidden_layers"],
    )
    rows, frames = shape.rows(), shape.levels()[-1]
    convolution = {op.name: op for op in positions(shape)}["pos_conv"]
    kept = rows * hidden * shape.value
    qkv, attention, out, _, ffn_1, ffn_2 = blocks(shape)
    statistics = layers * rows * shape["num_attention_heads"] * F32
    ops = [passes(shape, "gather", channels, 2)] if cached else features(shape)
    if shape.config.get("feat_proj_layer_norm", 1):
        ops.append(kept_norm(shape, "feature_norm", channels, 2))
    return ops + [
        product(shape, "projection", channels, hidden),
        passes(shape, "projection_dropout", hidden, 2),
        Op("span_mask", 0, 0),  # a few frames: nothing
        dataclasses.replace(convolution, bytes=convolution.bytes + kept),
        kept_norm(shape, "encoder_norm", hidden, 2),
        passes(shape, "start_dropout", hidden, 2),
        qkv,
        dataclasses.replace(attention, bytes=attention.bytes + statistics),
        out,
        kept_norm(shape, "residual_norm", hidden, 4, 2 * layers),
        ffn_1,
        passes(shape, "ffn_gelu", inner, 2, layers),
        ffn_2,
    ] + head(shape)


def head_backward(shape):
    """The head's in f32; the pooled vector's gradient to every frame, or to every hidden state."""
    rows, hidden = shape.rows(), shape["hidden_size"]
    ops = {op.name: op for op in head(shape)}
    classifier, pool = ops["classifier"], ops["attn_pool"]
    backward = [
        Op("classifier_bwd", 2 * classifier.flop, 2 * classifier.bytes),
        dataclasses.replace(pool, name="attn_pool_bwd", bytes=2 * pool.bytes),
    ]
    if "layer_mix" in ops:
        states = shape["num_hidden_layers"] + 1
        moved = rows * hidden * (states * 2 * shape.value + F32)
        backward.append(Op("layer_mix_bwd", 0, moved, states))
    return backward


def blocks_backward(shape):
    """dropout(GELU(x)) of the feed-forward part is made again where its gradient is made, behind
    the gradient of the second layer's input: x and the gradient in, both out. Post-norm blocks add
    the gradients of the two branches by a pass; pre-norm ones while they go through the norm."""
    hidden, inner, layers = (
        shape["hidden_size"],
        shape["intermediate_size"],
        shape["num_hidden_layers"],
    )
    rows, frames, pre = shape.rows(), shape.levels()[-1], shape["do_stable_layer_norm"]
    statistics = rows * shape["num_attention_heads"] * F32
    attention = Op(  # scores, dP, dV, dK, dQ; q, k, v, y, dy in, dq, dk, dv out
        "attention_bwd",
        layers * 10 * rows * frames * hidden,
        layers * (8 * rows * hidden * shape.value + statistics),
        layers,
    )
    adds = [] if pre else [passes(shape, "residual_add", hidden, 3, 2 * layers)]
    return [
        norm_gradients(shape, "residual_norm_bwd", hidden, 5 if pre else 4, 2 * layers),
        *product_gradients(shape, "ffn 2", inner, hidden, layers),
        passes(shape, "ffn_gelu_bwd", inner, 4, layers),
        *product_gradients(shape, "ffn 1", hidden, inner, layers),
        *adds,
        *product_gradients(shape, "out", hidden, hidden, layers),
        attention,
        *product_gradients(shape, "qkv", hidden, 3 * hidden, layers),
    ]


def positions_backward(shape):
    """From the input of block 0 to the features, which need no gradient."""
    channels, hidden = shape["conv_dim"][-1], shape["hidden_size"]
    rows, folded = shape.rows(), fold_size(shape)
    flop = 2 * rows * folded
    frames = rows * hidden * shape.value
    first = 4 if shape["do_stable_layer_norm"] else 3
    ops = [
        passes(shape, "start_dropout_bwd", hidden, 2),
        norm_gradients(shape, "encoder_norm_bwd", hidden, first),
        passes(shape, "pos_conv dz", hidden, 3),
        Op("pos_conv db", 0, frames + hidden * F32),
        Op("pos_conv dw", flop, 2 * frames + folded * F32),
        Op("pos_conv dx", flop, 3 * frames + folded * shape.value),
        Op("weight_norm_bwd", 0, 3 * folded * F32),
        Op("span_mask_bwd", 0, 0),
        passes(shape, "projection_dropout_bwd", hidden, 2),
        *product_gradients(shape, "projection", channels, hidden),
    ]
    if shape.config.get("feat_proj_layer_norm", 1):
        ops.append(norm_gradients(shape, "feature_norm_bwd", channels, 2))
    return ops


def update(shape):
    """Norm of the gradient; AdamW (weight and both moments in and out, the gradient in, the rounded
    weight out); the positional convolution's weight from its two parameters."""
    count = parameters(shape)
    rounded = shape.value if shape.value < F32 else 0
    return [
        Op("sum_squares", 0, count * F32),
        Op("adamw", 0, count * (7 * F32 + rounded)),
        Op("weight_norm", 0, fold_size(shape) * (F32 + shape.value)),
    ]


def training_ops(config, samples, batch, bytes_per_value, cached):
    """The ops of a training step in about their order, those of blocks summed over them: forward
    with all dropouts above 0 and masked frames, backward, update. The convolutions on the waveform
    are frozen: forward only, or with `cached` features not at all."""
    shape = Shape(config, samples, batch, bytes_per_value)
    return [
        *training_forward(shape, cached),
        *head_backward(shape),
        *blocks_backward(shape),
        *positions_backward(shape),
        *update(shape),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--samples", type=int, default=80000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=2, help="of a value")
    parser.add_argument("--tflops", type=float, default=H200_BF16.tflops)
    parser.add_argument("--bandwidth", type=float, default=H200_BF16.bandwidth, help="TB/s")
    parser.add_argument("--training", action="store_true", help="a step instead of a forward pass")
    parser.add_argument("--cached", action="store_true", help="a step on cached features")
    arguments = parser.parse_args()
    with open(arguments.config, encoding="utf-8") as file:
        config = json.load(file)
    peak = Peak(arguments.tflops, arguments.bandwidth)
    call = (config, arguments.samples, arguments.batch, arguments.bytes)
    training = arguments.training or arguments.cached
    ops = training_ops(*call, arguments.cached) if training else forward_ops(*call)
    print(f"{'op':22} {'count':>5} {'GFLOP':>10} {'MB':>9} {'us':>9}")
    rows = [(op.name, op.count, op.flop, op.bytes, floor_seconds(op, peak)) for op in ops]
    rows.append(("sum", "", *(sum(row[i] for row in rows) for i in (2, 3, 4))))
    for name, count, flop, size, seconds in rows:
        print(f"{name:22} {count:>5} {flop / 1e9:10.3f} {size / 1e6:9.2f} {seconds * 1e6:9.2f}")


if __name__ == "__main__":
    main()
