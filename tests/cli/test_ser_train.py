# SPDX-License-Identifier: MIT
"""ser-train: options, data, run directory, evaluation, exit codes."""

import csv
import fcntl
import json
import os
import shutil
import unittest

from support import path, write_model, write_wav
from train_support import (
    ACTORS,
    FILES,
    LABELS,
    Train,
    TrainCase,
    base,
    checkpoints,
    content,
    lines,
    parsed,
    ravdess_name,
    voice,
    write_arch,
    write_corpus,
)

RUN = None


def setUpModule():
    """One run that many tests look at."""
    global RUN
    RUN = path("shared-run")
    done = Train(*base(), "--ema", "0.9", "--log-every", "2", "--save-seconds", "0", "-o", RUN)
    if done.code != 0:
        raise AssertionError(done.err)
    globals()["OUTPUT"] = done


def written(name, value):
    with open(path(name), "w") as f:
        f.write(value if isinstance(value, str) else json.dumps(value))
    return path(name)


class CommandLine(TrainCase):
    def test_help_and_version(self):
        run = Train("--help")
        self.assertEqual((run.code, run.err), (0, ""))
        self.assertIn("Usage: ser-train", run.out)
        self.assertLessEqual(max(map(len, run.out.splitlines())), 80)
        self.assertRegex(Train("--version").out, r"^ser-train \(libser\) \d+\.\d+\.\d+\n$")

    def test_what_is_missing(self):
        corpus = write_corpus()
        self.usage_fails("no clips; name a corpus with --dataset")
        self.usage_fails("no model; name a --backbone", "--dataset", "ravdess", corpus)
        self.usage_fails("name a directory with --output", *base())
        self.usage_fails("needs a second argument", "--dataset", "ravdess")
        self.usage_fails("--eval-only needs --model", *base(), "--eval-only")

    def test_contradictions(self):
        for message, words in {
            "exclude each other": ["--backbone", "x"],
            "--resume and --force": ["--resume", "--force"],
            "--folds goes with --cv": ["--folds", "1"],
            "--part is for --eval-only": ["--part", "all"],
            "--model is for --eval-only": ["--model", "x"],
            "--quiet and --verbose": ["--quiet", "--verbose"],
            "--layer-mix goes with --backbone": ["--layer-mix"],
            "--patience needs validation": ["--patience", "1", "--validation", "none"],
            "--cv needs a --split with folds": ["--cv", "--split", "none"],
            "is not CORPUS=N": ["--repeat", "ravdess=0"],
            "what is 'there'": ["there"],
            "--delimiter: 'x'": ["--delimiter", "x"],
            "--augment-noise-snr-low is above": [
                "--augment-noise-probability=1",
                "--augment-noise-snr-low=9",
            ],
        }.items():
            self.usage_fails(message, *base(), "-o", path("never"), *words)
        self.assertFalse(os.path.exists(path("never")))

    def test_unknown_options_name_the_nearest(self):
        self.usage_fails("did you mean '--epochs'?", "--epoks", "3")
        self.usage_fails("did you mean '--augment-mel-warp'?", "--augment-mel-wrap", "3")

    def test_unknown_corpora(self):
        self.train_fails(2, "ravdes", "--dataset", "ravdes=" + write_corpus(), "-o", path("no1"))
        self.train_fails(2, "no such corpus", "--repeat", "tess=2", "-o", path("no2"))


