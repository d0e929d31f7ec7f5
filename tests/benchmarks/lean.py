"""A gRPC client for benchmarks that costs next to nothing: the bytes of HTTP/2, prepared, and one loop over sockets.

Python's gRPC client takes longer over a message than our server does, so that beside it a server cannot be measured.
This one speaks as much of HTTP/2 (RFC 9113) as a gRPC server asks of a client that means well: windows of connection
and stream, settings, pings. It does not read headers; a call that ends before its answer is an error.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PADDED = 8
_INITIAL_WINDOW_SIZE = 4
_FRAME_BYTES = 16_384  # every peer takes as much in a frame
_WINDOW_BYTES = 65_535  # what every window begins with
_LARGEST_WINDOW = 2**31 - 1
_SEND_BYTES, _RECEIVE_BYTES = 2**18, 2**16
_MOST_PIECES = 64  # of one call of the kernel
_PATIENCE_SECONDS = 60.0

Piece = tuple[bytes, int]
"""A frame of HTTP/2 with data: as it is sent, and how much it takes of the windows."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: str, value: str) -> bytes:
    """A header that no table remembers (RFC 7541, 6.2.2), without Huffman's code; texts of less than 127 bytes."""
    assert max(len(name), len(value)) < 127, "its length would take two bytes"
    return b"\0" + b"".join(len(text).to_bytes(1, "big") + text.encode() for text in (name, value))


