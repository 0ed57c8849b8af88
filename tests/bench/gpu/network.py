# SPDX-License-Identifier: MIT
"""The strongest wav2vec2-base in PyTorch that we can write: peer G4 of README.md.

Weights of one type, weight norm folded, queries, keys and values in one product. Activations are
rows of channels, so that a convolution of stride 2 is a product of pairs of rows. The network is
four parts, `front`, `convolutions`, `position` and `layer`; each can be computed in several ways,
eager or compiled, and Plan takes the fastest of each for a batch size, measured as a CUDA graph.
Shapes: B clips, N samples, T frames, C channels.
"""

import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
FRONT_TAPS = 16  # the first filter's 10 taps, padded: tensor cores want multiples of 8
SUMMED = 128  # frames
LARGEST_PATCHES = 2**30  # values; im2col of the positional convolution is not tried above this


def normalized(pcm):
    """Zero mean and unit variance per clip, as the feature extractor of transformers has it."""
    mean = pcm.mean(1, keepdim=True)
    variance = pcm.var(1, keepdim=True, unbiased=False)
    return (pcm - mean) * torch.rsqrt(variance + 1e-7)


class Weights:
    """What the parts need of a transformers classifier with group norm and post-norm."""

    def __init__(self, model, device, dtype):
        config = model.config
        if config.feat_extract_norm != "group" or config.do_stable_layer_norm:
            raise ValueError("only networks like wav2vec2-base: group norm, post-norm")
        self.dtype, self.heads = dtype, config.num_attention_heads
        self.eps, self.hidden = config.layer_norm_eps, config.hidden_size
        self.kernels, self.strides = list(config.conv_kernel), list(config.conv_stride)
        self.groups = config.num_conv_pos_embedding_groups
        self.taps = config.num_conv_pos_embeddings

        def put(tensor):
            return None if tensor is None else tensor.detach().to(device, dtype).contiguous()

        base = model.wav2vec2
        convs = [layer.conv for layer in base.feature_extractor.conv_layers]
        norm = base.feature_extractor.conv_layers[0].layer_norm
        # The first filters are scaled per clip before they are rounded.
        self.first = convs[0].weight.detach().to(device, torch.float64)[:, 0]
        self.group_norm = [p.detach().to(device, torch.float64) for p in (norm.weight, norm.bias)]
        self.group_eps = norm.eps
        self.convs = [(put(conv.weight), put(conv.bias)) for conv in convs]
        self.convs_2d = [
            (channels_last(weight), bias) for weight, bias in self.convs
        ]
        self.pairs = [
            (put(conv.weight[:, :, :2].permute(2, 1, 0).reshape(-1, conv.weight.shape[0])),
             put(conv.weight[:, :, 2].t()) if conv.weight.shape[2] == 3 else None, put(conv.bias))
            for conv in convs[1:]
        ]
        self.front_norm = tuple(put(p) for p in (norm.weight, norm.bias))
        projection = base.feature_projection
        self.projection = tuple(map(put, (
            projection.layer_norm.weight, projection.layer_norm.bias,
            projection.projection.weight, projection.projection.bias)))
        encoder = base.encoder
        position = encoder.pos_conv_embed.conv  # .weight is the folded one
        self.position = put(position.weight), put(position.bias)
        self.position_2d = channels_last(self.position[0])
        self.position_wide, self.extra = widened(self.position[0], self.groups)
        self.position_f32 = self.position[0].float()
        self.position_norm = put(encoder.layer_norm.weight), put(encoder.layer_norm.bias)
        self.layers = [tuple(map(put, layer_weights(layer))) for layer in encoder.layers]
        self.head = tuple(map(put, (model.projector.weight, model.projector.bias,
                                    model.classifier.weight, model.classifier.bias)))


def channels_last(weight):
    """A filter of Conv1d for Conv2d of height 1."""
    return weight[:, :, None].contiguous(memory_format=torch.channels_last)


