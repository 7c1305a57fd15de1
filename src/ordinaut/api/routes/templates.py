"""Templates and conditions, for trying out what a pipeline would make of them."""

from __future__ import annotations

from fastapi import Response

from ordinaut.api.dependencies import Parts, TasksRead
from ordinaut.api.json import dumps
from ordinaut.api.routing import router
from ordinaut.api.schemas.schedules import Evaluate, Evaluated
from ordinaut.engine.template import evaluate as render
from ordinaut.engine.template import evaluate_condition

routes = router("/templates", "templates")


@routes.post("/evaluate", response_model=Evaluated)
async def evaluate(body: Evaluate, caller: TasksRead, parts: Parts) -> Response:
    """Resolve every ``${…}`` in ``value``, or evaluate ``condition``, over ``context``."""
    now = parts.clock.now()
    if body.condition is not None:
        result = evaluate_condition(body.condition, body.context, now=now)
        return _answer({"result": result})
    return _answer({"value": render(body.value, body.context, now=now)})


def _answer(value: dict[str, object]) -> Response:
    return Response(dumps(value), media_type="application/json")
