"""smtp.send against a real server on loopback that speaks the protocol."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from collections.abc import AsyncIterator, Iterator
from email.message import EmailMessage
from typing import Any, cast

import pytest

from ordinaut.errors import EffectUnknown, InvalidArguments, ToolError
from ordinaut.model import uuid7
from ordinaut.testing import ExtensionKit, extension_kit

MAIL = {"to": "ana@example.com", "subject": "Salut", "text": "ce mai faci?"}


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mail; ``replies`` are answers to verbs other than the usual ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.mails: list[tuple[list[str], EmailMessage]] = []
        self.replies: dict[str, str] = {}


class Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        recipients: list[str] = []
        self.say("220 ready")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            reply = self.server.replies.get(line.upper()) or self.server.replies.get(verb)
            if reply == "hang up":
                return
            if reply:
                self.say(reply)
            elif verb == "DATA":
                self.say("354 go on")
                self.take(recipients)
            elif verb == "RCPT":
                recipients.append(line.partition("<")[2].rstrip(">"))
                self.say("250 ok")
            else:
                self.say("221 bye" if verb == "QUIT" else "250 ok")

    def take(self, recipients: list[str]) -> None:
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line)
        if reply := self.server.replies.get("."):
            if reply != "hang up":
                self.say(reply)
            self.connection.close()
            return
        message = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        self.server.mails.append((recipients, cast(EmailMessage, message)))
        self.say("250 taken")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
async def kit(server: MailServer) -> AsyncIterator[ExtensionKit]:
    config = {
        "host": "127.0.0.1",
        "port": str(server.server_address[1]),
        "security": "none",
        "sender": "Ordinaut <robot@example.com>",
        "timeout_seconds": "5",
    }
    async with extension_kit("smtp", config=config) as one:
        yield one


async def send(kit: ExtensionKit, **given: Any) -> Any:
    return await kit.call("smtp.send", MAIL | given)


async def test_a_mail_arrives_with_its_headers(kit: ExtensionKit, server: MailServer) -> None:
    run = uuid7()
    arguments = MAIL | {
        "to": ["Ana Țurcan <ana@example.com>", "ion@example.com"],
        "cc": "cc@example.com",
        "bcc": "hidden@example.com",
        "html": "<b>ce mai faci?</b>",
        "reply_to": "people@example.com",
    }
    answer = await kit.call("smtp.send", arguments, run_id=run)
    [(recipients, mail)] = server.mails
    everybody = ["ana@example.com", "ion@example.com", "cc@example.com", "hidden@example.com"]
    assert recipients == answer["accepted"] == everybody
    assert answer["refused"] == {}
    assert mail["From"] == "Ordinaut <robot@example.com>"
    assert mail["To"].addresses[0].display_name == "Ana Țurcan"
    assert mail["Reply-To"] == "people@example.com"
    assert mail["Message-ID"] == answer["message_id"] == f"<{run}.step@example.com>"
    assert "hidden" not in mail.as_string()
    plain, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None
    assert html is not None
    assert plain.get_content().strip() == "ce mai faci?"
    assert html.get_content().strip() == "<b>ce mai faci?</b>"


async def test_a_mail_may_be_html_alone(kit: ExtensionKit, server: MailServer) -> None:
    arguments = {"to": "ana@example.com", "subject": "x", "html": "<p>y</p>"}
    await kit.call("smtp.send", arguments)
    [(_, mail)] = server.mails
    assert mail.get_content_type() == "text/html"


async def test_a_line_break_makes_no_new_header(kit: ExtensionKit, server: MailServer) -> None:
    await send(kit, subject="Hello\r\nBcc: everybody@example.com")
    [(recipients, mail)] = server.mails
    assert recipients == ["ana@example.com"]
    assert mail["Bcc"] is None


@pytest.mark.parametrize("address", ["nobody", "a@b\r\nBcc: c@d", "a b@c", "<>", "a@b, c@d"])
async def test_what_is_not_an_address_is_refused_for_good(
    kit: ExtensionKit, server: MailServer, address: str
) -> None:
    with pytest.raises((ToolError, InvalidArguments)) as refused:
        await send(kit, to=address)
    assert not refused.value.retryable
    assert server.mails == []


async def test_recipients_that_are_refused_are_in_the_output(
    kit: ExtensionKit, server: MailServer
) -> None:
    server.replies["RCPT TO:<GONE@EXAMPLE.COM>"] = "550 no such user"
    answer = await send(kit, to=["ana@example.com", "gone@example.com"])
    assert answer["accepted"] == ["ana@example.com"]
    assert answer["refused"] == {"gone@example.com": "no such user"}


@pytest.mark.parametrize(
    ("verb", "reply", "retryable"),
    [
        ("RCPT", "550 no such user", False),
        ("RCPT", "450 come back later", True),
        ("MAIL", "552 over quota", False),
        ("MAIL", "452 disk full", True),
        ("EHLO", "hang up", True),
        (".", "554 looks like spam", False),
        (".", "451 greylisted", True),
    ],
)
async def test_who_knows_that_nothing_was_sent_may_try_again(
    kit: ExtensionKit, server: MailServer, verb: str, reply: str, retryable: bool
) -> None:
    server.replies[verb] = reply
    with pytest.raises(ToolError) as failed:
        await send(kit)
    assert failed.value.retryable is retryable
    assert server.mails == []


@pytest.mark.parametrize("verb", ["DATA", "."])
async def test_a_mail_whose_fate_is_not_known_is_for_a_person(
    kit: ExtensionKit, server: MailServer, verb: str
) -> None:
    server.replies[verb] = "hang up"
    with pytest.raises(EffectUnknown, match="may or may not have been sent"):
        await send(kit)


async def test_encryption_that_the_server_does_not_offer_is_an_error(server: MailServer) -> None:
    config = {"host": "127.0.0.1", "port": str(server.server_address[1]), "sender": "a@b.example"}
    async with extension_kit("smtp", config=config) as kit:
        with pytest.raises(ToolError, match="STARTTLS") as failed:
            await send(kit)
    assert not failed.value.retryable
    assert server.mails == []


async def test_without_a_server_the_message_says_what_to_set() -> None:
    async with extension_kit("smtp") as kit:
        with pytest.raises(ToolError, match="ORDINAUT_EXT_SMTP__HOST"):
            await send(kit)


@pytest.mark.parametrize("given", [{"text": None}, {"to": []}, {"attachment": "x"}])
async def test_arguments_that_make_no_sense_are_refused(
    kit: ExtensionKit, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArguments):
        await send(kit, **given)