class Config(TrainCase):
    def test_print_config_round_trip(self):
        words = ["--ema", "0.99", "--lr", "3e-5", "--drop", "angry", "--cv", "--freeze", "*.bias"]
        first = Train(*base(), *words, "-o", "somewhere", "--print-config")
        self.assertEqual((first.code, first.err), (0, ""))
        again = Train("--config", written("c.json", first.out), "--print-config")
        self.assertEqual(again.out, first.out)
        config = json.loads(first.out)
        self.assertEqual(config["lr"], 3e-5)
        self.assertEqual(config["drop"], ["angry"])
        self.assertEqual(config["dataset"], ["ravdess=" + write_corpus()])
        self.assertNotIn("print-config", config)

    def test_keys_are_the_long_options(self):
        help_text = Train("--help").out
        for key in json.loads(Train(*base(), "--print-config").out):
            self.assertRegex(help_text, r"--%s\b" % key)

    def test_the_command_line_comes_first(self):
        file = written(
            "c.json", {"epochs": 9, "lr": 0.5, "drop": ["sad"], "cv": True, "init": "other"}
        )
        run = Train(*base(), "--config", file, "--drop", "happy", "--print-config")
        config = json.loads(run.out)
        self.assertEqual((config["epochs"], config["lr"], config["cv"]), (3, 0.5, True))
        self.assertEqual(config["drop"], ["happy"])
        self.assertNotIn("init", config)
        self.assertEqual(config["arch"], write_arch())

    def test_defaults_follow_the_model(self):
        fresh = json.loads(Train("--arch", "ser-mini", "--print-config").out)
        tuned = json.loads(Train("--backbone", "x", "--print-config").out)
        self.assertEqual((fresh["lr"], fresh["batch-size"], fresh["mask-time-prob"]), (1e-3, 32, 0))
        self.assertEqual(
            (tuned["lr"], tuned["batch-size"], tuned["mask-time-prob"]), (3e-5, 8, 0.05)
        )

    def test_mistakes(self):
        for value, message in (
            ({"epoch": 3}, "unknown key 'epoch'; did you mean 'epochs'?"),
            ({"zzzzzz": 3}, "unknown key 'zzzzzz'"),
            ({"resume": True}, "'resume' belongs on the command line"),
            ({"help": True}, "'help' belongs on the command line"),
            ({"epochs": 3.5}, "epochs: not a whole number from 1 to 1000000"),
            ({"epochs": 0}, "epochs: not a whole number"),
            ({"epochs": "3"}, "epochs: not a whole number"),
            ({"lr": -1}, "lr: not a number from 0 to 10"),
            ({"lr": True}, "lr: not a number"),
            ({"schedule": "none"}, "schedule: not one of the choices"),
            ({"cv": 1}, "cv: neither true nor false"),
            ({"split": 1}, "split: not a text"),
            ({"drop": "sad"}, "drop: not a list of texts"),
            ({"drop": [1]}, "drop[0]: not a text"),
            ({"dataset": ["ravdess"]}, "dataset[0]: not a text of the form NAME=VALUE"),
            ([], "not a JSON object"),
            ('{"epochs": 1', "line 1"),
            ('{"epochs": 1, "epochs": 2}', "duplicate"),
        ):
            self.usage_fails(message, "--config", written("bad.json", value), "--print-config")
        self.assertEqual(Train("--config", path("nothing.json")).code, 3)


