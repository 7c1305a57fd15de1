"""Every error Ordinaut raises on purpose.

::

    OrdinautError
    ├── InvalidInput          what was sent can not be accepted; carries field problems
    │   ├── InvalidSchedule   an expression, zone or calendar that can not be used
    │   ├── InvalidPipeline   a pipeline that can not be stored
    │   └── InvalidTemplate   a ``${…}`` or condition that can not be parsed
    ├── NotFound              no such task, run, agent …
    ├── Conflict              the state of the thing does not allow it
    │   ├── PreconditionFailed  If-Match did not match
    │   └── Undecipherable    a secret that does not open with the keys of this process
    ├── Unauthenticated       no credential, or one that is not valid
    ├── Forbidden             the credential does not allow it
    │   └── CrossSite         another site may have made the request
    ├── TooLarge              a body, value or nesting over its limit
    ├── TooManyRequests       a rate limit or quota is used up
    ├── Unavailable           a server we need does not answer
    ├── LeaseLost             another worker owns the run now; stop and discard
    ├── StepError             a step failed
    │   ├── TemplateError     an expression failed while it was evaluated
    │   ├── InvalidArguments  the rendered arguments are not what the tool takes
    │   ├── InvalidOutput     the tool returned what it may not return
    │   ├── WaitRefused       what the step waited for was rejected or did not come in time
    │   ├── ToolError         the tool said no
    │   ├── StepTimeout       the step did not end in time
    │   └── EffectUnknown     an at_most_once call may or may not have happened
    └── ExtensionError        an extension that can not be used, with its reason
        └── CapabilityDenied  a capability that was not granted

``code`` is stable and documented in ``docs/reference/errors.md``; ``retryable`` is decided
where the error is raised, never guessed from words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing that is wrong with the input.

    ``path`` names the place the way a reader would write it
    (``payload.pipeline[2].with.url``), ``message`` says what is wrong and what would be right.
    """

    path: str
    message: str
    code: str = "invalid"


class OrdinautError(Exception):
    """Base of all errors raised on purpose."""

    code = "error"
    retryable = False

    def __init__(self, message: str, *, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retryable is not None:
            self.retryable = retryable


class InvalidInput(OrdinautError):
    """What was sent can not be accepted; nothing was stored."""

    code = "invalid_input"

    def __init__(self, message: str, *, problems: tuple[FieldProblem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    @classmethod
    def at(cls, path: str, message: str, *, code: str | None = None) -> Self:
        """One problem at one place."""
        return cls(message, problems=(FieldProblem(path, message, code or cls.code),))


class InvalidSchedule(InvalidInput):
    """A schedule expression, time zone or calendar that can not be used."""

    code = "invalid_schedule"


class InvalidPipeline(InvalidInput):
    """A pipeline that can not be stored."""

    code = "invalid_pipeline"


class InvalidTemplate(InvalidInput):
    """A template or condition that can not be parsed.

    ``position`` is the 0-based offset in ``expression`` where reading stopped.
    """

    code = "invalid_template"

    def __init__(
        self,
        message: str,
        *,
        expression: str = "",
        position: int | None = None,
        problems: tuple[FieldProblem, ...] = (),
    ) -> None:
        super().__init__(message, problems=problems)
        self.expression = expression
        self.position = position


class NotFound(OrdinautError):
    """No such task, run, agent, calendar …, or not one the caller may see."""

    code = "not_found"


class Conflict(OrdinautError):
    """The state of the thing does not allow what was asked."""

    code = "conflict"


class PreconditionFailed(Conflict):
    """``If-Match`` names a version that is not the current one."""

    code = "precondition_failed"


class Undecipherable(Conflict):
    """A secret was encrypted with a key that this process does not have, or was changed."""

    code = "undecipherable"


class Unauthenticated(OrdinautError):
    """No credential, or one that is not valid (any more)."""

    code = "unauthenticated"


class Forbidden(OrdinautError):
    """The credential is valid but does not allow this."""

    code = "forbidden"


class CrossSite(Forbidden):
    """A request with a session cookie that another site may have made."""

    code = "csrf"


class TooLarge(OrdinautError):
    """A body, value or nesting that is over its limit."""

    code = "too_large"


class TooManyRequests(OrdinautError):
    """A rate limit or quota is used up; ``retry_after`` in seconds."""

    code = "too_many_requests"
    retryable = True

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(OrdinautError):
    """A server that is needed does not answer."""

    code = "unavailable"
    retryable = True


class LeaseLost(OrdinautError):
    """Another worker owns the run now: stop, and discard what was done."""

    code = "lease_lost"


class StepError(OrdinautError):
    """A step failed.

    ``path`` is the place in the pipeline (``payload.pipeline[2].with.url``), ``details`` is
    plain JSON for the run record.
    """

    code = "step_failed"

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        path: str = "",
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.path = path
        self.details = details or {}


class TemplateError(StepError):
    """An expression failed while it was evaluated: a missing path, a wrong type."""

    code = "template_error"


class InvalidArguments(StepError):
    """The rendered arguments of a step are not what its tool takes."""

    code = "invalid_arguments"


class InvalidOutput(StepError):
    """A tool returned what is not JSON, is too large, or is not what its schema promises."""

    code = "invalid_output"


class WaitRefused(StepError):
    """What a step waited for was rejected, or did not come in time."""

    code = "wait_refused"


class ToolError(StepError):
    """A tool said no; it knows whether trying again can help."""

    code = "tool_error"


class StepTimeout(StepError):
    """A step did not end within its time."""

    code = "step_timeout"
    retryable = True


class EffectUnknown(StepError):
    """A worker died inside an ``at_most_once`` call: it may or may not have happened."""

    code = "effect_unknown"


class ExtensionError(OrdinautError):
    """An extension that can not be used, with its reason."""

    code = "extension_error"


class CapabilityDenied(ExtensionError):
    """An extension used a capability that it was not granted."""

    code = "capability_denied"
