"""Version 1 of the wire: the messages, and the names of the methods as gRPC spells them."""

from seismograd_proto.v1 import query_pb2 as query
from seismograd_proto.v1 import telemetry_pb2 as telemetry

__all__ = ["QUERY_SERVICE", "TELEMETRY_SERVICE", "method_path", "query", "telemetry"]

TELEMETRY_SERVICE = "seismograd.v1.TelemetryService"
QUERY_SERVICE = "seismograd.v1.QueryService"


def method_path(service: str, method: str) -> str:
    """The path under which gRPC calls a method: `/seismograd.v1.TelemetryService/OpenRun`."""
    return f"/{service}/{method}"
