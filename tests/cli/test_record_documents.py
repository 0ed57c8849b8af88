# SPDX-License-Identifier: MIT
"""ser-record: its help, man page and shell completion tell the same options."""

import os
import re
import shutil
import subprocess
import unittest

from record_support import SOURCE, RecordCase
from support import path, prepare

MAN = os.path.join(SOURCE, "tools/man/ser-record.1")
COMPLETION = os.path.join(SOURCE, "tools/completion/ser-record.bash")

setUpModule = prepare


def read(name):
    with open(name, encoding="utf-8") as f:
        return f.read()


class Documents(RecordCase):
    def setUp(self):
        self.help = self.record_ok("--help").out
        # letter or "", long name, whether it takes an argument
        self.options = [
            (letter, name, bool(argument))
            for letter, name, argument in re.findall(
                r"^  (?:-(\w), |    )--([a-z-]+)( [A-Z])?", self.help, re.M
            )
        ]

    def test_help_lists_options(self):
        self.assertGreater(len(self.options), 25)
        self.assertEqual(len({name for _, name, _ in self.options}), len(self.options))
        letters = [letter for letter, _, _ in self.options if letter]
        self.assertEqual(len(set(letters)), len(letters))
        self.assertLess(max(map(len, self.help.splitlines())), 82)

    def test_man_page_has_the_same(self):
        man = []
        for line in re.findall(r"^\.It (Fl .*)$", read(MAN), re.M):
            match = re.fullmatch(r"Fl (?:(\w) , Fl )?-([a-z-]+)( (?:Ar|Cm) .*)?", line)
            self.assertIsNotNone(match, line)
            man.append((match[1] or "", match[2], bool(match[3])))
        self.assertEqual(man, self.options)

    def test_man_page_is_well_formed(self):
        self.assertLess(max(map(len, read(MAN).splitlines())), 81)
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
        for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "FORMATS", "SIGNALS",
                        "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "CAVEATS"):
            self.assertIn("\n.Sh %s\n" % section, man)
        for word in ("SER_MODEL", "NO_COLOR", "decisions about people", "never leaves this machine",
                     "written nowhere but to the file of", "Have the consent"):
            self.assertIn(word, " ".join(man.split()))
        for code in ("0", "2", "3", "4", "5", "6", "7", "130 , 143 , 129"):
            self.assertIn("\n.It %s\n" % code, man)

    def test_examples_name_real_options(self):
        for line in re.findall(r"^\.Dl (.*)$", read(MAN), re.M):
            command = line[line.index("ser-record") :]
            for name in re.findall(r"--([a-z-]+)", command):
                self.assertIn(name, [option for _, option, _ in self.options])

    def test_man_page_names_the_keys_of_the_events(self):
        """Every key and event that a run writes stands in FORMATS."""
        run = self.record_ok("-q", "-j", "--levels", "--source", "fast:" + path("b.wav"))
        man = read(MAN)
        for event in run.events():
            self.assertRegex(man, r"\n\.It Cm %s\n" % event["event"])
            if event["event"] != "window":
                for key in event:
                    self.assertRegex(man, r"Cm (\w+ , )*(low Ns est|high Ns est|%s)\b" % key)

    def complete(self, *words):
        """What bash offers for the last word."""
        script = (
            'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ser_record; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        run = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", COMPLETION, "ser-record", *words],
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
        names = sorted("--" + name for _, name, _ in self.options)
        self.assertEqual(sorted(self.complete("--")), names)
        self.assertEqual(sorted(self.complete("")), names)  # there are no operands
        self.assertEqual(self.complete("--mod"), ["--model"])
        self.assertIsNotNone(re.search(r"text \(default\) or jsonl", self.help))
        for words in (("--format", ""), ("-f", ""), ("--format", "=", "")):
            self.assertEqual(self.complete(*words), ["text", "jsonl"])
        self.assertEqual(self.complete("--device", ""), ["auto", "cpu", "cuda"])
        self.assertEqual(self.complete("--source", ""), ["pulse", "alsa", "file:", "fast:", "-"])
        self.assertIn("a.wav", self.complete("--model", "a"))

    def test_completion_knows_which_options_take_arguments(self):
        if not shutil.which("bash"):
            self.skipTest("no bash")
        for letter, name, argument in self.options:
            for word in ["--" + name] + (["-" + letter] if letter else []):
                self.assertEqual("a.wav" in self.complete(word, "a"), name in ("model", "output"))
                self.assertEqual("--force" in self.complete(word, "--fo"), not argument, word)


if __name__ == "__main__":
    unittest.main()
