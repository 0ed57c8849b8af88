# SPDX-License-Identifier: MIT
"""transformers from audio files to answers, as a program of its own; see README.md.

python pipeline_peer.py MODEL DIR|FILE OUT.jsonl|- [--peer pipeline|loop|loop-padded] [--choose]

pipeline     pipeline("audio-classification"), decoding in DataLoader workers, clips sorted by
             length, batches padded to their longest clip
loop         decoding threads that start before PyTorch is imported, batches of clips of one length
             (so nothing is padded), samples through page-locked memory, normalisation on the
             device, weight norm folded, one wait at the end
loop-padded  the same with batches of neighbours in length, padded to the longest

Models whose first layer has a group norm take no attention mask: there padding counts as sound, and
the answers of pipeline and loop-padded depend on what a clip is batched with. Batches of one (and
loop) give what the model gives for the clip alone.

What was used and how long its parts took is the last line on standard error: "report {...}".
"""

import argparse
import concurrent.futures
import ctypes
import importlib
import itertools
import json
import os
import pathlib
import sys
import time

BEGIN = time.perf_counter()
RATE = 16000
SUFFIXES = {".wav", ".flac", ".ogg"}
SIZES = "1,8,16,32,64,128"
TRIED_CLIPS = 512


# --- Decoding -------------------------------------------------------------------------------------


