"""What broken extensions do, and that nobody else notices."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extending import HELLO, extension, host, shown, write
from ordinaut.plugins.base import Extension
from ordinaut.plugins.host import ExtensionHost
from ordinaut.plugins.life import Life
from ordinaut.plugins.member import Limits

LIMITS = Limits(load=2.0, start=2.0, stop=1.0)

# name -> (code, part of the reason)
BROKEN = {
    "syntax": ("def get_extension(:", "SyntaxError"),
    "slow_import": ("import time; time.sleep(2.5)", "load took longer than 2 s"),
    "no_factory": ("x = 1", "has no get_extension()"),
    "wrong_object": ("def get_extension(): return object()", "gave object, not an Extension"),
    "exits": ("import sys; sys.exit(3)", "its code called exit(3)"),
    "missing_module": ("import nowhere_to_be_found", "ModuleNotFoundError"),
    "info": (
        extension("info").replace("return ExtensionInfo", "1/0; return ExtensionInfo"),
        "ZeroDivisionError",
    ),
    "requests": (
        extension("requests").replace("return {} or set()", "raise KeyError('why')"),
        "KeyError: 'why'",
    ),
    "setup": (extension("setup", setup="raise ValueError('no')"), "load: ValueError: no"),
    "returns": (extension("returns", wants="ROUTES", setup="return 7"), "not an APIRouter"),
    "wishes": (
        extension("wishes").replace("tool_registry, grants", "tool_registry, house, grants"),
        "setup() asks for 'house'",
    ),
    "startup": (
        extension("startup", more="async def on_startup(self, app): raise OSError('shut')"),
        "start: OSError: shut",
    ),
    "slow_startup": (
        extension("slow_startup", more="async def on_startup(self, app): await asyncio.sleep(9)"),
        "start took longer than 2 s",
    ),
    "blocks_startup": (
        extension("blocks_startup", more="async def on_startup(self, app): time.sleep(2.5)"),
        "start took longer than 2 s",
    ),
    "endless_setup": (extension("endless_setup", setup="while True: pass"), "load took longer"),
}


@asynccontextmanager
async def pulse() -> AsyncIterator[Callable[[], float]]:
    """Yield what tells by how much the core's loop was late at worst, in seconds."""
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            worst = max(worst, time.perf_counter() - before - 0.01)

    beating = asyncio.create_task(beat())
    yield lambda: worst
    beating.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, up to half a minute."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    for name, (code, _) in BROKEN.items():
        write(tmp_path, name, code, grants=["ROUTES"], eager=True)
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    return tmp_path


async def test_every_broken_extension_is_shown_with_its_reason_and_harms_nobody(
    broken: Path,
) -> None:
    async with host(broken, limits=LIMITS) as running, pulse() as worst:
        await until(lambda: all(shown(running, name).state == "failed" for name in BROKEN))
        for name, (_, reason) in BROKEN.items():
            one = shown(running, name)
            assert one.state == "failed", name
            assert reason in one.reason, (name, one.reason)
        assert shown(running, "hello").state == "started"
        await asyncio.sleep(0.2)
        assert worst() < 0.5


async def test_the_core_keeps_its_time_while_extensions_block(tmp_path: Path) -> None:
    code = extension("blocks", setup="time.sleep(0.4)")
    write(tmp_path, "blocks", code, eager=True)
    running = host(tmp_path)
    async with pulse() as worst:
        async with running:
            assert shown(running, "blocks").state == "started"
        assert worst() < 0.3


async def test_a_stranger_that_takes_long_to_start_holds_nobody_up(tmp_path: Path) -> None:
    code = extension("slow", more="async def on_startup(self, app): await asyncio.sleep(0.5)")
    write(tmp_path, "slow", code, eager=True)
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    async with host(tmp_path, limits=Limits(patience=0.3)) as running:
        assert shown(running, "slow").state != "started"
        assert shown(running, "hello").state == "started"
        await until(lambda: shown(running, "slow").state == "started")
    assert shown(running, "slow").state == "stopped"


async def test_a_process_may_stop_while_a_stranger_starts(tmp_path: Path) -> None:
    code = extension("slow", more="async def on_startup(self, app): await asyncio.sleep(60)")
    write(tmp_path, "slow", code, eager=True)
    async with host(tmp_path, limits=Limits(patience=0.1)) as running:
        assert shown(running, "slow").state != "started"
    assert shown(running, "slow").state == "stopped"