def widened(weight, groups):
    """A grouped filter with zeros up to a multiple of 64 channels in each group, and how many."""
    out, size, taps = weight.shape
    extra = -size % 64
    wide = F.pad(weight.view(groups, out // groups, size, taps), (0, 0, 0, extra, 0, extra))
    return channels_last(wide.flatten(0, 1)), extra


def layer_weights(layer):
    a, f = layer.attention, layer.feed_forward
    parts = (a.q_proj, a.k_proj, a.v_proj)
    return (
        torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]),
        a.out_proj.weight, a.out_proj.bias, layer.layer_norm.weight, layer.layer_norm.bias,
        f.intermediate_dense.weight, f.intermediate_dense.bias,
        f.output_dense.weight, f.output_dense.bias,
        layer.final_layer_norm.weight, layer.final_layer_norm.bias,
    )


class Shape:
    """Lengths for N samples: frames behind each convolution, and the rows that make pairs exact.

    rows[i] = 2 rows[i + 1] >= frames[i]: then the whole batch is one matrix behind every
    convolution. The rows behind a clip's frames hold what nobody reads.
    """

    def __init__(self, weights, samples):
        self.samples, length, self.frames = samples, samples, []
        for kernel, stride in zip(weights.kernels, weights.strides):
            length = (length - kernel) // stride + 1
            self.frames.append(length)
        last = len(self.frames) - 1
        self.paired = all(
            stride == 2 and kernel in (2, 3)
            for kernel, stride in zip(weights.kernels[1:], weights.strides[1:])
        )
        self.rows = [-(-self.frames[0] >> last) << (last - i) for i in range(last + 1)]


# --- front: PCM -> rows behind the first convolution, its group norm and GELU ---------------------


def front_conv(w, shape, pcm):
    """As written: convolution, group norm, GELU, then channels last."""
    weight, bias = w.convs[0]
    y = F.conv1d(normalized(pcm).to(w.dtype)[:, None], weight, bias, stride=w.strides[0])
    y = F.gelu(F.group_norm(y, y.shape[1], *w.front_norm, w.group_eps)).transpose(1, 2)
    return F.pad(y, (0, 0, 0, shape.rows[0] - y.shape[1]))


def front_moments(w, shape, pcm):
    """The group norm inside the filters, which are then applied as one product per clip.

    With p the samples under the filter, filter f gives mean f.E[p] and variance f.Cov[p].f. The
    sums over frames are in parts, or one block of the card would do a clip's.
    """
    step, taps, frames = w.strides[0], w.kernels[0], shape.frames[0]
    x = F.pad(normalized(pcm), (0, step * shape.rows[0] + FRONT_TAPS - shape.samples))
    patches = x.unfold(1, FRONT_TAPS, step)[:, : shape.rows[0]]
    p = F.pad(patches[:, :frames, :taps].double(), (0, 0, 0, -frames % SUMMED))
    p = p.view(p.shape[0], -1, SUMMED, taps)
    mean = p.sum((1, 2)) / frames
    covariance = (p.transpose(2, 3) @ p).sum(1) / frames - mean[:, :, None] * mean[:, None, :]
    variance = ((w.first @ covariance) * w.first).sum(2).clamp(min=0)
    scale = w.group_norm[0] * torch.rsqrt(variance + w.group_eps)
    offset = w.group_norm[1] - scale * (mean @ w.first.t())
    filters = F.pad(w.first * scale[:, :, None], (0, FRONT_TAPS - taps)).transpose(1, 2)
    y = torch.baddbmm(offset[:, None].to(w.dtype), patches.to(w.dtype), filters.to(w.dtype))
    return F.gelu(y)


# --- convolutions: rows of the first -> frames of the last, projected to the hidden size ----------


def projected(w, shape, x):
    """[B, >= T, C] -> [B, T, hidden]; without a projection [B, T, C]."""
    if w.projection is None:
        return x[:, : shape.frames[-1]]
    gamma, beta, weight, bias = w.projection
    x = F.layer_norm(x[:, : shape.frames[-1]], gamma.shape, gamma, beta, w.eps)
    return F.linear(x, weight, bias)


def convolutions_1d(w, shape, x):
    """Conv1d on [B, C, T], as transformers does it."""
    x = x.transpose(1, 2)
    for (weight, bias), stride in zip(w.convs[1:], w.strides[1:]):
        x = F.gelu(F.conv1d(x, weight, bias, stride=stride))
    return projected(w, shape, x.transpose(1, 2))


