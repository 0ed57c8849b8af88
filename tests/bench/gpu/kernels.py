# SPDX-License-Identifier: MIT
"""Times of libser's ops on the device, from a trace by torch.profiler in the same process.

CUPTI, below PyTorch's profiler, sees every kernel, copy and fill of the process, those inside CUDA
graphs too. libser's own kernels have names of their own (KERNELS). Products by cuBLASLt and
convolutions by cuDNN have foreign ones; what they belong to follows from libser's kernels before
and behind them, because the ops of a pass or of a training step come in one order (Walk). Names are
those of floors.py, and "clear" for the gradients' zeros.

python3 kernels.py LOG    the same for a log of the emulation (tests/emulation), which has no times:
                          how often each op launches; --list: the launches themselves
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import re
import statistics
import subprocess
import tempfile

# Every kernel of lib/ops/cuda and the op that it serves; that of a product says nothing.
KERNELS = {
    kernel: op
    for op, kernels in {
        "adamw": "adamw",
        "attention": "attention_mma attention_plain",
        "attention_bwd": "attention_backward_mma attention_backward_plain attention_dots "
        "attention_draw",
        "attn_pool": "pool_weights weighted_sum",
        "attn_pool_bwd": "pool_scores_bwd pool_frames_bwd add_clips",
        "column_sums": "partial_sums add_partials",
        "conv": "gelu_kernel norm_kernel norm_long_kernel zero_kernel",
        "conv_bwd": "gelu_gradient_kernel norm_gradient norm_long_gradient pack_weights",
        "convert": "convert",
        "cross_entropy": "cross_entropy",
        "cross_entropy_bwd": "cross_entropy_bwd",
        "dropout": "dropout",
        "dropout_bwd": "dropout_bwd",
        "gather": "gather",
        "gelu_product": "gelu_product",
        "layer_mix": "layer_mix",
        "layer_mix_bwd": "layer_mix_bwd finish_dots",
        "linear": "activate_kernel",
        "log_mel": "fold_frames find_power take_logs take_level",
        "mel_warp": "mel_warp",
        "pos_conv": "pos_conv_tensor pos_conv_portable add_parts",
        "pos_conv_bwd": "tail_gradient reverse_weights weight_gradient_tensor "
        "weight_gradient_portable add_weight_parts",
        "product": "product_plain",
        "residual_norm": "norm_in_registers norm_in_passes",
        "residual_norm_bwd": "norm_bwd_at_hand norm_bwd_in_passes norm_bwd_columns add_sums",
        "span_mask": "span_mask",
        "sum_squares": "sum_chunks add_chunks",
        "wave_conv": "wave_sum_moments wave_fold_clips wave_make_bank wave_find_spread "
        "wave_convolve",
        "wave_conv_bwd": "wave_find_affine wave_find_common wave_sum_gradients wave_sum_chunks "
        "wave_add_clips",
        "weight_norm": "sum_chunk sum_channels scale",
        "weight_norm_bwd": "add_gradients",
    }.items()
    for kernel in kernels.split()
}

HELPER = re.compile(r"splitk_?reduce|reduce_?splitk|memset", re.IGNORECASE)


def base_name(name):
    """Of a demangled kernel outside every named namespace; else None."""
    plain = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    match = re.match(r"(\w+)(?:[<(]|$)", plain)
    return match[1] if match else None


BLOCK_INPUTS = ("encoder_norm", "start_dropout", "residual_norm")  # what makes them


def is_copy(name):
    return name.lower().startswith("memcpy")


class Walk:
    """Gives every kernel of a forward pass, or of a training step, its op. Foreign kernels wait
    until libser's next one tells what they were: `last` is the op of libser's kernel before them.

    The methods that are named like ops take libser's kernels: those of backward, between the loss
    and the update, begin with back_."""

    def __init__(self):
        self.ops = []
        self.waiting = []  # (place in ops, name)
        self.last = None
        self.kernel = None  # libser's that is being looked at, without its parameters
        self.convolution = 0
        self.is_backward = False
        self.layer = None  # of backward: whose gradients come next, a layer with weights
        self.next_layer = None  # of backward: whose turn it is when the products that come are done
        self.norm = []  # of backward: places in ops of the last norm

    def settle(self, op):
        """What waits belongs to `op`; to none where that is None."""
        for place, name in self.waiting:
            self.ops[place] = op or f"other: {name}"
        self.waiting = []

    def settle_feed_forward(self):
        """Both products wait, because the first has its GELU in it. Where the rows are made in
        parts, its kernels have one name, which is not that of the second."""
        products = [name for _, name in self.waiting if not HELPER.search(name)]
        parts = 0
        while parts < len(products) and products[parts] == products[0]:
            parts += 1
        parts = parts if parts < len(products) else 1
        seen = 0
        for place, name in self.waiting:
            seen += not HELPER.search(name)
            self.ops[place] = "ffn 1" if seen <= parts else "ffn 2"
        self.waiting = []

    def settle_gradients(self):
        """What waits are the products of a layer's backward: that of the weights, then that of the
        layer's input, if it is wanted."""
        seen = 0
        for place, name in self.waiting:
            seen += not HELPER.search(name)
            self.ops[place] = self.gradient("dw" if seen <= 1 else "dx")
        if self.waiting and self.next_layer:
            self.layer, self.next_layer = self.next_layer, None
        self.waiting = []

    def gradient(self, kind):
        """Of the layer whose turn it is; pooling and classifier are not divided."""
        if self.layer in ("attn_pool", "classifier"):
            return f"{self.layer}_bwd"
        return f"{self.layer} {kind}"

    def add(self, name):
        self.kernel = base_name(name)
        own = KERNELS.get(self.kernel)
        self.ops.append(None)
        if is_copy(name):
            self.ops[-1] = "copy in" if "HtoD" in name else "copy out" if "DtoH" in name else "copy"
        elif own is None or own == "product":
            self.waiting.append((len(self.ops) - 1, name))
        else:
            step = getattr(self, f"back_{own}" if self.is_backward else own, None)
            self.ops[-1] = step() if step else self.other(own)

    def finish(self):
        """Behind an update nothing but the gradients' zeros is to come."""
        self.settle("clear" if self.last in ("adamw", "weight_norm") else None)
        return self.ops

    # --- libser's kernels: what waits gets its op, the result is their own ---

    def other(self, own):
        self.settle(own if self.last == own else None)
        self.last = own
        return own

    def wave_conv(self):
        self.settle(None)
        self.convolution = 0
        self.last = "wave_conv"
        return self.last

    def conv(self):
        """The tail, or zeros in the padding, of the convolution whose product waits."""
        if self.waiting:
            self.convolution = self.convolution + 1 if self.follows_convolution() else 0
            self.last = f"conv {self.convolution}"
        self.settle(self.last)
        return self.last or "conv"

    def follows_convolution(self):
        return self.last is not None and self.last.startswith(("wave_conv", "conv "))

    def residual_norm(self):
        last = self.last
        if self.follows_convolution():
            # of convolutions without kernels of libser's behind them nobody knows which is which
            self.settle(f"conv {self.convolution + 1} and on")
            self.last = "feature_norm"
        elif last == "gather":
            self.settle(None)
            self.last = "feature_norm"
        elif last == "pos_conv":
            self.settle(None)
            self.last = "encoder_norm"
        elif last == "attention":
            self.settle("out")
            self.last = "residual_norm, middle"
        elif last == "ffn 1":
            self.settle("ffn 2")
            self.last = "residual_norm"
        elif last == "residual_norm, middle":
            self.settle_feed_forward()
            self.last = "residual_norm"
        else:
            self.settle(None)
            self.last = "residual_norm"
        return self.last.partition(",")[0]

    def pos_conv(self):
        self.settle("projection" if self.last != "pos_conv" else None)
        self.last = "pos_conv"
        return self.last

    def attention(self):
        self.settle("qkv" if self.last in BLOCK_INPUTS else None)
        self.last = "attention"
        return self.last

    def linear(self):
        """An activation belongs to the product before it: in a block, before the score of attention
        pooling, in the head."""
        self.last = self.activated()
        self.settle(self.last)
        return self.last

    def activated(self):
        if self.last == "residual_norm, middle":
            return "ffn 1"
        return "attn_pool" if self.last in BLOCK_INPUTS else "classifier"

    def gelu_product(self):
        """Stands for a product and what follows it, of a convolution or a linear layer."""
        self.settle(None)
        if self.follows_convolution():
            self.convolution += 1
            self.last = f"conv {self.convolution}"
        else:
            self.last = self.activated()
        return self.last

    def layer_mix(self):
        """Stands between a norm and what follows it."""
        self.settle(None)
        return "layer_mix"

    def attn_pool(self):
        self.settle("attn_pool")
        self.last = "attn_pool"
        return self.last

    def cross_entropy(self):
        self.settle("classifier")
        self.last = "classifier"
        return self.last

    # --- Forward of a training step: what comes besides ---

    def dropout(self):
        """With the activation where there is one; the products behind it see its result."""
        if self.last == "residual_norm, middle":
            self.settle("ffn 1")
            self.last = "ffn 1"
            return "ffn_gelu"
        if self.last == "feature_norm":
            self.settle("projection")
            return "projection_dropout"
        if self.last in ("pos_conv", "encoder_norm") and not self.waiting:
            self.last = "start_dropout"
        else:
            self.last = self.activated()
        self.settle(self.last)
        return self.last

    def span_mask(self):
        self.settle("projection")
        return "span_mask"

    # --- Backward ---

    def cross_entropy_bwd(self):
        self.settle(None)
        self.is_backward = True
        self.layer = "classifier"
        return "classifier_bwd"

    def back_column_sums(self):
        self.settle_gradients()
        return self.gradient("db")

    def back_conv(self):
        """Zeros in padding, which the weights' gradient sums over."""
        return self.gradient("dw")

    def back_attn_pool_bwd(self):
        self.settle_gradients()
        self.layer = "attn_pool"
        return "attn_pool_bwd"

    def back_layer_mix_bwd(self):
        self.settle_gradients()
        return "layer_mix_bwd"

    def back_dropout(self):
        """Of runs from before dropout_bwd made it."""
        self.settle_gradients()
        self.layer = "ffn 2"
        return "ffn_gelu again"

    def back_dropout_bwd(self):
        """Behind a norm and a product, ffn 2's dx: its db and dw are next, then ffn 1's."""
        if self.layer == "out" and self.waiting:
            self.settle("ffn 2 dx")
            self.layer, self.next_layer = "ffn 2", "ffn 1"
            return "ffn_gelu_bwd"
        self.settle_gradients()
        if self.layer == "ffn 2":
            self.layer = "ffn 1"
            return "ffn_gelu_bwd"
        if self.layer in ("attn_pool", "classifier"):
            return self.gradient(None)
        return "projection_dropout_bwd" if self.layer == "projection" else "start_dropout_bwd"

    def back_residual_norm(self):
        """Only to add."""
        self.settle_gradients()
        return "attn_pool_bwd" if self.layer == "attn_pool" else "residual_add"

    def back_residual_norm_bwd(self):
        self.settle_gradients()
        if self.layer == "projection":
            return "feature_norm_bwd"
        if self.kernel != "add_sums":
            self.norm = []
        self.norm.append(len(self.ops) - 1)
        self.layer = "out"
        return "residual_norm_bwd"

    def back_attention_bwd(self):
        self.settle_gradients()
        self.layer = "qkv"
        return "attention_bwd"

    def back_pos_conv_bwd(self):
        """Before it stood the gradient of the norm at the blocks' beginning."""
        for place in self.norm:
            self.ops[place] = "encoder_norm_bwd"
        self.settle("pos_conv dw")  # which is cleared
        self.norm = []
        self.layer = "pos_conv"
        kinds = {"tail_gradient": "dz", "reverse_weights": "dx"}
        return self.gradient(kinds.get(self.kernel, "dw"))

    def back_pos_conv(self):
        return self.gradient("dx")

    def back_weight_norm(self):
        self.layer = "projection"
        return "weight_norm_bwd"

    back_weight_norm_bwd = back_weight_norm

    def back_span_mask(self):
        self.layer = "projection"
        return "span_mask_bwd"

    def back_sum_squares(self):
        """The end of backward. Only its own sum, which is cleared, may wait."""
        if all(HELPER.search(name) for _, name in self.waiting):
            self.settle("sum_squares")
        self.settle_gradients()
        self.is_backward = False
        self.last = "sum_squares"
        return self.last


