# SPDX-License-Identifier: MIT
"""The two boxes to choose from: microphones and models."""

from __future__ import annotations

import os
from tkinter import ttk
from typing import Any

from . import recorder
from .layout import Dialogs

DEFAULT_MICROPHONE = "Default"
NO_MICROPHONE = "None found"
DEFAULT_MODEL = "Default"
MODEL_FILE = "Choose a file…"
MODEL_FOLDER = "Choose a folder…"


class Microphones:
    """What can be recorded from, as ser-record lists it."""

    def __init__(self, box: ttk.Combobox, tool: str | None, source: str | None, post: Any) -> None:
        self._box = box
        self._post = post
        self._source = source  # as the command line names it
        self._sources: dict[str, str | None] = {}  # what the box shows -> --source
        self.told_tool = tool or os.environ.get("SER_RECORD") or recorder.TOOL
        box.configure(postcommand=self.find)
        self.show([])

    @property
    def tool(self) -> str | None:
        """Path of ser-record, or None."""
        return recorder.find_tool(self.told_tool)

    @property
    def no_tool(self) -> str:
        """What to say if there is none."""
        return recorder.NO_TOOL.format(self.told_tool)

    @property
    def source(self) -> str | None:
        """The chosen one as --source takes it; None for the default."""
        return self._sources.get(self._box.get())

    @property
    def names(self) -> list[str]:
        return list(self._sources)

    @property
    def told(self) -> bool:
        """Whether the command line names a source."""
        return self._source is not None

    def find(self) -> None:
        """Have ("devices", list, message) posted."""
        tool = self.tool
        if tool is not None:
            recorder.list_devices(tool, self._post)
        else:
            self._post("devices", [], self.no_tool)

    def show(self, devices: list[dict[str, Any]]) -> None:
        """Put them into the box; what was chosen stays so if it is still there."""
        before = self._box.get()
        self._sources = {}
        if self._source is not None:
            self._sources[self._source] = self._source
        elif devices:
            self._sources[DEFAULT_MICROPHONE] = None
        for device in devices:
            source = str(device["source"])
            name = str(device.get("description") or source)
            self._sources[name if name not in self._sources else f"{name} ({source})"] = source
        names = self.names or [NO_MICROPHONE]
        self._box.configure(values=names)
        self._box.set(before if before in self._sources else names[0])


class Models:
    """What can predict: the default, and what was named or chosen before."""

    def __init__(self, box: ttk.Combobox, path: str | None) -> None:
        self._box = box
        self.path = path  #: of the chosen one; None for the default
        self._default = ""  # where that is, once it is known
        self._paths: dict[str, str | None] = {}  # what the box shows -> path
        self._show()

    def set_default(self, path: str) -> None:
        self._default = path
        self._show()

    def choose(self, dialogs: Dialogs) -> bool:
        """Take what is selected in the box. Whether it is another one."""
        self._box.selection_clear()
        name, before = self._box.get(), self.path
        if name == MODEL_FILE:
            self.path = dialogs.model_file() or before
        elif name == MODEL_FOLDER:
            self.path = dialogs.model_folder() or before
        else:
            self.path = self._paths[name]
        self._show()
        return self.path != before

    def _show(self) -> None:
        name = _stem(self.path or self._default)
        if self.path is None:
            name = f"{name} (default)" if name else DEFAULT_MODEL
            self._paths = {k: path for k, path in self._paths.items() if path is not None}
        self._paths[name] = self.path
        self._box.configure(values=[*self._paths, MODEL_FILE, MODEL_FOLDER])
        self._box.set(name)


def _stem(path: str) -> str:
    """Name of a model without its folder and its suffix."""
    return os.path.basename(os.path.normpath(path)).removesuffix(".safetensors") if path else ""