def convolutions_2d(w, shape, x):
    """Conv2d of height 1, channels last."""
    x = x.transpose(1, 2)[:, :, None]
    for (weight, bias), stride in zip(w.convs_2d[1:], w.strides[1:]):
        x = F.gelu(F.conv2d(x, weight, bias, stride=(1, stride)))
    return projected(w, shape, x[:, :, 0].transpose(1, 2))


def convolutions_pairs(w, shape, x):
    """Taps 0 and 1 are a product of pairs of rows; tap 2 adds the next pair's first row."""
    batch = x.shape[0]
    x = x.reshape(batch * x.shape[1], x.shape[2])
    for both, third, bias in w.pairs:
        channels = x.shape[1]
        x = x.view(-1, 2 * channels)
        y = torch.mm(x, both) if bias is None else torch.addmm(bias, x, both)
        if third is not None:
            y[:-1].addmm_(x[1:, :channels], third)
        x = F.gelu(y)
    return projected(w, shape, x.view(batch, -1, x.shape[1]))


# --- position: the positional convolution, its GELU, residual and norm ----------------------------


def positioned(w, x, y):
    """x [B, T, hidden], y the convolution's [B, T, hidden]."""
    gamma, beta = w.position_norm
    return F.layer_norm(x + F.gelu(y), gamma.shape, gamma, beta, w.eps)


