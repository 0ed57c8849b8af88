# SPDX-License-Identifier: MIT
"""ser-predict: each output format, read back by a parser that knows nothing of the program."""

import csv
import io
import os
import re
import stat
import struct
import subprocess
import unittest

from support import (
    A,
    B,
    C,
    Case,
    LABELS,
    LONG,
    PREDICT,
    Run,
    TEXT,
    environment,
    path,
    prepare,
    tone,
    write_model,
    write_wav,
)

setUpModule = prepare


def parse_textgrid(text):
    """The interval tiers of a TextGrid in full text form: {name: [(start, end, label)]}, xmax."""
    tokens = re.findall(
        r'"(?:[^"]|"")*"|<exists>|[-+0-9.eE]+(?=\s|$)',
        re.sub(r"\[\d*\]:?|[a-zA-Z? ]+[=:]", " ", text),
    )
    words = iter(tokens)

    def string():
        word = next(words)
        assert word[0] == '"', word
        return word[1:-1].replace('""', '"')

    def number():
        return float(next(words))

    assert string() == "ooTextFile" and string() == "TextGrid"
    start, end = number(), number()
    assert start == 0 and next(words) == "<exists>"
    tiers = {}
    for _ in range(int(number())):
        assert string() == "IntervalTier"
        name = string()
        assert (number(), number()) == (start, end)
        tiers[name] = [(number(), number(), string()) for _ in range(int(number()))]
    assert next(words, None) is None
    return tiers, end


