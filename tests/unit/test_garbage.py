"""What the collector of garbage looks at."""

from __future__ import annotations

import gc
import weakref

from ordinaut.garbage import YOUNG, spare_what_lives


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_what_lives_is_not_looked_at_and_garbage_still_goes() -> None:
    before = gc.get_threshold()
    try:
        spare_what_lives()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == YOUNG
        made = weakref.ref(Cycle())
        gc.collect()
        assert made() is None
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
