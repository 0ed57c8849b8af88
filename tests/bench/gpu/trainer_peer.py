# SPDX-License-Identifier: MIT
"""Training as ser-train does it, by transformers' Trainer or a loop by hand; see README.md.

python trainer_peer.py MODEL CLIPS.csv AUDIO OUT --recipe FILE [--peer trainer|trainer-tuned|...]

trainer           transformers' Trainer as its example for audio classification uses it: clips are
                  decoded and go through the feature extractor anew in each epoch, in DataLoader
                  workers; random batches, padded to their longest clip
trainer-tuned     decoding and feature extractor once, before; batches of clips of similar length
trainer-compiled  the same with torch.compile and clips of one length, 5 s
loop              loop_peer.py: outputs of the frozen convolutions stay on the device, a step is one
                  CUDA graph per length of batch
loop-compiled     the same with torch.compile and one length

--recipe is what `ser-train --print-config` prints. OUT gets metrics.jsonl and report.json with the
keys of ser-train's, checkpoints after each epoch, of which two are kept, and best/. Standard error
has ser-train's lines for data and epochs, and as the last one "report {...}".
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import sys
import time

import pipeline_peer
from job_data import (
    LONGEST,
    PARTS,
    RATE,
    Clips,
    Journal,
    check_recipe,
    decode_all,
    dropouts,
    middle,
    score,
)

BEGIN = time.perf_counter()
PEERS = "trainer", "trainer-tuned", "trainer-compiled", "loop", "loop-compiled"


# --- Trainer --------------------------------------------------------------------------------------


class OnTheFly:
    """Items of a data set: decoded and extracted when asked for."""

    def __init__(self, clips, part, read, extractor, cut):
        self.clips, self.indices, self.read = clips, clips.parts[part], read
        self.extractor, self.cut = extractor, cut

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, n):
        i = self.indices[n]
        samples = self.read(i)
        samples = middle(samples) if self.cut else samples
        values = self.extractor(samples, sampling_rate=RATE)["input_values"][0]
        return {"input_values": values, "labels": self.clips.labels[i]}


def data_sets(a, clips, decoder, extractor):
    """{part: data set}; for the tuned ones lists of items that are ready."""
    if a.peer == "trainer":

        def read(i):
            return decoder.read(clips.paths[i], "float32")

    else:
        samples = decode_all(clips, decoder, a.threads)

        def read(i):
            return samples[i].astype("float32") / 32768

    one_length = a.peer == "trainer-compiled"
    sets = {
        part: OnTheFly(clips, part, read, extractor, part == "train" or one_length)
        for part in PARTS
    }
    if a.peer != "trainer":
        with concurrent.futures.ThreadPoolExecutor(a.threads) as pool:
            for part, items in sets.items():
                sets[part] = list(pool.map(items.__getitem__, range(len(items))))
    return sets


def load_classifier(a, clips):
    """transformers' own classifier (mean of projected frames) with a fresh head."""
    import transformers

    recipe = a.recipe
    names = clips.names
    config = transformers.AutoConfig.from_pretrained(
        a.model,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        **dropouts(recipe),
    )
    model = transformers.AutoModelForAudioClassification.from_pretrained(
        a.model, config=config, attn_implementation="sdpa", ignore_mismatched_sizes=True
    )
    for layer in (model.projector, model.classifier):  # also where the file has a head
        layer.weight.data.normal_(0.0, config.initializer_range)
        layer.bias.data.zero_()
    model.freeze_feature_encoder()
    return model