class Formats(Case):
    def rows(self, *arguments):
        return self.run_ok("--json", *arguments).objects()

    def test_jsonl(self):
        rows = self.rows(A, B)
        for row, name in zip(rows, ("a.wav", "b.wav")):
            self.assertEqual(
                list(row),
                [
                    "file",
                    "start",
                    "end",
                    "label",
                    "score",
                    "scores",
                    "duration",
                    "flags",
                    "sampling_rate",
                    "channels",
                    "device",
                    "model",
                ],
            )
            self.assertEqual(row["file"], path(name))
            self.assertEqual(sorted(row["scores"]), sorted(LABELS))
            self.assertAlmostEqual(sum(row["scores"].values()), 1.0, 5)
            self.assertEqual(
                list(row["scores"].values()), sorted(row["scores"].values(), reverse=True)
            )
            self.assertEqual(row["label"], max(row["scores"], key=row["scores"].get))
            self.assertEqual(row["score"], row["scores"][row["label"]])
        self.assertEqual(self.run_ok("--format", "jsonl", A, B).out, self.run_ok("-j", A, B).out)

    def test_numbers_are_the_shortest_that_read_back(self):
        out = self.run_ok("--json", A).out
        for text in re.findall(
            r'": ?([0-9.e+-]+)', out[out.index('"scores"') : out.index('"duration"')]
        ):
            value = struct.pack("f", float(text))
            digits = len(re.sub(r"e.*|\D", "", text).lstrip("0"))
            if digits > 1:
                shorter = "%.*g" % (digits - 1, float(text))
                self.assertNotEqual(struct.pack("f", float(shorter)), value, text)
            self.assertLessEqual(digits, 9)

    def test_csv(self):
        name = write_wav('with, comma and "quotes".wav', tone(0.6, 20))
        arguments = ("--window", "0.25", name, A)
        run = self.run_ok("--format", "csv", *arguments)
        table = list(csv.DictReader(io.StringIO(run.out, newline="")))
        self.assertEqual(
            list(table[0]),
            [
                "file",
                "start",
                "end",
                "label",
                "score",
                "duration",
                "sampling_rate",
                "channels",
                "flags",
            ]
            + LABELS,
        )
        for row, expected in zip(table, self.rows(*arguments), strict=True):
            for key in ("start", "end", "score", "duration", "sampling_rate", "channels"):
                self.assertEqual(float(row[key]), expected[key])
            self.assertEqual((row["file"], row["label"]), (expected["file"], expected["label"]))
            self.assertEqual(row["flags"], "|".join(expected["flags"]))
            for label in LABELS:
                self.assertEqual(float(row[label]), expected["scores"][label])
        self.assertEqual(run.out.count("\n"), run.out.count("\r\n"))
        self.assertTrue(run.out.endswith("\r\n"))

    def test_csv_leaves_failed_files_out(self):
        run = self.run_fails(1, "text.wav", "-f", "csv", TEXT, A)
        self.assertEqual(len(run.out.splitlines()), 2)

    def test_rttm(self):
        name = write_wav("two words.wav", tone(1.2, 21))
        arguments = ("--window", "0.5", name, B)
        lines = self.run_ok("-f", "rttm", *arguments).out.splitlines()
        for line, expected in zip(lines, self.rows(*arguments), strict=True):
            fields = line.split(" ")
            self.assertEqual(len(fields), 10)
            self.assertEqual(
                [fields[i] for i in (0, 2, 5, 6, 9)], ["SPEAKER", "1", "<NA>", "<NA>", "<NA>"]
            )
            self.assertEqual(fields[1], "two_words" if expected["file"] == name else "b")
            self.assertAlmostEqual(float(fields[3]), expected["start"], 3)
            self.assertAlmostEqual(float(fields[4]), expected["duration"], 3)
            self.assertEqual(fields[7], expected["label"].replace(" ", "_"))
            self.assertAlmostEqual(float(fields[8]), expected["score"], 6)
        self.assertEqual(self.run_ok("-f", "rttm", "-c", "0", A).out.split(" ")[2], "1")

    def test_audacity(self):
        arguments = ("--window", "0.5", "--hop", "0.3", B)
        lines = self.run_ok("-f", "audacity", *arguments).out.splitlines()
        for line, expected in zip(lines, self.rows(*arguments), strict=True):
            start, end, label = line.split("\t")
            self.assertRegex(start, r"^\d+\.\d{6}$")
            self.assertAlmostEqual(float(start), expected["start"], 6)
            self.assertAlmostEqual(float(end), expected["end"], 6)
            self.assertEqual(label, expected["label"])

    def check_textgrid(self, text, expected, end):
        tiers, xmax = parse_textgrid(text)
        self.assertEqual((list(tiers), xmax), (["emotion"], end))
        intervals = tiers["emotion"]
        self.assertEqual((intervals[0][0], intervals[-1][1]), (0, end))
        for left, right in zip(intervals, intervals[1:]):
            self.assertEqual(left[1], right[0])
        self.assertTrue(all(start < stop for start, stop, _ in intervals))
        self.assertEqual([label for _, _, label in intervals], expected)

    def test_textgrid(self):
        rows = self.rows("--window", "0.3", B)
        self.check_textgrid(
            self.run_ok("-f", "textgrid", "--window", "0.3", B).out, [r["label"] for r in rows], 2
        )
        rows = self.rows("--window", "0.5", "--hop", "0.2", "--offset", "0.7", B)
        self.check_textgrid(
            self.run_ok(
                "-f", "textgrid", "--window", "0.5", "--hop", "0.2", "--offset", "0.7", B
            ).out,
            [""] + [r["label"] for r in rows],
            2,
        )
        self.check_textgrid(self.run_ok("-f", "textgrid", A).out, [self.rows(A)[0]["label"]], 1)

    def test_every_label_survives_every_format(self):
        for i, label in enumerate(['an"gry', "\u00e4rger, laut", "a b", "<NA>"]):
            labels = [label, "other"]
            model = write_model("label%d.safetensors" % i, labels=labels)
            best = Run("--json", "-m", model, A, B, C).objects()
            for row in best:
                run = self.run_ok("-m", model, "-f", "textgrid", row["file"])
                self.check_textgrid(run.out, [row["label"]], row["end"])
                run = self.run_ok("-m", model, "-f", "csv", row["file"])
                self.assertEqual(
                    next(csv.DictReader(io.StringIO(run.out, newline="")))["label"], row["label"]
                )
                run = self.run_ok("-m", model, "-f", "rttm", row["file"])
                self.assertEqual(run.out.split(" ")[7], row["label"].replace(" ", "_"))

    def test_text(self):
        scores = self.rows(A)[0]["scores"]
        lines = self.run_ok(A).out.splitlines()
        self.assertEqual(lines[0], A + "  0:01.00")
        for line, (label, score) in zip(lines[1:], scores.items(), strict=True):
            self.assertTrue(line.startswith("  " + label), line)
            self.assertTrue(line.endswith("%5.1f %%" % (100 * score)), line)
            self.assertEqual(line.count("#"), int(40 * score + 0.5))
        self.assertEqual(len({len(line) for line in lines[1:]}), 1)
        self.assertNotIn("\x1b", "".join(lines))

    def test_text_for_several_files(self):
        out = self.run_ok(A, B, LONG).out
        blocks = out.rstrip("\n").split("\n\n")
        self.assertEqual([len(b.splitlines()) for b in blocks], [4, 4, 5])
        self.assertIn("  windowed: ", blocks[2])
        out = self.run_fails(1, "text.wav", "-k", "1", TEXT, B, A).out
        self.assertEqual([len(b.splitlines()) for b in out.rstrip("\n").split("\n\n")], [2, 2])

    def test_text_for_windows(self):
        rows = self.rows("--window", "0.5", B)
        lines = self.run_ok("--window", "0.5", B).out.splitlines()
        self.assertEqual(lines[0], B)
        for line, row in zip(lines[1:], rows, strict=True):
            self.assertRegex(
                line, r"^ +0:0%d\.\d0 - +0:0%d\.\d0  " % (int(row["start"]), int(row["end"]))
            )
            self.assertIn(row["label"], line)
            self.assertIn("%.1f %%" % (100 * row["score"]), line)
        lines = self.run_ok("--window", "0.5", "-k", "3", B).out.splitlines()
        self.assertEqual({line.count("%") for line in lines[1:]}, {3})
        long = write_wav("hour.wav", tone(1.0, 22, 4000) * 3700, rate=4000)
        self.assertIn(
            "1:01:30.00 - 1:01:40.00", self.run_ok("--window", "10", "--offset", "3690", long).out
        )
        os.unlink(long)


