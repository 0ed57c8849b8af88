"""Trains models/ser-mini.safetensors on RAVDESS, and measures it by cross validation over speakers.

    python train_ser_mini.py cv     --data RAVDESS --out RUN    # RUN/fold{1..6}.safetensors
    python train_ser_mini.py report --data RAVDESS --out RUN    # RUN/heldout.csv, RUN/report.json
    python train_ser_mini.py final  --data RAVDESS --out RUN --model ser-mini.safetensors

RAVDESS is a folder of Actor_01 .. Actor_24 with the 1440 speech clips at 16 kHz, WAV or FLAC. Needs
PyTorch, soundfile and ffmpeg (with libopus and soxr), and one CPU core; what is slow to prepare is
kept in RUN/cache. The schedule is fixed and the weights are the moving average after the last step:
within a run no held-out clip chooses anything.
"""

import argparse
import csv
import functools
import json
import math
import os
import pathlib
import subprocess
import time

import numpy as np
import soundfile
import torch
import torch.nn.functional as F

import ser_mini

RATE = 16000
# EmoBox's six folds of RAVDESS: the actors of the test part.
FOLDS = [(1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23),
         (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22)]
SPEEDS = [0.90, 0.95, 1.0, 1.05, 1.10]
CONTEXT = 60              # cached frames around the speech, where there are as many
MAX_FRAMES = 260
FLOOR = 0.01
BATCH = 32


def model_config():
    """The example of FORMAT.md, with two front-end numbers chosen for robustness.

    floor: some 45 dB below the average power of a bin in a clip of unit variance, so that what an
    encoder, a microphone or digital silence does down there is not seen.
    high: above 7.6 kHz resamplers and codecs differ.
    """
    config = ser_mini.default_config()
    config["features"]["mel"].update(floor=FLOOR, high=7600.0)
    return config


# --- Data -----------------------------------------------------------------------------------------

class Clip:
    def __init__(self, path):
        fields = [int(part) for part in path.stem.split("-")]
        self.path, self.label, self.actor = path, fields[2] - 1, fields[6]

    @functools.cached_property
    def audio(self):
        x, rate = soundfile.read(self.path, dtype="float32", always_2d=True)
        if rate != RATE:
            raise ValueError(f"{self.path}: resample to {RATE} Hz first")
        return torch.from_numpy(x.mean(1))


def read_clips(data):
    paths = sorted(p for p in pathlib.Path(data).glob("Actor_*/*") if p.suffix in (".flac", ".wav"))
    if len(paths) != 1440:
        raise SystemExit(f"{data}: {len(paths)} clips where RAVDESS speech has 1440")
    return [Clip(p) for p in paths]


def ffmpeg(x, *stages, rate=RATE):
    """A waveform through ffmpeg, to 16 kHz mono; each stage is (output arguments, container)."""
    data = np.asarray(x, dtype="<f4").tobytes()
    source = ["-f", "f32le", "-ar", str(rate), "-ac", "1"]
    for arguments, container in [*stages, (["-ac", "1", "-ar", str(RATE)], "f32le")]:
        command = ["ffmpeg", "-v", "error", "-threads", "1", *source, "-i", "-",
                   *arguments, "-f", container, "-"]
        data = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout
        source = ["-f", container]
    return torch.from_numpy(np.frombuffer(data, "<f4").copy())


def opus(x, kbits):
    return ffmpeg(x, (["-c:a", "libopus", "-b:a", f"{kbits}k"], "ogg"))


def change_speed(x, speed):
    """Resampling in the frequency domain: tempo and pitch move together."""
    n, m = x.numel(), round(x.numel() / speed)
    spectrum = torch.fft.rfft(x)
    size = m // 2 + 1
    spectrum = F.pad(spectrum, (0, max(size - spectrum.numel(), 0)))[:size]
    return torch.fft.irfft(spectrum, n=m) * (m / n)


