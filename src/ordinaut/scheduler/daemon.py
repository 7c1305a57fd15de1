"""The scheduler process: it ticks, relays, and keeps house while it is the leader.

::

    metronome ──► ticks                 every scheduler, when something is due
    listener  ──► metronome, relay, …   NOTIFY: a hint beside polling
    relay     ──► Redis                 one scheduler at a time
    waits     ──► runs that wait        one scheduler at a time, when an event has come
    triggers  ──► due work              one scheduler at a time, when an event has come
    webhooks  ──► deliveries            one scheduler at a time, when an event has come
    sender    ──► receivers             every scheduler, when a delivery is due
    leader    ──► housekeeping          one scheduler at a time
    report    ──► worker                its row, kind scheduler

Each is a loop of its own that waits, works and goes on; a fault in one, whatever it is, ends
none of them (see ``scheduler.loops``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack, suppress
from contextvars import copy_context
from importlib import metadata

import psycopg

from ordinaut.bus import Bus
from ordinaut.clock import Clock, SystemClock
from ordinaut.config import Settings
from ordinaut.garbage import spare_what_lives
from ordinaut.guard import Policy
from ordinaut.health import HealthServer
from ordinaut.model import Json, uuid7
from ordinaut.scheduler import janitor
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.hands import ticks
from ordinaut.scheduler.janitor import HOLDING, Holding
from ordinaut.scheduler.leader import Leadership
from ordinaut.scheduler.loops import Loops
from ordinaut.scheduler.metronome import Housekeeping, Metronome
from ordinaut.scheduler.sender import Sender
from ordinaut.scheduler.spine import Relay
from ordinaut.scheduler.triggers import Triggers
from ordinaut.scheduler.waits import Waits
from ordinaut.scheduler.webhooks import Webhooks
from ordinaut.store import journal, pulse, queue, schedules, windows, workers
from ordinaut.store.database import SMALL, Database
from ordinaut.store.secrets import keyring
from ordinaut.store.workers import State
from ordinaut.telemetry import logger

# two hands of the tick, relay, waits, triggers, webhooks, sender, report, two duties, and a job
# of the leader
POOL_SIZE = 11
BEAT_EVERY = 1.0  # seconds between beats of the pulse
REPORT_EVERY = 5.0  # seconds between reports of this process
LEADER_EVERY = 0.5  # seconds between looks at who is the leader
RELAY_BUSY, RELAY_IDLE = 0.05, 0.2  # seconds between looks at the outbox
WAITS_EVERY = 0.2  # seconds between looks for events that runs wait for
TRIGGERS_EVERY = 0.2  # seconds between looks for events that start tasks
WEBHOOKS_EVERY = 0.5  # seconds between looks for events, and for deliveries that are due
RELAY_IDLE_AFTER = 40  # looks in a row that found nothing
CONNECT_TIMEOUT = 5  # seconds
FAREWELL = 0.7  # seconds to give back duties and say goodbye
JUMP = 2.0  # seconds that the machine's clock may go wrong by between two looks
WELL_WITHIN = 5.0  # seconds since the last tick

log = logger(__name__)


async def serve(settings: Settings, *, clock: Clock | None = None) -> None:
    """Run a scheduler until SIGTERM or SIGINT."""
    # APScheduler tells at INFO each time that it strikes, which is every second.
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Scheduler(settings, clock or SystemClock()):
        spare_what_lives()
        await stop.wait()
        log.info("scheduler.stopping")


class Scheduler:
    """One scheduler; any number of them may work on one database."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.id = uuid7()
        self._settings = settings
        self._clock = clock
        self._db = Database(
            settings.database_url,
            size=POOL_SIZE,
            pooled=settings.pooled,
            name="ordinaut-scheduler",
            options=SMALL,
        )
        self._bus = Bus(settings.redis_url)
        self._metronome = Metronome(clock)
        self._calendars = Calendars()
        self._relay = Relay(self._db, self._bus, clock)
        self._waits = Waits(self._db)
        self._triggers = Triggers(self._db, held=self._metronome.nudge)
        self._news, self._said = asyncio.Event(), asyncio.Event()
        self._told, self._queued = asyncio.Event(), asyncio.Event()
        self._webhooks = Webhooks(self._db, wake=self._queued.set)
        self._sender = Sender(
            self._db,
            keyring(settings),
            Policy.of_webhooks(settings.webhook_allow_networks),
            wake=self._queued.set,
        )
        self._quiet = 0
        self._relaying = Leadership(self._db, clock, "relay", holder=self.id)
        self._leading = Leadership(self._db, clock, "housekeeping", holder=self.id)
        self._house: Housekeeping | None = None
        self._epoch: int | None = None
        self._ahead = self._of_stopwatch()
        self._beaten = self._ticked = float("-inf")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Scheduler:
        enter = self._stack.enter_async_context
        await enter(self._db)
        await enter(self._bus)
        self._stack.push_async_callback(self._farewell)
        await enter(self._sender)
        await enter(self._metronome)
        if port := self._settings.scheduler_health_port:
            host = self._settings.host
            await enter(HealthServer(host=host, port=port, check=self.health))
        loops = {
            "tick": self.tick_once,
            "listen": self._listen,
            "relay": self.relay_once,
            "waits": self._wake_waiting,
            "triggers": self._start_by_events,
            "webhooks": self._queue_deliveries,
            "sender": self._send_deliveries,
            "lead": self._lead,
            "report": self._report,
        }
        await enter(Loops(loops))
        log.info("scheduler.started", id=str(self.id))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def health(self) -> tuple[bool, dict[str, Json]]:
        """Tell whether this scheduler ticks, and which duties it has."""
        well = self._clock.monotonic() - self._ticked < WELL_WITHIN
        duties = [lead.duty for lead in (self._leading, self._relaying) if lead.epoch is not None]
        status = "running" if well else "unhealthy"
        return well, {"status": status, "id": str(self.id), "duties": duties}

    async def tick_once(self) -> None:
        """Wait until something may be due, and tick."""
        await self._metronome.wait()
        now = self._clock.monotonic()
        if now - self._beaten >= BEAT_EVERY:
            await self._beat()
            self._beaten = now
        result = await ticks(self._db, self._calendars, limit=self._settings.tick_limit)
        self._ticked = self._clock.monotonic()
        if result.enqueued or result.skipped:
            self._news.set()
        if result.more:
            self._metronome.nudge()
        else:
            await self._arm()

    async def relay_once(self) -> None:
        """Relay one batch of events if that is this scheduler's duty, or wait."""
        if await self._relaying.renew() is None:
            await asyncio.sleep(LEADER_EVERY)
            return
        if await self._relay.run_once():
            self._quiet = 0
            return
        self._quiet += 1
        await _heard(self._news, RELAY_BUSY if self._quiet < RELAY_IDLE_AFTER else RELAY_IDLE)
        self._news.clear()

    async def _wake_waiting(self) -> None:
        if not await self._waits.run_once():
            await asyncio.sleep(WAITS_EVERY)

    async def _start_by_events(self) -> None:
        self._said.clear()
        if not await self._triggers.run_once():
            await _heard(self._said, TRIGGERS_EVERY)

    async def _queue_deliveries(self) -> None:
        self._told.clear()
        if not await self._webhooks.run_once():
            await _heard(self._told, WEBHOOKS_EVERY)

    async def _send_deliveries(self) -> None:
        self._queued.clear()
        if not await self._sender.run_once():
            await _heard(self._queued, WEBHOOKS_EVERY)

    async def _beat(self) -> None:
        async with self._db.connection() as tx:
            downtime = await pulse.beat(tx)
        if downtime is not None:
            log.warning(
                "scheduler.downtime",
                began_at=downtime.began_at.isoformat(),
                ended_at=downtime.ended_at.isoformat(),
            )

    async def _arm(self) -> None:
        async with self._db.connection() as tx:
            now, due = await schedules.next_due(tx)
            wake = await queue.next_wake(tx)
            close = await windows.next_close(tx)
        if nexts := [at for at in (due, wake, close) if at is not None]:
            self._metronome.strike_in(min(nexts) - now)

    async def _listen(self) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._settings.direct_url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="ordinaut-scheduler-listen",
        ) as connection:
            for channel in (schedules.CHANNEL, queue.WORK_CHANNEL, journal.CHANNEL):
                await connection.execute(
                    psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel))
                )
            self._metronome.nudge()
            async for note in connection.notifies():
                self._hear(note.channel)

    def _hear(self, channel: str) -> None:
        if channel == schedules.CHANNEL:
            self._metronome.nudge()
            return
        self._news.set()
        if channel == journal.CHANNEL:
            self._said.set()
            self._told.set()

    async def _lead(self) -> None:
        try:
            await self._leading.renew()
        finally:
            if self._has_jumped():
                # Its jobs are due by the clock that was; begin anew by the one that is.
                await self._keep_house(None)
            await self._keep_house(self._leading.epoch)
        await asyncio.sleep(LEADER_EVERY)

    def _of_stopwatch(self) -> float:
        """Return how far the machine's clock is ahead of its stopwatch, in seconds."""
        return self._clock.now().timestamp() - self._clock.monotonic()

    def _has_jumped(self) -> bool:
        before, self._ahead = self._ahead, self._of_stopwatch()
        seconds = self._ahead - before
        if abs(seconds) < JUMP:
            return False
        log.warning("scheduler.clock_jumped", seconds=round(seconds, 3))
        return True

    async def _keep_house(self, epoch: int | None) -> None:
        if epoch == self._epoch:
            return
        if self._house is not None:
            await self._house.stop()
        self._house, self._epoch = None, None
        if epoch is not None:
            context = copy_context()
            context.run(HOLDING.set, Holding(self._db, self._settings, self._clock, epoch))
            self._house = Housekeeping(self._settings.database_url, janitor.JOBS, context)
            await self._house.start()
            self._epoch = epoch

    async def _report(self) -> None:
        await self._say("running")
        await asyncio.sleep(REPORT_EVERY)

    async def _say(self, state: State) -> None:
        async with self._db.connection() as tx:
            await workers.report(
                tx,
                self.id,
                kind="scheduler",
                host=socket.gethostname(),
                pid=os.getpid(),
                version=metadata.version("ordinaut"),
                state=state,
                details=self.health()[1],
            )

    async def _farewell(self) -> None:
        await self._keep_house(None)
        # Whoever is away now learns the same when the leases end.
        with suppress(TimeoutError, psycopg.Error):
            async with asyncio.timeout(FAREWELL):
                await self._relaying.resign()
                await self._leading.resign()
                await self._say("stopped")


async def _heard(news: asyncio.Event, longest: float) -> None:
    """Wait for news, and no longer than so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(longest):
            await news.wait()