class _Info(ctypes.Structure):
    """SF_INFO of sndfile.h."""

    _fields_ = [
        ("frames", ctypes.c_int64),
        ("samplerate", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("format", ctypes.c_int),
        ("sections", ctypes.c_int),
        ("seekable", ctypes.c_int),
    ]


class Libsndfile:
    """libsndfile without a Python package: mono 16 kHz files as arrays, and FLAC out of one."""

    READ, WRITE, FLAC_16 = 0x10, 0x20, 0x170002

    def __init__(self):
        self.lib = ctypes.CDLL("libsndfile.so.1")
        self.lib.sf_open.restype = ctypes.c_void_p
        self.lib.sf_version_string.restype = ctypes.c_char_p
        for name in ("sf_readf_short", "sf_readf_float", "sf_writef_short"):
            function = getattr(self.lib, name)
            function.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
            function.restype = ctypes.c_int64
        self.lib.sf_close.argtypes = (ctypes.c_void_p,)
        self.name = self.lib.sf_version_string().decode() + " by ctypes"

    def _open(self, path, mode, info):
        file = self.lib.sf_open(os.fsencode(path), mode, ctypes.byref(info))
        if not file:
            raise ValueError(f"{path}: libsndfile cannot open it")
        return file

    def frames(self, path):
        info = _Info()
        self.lib.sf_close(self._open(path, self.READ, info))
        check_layout(path, info.samplerate, info.channels)
        return info.frames

    def read(self, path, dtype):
        import numpy as np

        info = _Info()
        file = self._open(path, self.READ, info)
        try:
            check_layout(path, info.samplerate, info.channels)
            samples = np.empty(info.frames, dtype)
            read = self.lib.sf_readf_short if dtype == "int16" else self.lib.sf_readf_float
            got = read(file, samples.ctypes.data, info.frames)
        finally:
            self.lib.sf_close(file)
        if got != info.frames:
            raise ValueError(f"{path}: {got} of {info.frames} samples")
        return samples

    def write(self, path, pcm):
        """16-bit FLAC of the samples of an array.array("h")."""
        info = _Info(samplerate=RATE, channels=1, format=self.FLAC_16)
        file = self._open(path, self.WRITE, info)
        address, count = pcm.buffer_info()
        done = self.lib.sf_writef_short(file, address, count)
        self.lib.sf_close(file)
        if done != count:
            raise ValueError(f"{path}: {done} of {count} samples written")


class Soundfile:
    """The package soundfile, which brings or finds libsndfile."""

    def __init__(self):
        import soundfile

        self.module = soundfile
        self.name = f"soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}"

    def frames(self, path):
        info = self.module.info(str(path))
        check_layout(path, info.samplerate, info.channels)
        return info.frames

    def read(self, path, dtype):
        samples, rate = self.module.read(str(path), dtype=dtype)
        check_layout(path, rate, samples.ndim)
        return samples


class Torchaudio:
    def __init__(self):
        import torchaudio

        self.module = torchaudio
        self.name = f"torchaudio {torchaudio.__version__}"

    def frames(self, path):
        return len(self.read(path, "int16"))

    def read(self, path, dtype):
        samples, rate = self.module.load(str(path))
        check_layout(path, rate, len(samples))
        samples = samples[0].numpy()
        return samples if dtype == "float32" else (samples * 32768).round().astype("int16")


def check_layout(path, rate, channels):
    if rate != RATE or channels != 1:
        raise ValueError(f"{path}: {rate} Hz, {channels} channels; the peers read {RATE} Hz mono")


DECODERS = {"soundfile": Soundfile, "libsndfile": Libsndfile, "torchaudio": Torchaudio}


def find_decoder(names):
    """The first of these decoders that works here."""
    reasons = []
    for name in names:
        try:
            return DECODERS[name]()
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
    raise RuntimeError("nothing here decodes audio files: " + "; ".join(reasons))


def find_clips(path):
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


# --- Batches --------------------------------------------------------------------------------------


def by_length(lengths):
    """Indices, longest first: the memory of the first batch serves all."""
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def equal_batches(lengths, size):
    """Lists of at most `size` indices whose clips have one length."""
    batches = []
    for _, group in itertools.groupby(by_length(lengths), key=lambda i: lengths[i]):
        group = list(group)
        batches += [group[i : i + size] for i in range(0, len(group), size)]
    return batches


def padded_batches(lengths, size):
    """Lists of `size` indices whose clips are neighbours in length; the last one may be shorter."""
    order = by_length(lengths)
    return [order[i : i + size] for i in range(0, len(order), size)]


# --- Peers ----------------------------------------------------------------------------------------


class Pipeline:
    """As a careful user of transformers would write it."""

    def __init__(self, arguments, paths, decoder):
        import torch
        import transformers

        self.loaded = time.perf_counter()
        self.paths, self.decoder = paths, decoder
        self.classify = transformers.pipeline(
            "audio-classification",
            model=str(arguments.model),
            device=arguments.device,
            dtype=getattr(torch, arguments.dtype),
            model_kwargs={"attn_implementation": "sdpa"},
            top_k=None,
        )
        self.torch = torch

    def dataset(self, order):
        paths, decoder = self.paths, self.decoder

        class Clips(self.torch.utils.data.Dataset):
            def __len__(self):
                return len(order)

            def __getitem__(self, n):
                samples = decoder.read(paths[order[n]], "float32")
                return {"raw": samples, "sampling_rate": RATE}

        return Clips()

    def run(self, batch_size, workers):
        """(labels, probabilities) of every clip."""
        order = list(range(len(self.paths)))
        if batch_size > 1 and len(order) > 1:
            with concurrent.futures.ThreadPoolExecutor(workers or 1) as pool:
                order = by_length(list(pool.map(self.decoder.frames, self.paths)))
        labels = list(self.classify.model.config.id2label.values())
        rows = [None] * len(order)
        if len(order) == 1:  # a DataLoader costs more than it brings
            answers = [self.classify(self.dataset(order)[0])]
        else:
            clips = self.dataset(order)
            answers = self.classify(clips, batch_size=batch_size, num_workers=workers)
        for i, answer in zip(order, answers):
            scores = {one["label"]: one["score"] for one in answer}
            rows[i] = [scores[label] for label in labels]
        return labels, rows


class Loop:
    """What a program of one's own can do with the same modules."""

    def __init__(self, arguments, paths, decoder):
        self.arguments, self.paths, self.decoder = arguments, paths, decoder
        self.padded = arguments.peer == "loop-padded"
        importlib.import_module("numpy")  # not by the threads, all at once
        self.ahead = None
        if not arguments.choose:
            starter = concurrent.futures.ThreadPoolExecutor(1)
            self.ahead = starter.submit(
                self.start_decoding, arguments.batch_size, arguments.workers
            )
        import torch
        from transformers import AutoModelForAudioClassification

        self.loaded = time.perf_counter()
        self.torch = torch
        torch.set_float32_matmul_precision("high")
        self.device = torch.device(arguments.device)
        self.pinned = self.device.type == "cuda"
        self.dtype = getattr(torch, arguments.dtype)
        model = AutoModelForAudioClassification.from_pretrained(
            arguments.model, dtype=self.dtype, attn_implementation="sdpa"
        )
        torch.nn.utils.parametrize.remove_parametrizations(
            model.base_model.encoder.pos_conv_embed.conv, "weight"
        )
        self.model = model.to(self.device).eval()
        front_end = json.loads((arguments.model / "preprocessor_config.json").read_text())
        self.normalize = front_end.get("do_normalize", True)

    def start_decoding(self, batch_size, workers):
        """Batches, lengths and for every clip the decoded samples that a thread will give."""
        pool = concurrent.futures.ThreadPoolExecutor(max(workers, 1))
        lengths = list(pool.map(self.decoder.frames, self.paths))
        batches = (padded_batches if self.padded else equal_batches)(lengths, batch_size)
        samples = {
            i: pool.submit(self.decoder.read, self.paths[i], "int16")
            for i in itertools.chain(*batches)
        }
        return batches, lengths, samples

    def upload(self, batch, lengths, samples):
        """[len(batch), longest] in the model's type, normalised, zeros behind each clip."""
        torch = self.torch
        counts = torch.tensor([[lengths[i]] for i in batch], pin_memory=self.pinned)
        longest = max(lengths[i] for i in batch)
        pcm = torch.zeros(len(batch), longest, dtype=torch.int16, pin_memory=self.pinned)
        for row, i in enumerate(batch):
            pcm[row, : lengths[i]] = torch.from_numpy(samples.pop(i).result())
        x = pcm.to(self.device, non_blocking=True).float() / 32768
        if self.normalize:
            n = counts.to(self.device, non_blocking=True)
            valid = torch.arange(x.shape[1], device=self.device) < n
            mean = x.sum(1, keepdim=True) / n
            x = torch.where(valid, x - mean, 0)
            x = x / torch.sqrt((x * x).sum(1, keepdim=True) / n + 1e-7)
        return x.to(self.dtype)

    def run(self, batch_size, workers):
        torch = self.torch
        if self.ahead is not None:  # at the first run, which should find all decoded
            batches, lengths, samples = self.ahead.result()
            self.ahead = None
        else:
            batches, lengths, samples = self.start_decoding(batch_size, workers)
        answers = []
        with torch.inference_mode():
            for batch in batches:
                logits = self.model(self.upload(batch, lengths, samples)).logits
                answers.append(logits.float().softmax(-1))
            answers = torch.cat(answers).cpu().tolist()
        rows = [None] * len(self.paths)
        for i, row in zip(itertools.chain(*batches), answers):
            rows[i] = row
        return list(self.model.config.id2label.values()), rows


PEERS = {"pipeline": Pipeline, "loop": Loop, "loop-padded": Loop}


# --- The program ----------------------------------------------------------------------------------


def choose(peer, cores, sizes):
    """Clips per second for every setting that was tried: batch sizes, then numbers of workers."""
    peer.paths = peer.paths[:TRIED_CLIPS]
    tried = []

    def rate(batch_size, workers):
        begin = time.perf_counter()
        try:
            peer.run(batch_size, workers)
            result = len(peer.paths) / (time.perf_counter() - begin)
        except RuntimeError as error:  # out of memory, or of shared memory between workers
            print(f"batches of {batch_size}, {workers} workers: {error}", file=sys.stderr)
            result = 0.0
        tried.append([batch_size, workers, result])
        return result

    few = min(8, cores)
    peer.run(8, few)  # warm-up
    best = max(sizes, key=lambda size: rate(size, few))
    for workers in sorted({0, 2, 4, 12, cores} - {few}):
        if workers <= cores and (workers > 0 or isinstance(peer, Pipeline)):
            rate(best, workers)
    batch_size, workers, _ = max(tried, key=lambda one: one[2])
    return {"batch_size": batch_size, "workers": workers, "tried": tried}


def write_answers(path, paths, labels, rows):
    out = sys.stdout if path == "-" else open(path, "w", encoding="utf-8")
    for clip, row in zip(paths, rows):
        best = max(range(len(row)), key=row.__getitem__)
        answer = {"file": str(clip), "label": labels[best], "score": row[best]}
        answer["scores"] = dict(zip(labels, row))
        out.write(json.dumps(answer) + "\n")
    out.flush()
    if out is not sys.stdout:
        out.close()


def versions():
    from importlib import metadata

    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "numpy", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def parse_arguments():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path, help="a transformers directory")
    parser.add_argument("audio", type=pathlib.Path, help="a folder or a file, 16 kHz mono")
    parser.add_argument("out", help="JSON lines; - is standard output")
    parser.add_argument("--peer", choices=PEERS, default="pipeline")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=min(8, cores), help="for decoding")
    parser.add_argument(
        "--decoder", choices=DECODERS, help="default: the first of them that works"
    )
    parser.add_argument(
        "--choose", action="store_true", help="write the fastest settings instead of answers"
    )
    parser.add_argument("--sizes", default=SIZES, help="of batches that --choose tries")
    arguments = parser.parse_args()
    arguments.sizes = [int(size) for size in arguments.sizes.split(",")]
    return arguments, cores


def main():
    arguments, cores = parse_arguments()
    paths = find_clips(arguments.audio)
    if not paths:
        sys.exit(f"{arguments.audio}: no audio files")
    decoder = find_decoder([arguments.decoder] if arguments.decoder else DECODERS)
    peer = PEERS[arguments.peer](arguments, paths, decoder)
    ready = time.perf_counter()
    report = {"peer": arguments.peer, "decoder": decoder.name, "dtype": arguments.dtype}
    if arguments.choose:
        report.update(choose(peer, cores, arguments.sizes), versions=versions())
    else:
        labels, rows = peer.run(arguments.batch_size, arguments.workers)
        write_answers(arguments.out, paths, labels, rows)
        report.update(batch_size=arguments.batch_size, workers=arguments.workers, clips=len(paths))
    report.update(
        import_seconds=peer.loaded - BEGIN,
        model_seconds=ready - peer.loaded,
        run_seconds=time.perf_counter() - ready,
    )
    print("report " + json.dumps(report), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
