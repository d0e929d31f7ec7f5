"""The spine: accept -> store | close step -> observe -> transition -> outbox. `spine.py` is where to start reading."""

from seismograd_server.pipeline.arrivals import Arrival, Notice, Opened, Receipt, Rejection
from seismograd_server.pipeline.asking import Request
from seismograd_server.pipeline.engine import PipelineSettings
from seismograd_server.pipeline.spine import FailurePoint, Pipeline

__all__ = [
    "Arrival",
    "FailurePoint",
    "Notice",
    "Opened",
    "Pipeline",
    "PipelineSettings",
    "Receipt",
    "Rejection",
    "Request",
]
