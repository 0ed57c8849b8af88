# SPDX-License-Identifier: MIT
"""The training loop by hand of trainer_peer.py: libser's network and recipe in PyTorch.

Outputs of the frozen convolutions are computed once, clip by clip, and stay on the device. Batches
are made as ser-train makes them. On a GPU the first batch of a length runs as it is, the second is
captured, and from then on a step is one CUDA graph: gather, forward, backward, clipping, AdamW.
Checkpoints go through page-locked memory to a thread that writes them.
"""

import itertools
import json
import math
import sys
import threading
import time

import numpy as np
import torch
import transformers
from torch import nn

import pipeline_peer
from job_data import (
    LONGEST,
    batches_of,
    decode_all,
    dropouts,
    frame_count,
    mask_spans,
    rate_factor,
    score,
    warmup_steps,
)

FRAMES = 16  # lengths of batches are multiples of it: few shapes, little padding
AT_ONCE = 64  # clips for the convolutions and for validation
SIZES = [256, 128]  # of ser-train's classifier


class Head(nn.Module):
    """Attention pooling and the classifier of ser-train --backbone, in float32."""

    def __init__(self, hidden, sizes, dropout):
        super().__init__()
        self.pooling = nn.ModuleDict({"score": nn.Linear(hidden, 1)})
        sizes = [hidden, *sizes]
        self.classifier = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))
        self.dropout = dropout
        for layer in (self.pooling["score"], *self.classifier):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, valid):
        weight = self.pooling["score"](x)[..., 0].masked_fill(~valid, -math.inf).softmax(-1)
        x = (weight[:, :, None] * x).sum(1)
        for i, layer in enumerate(self.classifier):
            if i > 0:
                x = nn.functional.dropout(x.relu(), self.dropout, self.training)
            x = layer(x)
        return x


class Network(nn.Module):
    """From the convolutions' outputs to logits; frames behind a clip's end have no influence."""

    def __init__(self, base, head):
        super().__init__()
        self.projection, self.encoder, self.head = base.feature_projection, base.encoder, head

    def forward(self, features, frames, keep):
        valid = torch.arange(features.shape[1], device=frames.device) < frames[:, None]
        x = self.projection(features)[0] * (valid & keep)[:, :, None]
        x = self.encoder.layer_norm(x + self.encoder.pos_conv_embed(x))
        x = self.encoder.dropout(x)
        for layer in self.encoder.layers:
            x = layer(x, attention_mask=valid[:, None, None])
        with torch.autocast(x.device.type, enabled=False):
            return self.head(x.float(), valid)


# --- Parts of a run -------------------------------------------------------------------------------


