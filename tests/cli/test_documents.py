# SPDX-License-Identifier: MIT
"""ser-predict: its help, man page and shell completion tell the same options."""

import re
import shutil
import subprocess
import unittest

from documents_support import ToolDocuments, read
from support import A, Case, path, prepare

setUpModule = prepare


class Documents(ToolDocuments, Case):
    tool = "ser-predict"
    least_options = 20

    def print_help(self):
        return self.run_ok("--help").out

    def test_man_page_is_well_formed(self):
        if not shutil.which("mandoc"):
            self.skipTest("no mandoc")
        lint = ["mandoc", "-Tlint", "-Wstyle", self.man]
        run = subprocess.run(lint, capture_output=True, text=True)
        self.assertEqual(run.stdout + run.stderr, "")

    def test_man_page_sections(self):
        man = read(self.man)
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
        for line in re.findall(r"^\.Dl (.*)$", read(self.man), re.M):
            command = line[line.index("ser-predict") :]
            for name in re.findall(r"--([a-z-]+)", command):
                self.assertIn(name, [option for _, option, _ in self.options])

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