async def test_a_task_that_never_gives_way_is_ended(tmp_path: Path) -> None:
    setup = """
    async def hog():
        await asyncio.sleep(0.2)
        while True:
            try:
                while True: pass
            except Exception: pass
    context["background"].run("hog", hog)
    """
    code = extension("hog", wants="BACKGROUND_TASKS", setup=setup)
    write(tmp_path, "hog", code, grants=["BACKGROUND_TASKS"])
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    async with host(tmp_path) as running:
        await until(lambda: shown(running, "hog").state == "failed")
        assert "without giving way" in shown(running, "hog").reason
        assert shown(running, "hello").state == "started"
        async with pulse() as worst:
            await asyncio.sleep(0.3)
        assert worst() < 0.5


async def test_a_start_that_never_gives_way_is_ended_before_its_time_is_over(
    tmp_path: Path,
) -> None:
    spin = "async def on_startup(self, app):\n    while True: pass"
    write(tmp_path, "spins", extension("spins", more=spin), eager=True)
    async with host(tmp_path, limits=Limits(start=60.0, patience=0.0)) as running:
        await until(lambda: shown(running, "spins").state == "failed")
        assert "without giving way" in shown(running, "spins").reason


async def test_a_background_task_that_fails_is_restarted_with_backoff_and_seen(
    tmp_path: Path,
) -> None:
    setup = """
    async def fails(): raise RuntimeError("again")
    async def exits(): raise SystemExit(1)
    async def ends(): pass
    context["background"].run("fails", fails)
    context["background"].run("exits", exits)
    context["background"].run("ends", ends, restart=False)
    """
    code = extension("demo", wants="BACKGROUND_TASKS", setup=setup)
    write(tmp_path, "demo", code, grants=["BACKGROUND_TASKS"])

    def tasks(running: ExtensionHost) -> dict[str, Any]:
        return {str(task["name"]): task for task in shown(running, "demo").background}

    async with host(tmp_path) as running:
        await until(lambda: tasks(running)["fails"]["restarts"] >= 1)
        await until(lambda: tasks(running)["ends"]["state"] == "finished")
        seen = tasks(running)
    assert seen["fails"]["last_error"] == "RuntimeError: again"
    assert seen["exits"]["last_error"] == "SystemExit: 1"
    assert seen["ends"]["restarts"] == 0


async def test_more_background_tasks_than_allowed_are_refused(tmp_path: Path) -> None:
    setup = "for n in range(33): context['background'].run(str(n), asyncio.Event().wait)"
    code = extension("many", wants="BACKGROUND_TASKS", setup=setup)
    write(tmp_path, "many", code, grants=["BACKGROUND_TASKS"])
    async with host(tmp_path) as running:
        assert "may have 32 background tasks" in shown(running, "many").reason


def test_a_life_whose_loop_was_ended_by_force_is_let_go_in_silence() -> None:
    class Closing(Extension):
        async def on_shutdown(self, app: Any) -> None:
            await asyncio.sleep(0)

    kit: Any = SimpleNamespace(app=None, app_facade=None, workers=())
    loop = asyncio.new_event_loop()
    life = Life(Closing(), kit, live=True)
    loop.run_until_complete(life.enter())
    loop.close()
    del life, loop
    gc.collect()  # a coroutine that awaits while it is destroyed fails the test


async def test_tasks_that_an_extension_leaks_end_with_it(tmp_path: Path) -> None:
    marker = tmp_path / "cancelled"
    more = f"""
    async def on_startup(self, app):
        async def leak():
            try: await asyncio.Event().wait()
            finally: open({str(marker)!r}, "w").close()
        self.leaked = [asyncio.create_task(leak()) for _ in range(100)]
        await asyncio.sleep(0)
    """
    write(tmp_path, "leak", extension("leak", more=more), eager=True)
    async with host(tmp_path) as running:
        assert shown(running, "leak").state == "started"
    assert marker.exists()


async def test_a_shutdown_that_fails_or_hangs_does_not_hold_the_others(tmp_path: Path) -> None:
    raises = extension("raises", more="async def on_shutdown(self, app): raise OSError('late')")
    hangs = extension("hangs", more="async def on_shutdown(self, app): await asyncio.sleep(60)")
    write(tmp_path, "raises", raises, eager=True)
    write(tmp_path, "hangs", hangs, eager=True)
    write(tmp_path, "hello", HELLO, grants=["ROUTES"], eager=True)
    running = host(tmp_path, limits=LIMITS)
    async with running:
        pass
    assert "OSError: late" in shown(running, "raises").reason
    assert "stop took longer" in shown(running, "hangs").reason
    assert shown(running, "hello").state == "stopped"
