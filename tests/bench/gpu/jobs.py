# SPDX-License-Identifier: MIT
"""ser-train as a user runs it, beside the same job with transformers' Trainer; see README.md.

python jobs.py --build BUILD --audio RAVDESS [--model DIR] [--seeds 3] [--device cuda]
               [--only NAME,...] [--append] [--time-limit SECONDS] [--results DIR] [--tiny]

Jobs: libser, libser-new-cache, libser-each-epoch, libser-f32, trainer, trainer-tuned,
trainer-compiled, loop, loop-compiled, loop-f32. --only takes patterns of these.
"""

import argparse
import csv
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

import commands
import machine
import pipeline_peer
from commands import Measure
from files_result import RunFailure
from jobs_result import collect, print_result, relative, stages

HERE = pathlib.Path(__file__).resolve().parent
PEERS = "trainer,trainer-tuned,trainer-compiled,loop,loop-compiled,loop-f32"
TUNED = "trainer-tuned", "loop", "loop-f32"
HEURISTIC = "TORCH_CUDNN_USE_HEURISTIC_MODE_B"
EMOTIONS = "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"
# Actors of RAVDESS that do not train: a fold of Luna-Jimenez et al. 2022.
VALIDATION, TEST = {2, 5, 14, 15}, {16}
# Nothing is learnt and nothing is random: losses are those of the first weights.
CHECK = ["--epochs", "1", "--lr", "1e-12", "--mask-time-prob", "0"]
for _name in ("projection", "hidden", "attention", "classifier"):
    CHECK += [f"--{_name}-dropout", "0"]
# Relative, of validation and training losses: training clips above 5 s are cut at random places.
LIMITS = {"f32": (1e-4, 1e-3), "bf16": (2e-2, 2e-2)}


# --- Clips ----------------------------------------------------------------------------------------


def manifest_rows(audio):
    """[path, label, speaker, part] of every clip of RAVDESS that is there, by the files' names."""
    rows = []
    for path in pipeline_peer.find_clips(audio):
        numbers = path.stem.split("-")
        if len(numbers) != 7 or not all(number.isdigit() for number in numbers):
            sys.exit(f"--audio: {path} is not named like a clip of RAVDESS, 03-01-05-01-02-01-12")
        emotion, actor = int(numbers[2]), int(numbers[6])
        if not 1 <= emotion <= len(EMOTIONS):
            sys.exit(f"--audio: {path}: there is no emotion {emotion}")
        part = "validation" if actor in VALIDATION else "test" if actor in TEST else "train"
        rows.append([path.relative_to(audio), EMOTIONS[emotion - 1], numbers[6], part])
    return rows


def write_manifest(a):
    """WORK/clips.csv, which everybody reads; {part: clips}."""
    rows = manifest_rows(a.audio)
    counts = {part: sum(row[3] == part for row in rows) for part in ("train", "validation", "test")}
    empty = [part for part, count in counts.items() if count == 0]
    if empty:
        sys.exit(f"--audio: {a.audio} has no clip for the part {empty[0]}")
    a.clips = a.work / "clips.csv"
    with open(a.clips, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "speaker", "split"], *rows])
    return counts


def tiny_clips(folder):
    """Six speakers, eight emotions: pieces of examples/clip.wav as FLAC."""
    folder.mkdir(parents=True)
    pcm, library = commands.example_pcm(), pipeline_peer.Libsndfile()
    for n, actor in enumerate((1, 2, 3, 4, 6, 16)):
        for emotion in range(1, len(EMOTIONS) + 1):
            first = 251 * emotion + 2003 * n
            piece = pcm[first : first + 6400 + 533 * ((emotion + n) % 5)]
            library.write(folder / f"03-01-{emotion:02}-01-01-01-{actor:02}.flac", piece)


# --- What is measured -----------------------------------------------------------------------------


