"""The catalogue of events: every topic that the product itself speaks of, with its schema.

It stands in ``topics.json``: ``when`` in words, and the JSON Schema of ``data``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import orjson

from ordinaut.model import Json


@dataclass(frozen=True, slots=True)
class Topic:
    """What an event says; ``schema`` (2020-12) is complete by itself."""

    topic: str
    when: str
    schema: Json


@cache
def catalogue() -> Mapping[str, Topic]:
    """Return the topics by name; ``ext.<id>.*`` stands for those of extensions."""
    text = resources.files("ordinaut.store").joinpath("topics.json").read_bytes()
    found = orjson.loads(text)
    return {
        topic: Topic(topic, one["when"], {**one["data"], "$defs": found["$defs"]})
        for topic, one in found["topics"].items()
    }
