"""http.request against a real server on loopback."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from ordinaut.errors import InvalidArguments, StepError, ToolError
from ordinaut.model import uuid7
from ordinaut.testing import ExtensionKit, extension_kit


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says: /status/404, /echo, /redirect?to=…, /bytes?n=…"""

    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        getattr(self, "on_" + parts.path.split("/")[1])(parts.path, query, body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _any

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def on_status(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.reply(int(path.split("/")[2]), b"said no", content_type="text/plain")

    def on_echo(self, path: str, query: dict[str, str], body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        said = {
            "method": self.command,
            "query": urlsplit(self.path).query,
            "headers": headers,
            "body": body.decode(),
        }
        self.reply(200, json.dumps(said).encode(), content_type="application/json; charset=utf-8")

    def on_redirect(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.reply(302, b"", location=query["to"])

    def on_loop(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.reply(302, b"", location="/loop")

    def on_pages(self, path: str, query: dict[str, str], body: bytes) -> None:
        """Seven numbers, three a page; the next page is told in every way there is."""
        first = int(query.get("after", 0))
        numbers = list(range(first, min(first + 3, 7)))
        token = numbers[-1] + 1 if numbers and numbers[-1] < 6 else None
        following = f"/pages?after={token}" if token else None
        said = {"rows": numbers, "next": following, "cursor": token}
        link = {"link": f'<{following}>; rel="next"'} if following else {}
        content = json.dumps(said).encode()
        self.reply(200, content, content_type="application/json", **link)

    def on_away(self, path: str, query: dict[str, str], body: bytes) -> None:
        content = b'{"rows": [], "next": "http://127.0.0.2/steal"}'
        self.reply(200, content, content_type="application/json")

    def on_cookie(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.reply(200, b"", set_cookie="who=someone; Path=/")

    def on_bytes(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.reply(200, b"x" * int(query["n"]), content_type="text/plain")

    def on_bomb(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.reply(200, gzip.compress(b"x" * int(query["n"])), content_encoding="gzip")

    def on_raw(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.reply(200, bytes.fromhex(query["hex"]), content_type=query["type"])

    def on_silence(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.rfile.read(1)  # nothing comes: until the client hangs up

    def on_hangup(self, path: str, query: dict[str, str], body: bytes) -> None:
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
async def kit() -> AsyncIterator[ExtensionKit]:
    async with extension_kit("http", config={"allow_private": "true"}) as one:
        yield one


async def request(kit: ExtensionKit, url: str, **given: Any) -> Any:
    return await kit.call("http.request", {"url": url, **given})


async def test_a_json_answer_comes_as_json(kit: ExtensionKit, server: str) -> None:
    answer = await request(kit, f"{server}/echo")
    assert answer["status"] == 200
    assert answer["json"]["method"] == "GET"
    assert answer["headers"]["content-type"].startswith("application/json")
    assert answer["elapsed_ms"] > 0
    assert "text" not in answer


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_is_sent(kit: ExtensionKit, server: str, method: str) -> None:
    answer = await request(kit, f"{server}/echo", method=method)
    assert answer["json"]["method"] == method


async def test_head_has_a_status_and_no_body(kit: ExtensionKit, server: str) -> None:
    answer = await request(kit, f"{server}/echo", method="HEAD")
    assert (answer["status"], answer["text"]) == (200, "")


async def test_json_form_body_query_and_headers_arrive(kit: ExtensionKit, server: str) -> None:
    sent = (await request(kit, f"{server}/echo?a=1", method="POST", json={"x": [1, "ș"]}))["json"]
    assert json.loads(sent["body"]) == {"x": [1, "ș"]}
    assert sent["headers"]["content-type"] == "application/json"
    assert sent["query"] == "a=1"
    sent = (await request(kit, f"{server}/echo", method="POST", form={"a": "1", "b": [2, 3]}))[
        "json"
    ]
    assert sent["body"] == "a=1&b=2&b=3"
    assert sent["headers"]["content-type"] == "application/x-www-form-urlencoded"
    headers = {"Content-Type": "text/csv", "X-Mine": "yes"}
    sent = (
        await request(
            kit, f"{server}/echo", method="POST", body="a,b", headers=headers, query={"q": [1, 2]}
        )
    )["json"]
    assert (sent["body"], sent["query"]) == ("a,b", "q=1&q=2")
    assert (sent["headers"]["content-type"], sent["headers"]["x-mine"]) == ("text/csv", "yes")


async def test_a_query_is_added_to_the_one_of_the_url(kit: ExtensionKit, server: str) -> None:
    sent = (await request(kit, f"{server}/echo?a=1", query={"b": "x y"}))["json"]
    assert sent["query"] == "a=1&b=x+y"


async def test_every_call_carries_the_key_of_its_step(kit: ExtensionKit, server: str) -> None:
    run = uuid7()
    arguments = {"url": f"{server}/echo", "method": "POST"}
    answer = await kit.call("http.request", arguments, run_id=run)
    assert answer["json"]["headers"]["idempotency-key"] == f"{run}:step"
    own = await request(kit, f"{server}/echo", headers={"Idempotency-Key": "mine"})
    assert own["json"]["headers"]["idempotency-key"] == "mine"


@pytest.mark.parametrize(
    "auth",
    [{"bearer": "t0k"}, {"basic": {"username": "ana", "password": "pa:ss"}}],
)
async def test_credentials_are_sent_as_the_scheme_wants(
    kit: ExtensionKit, server: str, auth: dict[str, Any]
) -> None:
    sent = (await request(kit, f"{server}/echo", auth=auth))["json"]["headers"]
    expected = "Bearer t0k" if "bearer" in auth else "Basic YW5hOnBhOnNz"
    assert sent["authorization"] == expected


@pytest.mark.parametrize(
    "rule",
    [{"next": "json.next"}, {"next": "json.cursor", "param": "after"}, {"next": "links.next"}],
)
async def test_pages_are_collected(kit: ExtensionKit, server: str, rule: dict[str, str]) -> None:
    paginate = {"items": "rows", **rule}
    answer = await request(kit, f"{server}/pages", paginate=paginate)
    assert answer["items"] == [0, 1, 2, 3, 4, 5, 6]
    assert (answer["pages"], answer["truncated"], answer["status"]) == (3, False, 200)
    answer = await request(kit, f"{server}/pages", paginate={**paginate, "max_pages": 2})
    assert answer["items"] == [0, 1, 2, 3, 4, 5]
    assert (answer["pages"], answer["truncated"]) == (2, True)


async def test_credentials_do_not_follow_a_page_to_another_host(
    kit: ExtensionKit, server: str
) -> None:
    with pytest.raises(ToolError, match="lies on another host") as refused:
        await request(kit, f"{server}/away", paginate={"items": "rows", "next": "json.next"})
    assert not refused.value.retryable


async def test_items_that_are_no_list_fail_the_step(kit: ExtensionKit, server: str) -> None:
    with pytest.raises(ToolError, match="does not yield a list"):
        await request(kit, f"{server}/echo", paginate={"items": "method", "next": "json.next"})


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (404, False), (408, True), (429, True), (500, True), (503, True)],
)
async def test_a_bad_status_fails_the_step_and_says_whether_to_retry(
    kit: ExtensionKit, server: str, status: int, retryable: bool
) -> None:
    with pytest.raises(ToolError, match=f"answered {status}") as failed:
        await request(kit, f"{server}/status/{status}")
    assert failed.value.retryable is retryable
    assert failed.value.details["status"] == status
    assert failed.value.details["text"] == "said no"


async def test_a_bad_status_is_an_answer_when_asked_for(kit: ExtensionKit, server: str) -> None:
    answer = await request(kit, f"{server}/status/404", raise_for_status=False)
    assert (answer["status"], answer["text"]) == (404, "said no")
    assert (await request(kit, f"{server}/status/404", expect_status=[404]))["status"] == 404
    with pytest.raises(ToolError, match="answered 200"):
        await request(kit, f"{server}/echo", expect_status=[404])


async def test_an_answer_without_content_is_empty_text(kit: ExtensionKit, server: str) -> None:
    answer = await request(kit, f"{server}/raw?hex=&type=text/plain")
    assert answer["text"] == ""


@pytest.mark.parametrize(
    ("content", "media_type", "key", "value"),
    [
        (b'{"a": 1}', "application/problem+json", "json", {"a": 1}),
        (b"[1, 2", "application/json", "text", "[1, 2"),
        (b'"\\u0000"', "application/json", "text", '"\\u0000"'),
        (b'"\\ud800"', "application/json", "text", '"\\ud800"'),
        ("ș".encode(), "text/plain", "text", "ș"),
        ("ș".encode("iso-8859-16"), "text/plain;%20charset=iso-8859-16", "text", "ș"),
        (b"\xff\xfe", "text/plain", "base64", "//4="),
        (b"a\x00b", "application/octet-stream", "base64", "YQBi"),
        (b"x", "text/plain;%20charset=nonsense", "base64", "eA=="),
    ],
)
async def test_an_answer_is_json_text_or_base64(
    kit: ExtensionKit, server: str, content: bytes, media_type: str, key: str, value: Any
) -> None:
    url = f"{server}/raw?hex={content.hex()}&type={media_type.replace('+', '%2B')}"
    assert (await request(kit, url))[key] == value


@pytest.mark.parametrize("path", ["/bytes?n=1000001", "/bomb?n=50000000"])
async def test_an_answer_over_the_limit_is_refused(
    kit: ExtensionKit, server: str, path: str
) -> None:
    with pytest.raises(ToolError, match="over 1000000 bytes") as failed:
        await request(kit, server + path)
    assert not failed.value.retryable


async def test_an_answer_at_the_limit_is_taken(kit: ExtensionKit, server: str) -> None:
    assert len((await request(kit, f"{server}/bytes?n=1000000"))["text"]) == 1_000_000


async def test_a_redirect_is_followed_unless_it_is_not_wanted(
    kit: ExtensionKit, server: str
) -> None:
    url = f"{server}/redirect?to=/echo"
    assert (await request(kit, url))["json"]["method"] == "GET"
    assert (await request(kit, url, follow_redirects=False))["status"] == 302
    with pytest.raises(ToolError, match="redirects too often"):
        await request(kit, f"{server}/loop")


async def test_cookies_do_not_travel_from_call_to_call(kit: ExtensionKit, server: str) -> None:
    await request(kit, f"{server}/cookie")
    assert "cookie" not in (await request(kit, f"{server}/echo"))["json"]["headers"]


async def test_a_call_that_gets_no_answer_ends_in_time_and_may_be_retried(
    kit: ExtensionKit, server: str
) -> None:
    with pytest.raises(ToolError, match=r"in 0\.05 s") as failed:
        await request(kit, f"{server}/silence", timeout_seconds=0.05, body="", method="POST")
    assert failed.value.retryable


@pytest.mark.parametrize("path", ["/hangup"])
async def test_a_broken_connection_may_be_retried(
    kit: ExtensionKit, server: str, path: str
) -> None:
    with pytest.raises(ToolError) as failed:
        await request(kit, server + path)
    assert failed.value.retryable


async def test_a_closed_port_and_an_unknown_name_may_be_retried(kit: ExtensionKit) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "http://nowhere.invalid/"):
        with pytest.raises(ToolError) as failed:
            await request(kit, url)
        assert failed.value.retryable


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/", "file:///etc/passwd", "example.com", "http://", "http://[::1", "x:y"],
)
async def test_what_is_not_a_web_address_is_refused_for_good(kit: ExtensionKit, url: str) -> None:
    with pytest.raises(ToolError, match="url") as failed:
        await request(kit, url)
    assert not failed.value.retryable


@pytest.mark.parametrize(
    "given",
    [
        {"json": 1, "body": "x"},
        {"json": 1, "form": {}},
        {"method": "BREW"},
        {"timeout_seconds": 0},
        {"headers": {"a": 1}},
        {"unknown": True},
        {"auth": {}},
        {"auth": {"bearer": "a", "basic": {"username": "a", "password": "b"}}},
        {"paginate": {"items": "a"}},
    ],
)
async def test_arguments_that_make_no_sense_are_refused(
    kit: ExtensionKit, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArguments):
        await request(kit, "http://127.0.0.1/", **given)


async def test_a_header_that_smuggles_a_line_is_refused(kit: ExtensionKit, server: str) -> None:
    with pytest.raises(StepError) as failed:
        await request(kit, f"{server}/echo", headers={"X-A": "a\r\nX-B: b"})
    assert not failed.value.retryable


async def test_a_password_in_the_address_stays_out_of_the_error(
    kit: ExtensionKit, server: str
) -> None:
    url = server.replace("http://", "http://user:hunter2@") + "/status/500?token=hunter2"
    with pytest.raises(ToolError) as failed:
        await request(kit, url)
    assert "hunter2" not in failed.value.message


SPELLINGS = (
    "127.0.0.1 localhost 2130706433 0x7f000001 0177.0.0.1 127.1 [::1] [::ffff:127.0.0.1] "
    "[::ffff:7f00:1] 0.0.0.0 0 169.254.169.254 10.0.0.1"
)


@pytest.mark.parametrize("host", SPELLINGS.split())
async def test_an_address_inside_is_refused_in_every_spelling(server: str, host: str) -> None:
    port = urlsplit(server).port
    async with extension_kit("http") as guarded:
        with pytest.raises(ToolError, match=r"is refused|can not be used") as failed:
            await request(guarded, f"http://{host}:{port}/echo")
    assert not failed.value.retryable


async def test_a_redirect_inward_is_refused(server: str) -> None:
    port = urlsplit(server).port
    options = {"allow_hosts": f"127.0.0.1:{port}"}
    async with extension_kit("http", config=options) as guarded:
        assert (await request(guarded, f"{server}/echo"))["status"] == 200
        with pytest.raises(ToolError, match="is refused"):
            await request(guarded, f"{server}/redirect?to=http://localhost:{port}/echo")


async def test_the_metadata_address_stays_refused_where_private_ones_are_allowed(
    kit: ExtensionKit,
) -> None:
    with pytest.raises(ToolError, match="metadata"):
        await request(kit, "http://169.254.169.254/latest/meta-data/")
