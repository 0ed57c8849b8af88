# SPDX-License-Identifier: MIT
"""libser beside ONNX Runtime, OpenVINO and PyTorch: CPU, f32, wav2vec2-base, 5 s; see README.md.

python bench.py --build BUILD --full DIR [--rounds 12] [--threads N] [--peers ort,openvino,torch]
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time
import wave

import numpy as np
import safetensors.numpy

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SECONDS, RATE = 5, 16000
PAUSE = 0.1  # after each run: thread pools spin for a while before they sleep


class Worker:
    """A process of the protocol in peers.py."""

    def __init__(self, name, command, environment=None):
        self.name = name
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, **(environment or {})),
        )
        self.banner = self.process.stdout.readline()
        while self.banner and not self.banner.startswith("ready"):
            self.banner = self.process.stdout.readline()
        if not self.banner:
            raise RuntimeError(f"{name} did not start (exit {self.process.wait()})")
        self.start = time.perf_counter() - begin
        self.times = []

    def tell(self, line):
        """Send one line; the line that comes back."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} died (exit {self.process.wait()})")
        return answer

    def ask(self, line):
        return [float(word) for word in self.tell(line).split()]

    def peak_memory(self):
        """Bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def network_flops(config, samples):
    """Twice the multiply-adds of one clip: of the convolutions, and of all that follows them."""
    convolutions, channels, length = 0, 1, samples
    for width, kernel, stride in zip(
        config["conv_dim"], config["conv_kernel"], config["conv_stride"]
    ):
        length = (length - kernel) // stride + 1
        convolutions += length * channels * kernel * width
        channels = width
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    position = (
        length
        * hidden
        * hidden
        // config["num_conv_pos_embedding_groups"]
        * config["num_conv_pos_embeddings"]
    )
    block = length * (4 * hidden * hidden + 2 * hidden * inner) + 2 * length * length * hidden
    encoder = length * channels * hidden + position + config["num_hidden_layers"] * block
    return 2 * convolutions, 2 * encoder


def build_peak(folder):
    cc = os.environ.get("CC", "cc")
    command = [cc, "-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread"]
    subprocess.run([*command, "-o", folder / "peak", HERE / "peak.c"], check=True)


def build(folder, arguments):
    """The two C programs beside this file."""
    cc = os.environ.get("CC", "cc")
    lib = arguments.build / "lib"
    build_peak(folder)
    subprocess.run(
        [
            cc,
            "-std=c11",
            "-O2",
            "-I",
            ROOT / "include",
            "-o",
            folder / "ser",
            HERE / "ser.c",
            "-L",
            lib,
            "-lser",
            f"-Wl,-rpath,{lib.resolve()}",
        ],
        check=True,
    )


def make_inputs(arguments):
    """The clip for the workers (normalised, as libser would) and for the shell (16 bit WAV)."""
    x = safetensors.numpy.load_file(arguments.full / "full.safetensors")["input.0"].astype(
        np.float64
    )
    x = ((x - x.mean()) / np.sqrt(x.var() + 1e-7)).astype(np.float32)
    x.tofile(arguments.full / "input.f32")
    pcm = np.round(x / np.abs(x).max() * 20000).astype(np.int16)
    with wave.open(str(arguments.full / "clip.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm.tobytes())


def prepare(arguments):
    """Once per DIR: weights, exports, inputs, programs."""
    arguments.full.mkdir(parents=True, exist_ok=True)
    if not (arguments.full / "full" / "model.safetensors").exists():
        subprocess.run(
            [
                sys.executable,
                ROOT / "tests" / "golden" / "make_golden.py",
                "--full",
                arguments.full,
            ],
            check=True,
        )
    if arguments.peers and not (arguments.full / "fused.onnx").exists():
        subprocess.run([sys.executable, HERE / "peers.py", "export", arguments.full], check=True)
    make_inputs(arguments)
    build(arguments.full, arguments)


def start_workers(arguments):
    threads = str(arguments.threads)
    source = arguments.full / "input.f32"
    workers = [Worker("libser", [arguments.full / "ser", arguments.full / "full", source, threads])]
    for name in arguments.peers:
        try:
            workers.append(
                Worker(
                    name,
                    [
                        sys.executable,
                        "-W",
                        "ignore",
                        HERE / "peers.py",
                        name,
                        arguments.full,
                        source,
                        threads,
                    ],
                )
            )
        except RuntimeError as error:
            print(f"not measured: {error}", file=sys.stderr)
    return workers


def compare(workers):
    """Largest difference of logits from libser's, over their largest value; stops above 1e-4."""
    for worker in workers:
        worker.ask("run")
        worker.logits = np.array(worker.ask("logits"))
    ours = workers[0].logits
    for worker in workers:
        worker.difference = float(np.abs(worker.logits - ours).max() / np.abs(ours).max())
        if not worker.difference < 1e-4:
            sys.exit(f"{worker.name}: logits {worker.logits} differ from libser's {ours}")