def attribute(names):
    """The op of every kernel, copy and fill of one pass or step, in the order of their start."""
    walk = Walk()
    for name in names:
        walk.add(name)
    return walk.finish()


# --- Traces ---

RUN = "libser: a run"  # the host's range around one


@dataclasses.dataclass(frozen=True)
class Activity:
    name: str
    start: float  # us
    duration: float


def runs_of(trace):
    """Device activities of every run of a Chrome trace (its dict), in the order of their start."""
    ranges, activities = [], []
    for event in trace["traceEvents"]:
        if event.get("ph") != "X":
            continue
        category = event.get("cat", "").lower()
        span = Activity(event["name"], float(event["ts"]), float(event["dur"]))
        if category in ("kernel", "gpu_memcpy", "gpu_memset"):
            activities.append(span)
        elif event["name"] == RUN and not category.startswith("gpu"):
            ranges.append(span)
    ranges.sort(key=lambda r: r.start)
    activities.sort(key=lambda a: a.start)
    runs = [[a for a in activities if 0 <= a.start - r.start < r.duration] for r in ranges]
    if not runs or not all(runs):
        raise RuntimeError("a run has nothing on the device: does CUPTI see this process?")
    return runs


def op_times(runs):
    """Microseconds of a run by op, median over the runs, in the order of the first."""
    sums = []
    for run in runs:
        sums.append(collections.Counter())
        for op, activity in zip(attribute([a.name for a in run]), run, strict=True):
            sums[-1][op] += activity.duration
    names = dict.fromkeys(name for run in sums for name in run)
    return {name: statistics.median(run[name] for run in sums) for name in names}


