# SPDX-License-Identifier: MIT
"""libser's training steps beside PyTorch's on the CPU, f32; see README.md.

python bench_training.py --build BUILD --full DIR [--ser-mini | --tiny] [--rounds 8]
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np

import bench

# Nobody spins while another process has the cores.
PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}
# A heap that never gives memory back: no page faults after the first step.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
PEERS = {  # name: (peer of training_peers.py, its environment)
    "torch": ("torch", {}),
    "heap": ("torch", KEEP),
    "eager": ("eager", {}),
    "compile": ("compile", {}),
}
REPORTED = "forward_backward_ms", "update_ms", "cpu_ms", "loss", "gradient_norm"
CHECKED_STEPS, TOLERANCE = 3, 1e-3


@dataclasses.dataclass
class Setup:
    kind: str
    clips: int
    seconds: float
    dropouts: str  # projection, hidden, attention, classifier
    steps: int  # one after another, per round
    tries: int  # steps that choose the number of threads


SETUPS = {
    "base": Setup("base", 8, 5.0, "0.1,0.1,0.1,0.1", 1, 1),
    "tiny": Setup("tiny", 8, 1.0, "0.1,0.1,0.1,0.1", 5, 3),
    "ser-mini": Setup("ser-mini", 32, 2.2, "0.1,0.1,0,0.3", 20, 10),
}


class Trainer(bench.Worker):
    def __init__(self, name, command, environment):
        super().__init__(name, command, {**PASSIVE, **environment})
        self.steps, self.loads = [], []

    def step(self):
        return json.loads(self.tell("step"))

    def milliseconds(self):
        return [total(step) for step in self.steps]


def total(step):
    return step["forward_backward_ms"] + step["update_ms"]


# --- Files ----------------------------------------------------------------------------------------


def prepare(arguments, setup):
    """Once per DIR: the backbone as transformers saves it, libser's model file, the clips."""
    folder = arguments.full
    folder.mkdir(parents=True, exist_ok=True)
    backbone = "ser-mini" if setup.kind == "ser-mini" else folder / f"training-{setup.kind}"
    model = folder / f"training-{setup.kind}.safetensors"
    if backbone != "ser-mini" and not (backbone / "preprocessor_config.json").exists():
        shutil.rmtree(backbone, ignore_errors=True)
        peers = bench.HERE / "training_peers.py"
        subprocess.run([sys.executable, peers, "prepare", setup.kind, backbone], check=True)
    # Always, so that a changed libser makes its own.
    subprocess.run([arguments.program, "create", backbone, model], check=True)
    clips = folder / f"training-{setup.kind}.f32"
    shape = setup.clips, round(setup.seconds * bench.RATE)
    noise = np.random.default_rng(14).standard_normal(shape, np.float32)
    noise.tofile(clips)
    bench.build_peak(folder)
    return backbone, model, clips


def command_of(name, arguments, setup, files, dropouts):
    backbone, model, clips = files
    common = [model, clips, setup.clips, arguments.threads, dropouts]
    if name == "libser":
        command, environment = [arguments.program, "train", *common], {}
    else:
        peer, environment = PEERS[name]
        script = bench.HERE / "training_peers.py"
        command = [sys.executable, "-W", "ignore", script, peer, backbone, *common]
    return [str(word) for word in command], environment


# --- The run --------------------------------------------------------------------------------------


def first_losses(name, arguments, setup, files):
    """Without dropout, in a process that ends then."""
    worker = Trainer(name, *command_of(name, arguments, setup, files, "0,0,0,0"))
    losses = [worker.step()["loss"] for _ in range(CHECKED_STEPS)]
    worker.stop()
    return losses


def check_losses(arguments, setup, files):
    """The same model, clips and update give the same losses, or the run stops."""
    losses = {
        name: first_losses(name, arguments, setup, files) for name in ["libser", *arguments.peers]
    }
    ours = np.array(losses["libser"])
    for name, values in losses.items():
        print(f"{name:8s} losses without dropout", " ".join(f"{x:.6f}" for x in values))
        if not np.all(np.abs(np.array(values) - ours) <= TOLERANCE * np.maximum(np.abs(ours), 1)):
            sys.exit(f"{name}: losses {values} differ from libser's {losses['libser']}")
    return losses


def choose_threads(worker, counts, setup):
    """The fastest number of threads of a peer, which it keeps; ms of each."""
    worker.step()
    best = {}
    for count in counts:
        worker.tell(f"threads {count}")
        best[count] = min(total(worker.step()) for _ in range(setup.tries))
    worker.threads = min(best, key=best.get)
    worker.tell(f"threads {worker.threads}")
    return best


