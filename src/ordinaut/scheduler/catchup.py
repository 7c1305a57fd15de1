"""What becomes of occurrences whose time passed while nobody could fire them.

Two things keep a task from firing: no scheduler ran (a downtime), or the task was paused. Such
an absence has a policy: the task's ``catchup``, or what was said when the task was resumed.

* ``all``: each occurrence runs, unless it is later than the catch-up window;
* ``last``: of occurrences that follow each other in absences, also in several, the last runs;
* ``none``: none runs.

What was late for any other reason is not asked about: it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from ordinaut.model import Catchup, Verdict
from ordinaut.store.pulse import Downtime
from ordinaut.store.schedules import Pause

Following: TypeAlias = Callable[[datetime], datetime | None]

_MICROSECOND = timedelta(microseconds=1)
_UNITS = (("week", 604_800), ("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


@dataclass(frozen=True, slots=True)
class Absence:
    """A time, ``began_at <= t < ended_at``, in which a task could not fire."""

    began_at: datetime
    ended_at: datetime
    policy: Catchup
    paused: bool

    @property
    def reason(self) -> str:
        """What the ledger says about it."""
        cause = "the task was paused" if self.paused else "no scheduler was running"
        return f"{cause} from {_shown(self.began_at)} to {_shown(self.ended_at)}"


@dataclass(frozen=True, slots=True)
class Ruling:
    """The verdict on an occurrence that does not run."""

    verdict: Verdict
    reason: str


class Absences:
    """All absences of one task in its undecided time."""

    def __init__(
        self,
        pauses: Iterable[Pause],
        downtimes: Iterable[Downtime],
        *,
        catchup: Catchup,
        window: timedelta,
    ) -> None:
        # A pause comes first: the task would not have fired then with a scheduler either.
        self._all: Sequence[Absence] = [
            *(Absence(p.began_at, p.ended_at, p.catchup or catchup, True) for p in pauses),
            *(Absence(d.began_at, d.ended_at, catchup, False) for d in downtimes),
        ]
        self._window = window

    def __bool__(self) -> bool:
        return bool(self._all)

    def rule(self, due: datetime, following: Following, *, now: datetime) -> Ruling | None:
        """Return why the occurrence at ``due`` does not run, or None when it does.

        ``following`` tells the first occurrence after an instant.
        """
        absence = self._around(due)
        if absence is None:
            return None
        late = now - due > self._window
        if not late and absence.policy == "all":
            return None
        if not late and absence.policy == "last":
            if not self._superseded(due, following):
                return None
            return self._ruling(absence, "coalesced", "; a later occurrence runs for it")
        if late and absence.policy != "none":
            shown = duration(self._window)
            return self._ruling(absence, "missed", f"; later than the catch-up window of {shown}")
        return self._ruling(absence, "missed", "")

    def _around(self, due: datetime) -> Absence | None:
        return next((a for a in self._all if a.began_at <= due < a.ended_at), None)

    def _superseded(self, due: datetime, following: Following) -> bool:
        later = following(due)
        while later is not None and (absence := self._around(later)) is not None:
            if absence.policy != "none":
                return True
            later = following(absence.ended_at - _MICROSECOND)
        return False

    def _ruling(self, absence: Absence, verdict: Verdict, more: str) -> Ruling:
        return Ruling("skipped_paused" if absence.paused else verdict, absence.reason + more)


NO_ABSENCES = Absences((), (), catchup="all", window=timedelta())


def duration(length: timedelta) -> str:
    """Return a length in the biggest unit that divides it: ``36 hours``."""
    seconds = int(length.total_seconds())
    name, size = next((u for u in _UNITS if seconds % u[1] == 0 and seconds), _UNITS[-1])
    count = seconds // size
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _shown(instant: datetime) -> str:
    return instant.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
