# SPDX-License-Identifier: MIT
"""ser-record: its help, man page and shell completion tell the same options."""

import re
import shutil
import subprocess
import unittest

from documents_support import ToolDocuments, read
from record_support import RecordCase
from support import path, prepare

setUpModule = prepare


class Documents(ToolDocuments, RecordCase):
    tool = "ser-record"
    least_options = 25

    def print_help(self):
        return self.record_ok("--help").out

    def test_help_fits_a_terminal(self):
        self.assertLess(max(map(len, self.help.splitlines())), 81)

    def test_man_page_is_well_formed(self):
        self.assertLess(max(map(len, read(self.man).splitlines())), 81)
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
        for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "FORMATS", "SIGNALS",
                        "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "CAVEATS"):
            self.assertIn("\n.Sh %s\n" % section, man)
        for word in ("SER_MODEL", "NO_COLOR", "decisions about people", "never leaves this machine",
                     "written nowhere but to the file of", "Have the consent"):
            self.assertIn(word, " ".join(man.split()))
        for code in ("0", "2", "3", "4", "5", "6", "7", "130 , 143 , 129"):
            self.assertIn("\n.It %s\n" % code, man)

    def test_examples_name_real_options(self):
        for line in re.findall(r"^\.Dl (.*)$", read(self.man), re.M):
            command = line[line.index("ser-record") :]
            for name in re.findall(r"--([a-z-]+)", command):
                self.assertIn(name, [option for _, option, _ in self.options])

    def test_man_page_names_the_keys_of_the_events(self):
        """Every key and event that a run writes stands in FORMATS."""
        run = self.record_ok("-q", "-j", "--levels", "--source", "fast:" + path("b.wav"))
        man = read(self.man)
        for event in run.events():
            self.assertRegex(man, r"\n\.It Cm %s\n" % event["event"])
            if event["event"] != "window":
                for key in event:
                    self.assertRegex(man, r"Cm (\w+ , )*(low Ns est|high Ns est|%s)\b" % key)

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
