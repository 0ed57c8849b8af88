# SPDX-License-Identifier: MIT
"""ser-train: its help, man page and shell completion tell the same options."""

import re
import shutil
import subprocess
import unittest

from documents_support import ToolDocuments, read
from support import path
from train_support import Train, TrainCase

FILES = {"backbone", "arch", "init", "model", "output", "config", "manifest-root"}


def setUpModule():
    with open(path("a.wav"), "w"):
        pass


class Documents(ToolDocuments, TrainCase):
    tool = "ser-train"
    least_options = 80

    def print_help(self):
        return Train("--help").out

    def test_man_page_is_well_formed(self):
        if not shutil.which("mandoc"):
            self.skipTest("no mandoc")
        lint = ["mandoc", "-Tlint", "-Wstyle", self.man]
        run = subprocess.run(lint, capture_output=True, text=True)
        said = [
            line
            for line in (run.stdout + run.stderr).splitlines()
            if "referenced manual not found: Xr ser-predict" not in line
        ]
        self.assertEqual(said, [])

    def test_man_page_sections(self):
        man = read(self.man)
        for section in (
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "DATA",
            "SPLITS",
            "SIGNALS",
            "ENVIRONMENT",
            "FILES",
            "EXIT STATUS",
            "EXAMPLES",
            "CAVEATS",
        ):
            self.assertIn("\n.Sh %s\n" % section, man)
        for word in ("decisions about people", "neither audio nor", "licences"):
            self.assertIn(word, " ".join(man.split()))
        for code in ("0", "2", "3", "4", "5", "7", "130 , 143 , 129"):
            self.assertIn("\n.It %s\n" % code, man)

    def test_examples_name_real_options(self):
        for line in re.findall(r"^\.Dl (.*)$", read(self.man), re.M):
            for name in re.findall(r"--([a-z0-9-]+)", line):
                self.assertIn(name, [option for _, option, _ in self.options])

    def test_every_choice_is_explained(self):
        for option, words in (
            ("--validation", "next none"),
            ("--schedule", "constant linear cosine"),
            ("--class-weight", "none inverse"),
            ("--part", "test validation train all"),
        ):
            self.assertEqual(self.complete(option, ""), words.split())
            for word in words.split():
                run = Train(option, word, "--print-config")
                self.assertEqual(run.code, 0, run.err)
            self.assertEqual(Train(option, "nonsense", "--print-config").code, 2)

    @unittest.skipIf(shutil.which("bash") is None, "no bash")
    def test_completion(self):
        names = sorted("--" + name for _, name, _ in self.options)
        self.assertEqual(sorted(self.complete("--")), names)
        self.assertEqual(sorted(self.complete("--cv", "")), names)
        self.assertEqual(self.complete("--epo"), ["--epochs"])
        presets = ["ravdess", "crema-d", "tess", "savee", "emo-db", "manifest"]
        self.assertEqual(self.complete("--dataset", ""), presets)
        self.assertEqual(self.complete("--dataset", "ravdess", "a."), ["a.wav"])
        self.assertEqual(self.complete("--device", "=", ""), ["auto", "cpu", "cuda"])
        self.assertIn("ser-mini", self.complete("--arch", ""))
        for preset in presets[:-1]:
            self.assertIn(preset, self.help)

    @unittest.skipIf(shutil.which("bash") is None, "no bash")
    def test_completion_knows_which_options_take_files(self):
        for letter, name, argument in self.options:
            for word in ["--" + name] + (["-" + letter] if letter else []):
                self.assertEqual("a.wav" in self.complete(word, "a"), name in FILES, word)


if __name__ == "__main__":
    unittest.main()
