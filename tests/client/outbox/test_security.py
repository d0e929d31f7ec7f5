"""TLS and tokens: what a server sees, and that nothing is sent to a server that cannot prove who it is."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from seismograd.options import Options
from seismograd.outbox.sender import Sender
from seismograd.testing import Ledger
from seismograd_proto.v1 import telemetry
from tests.support.processes import require_program
from tests.support.records import IDENTITY, make_catalog, make_record


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder.mkdir()
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [require_program("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    names = ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


class TlsServer:
    """A server with TLS that remembers the tokens it saw."""

    def __init__(self, certificate: Path, key: Path) -> None:
        library: Any = grpc  # untyped in the stubs
        self.ledger = Ledger()
        self.tokens: list[str | bytes] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self._handlers(),))
        credentials = library.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        port = self._server.add_secure_port("localhost:0", credentials)
        self.address = f"localhost:{port}"
        self._server.start()

    def _handlers(self) -> grpc.GenericRpcHandler:
        library: Any = grpc
        server = self

        def open_run(request: bytes, context: Any) -> bytes:
            server.tokens += [value for key, value in context.invocation_metadata() if key == "authorization"]
            return server.ledger.open(telemetry.OpenRunRequest.FromString(request)).SerializeToString()

        def stream(frames: Iterator[bytes], _: Any) -> Iterator[bytes]:
            try:
                for frame in frames:
                    yield server.ledger.receive(telemetry.StreamStepsRequest.FromString(frame)).SerializeToString()
            except grpc.RpcError:
                return

        def close_run(request: bytes, _: Any) -> bytes:
            return server.ledger.close(telemetry.CloseRunRequest.FromString(request)).SerializeToString()

        class Handlers(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                name = details.method.rpartition("/")[2]
                if name == "StreamSteps":
                    return library.stream_stream_rpc_method_handler(stream)
                return library.unary_unary_rpc_method_handler({"OpenRun": open_run, "CloseRun": close_run}[name])

        return Handlers()

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[TlsServer, Path]]:
    certificate, key = make_certificate(tmp_path / "server")
    server = TlsServer(certificate, key)
    yield server, certificate
    server.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("the condition did not come to hold")


def test_records_and_token_travel_over_tls(tls_server: tuple[TlsServer, Path], tmp_path: Path) -> None:
    server, certificate = tls_server
    token = tmp_path / "token"
    token.write_text("sg_1_secret\n")
    sender = Sender(Options(server=server.address, ca_file=certificate, token_file=token))
    sender.open(lambda: IDENTITY, [make_catalog()])
    sender.offer(make_record(0))
    assert sender.finish("finished", "", 5.0).delivered == 1
    assert server.tokens == ["Bearer sg_1_secret"]


def test_a_server_that_cannot_prove_who_it_is_gets_nothing(tls_server: tuple[TlsServer, Path], tmp_path: Path) -> None:
    server, _ = tls_server
    other, _ = make_certificate(tmp_path / "other")
    sender = Sender(Options(server=server.address, ca_file=other, token="sg_1_secret"))
    sender.open(lambda: IDENTITY, [make_catalog()])
    sender.offer(make_record(0))
    wait_until(lambda: "UNAVAILABLE" in sender.state.last_error)
    assert sender.finish("finished", "").spooled == 1
    assert server.tokens == []
    assert server.ledger.identities == {}


def test_a_token_file_that_is_missing_pauses_and_keeps_the_records(tmp_path: Path) -> None:
    sender = Sender(Options(server="localhost:1", token_file=tmp_path / "missing"))
    sender.open(lambda: IDENTITY, [make_catalog()])
    sender.offer(make_record(0))
    wait_until(lambda: sender.state.last_error.startswith("UNAUTHENTICATED: token_file: cannot read"))
    assert sender.finish("finished", "").spooled == 1
