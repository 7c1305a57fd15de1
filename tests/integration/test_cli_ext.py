"""``ordinaut ext``, as the author and the operator of an extension see it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from extending import HELLO, extension, write
from ordinaut.cli.main import app
from ordinaut.plugins import loader


def ext(*args: str | Path, **env: str) -> Result:
    return CliRunner().invoke(app, ["ext", *map(str, args)], env=env)


@pytest.mark.parametrize("kind", [(), ("--package",)])
def test_a_new_extension_starts_and_passes_its_own_test(
    tmp_path: Path, kind: tuple[str, ...]
) -> None:
    made = ext("new", "pet_shop", "--directory", tmp_path, *kind)
    assert made.exit_code == 0, made.output
    folder = tmp_path / "pet_shop"
    checked = ext("check", folder)
    assert checked.output.splitlines() == [
        "pet_shop 0.1.0 starts",
        "granted: ROUTES, TOOLS",
        "tool ext.pet_shop.greet (pure): Say hello to somebody.",
        "route GET /hello/{who}",
    ]
    assert ext("test", folder).exit_code == 0


def test_a_test_that_fails_fails_the_command(tmp_path: Path) -> None:
    (tmp_path / "test_fails.py").write_text("def test_it(): assert False")
    assert ext("test", tmp_path).exit_code == 1


def test_a_new_package_builds_into_a_wheel_that_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ext("new", "pet_shop", "--directory", tmp_path, "--package")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=tmp_path / "pet_shop", check=True
    )
    site = tmp_path / "site"
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(site)
    found = [one for one in loader.discover() if one.id == "pet_shop"]
    assert [(one.source, one.usable.version) for one in found] == [("entry_point", "0.1.0")]


@pytest.mark.parametrize("id", ["Bad", "a/b", "../up", "a" * 42, ""])
def test_an_id_that_is_none_is_refused(tmp_path: Path, id: str) -> None:
    refused = ext("new", id, "--directory", tmp_path)
    assert refused.exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    ext("new", "pets", "--directory", tmp_path)
    (tmp_path / "pets" / "extension.py").write_text("mine")
    assert ext("new", "pets", "--directory", tmp_path).exit_code != 0
    assert (tmp_path / "pets" / "extension.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("code", "manifest", "reason"),
    [
        ("def f(:", {}, "SyntaxError"),
        (extension("demo", setup="1/0"), {}, "ZeroDivisionError"),
        (extension("other"), {}, "info() says 'other'"),
        (extension("demo", setup="tool_registry.register"), {}, "was not granted TOOLS"),
        (extension("demo"), {"grants": ["ROOT"]}, "'ROOT' is not a capability"),
    ],
)
def test_check_says_why_an_extension_is_refused(
    tmp_path: Path, code: str, manifest: dict[str, object], reason: str
) -> None:
    refused = ext("check", write(tmp_path, "demo", code, **manifest))
    assert refused.exit_code == 1
    assert reason in str(refused.exception)


def test_check_names_grants_that_are_not_used(tmp_path: Path) -> None:
    folder = write(tmp_path, "hello", HELLO, grants=["ROUTES", "STATIC"])
    assert "but not requested: STATIC" in ext("check", folder).output


def test_list_shows_what_the_settings_make_of_the_extensions(tmp_path: Path) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES", "STATIC"])
    write(tmp_path, "broken", "", grants=["ROOT"])
    listed = ext(
        "list",
        ORDINAUT_EXT_PATHS=str(tmp_path),
        ORDINAUT_EXT_DISABLED="sql",
        ORDINAUT_EXT_SHELL__ENABLED="yes",
        ORDINAUT_EXT_HELLO__GRANTS="routes",
    )
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in listed.output.splitlines()}
    assert lines["core"] == "on 1.0.0 built_in TOOLS"
    assert lines["sql"].startswith("off")
    assert lines["shell"].startswith("on")
    assert lines["hello"] == "on 1.0.0 path ROUTES"
    assert lines["broken"].startswith("refused extension.json: grants[0]: 'ROOT' is not")


def test_enable_and_disable_are_stored_for_every_process(database_url: str) -> None:
    assert ext("enable", "shell", "--database-url", database_url).output == "shell is enabled\n"
    assert ext("disable", "sql", DATABASE_URL=database_url).output == "sql is disabled\n"
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT id, enabled FROM extension ORDER BY id").fetchall()
    assert found == [("shell", True), ("sql", False)]