def position_1d(w, shape, x):
    weight, bias = w.position
    y = F.conv1d(x.transpose(1, 2), weight, bias, padding=w.taps // 2, groups=w.groups)
    return positioned(w, x, y[:, :, : x.shape[1]].transpose(1, 2))


def position_2d(w, shape, x):
    """Channels last."""
    y = F.conv2d(x.transpose(1, 2)[:, :, None], w.position_2d, w.position[1],
                 padding=(0, w.taps // 2), groups=w.groups)
    return positioned(w, x, y[:, :, 0, : x.shape[1]].transpose(1, 2))


def position_wide(w, shape, x):
    """Channels last, each group padded to a multiple of 64 channels."""
    x_wide = F.pad(x.unflatten(2, (w.groups, -1)), (0, w.extra)).flatten(2)
    y = F.conv2d(x_wide.transpose(1, 2)[:, :, None], w.position_wide, None,
                 padding=(0, w.taps // 2), groups=w.groups)
    y = y[:, :, 0, : x.shape[1]].transpose(1, 2).unflatten(2, (w.groups, -1))
    return positioned(w, x, y[..., : w.hidden // w.groups].flatten(2) + w.position[1])


def position_f32(w, shape, x):
    """In float32 with TF32, which is on: cuDNN has tensor core engines for that at once."""
    y = F.conv1d(x.transpose(1, 2).float(), w.position_f32, None, padding=w.taps // 2,
                 groups=w.groups)
    return positioned(w, x, y[:, :, : x.shape[1]].transpose(1, 2).to(x.dtype) + w.position[1])


def position_patches(w, shape, x):
    """One product per group on explicit patches."""
    batch, frames, hidden = x.shape
    if batch * frames * hidden * w.taps > LARGEST_PATCHES:
        raise ValueError("patches too large")
    size, before = hidden // w.groups, w.taps // 2
    x_padded = F.pad(x, (0, 0, before, w.taps - 1 - before))
    patches = x_padded.unfold(1, w.taps, 1).reshape(batch * frames, w.groups, size * w.taps)
    weight = w.position[0].reshape(w.groups, size, size * w.taps)
    y = torch.bmm(patches.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
    return positioned(w, x, y.reshape(batch, frames, hidden) + w.position[1])


# --- layers and head ------------------------------------------------------------------------------


def layer(w, x, p):
    """One block of the encoder, post-norm. x [B, T, hidden]; p: see layer_weights."""
    batch, frames, hidden = x.shape
    qkv = F.linear(x, p[0], p[1]).view(batch, frames, 3, w.heads, hidden // w.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, frames, hidden)
    x = F.layer_norm(x + F.linear(y, p[2], p[3]), (hidden,), p[4], p[5], w.eps)
    y = F.linear(F.gelu(F.linear(x, p[6], p[7])), p[8], p[9])
    return F.layer_norm(x + y, (hidden,), p[10], p[11], w.eps)


def head(w, x):
    """Probabilities, logits and the mean frame. The mean commutes with the projector."""
    mean = x.mean(1)
    logits = F.linear(F.linear(mean, w.head[0], w.head[1]), w.head[2], w.head[3]).float()
    return logits.softmax(-1), logits, mean


PARTS = {
    "front": {"conv": front_conv, "moments": front_moments},
    "convolutions": {"1d": convolutions_1d, "2d": convolutions_2d, "pairs": convolutions_pairs},
    "position": {"1d": position_1d, "2d": position_2d, "wide": position_wide,
                 "f32": position_f32, "patches": position_patches},
}


# --- Choosing -------------------------------------------------------------------------------------


def capture(function):
    """(replay, outputs): a CUDA graph of function(); without a GPU the plain call."""
    if not torch.cuda.is_available():
        return function, function()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries load, cuDNN's engines are tried
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph.replay, outputs


def timed(replay, repeats):
    """Median seconds of a call."""
    seconds = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            replay()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) * 1e-3)
        else:
            start = time.perf_counter()
            replay()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def compiled(function):
    """For one batch size, without a graph of its own."""
    return torch.compile(function, mode="max-autotune-no-cudagraphs", fullgraph=True, dynamic=False)


class Plan:
    """The network for one batch size: `outputs()` of `pcm`, an array on the device to be filled."""

    def __init__(self, weights, pcm, compile_too, repeats=20):
        self.weights, self.pcm, self.repeats = weights, pcm, repeats
        self.shape = Shape(weights, pcm.shape[1])
        self.compile_too = compile_too
        self.taken, self.measured, self.failed = {}, {}, {}

    def candidates(self, part):
        """Name and function (x) of every way to compute a part."""
        w, shape = self.weights, self.shape
        for name, function in PARTS[part].items():
            if name == "pairs" and not shape.paired or name == "f32" and w.dtype is torch.float32:
                continue
            yield name, lambda x, f=function: f(w, shape, x)
            if self.compile_too:
                fused = compiled(function)
                yield f"{name}, compiled", lambda x, f=fused: f(w, shape, x)

    def layer_candidates(self):
        w, places = self.weights, {}
        for name, backend in BACKENDS.items():
            def run(x, p, backend=backend):
                with sdpa_kernel(backend):
                    return layer(w, x, p)

            places[name] = run
            yield name, lambda x, run=run: run(x, w.layers[0])
        if self.compile_too:
            best = min(self.measured["layer"], key=self.measured["layer"].get)
            fused = compiled(layer)

            def run(x, p):
                with sdpa_kernel(BACKENDS[best]):
                    return fused(w, x, p)

            places["compiled"] = run
            yield "compiled", lambda x: run(x, w.layers[0])
        self.layer_functions = places

    def choose(self, part, candidates, x):
        """The fastest function of x and its result."""
        best = None
        times = self.measured.setdefault(part, {})
        for name, function in candidates:
            try:
                replay, y = capture(lambda f=function: f(x))
                times[name] = timed(replay, self.repeats)
            except Exception as error:  # one way less; all are reported
                self.failed[f"{part}, {name}"] = str(error).strip().split("\n")[0][:200]
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                continue
            if best is None or times[name] < times[best[0]]:
                best = name, function, y.clone()
            del replay, y
        if best is None:
            raise RuntimeError(f"no way to compute {part}: {self.failed}")
        self.taken[part] = best[0]
        return best[1:]

    def prepare(self):
        """Choose every part on the data in pcm, then one function of everything."""
        x, functions = self.pcm, {}
        for part in PARTS:
            functions[part], x = self.choose(part, self.candidates(part), x)
        self.choose("layer", self.layer_candidates(), x)
        run_layer = self.layer_functions[self.taken["layer"]]

        def outputs():
            y = self.pcm
            for function in functions.values():
                y = function(y)
            for p in self.weights.layers:
                y = run_layer(y, p)
            return head(self.weights, y)

        return outputs
