"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic.fields import FieldInfo

import ordinaut
from ordinaut import config, model
from ordinaut.api.errors import status_of
from ordinaut.api.main import create_app
from ordinaut.cli.main import app
from ordinaut.config import Settings, variable
from ordinaut.engine import pipeline
from ordinaut.engine.schedule import compile_schedule
from ordinaut.errors import InvalidInput, OrdinautError
from ordinaut.model import Schedule
from ordinaut.plugins.host import ExtensionHost
from ordinaut.plugins.loader import discover
from ordinaut.store.topics import catalogue as catalogue_of_topics
from pages import code, headings, links, pages, prose, rows

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "ordinaut"
WITHOUT_ANCHORS = {"decisions", "glossary.md"}

SETTINGS = Settings(
    database_url="postgresql://none.invalid/none",
    redis_url="redis://none.invalid",
    secret="not a secret, but long enough for HS256",
)


# --- Pages ----------------------------------------------------------------------------------


def anchored() -> list[Path]:
    parts = ((page, page.relative_to(DOCS).parts) for page in pages(DOCS))
    return [page for page, names in parts if WITHOUT_ANCHORS.isdisjoint(names)]


@pytest.mark.parametrize("page", anchored(), ids=lambda page: page.stem)
def test_headings_have_anchors_that_translations_keep(page: Path) -> None:
    assert [h.text for h in headings(page) if not h.anchor] == []
    anchors = [h.anchor for h in headings(page)]
    assert len(anchors) == len(set(anchors))


@pytest.mark.parametrize("page", pages(DOCS), ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in [h.anchor for h in headings(there)], target


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    nav, rest = text.split("\nnav:\n")[1].split("\nexclude_docs: |\n")
    excluded = rest.split("\nplugins:")[0].split()
    wanted = {str(page.relative_to(DOCS)) for page in pages(DOCS)} - set(excluded)
    assert sorted(re.findall(r"[\w/.-]+\.md", nav)) == sorted(wanted)


def test_files_and_tests_that_pages_name_exist() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *pages(DOCS)]:
        for word in code("\n".join(prose(page))):
            if re.fullmatch(r"(src|tests|docs|benchmarks|requirements)/[\w./-]+", word):
                assert (ROOT / word).exists(), f"{page.name}: {word}"
            if re.fullmatch(r"[a-z]+(/[a-z_]+)+\.(py|sql)", word) and not (ROOT / word).exists():
                assert (SOURCE / word).exists(), f"{page.name}: {word}"
            if re.fullmatch(r"test_[a-z0-9_]+", word):
                assert f"def {word}(" in tests, f"{page.name}: {word}"


# --- Settings, errors, commands -------------------------------------------------------------


def shown_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None or field.default == ():
        return "none"
    value = field.default
    return f"`{value:g}`" if isinstance(value, float) else f"`{json.dumps(value).strip(chr(34))}`"


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {code(cells[0])[0]: cells[1] for cells in rows(DOCS / "reference/settings.md")[1:]}
    fields = {name: f for name, f in Settings.model_fields.items() if name != "ext_options"}
    assert documented == {variable(name): shown_default(f) for name, f in fields.items()}
    assert config.EXT_PREFIX in (DOCS / "reference/settings.md").read_text()


