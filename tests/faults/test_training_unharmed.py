"""Whatever server and disk do: training's losses are those of an unwatched run, to the last bit; every record is kept.

Each record is delivered once, or counted as dropped, or in the spool, from where it is delivered once.
"""

from __future__ import annotations

import math
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from torch import nn

import seismograd
from seismograd.options import Options
from seismograd.outbox.folder import SpoolFolder, left_behind
from seismograd.outbox.leftovers import deliver
from seismograd.outbox.report import FlushReport
from seismograd.testing import Ledger, RecordingServer
from seismograd_proto.v1 import telemetry
from tests.support.processes import free_port
from tests.support.seismograd import SeismogradServer
from tests.support.seismograd import seismograd as program

STEPS = 1500
EXIT_SECONDS = 3 * 2.0  # promised: two seconds
MEMORY = 1 << 20


def train(
    at_step: Callable[[int], object] = lambda _: None, steps: int = STEPS, **options: Any
) -> tuple[list[float], FlushReport, seismograd.Monitor]:
    """Trains a small model under watch. Gives the losses, and how it ended."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    chosen: dict[str, Any] = {"project": "faults", "run": "unharmed", "queue_bytes": MEMORY} | options
    monitor = seismograd.watch(model, optimizer, **chosen)
    losses = []
    for step in range(steps):
        at_step(step)
        inputs = torch.randn(4, 6)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        monitor.log(loss=loss)
        losses.append(float(loss.detach()))
        if step % 100 == 0 and monitor.state is not None:
            assert monitor.state.queued_bytes <= MEMORY
    began = time.monotonic()
    report = monitor.finish()
    assert time.monotonic() - began < EXIT_SECONDS
    return losses, report, monitor


@pytest.fixture(scope="module")
def unwatched() -> list[float]:
    return train(mode="off")[0]


def account_for(report: FlushReport, steps: int = STEPS) -> None:
    assert report.delivered + report.spooled + report.undelivered + sum(report.dropped.values()) == steps


def deliver_spool(spool: Path) -> list[int]:
    """What a server gets from the spool, which is empty afterwards."""
    with RecordingServer() as server:
        for path in left_behind(spool):
            folder = SpoolFolder.take(path)
            assert folder is not None
            assert deliver(folder, lambda _: Options(server=server.address)).error == ""
        assert not left_behind(spool)
        assert server.ledger.duplicates == 0
        return [record.sequence for record in server.ledger.records()]


@pytest.fixture
def bad_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Something that listens and is no server."""
    behaviour, over = request.param, threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    continue
                with connection:
                    if behaviour == "garbage":
                        connection.sendall(os.urandom(4096))
                    elif behaviour == "http/1":
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        if behaviour != "never accepts":
            thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        if behaviour != "never accepts":
            thread.join()


@pytest.mark.parametrize("bad_server", ["never accepts", "garbage", "http/1", "hangs up"], indirect=True)
def test_what_listens_there_and_is_no_server_changes_no_bit_of_training(
    bad_server: str, unwatched: list[float], tmp_path: Path
) -> None:
    losses, report, _ = train(server=bad_server, spool_dir=tmp_path)

    assert losses == unwatched
    assert (report.delivered, report.spooled, report.dropped) == (0, STEPS, {})
    assert deliver_spool(tmp_path) == list(range(STEPS))


