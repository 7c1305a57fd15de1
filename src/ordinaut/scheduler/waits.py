"""Wakes runs that wait for events, and loses none.

An event may be committed before, while or after the run that waits for it is. Two looks that
overlap find it in each case::

    run commits its wait ──► looked at once: what has happened since it asked?   (past)
    event commits ──► read once from the outbox: who listens for it?             (fresh)

A run that was looked at listens from then on. What was committed before the look is found by
it; what is committed later is fresh in a later round, and then the run listens. The rounds are
apart by snapshots, as for the relay, because places in the outbox appear out of order.

What counts is what happened after the question was asked, in the database's time. So a run
does not hear itself, nor the event that answered its last question.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID

from ordinaut.engine.template import Condition, parse_condition
from ordinaut.errors import OrdinautError
from ordinaut.model import Json
from ordinaut.store import journal, leaders, queue, waits
from ordinaut.store.database import Database, Tx
from ordinaut.store.waits import Answer, Heard, Place, Question
from ordinaut.telemetry import emit

STALL: Final = timedelta(seconds=10)
PAGE: Final = 500  # events, each of which may be large
RUNS: Final = 1_000  # that are looked at in one round

# What the core says: about tasks and runs it is heard by their owner only.
_OF_TASKS: Final = ("agent", "run", "step", "system", "task", "webhook", "worker")


class Waits:
    """Reads the outbox for runs that wait; any number may exist, one at a time works."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self) -> bool:
        """Do one round; True when there may be more to do at once."""
        async with self._db.connection() as tx:
            if not await waits.listening(tx):
                return False
        async with self._db.transaction() as tx:
            await leaders.guard(tx, stall=STALL)
            place = await waits.take_place(tx)
            if place is None:
                return False
            woken = await _tell_fresh(tx, place)
            looked, more = await _look(tx)
            if woken + looked:
                await queue.hint(tx)
        if woken + looked:
            emit("waits.woken", runs=woken + looked)
        return more


class Listeners:
    """Questions by the key under which the events come that may answer them."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._open: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            self._open[key_of(question.wait["topic"])].append(question)

    @property
    def keys(self) -> list[str]:
        """Under which events are still listened for."""
        return [key for key, questions in self._open.items() if questions]

    def tell(self, event: Heard) -> Iterator[Answer]:
        """Yield the answers that an event gives; who is answered does not listen any more."""
        for key in keys_of(event.topic):
            asked, self._open[key] = self._open[key], []
            for question in asked:
                if answers(question, event):
                    yield Answer(
                        run_id=question.run_id, step_id=question.step_id, output=shown(event)
                    )
                else:
                    self._open[key].append(question)


def key_of(topic: str) -> str:
    """Return the key of a topic that is waited for: itself, or the number of its words."""
    words = topic.split(".")
    return f"*{len(words)}" if "*" in words else topic


def keys_of(topic: str) -> tuple[str, str]:
    """Return the keys under which an event is listened for."""
    return topic, f"*{len(topic.split('.'))}"


def answers(question: Question, event: Heard) -> bool:
    """Tell whether an event is what a step waits for, and one that its owner may hear."""
    if event.at < question.asked_at:
        return False
    if is_of_tasks(event.topic) and not _is_heard(question, event):
        return False
    return is_meant(event, question.wait["topic"], question.wait.get("filter"))


def is_meant(event: Heard, topic: str, condition: str | None) -> bool:
    """Tell whether an event has this topic, in which ``*`` is any word, and a filter holds."""
    if not _pattern(topic).match(event.topic):
        return False
    return condition is None or _holds(condition, event)


def is_of_tasks(topic: str) -> bool:
    """Tell whether the core says this about tasks and runs, so that not everybody may hear it."""
    return topic.split(".")[0] in _OF_TASKS


def shown(event: Heard) -> dict[str, Json]:
    """Return an event as the output of the step that waited for it, and as its filter sees it."""
    return {
        "id": str(event.seq),
        "at": event.at.astimezone(UTC).isoformat(),
        "topic": event.topic,
        "subject": event.subject,
        "task_id": event.task_id and str(event.task_id),
        "run_id": event.run_id and str(event.run_id),
        "payload": event.data,
    }


def _is_heard(question: Question, event: Heard) -> bool:
    """Tell whether what the core says is for the owner of a run, and not about the run itself."""
    may_see = question.sees_all or event.owner == question.owner
    return may_see and event.run_id != question.run_id


def _holds(text: str, event: Heard) -> bool:
    try:
        return _condition(text).evaluate(shown(event), now=event.at)
    except OrdinautError:
        return False  # what can not be asked of this event does not hold of it


@lru_cache(maxsize=1024)
def _condition(text: str) -> Condition:
    return parse_condition(text, path="filter")


@lru_cache(maxsize=1024)
def _pattern(topic: str) -> re.Pattern[str]:
    return re.compile(journal.topic_pattern(topic))


async def _tell_fresh(tx: Tx, place: Place) -> int:
    """Tell what is new in the outbox to those who listen; return how many runs it woke."""
    woken = after = 0
    if place.since is not None and not place.news:
        return 0
    if place.since is None:  # the database was restored from the dump of another cluster
        await waits.look_again(tx)
    else:
        while events := await waits.fresh(tx, place, after=after, limit=PAGE):
            woken += await _tell(tx, events)
            after = events[-1].seq
    await waits.move_place(tx, place)
    return woken


async def _tell(tx: Tx, events: Sequence[Heard]) -> int:
    keys = {key for event in events for key in keys_of(event.topic)}
    listeners = Listeners(await waits.asked(tx, keys=keys))
    return await _answer(tx, [answer for event in events for answer in listeners.tell(event)])


async def _look(tx: Tx) -> tuple[int, bool]:
    """Look at runs that began to wait; return how many have their answer already."""
    found = await waits.unheard(tx, limit=RUNS)
    if not found:
        return 0, False
    ready = [run_id for run_id, is_answered in found.items() if is_answered]
    await waits.wake(tx, ready, reason="answered")
    questions = await waits.asked(tx, run_ids=list(found))
    keys: dict[UUID, set[str]] = {run_id: set() for run_id in found}
    for question in questions:
        keys[question.run_id].add(key_of(question.wait["topic"]))
    woken = await _answer(tx, await _past(tx, questions))
    await waits.hear(tx, keys)
    return len(ready) + woken, len(found) == RUNS


async def _past(tx: Tx, questions: Sequence[Question]) -> list[Answer]:
    """Return the answers that came between the questions and this look at them."""
    listeners = Listeners(questions)
    since = min((question.asked_at for question in questions), default=None)
    given: list[Answer] = []
    after = 0
    while since is not None and (keys := listeners.keys):
        events = await waits.past(tx, keys, since=since, after=after, limit=PAGE)
        given += [answer for event in events for answer in listeners.tell(event)]
        if len(events) < PAGE:
            break
        after = events[-1].seq
    return given


async def _answer(tx: Tx, given: Sequence[Answer]) -> int:
    """Write answers down for those of the runs that wait still."""
    held = await waits.hold(tx, [answer.run_id for answer in given])
    due = [a for a in given if a.run_id in held and held[a.run_id].state == "waiting"]
    if due:
        await waits.answer(tx, due, reason="event")
    return len({answer.run_id for answer in due})
