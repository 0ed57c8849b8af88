# SPDX-License-Identifier: MIT
"""Commands from start to exit as a shell sees them: what files.py and jobs.py share."""

import array
import dataclasses
import fnmatch
import json
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import wave

from files_result import RunFailure, card, cpu_name, merge, result_of, write_result

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAUSE = 0.2  # after each run: what it left behind is cleaned up


@dataclasses.dataclass
class Measure:
    name: str
    command: list
    environment: dict = dataclasses.field(default_factory=dict)
    answers: pathlib.Path | None = None  # JSON lines that it writes; None: the first answer only
    limit: float | None = None  # of the answers' differences; None: told, not checked
    new_cache: bool = False
    runs: list = dataclasses.field(default_factory=list)
    facts: dict = dataclasses.field(default_factory=dict)
    failure: str = ""

    @property
    def first(self):
        return self.answers is None


# --- One run --------------------------------------------------------------------------------------


def listen(process, begin, deadline):
    """Until both pipes are closed: seconds to the first output, and [seconds, line] of errors."""
    first, lines, rest = None, [], b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            events = selector.select(max(deadline - time.perf_counter(), 0))
            now = time.perf_counter() - begin
            if not events:
                raise RunFailure(f"still running after {now:.0f} s")
            for key, _ in events:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    first = now if first is None else first
                else:
                    *complete, rest = (rest + data).split(b"\n")
                    lines += [[now, line.decode(errors="replace")] for line in complete]
    return first, lines


def execute(measure, timeout):
    """
    Run the command from start to exit: what it took, seconds to the first output, and [seconds,
    line] of errors.
    """
    if measure.new_cache:
        shutil.rmtree(measure.environment["SER_CACHE_DIR"], ignore_errors=True)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in measure.command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, **measure.environment),
        start_new_session=True,
    )
    try:
        first, lines = listen(process, begin, begin + timeout)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:  # too late, or interrupted
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        process.stderr.close()
    if process.returncode != 0:
        tail = "\n".join(line for _, line in lines[-12:])
        raise RunFailure(f"exit {process.returncode}: {tail}")
    run = {
        "seconds": seconds,
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }
    reports = [line[7:] for _, line in lines if line.startswith("report ")]
    if reports:
        run["report"] = json.loads(reports[-1])
    return run, first, lines


# --- Model and clips ------------------------------------------------------------------------------


def example_pcm():
    """examples/clip.wav, which is taken as if it were 16 kHz."""
    with wave.open(str(ROOT / "examples" / "clip.wav")) as file:
        return array.array("h", file.readframes(file.getnframes()))


def find_model(a):
    """The transformers directory: the given one, a tiny one, or one of full size made here."""
    if a.tiny and a.model is None:
        a.model = ROOT / "tests" / "golden" / "base"
    if a.model is None:
        golden = ROOT / "tests" / "golden" / "make_golden.py"
        subprocess.run([a.python, golden, "--full", a.work], check=True)
        a.model = a.work / "full"
    if not (a.model / "model.safetensors").exists():
        sys.exit(f"--model: {a.model} is not a transformers directory with model.safetensors")


def read_pages(paths):
    """Bring files into the page cache; their bytes."""
    total = 0
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                total += len(block)
    return total


# --- Results --------------------------------------------------------------------------------------


def setting_of(a, tool):
    """What must be the same for results that are merged, whatever the commands do."""
    command = [a.build / "tools" / tool, "--version"]
    version = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {
        "device": a.device,
        "card": card().get("name") if a.device != "cpu" else None,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "libser": version.stdout.splitlines()[0],
        "model_bytes": (a.model / "model.safetensors").stat().st_size,
    }


def places(a):
    """What paths are called in results, which other machines are to read."""
    known = [(a.work, "WORK"), (a.model, "MODEL"), (a.audio, "AUDIO"), (a.build, "BUILD")]
    known += [(a.python, "python"), (sys.executable, "python"), (ROOT, "SOURCE")]
    return [(str(path), name) for path, name in known]


def result_path(a, setting, kind="files"):
    name = f"cpu {setting['cpu']}" if setting["device"] == "cpu" else setting["card"] or "unknown"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return a.results / f"gpu-{kind}-{slug}.json"


class Results:
    """The measures' file, written after every run; with --append also what it held before."""

    def __init__(self, a, setting, measures, kind):
        self.setting, self.measures, self.names, self.result = setting, measures, places(a), {}
        self.path = result_path(a, setting, kind) if a.results is not None else None
        append = a.append and self.path and self.path.exists()
        self.old = json.loads(self.path.read_text()) if append else None
        if self.old is not None:
            merge(self.old, result_of(setting, []))  # refuses now what it would refuse later

    def save(self):
        self.result.update(result_of(self.setting, self.measures, self.names))
        if self.old is not None:
            self.result.update(merge(self.old, self.result))
        if self.path is not None:
            write_result(self.path, self.result)

    def finish(self, interrupted, print_result):
        """The exit status."""
        self.save()
        print_result(self.result)
        print(self.path if self.path is not None else "nothing is written: --results")
        if interrupted:
            return 130
        return 1 if any(m.failure for m in self.measures) else 0


# --- The program ----------------------------------------------------------------------------------


def add_arguments(parser, peers, timeout):
    """What both programs understand."""
    add = parser.add_argument
    add("--build", type=pathlib.Path, required=True, help="meson's build folder")
    add("--model", type=pathlib.Path, help="transformers directory (default: make_golden.py --full "
        "makes one of random weights)")  # fmt: skip
    add("--device", default="cuda")
    add("--peers", default=peers, help='comma-separated; "" for none')
    add("--only", default="", help="comma-separated names or patterns")
    add("--append", action="store_true", help="add to the results that are there")
    add("--results", type=pathlib.Path, help="folder for the raw numbers")
    add("--python", default=sys.executable, help="one with torch, for the peers")
    add("--decoder", help="of the peers; default: the first that works")
    add("--timeout", type=float, default=timeout, help="seconds of one run")
    add("--tiny", action="store_true", help="a tiny model, a handful of clips")


def parse(parser, argv, peers):
    a = parser.parse_args(argv)
    if a.audio is None and not a.tiny:
        parser.error("--audio: name a folder of clips")
    if a.results is None and not a.tiny:
        a.results = ROOT / "tests" / "bench" / "results"
    a.peers = [name for name in a.peers.split(",") if name]
    unknown = set(a.peers) - set(peers.split(","))
    if unknown:
        parser.error(f"--peers: {', '.join(sorted(unknown))}; there is {peers}")
    a.only = [pattern for pattern in a.only.split(",") if pattern]
    return a


def select(measures, patterns):
    """Those whose names match one of the patterns; all without patterns."""
    for pattern in patterns:
        if not fnmatch.filter([m.name for m in measures], pattern):
            names = ", ".join(m.name for m in measures)
            sys.exit(f"--only: nothing is called {pattern}; there is {names}")
    return [
        m for m in measures if not patterns or any(fnmatch.fnmatch(m.name, p) for p in patterns)
    ]


def interrupt(signum, frame):
    raise KeyboardInterrupt


def run_program(a, prefix, measure_all):
    """Call `measure_all` with a.work, a folder that goes afterwards where none is named."""
    signal.signal(signal.SIGTERM, interrupt)
    a.build = a.build.resolve()
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        a.work = (a.work or pathlib.Path(folder)).resolve()
        a.work.mkdir(parents=True, exist_ok=True)
        try:
            return measure_all(a)
        except KeyboardInterrupt:
            print("stopped before anything was measured", file=sys.stderr)
            return 130
