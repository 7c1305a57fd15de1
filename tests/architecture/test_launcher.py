"""The launcher ``./ordinaut``, run by the system's shell on a small project of its own.

The project has no requirements and a build backend in its tree, so nothing is downloaded.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parent.parent.parent / "ordinaut"
TOOLS = ("cat", "cksum", "dirname", "env", "grep", "id", "ls", "mkdir", "rm", "sh", "uname")
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import zipfile
from pathlib import Path

INFO = "ordinaut-1.dist-info"


def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "ordinaut-1-py3-none-any.whl"
    with zipfile.ZipFile(Path(directory, name), "w") as wheel:
        wheel.writestr("ordinaut.pth", str(Path("src").resolve()))
        wheel.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\\nName: ordinaut\\nVersion: 1\\n")
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(f"{INFO}/RECORD", "")
    return name
"""
MAIN = "import sys; print('ran', *sys.argv[1:])"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class Project:
    """A clone in miniature, with a PATH that holds only what a test put there."""

    def __init__(self, place: Path) -> None:
        self.root = place / "a clone"  # the space is part of the test
        self.bin = place / "bin"
        self.venv = self.root / ".venv"
        (self.root / "src" / "ordinaut").mkdir(parents=True)
        (self.root / "requirements").mkdir()
        (self.root / "src" / "ordinaut" / "__init__.py").touch()
        (self.root / "src" / "ordinaut" / "__main__.py").write_text(MAIN)
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        (self.root / "backend.py").write_text(BACKEND)
        (self.root / "requirements" / "run.txt").touch()
        # The Pythons of the machine itself must not help.
        text = LAUNCHER.read_text()
        for directory in ("/usr/local/bin", "/opt/homebrew/bin"):
            assert directory in text
            text = text.replace(directory, "/nowhere")
        (self.root / "ordinaut").write_text(text)
        (self.root / "ordinaut").chmod(0o755)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(str(shutil.which(tool)))

    def add_python(self, name: str = "python3.11") -> None:
        script(self.bin / name, f'exec "{base_python()}" "$@"')

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "ordinaut", *args],
            env={"PATH": str(self.bin), "HOME": str(self.bin), "PIP_CONFIG_FILE": os.devnull} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *args: str, **env: str) -> tuple[int, str]:
        with self.start(*args, **env) as process:
            output, _ = process.communicate(timeout=120)
        return process.returncode, output


