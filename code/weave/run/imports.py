"""Records modules: by any loader, from their source, and where they were sought in vain."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from weave.run.recorder import Recorder


def follow(recorder: Recorder) -> None:
    """Record the modules that are imported from now on, and those imported so far."""
    _compile_from_source(recorder)
    _record_what_is_sought(recorder)
    _record_metadata(recorder)
    names = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
    for folder in sys.path:
        place = recorder.name(folder or ".")
        if place is not None and os.path.isdir(folder or "."):
            recorder.record("shadows", place)
            for name in sorted(names):
                recorder.record("imports", _join(place, name))
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and os.path.isabs(path):  # torch has modules without a file
            if path.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
                recorder.compiled(path)
            elif not path.startswith(recorder.places.own):
                recorder.record("modules", recorder.name(path))


def _join(place: str, name: str) -> str:
    return name if place == "." else f"{place}/{name}"


def _compile_from_source(recorder: Recorder) -> None:
    """Compile what is no installed package from its source each time, whatever loader asks for it.

    A cached bytecode file is matched to its source by size and by time in whole seconds, which is not safe enough. And
    a module read from bytecode would not be seen to be read.
    """
    source_loader: Any = next(base for base in importlib.machinery.SourceFileLoader.__mro__ if "get_code" in vars(base))
    original = source_loader.get_code

    def get_code(self: Any, fullname: str) -> Any:
        path = self.get_filename(fullname)
        name = recorder.name(path)
        if (
            name is None
            or not isinstance(self, importlib.machinery.SourceFileLoader)
            or path.startswith(recorder.places.own)
        ):
            return original(self, fullname)
        with recorder.paused():
            data = self.get_data(path)
        recorder.record("modules", name, hashlib.sha256(data).hexdigest())
        return self.source_to_code(data, path)

    source_loader.get_code = get_code


def _record_what_is_sought(recorder: Recorder) -> None:
    class Finder(importlib.machinery.FileFinder):
        """Finds modules in a folder that is no installed package's, and records which were sought there."""

        place: str

        def find_spec(self, fullname: str, target: Any = None) -> Any:
            parent, _, name = fullname.rpartition(".")
            if not parent and name in sys.stdlib_module_names:
                recorder.record("shadows", self.place)
            else:
                recorder.record("imports", _join(self.place, name))
            return super().find_spec(fullname, target)

    kinds = [
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
        (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
    ]

    def hook(path: str) -> Finder:
        place = recorder.name(path or ".")
        if place is None or os.path.isfile(path):  # a zip file has a finder of its own
            raise ImportError
        finder = Finder(path or ".", *kinds)
        finder.place = place
        return finder

    class Last:
        """Asked when no other finder knows a module: a package that is installed later may have it."""

        @staticmethod
        def find_spec(fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
            if path is None and "." not in fullname:
                recorder.record("missing", fullname)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
    sys.meta_path.append(Last)  # type: ignore[arg-type]


def _record_metadata(recorder: Recorder) -> None:
    distribution: Any = importlib.metadata.Distribution
    from_name, discover = distribution.from_name.__func__, distribution.discover.__func__

    def record_folders() -> None:
        for folder in sys.path:
            recorder.record("metadata", recorder.name(folder or "."))

    def from_name_(cls: Any, name: str) -> Any:
        if isinstance(name, str) and name and not recorder.is_paused():
            recorder.record("distributions", name)
            record_folders()
        return from_name(cls, name)

    def discover_(cls: Any, **asked: Any) -> Any:
        name = asked.get("name") or getattr(asked.get("context"), "name", None)
        if not name and not recorder.is_paused() and not recorder.asking().startswith(recorder.places.packages):
            recorder.record("distributions", "*")
            record_folders()
        return discover(cls, **asked)

    distribution.from_name, distribution.discover = classmethod(from_name_), classmethod(discover_)
