# SPDX-License-Identifier: MIT
"""libser and the PyTorch peers of README.md, section "Training", driven by training.py.

    python3 training_peers.py JSON   JSON: {"do": "work", "name": NAME, "model": DIR, "start": FILE,
                                     "clips": FILE, "device": "cuda" or "cpu", "compile": bool,
                                     "first": {"batch": B, "cached": bool}};
                                     other things to "do" are in training_reference.py

The protocol is that of peers.py. START is the model file of libser that everybody begins with; DIR
has the transformers config of its network. At the top of this file only NumPy is imported: libser
starts without PyTorch.
"""

import gc
import os
import time

import numpy as np

import peers
import serve
from peers import RATE, ROTATION

STEPS = 10  # whose losses are compared
DRAWS = 4  # of labels and of the first batch, at most
WAITING = 32  # results of libser that are not collected at most
QUIET = {"projection_dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0,
             "classifier_dropout": 0.0, "mask_time_probability": 0.0}


def draw_labels(draw, batch, classes):
    """[ROTATION, batch]"""
    return np.random.default_rng(draw).integers(0, classes, (ROTATION, batch))


# --- libser ---------------------------------------------------------------------------------------


class Libser:
    """Through the Python binding, as ser-train drives the library: a step is submitted while the
    one before computes. Noise is libser's defaults; batches are made before."""

    def __init__(self, precision):
        self.precision, self.trainer, self.model = precision, None, None

    def start(self, task):
        import ser

        self.ser, self.task = ser, task

    def load(self, task):
        """What every begin() does, too."""
        self.open_model()

    def open_model(self):
        if self.trainer:
            self.trainer.close()
            self.model.close()
        self.model = self.ser.Model.load(self.task["start"], device=self.task["device"],
                                         precision=self.precision)

    def facts(self):
        return {"device": self.model.device, "version": self.ser.version(),
                "parameters": self.model.parameter_count}

    def prepare(self, clips, cached, noisy, choose):
        """clips [ROTATION, B, N]"""
        self.clips, self.cached, self.noisy = clips, cached, noisy
        return {"cache_bytes": 2**31 if cached else 0}

    def begin(self, draw):
        """The weights of the start, fresh moments, that draw's labels and order."""
        self.open_model()
        names = self.model.labels
        self.trainer = self.ser.Trainer(
            self.model, steps=10**6, rate=3e-5, schedule="constant", warmup_steps=0,
            cache_bytes=2**31 if self.cached else 0, **({} if self.noisy else QUIET))
        labels = draw_labels(draw, len(self.clips[0]), len(names))
        self.batches = [
            self.trainer.batch(list(clips), [names[i] for i in row], sampling_rate=RATE)
            for clips, row in zip(self.clips, labels)
        ]
        self.number = draw

    def run(self, count):
        """Losses and norms of so many steps."""
        results, waiting = [], 0
        for _ in range(count):
            self.trainer.submit(self.batches[self.number % ROTATION])
            self.number += 1
            waiting += 1
            if waiting == WAITING:
                results.append(self.trainer.collect())
                waiting -= 1
        results += [self.trainer.collect() for _ in range(waiting)]
        if any(result.skipped for result in results):
            raise RuntimeError("a step was skipped: its loss or gradient is not finite")
        return [r.loss for r in results], [r.gradient_norm for r in results]

    events = None  # its work is in streams of its own

    def update(self, repeats):
        return None  # libser has no call for it; see the trace


# --- PyTorch --------------------------------------------------------------------------------------


