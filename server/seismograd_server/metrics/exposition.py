"""The whole `/metrics` page in the format that the scraper asks for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from seismograd_server.display.text import printable
from seismograd_server.instruments import Instruments
from seismograd_server.metrics.choice import DEFAULT_LIMITS, ExportLimits
from seismograd_server.metrics.render import render_runs
from seismograd_server.model import Snapshot

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_END = b"# EOF\n"
# What Prometheus 2 and 3 ask for; a scraper that only speaks 2.0 is given text.
_OPENMETRICS_VERSIONS = frozenset({"", "0.0.1", "1.0.0"})


def new_registry() -> CollectorRegistry:
    """A registry with what is known of the process itself: CPU, memory, descriptors, garbage collections, Python."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def page(
    accept: str, snapshot: Snapshot, instruments: Instruments, now: float, limits: ExportLimits = DEFAULT_LIMITS
) -> tuple[bytes, str]:
    """Give the page and its content type.

    Args:
        accept: the request's Accept header; empty = anything.
        snapshot: what is live.
        instruments: the server's own numbers.
        now: Unix seconds, against which the age of ended runs is judged.
        limits: how many runs to export.
    """
    openmetrics = wants_openmetrics(accept)
    runs = render_runs(snapshot, now, limits, openmetrics=openmetrics).encode()
    own = _Encodable(instruments.registry)
    if not openmetrics:
        return generate_text(own) + runs, TEXT
    return generate_openmetrics(own).removesuffix(_END) + runs + _END, OPENMETRICS


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics 1.0 to the text format; at equal weight it does."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for entry in accept.split(","):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        options = dict(part.partition("=")[::2] for part in parameters)
        if media == "application/openmetrics-text" and options.get("version", "") not in _OPENMETRICS_VERSIONS:
            continue
        if media in weights:
            weights[media] = max(weights[media], _weight(options.get("q", "1")))
    return weights["application/openmetrics-text"] >= weights["text/plain"] and any(weights.values())


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class _Encodable(Collector):
    """A registry whose label values can all be written as UTF-8: one that cannot would cost the whole page."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            for index, sample in enumerate(metric.samples):
                if not all(value.isascii() for value in sample.labels.values()):
                    labels = {name: printable(value) for name, value in sample.labels.items()}
                    metric.samples[index] = sample._replace(labels=labels)
            yield metric
