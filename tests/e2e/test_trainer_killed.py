"""SIGKILL of the trainer at random moments: after `seismograd sync`, every step whose log() returned is there, once."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import seismograd
from tests.support.processes import eventually, free_port
from tests.support.seismograd import SeismogradServer
from tests.support.seismograd import seismograd as program
from tests.support.trainers import Zygote, journal_of

KILLS = 50
LONGEST_SECONDS = 0.6  # a connection takes a tenth of a second: some trainers die before it, some long after


def kill_some(zygote: Zygote, folder: Path, kills: int, chance: random.Random) -> dict[str, list[tuple[int, float]]]:
    """Starts trainers and kills each after a random time. Returns what their journals say."""
    journals = {}
    pace = threading.Event()  # never set: it only waits
    for number in range(kills):
        run = f"{folder.name}-{number}"
        trainer = zygote.start(run, folder / run)
        pace.wait(chance.uniform(0.0, LONGEST_SECONDS))
        os.kill(trainer, signal.SIGKILL)
        journals[run] = journal_of(folder / run)
    return journals


@pytest.mark.timeout(280)
def test_fifty_killed_trainers_lose_no_step_that_was_logged(
    start_seismograd: Callable[..., SeismogradServer], zygotes: Callable[[str, Path], Zygote], tmp_path: Path
) -> None:
    server = start_seismograd()
    spool, chance = tmp_path / "spool", random.Random(13)
    (connected := tmp_path / "connected").mkdir()
    (alone := tmp_path / "alone").mkdir()
    journals = kill_some(zygotes(server.grpc, spool), connected, KILLS // 2, chance)
    journals |= kill_some(zygotes(f"127.0.0.1:{free_port()}", spool), alone, KILLS - KILLS // 2, chance)

    done = program("sync", spool, "--server", server.grpc, timeout=200)

    assert (done.returncode, done.stderr) == (0, "")
    assert list(spool.iterdir()) == []
    logged = {run: journal for run, journal in journals.items() if journal}
    assert len(logged) > KILLS // 2, "most trainers lived long enough to make a step"
    with seismograd.connect(server.grpc) as client:
        for run, journal in logged.items():
            reader = client.run("killed", run)
            eventually(lambda reader=reader, journal=journal: reader.info().closed_steps >= len(journal), 60, run)  # type: ignore[misc]  # bound in the loop
            norms = reader.grad_norms()
            # One step more may have reached the ring than the journal.
            assert norms.steps.tolist() in ([*range(len(journal))], [*range(len(journal) + 1)]), run
            np.testing.assert_allclose(norms.values[: len(journal)], [norm for _, norm in journal], rtol=1e-5)
            assert [step for step, _ in journal] == list(range(len(journal)))
    for line in server.page("/metrics").splitlines():
        if line.startswith("seismograd_run_missing_records_total"):
            assert float(line.rpartition(" ")[2]) == 0.0, line
