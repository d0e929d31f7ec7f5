"""An HTTP endpoint on the loopback interface that keeps what it is sent, and answers as the test says."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What to answer; `stall` is waited for first, so that a test can hold an answer back for as long as it likes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    stall: threading.Event | None = None


class Receiver:
    """The endpoint. `answer` may be replaced at any time; it sees the request and decides."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answer: Callable[[Received], Answer] = lambda _: Answer()
        self.cut_short = 0  # answers that the other side did not read to their end
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.port}"
        # Short poll: shutting down waits for it.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="receiver")
        self._thread.start()

    @property
    def requests(self) -> list[Received]:
        with self._changed:
            return list(self._received)

    def wait_for(self, found: Callable[[list[Received]], bool], timeout: float = 30.0) -> list[Received]:
        """Wait until the requests so far satisfy `found`, and give them; fail with what came otherwise."""
        with self._changed:
            if not self._changed.wait_for(lambda: found(self._received), timeout):
                seen = "\n".join(f"{each.path} {each.body.decode(errors='replace')}" for each in self._received)
                pytest.fail(f"not received within {timeout:g} s; what came:\n{seen or 'nothing'}")
            return list(self._received)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                request = Received(self.path, dict(self.headers.items()), self.rfile.read(length), self.command)
                answer = receiver.answer(request)
                receiver.keep(request)
                if answer.stall is not None:
                    answer.stall.wait()
                try:
                    self.send_response(answer.status)
                    for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.body)
                except OSError:
                    self.close_connection = True
                    receiver.cut_short += 1

            do_GET = do_PATCH = do_POST  # noqa: N815 (the library looks for these names)

            def log_message(self, *_: object) -> None:
                """Write nothing: the test says what it looks for."""

        return Handler

    def keep(self, request: Received) -> None:
        with self._changed:
            self._received.append(request)
            self._changed.notify_all()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An endpoint that answers 200 to everything until it is told otherwise."""
    with ExitStack() as stack:
        endpoint = Receiver()
        stack.callback(endpoint.close)
        yield endpoint


@pytest.fixture
def make_receiver() -> Iterator[Callable[..., Receiver]]:
    """Makes as many endpoints as a test needs."""
    with ExitStack() as stack:

        def make(context: ssl.SSLContext | None = None) -> Receiver:
            endpoint = Receiver(context)
            stack.callback(endpoint.close)
            return endpoint

        yield make
