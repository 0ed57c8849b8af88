# SPDX-License-Identifier: MIT
"""libser and the PyTorch peers of README.md, each in a process of its own, driven by bench.py.

    python3 peers.py JSON      JSON: {"do": "work", "name": NAME, "model": DIR, "clips": FILE,
                               "device": "cuda" or "cpu", "compile": bool, "outputs": FILE};
                               other things to "do" are in reference.py

A worker says {"ready": ...} when it has its first result, then answers each line of JSON on its
standard input with one on its standard output (see Worker). What goes wrong is told as
{"error": why}. At the top of this file only NumPy is imported: libser starts without PyTorch.
"""

import collections
import gc
import os
import time

import numpy as np

import serve

RATE = 16000
ROTATION = 4  # inputs of each batch size
MODE_B = {"TORCH_CUDNN_USE_HEURISTIC_MODE_B": "1"}


# --- libser ---------------------------------------------------------------------------------------


class Libser:
    """Through the C API by the declarations of the Python binding, not through ser.Model, which
    leaves no choice of how many clips are computed together. What a caller has is samples in
    memory: making the clips is part of the time.
    """

    TOGETHER = 32  # more clips may go in turns of so many: the host works while the device does

    def __init__(self, precision):
        self.precision, self.predictor = precision, None

    def start(self, task):
        import ser
        from ser import _ffi, _library

        self.ser, self.ffi, self.lib, self.check = ser, _ffi, _library.lib, _library.check
        self.options = _library.options

    def load(self, task):
        device = self.ffi.DEVICE_CUDA if task["device"] == "cuda" else self.ffi.DEVICE_CPU
        chosen = self.options(self.ffi.device_options, "device_options")
        chosen.kind = device
        self.device, self.model = self.ffi.c_void_p(), self.ffi.c_void_p()
        byref = self.ffi.ctypes.byref
        self.check(self.lib.ser_device_open(byref(chosen), byref(self.device)))
        chosen = self.options(self.ffi.model_options, "model_options")
        chosen.precision = {"f32": self.ffi.PRECISION_F32, "bf16": self.ffi.PRECISION_BF16}[
            self.precision
        ]
        path = os.fsencode(task["model"])
        self.check(self.lib.ser_model_load(self.device, path, byref(chosen), byref(self.model)))
        self.classes = self.lib.ser_model_label_count(self.model)

    def facts(self):
        return {
            "device": self.lib.ser_device_name(self.device).decode(),
            "version": self.ser.version(),
            "parameters": self.lib.ser_model_parameter_count(self.model),
        }

    def size(self, clips):
        """Make ready for batches like these; says what was chosen."""
        seconds = {}
        for together in sorted({len(clips), min(len(clips), self.TOGETHER)}):
            self.make_predictor(together)
            taken = []
            while len(clips) > self.TOGETHER and len(taken) < 5:
                begin = time.perf_counter()
                self.run(clips)
                taken.append(time.perf_counter() - begin)
            seconds[together] = min(taken, default=0.0)
        best = min(seconds, key=seconds.get)
        if best != together:
            self.make_predictor(best)
        return {"max_batch": best, "seconds": seconds}

    def make_predictor(self, together):
        byref = self.ffi.ctypes.byref
        if self.predictor:
            self.lib.ser_predictor_free(byref(self.predictor))
        chosen = self.options(self.ffi.predictor_options, "predictor_options")
        chosen.max_batch = together
        self.predictor = self.ffi.c_void_p()
        self.check(
            self.lib.ser_predictor_create(self.model, byref(chosen), byref(self.predictor))
        )

    def run(self, clips):
        ctypes, lib, check = self.ffi.ctypes, self.lib, self.check
        count, samples = clips.shape
        kind, place = ctypes.c_float * samples, clips.ctypes.data
        handles = (ctypes.c_void_p * count)()
        out = np.empty((count, self.classes), np.float32)
        audio = ctypes.c_void_p()
        try:
            for i in range(count):
                data = kind.from_address(place + i * clips.strides[0])
                check(lib.ser_audio_from_samples(data, samples, 1, RATE, None, ctypes.byref(audio)))
                handles[i] = audio.value
            result = out.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            check(lib.ser_predict_batch(self.predictor, handles, count, result, out.size))
        finally:
            for handle in filter(None, handles):
                audio.value = handle
                lib.ser_audio_free(ctypes.byref(audio))
        return out

    def details(self, count):
        """Logits and mean last hidden state of every clip of the last call."""
        rows = []
        for i in range(count):
            found = self.ffi.prediction()
            found.struct_size = self.ffi.ctypes.sizeof(found)
            self.check(
                self.lib.ser_predictor_get_prediction(
                    self.predictor, i, self.ffi.ctypes.byref(found)
                )
            )
            rows.append((np.array(found.logits[: found.logits_count]),
                         np.array(found.embedding[: found.embedding_count])))
        return tuple(np.stack(column) for column in zip(*rows))

    def events(self, count):
        return None  # its work is in streams of its own


