#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The files of a run, read with parsers that are not ours. The argument is the program that writes
them: see test_report.c."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

WRITER = ""
SVG = "{http://www.w3.org/2000/svg}"
FILES = ["README.md", "confusion.csv", "confusion.svg", "curves.svg", "heldout.csv", "report.json"]
# As report_sample.c has them, with what is not text made visible.
NASTY = ["<b>&amp;", 'a,b "c"', "\u4e2d\u6587 \u00e9", "bad\\xffbyte", "no",
         "tab\\x09and\\x0aline", "`pipe|star*_x_`",
         "a very long label that no cell of any table could ever hold"]


class Run:
    """What the program wrote and printed."""

    def __init__(self, kind, **env):
        self.directory = tempfile.mkdtemp(prefix="ser-report-")
        self.result = subprocess.run([WRITER, "--sample", kind, self.directory],
                                     env={**os.environ, **env}, capture_output=True, timeout=60,
                                     check=False)

    def path(self, name):
        return os.path.join(self.directory, name)

    def bytes(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def text(self, name):
        return self.bytes(name).decode("utf-8")

    def rows(self, name):
        with open(self.path(name), encoding="utf-8", newline="") as f:
            return list(csv.reader(f, strict=True))

    def json(self):
        def refuse(constant):
            raise ValueError(constant)
        return json.loads(self.text("report.json"), parse_constant=refuse)

    def svg(self, name):
        return ElementTree.fromstring(self.bytes(name))

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def front_matter(card):
    """The scalars between the fences that stand in quotes; YAML's are JSON's here."""
    block = card.split("---\n")[1]
    return [json.loads(s) for s in re.findall(r'"(?:\\.|[^"\\])*"', block)]


class Report(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.plain = Run("plain")
        cls.nasty = Run("nasty")

    @classmethod
    def tearDownClass(cls):
        cls.plain.remove()
        cls.nasty.remove()

    def test_all_files_are_there(self):
        for run in (self.plain, self.nasty):
            self.assertEqual(run.result.returncode, 0, run.result.stderr)
            self.assertEqual(sorted(os.listdir(run.directory)), FILES)

    def test_json(self):
        report = self.nasty.json()
        self.assertEqual(report["labels"], NASTY)
        self.assertEqual(report["seed"], "18446744073709551615")
        self.assertEqual(report["command"], "ser-train -o 'a```b\\xff'\\x0a")
        self.assertEqual(report["data"], {"duplicates": 2})
        self.assertEqual(len(report["folds"]), 6)
        self.assertFalse(report["speaker_independent"])
        self.assertIsNone(report["corpora"][1]["seconds"])
        for part in report["parts"] + report["folds"]:
            self.assertTrue(part["protocol"])
            self.assertEqual(sum(map(sum, part["confusion"])), part["clips"])
            self.assertEqual(sum(s["clips"] for s in part["speakers"]), part["clips"])
            self.assertEqual(sum(b["clips"] for b in part["calibration"]), part["clips"])
            self.assertEqual(sum(c["clips"] for c in part["corpora"]), part["clips"])
            low, high = part["uar_interval"]
            self.assertTrue(low < part["uar"] < high)

    def test_scores_follow_from_the_held_out_clips(self):
        """Counted again, from heldout.csv alone."""
        rows = self.plain.rows("heldout.csv")
        head, clips = rows[0], rows[1:]
        labels = head[6:]
        main = self.plain.json()["parts"][0]
        self.assertEqual(len(clips), main["clips"])
        counts = [[0] * len(labels) for _ in labels]
        for row in clips:
            scores = {k: float(p) for k, p in zip(labels, row[6:]) if p}
            self.assertAlmostEqual(sum(scores.values()), 1.0, 5)
            self.assertEqual(row[5], max(scores, key=scores.get))
            self.assertEqual(len(scores), 6 if row[1] == "crema-d" else 8)
            counts[labels.index(row[4])][labels.index(row[5])] += 1
        self.assertEqual(counts, main["confusion"])
        recalls = [row[k] / sum(row) for k, row in enumerate(counts)]
        self.assertAlmostEqual(sum(recalls) / len(recalls), main["uar"], 12)
        table = self.plain.rows("confusion.csv")
        self.assertEqual(table[0], ["label"] + labels)
        self.assertEqual([[int(n) for n in row[1:]] for row in table[1:]], counts)

    def test_csv_keeps_every_text(self):
        rows = self.nasty.rows("heldout.csv")
        self.assertEqual(rows[0][6:], NASTY)
        self.assertEqual({len(row) for row in rows}, {6 + len(NASTY)})
        self.assertEqual(rows[1][0], 'dir "q", <x>/\u00e4\\xff\\x0a00.wav')
        self.assertEqual(rows[1][1], "RAV|DESS\\x01 & co")
        self.assertEqual(rows[1][3], "p1<\\xfe")
        self.assertEqual([row[0] for row in self.nasty.rows("confusion.csv")], ["label"] + NASTY)
        self.assertTrue(self.nasty.bytes("heldout.csv").endswith(b"\r\n"))

    def test_confusion_picture(self):
        for run in (self.plain, self.nasty):
            root = run.svg("confusion.svg")
            width, height = float(root.get("width")), float(root.get("height"))
            self.assertEqual(root.get("viewBox"), f"0 0 {width:.0f} {height:.0f}")
            table = [[int(n) for n in row[1:]] for row in run.rows("confusion.csv")[1:]]
            counts = [n for row in table for n in row if n > 0]
            shares = [f"{100 * n / sum(row):.1f} %" for row in table for n in row if n > 0]
            spans = [t.text for t in root.iter(SVG + "tspan")]
            self.assertEqual(spans[0::2], [str(n) for n in counts])
            for mine, theirs in zip(spans[1::2], shares):
                self.assertAlmostEqual(float(mine[:-2]), float(theirs[:-2]), delta=0.11)
            cells = [r for r in root.iter(SVG + "rect") if r.get("class") == "cell"]
            self.assertEqual(len(cells), len(counts))
            for cell in cells:
                self.assertLessEqual(float(cell.get("x")) + float(cell.get("width")), width)
                self.assertLessEqual(float(cell.get("y")) + float(cell.get("height")), height)
                self.assertTrue(0.0 < float(cell.get("fill-opacity")) <= 1.0)
        texts = [t.text for t in self.nasty.svg("confusion.svg").iter(SVG + "text")]
        for label in NASTY[:-1]:
            self.assertEqual(texts.count(label), 2, label)
        self.assertIn("a very long label that \u2026", texts)

    def test_curves_picture(self):
        root = self.plain.svg("curves.svg")
        width, height = float(root.get("width")), float(root.get("height"))
        lines = [p for p in root.iter(SVG + "path") if p.get("class") in ("a", "b")]
        long = [p for p in lines if p.get("d").count("L") > 1]
        self.assertEqual(len(long), 5)
        for line in long:
            for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", line.get("d")):
                self.assertTrue(0.0 <= float(x) <= width and 0.0 <= float(y) <= height)
        self.assertEqual(sorted(p.get("d").count("L") + 1 for p in long)[1:], [30] * 4)
        texts = [t.text for t in root.iter(SVG + "text")]
        for text in ("loss", "UAR, %", "learning rate", "epoch", "Best epoch: 22 of 30"):
            self.assertIn(text, texts)

    def test_pictures_fetch_and_run_nothing(self):
        for name in ("confusion.svg", "curves.svg"):
            text = self.nasty.text(name)
            for word in ("script", "href", "url(", "@import", "foreignObject"):
                self.assertNotIn(word, text)
            self.assertIn("prefers-color-scheme:dark", text)
            self.assertNotIn("<path class=\"a\" stroke-linejoin=\"round\" d=\"\"", text)

    def test_card(self):
        card = self.nasty.text("README.md")
        words = front_matter(card)
        for word in ("cc-by-nc-sa-4.0", "no", "audio-classification", 'me/base: "x"\\y \\xff',
                     'mo<del> "1"\\x0a# x', "speech-emotion-recognition", "accuracy"):
            self.assertIn(word, words)
        body = card.split("---\n", 2)[2]
        for heading in ("## Intended use", "## Results", "## Limits", "## Data", "## Training",
                        "## Ethics", "## Recipe"):
            self.assertEqual(body.count("\n" + heading + "\n"), 1, heading)
        self.assertIn("````\nser-train -o 'a```b\\xff'\\x0a\n````", body)
        self.assertNotIn("\x01", card)
        # Every row of a table has as many cells as its heading.
        cells = 0
        for line in body.split("\n"):
            count = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) if line.startswith("| ") else 0
            if count and cells:
                self.assertEqual(count, cells, line)
            cells = count if not line.startswith("|-") else cells

    def test_other_locales_change_nothing(self):
        if not shutil.which("localedef") or not os.path.exists("/usr/share/i18n/locales/de_DE"):
            self.skipTest("no localedef or no locale sources to make de_DE with")
        places = tempfile.mkdtemp(prefix="ser-locale-")
        self.addCleanup(shutil.rmtree, places, True)
        subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8",
                        os.path.join(places, "de_DE.UTF-8")], check=True, capture_output=True)
        run = Run("plain", LC_ALL="de_DE.UTF-8", LOCPATH=places)
        self.addCleanup(run.remove)
        self.assertTrue(run.result.stdout.endswith(b"locale de_DE.UTF-8, 0,5\n"),
                        run.result.stdout[-80:])
        for name in FILES:
            self.assertEqual(run.bytes(name), self.plain.bytes(name), name)
        same = self.plain.result.stdout.rsplit(b"locale", 1)[0]
        self.assertEqual(run.result.stdout.rsplit(b"locale", 1)[0], same)


if __name__ == "__main__":
    WRITER = sys.argv.pop(1)
    unittest.main()