class LeanConnection:
    """One connection to a gRPC server, with one call at a time that anything goes out on.

    Raises, from whatever waits for an answer:
        ConnectionError: the server has ended the call or the connection, or says something that nobody asked for.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._target = target
        self._stream = -1  # of the latest call
        self._windows = {0: _WINDOW_BYTES}
        self._initial_window = _WINDOW_BYTES
        self._waiting: deque[Piece] = deque()
        self._unsent = bytearray(_PREFACE)
        self._received = bytearray()
        self._message = bytearray()
        self._answers: Callable[[bytes], None] = lambda _: None
        # What comes back are acks: the server never has to wait for us.
        grown = _LARGEST_WINDOW - _WINDOW_BYTES
        self._unsent += _frame(
            _SETTINGS, 0, 0, _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _LARGEST_WINDOW.to_bytes(4, "big")
        )
        self._unsent += _frame(_WINDOW_UPDATE, 0, 0, grown.to_bytes(4, "big"))
        self.ended = True  # by the server
        self.finished = True  # by us: nothing more goes out on the call

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    @property
    def blocked(self) -> bool:
        """Whether something lies here that the kernel did not take yet."""
        return bool(self._unsent)

    def begin(self, path: str, answers: Callable[[bytes], None]) -> None:
        """Begin the next call; each message that comes back goes to `answers`."""
        self._stream += 2
        self._windows = {0: self._windows[0], self._stream: self._initial_window}
        self._message.clear()
        self._waiting.clear()  # what the last call did not take
        self._answers, self.ended, self.finished = answers, False, False
        headers = b"\x83\x86"  # POST, http
        headers += _literal(":path", path) + _literal(":authority", self._target)
        headers += _literal("content-type", "application/grpc") + _literal("te", "trailers")
        self._unsent += _frame(_HEADERS, _END_HEADERS, self._stream, headers)

    def prepared(self, message: bytes, *, last: bool = False) -> list[Piece]:
        """A message of the present call, cut into frames of HTTP/2, for `put`."""
        data = b"\0" + len(message).to_bytes(4, "big") + message
        self.finished |= last
        pieces = [data[start : start + _FRAME_BYTES] for start in range(0, len(data), _FRAME_BYTES)]
        ends = [0] * (len(pieces) - 1) + [_END_STREAM if last else 0]
        return [(_frame(_DATA, end, self._stream, piece), len(piece)) for piece, end in zip(pieces, ends, strict=True)]

    def finish(self) -> None:
        """Nothing more goes out on the present call."""
        self._waiting.append((_frame(_DATA, _END_STREAM, self._stream, b""), 0))
        self.finished = True

    def put(self, prepared: Iterable[Piece]) -> None:
        """Let it go out in its turn."""
        self._waiting.extend(prepared)

    def pump(self) -> None:
        """Send what the windows and the kernel take."""
        while True:
            while self._unsent:
                try:
                    del self._unsent[: self._socket.send(self._unsent)]
                except BlockingIOError:
                    return
            pieces = self._allowed()
            if not pieces:
                return
            try:
                sent = self._socket.sendmsg(pieces)
            except BlockingIOError:
                sent = 0
            for piece in pieces:
                if sent < len(piece):
                    self._unsent += piece[sent:]
                sent = max(0, sent - len(piece))

    def _allowed(self) -> list[bytes]:
        pieces: list[bytes] = []
        waiting, windows, stream = self._waiting, self._windows, self._stream
        room, taken, size = min(windows[0], windows.get(stream, 0)), 0, 0
        if waiting and 0 < room < waiting[0][1]:
            self._split(room)
        while waiting and taken + waiting[0][1] <= room and size < _SEND_BYTES and len(pieces) < _MOST_PIECES:
            piece, length = waiting.popleft()
            pieces.append(piece)
            taken, size = taken + length, size + len(piece)
        if taken:
            windows[0] -= taken
            windows[stream] -= taken
        return pieces

    def _split(self, room: int) -> None:
        """Make two frames of the first one that waits, for a window that it does not fit into."""
        piece, length = self._waiting.popleft()
        self._waiting.appendleft((_frame(_DATA, piece[4], self._stream, piece[9 + room :]), length - room))
        self._waiting.appendleft((_frame(_DATA, 0, self._stream, piece[9 : 9 + room]), room))

    def receive(self) -> None:
        """Take what has come, and answer what has to be answered."""
        try:
            came = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not came:
            raise ConnectionError(f"{self._target} has hung up")
        self._received += came
        data, at = self._received, 0
        while len(data) - at >= 9 and len(data) - at >= (length := int.from_bytes(data[at : at + 3], "big")) + 9:
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            self._take(data[at + 3], data[at + 4], stream, bytes(data[at + 9 : at + 9 + length]))
            at += 9 + length
        del data[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            if stream in self._windows:  # else it is for a call that is over
                self._windows[stream] += int.from_bytes(payload, "big")
        elif kind == _DATA and stream == self._stream:
            if flags & _PADDED:
                raise ConnectionError(f"{self._target} pads what it sends")
            self._message += payload
            self._tell()
        elif kind == _SETTINGS and not flags & _ACK:
            self._obey(payload)
            self._unsent += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._unsent += _frame(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY or (kind == _RST_STREAM and stream == self._stream and not self.ended):
            raise ConnectionError(f"{self._target} has ended the call: {payload!r}")
        if kind in {_DATA, _HEADERS} and flags & _END_STREAM and stream == self._stream:
            self.ended = True

    def _tell(self) -> None:
        message = self._message
        while len(message) >= 5 and len(message) >= (end := 5 + int.from_bytes(message[1:5], "big")):
            if message[0]:
                raise ConnectionError(f"{self._target} compresses what it sends")
            whole = bytes(message[5:end])
            del message[:end]
            self._answers(whole)

    def _obey(self, settings: bytes) -> None:
        for at in range(0, len(settings), 6):
            if int.from_bytes(settings[at : at + 2], "big") == _INITIAL_WINDOW_SIZE:
                window = int.from_bytes(settings[at + 2 : at + 6], "big")
                for stream in self._windows.keys() - {0}:
                    self._windows[stream] += window - self._initial_window
                self._initial_window = window

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def exchange(
    connections: Sequence[LeanConnection], until: Callable[[], bool], seconds: float = _PATIENCE_SECONDS
) -> None:
    """Send and receive on all of them until that is so.

    Raises:
        ConnectionError: see `LeanConnection`.
        TimeoutError: nothing has happened for so long.
    """
    with select.epoll(max(1, len(connections))) as poll:
        by_descriptor = {each.fileno(): each for each in connections}
        waits = dict.fromkeys(by_descriptor, select.EPOLLIN)
        for descriptor, wanted in waits.items():
            poll.register(descriptor, wanted)

        def go_on(descriptor: int, connection: LeanConnection) -> None:
            connection.pump()
            wanted = select.EPOLLIN | (select.EPOLLOUT if connection.blocked else 0)
            if wanted != waits[descriptor]:
                poll.modify(descriptor, wanted)
                waits[descriptor] = wanted

        for descriptor, connection in by_descriptor.items():
            go_on(descriptor, connection)
        while not until():
            happened = poll.poll(seconds)
            if not happened:
                raise TimeoutError(f"nothing has come for {seconds:g} s")
            for descriptor, what in happened:
                connection = by_descriptor[descriptor]
                if what & ~select.EPOLLOUT:
                    connection.receive()
                    if connection.ended and not connection.finished:
                        raise ConnectionError("the server has ended a call before it answered everything")
                go_on(descriptor, connection)


def settle(connections: Iterable[LeanConnection]) -> None:
    """Answer what a server has asked before it was stopped: a ping that waits too long ends a connection."""
    for connection in connections:
        connection.receive()
        connection.pump()


def ask(path: str, requests: Sequence[tuple[LeanConnection, bytes]]) -> list[bytes]:
    """A call on each connection, all at once, each with one answer.

    Raises:
        ConnectionError, TimeoutError: there is none.
    """
    answers: list[list[bytes]] = [[] for _ in requests]
    for (connection, request), own in zip(requests, answers, strict=True):
        connection.begin(path, own.append)
        connection.put(connection.prepared(request, last=True))
    connections = [connection for connection, _ in requests]
    exchange(connections, lambda: all(connection.ended for connection in connections))
    if not all(answers):
        raise ConnectionError(f"{path} was refused")
    return [own[0] for own in answers]
