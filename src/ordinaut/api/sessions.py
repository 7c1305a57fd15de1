"""Signing in with a browser: an API key begins a session, a cookie carries it.

The cookie holds a random value and says nothing. Each session has a token against forged
requests (CSRF): an HMAC over the session's id, so that one of another session does not serve.
A session is looked up as seldom as other credentials are.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from ordinaut.api.limits import Limits
from ordinaut.api.memory import Memory
from ordinaut.clock import Clock
from ordinaut.config import Settings
from ordinaut.errors import CrossSite, Unauthenticated
from ordinaut.store import agents, audit, sessions
from ordinaut.store.audit import Actor
from ordinaut.store.database import Database, Tx
from ordinaut.store.sessions import Session

PURPOSE: Final = "csrf"

_VALUE = re.compile(r"[A-Za-z0-9_-]{43}\Z")  # 256 bits


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that has just begun, and the value of its cookie."""

    session: Session
    value: str


class Sessions:
    """Begins, finds and ends the sessions of browsers."""

    def __init__(self, settings: Settings, db: Database, clock: Clock, *, limits: Limits) -> None:
        self._db = db
        self._clock = clock
        self._limits = limits
        self._age = timedelta(seconds=settings.browser_session_seconds)
        self._idle = timedelta(seconds=settings.browser_idle_seconds)
        self._peppers = (agents.pepper(settings), *agents.former(settings, agents.PEPPER))
        self._csrf = (agents.derive(settings, PURPOSE), *agents.former(settings, PURPOSE))
        self._memory: Memory[Session] = Memory(clock)

    async def begin(self, api_key: str, *, former: str, origin: Actor) -> Begun:
        """Sign in; raises :class:`Unauthenticated`.

        ``former`` is the cookie that the browser had, or empty: its session ends.
        """
        async with self._limits.signing_in(origin.address):
            begun = await self._begin(api_key, former=former, origin=origin)
            if begun is None:
                await self._note_failure(origin)
                raise Unauthenticated("the API key is not valid")
            return begun

    async def _begin(self, api_key: str, *, former: str, origin: Actor) -> Begun | None:
        if not (api_key.isascii() and api_key.startswith(agents.KEY_PREFIX)):
            return None
        now, keys = self._clock.now(), self._digests(api_key)
        async with self._db.transaction() as tx:
            agent = await agents.by_key(tx, keys, now=now)
            if agent is None:
                return None
            if (before := await self._look_up(tx, former)) is not None:
                await sessions.end(tx, before.id, now=now)
            value = secrets.token_urlsafe(32)
            hashed = self._digests(value)[0]
            session = await sessions.insert(
                tx, agent, keys=keys, digest=hashed, now=now, expires_at=now + self._age
            )
            actor = replace(origin, id=agent.id, name=agent.name)
            await audit.record(
                tx, actor, action="auth.sign_in", entity="session", entity_id=session.id
            )
        self._memory.forget()
        return Begun(session, value)

    async def find(self, value: str, *, address: str) -> Session:
        """Return the session of a cookie; raises :class:`Unauthenticated`."""
        if (known := self._memory.get(value)) is not None:
            return known
        async with self._limits.signing_in(address, known=self._memory.recall(value)):
            async with self._db.connection() as tx:
                found = await self._look_up(tx, value)
            if found is None:
                raise Unauthenticated("the session has ended; sign in again")
        left = (found.expires_at - self._clock.now()).total_seconds()
        self._memory.put(value, found, seconds=left)
        return found

    async def end(self, session: Session, *, actor: Actor) -> None:
        """Sign out: the cookie serves nobody any more, in any process."""
        async with self._db.transaction() as tx:
            await sessions.end(tx, session.id, now=self._clock.now())
            await audit.record(
                tx, actor, action="auth.sign_out", entity="session", entity_id=session.id
            )
        self.forget()

    def token(self, session: Session) -> str:
        """Return the token that requests of a session carry when they change something."""
        return _token(session, self._csrf[0])

    def check(self, session: Session, token: str) -> None:
        """Raise :class:`CrossSite` unless ``token`` is that of the session."""
        given = token.encode()
        fitting = [hmac.compare_digest(_token(session, key).encode(), given) for key in self._csrf]
        if not any(fitting):
            raise CrossSite("X-CSRF-Token has to hold the token of this session")

    def forget(self) -> None:
        """Look up every session anew."""
        self._memory.forget()

    async def _look_up(self, tx: Tx, value: str) -> Session | None:
        if not _VALUE.match(value):
            return None
        now = self._clock.now()
        return await sessions.find(tx, self._digests(value), now=now, idle_since=now - self._idle)

    async def _note_failure(self, origin: Actor) -> None:
        async with self._db.transaction() as tx:
            await audit.record(
                tx, origin, action="auth.sign_in_failed", entity="session", entity_id=""
            )

    def _digests(self, text: str) -> list[bytes]:
        return [agents.digest(text, pepper) for pepper in self._peppers]


def _token(session: Session, key: bytes) -> str:
    return hmac.digest(key, session.id.bytes, hashlib.sha256).hex()
