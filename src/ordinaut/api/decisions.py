"""What people decide about runs: approve, reject, and try again.

A person is asked by an approval, and by a call that may or may not have happened. Who may
decide: an approval that names a scope is for those who hold it, and for nobody else, not even
the owner of the task; any other is for those who may write the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from ordinaut.api import quotas
from ordinaut.api.dependencies import Work
from ordinaut.api.schemas.runs import Decision
from ordinaut.api.scopes import of_approval
from ordinaut.engine import doubt, waiting
from ordinaut.engine.nearest import hint
from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.errors import Conflict, Forbidden, InvalidInput, NotFound
from ordinaut.model import Event, Json, StepRecord
from ordinaut.store import audit, journal, queue, runs, schedules, tasks, waits
from ordinaut.store.database import Tx
from ordinaut.store.runs import Run
from ordinaut.store.waits import Answer

KINDS: Final = ("approval", doubt.KIND)  # of questions that a person answers
REPEATABLE: Final = ("failed", "canceled", "dead")
WORDS: Final = {True: "approved", False: "rejected"}


async def decide(tx: Tx, work: Work, run_id: UUID, *, body: Decision, approved: bool) -> Run:
    """Answer the question of a run; saying the same twice is saying it once.

    Raises :class:`Conflict` when nothing waits for an answer, or was answered otherwise.
    """
    held = (await waits.hold(tx, [run_id])).get(run_id)
    run = await runs.get(tx, run_id)
    asked = [q for q in await waits.questions(tx, run_id) if _is_meant(q, body)]
    asked = await _permitted(tx, work, run_id, asked)
    still = [q for q in asked if q.status == "waiting"]
    if not still or held is None:
        _check_repeated(run, asked, approved=approved)
        return run
    question = _only(still)
    until = waiting.asked_again(question).until
    if until is not None and until <= held.now:
        raise Conflict(f"the answer had to come before {until.isoformat()}")
    if "output" in body.model_fields_set and not (approved and doubt.still_open(question)):
        raise InvalidInput.at("output", "only a step whose effect is unknown is given an output")
    await _answer(tx, work, run, question, body=body, approved=approved)
    return await runs.get(tx, run_id)


async def retry(tx: Tx, work: Work, run_id: UUID, *, from_step: str | None) -> Run:
    """Queue a run once more that ended badly, or one that waits because of a call in doubt.

    Raises :class:`Conflict` for any other run.
    """
    held = (await waits.hold(tx, [run_id])).get(run_id)
    run = await runs.get(tx, run_id, owner=work.owner)
    await quotas.runs(work, adding=1)
    if held is not None and from_step is None and await waits.forget_doubts(tx, run_id):
        await waits.wake(tx, [run_id], reason="redriven")
    elif run.status in REPEATABLE:
        forget = () if from_step is None else await _since(tx, run, from_step)
        [timed] = await schedules.load(tx, [run.task_id])
        await queue.redrive(tx, run_id, lane=timed.lane, forget=forget)
    else:
        raise Conflict(f"a run that is {run.status} can not be retried")
    await queue.hint(tx)
    after = None if from_step is None else {"from_step": from_step}
    await audit.record(
        tx, work.actor, action="run.retry", entity="run", entity_id=run_id, after=after
    )
    return await runs.get(tx, run_id)


async def _since(tx: Tx, run: Run, step_id: str) -> frozenset[str]:
    """Return the steps that are done again when a run begins again at ``step_id``."""
    version = (run.task_id, run.task_version)
    definition = (await tasks.definitions(tx, [version]))[version]
    pipeline = parse_pipeline(definition.payload, registry=None)
    found = pipeline.since(step_id)
    if found is None:
        names = [step.id for step in pipeline.walk()]
        raise InvalidInput.at("from_step", f"there is no step {step_id!r}{hint(step_id, names)}")
    return found


async def _answer(
    tx: Tx, work: Work, run: Run, question: StepRecord, *, body: Decision, approved: bool
) -> None:
    said: dict[str, Json] = {
        "approved": approved,
        "by": work.agent.name,
        "note": body.note or None,
        "at": work.now.isoformat(),
        "scope": _scope(question),
    }
    told = {"step_id": question.step_id, "item": question.index, **said}
    await journal.emit(tx, [_fact(run, told, approved=approved)])
    await waits.answer(
        tx, [_answered(run, question, said, output=body.output)], reason=WORDS[approved]
    )
    action = "run.approve" if approved else "run.reject"
    await audit.record(tx, work.actor, action=action, entity="run", entity_id=run.id, after=told)
    await queue.hint(tx)


def _answered(run: Run, question: StepRecord, said: dict[str, Json], *, output: Json) -> Answer:
    approved = bool(said["approved"])
    base = Answer(
        run_id=run.id,
        step_id=question.step_id,
        index=question.index,
        output=said,
        announce=approved,
    )
    if doubt.still_open(question) is None:
        return base
    return replace(
        base,
        status="succeeded" if approved else "failed",
        output=output,
        error={**question.error, "details": said},
    )


def _fact(run: Run, told: Json, *, approved: bool) -> Event:
    if approved:
        return Event("run.approved", told, run.task_id, run.id)
    return Event("run.rejected", told, run.task_id, run.id)


def _is_meant(question: StepRecord, body: Decision) -> bool:
    if question.status == "waiting" and waiting.asked_again(question).kind not in KINDS:
        return False
    named = body.step is None or question.step_id in (body.step, f"{body.step}:wait")
    return named and (body.index is None or question.index == body.index)


async def _permitted(
    tx: Tx, work: Work, run_id: UUID, asked: Sequence[StepRecord]
) -> list[StepRecord]:
    """Return the questions that the agent may answer.

    Raises :class:`NotFound` for a run that is none of its business, :class:`Forbidden` for one
    that it may only look at.
    """
    agent = work.agent
    mine = await _is_mine(tx, work, run_id)
    needed = [_scope(question) for question in asked]
    able = [agent.may(scope) if scope else mine and agent.may("runs:write") for scope in needed]
    if any(able) or (mine and agent.may("runs:write") and not asked):
        return [question for question, fits in zip(asked, able, strict=True) if fits]
    if not mine:
        raise NotFound(f"there is no run {run_id}")
    names = " or ".join(sorted({scope or "runs:write" for scope in needed} or {"runs:write"}))
    raise Forbidden(f"this needs the scope {names}")


async def _is_mine(tx: Tx, work: Work, run_id: UUID) -> bool:
    try:
        owner = None if work.agent.may("runs:write:all") else work.agent.id
        await runs.get(tx, run_id, owner=owner)
    except NotFound:
        return False
    return True


def _scope(question: StepRecord) -> str | None:
    """Return the scope that answering needs, if the approval names one."""
    if question.status != "waiting":
        return _said(question).get("scope")
    word = waiting.asked_again(question).scope
    return None if word is None else of_approval(word)


def _only(asked: Sequence[StepRecord]) -> StepRecord:
    if len(asked) > 1:
        names = ", ".join(sorted({question.step_id for question in asked}))
        raise InvalidInput.at("step", f"several steps wait: {names}; name one")
    return asked[0]


def _check_repeated(run: Run, asked: Sequence[StepRecord], *, approved: bool) -> None:
    """Raise :class:`Conflict` unless the last answer was the same."""
    before = [_said(q)["approved"] for q in asked if q.status != "waiting"]
    if not before:
        raise Conflict(f"the run is {run.status}, and nothing of it waits for an approval")
    if before[-1] != approved:
        raise Conflict(f"it was {WORDS[before[-1]]} already")


def _said(question: StepRecord) -> dict[str, Json]:
    """Return what was answered: the output of the step, or a part of its error."""
    error = question.error if isinstance(question.error, dict) else {}
    said: dict[str, Json] = error.get("details") or question.output
    return said
