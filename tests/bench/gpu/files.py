# SPDX-License-Identifier: MIT
"""ser-predict beside transformers, from audio files to answers as a shell sees it; see README.md.

python files.py --build BUILD --audio DIR [--model DIR] [--rounds 3] [--device cuda]
                [--only NAME,...] [--append] [--results DIR] [--tiny]

Jobs (all clips of DIR): libser, libser-new-cache, libser-f32, libser-b64, pipeline, pipeline-1,
loop, loop-padded. Time to the first answer (one clip): first-libser, first-libser-new-cache,
first-libser-bf16-file, first-binding, first-pipeline, first-loop. --only takes patterns of these.
"""

import argparse
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

import pipeline_peer
from files_result import (
    RunFailure,
    card,
    compare,
    cpu_name,
    merge,
    print_result,
    read_answers,
    result_of,
    write_result,
)

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PEERS = "pipeline,pipeline-1,loop,loop-padded"
BF16_LIMIT = 0.05  # of probabilities against f32, as in tests/gpu/compare.py
F32_LIMIT = 1e-4
PAUSE = 0.2  # after each run: what it left behind is cleaned up
BINDING = (
    "import sys, ser; model = ser.Model.load(sys.argv[1], device=sys.argv[2]);"
    "print(model.predict(sys.argv[3]), flush=True)"
)


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


def run_once(measure, timeout):
    """Run the command and note what it took."""
    run, first, lines = execute(measure, timeout)
    if measure.first:
        if first is None:
            raise RunFailure("no answer")
        parts = stages(first, run["seconds"], lines, run.get("report"))
        run.update(first_seconds=first, stages=parts)
    return run


def stages(first, seconds, lines, report):
    """
    What the time to the first answer consists of: what a peer reports, else the seconds between
    what ser-predict -v tells; a stage that is not told is part of the next.
    """
    if report is not None:
        parts = {name: report[f"{name}_seconds"] for name in ("import", "model", "run")}
        return {"start": max(first - sum(parts.values()), 0.0), **parts}
    marks = []
    for stage, pattern in (
        ("start and device", r"model: computing in"),
        ("model", r"model .*: \d+ weights"),
    ):
        found = [when for when, line in lines if re.search(pattern, line)]
        marks += [(stage, found[0])] if found else []
    marks += [("decoding and first answer", first), ("end", seconds)]
    result, before = {}, 0.0
    for stage, when in marks:
        result[stage] = max(when - before, 0.0)
        before = max(when, before)
    return result


def library_times(measure):
    """Seconds after which shared libraries appear in a process: what a start consists of."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in measure.command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, **measure.environment),
    )
    seen = {}
    while process.poll() is None:
        try:
            maps = pathlib.Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:
            continue
        for name in re.findall(r"/(lib[^/\n]*?)\.so[^/\n]*$", maps, re.MULTILINE):
            seen.setdefault(name, round(time.perf_counter() - begin, 4))
        time.sleep(0.001)
    return seen


# --- What is measured -----------------------------------------------------------------------------


def libser_measures(a):
    tool = [a.build / "tools" / "ser-predict", "--device", a.device]
    module = os.environ.get("SER_MODULE_PATH", str(a.build / "lib" / "ops" / "cuda"))
    warm = {"SER_MODULE_PATH": module, "SER_CACHE_DIR": str(a.work / "cache")}
    new = dict(warm, SER_CACHE_DIR=str(a.work / "new-cache"))

    def job(name, *options, environment=warm, limit=BF16_LIMIT, **more):
        out = a.work / f"{name}.jsonl"
        command = [*tool, "--model", a.model, *options, "--format", "jsonl", "-o", out, a.audio]
        return Measure(name, command, environment, out, limit, **more)

    def first(name, model, environment=warm, **more):
        return Measure(name, [*tool, "-v", "--model", model, a.clip], environment, **more)

    binding = dict(
        warm,
        SER_LIBRARY=str(a.build / "lib" / "libser.so.0"),
        PYTHONPATH=str(ROOT / "bindings" / "python"),
    )
    command = [sys.executable, "-c", BINDING, a.model, a.device, a.clip]
    return [
        job("libser"),
        job("libser-new-cache", environment=new, new_cache=True),
        job("libser-f32", "--precision", "f32", limit=F32_LIMIT),
        job("libser-b64", "--batch-size", "64"),
        first("first-libser", a.model),
        first("first-libser-new-cache", a.model, new, new_cache=True),
        first("first-libser-bf16-file", a.work / "bf16"),
        Measure("first-binding", command, binding),
    ]


def peer_command(a, peer, audio, out, *options):
    program = HERE / "pipeline_peer.py"
    options = ["--peer", peer, "--device", a.device, *options]
    options += ["--decoder", a.decoder] if a.decoder else []
    return [a.python, "-W", "ignore", program, a.model, audio, out, *options]


def peer_measures(a):
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    measures = []
    for name in a.peers:
        peer, one = (name[:-2], ["--batch-size", "1"]) if name.endswith("-1") else (name, [])
        out = a.work / f"{name}.jsonl"
        limit = None if name in ("pipeline", "loop-padded") else BF16_LIMIT
        command = peer_command(a, peer, a.audio, out, *one)
        measures.append(Measure(name, command, dict(offline), out, limit))
        if name in ("pipeline", "loop"):
            command = peer_command(a, peer, a.clip, "-", "--batch-size", "1", "--workers", "0")
            measures.append(Measure(f"first-{name}", command, dict(offline)))
    return measures


def select(measures, patterns):
    """Those whose names match one of the patterns; all without patterns."""
    for pattern in patterns:
        if not fnmatch.filter([m.name for m in measures], pattern):
            names = ", ".join(m.name for m in measures)
            sys.exit(f"--only: nothing is called {pattern}; there is {names}")
    return [
        m for m in measures if not patterns or any(fnmatch.fnmatch(m.name, p) for p in patterns)
    ]


def try_settings(a, peer, environment):
    """The faster of cuDNN's two heuristics for a peer, (environment, report), and all tries."""
    environments = [{}]
    if a.device != "cpu":
        environments.append({"TORCH_CUDNN_USE_HEURISTIC_MODE_B": "1"})
    tried = []
    for more in environments:
        sizes = ["--sizes", "2"] if a.tiny else []
        command = peer_command(a, peer, a.audio, os.devnull, "--choose", *sizes)
        trial = Measure(peer, command, {**environment, **more}, pathlib.Path(os.devnull))
        tried.append((more, run_once(trial, a.timeout)["report"]))
    best = max(tried, key=lambda one: max(rate for _, _, rate in one[1]["tried"]))
    return best, [[more, report["tried"]] for more, report in tried]


