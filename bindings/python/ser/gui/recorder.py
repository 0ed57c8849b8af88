# SPDX-License-Identifier: MIT
"""ser-record as a child: its lines and its end are posted to the window."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from typing import Any, Callable

Post = Callable[..., None]

# Seconds from the first request to end until it is made stronger (a last window may be computed
# meanwhile), and to list devices.
PATIENCE = 15.0
LIST_TIMEOUT = 15.0

TOOL = "ser-record"
NO_TOOL = (
    "{0} was not found, without which nothing can be recorded: install libser's tools, or give "
    "its path with --tool."
)


def find_tool(told: str) -> str | None:
    """Path of a program; None if it cannot be run."""
    return shutil.which(told)


def plain(text: str) -> str:
    """Messages of the tool as sentences, without its name in front of each."""
    lines = (line.strip().removeprefix(TOOL + ": ") for line in text.splitlines())
    return "\n".join(line[:1].upper() + line[1:] for line in lines if line)


def list_devices(tool: str, post: Post) -> None:
    """Post ("devices", [{"source", "description", ...}], message) when the tool has answered."""

    def work() -> None:
        command = [tool, "--list-devices", "--format", "jsonl"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIST_TIMEOUT,
            )
        except (OSError, subprocess.SubprocessError) as error:
            post("devices", [], f"{tool} cannot be run: {error}")
            return
        found = [device for device in map(_parsed, done.stdout.splitlines()) if device]
        post("devices", [d for d in found if "source" in d], plain(done.stderr))

    threading.Thread(target=work, daemon=True).start()


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


class Recorder:
    """One recording into a file that is not there yet. Posts ("heard", self, event), ("note", self,
    text), and at last ("ended", self, exit code, all messages)."""

    def __init__(self, command: list[str], post: Post) -> None:
        self._post = post
        self._asked: float | None = None  # when it was first told to end
        self._level = 0  # how strongly
        self._errors: list[str] = []
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._threads = [
            threading.Thread(target=work, daemon=True)
            for work in (self._read_errors, self._read_lines)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C does; call on to have it ended by force if it does not."""
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
        due = min(int((now - self._asked) / PATIENCE) + 1, 3)
        if due > self._level:
            self._level = due
            self._child.send_signal((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[due - 1])

    @property
    def stopping(self) -> bool:
        return self._asked is not None

    def kill(self) -> None:
        """End it at once and wait for that."""
        self._child.kill()
        self._child.wait()

    def _read_errors(self) -> None:
        with self._child.stderr as lines:
            for line in lines:
                text = plain(line)
                if text:
                    self._errors.append(text)
                    self._post("note", self, text)

    def _read_lines(self) -> None:
        with self._child.stdout as lines:
            for line in lines:
                event = _parsed(line)
                if event is not None:
                    self._post("heard", self, event)
        code = self._child.wait()
        self._threads[0].join()
        self._post("ended", self, code, "\n".join(self._errors))


def command_line(
    tool: str, clip: str, source: str | None, model: str | None, device: str | None
) -> list[str]:
    """What records into `clip` until it is told to end, and tells what it hears."""
    out = [tool, "--continuous", "--quiet", "--format", "jsonl", "--levels", "--attention"]
    out += ["--output", clip]
    for option, value in (("--source", source), ("--model", model), ("--device", device)):
        if value:
            out += [option, value]
    return out
