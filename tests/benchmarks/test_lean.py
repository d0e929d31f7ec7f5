"""The lean client against gRPC's own server: what it sends arrives, and what does not is an error."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.benchmarks.lean import LeanConnection, ask, exchange, settle


class Digests(grpc.GenericRpcHandler):
    """Answers each message with its digest; the call `/digests/one` has one message, `/digests/many` has many."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if handler_call_details.method == "/digests/one":
            return grpc.unary_unary_rpc_method_handler(lambda data, _: digest(data))
        if handler_call_details.method == "/digests/many":
            return grpc.stream_stream_rpc_method_handler(lambda messages, _: map(digest, messages))
        if handler_call_details.method == "/digests/first":
            return grpc.stream_stream_rpc_method_handler(lambda messages, _: iter([digest(next(messages))]))
        return None


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture
def target() -> Iterator[str]:
    # The smallest windows and frames there are: what does not obey them is cut off.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Digests()], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def connect(target: str) -> Iterator[Callable[[], LeanConnection]]:
    made = []

    def connect() -> LeanConnection:
        made.append(LeanConnection(target))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def test_messages_of_any_size_arrive_in_order_over_many_calls_of_many_connections(
    connect: Callable[[], LeanConnection],
) -> None:
    messages = [b"", b"a", bytes(range(256)) * 60, b"x" * 16_379, b"y" * 65_530, bytes(300_000), b"last" * 1_000_000]
    connections = [connect() for _ in range(8)]
    for message in messages:
        assert ask(connections[0], "/digests/one", message) == digest(message)
    came: list[list[bytes]] = [[] for _ in connections]
    for connection, own in zip(connections, came, strict=True):
        connection.begin("/digests/many", own.append)
        connection.put([piece for message in messages for piece in connection.prepared(message)])
    exchange(connections, lambda: all(len(own) == len(messages) for own in came))
    assert came == [[digest(message) for message in messages]] * len(connections)
    settle(connections)
    assert not any(connection.blocked or connection.ended for connection in connections)


def test_a_call_that_is_refused_or_ends_early_is_an_error(connect: Callable[[], LeanConnection]) -> None:
    connection = connect()
    with pytest.raises(ConnectionError, match="/digests/none was refused"):
        ask(connection, "/digests/none", b"")
    answers: list[bytes] = []
    connection.begin("/digests/first", answers.append)
    connection.put(connection.prepared(b"one") + connection.prepared(b"two"))
    with pytest.raises(ConnectionError, match="before it answered everything"):
        exchange([connection], lambda: len(answers) == 2)
    assert answers == [digest(b"one")]


def test_silence_is_an_error(connect: Callable[[], LeanConnection]) -> None:
    connection = connect()
    connection.begin("/digests/many", lambda _: None)
    with pytest.raises(TimeoutError, match="nothing has come for"):
        exchange([connection], lambda: False, seconds=0.5)
