# SPDX-License-Identifier: MIT
"""ser-predict: its help, man page and shell completion tell the same options."""

import os
import re
import shutil
import subprocess
import unittest

from support import A, Case, path, prepare

SOURCE = os.environ.get("SER_SOURCE", os.path.join(os.path.dirname(__file__), "..", ".."))
MAN = os.path.join(SOURCE, "tools/man/ser-predict.1")
COMPLETION = os.path.join(SOURCE, "tools/completion/ser-predict.bash")

setUpModule = prepare


def read(name):
    with open(name, encoding="utf-8") as f:
        return f.read()


class Documents(Case):
    def setUp(self):
        self.help = self.run_ok("--help").out
        # letter or "", long name, whether it takes an argument
        self.options = [
            (letter, name, bool(argument))
            for letter, name, argument in re.findall(
                r"^  (?:-(\w), |    )--([a-z-]+)( [A-Z])?", self.help, re.M
            )
        ]

    def test_help_lists_options(self):
        self.assertGreater(len(self.options), 20)
        self.assertEqual(len({name for _, name, _ in self.options}), len(self.options))
        letters = [letter for letter, _, _ in self.options if letter]
        self.assertEqual(len(set(letters)), len(letters))

    def test_man_page_has_the_same(self):
        man = []
        for line in re.findall(r"^\.It (Fl .*)$", read(MAN), re.M):
            match = re.fullmatch(r"Fl (?:(\w) , Fl )?-([a-z-]+)( (?:Ar|Cm) .*)?", line)
            self.assertIsNotNone(match, line)
            man.append((match[1] or "", match[2], bool(match[3])))
        self.assertEqual(man, self.options)

    def test_man_page_is_well_formed(self):
        if not shutil.which("mandoc"):
            self.skipTest("no mandoc")
        run = subprocess.run(["mandoc", "-Tlint", "-Wstyle", MAN], capture_output=True, text=True)
        self.assertEqual(run.stdout + run.stderr, "")

    def test_man_page_sections(self):
        man = read(MAN)
        for section in (
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "FORMATS",
            "ENVIRONMENT",
            "EXIT STATUS",
            "EXAMPLES",
            "CAVEATS",
        ):
            self.assertIn("\n.Sh %s\n" % section, man)
        for word in ("SER_MODEL", "NO_COLOR", "decisions about people", "neither audio nor"):
            self.assertIn(word, " ".join(man.split()))
        for code in ("0", "1", "2", "3", "4", "5", "7", "130 , 143 , 129"):
            self.assertIn("\n.It %s\n" % code, man)

    def test_examples_name_real_options(self):
        for line in re.findall(r"^\.Dl (.*)$", read(MAN), re.M):
            command = line[line.index("ser-predict") :]
            for name in re.findall(r"--([a-z-]+)", command):
                self.assertIn(name, [option for _, option, _ in self.options])

    def complete(self, *words):
        """What bash offers for the last word."""
        script = (
            'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ser_predict; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        run = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", COMPLETION, "ser-predict", *words],
            capture_output=True,
            text=True,
            cwd=path(),
            check=True,
        )
        self.assertEqual(run.stderr, "")
        return run.stdout.split()

    def test_completion(self):
        if not shutil.which("bash"):
            self.skipTest("no bash")
        self.assertEqual(
            sorted(self.complete("--")), sorted("--" + name for _, name, _ in self.options)
        )
        self.assertEqual(self.complete("--mod"), ["--model"])
        formats = re.search(
            r"text \(default\), jsonl, csv, rttm, audacity or\s+textgrid", self.help
        )
        self.assertIsNotNone(formats)
        for words in (("--format", ""), ("-f", ""), ("--format", "=", "")):
            self.assertEqual(
                self.complete(*words), ["text", "jsonl", "csv", "rttm", "audacity", "textgrid"]
            )
        for offered in self.complete("--format", ""):
            self.assertEqual(self.run_ok("--format", offered, A).code, 0)
        for offered in self.complete("--color", ""):
            self.assertEqual(self.run_ok("--color", offered, A).code, 0)
        self.assertEqual(self.complete("--device", ""), ["auto", "cpu", "cuda"])
        self.assertEqual(self.complete("--threads", ""), [])
        self.assertIn("a.wav", self.complete("--model", "a"))
        self.assertIn("a.wav", self.complete("a"))

    def test_completion_knows_which_options_take_arguments(self):
        if not shutil.which("bash"):
            self.skipTest("no bash")
        files = {"model", "output"}
        for letter, name, argument in self.options:
            for word in ["--" + name] + (["-" + letter] if letter else []):
                offered = self.complete(word, "a")
                self.assertEqual("a.wav" in offered, not argument or name in files, word)


if __name__ == "__main__":
    unittest.main()