class Torch(peers.OnTorch):
    """Data on the device, a Python loop, one wait behind the last step. `step` of a subclass gives
    the loss and the norm as tensors."""

    caches = True

    def start(self, task):
        super().start(task)
        self.torch.manual_seed(1)

    def load(self, task):
        import training_network

        self.net = training_network
        model = training_network.load_model(task["model"], task["start"])
        self.classes = model.classifier[-1].out_features
        self.build(model)

    def build(self, model):
        torch = self.torch
        trained = [p for p in model.parameters() if p.requires_grad]
        self.initial = [p.detach().clone() for p in trained]  # on the host
        self.model = model.to(self.device)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.net.groups(self.model), lr=self.net.RATE, betas=self.net.BETAS, eps=self.net.EPS,
            **self.optimizer_options())

    def optimizer_options(self):
        return {"fused": True}

    def facts(self):
        return {}

    def trim(self):
        """Memory that only what is over needed goes back."""
        gc.collect()
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    def prepare(self, clips, cached, noisy, choose):
        """Make ready for batches like these, clips [ROTATION, B, N]; says what was chosen."""
        from network import normalized

        torch, begin = self.torch, time.perf_counter()
        self.forget()
        self.trim()
        self.noise = self.net.USUAL if noisy else self.net.QUIET
        self.cached = cached and self.caches
        self.pcm = torch.from_numpy(np.stack(clips)).to(self.device)
        self.labels = torch.zeros(self.pcm.shape[:2], dtype=torch.int64, device=self.device)
        self.pcm = torch.stack([normalized(x) for x in self.pcm])
        chosen = self.make(choose)
        self.trim()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.begin(0)
        self.run(1)
        chosen.update(prepare_seconds=time.perf_counter() - begin, cached=self.cached)
        return chosen

    def forget(self):
        """What was made for other batches."""
        self.inputs = self.pcm = None

    def set_labels(self, draw):
        labels = draw_labels(draw, self.pcm.shape[1], self.classes)
        self.labels.copy_(self.torch.from_numpy(labels))
        self.number = draw

    def begin(self, draw):
        """The weights of the start, fresh moments, that draw's labels and order."""
        with self.torch.no_grad():
            for p, start in zip(self.trained, self.initial):
                p.copy_(start)
            for state in self.optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()
        self.set_labels(draw)

    def run(self, count):
        """Losses and norms of so many steps; .events: seconds on the device for each."""
        torch, cuda = self.torch, self.device == "cuda"
        if cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        rows = self.launch(count)
        if cuda:
            end.record()
        found = rows.tolist()
        if cuda:
            self.events = begin.elapsed_time(end) * 1e-3 / count
        return tuple(found)

    events = None

    def launch(self, count):
        """[2, count] on the device."""
        rows = []
        for _ in range(count):
            rows.append(self.torch.stack(self.step(self.number % ROTATION)))
            self.number += 1
        return self.torch.stack(rows, 1)

    def step(self, i):
        loss = self.loss(self.inputs[i], self.labels[i])
        loss.backward()
        norm = self.clip_and_update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm

    def clip_and_update(self):
        norm = self.torch.nn.utils.clip_grad_norm_(self.trained, self.net.CLIP)
        self.optimizer.step()
        return norm

    def loss(self, x, labels):
        with self.torch.autocast(self.device, self.dtype, enabled=self.precision == "bf16"):
            hidden = self.hidden(x)
        return self.net.head_loss(self.noise, hidden, self.model.parts(), labels)

    def update(self, repeats):
        """Seconds of clipping and AdamW alone, on the device."""
        from network import timed

        self.loss(self.inputs[0], self.labels[0]).backward()
        self.clip_and_update()
        found = [timed(self.clip_and_update, 1) for _ in range(repeats)]
        self.optimizer.zero_grad(set_to_none=True)
        return found


class Eager(Torch):
    """G1: as the documentation of transformers has it. Float32 weights, autocast, its default
    attention, its masks by NumPy, the convolutions in every step, PyTorch's default AdamW."""

    caches = False

    def tune(self):
        pass

    def optimizer_options(self):
        return {}

    def make(self, choose):
        self.model.set_noise(self.noise)
        self.inputs = self.pcm
        return {"attention": self.model.wav2vec2.config._attn_implementation}

    def hidden(self, x):
        return self.model.wav2vec2(x).last_hidden_state


