"""``ordinaut ext new``: the files of an extension that works."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from string import Template

from ordinaut.errors import Conflict
from ordinaut.plugins.kit import MOUNT
from ordinaut.plugins.schema import check_id

# Where each file of the skeleton goes, in a plain folder and in a package.
FOLDER = {
    "extension.json": "extension.json",
    "extension.py": "extension.py",
    "test_extension.py": "test_extension.py",
}
PACKAGE = {
    "pyproject.toml": "pyproject.toml",
    "extension.json": "src/ordinaut_$id/extension.json",
    "extension.py": "src/ordinaut_$id/extension.py",
    "test_extension.py": "tests/test_extension.py",
}


def write(id: str, directory: Path, *, package: bool) -> Path:
    """Write the files into a new folder named after the id, and return it."""
    check_id(id)
    folder = directory / id
    if folder.exists():
        raise Conflict(f"{folder} exists already")
    words = {
        "id": id,
        "name": id.replace("_", " ").capitalize(),
        "class_name": "".join(part.capitalize() for part in id.split("_")),
        "dashed": id.replace("_", "-"),
        "mount": f"{MOUNT}/{id}",
        "folder": f'.parent / "src" / "ordinaut_{id}"' if package else "",
    }
    skeleton = resources.files("ordinaut.cli").joinpath("skeleton")
    for source, target in (PACKAGE if package else FOLDER).items():
        path = folder / Template(target).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = skeleton.joinpath(f"{source}.tmpl").read_text()
        path.write_text(Template(text).substitute(words))
    if package:
        (folder / "src" / f"ordinaut_{id}" / "__init__.py").touch()
    return folder
