"""What is measured, and how facts and figures become metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ordinaut.plugins.base import Figures

# Labels are route templates, never raw paths: the number of series stays small.
UNMATCHED = "(unmatched)"
STATES = ("scheduled", "ready", "leased", "waiting")
ENDED = ("succeeded", "failed", "canceled", "dead")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REQUEST_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """A registry of its own, so that many can live in one process."""

    def __init__(self) -> None:
        # A second series for each series, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = Info("ordinaut_build", "The version that runs.", registry=self.registry)
        build.info({"version": metadata.version("ordinaut")})
        self._requests = Counter(
            "ordinaut_http_requests",
            "Requests answered by this process.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ordinaut_http_request_seconds",
            "How long this process took to answer.",
            ["method", "route"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._cluster = ClusterCollector()
        self.registry.register(self._cluster)

    def take(self, fact: str, details: Mapping[str, Any]) -> None:
        """Listen to one fact of this process."""
        if fact != "http.request":
            return
        method = details["method"] if details["method"] in METHODS else "OTHER"
        route = details["route"] or UNMATCHED
        self._requests.labels(method, route, str(details["status"])).inc()
        self._seconds.labels(method, route).observe(details["seconds"])

    def show(self, figures: Figures) -> None:
        """Take the figures of the cluster that are shown from now on."""
        self._cluster.figures = figures


class ClusterCollector(Collector):
    """Turns the last figures into metrics."""

    def __init__(self) -> None:
        self.figures = Figures({}, {}, {})

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily(
            "ordinaut_queue_depth", "Due work of the cluster by state.", labels=["state"]
        )
        oldest = GaugeMetricFamily(
            "ordinaut_queue_oldest_seconds",
            "Since when the oldest due work of a state is due.",
            labels=["state"],
        )
        for state in STATES:
            count, age = self.figures.queue.get(state, (0, 0.0))
            depth.add_metric([state], count)
            oldest.add_metric([state], age)
        processes = GaugeMetricFamily(
            "ordinaut_processes", "Processes of the cluster.", labels=["kind", "state"]
        )
        for (kind, state), count in self.figures.processes.items():
            processes.add_metric([kind, state], count)
        runs = CounterMetricFamily(
            "ordinaut_runs", "Runs of the cluster that ended, by status.", labels=["status"]
        )
        events = CounterMetricFamily(
            "ordinaut_run_events", "What else happened to runs.", labels=["event"]
        )
        for status in ENDED:
            runs.add_metric([status], self.figures.run_events.get(f"run.{status}", 0))
        for topic, count in sorted(self.figures.run_events.items()):
            event = topic.removeprefix("run.")
            if event not in ENDED:
                events.add_metric([event], count)
        yield from (depth, oldest, processes, runs, events)
        yield from self._subscribers()

    def _subscribers(self) -> Iterator[Metric]:
        labels = ["stream", "group"]
        lag = GaugeMetricFamily(
            "ordinaut_group_lag", "Messages that a group was not given yet.", labels=labels
        )
        pending = GaugeMetricFamily(
            "ordinaut_group_pending", "Messages that a group has not acknowledged.", labels=labels
        )
        lost = GaugeMetricFamily(
            "ordinaut_group_dead_consumers",
            "Consumers of a group that hold messages and say nothing any more.",
            labels=labels,
        )
        for names, (behind, held, dead) in self.figures.groups.items():
            if behind is not None:
                lag.add_metric(names, behind)
            pending.add_metric(names, held)
            lost.add_metric(names, dead)
        letters = GaugeMetricFamily(
            "ordinaut_dead_letters", "Messages that no group could handle.", labels=["stream"]
        )
        for stream, count in self.figures.dead_letters.items():
            letters.add_metric([stream], count)
        yield from (lag, pending, lost, letters)