def base_python() -> str:
    """The Python that this environment was made from."""
    return str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first start."""
    project = Project(tmp_path_factory.mktemp("launcher"))
    project.add_python()
    code, output = project.run("hello", "a b")
    assert code == 0, output
    assert output.endswith("ran hello a b\n")
    return project


@pytest.fixture
def clone(installed: Project, tmp_path: Path) -> Project:
    """A project of its own that already has an environment."""
    project = Project(tmp_path)
    project.add_python()
    shutil.copytree(installed.venv, project.venv, symlinks=True)
    return project


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_launcher_is_valid_for_every_shell(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([shell, "-n", LAUNCHER], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_shellcheck_has_nothing_to_say():
    subprocess.run(["shellcheck", LAUNCHER, LAUNCHER.parent / ".ci" / "run"], check=True)


def test_the_launcher_is_executable():
    assert stat.S_IMODE(LAUNCHER.stat().st_mode) & 0o111 == 0o111


def test_a_second_start_installs_nothing(installed):
    assert installed.run("again") == (0, "ran again\n")


def test_a_changed_lock_is_installed_into_the_same_environment(clone):
    (clone.root / "requirements" / "run.txt").write_text("# changed\n")
    code, output = clone.run("x")
    assert (code, output.splitlines()[-1]) == (0, "ran x")
    assert "installing" in output
    assert "creating" not in output
    assert clone.run("x") == (0, "ran x\n")


def test_a_half_made_environment_is_made_anew(clone):
    (clone.venv / ".ordinaut-partial").touch()
    code, output = clone.run("x")
    assert (code, output.splitlines()[-1]) == (0, "ran x")
    assert "creating" in output
    assert not (clone.venv / ".ordinaut-partial").exists()


def test_an_environment_whose_python_is_gone_is_made_anew(clone):
    for name in ("python", "python3"):
        (clone.venv / "bin" / name).unlink()
        (clone.venv / "bin" / name).symlink_to("/nowhere/python3")
    code, output = clone.run("x")
    assert (code, output.splitlines()[-1]) == (0, "ran x")


def test_broken_shims_are_passed_over(installed):
    for name in ("python3.13", "python3.12"):
        script(installed.bin / name, f"echo 'no {name} in this version set' >&2; exit 127")
    script(installed.bin / "python3.14", "echo Python 2.7")
    (installed.root / "requirements" / "run.txt").write_text("# once more\n")
    assert installed.run("x")[1].splitlines()[-1] == "ran x"


def test_without_python_the_command_that_installs_it_is_printed(tmp_path):
    project = Project(tmp_path)
    script(project.bin / "apt-get", "exit 1")
    script(project.bin / "python3", "exit 1")
    code, output = project.run("dev")
    assert code == 1
    assert "no Python 3.11 to 3.14 was found" in output
    assert "apt-get install -y python3 python3-venv" in output


def test_without_the_venv_module_the_command_that_installs_it_is_printed(tmp_path):
    project = Project(tmp_path)
    script(project.bin / "apt-get", "exit 1")
    script(
        project.bin / "python3.11",
        f'case "$*" in *ensurepip*) exit 1 ;; esac; exec "{base_python()}" "$@"',
    )
    code, output = project.run("dev")
    assert code == 1
    assert "has no venv module" in output
    assert "apt-get install -y python3-venv" in output
    assert not project.venv.exists()


def test_a_python_that_was_named_but_does_not_fit_is_refused(installed):
    code, output = installed.run("x", ORDINAUT_PYTHON="/bin/false")
    assert code == 1
    assert "ORDINAUT_PYTHON=/bin/false is not a Python 3.11 to 3.14" in output


def test_a_directory_that_is_no_environment_is_left_as_it_is(installed, tmp_path):
    (tmp_path / "letters").write_text("precious")
    code, output = installed.run("x", ORDINAUT_VENV=str(tmp_path))
    assert code == 1
    assert "is not an environment" in output
    assert (tmp_path / "letters").read_text() == "precious"


def test_two_launchers_make_one_environment(tmp_path):
    project = Project(tmp_path)
    project.add_python()
    with project.start("one") as first, project.start("two") as second:
        outputs = [p.communicate(timeout=120)[0] for p in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum("creating" in output for output in outputs) == 1
    assert [o.splitlines()[-1] for o in outputs] == ["ran one", "ran two"]


@pytest.mark.parametrize(("env", "used"), [({}, True), ({"PIP_INDEX_URL": "file:///index"}, False)])
def test_uv_is_used_unless_pip_was_told_its_sources(clone, env, used):
    script(clone.bin / "uv", f'echo uv "$@" >> "{clone.bin}/uv.log"')
    (clone.root / "requirements" / "run.txt").write_text("# changed\n")
    code, output = clone.run("x", **env)
    assert code == 0, output
    assert (clone.bin / "uv.log").exists() == used


@pytest.mark.parametrize(("broken", "said"), [((), ""), (("mypy", "ruff"), "ruff ruff mypy")])
def test_a_check_that_fails_is_named_in_the_last_line_and_the_others_still_run(clone, broken, said):
    (clone.root / "requirements" / "test.txt").touch()
    assert clone.run("test", "prepared")[0] != 0  # pytest is not there yet
    for name in ("ruff", "lint-imports", "mypy", "pytest"):
        script(clone.venv / "bin" / name, f"exit {int(name in broken)}")
    code, output = clone.run("test")
    assert code == int(bool(broken))
    lines = output.splitlines()
    assert sum(line.startswith("==> ") for line in lines) == 5
    assert (
        lines[-1] == f"ordinaut: failed: {said}" if broken else lines[-1].startswith("==> pytest")
    )
