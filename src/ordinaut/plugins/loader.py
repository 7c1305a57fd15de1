"""Where extensions are found, and how their code is imported.

Found in this order: built in (package resources, never the working directory), the folders of
``ORDINAUT_EXT_PATHS``, entry points of the group ``ordinaut.plugins``. Finding reads manifests
only; no code of an extension runs before :func:`load`. What can not be used is returned with
its reason instead of being raised, so that one broken extension hides no other.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias

from ordinaut.errors import ExtensionError
from ordinaut.plugins.base import Extension
from ordinaut.plugins.schema import MANIFEST, Manifest, read_manifest

GROUP = "ordinaut.plugins"
BUILT_IN = "ordinaut.extensions"
_FOREIGN = "ordinaut_ext_"  # package name of an extension that lies in a plain folder
_looking = threading.Lock()

Source: TypeAlias = Literal["built_in", "path", "entry_point"]


@dataclass(frozen=True, slots=True)
class Found:
    """One extension that was found; without a manifest it can not be used, for ``reason``."""

    id: str
    source: Source
    folder: Path
    manifest: Manifest | None = None
    entry_point: EntryPoint | None = None
    reason: str = ""

    @property
    def usable(self) -> Manifest:
        """The manifest of what has one."""
        assert self.manifest is not None, self.reason
        return self.manifest


def discover(
    paths: Iterable[Path] = (), *, built_in: bool = True, installed: bool = True
) -> tuple[Found, ...]:
    """Return every extension; the first of an id wins, the later ones are refused."""
    found = [
        *(_built_in() if built_in else ()),
        *(one for path in paths for one in _under(path)),
        *(_installed() if installed else ()),
    ]
    return tuple(_refuse_duplicates(found))


def load(found: Found) -> Extension:
    """Import the extension's code and return its object; raises :class:`ExtensionError`.

    What the code itself raises while it is imported goes through as it is.
    """
    if found.entry_point is not None:
        return _object_of(found.entry_point.load(), where=found.entry_point.value)
    if found.source == "built_in":
        module = importlib.import_module(f"{BUILT_IN}.{found.id}.{_dotted(found.usable)}")
    else:
        module = _import_folder(found.folder, found.usable)
    return _object_of(module, where=found.usable.module)


def _built_in() -> Iterator[Found]:
    root = Path(str(files(BUILT_IN)))
    for folder in sorted(root.iterdir()):
        if (folder / MANIFEST).is_file():
            yield _read(folder, "built_in")


def _under(path: Path) -> Iterator[Found]:
    """A path is an extension's folder, or a folder of such folders."""
    try:
        folders = [path] if (path / MANIFEST).exists() else sorted(path.iterdir())
    except OSError as error:
        yield Found(path.name, "path", path, reason=f"{path}: {error.strerror}")
        return
    for folder in folders:
        if (folder / MANIFEST).exists():
            yield _read(folder, "path")


def _installed() -> Iterator[Found]:
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        folder = _folder_of(entry)
        if folder is None:
            where = f"no {MANIFEST} beside {entry.module}"
            yield Found(entry.name, "entry_point", Path(), entry_point=entry, reason=where)
        else:
            yield replace(_read(folder, "entry_point"), entry_point=entry)


def _folder_of(entry: EntryPoint) -> Path | None:
    """Find the manifest of an installed extension without importing its code."""
    top, *rest = entry.module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for depth in range(len(rest), -1, -1):
            folder = Path(root, *rest[:depth])
            if (folder / MANIFEST).is_file():
                return folder
    return None


def _read(folder: Path, source: Source) -> Found:
    try:
        manifest = read_manifest(folder, built_in=source == "built_in")
        if source == "built_in" and manifest.id != folder.name:
            raise ExtensionError(f"the folder of {manifest.id!r} is called {folder.name!r}")
        if source != "entry_point":
            _module_file(folder, manifest)
    except ExtensionError as error:
        return Found(folder.name, source, folder, reason=error.message)
    return Found(manifest.id, source, folder, manifest)


def _refuse_duplicates(found: Iterable[Found]) -> Iterator[Found]:
    owners: dict[str, Found] = {}
    for one in found:
        if one.manifest is not None and (owner := owners.setdefault(one.id, one)) is not one:
            reason = f"the id {one.id!r} is taken by {owner.folder} ({owner.source})"
            yield replace(one, manifest=None, reason=reason)
        else:
            yield one


def _module_file(folder: Path, manifest: Manifest) -> Path:
    """Return the module's file; a link that leads out of the folder is refused."""
    path = (folder / manifest.module).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ExtensionError(f"module {manifest.module!r} leads out of the extension's folder")
    if not path.is_file():
        raise ExtensionError(f"module {manifest.module!r} does not exist in {folder}")
    return path


def _dotted(manifest: Manifest) -> str:
    return manifest.module.removesuffix(".py").replace("/", ".")


def _import_folder(folder: Path, manifest: Manifest) -> ModuleType:
    """Import from a folder as a package of its own, afresh each time, so that it reloads."""
    package = f"{_FOREIGN}{manifest.id}"
    for name in tuple(sys.modules):  # other threads import meanwhile
        if name.split(".")[0] == package:
            del sys.modules[name]
    _look_anew()
    spec = importlib.util.spec_from_loader(package, loader=None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(folder)]
    sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{_dotted(manifest)}")


def _look_anew() -> None:
    """Let the next import see files that are new; two threads at once would hinder each other."""
    with _looking:
        importlib.invalidate_caches()


def _object_of(thing: object, *, where: str) -> Extension:
    """Turn a module, a factory, a class or an object into the extension's object."""
    if isinstance(thing, ModuleType):
        thing = getattr(thing, "get_extension", None)
        if thing is None:
            raise ExtensionError(f"{where} has no get_extension()")
    if callable(thing) and not isinstance(thing, Extension):
        thing = thing()
    if not isinstance(thing, Extension):
        raise ExtensionError(f"{where} gave {type(thing).__name__}, not an Extension")
    return thing
