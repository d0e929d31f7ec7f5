"""Ranks that stop together although one of them never heard the question: real processes, gloo, real gRPC."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from seismograd.record import AlertNotice, Directive, DirectiveKind
from seismograd.testing import RecordingServer
from tests.client.stopping_worker import EVERY
from tests.support.processes import eventually

WORKER = Path(__file__).with_name("stopping_worker.py")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("world", "deaf"), [(2, 1), (3, 0)])
def test_a_rank_whose_stream_is_cut_stops_with_the_others_and_nothing_hangs(
    tmp_path: Path, world: int, deaf: int
) -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RecordingServer()) for _ in range(world)]
        outputs = [tmp_path / f"{rank}.json" for rank in range(world)]
        processes = []
        for rank, (server, output) in enumerate(zip(servers, outputs, strict=True)):
            arguments = [str(rank), str(world), str(tmp_path / "store"), server.address, str(output)]
            process = subprocess.Popen(
                [sys.executable, str(WORKER), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            stack.callback(_end, process)
            processes.append(process)
        for server in servers:
            eventually(lambda ledger=server.ledger: ledger.frames >= 2, 60, "every rank ships")  # type: ignore[misc]  # bound in the loop
        servers[deaf].stop()
        asked = (deaf + 1) % world  # a third one is connected, and not asked yet
        notice = AlertNotice("a1", "runaway", "critical", "firing", 5, "it doubles")
        servers[asked].ledger.notify([notice], [Directive("d1", DirectiveKind.STOP, "too dear", "", 0, 0)])
        for output in outputs:
            eventually(output.exists, 60, "every rank has stopped")
        results = [json.loads(output.read_text()) for output in outputs]

        stopped_at = {result["stopped_at"] for result in results}
        assert len(stopped_at) == 1, "all at the same step"
        (step,) = stopped_at
        assert (step + 1) % EVERY == 0
        assert [result["collectives"] for result in results] == [(step + 1) // EVERY] * world, "one each vote, no other"
        assert [result["broken"] for result in results] == [{}] * world
        assert [result["heard"] for result in results] == [["a1"] if rank == asked else [] for rank in range(world)]

        # The deaf one tells what it did once it is heard again, and on whose account.
        again = stack.enter_context(RecordingServer(servers[deaf].ledger, port=servers[deaf].port))
        for output in outputs:
            output.with_suffix(".go").touch()
        for process in processes:
            printed, _ = process.communicate(timeout=60)
            assert process.returncode == 0, printed
        for rank, server in enumerate(servers):
            ledger = again.ledger if rank == deaf else server.ledger
            (answer,) = ledger.answers
            told = (answer.directive_id, answer.kind, answer.outcome, answer.step, answer.by_another_rank)
            assert told == ("d1" if rank == asked else "", DirectiveKind.STOP, "applied", step, rank != asked)
