"""Templates and conditions, for trying out what a pipeline would make of them."""

from __future__ import annotations

from fastapi import Response

from ordinaut.api.answers import answer
from ordinaut.api.dependencies import TasksRead
from ordinaut.api.routing import router
from ordinaut.api.schemas.schedules import Evaluate, Evaluated
from ordinaut.engine import template

routes = router("/templates", "templates")


@routes.post("/evaluate", response_model=Evaluated)
async def evaluate(body: Evaluate, work: TasksRead) -> Response:
    """Resolve every ``${…}`` in ``value``, or evaluate ``condition``, over ``context``."""
    if body.condition is not None:
        result = template.evaluate_condition(body.condition, body.context, now=work.now)
        return answer({"result": result})
    return answer({"value": template.evaluate(body.value, body.context, now=work.now)})