class Files(Case):
    def read(self, *names):
        with open(path(*names), encoding="utf-8", newline="") as f:
            return f.read()

    def no_temporary_files(self, *directory):
        self.assertEqual([n for n in os.listdir(path(*directory)) if n.endswith(".tmp")], [])

    def test_output_file_is_replaced(self):
        with open(path("out.jsonl"), "w") as f:
            f.write("old")
        os.chmod(path("out.jsonl"), 0o640)
        run = self.run_ok("--json", "--output", path("out.jsonl"), A)
        self.assertEqual(run.out, "")
        self.assertEqual(self.read("out.jsonl"), self.run_ok("--json", A).out)
        self.assertEqual(stat.S_IMODE(os.stat(path("out.jsonl")).st_mode), 0o640)
        self.no_temporary_files()

    def test_new_files_follow_the_umask(self):
        self.run_ok("--json", "--output", path("fresh"), A, umask=0o027)
        self.assertEqual(stat.S_IMODE(os.stat(path("fresh")).st_mode), 0o640)

    def test_links_are_followed(self):
        os.symlink("target.jsonl", path("link.jsonl"))
        with open(path("target.jsonl"), "w") as f:
            f.write("old")
        self.run_ok("--json", "-o", path("link.jsonl"), A)
        self.assertTrue(os.path.islink(path("link.jsonl")))
        self.assertIn('"file"', self.read("target.jsonl"))

    def test_dash_is_standard_output(self):
        self.assertIn('"file"', self.run_ok("--json", "-o", "-", A).out)

    def test_devices_are_written_in_place(self):
        before = os.stat("/dev/null")
        self.run_ok("--json", "-o", "/dev/null", A)
        self.assertEqual(os.stat("/dev/null").st_ino, before.st_ino)
        self.run_fails(3, "/dev/full: cannot write: No space left", "--json", "-o", "/dev/full", A)

    def test_nothing_is_written_when_all_fails(self):
        with open(path("kept.csv"), "w") as f:
            f.write("old")
        self.run_fails(7, "text.wav", "-f", "csv", "-o", path("kept.csv"), TEXT)
        self.assertEqual(self.read("kept.csv"), "old")
        self.no_temporary_files()

    def test_partial_failure_is_written(self):
        self.run_fails(1, "text.wav", "-f", "csv", "-o", path("part.csv"), TEXT, A)
        self.assertEqual(len(self.read("part.csv").splitlines()), 2)

    def test_impossible_outputs(self):
        self.run_fails(3, "cannot open for writing", "-o", path("missing", "x"), A)
        self.run_fails(2, "is a directory", "-o", path(), A)
        self.run_fails(2, "is a directory", "-f", "csv", "-o", path("dir/"), A)
        self.run_fails(
            3, "cannot make this directory", "-f", "textgrid", "-o", path("no", "such/"), A
        )

    def test_one_file_per_input(self):
        for name, suffix in (("textgrid", "TextGrid"), ("audacity", "txt")):
            target = path(name) + "/"
            self.run_fails(1, "text.wav", "-f", name, "-o", target, A, TEXT, B)
            self.assertEqual(sorted(os.listdir(target)), ["a." + suffix, "b." + suffix])
            self.assertEqual(self.read(name, "b." + suffix), self.run_ok("-f", name, B).out)
        with open(A, "rb") as f:
            self.run_ok("-f", "textgrid", "-o", path("textgrid"), "-", input=f.read())
        self.assertEqual(parse_textgrid(self.read("textgrid", "stdin.TextGrid"))[1], 1)

    def test_two_inputs_with_one_name(self):
        write_wav("elsewhere/a.wav", tone(0.3))
        self.usage_fails(
            "two inputs would both be written to %s" % path("twice", "a.TextGrid"),
            "-f",
            "textgrid",
            "-o",
            path("twice/"),
            A,
            path("elsewhere/a.wav"),
        )
        self.assertFalse(os.path.exists(path("twice")))

    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            for arguments in (["--json", A], ["--help"], ["--version"], ["--list-devices"]):
                run = self.run_fails(
                    3, "standard output: cannot write: No space left", *arguments, stdout=full
                )
                self.assertEqual(len(run.err.splitlines()), 1)

    def test_closed_standard_output(self):
        run = subprocess.run(
            ["sh", "-c", 'exec "$0" --json "$1" >&-', PREDICT, A],
            env=environment(),
            capture_output=True,
        )
        self.assertEqual(run.returncode, 3)
        self.assertIn(b"standard output: cannot write: Bad file descriptor", run.stderr)

    def test_reader_that_goes_away_is_no_reason_for_words(self):
        for arguments in (["--json", A], ["--help"]):
            read, write = os.pipe()
            os.close(read)
            run = Run(*arguments, stdout=write)
            os.close(write)
            self.assertEqual((run.code, run.err), (3, ""))


if __name__ == "__main__":
    unittest.main()
