# SPDX-License-Identifier: MIT
"""ser-train: its help, man page and shell completion tell the same options."""

import os
import re
import shutil
import subprocess
import unittest

from support import path
from train_support import Train, TrainCase

SOURCE = os.environ.get("SER_SOURCE", os.path.join(os.path.dirname(__file__), "..", ".."))
MAN = os.path.join(SOURCE, "tools/man/ser-train.1")
COMPLETION = os.path.join(SOURCE, "tools/completion/ser-train.bash")
FILES = {"backbone", "arch", "init", "model", "output", "config", "manifest-root"}


def setUpModule():
    with open(path("a.wav"), "w"):
        pass


def read(name):
    with open(name, encoding="utf-8") as f:
        return f.read()


class Documents(TrainCase):
    def setUp(self):
        self.help = Train("--help").out
        # letter or "", long name, whether it takes an argument
        self.options = [
            (letter, name, bool(argument))
            for letter, name, argument in re.findall(
                r"^  (?:-(\w), |    )--([a-z0-9-]+)( [A-Z])?", self.help, re.M
            )
        ]

    def test_help_lists_options(self):
        self.assertGreater(len(self.options), 80)
        self.assertEqual(len({name for _, name, _ in self.options}), len(self.options))
        letters = [letter for letter, _, _ in self.options if letter]
        self.assertEqual(len(set(letters)), len(letters))

    def test_man_page_has_the_same(self):
        man = []
        for line in re.findall(r"^\.It (Fl .*)$", read(MAN), re.M):
            match = re.fullmatch(r"Fl (?:(\w) , Fl )?-([a-z0-9-]+)( (?:Ar|Cm) .*)?", line)
            self.assertIsNotNone(match, line)
            man.append((match[1] or "", match[2], bool(match[3])))
        self.assertEqual(man, self.options)

    def test_man_page_is_well_formed(self):
        if not shutil.which("mandoc"):
            self.skipTest("no mandoc")
        run = subprocess.run(["mandoc", "-Tlint", "-Wstyle", MAN], capture_output=True, text=True)
        said = [
            line
            for line in (run.stdout + run.stderr).splitlines()
            if "referenced manual not found: Xr ser-predict" not in line
        ]
        self.assertEqual(said, [])

    def test_man_page_sections(self):
        man = read(MAN)
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
        for line in re.findall(r"^\.Dl (.*)$", read(MAN), re.M):
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

    def complete(self, *words):
        """What bash offers for the last word."""
        script = (
            'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ser_train; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        run = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", COMPLETION, "ser-train", *words],
            capture_output=True,
            text=True,
            cwd=path(),
            check=True,
        )
        self.assertEqual(run.stderr, "")
        return run.stdout.split()

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
