"""One mail: how it is written, handed over, and when trying again can help."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, getaddresses
from typing import Any, Literal

from ordinaut.plugins.base import EffectUnknown, Json, ToolContext, ToolError

MAX_RECIPIENTS = 100

_ADDRESS: dict[str, Any] = {"type": "string", "minLength": 3, "maxLength": 320}
_ADDRESSES: dict[str, Any] = {
    "type": ["string", "array"],
    "items": _ADDRESS,
    "minLength": 3,
    "minItems": 1,
    "maxItems": MAX_RECIPIENTS,
}
OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["message_id", "accepted", "refused"],
    "properties": {
        "message_id": {"type": "string"},
        "accepted": {"type": "array", "items": {"type": "string"}},
        "refused": {"type": "object", "description": "What the server said, by address."},
    },
}
INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["to", "subject"],
    "additionalProperties": False,
    "anyOf": [{"required": ["text"]}, {"required": ["html"]}],
    "properties": {
        "to": _ADDRESSES,
        "cc": _ADDRESSES,
        "bcc": _ADDRESSES,
        "subject": {"type": "string", "maxLength": 900},
        "text": {"type": "string"},
        "html": {"type": "string", "description": "Shown instead of text where it can be."},
        "sender": _ADDRESS,
        "reply_to": _ADDRESS,
    },
}


@dataclass(frozen=True, slots=True)
class MailServer:
    """The operator's mail server; the fields are the configuration."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    username: str
    password: str
    sender: str
    timeout_seconds: float

    def send(self, arguments: dict[str, Json], *, context: ToolContext) -> Json:
        """Hand one mail over and return ``{message_id, accepted, refused}``."""
        if not self.host:
            raise ToolError(
                "there is no mail server: the operator sets ORDINAUT_EXT_SMTP__HOST",
                retryable=False,
            )
        message = self._message(arguments, context)
        recipients = [
            address
            for key in ("to", "cc", "bcc")
            for _, address in map(_parsed, _listed(arguments.get(key, [])))
        ]
        refused = self._hand_over(message, recipients)
        return {
            "message_id": str(message["Message-ID"]),
            "accepted": [one for one in recipients if one not in refused],
            "refused": refused,
        }

    def _message(self, arguments: dict[str, Json], context: ToolContext) -> EmailMessage:
        sender = arguments.get("sender", self.sender)
        if not sender:
            raise ToolError("the mail has no sender; set it, or ORDINAUT_EXT_SMTP__SENDER")
        message = EmailMessage()
        message["From"] = _header(sender)
        for key in ("to", "cc", "reply_to"):
            if arguments.get(key):
                message[key.replace("_", "-").title()] = [
                    _header(one) for one in _listed(arguments[key])
                ]
        message["Subject"] = re.sub(r"[\r\n]+", " ", arguments["subject"])
        message["Date"] = formatdate(context.now.timestamp())
        # The same for every attempt, so that a mailbox shows a repeated mail once.
        domain = _parsed(sender)[1].rpartition("@")[2]
        message["Message-ID"] = f"<{context.idempotency_key.replace(':', '.')}@{domain}>"
        if "text" not in arguments:
            message.set_content(arguments["html"], subtype="html")
            return message
        message.set_content(arguments["text"])
        if "html" in arguments:
            message.add_alternative(arguments["html"], subtype="html")
        return message

    def _hand_over(self, message: EmailMessage, recipients: list[str]) -> dict[str, str]:
        with self._explained("no mail was sent", sent=False):
            server = self._connected()
        # From here on a broken connection leaves open whether the server took the mail.
        with self._explained("it may or may not have been sent", sent=True), server:
            refused = server.send_message(message, to_addrs=recipients)
        return {address: _text(reply) for address, (_, reply) in refused.items()}

    @contextmanager
    def _explained(self, consequence: str, *, sent: bool) -> Iterator[None]:
        """Turn errors into those of tools; what was ``sent`` may have arrived before a loss."""
        try:
            yield
        except smtplib.SMTPRecipientsRefused as error:
            raise _refusal(error.recipients) from None
        except smtplib.SMTPResponseException as error:
            text = f"{self.host}: {error.smtp_code} {_text(error.smtp_error)}"
            raise ToolError(text, retryable=400 <= error.smtp_code < 500) from None
        except (smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError) as error:
            raise ToolError(f"{self.host}: {error}", retryable=False) from None
        except (OSError, smtplib.SMTPException) as error:
            text = f"{self.host}:{self.port}: {error}; {consequence}"
            raise (EffectUnknown(text) if sent else ToolError(text, retryable=True)) from None

    def _connected(self) -> smtplib.SMTP:
        secure = ssl.create_default_context()
        if self.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self.host, self.port, timeout=self.timeout_seconds, context=secure
            )
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.timeout_seconds)
        try:
            if self.security == "starttls":
                server.starttls(context=secure)
            server.ehlo_or_helo_if_needed()
            if self.username:
                server.login(self.username, self.password)
        except BaseException:
            server.close()
            raise
        return server


def _listed(value: Json) -> list[str]:
    return [value] if isinstance(value, str) else value


def _parsed(text: str) -> tuple[str, str]:
    found = getaddresses([text])
    name, address = found[0]
    if len(found) != 1 or "@" not in address or re.search(r"[\x00-\x20,;<>]", address):
        raise ToolError(f"{text!r} is not a mail address", retryable=False)
    return name, address


def _header(text: str) -> Address:
    name, address = _parsed(text)
    try:
        return Address(display_name=re.sub(r"[\r\n]+", " ", name), addr_spec=address)
    except (ValueError, IndexError) as error:
        raise ToolError(f"{text!r} is not a mail address: {error}", retryable=False) from None


def _refusal(recipients: dict[str, tuple[int, bytes]]) -> ToolError:
    refused: dict[str, object] = {
        address: f"{code} {_text(reply)}" for address, (code, reply) in recipients.items()
    }
    passing = all(400 <= code < 500 for code, _ in recipients.values())
    return ToolError(
        f"every recipient was refused: {refused}", retryable=passing, details={"refused": refused}
    )


def _text(reply: bytes | str) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