def load(a, clips):
    """The backbone and a head: as --head says, else fresh."""
    config = transformers.AutoConfig.from_pretrained(a.model, **dropouts(a.recipe))
    if config.do_stable_layer_norm:
        raise SystemExit(f"{a.model}: the loops are written for the post-norm encoder")
    base = transformers.AutoModel.from_pretrained(
        a.model, config=config, attn_implementation="sdpa"
    )
    tensors, sizes = {}, SIZES
    if a.head is not None:
        from safetensors import safe_open

        with safe_open(a.head, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            sizes = json.loads(file.metadata()["config"])["classifier"]["sizes"]
    head = Head(config.hidden_size, [*sizes, len(clips.names)], a.recipe["classifier-dropout"])
    if tensors:
        head.load_state_dict({name: tensors[name] for name in head.state_dict()})
    return base, head


def compute_features(a, base, samples, frames, device, dtype):
    """[clips, longest, channels]: the frozen convolutions' outputs, zeros behind each clip."""
    front_end = json.loads((a.model / "preprocessor_config.json").read_text())
    room = FRAMES * math.ceil(max(frames) / FRAMES)
    room = max(room, FRAMES * math.ceil(frame_count(base.config, LONGEST) / FRAMES))
    store = torch.zeros(len(samples), room, base.config.conv_dim[-1], dtype=dtype, device=device)
    convolutions = base.feature_extractor.to(dtype)
    for batch in pipeline_peer.equal_batches([len(one) for one in samples], AT_ONCE):
        pcm = torch.from_numpy(np.stack([samples[i] for i in batch]))
        x = pcm.to(device).float() / 32768
        if front_end.get("do_normalize", True):
            x = x - x.mean(1, keepdim=True)
            x = x / torch.sqrt((x * x).mean(1, keepdim=True) + 1e-7)
        y = convolutions(x.to(dtype)).transpose(1, 2)
        store[torch.tensor(batch, device=device), : y.shape[1]] = y
    return store


class Writer:
    """Checkpoints, written while training goes on; two are kept, and the best weights."""

    def __init__(self, out, pinned):
        self.out, self.pinned = out, pinned
        self.host, self.thread, self.written, self.failure = {}, None, [], None

    def wait(self):
        if self.thread is not None:
            self.thread.join()
        if self.failure is not None:
            raise self.failure

    def save(self, step, weights, state, best):
        """`weights`, `state`: {name: tensor}; without a state no checkpoint is written."""
        self.wait()  # the host's copy is in use until then
        for name, tensor in {**weights, **state}.items():
            if name not in self.host:
                self.host[name] = torch.empty_like(tensor, device="cpu", pin_memory=self.pinned)
            self.host[name].copy_(tensor, non_blocking=True)
        if self.pinned:
            torch.cuda.synchronize()
        arguments = step if state else None, list(weights), best
        self.thread = threading.Thread(target=self.write, args=arguments)
        self.thread.start()

    def write(self, step, weights, best):
        from safetensors.torch import save_file

        try:
            if step is not None:
                path = self.out / "checkpoints" / f"step-{step}.safetensors"
                path.parent.mkdir(exist_ok=True)
                save_file(self.host, path)
                self.written.append(path)
                if len(self.written) > 2:
                    self.written.pop(0).unlink()
            if best:
                (self.out / "best").mkdir(exist_ok=True)
                model = {name: self.host[name] for name in weights}
                save_file(model, self.out / "best" / "model.safetensors")
        except Exception as error:  # raised again by wait()
            self.failure = error


# --- Training -------------------------------------------------------------------------------------


class Loop:
    def __init__(self, a, clips, samples, journal):
        self.a, self.clips, self.journal = a, clips, journal
        self.recipe = a.recipe
        self.device = torch.device(a.device)
        self.cuda = self.device.type == "cuda"
        self.bf16 = a.precision == "bf16"
        torch.manual_seed(a.seed)
        self.random = np.random.default_rng(a.seed)
        if self.bf16:
            torch.set_float32_matmul_precision("high")
        else:
            torch.backends.cudnn.allow_tf32 = False
        base, head = load(a, clips)
        base.to(self.device).eval()
        self.config = base.config
        self.frames = [frame_count(self.config, len(one)) for one in samples]
        with torch.no_grad():
            dtype = torch.bfloat16 if self.bf16 else torch.float32
            self.store = compute_features(a, base, samples, self.frames, self.device, dtype)
        self.network = Network(base, head).to(self.device)
        self.forward = self.network
        if a.peer == "loop-compiled":
            self.forward = torch.compile(self.network, dynamic=False)
        self.tables()
        self.make_optimizer()
        self.graphs, self.seen, self.pool, self.graph_failure = {}, set(), None, None

    def tables(self):
        """What batches are gathered from."""
        move = {"device": self.device}
        self.frames_table = torch.tensor(self.frames, **move)
        self.labels_table = torch.tensor(self.clips.labels, **move)
        self.keep = torch.ones(self.store.shape[:2], dtype=torch.bool, **move)
        self.total = torch.zeros((), **move)

    def make_optimizer(self):
        """Weight decay for matrices, as in ser-train; not for the magnitudes of the weight norm."""
        groups = {True: [], False: []}
        for name, p in self.network.named_parameters():
            groups[p.dim() >= 2 and not name.endswith("original0")].append(p)
        self.parameters = groups[True] + groups[False]
        decay = self.recipe["weight-decay"]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=torch.tensor(self.recipe["lr"], device=self.device),
            betas=(self.recipe["beta1"], self.recipe["beta2"]),
            eps=1e-8,
            fused=True,
            capturable=self.cuda,
        )

    def logits(self, network, index, length):
        features = self.store[:, :length].index_select(0, index)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return network(features, self.frames_table[index], self.keep[:, :length][index])

    def step(self, index, length):
        whole = len(index) == self.recipe["batch-size"]  # compiled for one shape only
        logits = self.logits(self.forward if whole else self.network, index, length)
        loss = nn.functional.cross_entropy(logits, self.labels_table[index])
        loss.backward()
        if self.recipe["clip-norm"] > 0.0:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe["clip-norm"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.total += loss.detach() * len(index)

    def capture(self, index, length):
        """A graph of the step and the tensor that it reads indices from; nothing is computed."""
        graph, static = torch.cuda.CUDAGraph(), index.clone()
        stream = torch.cuda.current_stream()
        with torch.cuda.graph(graph, self.pool, stream, capture_error_mode="thread_local"):
            self.step(static, length)
        self.pool = self.pool or graph.pool()
        return graph, static

    def run_batch(self, index, length):
        """The first batch of a shape as it is, the second captured, the others replayed."""
        shape = len(index), length
        if self.cuda and self.graph_failure is None and shape in self.seen:
            try:
                if shape not in self.graphs:
                    self.graphs[shape] = self.capture(index, length)
                graph, static = self.graphs[shape]
                static.copy_(index)
                graph.replay()
                return
            except RuntimeError as error:
                self.graph_failure = str(error).split("\n")[0]
                print(f"no CUDA graph: {self.graph_failure}", file=sys.stderr, flush=True)
                self.optimizer.zero_grad(set_to_none=True)
        self.seen.add(shape)
        self.step(index, length)

    def length_of(self, batch):
        if self.a.peer == "loop-compiled":
            longest = frame_count(self.config, LONGEST)
        else:
            longest = max(self.frames[i] for i in batch)
        return min(FRAMES * math.ceil(longest / FRAMES), self.store.shape[1])

    def epoch(self, rate_of):
        """Mean loss over the clips."""
        recipe, train = self.recipe, self.clips.parts["train"]
        if recipe["mask-time-prob"] > 0.0:
            keep = np.empty(self.store.shape[:2], bool)
            mask_spans(keep, self.frames, train, recipe["mask-time-prob"],
                       recipe["mask-time-length"], self.random)  # fmt: skip
            self.keep.copy_(torch.from_numpy(keep))
        self.network.train()
        self.total.zero_()
        batches = batches_of(train, self.frames, recipe["batch-size"], self.random)
        order = torch.tensor(list(itertools.chain(*batches))).to(self.device)
        first = 0
        for batch in batches:
            for group in self.optimizer.param_groups:
                group["lr"].fill_(next(rate_of))
            self.run_batch(order[first : first + len(batch)], self.length_of(batch))
            first += len(batch)
        return float(self.total) / len(train)

    @torch.no_grad()
    def evaluate(self, part):
        indices = sorted(self.clips.parts[part], key=lambda i: -self.frames[i])
        self.network.eval()
        found = []
        for i in range(0, len(indices), AT_ONCE):
            batch = indices[i : i + AT_ONCE]
            length = FRAMES * math.ceil(max(self.frames[k] for k in batch) / FRAMES)
            index = torch.tensor(batch).to(self.device)
            found.append(self.logits(self.network, index, length))
        labels = np.array([self.clips.labels[i] for i in indices])
        return score(torch.cat(found).cpu().numpy(), labels, len(self.clips.names))

    def state(self):
        """Names and tensors of what AdamW keeps."""
        names = {p: name for name, p in self.network.named_parameters()}
        return {
            f"{key}.{names[p]}": value
            for p, entry in self.optimizer.state.items()
            for key, value in entry.items()
        }

    def rates(self, steps):
        warmup = warmup_steps(self.recipe["warmup"], steps)
        for step in range(steps):
            factor = self.recipe["lr"] * rate_factor(step, steps, warmup)
            yield from [factor] * len(self.optimizer.param_groups)

    def train(self):
        count = len(self.clips.parts["train"])
        epochs, steps = self.recipe["epochs"], math.ceil(count / self.recipe["batch-size"])
        rate_of, writer = self.rates(epochs * steps), Writer(self.a.out, self.cuda)
        best, weights, saved = -1.0, None, time.perf_counter()
        for n in range(epochs):
            begin = time.perf_counter()
            loss = self.epoch(rate_of)
            seconds = time.perf_counter() - begin
            scores = self.evaluate("validation")
            self.journal.epoch(loss, scores, seconds)
            state = self.network.state_dict()
            better = scores["uar"] > best
            if better:
                best = scores["uar"]
                weights = {name: tensor.clone() for name, tensor in state.items()}
            due = time.perf_counter() - saved >= self.recipe["save-seconds"] or n + 1 == epochs
            if due or better:
                writer.save((n + 1) * steps, state, self.state() if due else {}, better)
            saved = time.perf_counter() if due else saved
        self.network.load_state_dict(weights)
        self.journal.finish(self.evaluate("test"))
        writer.wait()


def run(a, clips, decoder, journal):
    a.imported = time.perf_counter()
    samples = decode_all(clips, decoder, a.threads)
    journal.data(clips)
    loop = Loop(a, clips, samples, journal)
    if loop.cuda:
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):  # graphs are not captured on the default one
            loop.train()
    else:
        loop.train()
    facts = {"optimizer": "AdamW(fused=True)", "graphs": len(loop.graphs)}
    return {**facts, "graph_failure": loop.graph_failure}
