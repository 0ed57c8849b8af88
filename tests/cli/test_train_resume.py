# SPDX-License-Identifier: MIT
"""ser-train stopped in every way goes on as if it had not been: the same bytes in the end."""

import json
import os
import random
import shutil
import signal
import time
import unittest

from support import environment, path
from train_support import (
    Started,
    Train,
    TrainCase,
    base,
    checkpoints,
    content,
    epochs_done,
    lines,
    parsed,
    ravdess_clips,
    sanitized,
    write_arch,
    write_corpus,
)

EPOCHS = "8"
NEVER = ["--save-seconds", "1e9"]
# Augmentation, an average and a repeated corpus: everything that has a state or a random number.
RECIPE = ["--epochs", EPOCHS, "--ema", "0.95", "--schedule", "cosine", "--repeat", "ravdess=2",
          "--augment-speed-probability", "0.5", "--augment-speed", "0.1",
          "--augment-mel-time-spans", "1", "--augment-mel-time-width", "5",
          "--save-every", "10", "--save-seconds", "0", "--keep", "3"]
WHOLE = None


def setUpModule():
    """The run that nothing interrupts."""
    global WHOLE
    WHOLE = path("whole")
    run = Train(*base(), *RECIPE, "-o", WHOLE)
    if run.code != 0:
        raise AssertionError(run.err)


