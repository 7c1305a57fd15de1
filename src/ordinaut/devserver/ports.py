"""Addresses and ports to listen on."""

from __future__ import annotations

import socket

from ordinaut.errors import Conflict

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on now."""
    return claim_port(LOOPBACK, 0)


def claim_port(host: str, port: int) -> int:
    """Return ``port``, or a free one for 0; raises :class:`Conflict` when it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"can not listen on {host} port {port}: {error.strerror}; "
                "stop the program that does, or choose another --port"
            ) from None
        return int(probe.getsockname()[1])


def reachable_host(host: str) -> str:
    """Return how a URL on this machine names the address that a server listens on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host
