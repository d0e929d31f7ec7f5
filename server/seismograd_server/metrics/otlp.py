"""The families of runs for an OpenTelemetry collector, pushed over OTLP/HTTP every so often.

    snapshot -> the same runs and families as on `/metrics` -> data points of the SDK -> its exporter, on our own thread

The SDK's own instruments are left out: they keep every set of attributes that there ever was, and a run that has ended
must leave. Names are those of `/metrics` with dots where OpenTelemetry has them and the unit beside the name instead of
in it, so that a collector that writes to Prometheus makes the same names of them again.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from seismograd_server.errors import ConfigError
from seismograd_server.metrics.choice import ExportLimits, exported
from seismograd_server.metrics.families import LAYER_DEVIATION, LAYER_NORM, RUN_FAMILIES, Family, Head, Scalar
from seismograd_server.metrics.layers import shown_layers
from seismograd_server.model import RunView, Snapshot

Outcome = Literal["exported", "failed"]
_LABEL = re.compile(r',(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
# How the names of a page end, and the unit that says the same in OpenTelemetry.
_UNITS = (("_seconds", "s"), ("_ratio", "1"))
_NANOSECONDS = 1e9


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Where to push, and how.

    Attributes:
        endpoint: the whole address, as in http://collector:4318/v1/metrics.
        interval_seconds: between two pushes.
        timeout_seconds: after which a push has failed.
        headers: of each request, as for an API key.
        ca_file: who signs the collector's certificate; empty = those that the system trusts.
    """

    endpoint: str
    interval_seconds: float = 15.0
    timeout_seconds: float = 10.0
    headers: Mapping[str, str] | None = None
    ca_file: str = ""


class OtlpExport:
    """Pushes from a thread of its own. A collector that is away, hangs or refuses costs nobody else anything."""

    def __init__(
        self,
        settings: OtlpSettings,
        snapshot: Callable[[], Snapshot],
        limits: ExportLimits,
        clock: Callable[[], float],
        count: Callable[[Outcome], None],
    ) -> None:
        """Make it; `start` begins.

        Args:
            settings: see there.
            snapshot: what is live; must not block.
            limits: as those of `/metrics`.
            clock: Unix seconds.
            count: hears what became of each push.

        Raises:
            ConfigError: the SDK is not installed.
        """
        try:
            import opentelemetry.exporter.otlp.proto.http.metric_exporter as otlp  # noqa: PLC0415 (an extra that most servers do without)
            from opentelemetry.sdk.metrics import export as sdk  # noqa: PLC0415 (likewise)
        except ImportError as error:
            raise ConfigError('export.otlp: needs OpenTelemetry\'s SDK: pip install "seismograd[otlp]"') from error
        # It logs every failure with a traceback; ours are counted.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._sdk: Any = sdk
        self._exporter: Any = otlp.OTLPMetricExporter(
            endpoint=settings.endpoint,
            headers=dict(settings.headers or {}),
            timeout=settings.timeout_seconds,
            certificate_file=settings.ca_file or None,
        )
        self._settings = settings
        self._snapshot = snapshot
        self._limits = limits
        self._clock = clock
        self._count = count
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        """Begin to push."""
        self._thread.start()

    def stop(self) -> None:
        """Stop within a moment, also when the collector hangs: then its last push is lost."""
        self._stopping.set()
        self._exporter.shutdown()
        self._thread.join(timeout=1.0)

    def push(self) -> Outcome:
        """Push once, and count it."""
        try:
            done = self._exporter.export(self._data()) is self._sdk.MetricExportResult.SUCCESS
        except Exception:  # noqa: BLE001 (whatever the library raises is one push that failed)
            done = False
        outcome: Outcome = "exported" if done else "failed"
        if not self._stopping.is_set():
            self._count(outcome)
        return outcome

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.interval_seconds):
            self.push()

    def _data(self) -> Any:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 (it is there: see above)
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415 (likewise)

        now = self._clock()
        views, _ = exported(self._snapshot(), now, self._limits)
        metrics = [self._metric(family, list(_points(family, views)), now) for family in RUN_FAMILIES]
        norms, deviations = _layers(views, self._limits)
        metrics += [self._metric(LAYER_NORM, norms, now), self._metric(LAYER_DEVIATION, deviations, now)]
        resource = Resource({"service.name": "seismograd", "service.version": version("seismograd")})
        scope = InstrumentationScope("seismograd", version("seismograd"))
        inside = self._sdk.ScopeMetrics(scope, [metric for metric in metrics if metric.data.data_points], "")
        return self._sdk.MetricsData([self._sdk.ResourceMetrics(resource, [inside], "")])

    def _metric(self, family: Head, points: list[Point], now: float) -> Any:
        name, unit = otlp_name(family)
        drawn = [
            self._sdk.NumberDataPoint(point.attributes, int(point.since * _NANOSECONDS), int(now * _NANOSECONDS), value)
            for point in points
            for value in [point.value]
        ]
        if family.kind == "counter":
            data = self._sdk.Sum(drawn, self._sdk.AggregationTemporality.CUMULATIVE, is_monotonic=True)
        else:
            data = self._sdk.Gauge(drawn)
        return self._sdk.Metric(name, family.help, unit, data)


@dataclass(frozen=True, slots=True)
class Point:
    """One number of one run: since its beginning, where it is a count."""

    attributes: Mapping[str, str]
    since: float  # Unix seconds
    value: float


def otlp_name(family: Head) -> tuple[str, str]:
    """The name and the unit of a family.

    >>> otlp_name(Head("seismograd_run_start_timestamp_seconds", "gauge", ""))
    ('seismograd.run.start_timestamp', 's')
    >>> otlp_name(Head("seismograd_run_steps_total", "counter", ""))
    ('seismograd.run.steps', '')
    """
    name, unit = family.name.removesuffix("_total"), ""
    for ending, symbol in _UNITS:
        if name.endswith(ending):
            name, unit = name.removesuffix(ending), symbol
    project, about, rest = name.split("_", 2)
    return f"{project}.{about}.{rest}", unit


def _points(family: Scalar | Family, views: list[RunView]) -> Iterator[Point]:
    for view in views:
        identity = _identity(view)
        if isinstance(family, Scalar):
            value = family.value(view)
            if value is not None:
                yield Point(identity, view.run.started_at, float(value))
            continue
        for labels, number in family.read(view):
            yield Point({**identity, **_attributes(labels)}, view.run.started_at, float(number))


def _layers(views: list[RunView], limits: ExportLimits) -> tuple[list[Point], list[Point]]:
    norms, deviations = [], []
    for view in views:
        for name, norm, deviation in shown_layers(view.layers, limits.layers):
            attributes = {**_identity(view), "layer": name}
            norms.append(Point(attributes, view.run.started_at, float(norm)))
            if deviation is not None:
                deviations.append(Point(attributes, view.run.started_at, float(deviation)))
    return norms, deviations


def _identity(view: RunView) -> dict[str, str]:
    return {"project": view.run.key.project, "run": view.run.key.run}


def _attributes(labels: str) -> dict[str, str]:
    """Labels as they stand on a page, unescaped."""
    return {
        name: _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], value)
        for name, value in _LABEL.findall(labels)
    }