class Tuned(Torch):
    """G2: the same network with frozen convolutions in one type and without gradients, masks drawn
    on the device, the fastest attention, fused AdamW, features kept where they are cached."""

    def build(self, model):
        model.wav2vec2.feature_extractor.to(self.dtype)
        super().build(model)

    def features(self, pcm):
        with self.torch.no_grad(), self.torch.autocast(self.device, enabled=False):
            return self.model.wav2vec2.feature_extractor(pcm.to(self.dtype)).transpose(1, 2)

    def hidden(self, x):
        base = self.model.wav2vec2
        x = x if self.cached else self.features(x)
        x = self.net.masked(base.feature_projection(x)[0], self.noise)
        return base.encoder(x).last_hidden_state

    def loss(self, x, labels):
        with self.net.sdpa_kernel(self.net.BACKENDS[self.attention]):
            return super().loss(x, labels)

    def make(self, choose):
        self.model.set_noise(self.noise)
        self.inputs = self.pcm
        if self.cached:
            self.inputs = [self.features(x).contiguous() for x in self.pcm]
        return self.choose_attention() if choose else {}

    def choose_attention(self):
        """By whole steps."""
        seconds, failed = {}, {}
        for self.attention in self.net.BACKENDS:
            try:
                self.begin(0)
                self.run(2)
                begin = time.perf_counter()
                self.run(3)
                seconds[self.attention] = (time.perf_counter() - begin) / 3
            except RuntimeError as error:
                failed[self.attention] = str(error).strip().split("\n")[0][:200]
                self.optimizer.zero_grad(set_to_none=True)
        if not seconds:
            raise RuntimeError(f"no attention: {failed}")
        self.attention = min(seconds, key=seconds.get)
        return {"attention": self.attention, "seconds": seconds, "failed": failed}


class Compiled(Tuned):
    """G3: G2 by torch.compile, max-autotune: loss with its backward pass, and the update."""

    # What cannot be is tried with breaks.
    TRIES = ({"fullgraph": True}, {"fullgraph": False})

    def start(self, task):
        if not task["compile"]:
            raise RuntimeError("skipped by --skip-compiled")
        super().start(task)

    def optimizer_options(self):
        return {"fused": True, "capturable": True} if self.device == "cuda" else {"fused": True}

    def forget(self):
        super().forget()
        self.fused_loss = self.fused_update = None
        self.torch._dynamo.reset()

    def make(self, choose):
        chosen = super().make(choose)
        if not choose:
            self.compile_with(self.options)
            return chosen
        failed = {}
        for self.options in self.TRIES:
            try:
                self.compile_with(self.options)
                self.begin(0)
                self.run(3)  # compile, record the graphs, replay them
                return {**chosen, **self.options, **self.choose_update(), "tries_failed": failed}
            except Exception as error:  # the next way; all are reported
                failed[str(self.options)] = str(error).strip().split("\n")[0][:200]
                self.forget_only_compiled()
        raise RuntimeError(f"does not compile: {failed}")

    def forget_only_compiled(self):
        self.fused_loss = self.fused_update = None
        self.torch._dynamo.reset()
        self.optimizer.zero_grad(set_to_none=True)

    def compile_with(self, options):
        compile_ = self.torch.compile
        self.fused_loss = compile_(super().loss, mode="max-autotune", dynamic=False,
                                   fullgraph=options["fullgraph"])
        if options.get("update") == "compiled":
            self.fused_update = compile_(super().clip_and_update, dynamic=False,
                                         mode="max-autotune-no-cudagraphs")

    def choose_update(self):
        """Compiled clipping and AdamW, or as G2 has it."""
        seconds = {}
        for way in ("fused", "compiled"):
            try:
                self.compile_with({**self.options, "update": way})
                self.run(3)
                begin = time.perf_counter()
                self.run(3)
                seconds[way] = time.perf_counter() - begin
            except Exception as error:  # reported
                seconds[way], failed = float("inf"), str(error).strip().split("\n")[0][:200]
                self.optimizer.zero_grad(set_to_none=True)
            self.fused_update = None
        self.options = {**self.options, "update": min(seconds, key=seconds.get)}
        self.compile_with(self.options)
        found = {"update": self.options["update"]}
        return found if max(seconds.values()) < 1e9 else {**found, "update_failed": failed}

    def loss(self, x, labels):
        if self.fused_loss is None:
            return super().loss(x, labels)
        self.torch.compiler.cudagraph_mark_step_begin()
        return self.fused_loss(x, labels)

    def step(self, i):
        loss, norm = super().step(i)
        return loss.clone(), norm.clone()  # a graph's memory is its own

    def clip_and_update(self):
        return self.fused_update() if self.fused_update else super().clip_and_update()


