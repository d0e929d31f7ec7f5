"""What an OpenTelemetry collector is pushed: held against the page, and against collectors that misbehave."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families as read_text

from seismograd_server.instruments import Instruments
from seismograd_server.metrics import ExportLimits, new_registry, page, parse_layers
from seismograd_server.metrics.otlp import OtlpExport, OtlpSettings
from seismograd_server.model import LayerLevels, RunState, Snapshot
from tests.support.receiver import Answer, Received, Receiver
from tests.support.views import NOW, run_view

Point = tuple[str, frozenset[tuple[str, str]]]
_PROMETHEUS_UNITS = {"s": "_seconds", "1": "_ratio", "": ""}


class Pushed:
    """An exporter, what it pushes, and what became of each push."""

    def __init__(self, receiver: Receiver, *views: Any, **settings: Any) -> None:
        self.snapshot = Snapshot(NOW, views)
        self.outcomes: list[str] = []
        limits = ExportLimits(layers=parse_layers("all"))
        found = OtlpSettings(f"{receiver.url}/v1/metrics", **settings)
        self.export = OtlpExport(found, lambda: self.snapshot, limits, lambda: NOW, self.outcomes.append)


def points(request: Received) -> dict[Point, tuple[float, int]]:
    """Values and starts by what a collector that writes to Prometheus would call them, and by their attributes."""
    body = gzip.decompress(request.body) if request.headers.get("Content-Encoding") == "gzip" else request.body
    found: dict[Point, tuple[float, int]] = {}
    message = ExportMetricsServiceRequest.FromString(body)
    (resource,) = message.resource_metrics
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "seismograd"
    for metric in resource.scope_metrics[0].metrics:
        kind = str(metric.WhichOneof("data"))
        name = metric.name.replace(".", "_") + _PROMETHEUS_UNITS[metric.unit] + ("_total" if kind == "sum" else "")
        assert metric.description
        for point in getattr(metric, kind).data_points:
            labels = frozenset((each.key, each.value.string_value) for each in point.attributes)
            assert (name, labels) not in found
            found[name, labels] = point.as_double, point.start_time_unix_nano
    return found


def test_what_is_pushed_is_what_the_page_says_under_the_names_that_prometheus_makes_of_it(receiver: Receiver) -> None:
    names, norms = ("a.weight", 'b"\\n\n'), np.array([3.0, 4.0], np.float32)
    view = run_view(run='we"ird\\')
    layered = type(view)(
        **{name: getattr(view, name) for name in view.__dataclass_fields__ if name != "layers"},
        layers=LayerLevels(names, norms, np.array([1.0, 2.0])),
    )
    pushed = Pushed(receiver, layered)
    assert pushed.export.push() == "exported"
    found = points(receiver.requests[0])
    body, _ = page("", pushed.snapshot, Instruments(new_registry()), NOW, ExportLimits(layers=parse_layers("all")))
    expected = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_text(body.decode())
        for sample in family.samples
        if "run" in sample.labels
    }
    # What the page escapes because it cannot be shown is as it is for a collector.
    told = {(name, frozenset((key, value.replace("\n", "\\x0a")) for key, value in labels)) for name, labels in found}
    assert told == set(expected)
    plain = {key: value for key, (value, _) in found.items() if key in expected}
    np.testing.assert_array_equal(list(plain.values()), [expected[key] for key in plain])
    starts = {start for (name, _), (_, start) in found.items() if name.endswith("_total")}
    assert starts == {int((NOW - 3600.0) * 1e9)}, "a count counts from the beginning of its run"


def test_a_run_that_has_ended_leaves(receiver: Receiver) -> None:
    pushed = Pushed(receiver, run_view(run="stays"), run_view(run="goes"))
    pushed.export.push()
    over = run_view(run="goes", state=RunState.FINISHED, ended_at=NOW - 3600.0)
    gone = type(over)(**{**{name: getattr(over, name) for name in over.__dataclass_fields__}, "active": {}})
    pushed.snapshot = Snapshot(NOW, (run_view(run="stays"), gone))
    pushed.export.push()
    first, second = ({dict(labels)["run"] for _, labels in points(each)} for each in receiver.requests)
    assert (first, second) == ({"stays", "goes"}, {"stays"})


def test_headers_go_with_every_push(receiver: Receiver) -> None:
    pushed = Pushed(receiver, run_view(), headers={"authorization": "Bearer abc"})
    pushed.export.push()
    assert receiver.requests[0].path == "/v1/metrics"
    assert {name.lower(): value for name, value in receiver.requests[0].headers.items()}[
        "authorization"
    ] == "Bearer abc"


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_collector_that_refuses_is_counted_and_the_next_push_may_succeed(receiver: Receiver, status: int) -> None:
    pushed = Pushed(receiver, run_view(), timeout_seconds=2.0)
    receiver.answer = lambda _: Answer(status)
    assert pushed.export.push() == "failed"
    receiver.answer = lambda _: Answer()
    assert pushed.export.push() == "exported"
    assert pushed.outcomes == ["failed", "exported"]


def test_a_collector_that_is_away_or_hangs_fails_within_its_time_and_holds_nobody_up(
    make_receiver: Callable[..., Receiver],
) -> None:
    receiver = make_receiver()
    stalled = threading.Event()
    receiver.answer = lambda _: Answer(stall=stalled)
    pushed = Pushed(receiver, run_view(), timeout_seconds=0.5, interval_seconds=0.01)
    try:
        assert pushed.export.push() == "failed"
        pushed.export.start()
        receiver.wait_for(lambda requests: len(requests) >= 2)
        started = time.monotonic()
        pushed.export.stop()
        assert time.monotonic() - started < 6.0
    finally:
        stalled.set()