def measure(workers, peak, arguments, setup):
    """Round-robin, the peers first; while one works, the others wait for a line of text."""
    peaks = []
    for n in range(arguments.rounds):
        peaks += peak.ask("run")
        time.sleep(bench.PAUSE)
        for worker in workers[1:] + workers[:1]:
            worker.loads.append(os.getloadavg()[0])
            worker.steps += [worker.step() for _ in range(setup.steps)]
            time.sleep(bench.PAUSE)
        print(f"\rround {n + 1} of {arguments.rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return peaks


# --- The report -----------------------------------------------------------------------------------


def ratios(worker, ours, per_round):
    """Time over libser's: of the minima, of the medians, and the median over the rounds."""

    def rounds(ms):
        return [statistics.median(ms[i : i + per_round]) for i in range(0, len(ms), per_round)]

    theirs, own = worker.milliseconds(), ours.milliseconds()
    return {
        "minimum": min(theirs) / min(own),
        "median": statistics.median(theirs) / statistics.median(own),
        "rounds": statistics.median(a / b for a, b in zip(rounds(theirs), rounds(own))),
        "peak_memory": ours.memory / worker.memory,
    }


def step_gflop(files, setup):
    """Of one step from cached features: forward, and twice that backward. None for log-mels."""
    if setup.kind == "ser-mini":
        return None
    config = json.loads((files[0] / "config.json").read_text())
    _, encoder = bench.network_flops(config, round(setup.seconds * bench.RATE))
    return 3e-9 * setup.clips * encoder


def print_table(workers, setup, peaks, gflop):
    print(f"peak probe {max(peaks):.0f} GFLOP/s (median {statistics.median(peaks):.0f})")
    print(
        f"{'':8s} {'threads':>7s} {'min ms':>9s} {'median':>9s} {'fwd+bwd':>9s} {'update':>8s} "
        f"{'cpu ms':>9s} {'clips/s':>8s} {'of peak':>8s} {'peak MB':>8s} "
        f"{'x min':>6s} {'x med':>6s} {'x rounds':>8s} {'memory':>7s}"
    )
    for worker in workers:
        ms = worker.milliseconds()
        parts = [
            statistics.median(step[part] for step in worker.steps)
            for part in ("forward_backward_ms", "update_ms", "cpu_ms")
        ]
        share = f"{gflop / min(ms) * 1e3 / max(peaks):.1%}" if gflop else "-"
        x = ratios(worker, workers[0], setup.steps)
        print(
            f"{worker.name:8s} {worker.threads:7d} {min(ms):9.1f} {statistics.median(ms):9.1f} "
            f"{parts[0]:9.1f} {parts[1]:8.1f} {parts[2]:9.1f} "
            f"{setup.clips / statistics.median(ms) * 1e3:8.2f} "
            f"{share:>8s} {worker.memory / 1e6:8.0f} {x['minimum']:6.2f} {x['median']:6.2f} "
            f"{x['rounds']:8.2f} {x['peak_memory']:7.2f}"
        )
    print(
        "x: time over libser's, of the minima, of the medians, and the median of the rounds; "
        "memory: libser's peak over theirs"
    )


def as_json(worker, ours, setup):
    columns = {name: [step[name] for step in worker.steps] for name in worker.steps[0]}
    return {
        "banner": worker.banner.strip()[6:],
        "command": [word.rpartition("/")[2] for word in worker.process.args],
        "threads": worker.threads,
        "threads_ms": getattr(worker, "threads_ms", {}),
        "start_seconds": worker.start,
        "peak_bytes": worker.memory,
        "over_libser": ratios(worker, ours, setup.steps),
        "load_average": worker.loads,
        **{name: columns[name] for name in REPORTED},
    }


def run(arguments, setup):
    files = prepare(arguments, setup)
    losses = check_losses(arguments, setup, files)
    peak = bench.Worker("peak", [arguments.full / "peak", str(arguments.threads)])
    workers = [
        Trainer(name, *command_of(name, arguments, setup, files, setup.dropouts))
        for name in ["libser", *arguments.peers]
    ]
    workers[0].threads = arguments.threads
    workers[0].step()  # fills the cache of features
    for worker in workers[1:]:
        worker.threads_ms = choose_threads(worker, sorted({1, arguments.threads}), setup)
    peaks = measure(workers, peak, arguments, setup)
    for worker in workers:
        worker.memory = worker.peak_memory()
        worker.stop()
    peak.stop()
    gflop = step_gflop(files, setup)
    print(f"{setup.kind}, {setup.clips} clips of {setup.seconds} s, {bench.cpu_name()}")
    print_table(workers, setup, peaks, gflop)
    return {
        "date": bench.date(),
        "cpu": bench.cpu_name(),
        "command": sys.argv,
        "versions": bench.versions(("torch", "transformers", "numpy")),
        "setup": dataclasses.asdict(setup),
        "environment": PASSIVE,
        "gflop": gflop,
        "peak_gflops": peaks,
        "losses_without_dropout": losses,
        "workers": {worker.name: as_json(worker, workers[0], setup) for worker in workers},
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=pathlib.Path, required=True, help="with -Dbench=true")
    parser.add_argument("--full", type=pathlib.Path, required=True, help="folder, 1 GB")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ser-mini", action="store_true", help="ser-mini, 32 clips of 2.2 s")
    kind.add_argument("--tiny", action="store_true", help="tests the benchmark; no result file")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", default="torch", help=f"comma-separated: {', '.join(PEERS)}")
    parser.add_argument(
        "--results", type=pathlib.Path, default=bench.ROOT / "tests" / "bench" / "results"
    )
    arguments = parser.parse_args()
    arguments.peers = [name for name in arguments.peers.split(",") if name]
    arguments.program = (arguments.build / "tests" / "bench" / "bench_training").resolve()
    setup = SETUPS["ser-mini" if arguments.ser_mini else "tiny" if arguments.tiny else "base"]
    result = run(arguments, setup)
    if not arguments.tiny:
        bench.write_result(arguments, f"training-{setup.kind}", result)


if __name__ == "__main__":
    main()
