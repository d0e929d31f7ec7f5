"""The lean client against gRPC's own server: what it sends arrives, and what does not is an error."""

from __future__ import annotations

import hashlib
import select
import socket
import threading
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
    # A window of a byte, so that every frame is split until the server asks for more of a message.
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
        assert ask("/digests/one", [(each, message) for each in connections]) == [digest(message)] * len(connections)
    came: list[list[bytes]] = [[] for _ in connections]
    for connection, own in zip(connections, came, strict=True):
        connection.begin("/digests/many", own.append)
        connection.put([piece for message in messages for piece in connection.prepared(message)])
    exchange(connections, lambda: all(len(own) == len(messages) for own in came))
    assert came == [[digest(message) for message in messages]] * len(connections)
    settle(connections)
    assert not any(connection.blocked or connection.ended for connection in connections)
    for connection in connections:
        connection.finish()
    exchange(connections, lambda: all(connection.ended for connection in connections))


def test_a_call_that_is_refused_or_ends_early_is_an_error(connect: Callable[[], LeanConnection]) -> None:
    connection = connect()
    with pytest.raises(ConnectionError, match="/digests/none was refused"):
        ask("/digests/none", [(connection, b"")])
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


class Peer(threading.Thread):
    """A server that speaks HTTP/2 by hand, to one connection: it is strict about windows, and slow to read."""

    def __init__(self, last_words: bytes) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._last_words = last_words
        self.data = bytearray()
        self.before_room_was_made = 0
        self.acknowledged: set[int] = set()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection:
            self._stream = connection.makefile("rb", buffering=0)
            with self._stream:
                assert self._exactly(24).startswith(b"PRI * HTTP/2.0")
                # Much room for a stream, none beyond what every connection begins with.
                connection.sendall(frame(SETTINGS, 0, 0, b"\0\4" + (2**30).to_bytes(4, "big")))
                connection.sendall(frame(PING, 0, 0, b"12345678"))
                while len(self.data) < 65_535:
                    self._read()
                while select.select([connection], [], [], 0.2)[0]:  # what comes now should not
                    self._read()
                self.before_room_was_made = len(self.data)
                connection.sendall(frame(WINDOW_UPDATE, 0, 0, (2**24).to_bytes(4, "big")))
                while len(self.data) < 5 + len(LARGE):
                    self._read()
                connection.sendall(frame(DATA, 0, 1, b"\0\0\0\0\2ok") + self._last_words)
                connection.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        head = self._exactly(9)
        payload = self._exactly(int.from_bytes(head[:3], "big"))
        if head[3] == DATA:
            self.data += payload
        elif head[4] & 1 and (head[3] == SETTINGS or payload == b"12345678"):
            self.acknowledged.add(head[3])

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            some = self._stream.read(size - len(data))
            assert some, "the client has hung up"
            data += some
        return data


DATA, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 3, 4, 6, 7, 8
LARGE = bytes(range(251)) * 40_000  # more than the kernel keeps for a socket; no frame is as long as its period


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    ("last_words", "error"),
    [
        (frame(GOAWAY, 0, 0, bytes(8)), "has ended the call"),
        (frame(RST_STREAM, 0, 1, bytes(4)), "has ended the call"),
        (b"", "has hung up"),
    ],
    ids=["goes away", "resets the call", "hangs up"],
)
def test_a_strict_and_slow_peer_gets_all_in_order_within_its_windows_and_its_end_is_an_error(
    last_words: bytes, error: str
) -> None:
    peer = Peer(last_words)
    peer.start()
    answers: list[bytes] = []
    connection = LeanConnection(peer.target)
    connection.begin("/any/call", answers.append)
    connection.put(connection.prepared(LARGE))
    with pytest.raises(ConnectionError, match=error):
        exchange([connection], lambda: False)
    connection.close()
    peer.join(10)
    assert answers == [b"ok"]
    assert peer.before_room_was_made == 65_535
    assert peer.data[5:] == LARGE
    assert peer.acknowledged == {SETTINGS, PING}