# --- PyTorch --------------------------------------------------------------------------------------


def load_classifier(path, **options):
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForAudioClassification.from_pretrained(path, **options).eval()


def fold_position(encoder):
    """What any deployment does: the weight norm is computed once, not in every call."""
    from torch.nn.utils import parametrize

    parametrize.remove_parametrizations(encoder.pos_conv_embed.conv, "weight")


def fold(model):
    fold_position(model.wav2vec2.encoder)
    return model


class OnTorch:
    """What the peers of inference and of training begin with."""

    precision, tf32 = "bf16", True

    def start(self, task):
        import torch
        import transformers  # noqa: F401

        self.torch, self.device, self.compile = torch, task["device"], task["compile"]
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no GPU")
        self.dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[self.precision]
        self.tune()

    def tune(self):
        """Settings of the process."""
        backends = self.torch.backends
        backends.cudnn.benchmark, backends.cudnn.benchmark_limit = True, 0  # try every engine
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = self.tf32


class Torch(OnTorch):
    """Upload, forward, download. `prepare` of a subclass gives the forward of one batch size: a
    function of nothing that reads self.pcm and gives probabilities, logits and the mean frame."""

    def start(self, task):
        super().start(task)
        self.guard = self.torch.inference_mode

    def load(self, task):
        self.model = fold(load_classifier(task["model"])).to(self.device, self.dtype)

    def facts(self):
        return {}

    def size(self, clips):
        """Make ready for batches like these; says what was chosen."""
        torch = self.torch
        self.forward = self.outputs = self.plan = None
        self.forget()
        self.trim()
        cuda = self.device == "cuda"
        self.pcm = torch.from_numpy(clips).to(self.device, copy=True)
        self.staged = torch.empty(clips.shape, pin_memory=cuda)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        with self.guard():
            self.forward, chosen = self.prepare()
            self.trim()
            self.outputs = self.forward()
        chosen["prepare_seconds"] = time.perf_counter() - begin
        chosen["upload"] = self.choose_upload(clips) if cuda else "none"
        if cuda:  # the allocator's part of what the driver says
            chosen["reserved_bytes"] = torch.cuda.max_memory_reserved()
        return chosen

    def forget(self):
        """What was compiled for another size."""

    def trim(self):
        """Memory that only choosing needed goes back."""
        gc.collect()
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    def choose_upload(self, clips):
        """From the caller's memory or through page-locked memory, what is faster here."""
        seconds = {}
        for name in ("direct", "staged"):
            self.way = name
            taken = []
            for _ in range(7):
                begin = time.perf_counter()
                self.upload(clips)
                self.torch.cuda.synchronize()
                taken.append(time.perf_counter() - begin)
            seconds[name] = sorted(taken)[3]
        self.way = min(seconds, key=seconds.get)
        return self.way

    way = "direct"

    def upload(self, clips):
        clips = self.torch.from_numpy(clips)
        if self.way == "staged":
            clips = self.staged.copy_(clips)
        self.pcm.copy_(clips, non_blocking=True)

    def run(self, clips):
        with self.guard():
            self.upload(clips)
            self.outputs = self.forward()
            return self.outputs[0].cpu().numpy()

    def details(self, count):
        """Of the last run; the mean frame is None where the peer does not give it."""
        return tuple(None if x is None else x.double().cpu().numpy() for x in self.outputs[1:])

    def events(self, count):
        """Seconds between events around the forward, PCM and result on the device."""
        torch = self.torch
        if self.device != "cuda":
            return None
        pairs = []
        with self.guard():
            for _ in range(count):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                self.outputs = self.forward()
                end.record()
                torch.cuda.synchronize()
                pairs.append((begin, end))
        return [begin.elapsed_time(end) * 1e-3 for begin, end in pairs]