def common_options(a):
    """Of ser-train: the job. {seed} and {out} differ from run to run."""
    return [
        *("--dataset", "manifest", a.clips, "--manifest-root", a.audio),
        *("--backbone", a.model, "--epochs", a.epochs, "--batch-size", a.batch_size),
        *("--device", a.device, *a.options),
    ]


def libser_measures(a):
    module = os.environ.get("SER_MODULE_PATH", str(a.build / "lib" / "ops" / "cuda"))
    warm = {"SER_MODULE_PATH": module, "SER_CACHE_DIR": str(a.work / "cache")}
    new = dict(warm, SER_CACHE_DIR=str(a.work / "new-cache"))
    command = [a.build / "tools" / "ser-train", *common_options(a)]
    run = ["--seed", "{seed}", "-o", "{out}"]

    def job(name, *options, environment=warm, **more):
        facts = {"precision": "f32" if "f32" in options else "bf16"}
        return Measure(name, [*command, *options, *run], environment, a.work, facts=facts, **more)

    return [
        job("libser"),
        job("libser-new-cache", environment=new, new_cache=True),
        job("libser-each-epoch", "--save-seconds", "0"),
        job("libser-f32", "--precision", "f32"),
    ]


def peer_measures(a):
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    offline.update(HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")
    measures = []
    for name in a.peers:
        precision = "f32" if name.endswith("-f32") else "bf16"
        command = [a.python, "-W", "ignore", HERE / "trainer_peer.py", a.model, a.clips, a.audio]
        command += ["{out}", "--peer", name.removesuffix("-f32"), "--precision", precision]
        command += ["--recipe", "{recipe}", "--labels", "{labels}", "--device", a.device]
        command += ["--seed", "{seed}", *(["--decoder", a.decoder] if a.decoder else [])]
        environment = dict(offline, TORCHINDUCTOR_CACHE_DIR=str(a.work / "inductor"))
        facts = {"precision": precision}
        measures.append(Measure(name, command, environment, a.work, facts=facts))
    return measures


def write_recipes(a):
    """WORK/recipe.json and WORK/check.json: ser-train's settings for the peers."""
    tool = a.build / "tools" / "ser-train"
    for name, more in (("recipe", []), ("check", CHECK)):
        command = [tool, *common_options(a), *more, "-o", "x", "--print-config"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"ser-train --print-config: {done.stderr.strip()}")
        (a.work / f"{name}.json").write_text(done.stdout)


def fill(command, values):
    """The words of a command with values for {names}."""
    return [re.sub(r"\{(\w+)\}", lambda m: str(values[m[1]]), str(word)) for word in command]


# --- Runs -----------------------------------------------------------------------------------------


def execute(a, measure, seed, command, recipe):
    """One run in a directory of its own, which stays until the next one; what it took and gave."""
    a.out = a.work / "run"
    shutil.rmtree(a.out, ignore_errors=True)
    if not a.tiny:
        os.sync()  # what earlier runs wrote is not this one's business
    values = {"seed": seed, "out": a.out, "recipe": a.work / f"{recipe}.json"}
    values.update(labels=",".join(a.labels), head=a.head)
    trial = Measure(measure.name, fill(command, values), measure.environment, a.out)
    trial.new_cache = measure.new_cache
    found, limit = {}, min(a.timeout, a.deadline.left())
    try:
        with a.memory.peak(found):
            run, _, lines = commands.execute(trial, limit)
    except RunFailure:
        if a.deadline.left() <= 0.0:
            raise machine.TimeUp("--time-limit") from None
        raise
    run["seed"] = seed
    if "peak" in found:
        run["device_peak_bytes"] = found["peak"]
    run.update(collect(a.out, json.loads((a.work / f"{recipe}.json").read_text())["epochs"]))
    run["stages"] = stages(lines, run["seconds"], run["epochs"])
    return run


def check_command(measure):
    """The command for the first weights' losses; later options overrule earlier ones."""
    if "--peer" not in measure.command:
        return measure.command + CHECK
    peer = measure.command[measure.command.index("--peer") + 1]
    return measure.command + (["--head", "{head}"] if peer.startswith("loop") else [])


def take_reference(a, everything):
    """Losses of the first weights by libser in f32, the first weights themselves, and labels."""
    measure = next(m for m in everything if m.name == "libser-f32")
    a.labels, a.head = [], None
    try:
        run = execute(a, measure, 0, check_command(measure), "check")
        a.labels = json.loads((a.out / "report.json").read_text())["labels"]
    except (RunFailure, OSError) as error:
        sys.exit(f"ser-train --precision f32: {error}")
    (first,) = (a.out / "checkpoints").glob("step-*")
    a.head = a.work / "first.safetensors"
    shutil.copyfile(first / "model.safetensors", a.head)
    return run["epochs"][0]


def check(a, measure, reference):
    """One epoch without learning: warms up, and tells whether the peer computes the same."""
    run = execute(a, measure, 0, check_command(measure), "check")
    mine = run["epochs"][0]
    measure.facts.setdefault("check_seconds", run["seconds"])  # also the first run ever
    limits = LIMITS[measure.facts["precision"]]
    for key, limit in zip(("validation_loss", "train_loss"), limits):
        apart = relative(mine[key], reference[key])
        measure.facts[f"first_{key}"], measure.facts[f"{key}_apart"] = mine[key], apart
        same_head = not measure.name.startswith("trainer")
        if same_head and not apart <= limit:
            raise RunFailure(
                f"with the first weights {key} is {mine[key]:.6f}, libser in f32 has "
                f"{reference[key]:.6f}: {apart:.2g} apart, more than {limit:g}"
            )
    return run


def choose(a, measure, reference):
    """The fastest number of DataLoader workers, and of cuDNN's two heuristics, for a tuned peer."""
    command, environment = measure.command, measure.environment

    def attempt(words, more):
        measure.command, measure.environment = command + words, {**environment, **more}
        return check(a, measure, reference)["epochs"][0]["seconds"], words, more

    options = [[]]
    if measure.name.startswith("trainer-"):
        counts = (0, 1) if a.tiny else (0, 2, 4, 8)
        options = [["--workers", n] for n in counts if n <= len(os.sched_getaffinity(0))]
    tried = [attempt(words, {}) for words in options]
    if a.device != "cpu":
        tried.append(attempt(fastest(tried)[1], {HEURISTIC: "1"}))
    _, words, more = fastest(tried)
    measure.command, measure.environment = command + words, {**environment, **more}
    measure.facts["tried"] = tried


def fastest(tried):
    return min(tried, key=lambda one: one[0])


def adopt(measure, entry):
    """What an earlier part has chosen, so that its runs and ours are of one command."""
    if "--workers" in entry["command"]:
        n = int(entry["command"][entry["command"].index("--workers") + 1])
        measure.command = [*measure.command, "--workers", n]
    if HEURISTIC in entry["environment"]:
        measure.environment = {**measure.environment, HEURISTIC: entry["environment"][HEURISTIC]}
    measure.facts["tried"] = entry["tried"]


def warm_up(a, measures, reference):
    for measure in measures:
        print(f"check: {measure.name}", file=sys.stderr, flush=True)
        earlier = a.earlier.get(measure.name, {})
        try:
            if "tried" in earlier:
                adopt(measure, earlier)
            if measure.name in TUNED and "tried" not in earlier:
                choose(a, measure, reference)
            elif not measure.new_cache:
                check(a, measure, reference)
        except (RunFailure, OSError) as error:
            measure.failure = str(error)
            print(f"{measure.name}: {error}", file=sys.stderr)


def measure_rounds(a, measures, save):
    """Round-robin, starting with another one in each round; a round has a seed of its own."""
    for n in range(a.seeds):
        for measure in measures[n % len(measures) :] + measures[: n % len(measures)]:
            if measure.failure and not measure.runs:
                continue
            earlier = a.earlier.get(measure.name, {}).get("runs", [])
            seed = n + 1 + max((run["seed"] for run in earlier), default=-1)
            print(f"seed {seed}: {measure.name}", file=sys.stderr, flush=True)
            try:
                run = execute(a, measure, seed, measure.command, "recipe")
            except (RunFailure, OSError) as error:
                measure.failure = str(error)
                print(f"{measure.name}: {error}", file=sys.stderr)
            else:
                measure.runs.append(run)
                report = run.get("report", {})
                measure.facts.update({k: report[k] for k in ("versions", "decoder") if k in report})
            save()
            time.sleep(commands.PAUSE)


# --- The program ----------------------------------------------------------------------------------


def file_system(path):
    """The type of the one that holds `path`, such as ext4 or tmpfs: checkpoints wait for it."""
    table = pathlib.Path("/proc/self/mounts").read_text()
    mounts = [line.split()[1:3] for line in table.splitlines()]
    above = {str(folder) for folder in (path, *path.parents)}
    return max((mount for mount in mounts if mount[0] in above), key=lambda one: len(one[0]))[1]


def describe(a, counts):
    """What must be the same for results that are merged."""
    return {
        **commands.setting_of(a, "ser-train"),
        "clips": counts,
        "epochs": a.epochs,
        "batch_size": a.batch_size,
        "options": a.options,
        "file_system": file_system(a.work),
        "steps": a.epochs * math.ceil(counts["train"] / a.batch_size),
    }


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands.add_arguments(parser, PEERS, timeout=900)
    parser.add_argument("--audio", type=pathlib.Path, help="RAVDESS, 16 kHz mono")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each job, each another seed")
    parser.add_argument("--epochs", type=int, help="default 15")
    parser.add_argument("--batch-size", type=int, help="default 32")
    parser.add_argument("--options", default="", help='others of ser-train, such as "--lr 1e-4"')
    parser.add_argument("--work", type=pathlib.Path, help="folder for runs, 6 GB")
    parser.add_argument("--time-limit", type=float, default=math.inf, help="seconds of everything")
    a = commands.parse(parser, argv, PEERS)
    a.epochs = a.epochs or (2 if a.tiny else 15)
    a.batch_size = a.batch_size or (8 if a.tiny else 32)
    a.options = shlex.split(a.options)
    return a


def prepare(a):
    """Model, clips, manifest and recipes; {part: clips}."""
    commands.find_model(a)
    if a.audio is None:
        a.audio = a.work / "clips"
        tiny_clips(a.audio)
    a.audio = a.audio.resolve()
    if not a.audio.is_dir():
        sys.exit(f"--audio: {a.audio} is no folder")
    counts = write_manifest(a)
    commands.read_pages([a.model / "model.safetensors"])
    commands.read_pages(pipeline_peer.find_clips(a.audio))
    write_recipes(a)
    return counts


def measure_all(a):
    counts = prepare(a)
    everything = libser_measures(a) + peer_measures(a)
    measures = commands.select(everything, a.only)
    reference = take_reference(a, everything)
    results = commands.Results(a, describe(a, counts), measures, "jobs")
    a.earlier = results.old["measures"] if results.old is not None else {}
    interrupted = False
    try:
        warm_up(a, measures, reference)
        measure_rounds(a, measures, results.save)
    except (KeyboardInterrupt, machine.TimeUp) as reason:
        interrupted = isinstance(reason, KeyboardInterrupt)
        print(f"stopped: {reason or 'by a signal'}", file=sys.stderr)
    return results.finish(interrupted, print_result)


def main(argv=None):
    a = parse_arguments(argv)
    a.model = a.model.resolve() if a.model is not None else None
    a.deadline, a.memory = machine.Deadline(a.time_limit), machine.Memory(a.device)
    try:
        return commands.run_program(a, "ser-jobs-", measure_all)
    except machine.TimeUp:
        sys.exit("--time-limit: nothing was measured")


if __name__ == "__main__":
    sys.exit(main())