def every_error() -> set[type[OrdinautError]]:
    for module in pkgutil.walk_packages(ordinaut.__path__, "ordinaut."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: set[type[OrdinautError]] = set()
    pending = [OrdinautError]
    while pending:
        for kind in pending.pop().__subclasses__():
            if kind.__module__.startswith("ordinaut."):
                found.add(kind)
                pending.append(kind)
    return found


def documented_errors() -> dict[str, list[str]]:
    return {
        code(cells[0])[0]: cells[1:]
        for cells in rows(DOCS / "reference/errors.md")
        if code(cells[0])
    }


def test_every_error_is_documented_with_its_status() -> None:
    documented = documented_errors()
    for kind in every_error():
        status, again, _ = documented[kind.code]
        assert status == str(int(status_of(kind("…")))), kind.code
        assert again == ("yes" if kind.retryable else "no"), kind.code


def literal_codes() -> Iterator[str]:
    """Codes that are written where they are used, in Python and in SQL."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            pairs: list[tuple[Any, ast.expr]] = []
            if isinstance(node, ast.Call):
                pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
            elif isinstance(node, ast.Dict):
                pairs = [
                    (getattr(key, "value", None), v)
                    for key, v in zip(node.keys, node.values, strict=True)
                ]
            for name, value in pairs:
                if (
                    name == "code"
                    and isinstance(value, ast.Constant)
                    and isinstance(value.value, str)
                ):
                    yield value.value
    for path in SOURCE.rglob("*.sql"):
        yield from re.findall(r"'code', '(\w+)'", path.read_text())


def test_every_code_that_is_written_somewhere_is_documented() -> None:
    assert set(literal_codes()) - documented_errors().keys() == set()


def commands(group: Any, prefix: str = "ordinaut") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        yield from commands(command, full) if hasattr(command, "commands") else [(full, command)]


def test_every_command_and_option_is_documented() -> None:
    page = DOCS / "reference/cli.md"
    documented = {h.text: h.anchor for h in headings(page) if h.text.startswith("ordinaut ")}
    existing = dict(commands(typer.main.get_command(app)))
    assert documented.keys() == existing.keys()
    for name, command in existing.items():
        options = [
            option
            for p in command.params
            if not getattr(p, "hidden", False)
            if p.param_type_name == "option"
            for option in (*p.opts, *p.secondary_opts)
        ]
        shown = [word for cells in rows(page, under=documented[name]) for word in code(cells[0])]
        assert sorted(shown) == sorted(options), name


# --- Tools, requests, pipelines -------------------------------------------------------------


async def catalogue() -> dict[str, Any]:
    built_in = [one for one in discover() if one.source == "built_in"]
    options = {id: {"enabled": "true"} for id in ("shell", "ray", "mcp_client")}
    settings = SETTINGS.model_copy(update={"ext_options": options})
    async with ExtensionHost(settings, found=built_in) as host:
        return {tool["name"]: tool for tool in host.tools.catalogue()}


async def test_every_built_in_tool_is_documented() -> None:
    page = DOCS / "reference/tools.md"
    tools = await catalogue()
    effects = {name: f"`{tool['effect']}`" for name, tool in tools.items()}
    packs = {code(c[0])[0]: c[1] for c in rows(page, under="packs")[1:]}
    sections = {
        h.text: re.findall(r"Effect: (`\w+`)", page.read_text().split(f"{{#{h.anchor}}}")[1])[0]
        for h in headings(page)[1:-1]
    }
    assert {**sections, **packs} == effects


async def test_the_arguments_of_a_tool_are_those_of_its_schema() -> None:
    page = DOCS / "reference/tools.md"
    tools = await catalogue()
    for heading in headings(page)[1:-1]:
        schema = tools[heading.text]["input_schema"]
        properties, required = schema["properties"], set(schema.get("required", ()))
        shown = {code(c[0])[0]: c for c in rows(page, under=heading.anchor)[1:]}
        assert shown.keys() == properties.keys(), heading.text
        assert {name for name, c in shown.items() if c[0].startswith("*")} == required
        for name, (_, type_, default) in shown.items():
            given = properties[name]
            assert default == as_default(given), (heading.text, name)
            assert all(f"`{word}`" in type_ for word in given.get("enum", ())), name


def as_default(schema: dict[str, Any]) -> str:
    if "default" not in schema:
        return ""
    value = schema["default"]
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value or json.dumps(value)}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def test_every_request_of_the_api_is_documented() -> None:
    paths = create_app(SETTINGS).openapi()["paths"]
    existing = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
    shown = {code(cells[0])[0] for cells in rows(DOCS / "guides/api.md", under="requests")[1:]}
    assert shown == existing


def test_every_key_of_a_step_is_documented() -> None:
    shown = {
        w for cells in rows(DOCS / "guides/pipelines.md", under="steps") for w in code(cells[0])
    }
    assert shown == set(pipeline.STEP_KEYS)


# --- Words of the model ---------------------------------------------------------------------


def first_words(page: str, anchor: str) -> set[str]:
    return {word for cells in rows(DOCS / page, under=anchor) for word in code(cells[0])}


@pytest.mark.parametrize(
    ("page", "anchor", "words"),
    [
        ("guides/schedules.md", "verdicts", model.Verdict),
        ("guides/schedules.md", "catchup", model.Catchup),
        ("guides/schedules.md", "overlap", model.Overlap),
        ("guides/schedules.md", "calendars", model.OnExcluded),
        ("guides/pipelines.md", "retries", model.Backoff),
        ("guides/pipelines.md", "effects", model.Effect),
        ("reference/state-machine.md", "task", model.TaskStatus),
        ("reference/state-machine.md", "step", model.StepStatus),
    ],
    ids=str,
)
def test_every_word_is_explained(page: str, anchor: str, words: Any) -> None:
    explained = first_words(page, anchor) - {"on_excluded", "catchup", "overlap"}
    assert explained == set(get_args(words))


def test_every_state_of_a_run_is_explained() -> None:
    schema = (SOURCE / "store/migrations/versions/0001_initial.sql").read_text()
    states = re.search(r"due_work_state_known CHECK \(state IN \((.*?)\)\)", schema)
    assert states is not None
    wanted = set(re.findall(r"'(\w+)'", states[1]))
    explained = first_words("reference/state-machine.md", "run") - {"due_work"}
    ended = {"succeeded", "failed", "canceled", "dead"}
    assert explained == wanted | ended
    shown = {
        w for c in rows(DOCS / "reference/state-machine.md", under="run")[1:5] for w in code(c[1])
    }
    assert shown | ended == set(get_args(model.RunStatus))


def test_every_kind_of_schedule_is_explained() -> None:
    text = "\n".join(h.text for h in headings(DOCS / "guides/schedules.md"))
    assert all(kind in text for kind in get_args(model.ScheduleKind))


# --- Topics ---------------------------------------------------------------------------------

TOPIC = r"'((?:task|run|step|worker|webhook)\.[a-z]+)'"


def stated_topics() -> set[str]:
    """The topics in the code; those that SQL puts together end with each status there is."""
    found: set[str] = set()
    for path in (SOURCE / "store" / "sql").glob("*.sql"):
        text = re.sub(r"INSERT INTO audit_log.*?;", "", path.read_text(), flags=re.DOTALL)
        found |= set(re.findall(TOPIC, text))
        if "'run.' ||" in text:
            found |= {f"run.{status}" for status in ("succeeded", "failed", "canceled", "dead")}
            found |= {f"step.{status}" for status in ("succeeded", "failed", "skipped")}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Event":
                found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    tasks = importlib.import_module("ordinaut.store.tasks")
    return found | set(tasks.TOPICS.values())


def test_every_topic_is_in_the_catalogue() -> None:
    shown = {code(cells[0])[0] for cells in rows(DOCS / "guides/events.md", under="topics")[1:]}
    assert shown - {"ext.<id>.*"} == stated_topics()


def test_every_topic_has_a_schema_and_says_when_it_is_spoken_of() -> None:
    known = catalogue_of_topics()
    assert known.keys() - {"ext.<id>.*"} == stated_topics()
    shown = {code(c[0])[0]: c[1] for c in rows(DOCS / "guides/events.md", under="topics")[1:]}
    assert {topic: one.when for topic, one in known.items()} == shown


# --- Mistakes -------------------------------------------------------------------------------


def test_common_mistakes_get_the_answers_that_are_shown() -> None:
    shown = rows(DOCS / "guides/schedules.md", under="mistakes")[1:]
    assert shown
    for written, answer in shown:
        expr, *where = code(written)
        kind = where[0] if where else "rrule"
        zone = "Europe/Chisinau"
        if kind == "timezone":
            kind, expr, zone = "cron", "0 9 * * *", expr
        anchor = model.datetime.fromisoformat("2027-01-01T00:00:00+00:00")
        with pytest.raises(InvalidInput) as caught:
            compile_schedule(Schedule(kind, expr, zone, anchor))
        assert caught.value.message == answer.strip("`"), written
