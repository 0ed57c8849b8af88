#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""examples/6_stream reads raw samples from a pipe and prints what ser-predict says of the same
audio in a file: windows, labels, scores and flags.

    stream_example.py 6_STREAM SER_PREDICT CLIP
"""

import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
import wave


def rough_tone(rate, channels, seconds):
    """16-bit frames: a tone that comes and goes, silence, and a clipped stretch."""
    values = []
    for i in range(int(seconds * rate)):
        t = i / rate
        level = 0.0 if 1.0 <= t < 2.2 else 40.0 if 2.5 <= t < 2.9 else abs(math.sin(2.0 * t))
        for channel in range(channels):
            x = 0.5 * level * math.sin(2.0 * math.pi * (180.0 + 30.0 * channel) * t)
            values.append(max(-32768, min(32767, round(32768.0 * x))))
    return struct.pack(f"={len(values)}h", *values)


def stream(program, raw, *arguments):
    """Rows of the example; its input comes in pieces that end anywhere."""
    process = subprocess.Popen([program, *map(str, arguments)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    generator = random.Random(1)
    done = 0
    while done < len(raw):
        size = generator.randrange(1, 60000)
        process.stdin.write(raw[done:done + size])
        process.stdin.flush()
        done += size
    text, _ = process.communicate()
    assert process.returncode == 0, process.returncode
    rows = []
    for line in text.decode().splitlines():
        start, end, label, score, *flags = line.split()
        rows.append((float(start), float(end), label, float(score), flags))
    return rows


def predict(program, path, window, hop):
    """The same rows from ser-predict."""
    text = subprocess.run([program, "--json", "--window", str(window), "--hop", str(hop), path],
                          check=True, capture_output=True, text=True).stdout
    rows = []
    for row in map(json.loads, text.splitlines()):
        flags = [flag for flag in ("silent", "clipped") if flag in row["flags"]]
        rows.append((row["start"], row["end"], row["label"], row["score"], flags))
    return rows


def compare(got, wanted):
    """The example prints three digits."""
    assert len(got) == len(wanted), (len(got), len(wanted))
    for a, b in zip(got, wanted):
        assert a[2] == b[2] and a[4] == b[4], (a, b)
        assert all(abs(a[i] - b[i]) < 0.00051 for i in (0, 1, 3)), (a, b)


def main():
    example, tool, clip = sys.argv[1:]
    with wave.open(clip) as file:
        sounds = [(file.getframerate(), file.getnchannels(), file.readframes(1 << 24), 1.5, 0.4)]
    for rate, channels, window, hop in [(44100, 2, 1.0, 0.5), (16000, 1, 0.7, 0.7),
                                        (8000, 3, 0.513, 0.211)]:
        sounds.append((rate, channels, rough_tone(rate, channels, 4.5), window, hop))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SER_MODULE_PATH"] = folder  # the CPU for both
        path = f"{folder}/sound.wav"
        found = set()
        for rate, channels, raw, window, hop in sounds:
            with wave.open(path, "wb") as file:
                file.setparams((channels, 2, rate, 0, "NONE", ""))
                file.writeframes(raw)
            rows = stream(example, raw, rate, channels, window, hop)
            compare(rows, predict(tool, path, window, hop))
            found |= {flag for row in rows for flag in row[4]}
            print(f"{rate} Hz, {channels} channels: {len(rows)} windows agree")
    assert found == {"silent", "clipped"}, found
    wrong = subprocess.run([example, "16000", "0"], input=b"", capture_output=True, check=False)
    assert wrong.returncode != 0 and b"channels is 0" in wrong.stderr, wrong.stderr


if __name__ == "__main__":
    main()