def cached_mel(x, config):
    """Log-mel of a clip and some of its silence, scaled as if trimmed; its span of loud frames."""
    audio, mel = config["audio"], config["features"]["mel"]
    begin, end = ser_mini.trim_span(x, RATE, audio["trim"]["threshold_db"], 0.0)
    kept = ser_mini.trim(x, audio).double()
    scaled = (x.double() - kept.mean()) / torch.sqrt(kept.var(unbiased=False) + 1e-7)
    y = ser_mini.log_mel(scaled.float(), mel, RATE)
    first, last = begin // mel["hop"], min((end - mel["frame"]) // mel["hop"] + 1, y.shape[0])
    begin, end = max(first - CONTEXT, 0), min(last + CONTEXT, y.shape[0])
    return y[begin:end].half(), first - begin, last - begin


def prepare(clips, cache, seed):
    """Log-mels of all clips at each speed, clean and through Opus (one stream per actor)."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "mels.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    config, rng, out = model_config(), np.random.default_rng(seed), {}
    for speed in SPEEDS:
        clean = [clip.audio if speed == 1.0 else change_speed(clip.audio, speed) for clip in clips]
        coded = []
        for actor in range(1, 25):
            members = [x for x, clip in zip(clean, clips) if clip.actor == actor]
            sizes = [x.numel() for x in members]
            joined = opus(torch.cat(members), rng.choice([16, 20, 24, 32]))
            joined = F.pad(joined, (0, max(sum(sizes) - joined.numel(), 0)))
            coded += joined[:sum(sizes)].split(sizes)
        out[f"clean {speed}"] = [cached_mel(x, config) for x in clean]
        out[f"opus {speed}"] = [cached_mel(x, config) for x in coded]
        print(f"log-mels at speed {speed}", flush=True)
    torch.save(out, path)
    return out


def level_statistics(mels):
    """Mean of each bin, and its deviation once mean and the clip's level are out."""
    cut = [y[max(a - 10, 0):b + 10].float() for y, a, b in mels]
    mean = torch.cat(cut).mean(0)
    level = torch.cat([y - mean - (y - mean).mean() for y in cut])
    return mean, level.std(0)


# --- Augmentation, on log-mels --------------------------------------------------------------------

def uniform(rng, low, high):
    return low + (high - low) * rng.random()


def cut_margins(y, first, last, rng):
    """Around the speech: mostly what the trimming leaves, sometimes more, as if it had failed."""
    wide = rng.random() < 0.2
    before, after = rng.integers(0, CONTEXT if wide else 20, 2)
    # A threshold of 25 instead of 35 dB moves the ends inwards by a few frames.
    inward = rng.integers(0, 8, 2) if rng.random() < 0.3 else (0, 0)
    begin, end = max(first - before + inward[0], 0), min(last + after - inward[1], y.shape[0])
    if end - begin > MAX_FRAMES:
        begin += rng.integers(0, end - begin - MAX_FRAMES + 1)
        end = begin + MAX_FRAMES
    y = y[begin:end].float()
    if rng.random() < 0.15:    # a pause of up to a second at each end, of silence or faint noise
        level = y.max() - uniform(rng, 5.0, 14.0)
        shape = level + uniform(rng, -1.0, 1.0) * torch.linspace(-1.0, 1.0, y.shape[1])
        sizes = rng.integers(0, 100, 2) * (rng.random(2) < 0.7)
        ends = [shape + 0.4 * torch.randn(int(size), y.shape[1]) for size in sizes]
        y = torch.cat([ends[0], y, ends[1]])
    return y


