"""Which names an expression of a pipeline may use, and where problems are collected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ordinaut.engine.expression import Expression, Reference
from ordinaut.engine.fields import Problems
from ordinaut.engine.nearest import hint
from ordinaut.engine.scanner import caret
from ordinaut.engine.steps import Step

ROOTS = ("params", "steps", "event", "events", "task", "run", "now")


class Scope:
    """The names that exist at one place of a pipeline.

    A step's name is *declared* where it stands and *revealed* to the steps after it.
    """

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._expected: set[str] = set()
        self._declared: dict[str, str] = {}
        self._visible: set[str] = set()
        self._extra: tuple[str, ...] = ()

    def expect(self, name: str) -> None:
        """Note that some step of the pipeline has this name."""
        self._expected.add(name)

    def declare(self, step_id: str, save_as: str | None, *, path: str) -> None:
        """Note the names of the step at ``path``; each belongs to one step."""
        self._declare(step_id, place=f"{path}.id", path=path)
        if save_as is not None and save_as != step_id:
            self._declare(save_as, place=f"{path}.save_as", path=path)

    def _declare(self, name: str, *, place: str, path: str) -> None:
        if name and name in self._declared:
            self._problems.add(place, f'the name "{name}" is taken by {self._declared[name]}')
        elif name:
            self._declared[name] = path

    def reveal(self, step: Step) -> None:
        """Let later steps use the output of ``step`` and of the steps within its group."""
        self._visible.update(name for name in (step.id, step.save_as) if name)
        for child in step.parallel:
            self.reveal(child)

    @contextmanager
    def inside(
        self, *, item: bool | None = None, error: bool = False, probe: bool = False
    ) -> Iterator[None]:
        """Add or hide ``item`` and ``index``, add ``error`` or ``probe``, for what is within."""
        before = self._extra
        kept = tuple(n for n in before if item is None or n not in ("item", "index"))
        added = {"item": bool(item), "index": bool(item), "error": error, "probe": probe}
        self._extra = kept + tuple(name for name, is_there in added.items() if is_there)
        try:
            yield
        finally:
            self._extra = before

    def check(self, expression: Expression, path: str, *, secrets: bool = False) -> None:
        """Add a problem for every name that does not exist here."""
        for reference in expression.references:
            message = self._problem(reference, secrets)
            if message is not None:
                position = reference.position
                if reference.root == "steps" and reference.member is not None:
                    position = reference.member_position
                place = caret(expression.text, position)
                self._problems.add(path, f"{message}\n{place}", code="unknown_name")

    def _problem(self, reference: Reference, secrets: bool) -> str | None:
        if reference.root == "secrets":
            return None if secrets else 'secrets can be used only within "with"'
        known = (*ROOTS, *self._extra)
        if reference.root not in known:
            names = ", ".join(known)
            return f'unknown name "{reference.root}"{hint(reference.root, known)} (known: {names})'
        if reference.root == "steps" and reference.member is not None:
            return self._step_problem(reference.member)
        return None

    def _step_problem(self, name: str) -> str | None:
        if name in self._visible:
            return None
        if name in self._expected:
            return f'the output of step "{name}" does not exist yet at this place'
        return f'unknown step "{name}"{hint(name, self._visible)}'
