"""``ordinaut dev``: everything on this machine, from an empty directory to a running sample.

::

    hold the directory ─ PostgreSQL, Valkey ─ migrate ─ first agent ─ api, scheduler, workers
         ─ /health/ready ─ samples ─ dev.json ─ wait for a signal ─ stop in reverse order
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2

from ordinaut.clock import Clock, SystemClock
from ordinaut.config import Settings, environment, load_settings
from ordinaut.devserver import samples
from ordinaut.devserver.files import private_token, write_private
from ordinaut.devserver.ports import claim_port, reachable_host
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.devserver.state import DevState, Pids, hold
from ordinaut.devserver.supervisor import Supervised, stop_signals, watching
from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.errors import Unavailable
from ordinaut.store import agents, migrate, roles
from ordinaut.store.database import Database

AGENT = "dev"  # the name of the first agent
READY_TIMEOUT = 90.0  # seconds until every process must be ready
ENDS_BEFORE_READY = 3  # a process that ends so often while starting has a fault
LONGEST_LINE = 1000  # characters on the console, of at most four bytes each
STOP_MARGIN = 5.0  # seconds beyond the drain until a process is killed
# What suits a developer's machine; the environment wins.
DEFAULTS = {
    "ORDINAUT_LOG_JSON": "false",
    "ORDINAUT_DRAIN_SECONDS": "5",
    "ORDINAUT_HTTP_ALLOW_PRIVATE": "true",
    "ORDINAUT_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8 ::1/128",
    "ORDINAUT_EXT_RELOAD": "true",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    data_dir: Path
    host: str
    port: int
    workers: int
    samples: bool
    database_url: str | None = None
    redis_url: str | None = None
    postgres_major: int | None = None


def say(line: str) -> None:
    """Show a line, unless nobody reads: a full or closed pipe must not stop the show.

    A pipe that is ready takes 4096 bytes without blocking; the log files have all of it.
    """
    with contextlib.suppress(BrokenPipeError):
        if select.select([], [sys.stdout], [], 0)[1]:
            os.write(sys.stdout.fileno(), f"{line[:LONGEST_LINE]}\n".encode())


class Dev:
    """One life of ``ordinaut dev``."""

    def __init__(self, options: Options, *, clock: Clock) -> None:
        self._options = options
        self._dir = options.data_dir.resolve()
        self._clock = clock
        self._began = clock.monotonic()
        self._postgres: EmbeddedPostgres | None = None
        self._valkey: EmbeddedValkey | None = None
        self._processes: list[Supervised] = []
        self._owner_url = ""
        self._scheduler_env: dict[str, str] = {}
        self._ready: DevState | None = None

    def run(self) -> None:
        """Start everything, wait for a signal, stop everything.

        Raises :class:`Conflict` when the directory or the port is taken, and
        :class:`Unavailable` when something does not start.
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the loop takes over
        with hold(self._dir), ExitStack() as servers:
            port = claim_port(self._options.host, self._options.port)
            (self._dir / "logs").mkdir(exist_ok=True)
            env = {
                "ORDINAUT_SECRET": private_token(self._dir / "secret"),
                **DEFAULTS,
                **environment(),
                "DATABASE_URL": (owner_url := self._start_postgres(servers)),
                "REDIS_URL": self._start_valkey(servers),
                "ORDINAUT_HOST": self._options.host,
                "ORDINAUT_PORT": str(port),
            }
            self._owner_url = owner_url
            self._progress("bringing the schema of the database to this version")
            migrate.upgrade(load_settings(env).direct_url)
            env |= self._sign_in()
            asyncio.run(self._serve(load_settings(env), env))

    def _sign_in(self) -> dict[str, str]:
        """Let the processes use the roles of an installation, so that these are proved each day.

        On a server that is not ours there is only the role that we were given.
        """
        if self._postgres is None:
            return {}
        urls = {}
        for role in (roles.APP, roles.SCHEDULER):
            password = private_token(self._dir / f"{role}.password")
            roles.create(self._owner_url, role, password=password)
            urls[role] = self._postgres.url_for(role, password)
        roles.grant(self._owner_url)
        self._scheduler_env = {"DATABASE_URL": urls[roles.SCHEDULER]}
        return {"DATABASE_URL": urls[roles.APP]}

    def _start_postgres(self, servers: ExitStack) -> str:
        if self._options.database_url is not None:
            return self._options.database_url
        self._progress("starting PostgreSQL")
        self._postgres = EmbeddedPostgres(
            self._dir / "postgres",
            major=self._options.postgres_major,
            log=self._dir / "logs" / "postgres.log",
        )
        return servers.enter_context(self._postgres).url

    def _start_valkey(self, servers: ExitStack) -> str:
        if self._options.redis_url is not None:
            return self._options.redis_url
        self._progress("starting Valkey")
        self._valkey = EmbeddedValkey(self._dir / "valkey", log=self._dir / "logs" / "valkey.log")
        return servers.enter_context(self._valkey).url

    async def _serve(self, settings: Settings, env: dict[str, str]) -> None:
        stopping = asyncio.Event()
        for number in stop_signals():
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        api_key = await self._bootstrap(settings)
        async with AsyncExitStack() as stack:
            for server in (self._postgres, self._valkey):
                if server is not None:
                    changed = self._write_state
                    await stack.enter_async_context(watching(server, say=say, changed=changed))
            self._progress("starting the API, the scheduler and the workers")
            self._start_processes(stack, settings, env)
            await self._get_ready(settings, api_key, stopping)
            await stopping.wait()
            say("stopping")

    async def _bootstrap(self, settings: Settings) -> str:
        """Make sure that the key in the data directory is the key of an agent."""
        path = self._dir / "api_key"
        if not path.exists():
            write_private(path, agents.new_key())
        api_key = path.read_text()
        pepper = agents.pepper(settings)
        pooled = settings.pooled
        async with (
            Database(settings.database_url, size=2, pooled=pooled) as db,
            db.transaction() as tx,
        ):
            await agents.bootstrap(tx, name=AGENT, api_key=api_key, pepper=pepper)
        return api_key

    def _start_processes(
        self, stack: AsyncExitStack, settings: Settings, env: dict[str, str]
    ) -> None:
        """Start the processes; they will stop in the reverse order, the workers at once."""
        workers = [f"worker-{n}" for n in range(1, self._options.workers + 1)]
        for names in (["api"], workers, ["scheduler"]):
            group = [self._supervised(name, env) for name in names]
            stack.push_async_callback(
                stop_all, group, patience=settings.drain_seconds + STOP_MARGIN
            )
            for member in group:
                self._processes.append(member)
                member.start()

    def _supervised(self, name: str, env: dict[str, str]) -> Supervised:
        command = name.split("-")[0]
        return Supervised(
            name,
            [sys.executable, "-m", "ordinaut", command],
            env=env | (self._scheduler_env if command == "scheduler" else {}),
            log=self._dir / "logs" / f"{name}.log",
            clock=self._clock,
            say=say,
            changed=self._write_state,
        )

    async def _get_ready(self, settings: Settings, api_key: str, stopping: asyncio.Event) -> None:
        url = f"http://{reachable_host(settings.host)}:{settings.port}"
        headers = {"Authorization": f"Bearer {api_key}"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=10) as client:
            if not await self._until_ready(client, stopping):
                return
            if self._options.samples:
                self._progress("loading the sample tasks")
                await samples.load(client)
        self._ready = DevState(
            url=url,
            api_key=api_key,
            database_url=self._owner_url,
            redis_url=settings.redis_url,
            pids=self._pids(),
        )
        self._write_state()
        self._announce(self._ready)

    async def _until_ready(self, client: httpx2.AsyncClient, stopping: asyncio.Event) -> bool:
        """Wait for the API; false when told to stop instead."""
        deadline = self._clock.monotonic() + READY_TIMEOUT
        while not stopping.is_set():
            if await is_ready(client) and await self._have_reported(client):
                return True
            for supervised in self._processes:
                if supervised.ends >= ENDS_BEFORE_READY:
                    raise Unavailable(f"{supervised.name} does not start: see {supervised.log}")
            if self._clock.monotonic() > deadline:
                raise Unavailable(f"not ready after {READY_TIMEOUT:g} s: see {self._dir / 'logs'}")
            await asyncio.sleep(0.1)
        return False

    async def _have_reported(self, client: httpx2.AsyncClient) -> bool:
        """Tell whether the scheduler and the workers are known to the cluster."""
        wanted = {member.pid for member in self._processes if member.name != "api"}
        answer = (await client.get("/workers")).raise_for_status().json()
        return wanted <= {item["pid"] for item in answer["items"]}

    def _write_state(self) -> None:
        """Keep the pids in ``dev.json`` current, from the moment that everything is ready."""
        if self._ready is not None:
            replace(self._ready, pids=self._pids()).write(self._dir)

    def _pids(self) -> Pids:
        running = {member.name: member.pid for member in self._processes if member.pid}
        return Pids(
            dev=os.getpid(),
            postgres=self._postgres.pid if self._postgres else None,
            valkey=self._valkey.pid if self._valkey else None,
            api=running.get("api"),
            scheduler=running.get("scheduler"),
            workers=tuple(pid for name, pid in running.items() if name.startswith("worker")),
        )

    def _progress(self, what: str) -> None:
        say(f"[{self._clock.monotonic() - self._began:5.1f} s] {what}")

    def _announce(self, state: DevState) -> None:
        self._progress("ready")
        say(
            f"""
  Ordinaut runs at   {state.url}   (API: {state.url}/docs)
  API key            {state.api_key}
  Data, logs         {self._dir}   (dev.json has all of this for scripts)

  curl -H "Authorization: Bearer {state.api_key}" {state.url}/runs

  Ctrl-C stops everything.
"""
        )


async def stop_all(processes: list[Supervised], *, patience: float) -> None:
    """Stop processes side by side."""
    await asyncio.gather(*(member.stop(patience=patience) for member in processes))


async def is_ready(client: httpx2.AsyncClient) -> bool:
    """Tell whether the API answers that it is ready."""
    try:
        return (await client.get("/health/ready")).status_code == 200
    except httpx2.TransportError:
        return False


def run(options: Options) -> None:
    """Run ``ordinaut dev`` until it is told to stop."""
    Dev(options, clock=SystemClock()).run()