def training_arguments(a):
    import transformers

    recipe, cuda = a.recipe, a.device != "cpu"
    more = {}
    if a.peer == "trainer-tuned":
        more["train_sampling_strategy"] = "group_by_length"
    if a.peer == "trainer-compiled":
        more["torch_compile"] = True
    return transformers.TrainingArguments(
        output_dir=str(a.out / "checkpoints"),
        num_train_epochs=recipe["epochs"],
        per_device_train_batch_size=recipe["batch-size"],
        per_device_eval_batch_size=recipe["batch-size"],
        learning_rate=recipe["lr"],
        lr_scheduler_type="linear",
        warmup_steps=recipe["warmup"],  # below 1 a share
        weight_decay=recipe["weight-decay"],
        adam_beta1=recipe["beta1"],
        adam_beta2=recipe["beta2"],
        max_grad_norm=recipe["clip-norm"],
        optim="adamw_torch_fused",
        bf16=a.precision == "bf16",
        tf32=True if cuda and a.precision == "bf16" and a.peer != "trainer" else None,
        use_cpu=not cuda,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="uar",
        greater_is_better=True,
        dataloader_num_workers=a.workers,
        dataloader_persistent_workers=a.workers > 0,
        dataloader_pin_memory=cuda,
        seed=a.seed,
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def watch(journal):
    """A callback that writes the journal."""
    import transformers

    class Watch(transformers.TrainerCallback):
        began = seconds = loss = 0.0

        def on_epoch_begin(self, args, state, control, **_):
            self.began = time.perf_counter()

        def on_epoch_end(self, args, state, control, **_):
            self.seconds = time.perf_counter() - self.began

        def on_log(self, args, state, control, logs=None, **_):
            self.loss = float(logs.get("loss", self.loss))

        def on_evaluate(self, args, state, control, metrics=None, **_):
            if "eval_uar" in metrics:
                names = "loss", "uar", "accuracy"
                scores = {name: metrics[f"eval_{name}"] for name in names}
                journal.epoch(self.loss, scores, self.seconds)

    return Watch()


def run_trainer(a, clips, decoder, journal):
    import torch
    import transformers

    a.imported = time.perf_counter()
    fields = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    if "train_sampling_strategy" not in fields:
        sys.exit(f"transformers {transformers.__version__}: these peers are written for version 5")
    transformers.set_seed(a.seed)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(a.model)
    sets = data_sets(a, clips, decoder, extractor)
    journal.data(clips)
    model = load_classifier(a, clips)
    fixed = {"padding": "max_length", "max_length": LONGEST}
    padding = fixed if a.peer == "trainer-compiled" else {"padding": True}

    def collate(items):
        values = [{"input_values": item["input_values"]} for item in items]
        batch = dict(extractor.pad(values, return_tensors="pt", **padding))
        batch["labels"] = torch.tensor([item["labels"] for item in items])
        return batch

    trainer = transformers.Trainer(
        model=model,
        args=training_arguments(a),
        train_dataset=sets["train"],
        eval_dataset=sets["validation"],
        data_collator=collate,
        processing_class=extractor,
        compute_metrics=lambda found: score(found.predictions, found.label_ids, len(clips.names)),
        callbacks=[watch(journal)],
    )
    trainer.train()
    found = trainer.evaluate(sets["test"], metric_key_prefix="test")
    journal.finish({name: found[f"test_{name}"] for name in ("loss", "uar", "accuracy")})
    trainer.save_model(str(a.out / "best"))
    return {"optimizer": "adamw_torch_fused", "workers": a.workers}


# --- The program ----------------------------------------------------------------------------------


def need_packages(peer):
    """Say what is missing before anything else happens."""
    import importlib.util

    needed = ["numpy", "torch", "transformers", "safetensors"]
    needed += ["accelerate"] if peer.startswith("trainer") else []
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"{peer} needs the Python packages {', '.join(missing)}")


def parse_arguments():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path, help="a transformers directory")
    parser.add_argument("clips", type=pathlib.Path, help="CSV: path, label, split")
    parser.add_argument("audio", type=pathlib.Path, help="where its paths start; 16 kHz mono")
    parser.add_argument("out", type=pathlib.Path, help="a directory that is not there")
    parser.add_argument("--peer", choices=PEERS, default="trainer")
    parser.add_argument("--recipe", type=pathlib.Path, required=True)
    parser.add_argument("--labels", required=True, help="in their order, comma-separated")
    parser.add_argument("--head", type=pathlib.Path, help="loops: a libser model, for its head")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=min(8, cores), help="that decode")
    parser.add_argument("--decoder", choices=pipeline_peer.DECODERS)
    a = parser.parse_args()
    a.recipe = json.loads(a.recipe.read_text())
    return a


def main():
    a = parse_arguments()
    need_packages(a.peer)
    check_recipe(a.recipe)
    decoder = pipeline_peer.find_decoder([a.decoder] if a.decoder else pipeline_peer.DECODERS)
    clips = Clips(a.clips, a.audio, a.labels.split(","))
    journal = Journal(a.out, a.recipe["epochs"])
    if a.peer.startswith("loop"):
        import loop_peer

        facts = loop_peer.run(a, clips, decoder, journal)
    else:
        facts = run_trainer(a, clips, decoder, journal)
    report = {"peer": a.peer, "precision": a.precision, "decoder": decoder.name, **facts}
    report.update(versions=versions(), import_seconds=a.imported - BEGIN)
    print("report " + json.dumps(report), file=sys.stderr, flush=True)


def versions():
    from importlib import metadata

    found = pipeline_peer.versions()
    try:
        found["accelerate"] = metadata.version("accelerate")
    except metadata.PackageNotFoundError:
        found["accelerate"] = None
    return found


if __name__ == "__main__":
    main()
