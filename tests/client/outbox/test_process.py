"""The sender in whole processes: forks, exits, signals."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seismograd.testing import RecordingServer

ROOT = Path(__file__).resolve().parents[3]
# Two seconds are promised for the exit; the rest is the start of an interpreter on a busy machine.
EXIT_SECONDS = 3 * 2.0

PRELUDE = """
import os, signal, sys, threading, time
from seismograd.options import Options
from seismograd.outbox.sender import Sender
from tests.support.records import IDENTITY, make_catalog, make_record

sender = Sender(Options(server=sys.argv[1]))
sender.open(lambda: IDENTITY, [make_catalog()])

def offer(first, end):
    for sequence in range(first, end):
        sender.offer(make_record(sequence))

def wait_for(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
"""


def run(body: str, address: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    script = PRELUDE + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as running:
        yield running


def test_a_forked_child_is_inert_ends_normally_and_leaves_the_parent_alone(server: RecordingServer) -> None:
    finished = run(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point of this test
        offer(0, 10)
        wait_for(lambda: sender.state.acknowledged == 10)
        child = os.fork()
        if child == 0:
            offer(10, 500)
            sender.checkpoint_saved(1, "child")
            assert sender.state.phase == "inert"
            assert sender.take_notices() == []
            assert sender.finish("finished", "").complete
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        offer(10, 20)
        print(sender.finish("finished", "").delivered)
        """,
        server.address,
    )
    assert (finished.returncode, finished.stdout.strip(), finished.stderr) == (0, "20", "")
    assert [record.sequence for record in server.ledger.records()] == list(range(20))
    assert server.ledger.checkpoints == []


def test_the_channel_belongs_to_the_process_that_offers_first(server: RecordingServer) -> None:
    finished = run(
        """
        child = os.fork()  # before the first record: no thread, no channel yet
        if child == 0:
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        offer(0, 5)
        print(sender.finish("finished", "").delivered)
        """,
        server.address,
    )
    assert (finished.returncode, finished.stdout.strip(), finished.stderr) == (0, "5", "")


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "os._exit(3)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_process_that_never_says_goodbye_ends_as_it_would_without_us(ending: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)  # accepts into the backlog and never answers
        finished = run(
            f"""
            offer(0, 50)
            wait_for(lambda: sender.state.phase == "opening")
            print(time.time(), flush=True)
            {ending}
            """,
            f"127.0.0.1:{listener.getsockname()[1]}",
        )
        ended = time.time()
    expected = {"": 0, "sys.exit(3)": 3, "os._exit(3)": 3}.get(ending, -15)
    assert (finished.returncode, finished.stderr) == (expected, "")
    assert ended - float(finished.stdout) < EXIT_SECONDS


def test_finish_in_a_signal_handler_in_the_middle_of_offers_does_not_lock_up(server: RecordingServer) -> None:
    finished = run(
        """
        def on_signal(*_):
            report = sender.finish("failed", "terminated")
            told = report.delivered + report.spooled + report.undelivered + sum(report.dropped.values())
            # The offer that the signal interrupted may have been counted and not yet taken in.
            print(sender.state.offered - told in (0, 1), report.spooled + report.undelivered, flush=True)
            sys.exit(0)

        signal.signal(signal.SIGALRM, on_signal)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        sequence = 0
        while True:
            sender.offer(make_record(sequence))
            sequence += 1
        """,
        server.address,
    )
    accounted, undelivered = finished.stdout.split()
    assert (finished.returncode, accounted) == (0, "True")
    # A slow machine may not deliver everything in time; then that is said, once.
    assert len(finished.stderr.splitlines()) == (0 if undelivered == "0" else 1)
    assert server.ledger.closed == [("failed", "terminated")]
