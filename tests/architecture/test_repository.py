"""Rules that hold for the repository as a whole."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from alembic.script import ScriptDirectory
from packaging.requirements import Requirement

from ordinaut.store import migrate

ROOT = Path(__file__).parent.parent.parent
MAX_LINES = 400
MAX_FUNCTION = 60
SKIPPED = {".git", ".venv", "__pycache__", "node_modules", ".hypothesis", "results", "site"}
# Written in two parts, so that this file may hold them.
FORBIDDEN = [
    a + b
    for a, b in [
        ("/work", "/main"),
        ("/work", "/shared"),
        ("/root", "/.pyenv"),
        ("/opt", "/pypi"),
        ("/opt", "/wheels"),
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("registry.npmjs", ".org"),
        ("Co-authored", "-by"),
    ]
]
MIGRATIONS = Path(migrate.__file__).parent / "migrations" / "versions"


def files(*suffixes: str) -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        ours = SKIPPED.isdisjoint(parts) and not any(p.endswith("_cache") for p in parts)
        if ours and path.is_file() and (not suffixes or path.suffix in suffixes):
            yield path


def tracked() -> list[Path]:
    """The files of the repository; without git, all that look like it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        return list(files())
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_module_is_longer_than_one_can_follow():
    lengths = {
        path.relative_to(ROOT): len(path.read_text().splitlines())
        for path in files(".py")
        if path.relative_to(ROOT).parts[0] in ("src", "benchmarks")
    }
    assert lengths
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in files(".py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION
    ]
    assert long == []


def test_imports_point_down():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_no_file_names_a_machine_or_an_index():
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in tracked()
        for text in [path.read_bytes().decode(errors="replace")]
        for word in FORBIDDEN
        if word in text
    ]
    assert found == []


def pins(lock: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / lock).read_text().splitlines()
    pinned = [line.split(";")[0].rstrip("\\ ") for line in lines if line[:1].isalnum()]
    return dict(pin.split("==") for pin in pinned)


def test_the_locks_satisfy_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runs = [*project["dependencies"], *extras["embedded"], *extras["build"]]
    tests = [*runs, *extras["dev"]]
    for lock, wanted in [
        ("run.txt", runs),
        ("test.txt", tests),
        ("bench.txt", [*tests, *extras["bench"]]),
    ]:
        pinned = pins(lock)
        for requirement in map(Requirement, wanted):
            if requirement.name != "ordinaut":
                assert requirement.name in pinned, f"{requirement} is new: run ./ordinaut lock"
                assert requirement.specifier.contains(pinned[requirement.name], prereleases=True)


def test_the_locks_agree_and_every_pin_has_a_hash():
    assert pins("run.txt").items() <= pins("test.txt").items() <= pins("bench.txt").items()
    for lock in ("run.txt", "test.txt", "bench.txt", "docs.txt"):
        text = (ROOT / "requirements" / lock).read_text()
        assert text.count("--hash=sha256:") >= len(pins(lock))
        assert "://" not in text
        assert "--find-links" not in text


def test_the_migrations_are_one_chain_in_the_order_of_their_numbers():
    scripts = ScriptDirectory.from_config(migrate._config(None)).walk_revisions()
    names = [script.revision for script in scripts]
    assert names == sorted(names, reverse=True)
    assert len(names) == len(list(MIGRATIONS.glob("[0-9]*.py")))
