# SPDX-License-Identifier: MIT
"""What holds for the help, man page and shell completion of every tool."""

import os
import re
import subprocess

from support import path

SOURCE = os.environ.get("SER_SOURCE", os.path.join(os.path.dirname(__file__), "..", ".."))


def read(name):
    with open(name, encoding="utf-8") as f:
        return f.read()


class ToolDocuments:
    """For a TestCase with `tool`, `least_options` and `print_help()`."""

    def setUp(self):
        self.man = os.path.join(SOURCE, "tools/man/%s.1" % self.tool)
        self.completion = os.path.join(SOURCE, "tools/completion/%s.bash" % self.tool)
        self.help = self.print_help()
        # letter or "", long name, whether it takes an argument
        self.options = [
            (letter, name, bool(argument))
            for letter, name, argument in re.findall(
                r"^  (?:-(\w), |    )--([a-z0-9-]+)( [A-Z])?", self.help, re.M
            )
        ]

    def test_help_lists_options(self):
        self.assertGreater(len(self.options), self.least_options)
        self.assertEqual(len({name for _, name, _ in self.options}), len(self.options))
        letters = [letter for letter, _, _ in self.options if letter]
        self.assertEqual(len(set(letters)), len(letters))

    def test_man_page_has_the_same(self):
        man = []
        for line in re.findall(r"^\.It (Fl .*)$", read(self.man), re.M):
            match = re.fullmatch(r"Fl (?:(\w) , Fl )?-([a-z0-9-]+)( (?:Ar|Cm) .*)?", line)
            self.assertIsNotNone(match, line)
            man.append((match[1] or "", match[2], bool(match[3])))
        self.assertEqual(man, self.options)

    def complete(self, *words):
        """What bash offers for the last word."""
        script = (
            'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
            + "_%s; " % self.tool.replace("-", "_")
            + 'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        run = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", self.completion, self.tool, *words],
            capture_output=True,
            text=True,
            cwd=path(),
            check=True,
        )
        self.assertEqual(run.stderr, "")
        return run.stdout.split()