class Eager(Torch):
    """G1: what the documentation of transformers says, in autocast: float32 weights, normalisation
    by the feature extractor on the host."""

    def tune(self):
        pass

    def load(self, task):
        import transformers

        self.extractor = transformers.AutoFeatureExtractor.from_pretrained(task["model"])
        self.model = load_classifier(task["model"]).to(self.device)

    def choose_upload(self, clips):
        return "feature extractor"

    def upload(self, clips):
        values = self.extractor(list(clips), sampling_rate=RATE, return_tensors="pt")
        self.pcm = values.input_values.to(self.device)

    def prepare(self):
        self.upload(self.pcm.cpu().numpy())

        def forward():
            with self.torch.autocast(self.device, self.torch.bfloat16):
                logits = self.model(self.pcm).logits.float()
            return logits.softmax(-1), logits, None

        return forward, {"attention": self.model.config._attn_implementation}


class Tuned(Torch):
    """G2: the modules of transformers with weights of one type, normalisation on the device, every
    cuDNN engine tried, the fastest fused attention."""

    def classify(self, hidden):
        """The mean commutes with the projector."""
        mean = hidden.mean(1)
        logits = self.model.classifier(self.model.projector(mean)).float()
        return logits.softmax(-1), logits, mean

    def network(self):
        from network import normalized

        x = normalized(self.pcm).to(self.dtype)
        return self.classify(self.model.wav2vec2(x).last_hidden_state)

    def prepare(self):
        """Attention by each fused kernel."""
        from network import BACKENDS, sdpa_kernel, timed

        seconds, failed, functions = {}, {}, {}
        for name, backend in BACKENDS.items():

            def forward(backend=backend):
                with sdpa_kernel(backend):
                    return self.network()

            try:
                forward()
                functions[name], seconds[name] = forward, timed(forward, 5)
            except RuntimeError as error:
                failed[name] = str(error).strip().split("\n")[0][:200]
        if not seconds:
            raise RuntimeError(f"no attention: {failed}")
        best = min(seconds, key=seconds.get)
        return functions[best], {"attention": best, "seconds": seconds, "failed": failed}


class Compiled(Tuned):
    """G3: the same network by torch.compile, max-autotune, with its CUDA graphs, static shapes."""

    # Frozen weights let it fold and lay out constants. What cannot be is tried without.
    TRIES = (
        {"fullgraph": True, "freezing": True},
        {"fullgraph": True, "freezing": False},
        {"fullgraph": False, "freezing": False},
    )

    def start(self, task):
        if not task["compile"]:
            raise RuntimeError("skipped by --skip-compiled")
        super().start(task)
        self.guard = self.torch.no_grad

    def forget(self):
        self.torch._dynamo.reset()

    def prepare(self):
        import torch._inductor.config as inductor
        from network import BACKENDS, sdpa_kernel

        torch = self.torch
        eager, chosen = super().prepare()
        failed = {}
        for options in self.TRIES:
            inductor.freezing = options["freezing"]
            torch._dynamo.reset()
            function = torch.compile(self.network, mode="max-autotune", dynamic=False,
                                     fullgraph=options["fullgraph"])

            def forward():
                torch.compiler.cudagraph_mark_step_begin()
                with sdpa_kernel(BACKENDS[chosen["attention"]]):
                    return function()

            try:
                for _ in range(3):  # compile, record the graph, replay it
                    outputs = forward()
                wrong = self.difference(eager(), outputs)
                if wrong < 0.1:
                    return forward, {**chosen, **options, "tries_failed": failed}
                failed[str(options)] = f"other logits by {wrong:.1e}"
            except Exception as error:  # the next way; all are reported
                failed[str(options)] = str(error).strip().split("\n")[0][:200]
        raise RuntimeError(f"does not compile: {failed}")

    def difference(self, outputs, others):
        a, b = outputs[1].double(), others[1].double()
        return float((a - b).norm() / a.norm())


class Graph(Torch):
    """G4: network.py, the fastest way for each part, in one CUDA graph."""

    def start(self, task):
        super().start(task)
        self.guard = self.torch.no_grad

    def load(self, task):
        from network import Weights

        self.weights = Weights(fold(load_classifier(task["model"])), self.device, self.dtype)

    def forget(self):
        if self.compile:
            self.torch._dynamo.reset()

    def prepare(self):
        from network import Plan, capture

        self.plan = Plan(self.weights, self.pcm, self.compile, 20 if self.device == "cuda" else 1)
        replay, outputs = capture(self.plan.prepare())

        def forward():
            fresh = replay()
            return outputs if fresh is None else fresh

        chosen = {"parts": self.plan.taken, "seconds": self.plan.measured,
                  "failed": self.plan.failed, "compiled": self.compile}
        return forward, chosen


