"""What becomes of a broken stream inside the training process."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from seismograd.options import Options
from seismograd.outbox.grpc_transport import GrpcTransport
from seismograd_proto.v1 import TELEMETRY_SERVICE
from tests.support.processes import eventually


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a server that reads nothing and then ends every stream."""

    def end(_requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.set_code(grpc.StatusCode.UNAVAILABLE)
        return iter(())

    handlers: Any = {"StreamSteps": grpc.stream_stream_rpc_method_handler(end)}
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(TELEMETRY_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


def test_a_broken_stream_leaves_nothing_unsent_in_a_process_that_has_its_collector_off(refusing: str) -> None:
    gc.collect()
    gc.disable()
    try:
        left: list[weakref.ref[Any]] = []
        for _ in range(3):
            transport, ended = GrpcTransport(Options(server=refusing)), threading.Event()
            stream = transport.start_stream(lambda _response: None, lambda _error, ended=ended: ended.set())  # type: ignore[misc]  # bound to this turn's
            for _ in range(4):
                stream.send(bytes(2**20))
            assert ended.wait(10)
            stream.cancel()
            transport.disconnect()
            left.append(weakref.ref(stream))
            del stream, transport
        eventually(lambda: [each() for each in left] == [None, None, None], 10, "a broken stream is still there")
    finally:
        gc.enable()
