"""Finding, granting, loading, starting and stopping extensions."""

from __future__ import annotations

import asyncio
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from extending import HELLO, extension, host, shown, write
from ordinaut.errors import ExtensionError, NotFound
from ordinaut.plugins import loader
from ordinaut.plugins.changes import Changes
from ordinaut.plugins.host import WATCH_SECONDS
from ordinaut.plugins.member import RETRY_SECONDS


async def test_the_built_in_packs_offer_their_plain_names() -> None:
    async with host(built_in=True) as running:
        names = running.tools.names()
    assert {"core.log", "core.transform", "core.sleep", "core.assert", "http.request"} <= set(names)
    assert {"event.publish", "task.run", "approval.request"} <= set(names)


async def test_every_tool_of_the_core_has_a_description_and_an_input_schema() -> None:
    async with host(built_in=True) as running:
        for entry in running.tools.catalogue():
            assert entry["description"], entry["name"]
            assert entry["input_schema"]["type"] == "object", entry["name"]


async def test_the_catalogue_shows_examples_and_what_a_tool_gives(tmp_path: Path) -> None:
    setup = """
    async def greet(who: str) -> str:
        "Say hello."
        return 7
    async def tags(who: str) -> list[str]: return []
    async def any(who: str): return who
    tool_registry.register("greet", greet, examples=[{"who": "Ana"}])
    tool_registry.register("tags", tags)
    tool_registry.register("any", any)
    """
    write(tmp_path, "demo", extension("demo", wants="TOOLS", setup=setup), grants=["TOOLS"])
    async with host(tmp_path, built_in=True) as running:
        shown = {entry["name"]: entry for entry in running.tools.catalogue()}
        assert await running.tools.get("ext.demo.greet").fn("Ana") == 7
        assert running.tools.get("ext.demo.greet").gives is None
    assert shown["ext.demo.greet"]["output_schema"] == {"type": "string"}
    assert shown["ext.demo.greet"]["examples"] == [{"who": "Ana"}]
    assert shown["ext.demo.tags"]["output_schema"]["type"] == "array"
    assert shown["ext.demo.any"]["output_schema"] == {}
    for name in ("http.request", "sql.query", "sql.execute", "smtp.send"):
        assert shown[name]["output_schema"]["type"] == "object", name
    assert all(entry["examples"] for name, entry in shown.items() if "demo" not in name)


async def test_a_stranger_gets_its_own_prefix(tmp_path: Path) -> None:
    code = extension("pets", wants="TOOLS", setup="tool_registry.register('feed', print)")
    write(tmp_path, "pets", code, grants=["TOOLS"])
    async with host(tmp_path) as running:
        assert running.tools.names() == ("ext.pets.feed",)
    assert running.tools.names() == ()


@pytest.mark.parametrize("name", ["http.request", "ext.other.feed", "core.log", "mcp.a.b"])
async def test_a_tool_name_among_others_names_is_refused(tmp_path: Path, name: str) -> None:
    code = extension("squat", wants="TOOLS", setup=f"tool_registry.register({name!r}, print)")
    write(tmp_path, "squat", code, grants=["TOOLS"])
    async with host(tmp_path) as running:
        assert running.tools.names() == ()
        assert "lies outside of extension 'squat'" in shown(running, "squat").reason


async def test_an_extension_that_fails_in_setup_leaves_no_tool_behind(tmp_path: Path) -> None:
    setup = "tool_registry.register('one', print)\nraise RuntimeError('no')"
    write(tmp_path, "half", extension("half", wants="TOOLS", setup=setup), grants=["TOOLS"])
    async with host(tmp_path) as running:
        assert running.tools.names() == ()
        assert shown(running, "half").state == "failed"
        assert shown(running, "half").reason == "load: RuntimeError: no"


async def test_a_second_extension_of_an_id_is_refused_with_a_reason(tmp_path: Path) -> None:
    write(tmp_path / "a", "twin", extension("twin"))
    write(tmp_path / "b", "twin", extension("twin"))
    async with host(tmp_path / "a", tmp_path / "b") as running:
        first, second = running.describe()
    assert first.source == "path"
    assert second.state == "failed"
    assert "the id 'twin' is taken by" in second.reason


async def test_nobody_takes_the_id_of_a_built_in_pack(tmp_path: Path) -> None:
    write(tmp_path, "http", extension("http"))
    async with host(tmp_path, built_in=True) as running:
        states = [(one.source, one.state) for one in running.describe() if one.id == "http"]
    assert states == [("built_in", "started"), ("path", "failed")]


async def test_a_module_that_links_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "evil.py"
    outside.write_text("raise SystemExit")
    folder = write(tmp_path / "ext", "linked")
    (folder / "extension.py").unlink()
    (folder / "extension.py").symlink_to(outside)
    (found,) = loader.discover([tmp_path / "ext"], built_in=False, installed=False)
    assert "leads out of the extension's folder" in found.reason


async def test_a_folder_that_does_not_exist_is_shown(tmp_path: Path) -> None:
    async with host(tmp_path / "nowhere") as running:
        (one,) = running.describe()
    assert one.state == "failed"
    assert "nowhere" in one.reason


async def test_a_lazy_extension_is_not_imported_at_start(tmp_path: Path) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES"])
    async with host(tmp_path) as running:
        assert shown(running, "hello").state == "discovered"
        await running.started("hello")
        assert shown(running, "hello").state == "started"
    assert shown(running, "hello").state == "stopped"


