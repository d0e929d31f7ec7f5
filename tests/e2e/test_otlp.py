"""A training with a collector beside it: what OpenTelemetry knows is what Prometheus knows."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.support.receiver import Received, Receiver
from tests.support.seismograd import SeismogradServer, Training


def values(requests: list[Received], name: str) -> list[float]:
    """What was pushed of one metric, in order."""
    found = []
    for request in requests:
        zipped = request.headers.get("Content-Encoding") == "gzip"
        message = ExportMetricsServiceRequest.FromString(gzip.decompress(request.body) if zipped else request.body)
        for resource in message.resource_metrics:
            for metric in resource.scope_metrics[0].metrics if resource.scope_metrics else ():
                if metric.name == name:
                    points = [*metric.gauge.data_points, *metric.sum.data_points]
                    found += [point.as_double for point in points]
    return found


def test_a_collector_gets_the_norm_of_a_real_training(
    start_seismograd: Callable[..., SeismogradServer], start_training: Callable[..., Training], receiver: Receiver
) -> None:
    endpoint = f'endpoint = "{receiver.url}/v1/metrics"'
    server = start_seismograd(f"close_wait_seconds = 0.5\n[export.otlp]\n{endpoint}\ninterval_seconds = 0.2\n")
    training = start_training(server.grpc, "watched", "--steps", "60", linger=True)
    requests = receiver.wait_for(lambda found: values(found, "seismograd.run.steps")[-1:] == [60.0], timeout=120.0)
    norm = training.journal()[-1]["norm"]
    assert values(requests, "seismograd.run.grad_norm")[-1] == pytest.approx(norm, rel=1e-5)
    assert 'seismograd_otlp_pushes_total{result="exported"}' in server.page("/metrics")
    training.let_go()
    training.finish()


def test_a_server_that_cannot_push_says_why_when_it_starts(start_seismograd: Callable[..., SeismogradServer]) -> None:
    with pytest.raises(pytest.fail.Exception, match="no whole address such as"):
        start_seismograd('[export.otlp]\nendpoint = "collector:4318"\n')