def choose_settings(a, measure, known):
    """Batch size, workers and cuDNN's heuristics that are fastest for this peer here."""
    peer = measure.command[measure.command.index("--peer") + 1]
    if peer not in known:
        known[peer] = try_settings(a, peer, measure.environment)
    (environment, report), tried = known[peer]
    measure.environment.update(environment)
    measure.facts.update(decoder=report["decoder"], versions=report["versions"], tried=tried)
    if "--batch-size" not in measure.command:
        measure.command += ["--batch-size", report["batch_size"]]
    measure.command += ["--workers", report["workers"]]


# --- Model and clips ------------------------------------------------------------------------------


def tiny_clips(folder, count=7):
    """Pieces of examples/clip.wav as if it were 16 kHz, WAV and FLAC in turn."""
    folder.mkdir(parents=True)
    with wave.open(str(ROOT / "examples" / "clip.wav")) as file:
        pcm = array.array("h", file.readframes(file.getnframes()))
    library = pipeline_peer.Libsndfile()
    for n in range(count):
        piece = pcm[400 * n : 400 * n + 8000 + 1600 * (n // 2)]
        if n % 2 == 0:
            library.write(folder / f"{n}.flac", piece)
            continue
        with wave.open(str(folder / f"{n}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(pipeline_peer.RATE)
            file.writeframes(piece.tobytes())


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


def check_answers(measure, reference):
    """Compare what its last run wrote."""
    if measure.first:
        return
    try:
        found, complaint = compare(reference, read_answers(measure.answers), measure.limit)
    except (RunFailure, OSError, ValueError, KeyError) as error:
        found, complaint = {}, str(error)
    measure.facts.update(found, limit=measure.limit)
    measure.failure = measure.failure or complaint


def describe(a, reference, audio_bytes):
    """What must be the same for results that are merged."""
    version = subprocess.run(
        [a.build / "tools" / "ser-predict", "--version"], stdout=subprocess.PIPE, text=True
    )
    return {
        "device": a.device,
        "card": card().get("name") if a.device != "cpu" else None,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "libser": version.stdout.splitlines()[0],
        "model_bytes": (a.model / "model.safetensors").stat().st_size,
        "clips": len(reference),
        "audio_seconds": sum(seconds for _, _, seconds in reference.values()),
        "audio_bytes": audio_bytes,
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


# --- The program ----------------------------------------------------------------------------------


def attempt(measure, timeout):
    """One run, or a failure that is told and takes the measure out of the rounds."""
    try:
        return run_once(measure, timeout)
    except (RunFailure, OSError) as error:
        measure.failure = str(error)
        print(f"{measure.name}: {error}", file=sys.stderr)
        return None


def take_reference(a, everything):
    """The answers of libser in f32, which do not depend on the batch; also the first warm-up."""
    reference = next(m for m in everything if m.name == "libser-f32")
    try:
        run_once(reference, a.timeout)
        return read_answers(reference.answers)
    except RunFailure as error:
        sys.exit(f"ser-predict --precision f32: {error}")


def warm_up(a, measures):
    """Libraries and files into the page cache, products into libser's, settings for the peers."""
    known = {}
    for measure in measures:
        print(f"warm-up: {measure.name}", file=sys.stderr, flush=True)
        peer = not measure.first and "--peer" in measure.command
        try:
            if measure.name == "first-libser-bf16-file":
                copy = [sys.executable, HERE / "bf16_copy.py", a.model, a.work / "bf16"]
                run_once(Measure("copy", copy, {}, a.work), a.timeout)
            if peer:
                choose_settings(a, measure, known)
            elif not (measure.new_cache and not measure.first):
                run_once(measure, a.timeout)
        except (RunFailure, OSError) as error:
            measure.failure = str(error)
            print(f"{measure.name}: {error}", file=sys.stderr)
        if measure.name.startswith("first-libser") and not measure.failure:
            measure.facts["library_seconds"] = library_times(measure)


def measure_rounds(a, measures, reference, save):
    """Round-robin, starting with another one in each round; saved after every run."""
    for n in range(a.rounds):
        for measure in measures[n % len(measures) :] + measures[: n % len(measures)]:
            if measure.failure and not measure.runs:
                continue
            print(f"round {n + 1} of {a.rounds}: {measure.name}", file=sys.stderr, flush=True)
            run = attempt(measure, a.timeout)
            if run is not None:
                measure.runs.append(run)
                check_answers(measure, reference)
            save()
            time.sleep(PAUSE)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=pathlib.Path, required=True, help="meson's build folder")
    parser.add_argument("--audio", type=pathlib.Path, help="folder of clips, 16 kHz mono")
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        help="transformers directory (default: make_golden.py --full makes one of random weights)",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peers", default=PEERS, help='comma-separated; "" for none')
    parser.add_argument("--only", default="", help="comma-separated names or patterns")
    parser.add_argument("--append", action="store_true", help="add to the results that are there")
    parser.add_argument("--results", type=pathlib.Path, help="folder for the raw numbers")
    parser.add_argument("--work", type=pathlib.Path, help="folder for answers and copies")
    parser.add_argument("--python", default=sys.executable, help="one with torch, for the peers")
    parser.add_argument("--decoder", help="of the peers; default: the first that works")
    parser.add_argument("--timeout", type=float, default=300, help="seconds of one run")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, a handful of clips")
    a = parser.parse_args(argv)
    if a.audio is None and not a.tiny:
        parser.error("--audio: name a folder of clips")
    if a.results is None and not a.tiny:
        a.results = ROOT / "tests" / "bench" / "results"
    a.peers = [name for name in a.peers.split(",") if name]
    unknown = set(a.peers) - set(PEERS.split(","))
    if unknown:
        parser.error(f"--peers: {', '.join(sorted(unknown))}; there is {PEERS}")
    a.only = [pattern for pattern in a.only.split(",") if pattern]
    return a


def interrupt(signum, frame):
    raise KeyboardInterrupt


def prepare(a):
    """Model and clips; the clip for first answers, and the clips' bytes."""
    find_model(a)
    if a.audio is None:
        a.audio = a.work / "clips"
        tiny_clips(a.audio)
    clips = pipeline_peer.find_clips(a.audio)
    if not clips:
        sys.exit(f"--audio: no clips in {a.audio}")
    a.clip = clips[0]
    read_pages([a.model / "model.safetensors"])
    return read_pages(clips)


def measure_all(a):
    audio_bytes = prepare(a)
    everything = libser_measures(a) + peer_measures(a)
    measures = select(everything, a.only)
    reference = take_reference(a, everything)
    setting = describe(a, reference, audio_bytes)
    path = result_path(a, setting) if a.results is not None else None
    old = json.loads(path.read_text()) if a.append and path and path.exists() else None
    result = {}
    names = places(a)
    if old is not None:
        merge(old, result_of(setting, []))  # refuses now what it would refuse later

    def save():
        result.update(result_of(setting, measures, names))
        if old is not None:
            result.update(merge(old, result))
        if path is not None:
            write_result(path, result)

    interrupted = False
    try:
        warm_up(a, measures)
        measure_rounds(a, measures, reference, save)
    except KeyboardInterrupt:
        interrupted = True
    save()
    print_result(result)
    print(path if path is not None else "nothing is written: --results")
    if interrupted:
        return 130
    return 1 if any(m.failure for m in measures) else 0


def main(argv=None):
    a = parse_arguments(argv)
    signal.signal(signal.SIGTERM, interrupt)
    a.build = a.build.resolve()
    with tempfile.TemporaryDirectory(prefix="ser-files-") as folder:
        a.work = a.work or pathlib.Path(folder)
        a.work.mkdir(parents=True, exist_ok=True)
        try:
            return measure_all(a)
        except KeyboardInterrupt:
            print("stopped before anything was measured", file=sys.stderr)
            return 130


if __name__ == "__main__":
    sys.exit(main())