class RunDirectory(TrainCase):
    def test_is_complete(self):
        names = set(os.listdir(RUN)) - {".lock", "checkpoints"}
        self.assertEqual(names, FILES)
        self.assertEqual(checkpoints(RUN), ["step-12", "step-18"])
        report = parsed(RUN, "report.json")
        self.assertEqual(report["parts"][0]["clips"], 12)
        self.assertEqual(report["labels"], LABELS)
        self.assertTrue(report["speaker_independent"])
        config = parsed(RUN, "config.json")
        self.assertEqual(config["epochs"], 3)

    def test_metrics(self):
        rows = lines(RUN)
        epochs = [row for row in rows if row["kind"] == "epoch"]
        steps = [row["step"] for row in rows if row["kind"] == "step"]
        self.assertEqual([row["epoch"] for row in epochs], [1, 2, 3])
        self.assertEqual([row["step"] for row in epochs], [6, 12, 18])
        self.assertEqual(steps, list(range(2, 19, 2)))
        for row in epochs:
            self.assertGreater(row["train_loss"], 0)
            self.assertTrue(0 <= row["validation_uar"] <= 1)
            self.assertGreater(row["gradient_norm"], 0)
        best = max(range(3), key=lambda i: epochs[i]["validation_uar"])
        self.assertTrue(epochs[best]["best"])

    def test_the_protocol_stands_with_the_scores(self):
        protocol = parsed(RUN, "report.json")["protocol"]
        self.assertIn("EmoBox fold 1 of 6", protocol)
        self.assertIn(protocol, OUTPUT.out)
        self.assertIn("UAR", OUTPUT.out)
        for name in ("README.md", "report.json"):
            self.assertIn("EmoBox fold 1 of 6", content(RUN, name).decode())

    def test_one_line_per_epoch_without_a_terminal(self):
        said = [line for line in OUTPUT.err.splitlines() if "epoch " in line]
        self.assertEqual(len(said), 3, OUTPUT.err)
        self.assertNotIn("\r", OUTPUT.err)

    def test_quiet_says_nothing_but_the_scores(self):
        run = self.train_ok("--quiet", "-o", path("quiet"))
        self.assertEqual(run.err, "")
        self.assertIn("UAR", run.out)

    def test_json(self):
        run = self.train_ok("--json", "-o", path("json"))
        self.assertEqual(json.loads(run.out)["parts"], parsed(path("json"), "report.json")["parts"])

    def test_config_repeats_the_run(self):
        run = Train("--config", os.path.join(RUN, "config.json"), "-o", path("repeated"))
        self.assertEqual(run.code, 0, run.err)
        self.same_model(RUN, path("repeated"))

    def test_not_empty(self):
        target = path("full")
        os.makedirs(target, exist_ok=True)
        with open(os.path.join(target, "thesis.txt"), "w") as f:
            f.write("mine")
        self.train_fails(2, "not empty", "-o", target)
        self.train_fails(2, "no config.json", "--resume", "-o", target)
        self.train_ok("--force", "-o", target)
        self.assertEqual(content(target, "thesis.txt"), b"mine")
        self.train_fails(2, "not empty", "-o", target)
        self.train_ok("--force", "--epochs", "1", "-o", target)
        self.assertEqual([row["epoch"] for row in lines(target)], [1])
        self.assertEqual(checkpoints(target), ["step-6"])

    def test_cannot_be_written(self):
        with open(path("file"), "w") as f:
            f.write("x")
        for place in (path("file"), path("file") + "/run", "/proc/ser-train-run"):
            run = Train(*base(), "-o", place)
            self.assertEqual(run.code, 3, run.err)
            self.assertIn("cannot", run.err)

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_read_only(self):
        os.makedirs(path("locked"))
        os.chmod(path("locked"), 0o555)
        self.train_fails(3, "Permission denied", "-o", path("locked") + "/run")
        self.train_fails(3, "Permission denied", "-o", path("locked"))

    def test_strange_names(self):
        place = path("a b/\udcff\n/" + "x" * 200)
        self.train_ok("-o", place)
        self.assertTrue(os.path.exists(place + "/report.json"))
        os.makedirs(path("here"))
        self.train_ok("-o", ".", cwd=path("here"))
        self.assertTrue(os.path.exists(path("here/report.json")))

    def test_two_trainers(self):
        target = path("shared")
        os.makedirs(target)
        with open(os.path.join(target, ".lock"), "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            self.train_fails(3, "another ser-train works in this directory", "-o", target)
        self.train_ok("-o", target)

    def test_dry_run_writes_nothing(self):
        before = sorted(os.listdir(path()))
        run = self.train_ok("--dry-run", "-o", path("dry"))
        self.assertEqual(sorted(os.listdir(path())), before)
        self.assertIn("memory:", run.err)
        self.assertIn("6 batches per epoch", run.err)
        self.assertEqual(run.out, "")
        self.train_ok("--dry-run", "--cv")
        self.assertEqual(sorted(os.listdir(path())), before)


class Data(TrainCase):
    def manifest(self, name, rows, header="path,label,speaker,split"):
        os.makedirs(path("m"), exist_ok=True)
        with open(path("m", name), "w") as f:
            f.write(header + "\n" + "".join(row + "\n" for row in rows))
        return path("m", name)

    def clips(self, **parts):
        """Rows of a manifest, a speaker of six clips per part."""
        write_corpus()
        rows = []
        for actor, part in zip(ACTORS, parts["split"]):
            for label, emotion in (("happy", 3), ("sad", 4), ("angry", 5)):
                for statement in (1, 2):
                    clip = "../corpus/" + ravdess_name(emotion, statement, 1, actor)
                    rows.append("%s,%s,%d,%s" % (clip, label, actor, part))
        return rows

    def test_manifest_with_a_split_column(self):
        parts = ["train"] * 3 + ["val", "test", "test"]
        file = self.manifest("column.csv", self.clips(split=parts))
        run = Train("--dataset", "manifest", file, *base()[3:], "-o", path("column"))
        self.assertEqual(run.code, 0, run.err)
        part = parsed(path("column"), "report.json")["parts"][0]
        self.assertEqual((part["clips"], part["speaker_count"]), (12, 2))

    def test_leaks_are_refused(self):
        run = self.train_fails(7, "speaker", "--split", "random:1", "-o", path("leaky"))
        self.assertFalse(os.path.exists(path("leaky/best.safetensors")))
        self.train_ok("--split", "random:1", "--allow-leaks", "-o", path("leaky"), "--force")
        report = parsed(path("leaky"), "report.json")
        self.assertFalse(report["speaker_independent"])
        self.assertIn("speaker-dependent", report["protocol"].lower())

    def test_two_corpora(self):
        rows = [row for row in self.clips(split=["train"] * 6) if ",angry," not in row]
        file = self.manifest("two.csv", rows, "path,label,speaker,part")
        for actor in (1, 2):  # other recordings, so that nothing leaks
            for label, emotion in (("happy", 3), ("sad", 4)):
                write_wav("m/%s%d.wav" % (label, actor), voice(emotion, 1000 + actor * 7 + emotion))
        rows = ["%s%d.wav,%s,s%d" % (label, actor, label, actor)
                for label in ("happy", "sad") for actor in (1, 2)]
        file = self.manifest("two.csv", rows, "path,label,speaker")
        run = self.train_ok("--dataset", "manifest=" + file, "--repeat", "two=3",
                            "--split", "actors:2:0", "--validation", "none", "-o", path("two"))
        report = parsed(path("two"), "report.json")
        self.assertEqual([corpus["name"] for corpus in report["corpora"]], ["ravdess", "two"])
        with open(path("two/heldout.csv"), newline="") as f:
            for row in csv.DictReader(f):
                # a corpus is scored over the classes that it labels
                self.assertEqual(row["angry"] == "", row["corpus"] == "two", row)
        self.assertIn("two", run.out)

    def test_labels(self):
        run = self.train_ok("--drop", "angry", "-o", path("drop"))
        self.assertEqual(parsed(path("drop"), "report.json")["labels"], ["happy", "sad"])
        self.train_ok("--merge", "angry=sad", "-o", path("merge"))
        report = parsed(path("merge"), "report.json")
        self.assertEqual(report["labels"], ["happy", "sad"])
        self.assertEqual(report["corpora"][0]["clips"], 72)
        self.train_fails(7, "at least two labels", "--drop", "angry,sad", "-o", path("one-class"))

    def test_bad_clips(self):
        rows = self.clips(split=["train"] * 3 + ["val", "test", "test"])
        write_wav("m/good.wav", voice(3, 99))
        with open(path("m/text.wav"), "w") as f:
            f.write("This is not audio.\n" * 20)
        file = self.manifest("bad.csv", rows + ["text.wav,happy,9,train", "gone.wav,sad,9,train"])
        words = ["--dataset", "manifest", file, *base()[3:], "-o", path("bad")]
        run = Train(*words)
        self.assertEqual(run.code, 3, run.err)
        self.assertIn("gone.wav", run.err)
        without = self.manifest("worse.csv", rows + ["text.wav,happy,9,train"])
        run = Train("--dataset", "manifest", without, *words[3:])
        self.assertEqual(run.code, 7, run.err)
        self.assertIn("text.wav", run.err)
        run = Train(*words, "--skip-bad")
        self.assertEqual(run.code, 0, run.err)
        skipped = [os.path.basename(row["file"]) for row in lines(path("bad"), "skipped.jsonl")]
        self.assertEqual(sorted(skipped), ["gone.wav", "text.wav"])

    def test_train_on_everything(self):
        run = self.train_ok("--split", "none", "-o", path("all"))
        report = parsed(path("all"), "report.json")
        self.assertEqual(report["parts"], [])
        self.assertEqual(report["corpora"][0]["train"], 72)
        self.assertEqual(run.out, "")


class Choice(TrainCase):
    def test_loader_threads_change_nothing(self):
        augment = ["--augment-speed-probability", "0.5", "--augment-speed", "0.1",
                   "--augment-noise-probability", "0.5", "--augment-noise-snr-low", "20",
                   "--augment-noise-snr-high", "40", "--augment-mel-warp", "0.05",
                   "--augment-mel-time-spans", "1", "--augment-mel-time-width", "5",
                   "--repeat", "ravdess=2"]
        self.train_ok(*augment, "--loader-threads", "1", "-o", path("t1"))
        self.train_ok(*augment, "--loader-threads", "4", "--cache-mb", "0", "-o", path("t4"))
        self.same_model(path("t1"), path("t4"))
        self.train_ok(*augment, "--seed", "1", "-o", path("t5"))
        self.assertNotEqual(
            content(path("t1"), "best.safetensors"), content(path("t5"), "best.safetensors")
        )

    def test_validation_none_keeps_the_last_step(self):
        self.train_ok("--validation", "none", "-o", path("none"))
        report = parsed(path("none"), "report.json")
        self.assertEqual(report["corpora"][0]["validation"], 0)
        self.assertEqual(report["corpora"][0]["train"], 60)
        self.assertIsNone(report["temperature"])

    def test_patience(self):
        self.train_ok("--lr", "1e-9", "--patience", "2", "--epochs", "30", "-o", path("patient"))
        rows = lines(path("patient"))
        best = [row["epoch"] for row in rows if row["best"]][-1]
        self.assertEqual(rows[-1]["epoch"], best + 2)

    def test_max_steps_and_accumulation(self):
        self.train_ok("--max-steps", "4", "--accumulate", "2", "--epochs", "9", "-o", path("max"))
        rows = lines(path("max"))
        self.assertEqual([row["step"] for row in rows], [3, 4])
        self.assertEqual(checkpoints(path("max"))[-1], "step-4")
        self.train_fails(2, "--accumulate 99", "--accumulate", "99", "-o", path("max2"))

    def test_eval_every(self):
        self.train_ok("--eval-every", "2", "--epochs", "5", "-o", path("every"))
        scored = [row["epoch"] for row in lines(path("every")) if row["validation_uar"] is not None]
        self.assertEqual(scored, [2, 4, 5])

    def test_class_weights_and_freezing(self):
        self.train_ok("--class-weight", "inverse", "--drop", "sad", "--freeze", "*norm*",
                      "--freeze-layers", "1", "-o", path("frozen"))
        self.train_fails(7, "matches no parameter", "--freeze", "nothing", "-o", path("frozen2"))

    def test_init(self):
        self.train_ok("-o", path("more"))
        run = Train("--dataset", "ravdess", write_corpus(), "--init", RUN + "/best.safetensors",
                    "--epochs", "1", "--lr", "1e-12", "--device", "cpu", "-o", path("init"))
        self.assertEqual(run.code, 0, run.err)
        self.assertEqual(
            parsed(path("init"), "report.json")["parts"][0]["uar"],
            parsed(RUN, "report.json")["parts"][0]["uar"],
        )

    def test_architectures(self):
        file = written("broken.json", '{"audio": {}}')
        words = base()
        words[words.index("--arch") + 1] = file
        run = Train(*words, "-o", path("arch"))
        self.assertEqual(run.code, 7, run.err)
        words[words.index("--arch") + 1] = path("gone.json")
        self.assertEqual(Train(*words, "-o", path("arch")).code, 3)


class Evaluation(TrainCase):
    def test_eval_only_gives_the_numbers_of_the_run(self):
        model = ["--eval-only", "--model", RUN + "/best.safetensors"]
        run = self.train_ok(*model, "--split", "emobox6:1", "--json")
        scored = json.loads(run.out)["parts"][0]
        self.assertEqual(scored, parsed(RUN, "report.json")["parts"][0])
        self.train_ok(*model, "--split", "emobox6:1", "-o", path("eval"))
        self.assertEqual(content(path("eval"), "heldout.csv"), content(RUN, "heldout.csv"))
        self.train_fails(2, "not empty", *model, "-o", path("eval"))

    def test_parts(self):
        model = ["--eval-only", "--model", RUN + "/best.safetensors", "--json"]
        for part, clips in (("test", 12), ("validation", 12), ("train", 48), ("all", 72)):
            run = self.train_ok(*model, "--split", "emobox6:1", "--part", part)
            self.assertEqual(json.loads(run.out)["parts"][0]["clips"], clips)
        run = self.train_ok(*model)
        self.assertEqual(json.loads(run.out)["parts"][0]["clips"], 72)
        self.assertIn("does not know", json.loads(run.out)["protocol"])

    def test_validation_chose_the_model(self):
        best = max(row["validation_uar"] for row in lines(RUN) if row["kind"] == "epoch")
        run = self.train_ok("--eval-only", "--model", RUN + "/best.safetensors", "--json",
                            "--split", "emobox6:1", "--part", "validation")
        self.assertAlmostEqual(json.loads(run.out)["parts"][0]["uar"], best, places=9)

    def test_models_that_do_not_fit(self):
        other = write_model("other.safetensors", ["happy", "sad"])
        self.train_fails(7, "no class 'angry'", "--eval-only", "--model", other)
        self.train_ok("--eval-only", "--model", other, "--drop", "angry")
        self.assertEqual(
            Train(*base(), "--eval-only", "--model", path("nothing.safetensors")).code, 3
        )

    def test_cross_validation_scores_every_clip_once(self):
        run = self.train_ok("--cv", "--epochs", "1", "-o", path("cv"))
        report = parsed(path("cv"), "report.json")
        self.assertEqual(report["parts"][0]["clips"], 72)
        self.assertEqual([fold["clips"] for fold in report["folds"]], [12] * 6)
        self.assertIn("6 of 6 folds pooled", report["protocol"])
        self.assertIn(report["protocol"], run.out)
        with open(path("cv/heldout.csv"), newline="") as f:
            paths = [row["path"] for row in csv.DictReader(f)]
        self.assertEqual((len(paths), len(set(paths))), (72, 72))
        for i in range(1, 7):
            self.assertEqual(parsed(path("cv/fold%d" % i), "report.json")["parts"][0]["clips"], 12)

    def test_cross_validation_resumes(self):
        words = ["--cv", "--epochs", "2", "--split", "actors:3", "-o", path("cv2")]
        self.train_ok(*words)
        before = content(path("cv2"), "heldout.csv")
        times = [os.stat(path("cv2/fold%d/best.safetensors" % i)).st_mtime_ns for i in (1, 2, 3)]
        os.remove(path("cv2/fold2/report.json"))
        shutil.rmtree(path("cv2/fold3"))
        run = Train("--resume", "-o", path("cv2"))
        self.assertEqual(run.code, 0, run.err)
        self.assertEqual(content(path("cv2"), "heldout.csv"), before)
        self.assertIn("fold 1 of 3 is finished", run.err)
        after = [os.stat(path("cv2/fold%d/best.safetensors" % i)).st_mtime_ns for i in (1, 2, 3)]
        self.assertEqual(after[:1], times[:1])
        self.assertGreater(after[2], times[2])

    def test_some_folds(self):
        self.train_ok("--cv", "--epochs", "1", "--folds", "1,5", "-o", path("folds"))
        report = parsed(path("folds"), "report.json")
        self.assertEqual([fold["name"] for fold in report["folds"]], ["emobox6:1", "emobox6:5"])
        self.assertIn("2 of 6 folds", report["protocol"])
        self.train_fails(2, "--folds: '7'", "--cv", "--folds", "7", "-o", path("folds2"))
        self.train_fails(2, "no folds", "--cv", "--split", "random:1", "--allow-leaks", "-o",
                         path("folds3"))


class Numeric(TrainCase):
    def test_not_finite(self):
        poisoned = write_model("poisoned.safetensors", LABELS, poison="classifier.1.bias")
        words = ["--dataset", "ravdess", write_corpus(), "--init", poisoned, "--device", "cpu",
                 "--batch-size", "8", "--max-skipped", "3", "-o", path("nan")]
        run = Train(*words)
        self.assertEqual(run.code, 5, run.err)
        self.assertIn("3 steps in a row gave NaN or infinity", run.err)
        self.assertIn("last good checkpoint: none", run.err)
        rows = lines(path("nan"), "anomalies.jsonl")
        self.assertEqual(len(rows), 3)
        for row in rows:
            self.assertIn(row["clip"], row["clips"])
            self.assertIn(row["clip"], run.err)


if __name__ == "__main__":
    unittest.main()