class Refusing(grpc.GenericRpcHandler):
    """A server that takes nothing, for one reason."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def service(self, _details: Any) -> Any:
        def refuse(_requests: Any, context: grpc.ServicerContext) -> Any:
            context.abort(self._code, "no")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL"])
def test_a_server_that_refuses_changes_no_bit_of_training(code: str, unwatched: list[float], tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((Refusing(grpc.StatusCode[code]),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        losses, report, _ = train(server=f"127.0.0.1:{port}", spool_dir=tmp_path)
    finally:
        server.stop(None).wait()

    assert losses == unwatched
    account_for(report)
    assert report.delivered == 0
    if code == "ALREADY_EXISTS":  # refused for good
        assert report.dropped == {"rejected": STEPS}
    else:
        assert (report.spooled, report.dropped) == (STEPS, {})
        assert deliver_spool(tmp_path) == list(range(STEPS))


class Liar(Ledger):
    """Answers in good form, and nothing of what it says is so."""

    def __init__(self) -> None:
        super().__init__()
        self._chance = random.Random(5)
        self.lies = 0

    def _untrue(self, handle: int) -> telemetry.Watermark:
        number = self._chance.choice([0, 1, 7, 2**31, 2**63, 2**64 - 1])
        return telemetry.Watermark(
            rank_handle=self._chance.choice([handle, handle, 0, 2**64 - 1]),
            optimizer=self._chance.choice([0, 0, 1, 2**32 - 1]),
            kind=self._chance.choice([1, 1, 2, 99]),  # type: ignore[arg-type]  # the last is none
            accepted_sequence=self._chance.choice([number, 0, 2**64 - 1]),
            durable_sequence=number,
        )

    def open(self, request: telemetry.OpenRunRequest) -> telemetry.OpenRunResponse:
        answer = super().open(request)
        answer.watermarks.extend(self._untrue(answer.rank_handle) for _ in range(4))
        answer.server_time_unix_seconds = self._chance.choice([math.nan, -1e300, 1e300])
        return answer

    def receive(self, frame: telemetry.StreamStepsRequest) -> telemetry.StreamStepsResponse:
        handle = super().receive(frame).watermarks
        mine = handle[0].rank_handle if handle else 1
        self.lies += 1
        answer = telemetry.StreamStepsResponse(retry_after_milliseconds=self._chance.choice([0, 0, 0, 1]))
        answer.watermarks.extend(self._untrue(mine) for _ in range(4))
        answer.rejections.add(
            rank_handle=mine,
            kind=1,
            first_sequence=self._chance.choice([3, 2**63]),
            count=2**63,
            field="x",
            message="y",
        )
        answer.directives.add(directive_id=str(self.lies), kind=1, first_step=2**61, last_step=2**62)
        answer.directives.add(directive_id=str(self.lies), kind=77)
        answer.alerts.add(alert_id="no such alert", step=-(2**62), reason="z" * 10_000)
        return answer


def test_a_server_that_lies_changes_no_bit_of_training(
    unwatched: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    liar = Liar()
    with RecordingServer(liar) as server:
        losses, report, _ = train(server=server.address, spool_dir=tmp_path)

    assert losses == unwatched
    assert liar.lies > 0
    account_for(report)
    assert not [message for message in caplog.messages if "defect" in message]


def test_a_server_that_is_absent_and_a_run_that_wants_none(unwatched: list[float], tmp_path: Path) -> None:
    choices: tuple[dict[str, Any], ...] = ({"server": f"127.0.0.1:{free_port()}"}, {"mode": "offline"})
    for options in choices:
        losses, report, _ = train(spool_dir=tmp_path, **options)

        assert losses == unwatched
        assert (report.delivered, report.spooled, report.dropped) == (0, STEPS, {})
        assert deliver_spool(tmp_path) == list(range(STEPS))


def test_a_server_that_restarts_gets_every_record_once(unwatched: list[float], tmp_path: Path) -> None:
    port = free_port()
    first = RecordingServer(port=port)
    ledger = first.ledger
    running = [first.__enter__()]

    def restart(step: int) -> None:
        if step % 500 == 250:
            running.pop().__exit__(None, None, None)
        elif step % 500 == 400:
            running.append(RecordingServer(ledger, port=port).__enter__())

    try:
        losses, report, _ = train(restart, server=f"127.0.0.1:{port}", spool_dir=tmp_path)
    finally:
        if running:
            running.pop().__exit__(None, None, None)  # a server that nobody stops keeps the process from ending

    assert losses == unwatched
    account_for(report)
    assert not report.dropped
    with RecordingServer(ledger) as server:
        for path in left_behind(tmp_path):
            folder = SpoolFolder.take(path)
            assert folder is not None
            assert deliver(folder, lambda _: Options(server=server.address)).error == ""
    assert [record.sequence for record in ledger.records()] == list(range(STEPS))


def test_a_server_that_is_stopped_in_the_middle_gets_the_rest_when_it_goes_on(
    start_seismograd: Callable[..., SeismogradServer], unwatched: list[float], tmp_path: Path
) -> None:
    server = start_seismograd()
    spool = tmp_path / "spool"

    def stop(step: int) -> None:
        if step == STEPS // 2:
            os.kill(server.process.pid, signal.SIGSTOP)

    try:
        losses, report, _ = train(stop, server=server.grpc, spool_dir=spool)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert losses == unwatched
    assert not report.dropped
    account_for(report)
    assert report.spooled > 0

    done = program("sync", spool)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("it finished\n")
    with seismograd.connect(server.grpc) as client:
        assert client.run("faults", "unharmed").grad_norms().steps.tolist() == list(range(STEPS))
    assert not left_behind(spool)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a given size; without the right to do so the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(size: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
        if done.returncode:
            pytest.skip("needs the right to mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for each in mounted:
        # Lazily: the ring's map lives until its monitor is collected.
        subprocess.run(["umount", "--lazy", str(each)], check=True)


@pytest.mark.parametrize("size", ["1m", "1200k", "2m"], ids=["no room for the ring", "for no segment", "for a few"])
def test_a_disk_that_is_full_changes_no_bit_of_training_and_every_record_is_accounted_for(
    small_disk: Callable[[str], Path], size: str, unwatched: list[float]
) -> None:
    disk = small_disk(size)
    steps = 9_000  # more than the ring holds

    def fill(step: int) -> None:
        if step == 3000:
            (disk / "somebody else").write_bytes(bytes(max(0, os.statvfs(disk).f_bavail * 4096 - 65536)))

    losses, report, _ = train(fill, steps, server=f"127.0.0.1:{free_port()}", spool_dir=disk, ring_bytes=1 << 20)

    assert losses[:STEPS] == unwatched
    account_for(report, steps)
    with RecordingServer() as server:
        for path in left_behind(disk):
            folder = SpoolFolder.take(path)
            assert folder is not None
            assert deliver(folder, lambda _: Options(server=server.address)).error == ""
        delivered = [record.sequence for record in server.ledger.records()]
    assert len(delivered) == len(set(delivered))
    assert len(delivered) >= report.spooled


def test_a_disk_that_cannot_be_written_is_said_once(
    unwatched: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    losses, report, _ = train(server=f"127.0.0.1:{free_port()}", spool_dir=tmp_path / "file" / "spool")

    assert losses == unwatched
    account_for(report)
    assert report.spooled == 0
    assert len([message for message in caplog.messages if "cannot be used" in message]) == 1
