"""What credentials turned out to be: for moments, so that not every request asks the database."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from ordinaut.clock import Clock

CACHE_SECONDS: Final = 2.0
CACHE_SIZE: Final = 10_000

T = TypeVar("T")


class Memory(Generic[T]):
    """Knows the credentials that were good in the last ``CACHE_SECONDS``, and that some were."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, T]] = {}
        self._familiar: set[int] = set()  # what was valid once: others' failures do not shut it out

    def get(self, credential: str) -> T | None:
        """Return what a credential is for, if that is known still."""
        until, known = self._known.get(credential, (0.0, None))
        return known if self._clock.monotonic() < until else None

    def put(self, credential: str, meaning: T, *, seconds: float = CACHE_SECONDS) -> None:
        """Remember what a credential is for, for ``seconds`` at most."""
        if len(self._known) >= CACHE_SIZE:
            self._known.clear()
        if len(self._familiar) >= CACHE_SIZE:
            self._familiar.clear()
        self._known[credential] = (self._clock.monotonic() + min(seconds, CACHE_SECONDS), meaning)
        self._familiar.add(hash(credential))

    def recall(self, credential: str) -> bool:
        """Tell whether a credential was good before; that serves once, until it is again."""
        familiar = hash(credential) in self._familiar
        self._familiar.discard(hash(credential))
        return familiar

    def forget(self) -> None:
        """Look up every credential anew."""
        self._known.clear()
