# SPDX-License-Identifier: MIT
"""wav2vec 2.0 with libser's head as PyTorch trains it, and the fastest training step of it that we
can write: peer G4 of README.md, section "Training".

The head is what libser puts on a transformers directory: attention pooling with a linear score,
ReLU between linear layers, dropout behind each ReLU; in float32 in every precision. Convolutions on
the waveform stay as they are. Shapes: B clips, N samples, T frames, C channels.
"""

import collections
import json
import types

import network
import torch
import torch.nn.functional as F
from network import capture, compiled, normalized, timed
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {**network.BACKENDS, "math": SDPBackend.MATH}
ALIGNED = 64  # values: every weight begins at a multiple in the flat arrays
RING = 128  # losses that the device keeps
PARTS = ("projection", "position", "layer", "head")

# Probabilities of dropout; of masked frames and their spans.
Noise = collections.namedtuple("Noise", "projection hidden attention classifier masked length")
QUIET = Noise(0.0, 0.0, 0.0, 0.0, 0.0, 10)
USUAL = Noise(0.1, 0.1, 0.1, 0.1, 0.05, 10)  # libser's defaults

# Of AdamW and of the gradient's norm.
RATE, DECAY, BETAS, EPS, CLIP = 3e-5, 0.01, (0.9, 0.999), 1e-8, 1.0


# --- The network of transformers with libser's head -----------------------------------------------


class Pooling(torch.nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.score = torch.nn.Linear(hidden, 1)


class Classifier(torch.nn.Module):
    """Parameters have the names that a model file of libser has."""

    def __init__(self, base, sizes):
        super().__init__()
        self.wav2vec2 = base
        self.pooling = Pooling(sizes[0])
        self.classifier = torch.nn.ModuleList(map(torch.nn.Linear, sizes, sizes[1:]))
        self.noise = QUIET

    def set_noise(self, noise):
        """Every dropout and the masks."""
        self.noise, base = noise, self.wav2vec2
        base.config.apply_spec_augment = noise.masked > 0
        base.config.mask_time_prob = noise.masked
        base.feature_projection.dropout.p = noise.projection
        base.encoder.dropout.p = noise.hidden
        for layer in base.encoder.layers:
            layer.attention.dropout = noise.attention
            layer.dropout.p = layer.feed_forward.output_dropout.p = noise.hidden
            layer.feed_forward.intermediate_dropout.p = 0.0

    def parts(self):
        """Of the head, as head_loss() wants them."""
        linear = (self.pooling.score, *self.classifier)
        return [p for layer in linear for p in (layer.weight, layer.bias)]


def read_model(path):
    """Tensors and config of a model file of libser."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, json.loads(file.metadata()["config"])


def load_model(directory, path):
    """transformers' network of `directory` with the weights of libser's model file `path`."""
    import transformers

    transformers.logging.set_verbosity_error()
    tensors, own = read_model(path)
    if own["layer_mix"] or own["pooling"] != {"type": "attention", "hidden": 0}:
        raise ValueError(f"another head than this file knows: {own['pooling']}")
    config = transformers.Wav2Vec2Config.from_pretrained(
        directory, layerdrop=0.0, mask_time_length=USUAL.length, mask_time_min_masks=0,
        mask_feature_prob=0.0)
    base = transformers.Wav2Vec2Model(config)
    base.masked_spec_embed.requires_grad_(False).zero_()  # libser masks with zeros
    sizes = [config.hidden_size, *own["classifier"]["sizes"], len(own["labels"])]
    model = Classifier(base, sizes)
    prefix = "parametrizations.weight.original"
    names = {"weight_g": prefix + "0", "weight_v": prefix + "1"}
    for old in list(tensors):
        stem, _, last = old.rpartition(".")
        if last in names:
            tensors[f"{stem}.{names[last]}"] = tensors.pop(old)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if missing != ["wav2vec2.masked_spec_embed"] or unexpected:
        raise ValueError(f"{path}: missing {missing}, unexpected {unexpected}")
    base.freeze_feature_encoder()
    return model.train()


def decays(name, p):
    """Matrices and filters do, the magnitudes of the positional convolution do not."""
    return p.dim() >= 2 and not name.endswith("original0")


def groups(model):
    """Of AdamW: with and without decay."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [{"params": [p for name, p in named if decays(name, p)], "weight_decay": DECAY},
            {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0}]


