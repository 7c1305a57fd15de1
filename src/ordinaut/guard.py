"""What a request on behalf of an agent may connect to: ``http.request`` and webhooks.

The address is checked where the connection is made, after the name was resolved, so neither a
name that points inward, nor a redirect, nor a number written in an odd form (2130706433,
0x7f.1, ::ffff:127.0.0.1) leads past it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

import httpcore2
import httpx2

from ordinaut.errors import ToolError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# Clouds answer here with credentials. Those that are not link-local must be named one by one.
METADATA = frozenset(map(ip_address, ("100.100.100.200", "192.0.0.192", "fd00:ec2::254")))
NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Policy:
    """Which addresses are allowed besides public ones.

    ``hosts`` are ``host`` or ``host:port`` as a URL would name them; they are allowed wherever
    they lead. ``private`` allows loopback and private networks, ``networks`` some of them, but
    neither allows link-local ones, where clouds hand out credentials. ``remedy`` names the
    settings that allow more.
    """

    private: bool = False
    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    remedy: str = "ORDINAUT_HTTP_ALLOW_HOSTS or ORDINAUT_HTTP_ALLOW_PRIVATE"

    @classmethod
    def of(cls, *, private: bool, hosts: Iterable[str]) -> Policy:
        """Return the policy of ``http.request``."""
        return cls(private, frozenset(host.lower() for host in hosts))

    @classmethod
    def of_webhooks(cls, networks: Iterable[str]) -> Policy:
        """Return the policy of webhooks: some networks (``10.0.0.0/8``) and public addresses."""
        allowed = tuple(ip_network(name) for name in networks)
        return cls(networks=allowed, remedy="ORDINAUT_WEBHOOK_ALLOW_NETWORKS")

    def names(self, host: str, port: int) -> bool:
        """Tell whether the operator allowed this host by name."""
        bracketed = f"[{host}]" if ":" in host else host
        return not self.hosts.isdisjoint({host, bracketed, f"{bracketed}:{port}"})

    def refusal(self, address: Address) -> str | None:
        """Say why ``address`` is refused; ``None`` when it is allowed."""
        inner = embedded(address)
        if inner.is_loopback:  # first: ::1 lies in a block that counts as reserved
            return None if self._allows(inner) else "a loopback address"
        if inner in METADATA or inner.is_link_local:
            return "a link-local or metadata address"
        if inner.is_multicast or inner.is_unspecified or inner.is_reserved:
            return "a multicast, unspecified or reserved address"
        if not inner.is_global and not self._allows(inner):
            return "a private address"
        return None

    def _allows(self, address: Address) -> bool:
        return self.private or any(address in network for network in self.networks)


def embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves a name once, checks every address, and connects to what was checked."""

    def __init__(self, policy: Policy, *, threads: int) -> None:
        self._policy = policy
        # Threads of its own, because a look-up may take long: others would wait behind slow names.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the signature is httpcore2's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        error: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in await resolve(host.lower(), port, self._policy, self._threads):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
        raise error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def resolve(
    host: str, port: int, policy: Policy, threads: Executor | None = None
) -> list[str]:
    """Return the addresses of a host, all of them allowed.

    Raises :class:`ToolError` when one is refused, and httpcore2's ``ConnectError`` when the name
    can not be resolved.
    """
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(threads, look_up)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"{host} can not be resolved: {error}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not policy.names(host, port):
        # One inward address among several refuses the name: a resolver that mixes them is how
        # DNS rebinding gets through on a retry.
        for address in addresses:
            if reason := policy.refusal(ip_address(address.split("%")[0])):
                raise _refused(host, port, address, reason, policy)
    return addresses


def guarded_transport(policy: Policy, *, max_connections: int) -> httpx2.AsyncHTTPTransport:
    """Return a transport that connects only to what ``policy`` allows, and to no proxy."""
    transport = httpx2.AsyncHTTPTransport(verify=_authorities(), trust_env=False)
    # httpx2 has no parameter for it: the pool is replaced by one whose connections are checked.
    transport._pool = httpcore2.AsyncConnectionPool(
        ssl_context=_authorities(),
        max_connections=max_connections,
        max_keepalive_connections=20,
        keepalive_expiry=15.0,
        network_backend=GuardedBackend(policy, threads=max_connections),
    )
    return transport


@cache
def _authorities() -> ssl.SSLContext:
    """Return what certificates are checked against; to read it takes some 50 ms."""
    return httpx2.create_ssl_context(trust_env=False)


def _refused(host: str, port: int, address: str, reason: str, policy: Policy) -> ToolError:
    return ToolError(
        f"{host}:{port} is refused: {address} is {reason}; the operator can allow it with "
        f"{policy.remedy}",
        retryable=False,
        details={"host": host, "port": port, "address": address},
    )