def spans(runs):
    """Seconds from the start of each run's first activity to the end of its last."""
    return [
        1e-6 * (max(a.start + a.duration for a in run) - min(a.start for a in run)) for run in runs
    ]


def record(run, repeats):
    """Traces of `repeats` calls of run(), which is done when it returns or queues work on the
    device; None without CUDA. The call before them, not counted, is where CUPTI starts."""
    import torch

    if not torch.cuda.is_available():
        return None
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(repeats + 1):
            with torch.profiler.record_function(RUN):
                run()
                torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return runs_of(json.loads(path.read_text(encoding="utf-8")))[1:]


def profile_ops(run, repeats):
    """Op name -> microseconds per run; None without CUDA."""
    runs = record(run, repeats)
    return op_times(runs) if runs else None


def device_span(run, repeats):
    """Seconds on the device of each run; None without CUDA."""
    runs = record(run, repeats)
    return spans(runs) if runs else None


# --- Logs of the emulation ---

LAUNCH = re.compile(r"launch kernel .* in (\S+) \+ (0x[0-9a-f]+), (grid .*)")
PRODUCT = re.compile(r"product (\d+) (\d+) (\d+), entries (\d+), (\w+)")
COPY = re.compile(r"copy (\d+) bytes, (\w+) to (\w+)")


