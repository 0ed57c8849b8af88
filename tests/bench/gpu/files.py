# SPDX-License-Identifier: MIT
"""ser-predict beside transformers, from audio files to answers as a shell sees it; see README.md.

python files.py --build BUILD --audio DIR [--model DIR] [--rounds 3] [--device cuda]
                [--only NAME,...] [--append] [--results DIR] [--tiny]

Jobs (all clips of DIR): libser, libser-new-cache, libser-f32, libser-b64, pipeline, pipeline-1,
loop, loop-padded. Time to the first answer (one clip): first-libser, first-libser-new-cache,
first-libser-bf16-file, first-binding, first-pipeline, first-loop. --only takes patterns of these.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import time
import wave

import commands
import pipeline_peer
from commands import PAUSE, ROOT, Measure, execute, read_pages
from files_result import RunFailure, compare, print_result, read_answers

HERE = pathlib.Path(__file__).resolve().parent
PEERS = "pipeline,pipeline-1,loop,loop-padded"
BF16_LIMIT = 0.05  # of probabilities against f32, as in tests/gpu/compare.py
F32_LIMIT = 1e-4
BINDING = (
    "import sys, ser; model = ser.Model.load(sys.argv[1], device=sys.argv[2]);"
    "print(model.predict(sys.argv[3]), flush=True)"
)


# --- One run --------------------------------------------------------------------------------------


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
    """Pieces of examples/clip.wav, WAV and FLAC in turn."""
    folder.mkdir(parents=True)
    pcm, library = commands.example_pcm(), pipeline_peer.Libsndfile()
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
    return {
        **commands.setting_of(a, "ser-predict"),
        "clips": len(reference),
        "audio_seconds": sum(seconds for _, _, seconds in reference.values()),
        "audio_bytes": audio_bytes,
    }


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
    commands.add_arguments(parser, PEERS, timeout=300)
    parser.add_argument("--audio", type=pathlib.Path, help="folder of clips, 16 kHz mono")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=pathlib.Path, help="folder for answers and copies")
    return commands.parse(parser, argv, PEERS)


def prepare(a):
    """Model and clips; the clip for first answers, and the clips' bytes."""
    commands.find_model(a)
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
    measures = commands.select(everything, a.only)
    reference = take_reference(a, everything)
    results = commands.Results(a, describe(a, reference, audio_bytes), measures, "files")
    interrupted = False
    try:
        warm_up(a, measures)
        measure_rounds(a, measures, reference, results.save)
    except KeyboardInterrupt:
        interrupted = True
    return results.finish(interrupted, print_result)


def main(argv=None):
    return commands.run_program(parse_arguments(argv), "ser-files-", measure_all)


if __name__ == "__main__":
    sys.exit(main())