def measure(workers, peak, rounds):
    """Round-robin, starting with another worker in each round."""
    peaks = []
    for n in range(rounds):
        peaks += peak.ask("run")
        time.sleep(PAUSE)
        for worker in workers[n % len(workers) :] + workers[: n % len(workers)]:
            worker.times += worker.ask("run")
            time.sleep(PAUSE)
        print(f"\rround {n + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return peaks


def time_command(command, count, environment=None):
    """Seconds of each run from the shell, and the largest resident memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", HERE / "shell.py", str(count), *command],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, **(environment or {})),
    )
    return json.loads(done.stdout)


def measure_commands(arguments):
    tool, clip = arguments.build / "tools" / "ser-predict", arguments.full / "clip.wav"
    threads = f"--threads={arguments.threads}"
    big = time_command([tool, threads, "--device=cpu", "--model", arguments.full / "full", clip], 8)
    mini = time_command(
        [tool, threads, "--device=cpu", clip],
        20,
        {"SER_MODEL": str(ROOT / "models" / "ser-mini.safetensors")},
    )
    return {"wav2vec2-base": big, "ser-mini": mini}


def date():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def cpu_name():
    match = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()


def versions(names=("torch", "transformers", "onnxruntime", "openvino", "numpy")):
    from importlib import metadata

    return {name: metadata.version(name) for name in names}


def report(arguments, workers, peaks, commands):
    config = json.loads((arguments.full / "full" / "config.json").read_text())
    flops = sum(network_flops(config, SECONDS * RATE))
    ours = min(workers[0].times)
    top = max(peaks) if peaks else float("nan")
    weights = (arguments.full / "full" / "model.safetensors").stat().st_size
    print(f"{cpu_name()}, {arguments.threads} threads, libser {workers[0].banner.strip()[6:]}")
    if peaks:
        print(
            f"peak probe {top:.0f} GFLOP/s (median {statistics.median(peaks):.0f}); "
            f"the network {flops * 1e-9:.1f} GFLOP"
        )
    print(
        f"{'':12s} {'min ms':>8s} {'median':>8s} {'x libser':>9s} {'x median':>9s} {'of peak':>8s} "
        f"{'start s':>8s} {'peak MB':>8s} {'logits':>8s}"
    )
    for worker in workers:
        best, middle = min(worker.times), statistics.median(worker.times)
        print(
            f"{worker.name:12s} {best * 1e3:8.1f} {middle * 1e3:8.1f} {best / ours:9.3f} "
            f"{middle / statistics.median(workers[0].times):9.3f} {flops * 1e-9 / best / top:8.1%} "
            f"{worker.start:8.2f} {worker.memory / 1e6:8.0f} {worker.difference:8.0e}"
        )
    for name, (times, memory) in commands.items():
        over = f", weights + {(memory - weights) / 1e6:.0f} MB" if name != "ser-mini" else ""
        print(
            f"ser-predict, {name}, 5 s clip: min {min(times) * 1e3:.0f} ms, "
            f"median {statistics.median(times) * 1e3:.0f} ms, peak {memory / 1e6:.0f} MB{over}"
        )
    return {
        "date": date(),
        "cpu": cpu_name(),
        "threads": arguments.threads,
        "libser": workers[0].banner.strip()[6:],
        "versions": versions() if arguments.peers else {},
        "gflop": flops * 1e-9,
        "peak_gflops": peaks,
        "weights_bytes": weights,
        "workers": {
            worker.name: {
                "seconds": worker.times,
                "start_seconds": worker.start,
                "peak_bytes": worker.memory,
                "logits_difference": worker.difference,
            }
            for worker in workers
        },
        "commands": {
            name: {"seconds": times, "peak_bytes": memory}
            for name, (times, memory) in commands.items()
        },
    }


def write_result(arguments, kind, result):
    arguments.results.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
    path = arguments.results / f"{kind}-{slug}-{arguments.threads}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=pathlib.Path, required=True, help="meson's build folder")
    parser.add_argument(
        "--full", type=pathlib.Path, required=True, help="folder for model and exports, 1.5 GB"
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--peers",
        default="ort,ort-fused,openvino,torch,compile",
        help='comma-separated; "" for none',
    )
    parser.add_argument("--no-commands", action="store_true", help="skip ser-predict")
    parser.add_argument(
        "--results", type=pathlib.Path, default=ROOT / "tests" / "bench" / "results"
    )
    arguments = parser.parse_args()
    arguments.peers = [name for name in arguments.peers.split(",") if name]
    prepare(arguments)
    if arguments.peers:
        versions()
    try:
        peak = Worker("peak", [arguments.full / "peak", str(arguments.threads)])
    except RuntimeError as error:
        sys.exit(f"peak probe: {error}")
    workers = start_workers(arguments)
    compare(workers)
    peaks = measure(workers, peak, arguments.rounds)
    for worker in workers:
        worker.memory = worker.peak_memory()
        worker.stop()
    peak.stop()
    commands = {} if arguments.no_commands else measure_commands(arguments)
    result = report(arguments, workers, peaks, commands)
    write_result(arguments, "cpu", result)


if __name__ == "__main__":
    main()
