"""A server that refuses a run as malformed: nothing that is recorded is lost, and nobody asks without end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from seismograd.options import Options
from seismograd.outbox.folder import SpoolFolder, left_behind
from seismograd.outbox.leftovers import deliver
from seismograd.outbox.report import Phase
from seismograd.outbox.sender import Sender
from seismograd.testing import RecordingServer
from tests.support.processes import eventually
from tests.support.records import IDENTITY, make_catalog, make_record
from tests.support.seismograd import seismograd


class Refusing(grpc.GenericRpcHandler):
    """A server that takes no run."""

    def __init__(self) -> None:
        self.calls = 0
        self.code = grpc.StatusCode.INVALID_ARGUMENT

    def service(self, _details: Any) -> Any:
        def refuse(_request: Any, context: grpc.ServicerContext) -> Any:
            self.calls += 1
            context.abort(self.code, "optimizers are 70: at most 64")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refusing() -> Iterator[tuple[str, Refusing]]:
    handler = Refusing()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", handler
    server.stop(None).wait()


def refused(address: str, spool: Path) -> Sender:
    """A process of five records, three of them before the server has said no."""
    sender = Sender(Options(server=address, spool_dir=spool), uniform=lambda: 0.05)
    sender.open(lambda: IDENTITY, [make_catalog()])
    for sequence in range(3):
        sender.offer(make_record(sequence))
    eventually(lambda: sender.state.phase is Phase.STOPPED or None, 15.0, "a refusal")
    for sequence in range(3, 5):
        sender.offer(make_record(sequence))
    return sender


def test_what_a_malformed_run_has_recorded_stays_on_disk_and_the_user_hears_where(
    refusing: tuple[str, Refusing], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address, handler = refusing
    with caplog.at_level(logging.WARNING, "seismograd"):
        report = refused(address, tmp_path).finish("finished", "", 5.0)

    assert (report.spooled, report.undelivered, report.dropped) == (5, 0, {})
    assert handler.calls == 1
    (folder,) = left_behind(tmp_path)
    first, last = caplog.messages
    assert "the server refuses this run: optimizers are 70: at most 64; nothing more is sent, training goes on" in first
    assert f"its records stay in {folder}: `seismograd sync {folder}`" in first
    assert last.startswith("5 of 5 records were not delivered before the end")
    assert last.endswith("they stay in the spool")


def test_a_server_that_has_been_changed_gets_all_of_them(refusing: tuple[str, Refusing], tmp_path: Path) -> None:
    refused(refusing[0], tmp_path).finish("failed", "why", 5.0)

    with RecordingServer() as changed:
        done = seismograd("sync", left_behind(tmp_path)[0], "--server", changed.address)

    assert (done.returncode, done.stderr) == (0, "")
    assert [record.sequence for record in changed.ledger.records()] == list(range(5))
    assert changed.ledger.closed == [("failed", "why")]
    assert left_behind(tmp_path) == []


def test_a_server_that_still_refuses_is_asked_once_and_the_records_stay(
    refusing: tuple[str, Refusing], tmp_path: Path
) -> None:
    address, handler = refusing
    refused(address, tmp_path).finish("finished", "", 5.0)
    (path,) = left_behind(tmp_path)
    folder = SpoolFolder.take(path)
    assert folder is not None

    delivery = deliver(folder, lambda _: Options(server=address))

    assert handler.calls == 2
    assert "optimizers are 70: at most 64" in delivery.error
    assert f"its records stay in {path}, and deleting it gives them up" in delivery.error
    assert (delivery.delivered, delivery.missing) == (0, 0)
    assert left_behind(tmp_path) == [path]


def test_a_rank_that_another_process_holds_leaves_nothing_behind(
    refusing: tuple[str, Refusing], tmp_path: Path
) -> None:
    address, handler = refusing
    handler.code = grpc.StatusCode.ALREADY_EXISTS

    report = refused(address, tmp_path).finish("finished", "", 5.0)

    assert report.dropped == {"rejected": 5}
    assert left_behind(tmp_path) == []