def span_mask(batch, frames, noise, device):
    """[B, T], True where a frame is masked: of each clip floor(p T / L + u) spans of L frames, u in
    0..1, at distinct places; so libser draws them."""
    wanted, places = noise.masked * frames / noise.length, frames - noise.length + 1
    most = min(int(wanted) + 1, places)
    count = (wanted + torch.rand(batch, 1, device=device)).floor()
    starts = torch.rand(batch, places, device=device).topk(most).indices
    starts = starts.where(torch.arange(most, device=device) < count, frames)
    after = torch.arange(frames, device=device) - starts[:, :, None]
    return ((after >= 0) & (after < noise.length)).any(1)


def masked(x, noise):
    if not noise.masked:
        return x
    return x.masked_fill(span_mask(*x.shape[:2], noise, x.device)[:, :, None], 0.0)


def head_loss(noise, x, p, labels):
    """x [B, T, C], p: score, then every layer, weight and bias each. Mean cross entropy."""
    x = x if x.dtype == torch.float64 else x.float()
    alpha = F.linear(x, p[0], p[1]).softmax(1)
    y = (alpha * x).sum(1)
    for i in range(2, len(p), 2):
        y = F.dropout(F.relu(y), noise.classifier) if i > 2 else y
        y = F.linear(y, p[i], p[i + 1])
    return F.cross_entropy(y, labels)


# --- G4: weights and their gradients as flat arrays -----------------------------------------------


def named_parts(model):
    """[(part, [tensors])]: every trained weight in its place. Queries, keys and values are one."""
    base = model.wav2vec2
    projection, encoder = base.feature_projection, base.encoder
    position = encoder.pos_conv_embed.conv
    weight_norm = position.parametrizations.weight
    yield "projection", [projection.layer_norm.weight, projection.layer_norm.bias,
                         projection.projection.weight, projection.projection.bias]
    yield "position", [weight_norm.original0, weight_norm.original1, position.bias,
                       encoder.layer_norm.weight, encoder.layer_norm.bias]
    for layer in encoder.layers:
        yield "layer", list(network.layer_weights(layer))
    yield "head", model.parts()