def kernel_names(places):
    """{(file, offset)} -> {(file, offset): demangled name}, from the files' symbols."""
    names = {}
    for file in {file for file, _ in places}:
        output = subprocess.run(["nm", "-C", file], check=True, capture_output=True, text=True)
        symbols = {}
        for line in output.stdout.splitlines():
            address, kind, name = line.split(" ", 2) if line[0] != " " else (None, None, None)
            if kind in ("t", "T", "W"):
                symbols[int(address, 16)] = name
        for offset in (offset for f, offset in places if f == file):
            names[file, offset] = symbols.get(int(offset, 16), f"{file} + {offset}")
    return names


def read_log(lines, recorded):
    """Launches of a log, "NAME, grid X Y Z, block X Y Z, shared BYTES", as a card would see them:
    one for each product, whatever stands in for it; copies and fills with their bytes. `recorded`:
    of what was recorded only; a product is what the line behind it is."""
    launches, stand_ins = [], 0
    for line, behind in zip(lines, lines[1:] + [""], strict=True):
        subject = behind if line.startswith("product ") else line
        if recorded and not subject.startswith("recorded "):
            continue
        line = line.strip().removeprefix("recorded ")
        launch, product, copy = (kind.match(line) for kind in (LAUNCH, PRODUCT, COPY))
        if product:
            m, n, k, entries, kind = product.groups()
            launches.append(f"product_{kind}_{m}x{n}x{k}" + f"x{entries}" * (entries != "1"))
            stand_ins = 2  # the fill of the workspace, the plain kernel
        elif line.startswith("graph") or not line:
            continue
        elif stand_ins > 0:
            stand_ins -= 1
        elif launch:
            launches.append((launch[1], launch[2], launch[3]))
        elif copy:
            letters = {"host": "H", "device": "D", "any": "?"}
            launches.append(f"Memcpy {letters[copy[2]]}to{letters[copy[3]]}, {copy[1]} bytes")
        else:
            launches.append("Memset (Device), " + line.removeprefix("fill "))
    names = kernel_names({launch[:2] for launch in launches if isinstance(launch, tuple)})
    return [f"{names[x[:2]]}, {x[2]}" if isinstance(x, tuple) else x for x in launches]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log")
    parser.add_argument("--recorded", action="store_true", help="only what was recorded")
    parser.add_argument("--list", action="store_true", help="the launches instead of the ops")
    arguments = parser.parse_args()
    log = pathlib.Path(arguments.log).read_text(encoding="utf-8").splitlines()
    launches = read_log(log, arguments.recorded)
    if arguments.list:
        print("\n".join(launches))
        return
    for op, count in collections.Counter(attribute(launches)).items():
        print(f"{count:5}  {op}")


if __name__ == "__main__":
    main()
