# SPDX-License-Identifier: MIT
"""Worker processes, time limit, and what the card and the machine say of themselves."""

import contextlib
import ctypes
import json
import os
import pathlib
import platform
import re
import select
import subprocess
import sys
import threading
import time
from importlib import metadata

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ("torch", "triton", "transformers", "torchaudio", "nvidia-cudnn-cu13", "nvidia-cublas",
            "numpy")
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")


class TimeUp(Exception):
    """The --time-limit is reached."""


class Failed(Exception):
    """A worker's reason why it cannot go on."""


# --- Processes ------------------------------------------------------------------------------------


class Process:
    """peers.py, or another program like it, at work; see there for the protocol."""

    def __init__(self, task, work, deadline, environment=None, program="peers.py"):
        self.name, self.deadline = task.get("name", task["do"]), deadline
        self.log, self.buffer = work / f"{self.name}.log", b""
        settings = dict(os.environ, TOKENIZERS_PARALLELISM="false", **(environment or {}))
        settings.setdefault("TORCHINDUCTOR_CACHE_DIR", str(work / "inductor"))
        begin = time.perf_counter()
        with open(self.log, "a", encoding="utf-8") as log:  # a second one may be of this name
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", HERE / program, json.dumps(task)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0,
                env=settings)
        try:
            self.first = self.answer()
        except BaseException:
            self.stop()
            raise
        self.seconds = time.perf_counter() - begin

    def answer(self):
        while b"\n" not in self.buffer:
            if not select.select([self.process.stdout], [], [], self.deadline.left())[0]:
                raise TimeUp(f"{self.name} was busy")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Failed(f"died: {self.last_words()}")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def last_words(self):
        lines = self.log.read_text(errors="replace").strip().split("\n")
        return f"exit {self.process.wait()}, {lines[-1][:200]}"

    def ask(self, do, **request):
        try:
            self.process.stdin.write((json.dumps({"do": do, **request}) + "\n").encode())
        except BrokenPipeError:
            raise Failed(f"died: {self.last_words()}") from None
        return self.answer()

    def stop(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10 if self.deadline.left() > 0 else 1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Deadline:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return max(0.0, self.end - time.monotonic())

    def check(self):
        if not self.left():
            raise TimeUp("--time-limit")


# --- The card -------------------------------------------------------------------------------------


class Memory:
    """Bytes in use on the card by NVML, for everybody alike: context, libraries, caches of
    allocators. `peak` of a block: the most above what was in use before it, sampled every 2 ms."""

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]

    def __init__(self, device):
        self.handle = None
        if device != "cuda":
            return
        try:
            self.library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        index = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        handle = ctypes.c_void_p()
        number = ctypes.c_uint(int(index) if index.isdecimal() else 0)
        if (self.library.nvmlInit_v2() == 0
                and self.library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)) == 0):
            self.handle = handle

    def used(self):
        if not self.handle:
            return None
        info = self.Info()
        status = self.library.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(info))
        return info.used if status == 0 else None

    @contextlib.contextmanager
    def peak(self, found):
        """found["peak"], found["kept"]: bytes above what was in use before."""
        before, done = self.used(), threading.Event()
        if before is None:
            yield
            return
        most = [before]

        def watch():
            while not done.wait(0.002):
                most[0] = max(most[0], self.used() or 0)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            after = self.used() or before
            found.update(peak=max(most[0], after) - before, kept=after - before)


def nvidia_smi(*fields):
    """Values of the first card, or None."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [value.strip() for value in done.stdout.split("\n")[0].split(",")]


def cpu_name():
    match = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()


def versions():
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            out[name] = metadata.version(name)
    return out