def warp(x, lengths, rng):
    """Time stretch of +-8 % and a warp of the mel axis of +-5 %, by one bilinear resampling."""
    batch, time, bins = x.shape
    stretch, shift = (torch.tensor(rng.uniform(1.0 - r, 1.0 + r, (batch, 1)), dtype=torch.float32)
                      for r in (0.08, 0.05))
    out = (lengths.double() * stretch[:, 0]).long().clamp(min=20)
    t = torch.arange(int(out.max()))[None, :] / stretch
    f = torch.arange(bins)[None, :] * shift
    t = torch.minimum(t, (lengths - 1)[:, None]) * (2.0 / (time - 1)) - 1.0
    f = f.clamp(max=bins - 1.0) * (2.0 / (bins - 1)) - 1.0
    grid = torch.stack([f[:, None, :].expand(-1, t.shape[1], -1),
                        t[:, :, None].expand(-1, -1, bins)], 3)
    x = F.grid_sample(x[:, None], grid, padding_mode="border", align_corners=True)
    return x[:, 0], out


def augment(x, lengths, mean, rng):
    batch, _, bins = x.shape
    x, lengths = warp(x, lengths, rng)
    valid = (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]

    def normal(*shape):
        return torch.tensor(rng.standard_normal(shape), dtype=torch.float32)

    # Equaliser: a tilt and a slow ripple.
    tilt = 0.35 * normal(batch, 1) * torch.linspace(-1.0, 1.0, bins)
    ripple = F.interpolate(0.25 * normal(batch, 1, 8), bins, mode="linear", align_corners=True)
    x = x + tilt[:, None] + ripple

    peak = x.masked_fill(~valid, -math.inf).amax((1, 2))
    for i in range(batch):
        if rng.random() < 0.3:     # noise, 30 to 56 dB below the loudest cell
            level = peak[i] - uniform(rng, 30.0, 56.0) * math.log(10.0) / 10.0
            noise = level + 0.5 * normal(1) * torch.linspace(-1.0, 1.0, bins)
            x[i] = torch.logaddexp(x[i], noise + 0.4 * normal(x.shape[1], bins))
        if rng.random() < 0.15:    # low-pass: the top of the spectrum falls off
            edge = rng.integers(bins - 24, bins)
            x[i] -= uniform(rng, 0.1, 1.0) * (torch.arange(bins) - edge).clamp(min=0)
        # One mask over bins and two over time, of the value that the level makes zero.
        level = (x[i] - mean)[:lengths[i]].mean()
        width = rng.integers(0, 9)
        begin = rng.integers(0, bins - width + 1)
        x[i, :, begin:begin + width] = mean[begin:begin + width] + level
        for _ in range(2):
            width = rng.integers(0, 17)
            begin = rng.integers(0, max(int(lengths[i]) - width, 1))
            x[i, begin:begin + width] = mean + level
    return x.clamp(min=math.log(FLOOR)), lengths


def batches(members, mels, rng):
    """One epoch: a version of each clip, margins cut, clips of similar length together."""
    chosen = []
    for i in members:
        speed = SPEEDS[rng.integers(len(SPEEDS))] if rng.random() < 0.7 else 1.0
        kind = "opus" if rng.random() < 0.35 else "clean"
        y, first, last = mels[f"{kind} {speed}"][i]
        chosen.append((i, cut_margins(y, first, last, rng)))
    chosen.sort(key=lambda item: item[1].shape[0] + uniform(rng, 0.0, 30.0))
    groups = [chosen[k:k + BATCH] for k in range(0, len(chosen), BATCH)]
    for k in rng.permutation(len(groups)):
        yield groups[k]


# --- Training -------------------------------------------------------------------------------------

