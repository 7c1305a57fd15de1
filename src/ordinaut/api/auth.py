"""Who is calling: API keys, access tokens (JWT) and rotating refresh tokens.

A credential is looked up at most once in ``CACHE_SECONDS`` by each process, so a key or token
that is revoked anywhere is refused everywhere after that time at the latest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from ordinaut.api.issuers import LEEWAY, Issuers
from ordinaut.api.limits import Limits
from ordinaut.api.memory import CACHE_SECONDS, Memory
from ordinaut.api.sessions import Sessions
from ordinaut.api.tokens import ISSUER, Claims, TokenKeys
from ordinaut.clock import Clock
from ordinaut.config import Settings
from ordinaut.errors import Unauthenticated
from ordinaut.model import Agent, uuid7
from ordinaut.store import agents, audit
from ordinaut.store.audit import Actor
from ordinaut.store.database import Database, Tx

MAX_CREDENTIAL: Final = 4096


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a key or a refresh token is exchanged for."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: str = "Bearer"


class Authenticator:
    """Tells who a credential belongs to, and makes and ends tokens."""

    def __init__(self, settings: Settings, db: Database, clock: Clock, *, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._db = db
        self._clock = clock
        self._pepper = agents.pepper(settings)
        self._peppers = (self._pepper, *agents.former(settings, agents.PEPPER))
        self._keys = TokenKeys(settings)
        self._issuers = Issuers(settings.issuers)
        self._memory: Memory[Agent] = Memory(clock)
        self.sessions = Sessions(settings, db, clock, limits=limits)

    async def identify(self, credential: str, *, address: str = "") -> Agent:
        """Return the agent of an API key or access token; raises :class:`Unauthenticated`.

        ``address`` is where it came from: too many that are not valid are not looked at.
        """
        if (known := self._memory.get(credential)) is not None:
            return known
        familiar = self._memory.recall(credential)
        async with self._limits.signing_in(address, known=familiar):
            return await self._identify(credential)

    async def _identify(self, credential: str) -> Agent:
        if not credential.isascii() or len(credential) > MAX_CREDENTIAL:
            raise Unauthenticated("the credential is not valid")
        if credential.startswith(agents.KEY_PREFIX):
            agent = await self._of_key(self._digests(credential))
            return self._remember(credential, agent, CACHE_SECONDS)
        claims = await self._claims(credential)
        left = (claims.expires_at - self._clock.now()).total_seconds()
        agent = await self._of_claims(claims)
        return self._remember(credential, agent, left)

    async def exchange(self, api_key: str, *, origin: Actor) -> Tokens:
        """Return tokens for an API key."""
        async with self._limits.signing_in(origin.address):
            return await self._exchange(api_key, origin=origin)

    async def _exchange(self, api_key: str, *, origin: Actor) -> Tokens:
        if not (api_key.isascii() and api_key.startswith(agents.KEY_PREFIX)):
            raise Unauthenticated("the API key is not valid")
        async with self._db.transaction() as tx:
            agent = await agents.by_key(tx, self._digests(api_key), now=self._clock.now())
            if agent is None:
                raise Unauthenticated("the API key is not valid")
            await _note(tx, agent, "auth.token", origin)
            began_at = self._clock.now()
            return await self._issue(tx, agent, family=uuid7(), began_at=began_at)

    async def refresh(self, token: str, *, origin: Actor) -> Tokens:
        """Return new tokens for a refresh token, which is spent by that.

        The use of a spent one says that two hold it: the whole family is revoked.
        """
        async with self._limits.signing_in(origin.address):
            return await self._refresh(token, origin=origin)

    async def _refresh(self, token: str, *, origin: Actor) -> Tokens:
        now = self._clock.now()
        async with self._db.transaction() as tx:
            use = await agents.use_refresh(tx, self._digests(token), now=now)
            if use is not None and use.valid and not use.reused:
                return await self._issue(tx, use.agent, family=use.family, began_at=use.began_at)
            if use is not None and use.reused:
                await agents.revoke_family(tx, use.family, now=now)
                await _note(tx, use.agent, "auth.refresh_reused", origin)
        raise Unauthenticated("the refresh token is not valid")

    async def revoke(self, token: str, *, owner: UUID | None, origin: Actor) -> None:
        """End a refresh token with its family, or an access token (RFC 7009).

        That of another ``owner`` is left alone without a word; ``None`` may end any.
        """
        now = self._clock.now()
        async with self._db.transaction() as tx:
            if token.startswith(agents.REFRESH_PREFIX):
                await agents.revoke_refresh(tx, self._digests(token), owner=owner, now=now)
            else:
                await self._revoke_access(tx, token, owner)
            await audit.record(
                tx, origin, action="auth.revoke", entity="agent", entity_id=origin.id
            )
        self.forget()

    async def _revoke_access(self, tx: Tx, token: str, owner: UUID | None) -> None:
        claims = await self._claims(token)
        agent = await _agent_of(tx, claims)
        if owner is None or (agent is not None and agent.id == owner):
            # A moment longer than it lives: the clocks of issuers differ.
            await agents.revoke_access(tx, claims.jti, expires_at=claims.expires_at + LEEWAY)

    def forget(self) -> None:
        """Look up every credential anew: something about agents has changed."""
        self._memory.forget()
        self.sessions.forget()

    async def _of_key(self, hashed: Sequence[bytes]) -> Agent | None:
        async with self._db.connection() as tx:
            return await agents.by_key(tx, hashed, now=self._clock.now())

    async def _of_claims(self, claims: Claims) -> Agent | None:
        async with self._db.connection() as tx:
            return await _agent_of(tx, claims)

    def _remember(self, credential: str, agent: Agent | None, seconds: float) -> Agent:
        if agent is None:
            raise Unauthenticated("the credential is not valid, or not any more")
        self._memory.put(credential, agent, seconds=seconds)
        return agent

    async def _issue(self, tx: Tx, agent: Agent, *, family: UUID, began_at: datetime) -> Tokens:
        now = self._clock.now()
        settings = self._settings
        oldest = began_at + timedelta(seconds=settings.session_seconds)
        access_until = min(now + timedelta(seconds=settings.access_token_seconds), oldest)
        refresh = await agents.add_refresh(
            tx,
            agent.id,
            family=family,
            began_at=began_at,
            pepper=self._pepper,
            now=now,
            expires_at=min(now + timedelta(seconds=settings.refresh_token_seconds), oldest),
        )
        claims = {
            "iss": ISSUER,
            "aud": ISSUER,
            "sub": str(agent.id),
            "iat": now,
            "exp": access_until,
            "jti": str(uuid7()),
            "fam": str(family),
            "scope": " ".join(sorted(agent.scopes)),
        }
        return Tokens(self._keys.sign(claims), refresh, int((access_until - now).total_seconds()))

    async def _claims(self, token: str) -> Claims:
        now = self._clock.now()
        return await self._issuers.read(token, now=now) or self._keys.read(token, now=now)

    def _digests(self, token: str) -> list[bytes]:
        return [agents.digest(token, pepper) for pepper in self._peppers]


async def _agent_of(tx: Tx, claims: Claims) -> Agent | None:
    if claims.subject is not None:
        return await agents.by_subject(tx, claims.subject, jti=claims.jti)
    assert claims.agent_id is not None  # a token of our own names its agent
    agent = await agents.by_token(tx, claims.agent_id, jti=claims.jti, family=claims.family)
    return None if agent is None else _narrow(agent, claims.scopes or frozenset())


def _narrow(agent: Agent, scopes: frozenset[str]) -> Agent:
    # A token never says more than its agent may by now, nor more than it was issued for.
    if agent.scopes == scopes:
        return agent
    return replace(agent, scopes=frozenset(s for s in scopes if agent.may(s)))


async def _note(tx: Tx, agent: Agent, action: str, origin: Actor) -> None:
    actor = replace(origin, id=agent.id, name=agent.name)
    await audit.record(tx, actor, action=action, entity="agent", entity_id=agent.id)
