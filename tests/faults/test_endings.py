"""However a trainer ends, with a server that is not there: it ends as it would, in time, and its records are kept."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seismograd.options import Options
from seismograd.outbox.folder import SpoolFolder, left_behind
from seismograd.outbox.leftovers import deliver
from seismograd.testing import RecordingServer
from tests.support.processes import free_port
from tests.support.trainers import Zygote, journal_of

# Two seconds are promised for the end; the rest is for three thousand steps on a busy machine.
LONGEST_SECONDS = 3 * 2.0 + 20.0

# ending -> exit status, and what is known of it afterwards ("" = killed)
ENDINGS: dict[str, tuple[int, set[str]]] = {
    "normally": (0, {"finished"}),
    "exception": (1, {"failed"}),
    "sys.exit in a thread": (0, {"finished"}),
    "os._exit": (3, {""}),
    "abort": (-signal.SIGABRT, {""}),
    "terminated": (-signal.SIGTERM, {""}),
    "interrupted twice": (-signal.SIGINT, {"failed", ""}),
}


@pytest.mark.timeout(200)
def test_however_a_trainer_ends_its_records_are_kept_and_it_ends_as_it_would(
    zygotes: Callable[[str, Path], Zygote], tmp_path: Path
) -> None:
    with RecordingServer(port=(port := free_port())):
        pass  # nobody listens there any more
    spool = tmp_path / "spool"
    zygote = zygotes(f"127.0.0.1:{port}", spool)
    for number, (ending, (expected, known)) in enumerate(ENDINGS.items()):
        began = time.monotonic()
        zygote.start(f"run-{number}", tmp_path / "journal", ending)
        status = zygote.read()
        assert time.monotonic() - began < LONGEST_SECONDS + 10.0 * (number == 0), (
            ending
        )  # the first one waits for torch
        assert status == expected, ending
        journal = journal_of(tmp_path / "journal")
        (tmp_path / "journal").unlink()
        (path,) = left_behind(spool)
        folder = SpoolFolder.take(path)
        assert folder is not None, ending
        with RecordingServer() as server:
            address = server.address
            delivery = deliver(folder, lambda _, address=address: Options(server=address))  # type: ignore[misc]  # bound in the loop
            assert (delivery.error, delivery.missing) == ("", 0), ending
            assert delivery.ending in known, ending
            steps = [record.step for record in server.ledger.records()]
        assert steps == list(range(len(journal))), ending
        assert not left_behind(spool), ending