class Flat:
    """All trained weights in one float32 array, their gradients in another, and what the network
    reads: views of it, or of a copy in bf16, made by one kernel in each step. The head and the
    factors of the positional convolution stay in float32."""

    def __init__(self, model, device, dtype):
        entries = []  # (part, place in the part, tensor, order)
        for number, (part, tensors) in enumerate(named_parts(model)):
            for i, tensor in enumerate(tensors):
                wide = part == "head" or part == "position" and i < 2
                decay = tensor.dim() >= 2 and not (part == "position" and i == 0)
                # decaying in front, what is read in bf16 in one piece
                order = {(True, True): 0, (True, False): 1, (False, False): 2, (False, True): 3}
                entries.append((order[decay, wide], number, i, part, tensor.detach()))
        entries.sort(key=lambda entry: entry[:3])
        begin = [0, 0, 0, 0]
        places, size = [], 0
        for order, number, i, part, tensor in entries:
            places.append(size)
            size += -(-tensor.numel() // ALIGNED) * ALIGNED
            begin[order] = size
        ends = [max(begin[: order + 1]) for order in range(4)]
        self.start = torch.zeros(size)  # on the host, to begin anew
        for (*_, tensor), place in zip(entries, places):
            self.start[place : place + tensor.numel()] = tensor.flatten()
        self.values = self.start.to(device, copy=True)
        self.gradient = torch.zeros_like(self.values)
        self.narrow = self.values[ends[0] : ends[2]]
        self.copy = self.narrow if dtype == torch.float32 else self.narrow.to(dtype)
        self.parts, self.leaves, self.slots = collections.defaultdict(dict), [], []
        for (order, number, i, part, tensor), place in zip(entries, places):
            end = place + tensor.numel()
            source = self.values[place:end]
            if order in (1, 2):
                source = self.copy[place - ends[0] : end - ends[0]]
            leaf = source.view(tensor.shape).detach().requires_grad_()
            self.parts[part, number][i] = leaf
            self.leaves.append(leaf)
            self.slots.append(self.gradient[place:end].view(tensor.shape))
        self.trained = [torch.nn.Parameter(self.values[: ends[1]]),
                        torch.nn.Parameter(self.values[ends[1] :])]
        self.trained[0].grad = self.gradient[: ends[1]]
        self.trained[1].grad = self.gradient[ends[1] :]

    def of(self, part):
        """[tuple of tensors] for each time that the part occurs."""
        return [tuple(found[i] for i in range(len(found)))
                for (name, _), found in sorted(self.parts.items(), key=lambda item: item[0][1])
                if name == part]

    def refresh(self):
        if self.copy is not self.narrow:
            self.copy.copy_(self.narrow)

    def take(self, gradients):
        torch._foreach_copy_(self.slots, gradients)


# --- G4: the parts --------------------------------------------------------------------------------


class Shape:
    """What the parts need to know beside weights: constants of the network, noise."""

    def __init__(self, config, noise):
        self.noise, self.eps, self.hidden = noise, config.layer_norm_eps, config.hidden_size
        self.heads, self.taps = config.num_attention_heads, config.num_conv_pos_embeddings
        self.groups = config.num_conv_pos_embedding_groups


def project(s, x, p):
    x = F.linear(F.layer_norm(x, x.shape[2:], p[0], p[1], s.eps), p[2], p[3])
    return masked(F.dropout(x, s.noise.projection), s.noise)


def position_weight(p, dtype):
    """Weight norm: magnitude and direction of every tap."""
    g, v = p[0], p[1]
    return (v * (g / torch.linalg.vector_norm(v, dim=(0, 1), keepdim=True))).to(dtype)


def position_by(name):
    """network.py's way of that name, with filters that are made of what is trained."""

    def position(s, x, p):
        weight = position_weight(p, x.dtype)
        w = types.SimpleNamespace(groups=s.groups, taps=s.taps, hidden=s.hidden, eps=s.eps,
                                  position=(weight, p[2]), position_norm=(p[3], p[4]))
        if name == "2d":
            w.position_2d = network.channels_last(weight)
        elif name == "wide":
            w.position_wide, w.extra = network.widened(weight, s.groups)
        elif name == "f32":
            w.position_f32 = weight.float()
        return F.dropout(network.PARTS["position"][name](w, None, x), s.noise.hidden)

    return position


def layer(s, x, p):
    """One block, post-norm; p as network.layer_weights has them."""
    batch, frames, hidden = x.shape
    qkv = F.linear(x, p[0], p[1]).view(batch, frames, 3, s.heads, hidden // s.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=s.noise.attention)
    y = F.linear(y.transpose(1, 2).reshape(batch, frames, hidden), p[2], p[3])
    x = F.layer_norm(x + F.dropout(y, s.noise.hidden), (hidden,), p[4], p[5], s.eps)
    y = F.linear(F.gelu(F.linear(x, p[6], p[7])), p[8], p[9])
    return F.layer_norm(x + F.dropout(y, s.noise.hidden), (hidden,), p[10], p[11], s.eps)


def under(backend, function):
    """With that attention kernel, or any."""
    if backend is None:
        return function

    def run(x, p):
        with sdpa_kernel(backend):
            return function(x, p)

    return run


def both(function, x, p):
    """Gradients: forward and backward."""
    inputs = [x.detach().requires_grad_(), *p]
    y = function(inputs[0], p)
    return torch.autograd.grad(y, inputs, torch.ones_like(y))


# --- G4: the step ---------------------------------------------------------------------------------


class Step:
    """A step for batches of one size: forward, backward, norm, AdamW, in one CUDA graph. Takes for
    every part the fastest way, by the time of forward and backward as a graph."""

    def __init__(self, model, device, dtype, compile_too, repeats):
        self.config, self.device, self.dtype = model.wav2vec2.config, device, dtype
        self.compile_too, self.repeats = compile_too, repeats
        self.flat = Flat(model, device, dtype)
        self.convolutions = self.frozen(model)
        self.optimizer = torch.optim.AdamW(
            [{"params": [self.flat.trained[0]], "weight_decay": DECAY},
             {"params": [self.flat.trained[1]], "weight_decay": 0.0}],
            lr=RATE, betas=BETAS, eps=EPS, fused=True, capturable=device == "cuda")
        self.losses = torch.zeros(RING, device=device)
        self.norms = torch.zeros(RING, device=device)
        self.count = torch.zeros(1, dtype=torch.int64, device=device)
        self.taken, self.measured, self.failed, self.functions = {}, {}, {}, {}

    def frozen(self, model):
        """network.py's weights of the convolutions, without a projection behind them."""
        base = model.wav2vec2
        nothing = torch.nn.Linear(1, 1)
        encoder = types.SimpleNamespace(pos_conv_embed=base.encoder.pos_conv_embed,
                                        layer_norm=base.encoder.layer_norm, layers=[])
        weights = network.Weights(
            types.SimpleNamespace(
                config=base.config, projector=nothing, classifier=nothing,
                wav2vec2=types.SimpleNamespace(feature_extractor=base.feature_extractor,
                                               feature_projection=base.feature_projection,
                                               encoder=encoder)), self.device, self.dtype)
        weights.projection = None
        return weights

    def begin(self, first):
        """The weights of the start and fresh moments; batches from number `first` on."""
        self.flat.values.copy_(self.flat.start)
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
        self.count.fill_(first)

    # --- Choosing

    def ways(self, name, s):
        """Every way to compute a part: (x, p) -> y."""
        if name == "projection":
            return {"linear": lambda x, p: project(s, x, p)}
        if name == "head":
            return {"plain": lambda x, p: head_loss(s.noise, x, p, self.target)}
        if name == "position":
            # in float32 the filters are float32 already
            usable = [way for way in network.PARTS["position"]
                      if way != "f32" or self.dtype != torch.float32]
            return {way: lambda x, p, f=position_by(way): f(s, x, p) for way in usable}
        return {way: under(backend, lambda x, p: layer(s, x, p))
                for way, backend in BACKENDS.items()}

    def candidates(self, name, s):
        """(way, function) eager and compiled; layers are compiled with the best attention."""
        ways = self.ways(name, s)
        yield from ways.items()
        if name == "layer":
            times = self.measured[name]
            best = min((way for way in ways if way in times), key=times.get, default="math")
            ways = {best: lambda x, p: layer(s, x, p)}
        for way, function in ways.items() if self.compile_too else ():
            fused = compiled(function)
            yield f"{way}, compiled", under(BACKENDS.get(way), fused)

    def choose(self, name, x, p, s):
        """The fastest function of a part, or the one that is `taken` already, and its result."""
        functions, times = {}, self.measured.setdefault(name, {})
        for way, function in self.candidates(name, s):
            if self.taken.get(name, way) != way:
                continue
            try:
                replay, _ = capture(lambda f=function: both(f, x, p))
                times[way] = timed(replay, self.repeats)
                functions[way] = function
                del replay
            except Exception as error:  # one way less; all are reported
                self.failed[f"{name}, {way}"] = str(error).strip().split("\n")[0][:200]
                if self.device == "cuda":
                    torch.cuda.synchronize()
        if not functions:
            raise RuntimeError(f"no way to compute {name}: {self.failed}")
        best = min(functions, key=times.get)
        self.taken[name], self.functions[name] = best, functions[best]
        with torch.no_grad():
            return functions[best](x, p)

    def choose_convolutions(self, pcm):
        with torch.no_grad():
            plan = network.Plan(self.convolutions, pcm, self.compile_too, self.repeats)
            front, x = plan.choose("front", plan.candidates("front"), pcm)
            rest, x = plan.choose("convolutions", plan.candidates("convolutions"), x)
        self.taken.update(plan.taken)
        self.measured.update(plan.measured)
        self.failed.update(plan.failed)
        return lambda pcm: rest(front(pcm))

    # --- The step

    def prepare(self, pcm, labels, cached, noise, choose):
        """pcm [batches, B, N], labels [batches, B]; `choose` anew, or as it was chosen before."""
        self.pcm, self.labels, self.cached = pcm, labels, cached
        self.target = labels[0].clone()
        shape = Shape(self.config, noise)
        if choose:
            self.taken = {}
            self.convolve = self.choose_convolutions(pcm[0])
        with torch.no_grad():
            found = [self.convolve(x).to(self.dtype) for x in (pcm if cached else pcm[:1])]
        self.features = torch.stack(found)
        x = self.features[0]
        for name in PARTS:
            x = self.choose(name, x, self.flat.of(name)[0], shape)
        if not cached:
            self.features = None
        self.replay, _ = capture(self.step)

    def step(self):
        """Batches in turn, told by a counter on the device; loss and norm go to a ring there."""
        flat, place = self.flat, self.count % len(self.pcm)
        flat.refresh()
        if self.cached:
            x = self.features.index_select(0, place)[0]
        else:
            with torch.no_grad():
                x = self.convolve(self.pcm.index_select(0, place)[0])
        self.target.copy_(self.labels.index_select(0, place)[0])
        for name in PARTS:
            for p in flat.of(name):
                x = self.functions[name](x, p)
        loss = x
        flat.take(torch.autograd.grad(loss, flat.leaves))
        self.update()
        slot = self.count % RING
        self.losses.index_copy_(0, slot, loss.detach()[None])
        self.norms.index_copy_(0, slot, self.norm[None])
        self.count += 1
        return ()

    def update(self):
        """Clipping inside AdamW: its gradients are divided by grad_scale."""
        self.norm = torch.linalg.vector_norm(self.flat.gradient)
        self.optimizer.grad_scale = ((self.norm + 1e-6) / CLIP).clamp(min=1.0)
        self.optimizer.found_inf = None
        self.optimizer.step()