class Torchaudio(Tuned):
    """G5: torchaudio's wav2vec2 with the same weights, otherwise as G2."""

    def load(self, task):
        from torchaudio.models.wav2vec2.utils import import_huggingface_model

        model = load_classifier(task["model"])
        network = import_huggingface_model(model.wav2vec2).eval()
        fold_position(network.encoder.transformer)
        self.audio = network.to(self.device, self.dtype)
        self.model = model.to(self.device, self.dtype)

    def network(self):
        from network import normalized

        return self.classify(self.audio(normalized(self.pcm).to(self.dtype))[0])


# --- Who there is ---------------------------------------------------------------------------------

Entry = collections.namedtuple("Entry", "precision label environment make")


def entries(libser, eager, tuned, compiled, graph, more=None):
    """Everybody by name, from the classes; `more`: of one benchmark only, in bf16."""

    def in_f32(kind, tf32=False):
        return type(kind.__name__, (kind,), {"precision": "f32", "tf32": tf32})

    return {
        "libser-bf16": Entry("bf16", "libser", {}, lambda: libser("bf16")),
        "eager": Entry("bf16", "G1", {}, eager),
        "tuned": Entry("bf16", "G2", {}, tuned),
        "tuned-b": Entry("bf16", "G2", MODE_B, tuned),
        "compiled": Entry("bf16", "G3", {}, compiled),
        "compiled-b": Entry("bf16", "G3", MODE_B, compiled),
        "graph": Entry("bf16", "G4", {}, graph),
        "graph-b": Entry("bf16", "G4", MODE_B, graph),
        **(more or {}),
        "libser-f32": Entry("f32", "libser", {}, lambda: libser("f32")),
        "f32": Entry("f32", "G2", {}, in_f32(tuned)),
        "f32-graph": Entry("f32", "G4", {}, in_f32(graph)),
        "tf32-graph": Entry("f32", "G4", {}, in_f32(graph, True)),
    }


PEERS = entries(Libser, Eager, Tuned, Compiled, Graph,
                {"torchaudio": Entry("bf16", "G5", {}, Torchaudio)})


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
        self.take(1)
        self.peer.size(self.batches[0])
        self.peer.run(self.batches[0])
        ended = time.perf_counter()
        self.ready = {"import": started - begin, "load": loaded - started,
                      "first": ended - loaded, **self.peer.facts()}

    def take(self, batch):
        """The inputs of a batch size, as a caller has them: arrays in memory."""
        self.count = batch
        self.batches = [np.array(self.clips[i * batch :][:batch]) for i in range(ROTATION)]

    def batch(self, i):
        return self.batches[i % ROTATION]

    def size(self, batch):
        """Make ready for a batch size, and compute until nothing is new any more."""
        self.take(batch)
        chosen = self.peer.size(self.batch(0))
        for i in range(ROTATION):
            self.peer.run(self.batch(i))
        return chosen

    def outputs(self):
        """Write what comes out for every input: probabilities, logits, mean frame."""
        rows = collections.defaultdict(list)
        for i in range(ROTATION):
            probabilities = self.peer.run(self.batch(i))
            logits, hidden = self.peer.details(self.count)
            rows["probabilities"].append(probabilities)
            rows["logits"].append(logits)
            if hidden is not None:
                rows["hidden"].append(hidden)
        np.savez(self.task["outputs"], **{name: np.concatenate(row) for name, row in rows.items()})
        return {}

    def turn(self, runs, warm, first):
        """Seconds of each run on the host's clock, samples and probabilities in host memory."""
        seconds = []
        for i in range(first - warm, first + runs):
            clips = self.batch(i)
            begin = time.perf_counter()
            self.peer.run(clips)
            seconds.append(time.perf_counter() - begin)
        events = self.peer.events(warm + runs)
        return {"host": seconds[warm:], "events": events and events[warm:]}

    def trace(self, runs):
        numbers = iter(range(10**9))
        return serve.trace(lambda: self.peer.run(self.batch(next(numbers))), runs,
                           isinstance(self.peer, Libser))


if __name__ == "__main__":
    serve.main(Worker, "reference")
