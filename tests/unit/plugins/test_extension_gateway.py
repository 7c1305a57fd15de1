"""Requests to extensions: first ones, streamed ones, forbidden ones, those to broken ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from extending import HELLO, extension, host, shown, write
from ordinaut.api import errors
from ordinaut.errors import Forbidden
from ordinaut.plugins.gateway import is_public
from ordinaut.plugins.host import ExtensionHost
from ordinaut.plugins.schema import parse_manifest

ECHO = """
router = APIRouter()
@router.api_route("/echo", methods=["GET", "POST", "PUT", "DELETE"])
async def echo(request: Request):
    body = await request.body()
    return {"method": request.method, "body": body.decode(), "query": str(request.query_params),
            "root": request.scope["root_path"], "url": str(request.url_for("echo"))}
@router.get("/")
async def front(): return "front"
return router
"""


async def anyone(scope: Any, needed: str) -> None:
    return None


@asynccontextmanager
async def served(running: ExtensionHost) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    errors.install(app)
    app.mount("/ext", running.gateway)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with running, httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


def echo(root: Path, **manifest: Any) -> None:
    code = extension("demo", wants="ROUTES", setup=ECHO)
    write(root, "demo", code, **{"grants": ["ROUTES"]} | manifest)


async def test_the_ten_line_example_works_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "hello", HELLO, grants=["ROUTES"])
    async with served(host(tmp_path, authorize=anyone)) as client:
        answer = await client.get("/ext/hello/hello")
    assert (answer.status_code, answer.json()) == (200, {"hello": "world"})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_the_first_request_arrives_whole(tmp_path: Path, method: str) -> None:
    echo(tmp_path)
    running = host(tmp_path, authorize=anyone)
    async with served(running) as client:
        assert shown(running, "demo").state == "discovered"
        body = "x" * 300_000
        answer = await client.request(method, "/ext/demo/echo?a=1", content=body)
        assert shown(running, "demo").state == "started"
    assert answer.json() == {
        "method": method,
        "body": body,
        "query": "a=1",
        "root": "/ext/demo",
        "url": "http://x/ext/demo/echo",
    }


async def test_many_first_requests_load_it_once(tmp_path: Path) -> None:
    echo(tmp_path)
    counter = tmp_path / "loads"
    with (tmp_path / "demo" / "extension.py").open("a") as file:
        file.write(f"\nwith open({str(counter)!r}, 'a') as f: f.write('x')\n")
    async with served(host(tmp_path, authorize=anyone)) as client:
        answers = await asyncio.gather(*(client.post("/ext/demo/echo") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert counter.read_text() == "x"


@pytest.mark.parametrize("path", ["/ext/demo", "/ext/demo/"])
async def test_the_front_page_needs_no_trailing_slash(tmp_path: Path, path: str) -> None:
    echo(tmp_path)
    async with served(host(tmp_path, authorize=anyone)) as client:
        assert (await client.get(path)).json() == "front"


@pytest.mark.parametrize("path", ["/ext", "/ext/", "/ext/nope", "/ext/nope/x", "/ext/dem/x"])
async def test_an_unknown_extension_is_a_404_problem(tmp_path: Path, path: str) -> None:
    echo(tmp_path)
    async with served(host(tmp_path, authorize=anyone)) as client:
        answer = await client.get(path, follow_redirects=True)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_response_streams_while_it_is_made(tmp_path: Path) -> None:
    setup = """
    from fastapi.responses import StreamingResponse
    self.go = asyncio.Event()
    router = APIRouter()
    @router.get("/stream")
    async def stream():
        async def parts():
            yield "first"
            await self.go.wait()
            yield "second"
        return StreamingResponse(parts())
    @router.get("/go")
    async def go(): self.go.set()
    return router
    """
    write(tmp_path, "demo", extension("demo", wants="ROUTES", setup=setup), grants=["ROUTES"])
    running = host(tmp_path, authorize=anyone)
    parts: asyncio.Queue[bytes] = asyncio.Queue()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        if message.get("body"):
            parts.put_nowait(message["body"])

    scope = {"type": "http", "method": "GET", "path": "/stream", "headers": [], "query_string": b""}
    async with served(running) as client, asyncio.timeout(10):
        answering = asyncio.create_task(
            running.gateway({**scope, "path": "/demo/stream"}, receive, send)
        )
        assert await parts.get() == b"first"
        assert (await client.get("/ext/demo/go")).status_code == 200
        assert await parts.get() == b"second"
        await answering


async def test_a_caller_without_the_scope_does_not_even_load_it(tmp_path: Path) -> None:
    echo(tmp_path)
    asked: list[str] = []

    async def refuse(scope: Any, needed: str) -> None:
        asked.append(needed)
        raise Forbidden("no")

    running = host(tmp_path, authorize=refuse)
    async with served(running) as client:
        assert (await client.post("/ext/demo/echo")).status_code == 403
        assert shown(running, "demo").state == "discovered"
    assert asked == ["ext:demo:routes"]


async def test_without_a_rule_nobody_is_let_in(tmp_path: Path) -> None:
    echo(tmp_path)
    async with served(host(tmp_path)) as client:
        assert (await client.get("/ext/demo/echo")).status_code == 403


async def test_only_declared_routes_are_public(tmp_path: Path) -> None:
    echo(tmp_path, public_routes=["/echo"])
    async with served(host(tmp_path)) as client:
        assert (await client.get("/ext/demo/echo")).status_code == 200
        assert (await client.post("/ext/demo/echo")).status_code == 403
        assert (await client.get("/ext/demo/")).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "public"),
    [
        ("GET", "/meta", True),
        ("HEAD", "/meta", True),
        ("POST", "/meta", False),
        ("GET", "/meta/", False),
        ("POST", "/login", True),
        ("GET", "/login", False),
        ("GET", "/static/app.js", True),
        ("GET", "/static/../secret", False),
        ("GET", "/static//secret", False),
        ("GET", "/static\\..\\secret", False),
        ("GET", "/other", False),
    ],
)
def test_a_public_route_is_matched_exactly(method: str, path: str, public: bool) -> None:
    manifest = parse_manifest(
        '{"id": "a", "name": "A", "version": "1",'
        ' "public_routes": ["/meta", "POST /login", "/static/*"]}'
    )
    assert is_public(manifest, method, path) is public


async def test_a_broken_extension_answers_503_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, "bad", "def get_extension(:", grants=["ROUTES"])
    async with served(host(tmp_path, authorize=anyone)) as client:
        answer = await client.get("/ext/bad/x")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert "SyntaxError" in answer.json()["detail"]


async def test_a_route_that_raises_is_a_500_problem_of_its_own(tmp_path: Path) -> None:
    setup = """
    router = APIRouter()
    @router.get("/bad")
    async def bad(): raise RuntimeError("secret detail")
    @router.get("/worse")
    async def worse(): raise SystemExit(3)
    @router.get("/good")
    async def good(): return 1
    return router
    """
    write(tmp_path, "demo", extension("demo", wants="ROUTES", setup=setup), grants=["ROUTES"])
    async with served(host(tmp_path, authorize=anyone)) as client:
        answer = await client.get("/ext/demo/bad")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret detail" not in answer.text
        assert (await client.get("/ext/demo/worse")).status_code >= 500
        assert (await client.get("/ext/demo/good")).json() == 1


async def test_requests_do_not_pile_up_behind_a_route_that_blocks(tmp_path: Path) -> None:
    setup = """
    router = APIRouter()
    @router.get("/block")
    async def block(): time.sleep(4)
    @router.get("/ok")
    async def ok(): return 1
    return router
    """
    write(tmp_path, "demo", extension("demo", wants="ROUTES", setup=setup), grants=["ROUTES"])
    async with served(host(tmp_path, authorize=anyone)) as client, asyncio.timeout(20):
        assert (await client.get("/ext/demo/ok")).json() == 1
        blocking = asyncio.create_task(client.get("/ext/demo/block"))
        while not blocking.done():
            refused = asyncio.create_task(client.get("/ext/demo/ok"))
            await asyncio.wait([refused], timeout=0.5)
            if refused.done() and refused.result().status_code == 503:
                break
        else:
            pytest.fail("nobody was refused")
        assert "has blocked its event loop" in refused.result().json()["detail"]
        assert not blocking.done()
        await blocking
        assert (await client.get("/ext/demo/ok")).json() == 1


async def test_a_disabled_extension_answers_503(tmp_path: Path) -> None:
    echo(tmp_path)
    running = host(tmp_path, authorize=anyone)
    async with served(running) as client:
        assert (await client.get("/ext/demo/echo")).status_code == 200
        await running.disable("demo")
        answer = await client.get("/ext/demo/echo")
        assert (answer.status_code, "disabled" in answer.json()["detail"]) == (503, True)
        await running.enable("demo")
        assert (await client.get("/ext/demo/echo")).status_code == 200


async def test_an_extension_without_routes_is_not_served(tmp_path: Path) -> None:
    write(tmp_path, "demo", extension("demo", wants="TOOLS"), grants=["TOOLS"])
    async with served(host(tmp_path, authorize=anyone)) as client:
        assert (await client.get("/ext/demo/")).status_code == 404


async def test_routes_that_the_operator_took_away_are_refused_by_name(tmp_path: Path) -> None:
    code = extension("demo", wants="ROUTES", setup="return None")
    write(tmp_path, "demo", code, grants=["ROUTES"])
    options = {"demo": {"grants": ""}}
    async with served(host(tmp_path, authorize=anyone, ext_options=options)) as client:
        answer = await client.get("/ext/demo/")
    assert (answer.status_code, answer.json()["code"]) == (503, "capability_denied")


async def test_the_outer_application_learns_which_route_it_was(tmp_path: Path) -> None:
    setup = """
    router = APIRouter()
    @router.get("/pets/{name}")
    async def pet(name: str): return name
    return router
    """
    write(tmp_path, "demo", extension("demo", wants="ROUTES", setup=setup), grants=["ROUTES"])
    running = host(tmp_path, authorize=anyone)
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["root_path"] = "/ext"
        await running.gateway(scope, receive, send)
        seen.append(scope["route"].path)

    transport = httpx2.ASGITransport(app=app)
    async with running, httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/ext/demo/pets/rex")).json() == "rex"
        await client.get("/ext/demo/nothing")
    assert seen == ["/ext/demo/pets/{name}", "/ext/demo"]