def train(clips, mels, members, arguments, summary):
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    model = ser_mini.Model({**model_config(), "training": summary})
    level = model.wav2vec2.feature_extractor.mel
    level.mean, level.std = level_statistics([mels["clean 1.0"][i] for i in members])
    mean = level.mean

    labels = torch.tensor([clip.label for clip in clips])
    count = torch.bincount(labels[members], minlength=8).float()
    class_weight = count.mean() / count
    steps = math.ceil(len(members) / BATCH) * arguments.epochs
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05},
                                   {"params": others, "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.98))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.997))

    def rate(step):    # a tenth of the steps up, the others down a half cosine
        down = min(max(step / steps - 0.1, 0.0) / 0.9, 1.0)
        return min((step + 1) / (0.1 * steps), 0.5 + 0.5 * math.cos(math.pi * down))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    start = time.time()
    for epoch in range(arguments.epochs):
        total, right = 0.0, 0
        for group in batches(members, mels, rng):
            lengths = torch.tensor([y.shape[0] for _, y in group])
            x = torch.nn.utils.rnn.pad_sequence([y for _, y in group], batch_first=True)
            target = labels[[i for i, _ in group]]
            logits = model(*augment(x, lengths, mean, rng))
            loss = F.cross_entropy(logits, target, weight=class_weight, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += float(loss.detach()) * len(group)
            right += int((logits.argmax(1) == target).sum())
        print(f"epoch {epoch + 1} loss {total / len(members):.4f} "
              f"accuracy {right / len(members):.4f} seconds {time.time() - start:.0f}", flush=True)
    return average.module.eval()


def summary_of(arguments, actors):
    return {
        "data": "RAVDESS, speech, audio only, 16 kHz (CC BY-NC-SA 4.0)",
        "actors": actors,
        "script": "tests/golden/train_ser_mini.py",
        "epochs": arguments.epochs,
        "batch": BATCH,
        "optimizer": "AdamW 1e-3, cosine, weight average 0.997",
        "seed": arguments.seed,
        "torch": torch.__version__,
    }


def save(model, path):
    """Written beside and renamed, so that a reader never meets half a file."""
    temporary = path.with_name(path.name + ".tmp")
    ser_mini.save(model, temporary)
    temporary.chmod(0o644)
    os.replace(temporary, path)


def run_cv(arguments):
    clips = read_clips(arguments.data)
    mels = prepare(clips, arguments.out / "cache", arguments.seed)
    for fold in arguments.folds:
        held_out = FOLDS[fold - 1]
        members = [i for i, clip in enumerate(clips) if clip.actor not in held_out]
        print(f"fold {fold}: {len(members)} clips", flush=True)
        actors = sorted(set(range(1, 25)) - set(held_out))
        model = train(clips, mels, members, arguments, summary_of(arguments, actors))
        save(model, arguments.out / f"fold{fold}.safetensors")


def run_final(arguments):
    clips = read_clips(arguments.data)
    mels = prepare(clips, arguments.out / "cache", arguments.seed)
    summary = summary_of(arguments, list(range(1, 25)))
    model = train(clips, mels, list(range(len(clips))), arguments, summary)
    save(model, arguments.model)


# --- Measuring, on waveforms, by the exact path ---------------------------------------------------

def perturbed(clip, index):
    """What must not change the label: name -> waveform as such a recording would be read."""
    x = clip.audio
    generator = torch.Generator().manual_seed(index)

    def between(rms):
        ends = rms * torch.randn(2, RATE, generator=generator)
        return torch.cat([ends[0], x, ends[1]])

    # Noise relative to the loudest 25 ms is equally faint beside a whisper and a shout.
    peak = float(ser_mini.frames(x, 400, 160).square().mean(1).max().sqrt())
    stereo = ["-af", "aresample=resampler=soxr", "-ac", "2", "-ar", "44100", "-c:a", "pcm_s16le"]
    return {
        "1 s of digital zero at both ends": between(0.0),
        "1 s of noise at -100 dBFS at both ends": between(1e-5),
        "1 s of noise 45 dB below the peak at both ends": between(peak * 10.0 ** (-45.0 / 20.0)),
        "1 s of noise 30 dB below the peak at both ends": between(peak * 10.0 ** (-30.0 / 20.0)),
        "a tenth of the gain": x * 0.1,
        "a tenth of the gain, 16 bit": torch.round(x * 3276.8) / 32768.0,
        "44.1 kHz stereo": ffmpeg(x, (stereo, "wav")),
        "Opus, 24 kbit/s": opus(x, 24),
        "Opus, 32 kbit/s": opus(x, 32),
    }


def scores(label, predicted):
    confusion = np.zeros((8, 8), dtype=int)
    np.add.at(confusion, (label, predicted), 1)
    hits = np.diag(confusion)
    recall = hits / confusion.sum(1)
    f1 = 2.0 * hits / (confusion.sum(0) + confusion.sum(1))
    return {"uar": recall.mean(), "accuracy": hits.sum() / confusion.sum(), "macro_f1": f1.mean(),
            "recall": recall, "confusion": confusion}


def bootstrap(label, predicted, actor, draws=10000, seed=0):
    """95 % interval of the pooled UAR when the 24 actors are drawn anew."""
    tables = np.zeros((25, 8, 2))
    np.add.at(tables, (actor, label, 0), label == predicted)
    np.add.at(tables, (actor, label, 1), 1)
    draw = np.random.default_rng(seed).integers(1, 25, (draws, 24))
    sums = tables[draw].sum(1)
    return np.percentile((sums[:, :, 0] / sums[:, :, 1]).mean(1), [2.5, 97.5])


def run_report(arguments):
    clips = read_clips(arguments.data)
    rows, agreement, right, untrimmed = [], {}, {}, []
    for fold in arguments.folds:
        model = ser_mini.load(arguments.out / f"fold{fold}.safetensors")
        plain = ser_mini.load(arguments.out / f"fold{fold}.safetensors")
        plain.config["audio"]["trim"] = None
        for i, clip in enumerate(clips):
            if clip.actor not in FOLDS[fold - 1]:
                continue
            predicted, logits = ser_mini.predict(model, clip.audio)
            rows.append((clip, fold, predicted, logits.tolist()))
            untrimmed.append(ser_mini.predict(plain, clip.audio)[0])
            for name, x in cached_perturbed(clip, i, arguments.out / "cache").items():
                other = ser_mini.predict(model, x)[0]
                agreement.setdefault(name, []).append(other == predicted)
                right.setdefault(name, []).append(other)
        print(f"fold {fold} measured", flush=True)

    with open(arguments.out / "heldout.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "fold", "label", "predicted", *ser_mini.LABELS])
        for clip, fold, predicted, logits in rows:
            name = clip.path.relative_to(arguments.data)
            writer.writerow([name, fold, ser_mini.LABELS[clip.label], ser_mini.LABELS[predicted],
                             *(f"{value:.9g}" for value in logits)])

    label = np.array([clip.label for clip, *_ in rows])
    actor = np.array([clip.actor for clip, *_ in rows])
    folds = np.array([fold for _, fold, *_ in rows])
    predicted = np.array([p for _, _, p, _ in rows])
    report = {key: value.tolist() for key, value in scores(label, predicted).items()}
    if len(set(actor)) == 24:
        report["interval"] = bootstrap(label, predicted, actor).tolist()
    report["fold_uar"] = {f: scores(label[folds == f], predicted[folds == f])["uar"]
                          for f in arguments.folds}
    report["same_label"] = {name: float(np.mean(values)) for name, values in agreement.items()}
    report["same_label"]["no trimming"] = float(np.mean(np.array(untrimmed) == predicted))
    right["no trimming"] = untrimmed
    report["perturbed_uar"] = {name: scores(label, np.array(p))["uar"] for name, p in right.items()}
    (arguments.out / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


def cached_perturbed(clip, index, cache):
    """The versions are the same for every model, and encoding takes a while: kept as floats."""
    path = cache / "perturbed" / f"{clip.path.stem}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{name: x.numpy() for name, x in perturbed(clip, index).items()})
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["cv", "report", "final"])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("ser-mini.safetensors"))
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    {"cv": run_cv, "report": run_report, "final": run_final}[arguments.command](arguments)


if __name__ == "__main__":
    main()