class Graph(Torch):
    """G4: training_network.Step, everything in one CUDA graph."""

    def build(self, model):
        repeats = 20 if self.device == "cuda" else 1
        self.whole = self.net.Step(model, self.device, self.dtype, self.compile, repeats)

    def forget(self):
        super().forget()
        self.whole.replay = self.whole.features = self.whole.pcm = None
        if self.compile:
            self.torch._dynamo.reset()
            self.torch._dynamo.config.recompile_limit = 64

    def make(self, choose):
        whole = self.whole
        whole.prepare(self.pcm, self.labels, self.cached, self.noise, choose)
        return {"parts": dict(whole.taken), "seconds": whole.measured, "failed": whole.failed,
                "compiled": self.compile}

    def begin(self, draw):
        self.whole.begin(draw)
        self.set_labels(draw)

    def launch(self, count):
        whole = self.whole
        for _ in range(count):
            whole.replay()
        slots = self.torch.arange(self.number, self.number + count, device=self.device)
        self.number += count
        slots %= self.net.RING
        return self.torch.stack([whole.losses[slots], whole.norms[slots]])

    def update(self, repeats):
        from network import capture, timed

        replay, _ = capture(self.whole.update)
        return [timed(replay, 1) for _ in range(repeats)]


PEERS = peers.entries(Libser, Eager, Tuned, Compiled, Graph)


# --- A worker -------------------------------------------------------------------------------------


class Worker:
    """Answers requests {"do": one of the methods below, ...}."""

    def __init__(self, task):
        begin = time.perf_counter()
        self.task, self.peer = task, PEERS[task["name"]].make()
        self.peer.start(task)
        started = time.perf_counter()
        self.peer.load(task)
        loaded = time.perf_counter()
        self.clips = np.load(task["clips"], mmap_mode="r")
        first = self.size(**task["first"])
        self.peer.run(1)
        ended = time.perf_counter()
        self.ready = {"import": started - begin, "load": loaded - started,
                      "first": ended - loaded, "prepare_seconds": first.get("prepare_seconds"),
                      **self.peer.facts()}

    def size(self, batch, cached):
        """Make ready for a batch size, with everything on, choosing what is fastest."""
        self.batches = [np.array(self.clips[i * batch :][:batch]) for i in range(ROTATION)]
        self.cached = cached
        chosen = self.peer.prepare(self.batches, cached, True, True)
        self.peer.begin(0)
        return chosen

    def agree(self, draws):
        """Losses and norms of the first steps without dropout and masks, for every draw; with them
        once more, of the first draw. `same`: twice the same calls gave the same bits. Then ready
        to be timed."""
        self.peer.prepare(self.batches, self.cached, False, False)
        quiet = [self.first_steps(draw) for draw in range(draws)]
        again = self.first_steps(0)
        self.peer.prepare(self.batches, self.cached, True, False)
        noisy, second = (self.first_steps(0) for _ in range(2))
        losses, norms = zip(*quiet)
        self.settle()
        return {"losses": losses, "norms": norms, "noisy": noisy[0],
                "same": again == quiet[0], "same_noisy": noisy == second}

    def settle(self):
        """Until nothing is new any more: every batch has been seen, graphs are recorded."""
        self.peer.run(2 * ROTATION)

    def first_steps(self, draw):
        self.peer.begin(draw)
        return self.peer.run(STEPS)

    def turn(self, steps, warm):
        """Seconds of a step on the host's clock and between events; what the loss has become."""
        self.peer.run(warm)
        begin = time.perf_counter()
        losses, _ = self.peer.run(steps)
        taken = (time.perf_counter() - begin) / steps
        return {"host": taken, "events": self.peer.events, "loss": losses[-1]}

    def update(self, repeats):
        return {"update": self.peer.update(repeats)}

    def trace(self, runs):
        self.settle()  # libser is in a fresh process
        return serve.trace(lambda: self.peer.run(1), runs, isinstance(self.peer, Libser))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    serve.main(Worker, "training_reference")