async def test_an_eager_extension_starts_with_the_host(tmp_path: Path) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    async with host(tmp_path) as running:
        one = shown(running, "hello")
        assert one.state == "started"
        assert one.load_seconds is not None
        assert one.start_seconds is not None


async def test_a_worker_loads_only_what_has_tools(tmp_path: Path) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    tools = extension("pets", wants="TOOLS", setup="tool_registry.register('feed', print)")
    write(tmp_path, "pets", tools, grants=["TOOLS"])
    running = host(tmp_path)
    await running.start_tools()
    try:
        assert shown(running, "hello").state == "discovered"
        assert running.tools.names() == ("ext.pets.feed",)
    finally:
        await running.stop()
        await running.stop()


async def test_an_unknown_extension_is_not_found_and_a_near_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES"])
    with pytest.raises(NotFound, match='did you mean "hello"'):
        await host(tmp_path).started("helo")


async def test_a_disabled_extension_does_not_start_until_it_is_enabled(tmp_path: Path) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    async with host(tmp_path, ext_disabled="hello") as running:
        assert (shown(running, "hello").state, shown(running, "hello").enabled) == (
            "discovered",
            False,
        )
        with pytest.raises(ExtensionError, match="is disabled"):
            await running.started("hello")
        await running.enable("hello")
        assert shown(running, "hello").state == "started"
        await running.disable("hello")
        assert shown(running, "hello").state == "stopped"


async def test_what_the_manifest_turns_off_the_operator_turns_on(tmp_path: Path) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True, enabled=False)
    async with host(tmp_path) as running:
        assert shown(running, "hello").state == "discovered"
    async with host(tmp_path, ext_options={"hello": {"enabled": "true"}}) as running:
        assert shown(running, "hello").state == "started"


@pytest.mark.parametrize("options", [{"enabled": "perhaps"}, {"grants": "root"}])
async def test_an_operators_word_that_makes_no_sense_is_named(
    tmp_path: Path, options: dict[str, str]
) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    async with host(tmp_path, ext_options={"hello": options}) as running:
        one = shown(running, "hello")
        assert one.state == "failed"
        assert f"ORDINAUT_EXT_HELLO__{next(iter(options)).upper()}" in one.reason


async def test_an_extension_that_calls_itself_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "mask", HELLO, grants=["ROUTES"], eager=True)
    async with host(tmp_path) as running:
        assert shown(running, "mask").reason == "info() says 'hello', the manifest says 'mask'"


async def test_an_extension_whose_start_raised_may_try_again(tmp_path: Path) -> None:
    needed = tmp_path / "needed"
    more = f"async def on_startup(self, app): open({str(needed)!r}).close()"
    write(tmp_path / "ext", "demo", extension("demo", more=more), grants=["ROUTES"])
    async with host(tmp_path / "ext") as running:
        for _ in range(2):
            with pytest.raises(ExtensionError, match="FileNotFoundError"):
                await running.started("demo")
        needed.touch()
        member = running._members["demo"]
        assert member.may_try_again is False
        assert member._raised_at is not None
        member._raised_at -= RETRY_SECONDS
        assert (await running.started("demo")).state == "started"


def test_threads_that_load_at_once_do_not_hinder_each_other() -> None:
    def look(_: int) -> None:
        for number in range(200):
            sys.path_importer_cache[f"/nowhere/{number}"] = None  # as of a folder without modules
            loader._look_anew()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(look, range(8))) == [None] * 8


async def test_a_changed_folder_is_loaded_anew(tmp_path: Path) -> None:
    tool = "async def count(): return {}\ntool_registry.register('count', count)"
    first = extension("demo", wants="TOOLS", setup=tool.format(1))
    folder = write(tmp_path, "demo", first, grants=["TOOLS"])
    changes = Changes({"demo": folder})
    async with host(tmp_path) as running:
        assert changes.look() == []
        assert await running.tools.get("ext.demo.count").fn() == 1
        write(
            tmp_path,
            "demo",
            extension("demo", wants="TOOLS", setup=tool.format(22)),
            grants=["TOOLS"],
        )
        assert changes.look() == ["demo"]
        await running.reload("demo")
        assert await running.tools.get("ext.demo.count").fn() == 22
        (folder / "extension.py").write_text("def (")
        await running.reload("demo")
        assert "SyntaxError" in shown(running, "demo").reason
        assert "ext.demo.count" not in running.tools
        (folder / "extension.json").write_text("{")
        await running.reload("demo")
        assert "is not JSON" in shown(running, "demo").reason
        write(tmp_path, "demo", first, grants=["TOOLS"])
        await running.reload("demo")
        assert await running.tools.get("ext.demo.count").fn() == 1
        assert changes.look() == ["demo"]


async def test_changes_are_followed_where_that_is_wanted(tmp_path: Path) -> None:
    folder = write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    async with host(tmp_path, ext_reload=True) as running:

        async def until(state: str) -> None:
            for _ in range(500):
                if shown(running, "hello").state == state:
                    return
                await asyncio.sleep(0.01)

        (folder / "extension.py").write_text("def (")
        await until("failed")
        assert "SyntaxError" in shown(running, "hello").reason
        write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
        await until("started")
        away = folder.rename(tmp_path / "away")
        await until("failed")
        assert "No such file or directory" in shown(running, "hello").reason
        folder.mkdir()
        (folder / "note.py").touch()
        await asyncio.sleep(2 * WATCH_SECONDS)
        assert "there is no extension.json in" in shown(running, "hello").reason
        shutil.rmtree(folder)
        away.rename(folder)
        await until("started")
        assert shown(running, "hello").state == "started"