class Resume(TrainCase):
    def begin(self, name, *words):
        """Start the recipe and wait for its first epoch."""
        run = Started(*base(), *RECIPE, *words, "-o", path(name))
        run.wait_for(lambda: epochs_done(path(name)) > 0)
        return run

    def resume(self, name, *words):
        """Go on with nothing but the directory."""
        run = Train("--resume", "-o", path(name), *words)
        self.assertEqual(run.code, 0, run.err)
        return run

    def same_run(self, name):
        self.same_model(path(name), WHOLE)
        self.assertEqual(content(path(name), "heldout.csv"), content(WHOLE, "heldout.csv"))
        timeless = [
            [{k: v for k, v in row.items() if "second" not in k} for row in lines(run)]
            for run in (path(name), WHOLE)
        ]
        self.assertEqual(timeless[0], timeless[1])

    def test_signals(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            name = "signal%d" % number
            run = self.begin(name)
            run.send(number)
            run.finish()
            self.assertEqual(run.code, code, run.err)
            self.assertIn("--resume goes on from", run.err)
            self.assertLess(epochs_done(path(name)), int(EPOCHS))
            self.assertFalse(os.path.exists(path(name, "report.json")))
            again = self.resume(name)
            self.assertIn("going on from", again.err)
            self.same_run(name)

    def test_signals_while_clips_are_validated(self):
        """Most of the time goes into validation; each stop saves the step that it stopped after."""
        corpus = write_corpus()
        with open(path("validating.csv"), "w") as f:
            f.write("path,label,split\n")
            for n, (name, emotion) in enumerate(ravdess_clips()):
                part = ("train", "test")[n % 2] if n < 10 else "validation"
                f.write("%s,%s,%s\n" % (os.path.join(corpus, name), emotion, part))
        words = ["--dataset", "manifest", path("validating.csv"), "--arch", write_arch(),
                 "--device", "cpu", "--threads", "1", "--epochs", "10000", *NEVER]
        numbers = random.Random(2)
        for i in range(3):
            run = Started(*words, "-o", path("validating%d" % i))
            run.wait_for(lambda: epochs_done(path("validating%d" % i)) > 2)
            time.sleep(numbers.uniform(0.0, 0.1))
            run.send(signal.SIGTERM)
            self.assertEqual(run.finish().code, 143, run.err)
            self.assertRegex(run.err, r"stopped after step (\d+); --resume goes on .*/step-\1\n")

    def test_a_second_signal_ends_at_once(self):
        run = self.begin("twice")
        run.send(signal.SIGTERM)
        run.send(signal.SIGINT)
        run.finish()
        self.assertIn(run.code, (130, 143))
        self.resume("twice")
        self.same_run("twice")

    def test_usr1_saves_and_goes_on(self):
        run = self.begin("usr1", "--save-every", "0")
        run.send(signal.SIGUSR1)
        run.finish()
        self.assertEqual(run.code, 0, run.err)
        self.assertRegex(run.err, r"checkpoint of step \d+ written")
        self.assertEqual(
            content(path("usr1"), "best.safetensors"), content(WHOLE, "best.safetensors")
        )

    def test_kills(self):
        """kill -9 at random moments, until the run is done."""
        numbers = random.Random(1)
        kills = 0
        wanted = 4 if sanitized() else 50
        name = "killed"
        while kills < wanted:
            words = ["--resume", "--save-seconds", numbers.choice(["0", "0.1", "1e9"]), "-o",
                     path(name)]
            run = Started(*(words if os.path.exists(path(name, "config.json"))
                            else [*base(), *RECIPE, *words]))
            time.sleep(numbers.uniform(0.0, 1.2 if sanitized() else 0.3))
            run.send(signal.SIGKILL)
            run.finish()
            kills += 1
            if run.code == 0:  # done: begin again
                self.same_run(name)
                shutil.rmtree(path(name))
        if os.path.exists(path(name)):
            run = Train(*base(), *RECIPE, "--resume", "-o", path(name))
            self.assertEqual(run.code, 0, run.err)
            self.same_run(name)
            left = checkpoints(path(name))
            models = [step.replace("step", "best") + ".safetensors" for step in left]
            self.assertEqual(sorted(os.listdir(path(name, "checkpoints"))), sorted(left + models))
            self.assertEqual([n for n in os.listdir(path(name)) if n.endswith(".tmp")], [])

    def test_how_often_checkpoints_are_written(self):
        words = [*base(), "--keep", "100", "--epochs", "40"]
        for seconds, count in (("0", 40), ("1e9", 1), (None, 1)):
            given = ["--save-seconds", seconds] if seconds else []
            self.assertEqual(Train(*words, *given, "-o", path("often")).code, 0)
            if seconds or not sanitized():  # else 40 epochs may take a minute
                self.assertEqual(len(checkpoints(path("often"))), count)
            shutil.rmtree(path("often"))

    def test_checkpoints_are_as_far_apart_as_asked_for(self):
        run = Train(*base(), "--keep", "100", "--epochs", "60", "--save-seconds", "0.2", "-o",
                    path("apart"))
        self.assertEqual(run.code, 0, run.err)
        times = [
            os.stat(path("apart/checkpoints", step, "manifest.json")).st_mtime
            for step in checkpoints(path("apart"))
        ]
        times.insert(0, os.stat(path("apart/config.json")).st_mtime)
        gaps = [b - a for a, b in zip(times, times[1:])]
        self.assertGreater(len(gaps), 1)
        self.assertGreater(min(gaps[:-1]), 0.18)  # the last one does not wait

    def kill_after_a_better_model(self, name):
        """Kill a run that has seen the best epoch of WHOLE, which its only checkpoint has not; the
        checkpoint's best epoch and model."""
        wanted = max(lines(WHOLE), key=lambda row: row["best"] * row["epoch"])["epoch"]
        for _ in range(20):
            shutil.rmtree(path(name), ignore_errors=True)
            run = self.begin(name, "--save-every", "0", *NEVER)
            run.send(signal.SIGUSR1)
            run.wait_for(lambda: epochs_done(path(name)) > wanted)
            run.send(signal.SIGKILL)
            run.finish()
            step, *others = checkpoints(path(name))
            state = json.loads(parsed(path(name), "checkpoints", step, "state.json")["note"])
            if not others and 0 < state["best_epoch"] < wanted:
                model = step.replace("step", "best") + ".safetensors"
                return state["best_epoch"], content(path(name), "checkpoints", model)
        self.fail("never killed in time")

    def test_killed_after_a_better_model_than_the_checkpoint_s(self):
        self.kill_after_a_better_model("better")
        self.resume("better", "--save-every", "10", "--save-seconds", "0")
        self.same_run("better")
        mine, theirs = (parsed(run, "report.json") for run in (path("better"), WHOLE))
        for key in ("parts", "temperature", "training"):
            self.assertEqual(mine[key], theirs[key])

    def test_the_checkpoint_s_best_model_comes_back_with_it(self):
        """So that the report is about it, should no better one follow."""
        epoch, model = self.kill_after_a_better_model("back")
        self.assertNotEqual(content(path("back"), "best.safetensors"), model)
        self.resume("back", "--time-limit", "0.001")
        self.assertEqual(content(path("back"), "best.safetensors"), model)
        self.assertEqual(parsed(path("back"), "report.json")["training"]["best_epoch"], epoch)
        self.resume("back", "--time-limit", "0", "--save-every", "10", "--save-seconds", "0")
        self.same_run("back")

    def test_killed_between_the_last_step_of_an_epoch_and_its_end(self):
        """The newest checkpoint is of the epoch's last step, but the epoch's line is written."""
        name = "edge"
        self.assertEqual(Train(*base(), "--save-every", "6", "-o", path("straight")).code, 0)
        run = Started(*base(), "--save-every", "6", "-o", path(name))
        run.wait_for(lambda: epochs_done(path(name)) > 0)
        run.send(signal.SIGKILL)
        run.finish()
        self.resume(name)
        self.same_model(path(name), path("straight"))
        self.assertEqual([row["epoch"] for row in lines(path(name))], [1, 2, 3])
        for row, other in zip(lines(path(name)), lines(path("straight"))):
            self.assertEqual(row["gradient_norm"], other["gradient_norm"])

    def test_broken_checkpoints_are_passed_over(self):
        run = self.begin("broken")
        run.send(signal.SIGINT)
        run.finish()
        newest = path("broken/checkpoints", checkpoints(path("broken"))[-1])
        for name in os.listdir(newest):
            size = os.path.getsize(os.path.join(newest, name))
            with open(os.path.join(newest, name), "r+b") as f:
                f.truncate(size // 2)
        again = self.resume("broken")
        self.assertIn("cannot be used", again.err)
        self.assertIn("going on from", again.err)
        self.same_run("broken")

    def test_nothing_left_to_go_on_from(self):
        self.train_ok("--save-seconds", "0", "-o", path("emptied"))
        for step in checkpoints(path("emptied")):
            folder = path("emptied/checkpoints", step)
            for name in os.listdir(folder):
                with open(os.path.join(folder, name), "w") as f:
                    f.write("x")
        run = Train("--resume", "-o", path("emptied"))
        self.assertEqual(run.code, 7, run.err)
        self.assertIn("none of its 2 checkpoints can be used", run.err)

    def test_a_finished_run_is_scored_again(self):
        self.train_ok("-o", path("done"))
        before = content(path("done"), "best.safetensors")
        scores = parsed(path("done"), "report.json")["parts"]
        os.remove(path("done/report.json"))
        run = self.resume("done")
        self.assertNotIn("epoch 3/3", run.err)
        self.assertEqual(content(path("done"), "best.safetensors"), before)
        self.assertEqual(parsed(path("done"), "report.json")["parts"], scores)

    def test_resume_without_a_run_begins_one(self):
        self.train_ok("--resume", "-o", path("new"))
        self.train_ok("-o", path("new2"))
        self.same_model(path("new"), path("new2"))

    def test_time_limit(self):
        run = Train(*base(), *RECIPE, "--time-limit", "0.001", "-o", path("late"))
        self.assertEqual(run.code, 0, run.err)
        self.assertIn("time limit", run.err)
        self.assertTrue(os.path.exists(path("late/report.json")))
        self.assertIn("time limit", content(path("late"), "README.md").decode())
        self.assertEqual(checkpoints(path("late")), ["step-1"])
        self.resume("late", "--time-limit", "0")
        self.same_run("late")

    def test_accumulation(self):
        words = [*base(), "--accumulate", "3", "--epochs", EPOCHS, "--save-every", "1"]
        self.assertEqual(Train(*words, "-o", path("acc")).code, 0)
        run = Started(*words, "-o", path("acc2"))
        run.wait_for(lambda: epochs_done(path("acc2")) > 0)
        run.send(signal.SIGINT)
        self.assertEqual(run.finish().code, 130, run.err)
        self.resume("acc2")
        self.same_model(path("acc"), path("acc2"))

    def test_other_settings_and_other_data(self):
        self.train_ok("-o", path("other"))
        self.train_fails(2, "--epochs is 9 here, but 3 in the run", "--resume", "--epochs", "9",
                         "-o", path("other"))
        self.train_fails(2, '--split is "luna5:1" here, but not set in the run', "--resume",
                         "--split", "luna5:1", "-o", path("other"))
        # what changes no result may change
        self.train_ok("--resume", "--loader-threads", "3", "--keep", "1", "-o", path("other"))
        moved = path("moved")
        shutil.copytree(path("corpus"), moved)
        run = Train("--resume", "-o", path("other"), "--dataset", "ravdess", moved)
        self.assertEqual(run.code, 0, run.err)
        os.remove(path("moved/Actor_01/03-01-03-01-01-01-01.wav"))
        run = Train("--resume", "-o", path("other"), "--dataset", "ravdess", moved)
        self.assertEqual(run.code, 7, run.err)
        self.assertIn("differ from those of the run", run.err)

    def test_cross_validation(self):
        words = [*base(), "--cv", "--split", "actors:3", "--epochs", "4"]
        self.assertEqual(Train(*words, "-o", path("all-cv")).code, 0)
        run = Started(*words, "-o", path("again-cv"))
        run.wait_for(lambda: epochs_done(path("again-cv/fold2")) > 0)
        run.send(signal.SIGTERM)
        self.assertEqual(run.finish().code, 143, run.err)
        self.resume("again-cv")
        self.assertEqual(content(path("all-cv"), "heldout.csv"), content(path("again-cv"), "heldout.csv"))
        for i in (1, 2, 3):
            self.same_model(path("all-cv/fold%d" % i), path("again-cv/fold%d" % i))

    def test_full_disk(self):
        """No file may grow: checkpoints fail, training goes on, the last failure counts."""
        if shutil.which("prlimit") is None:
            self.skipTest("no prlimit")
        run = Started(*base(), "--validation", "none", "--epochs", EPOCHS, "--save-seconds", "0",
                      "-o", path("disk"))
        run.wait_for(lambda: epochs_done(path("disk")) > 1)
        os.system("prlimit --pid %d --fsize=64:64" % run.process.pid)
        run.finish()
        self.assertEqual(run.code, 3, run.err)
        self.assertIn("training goes on", run.err)
        self.assertGreater(len(checkpoints(path("disk"))), 0)
        again = self.resume("disk")
        self.assertIn("going on from", again.err)


if __name__ == "__main__":
    unittest.main()
