"""Forked, spawned and served children, and data loaders' workers: they ship nothing, hang nothing, touch no file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seismograd.testing import RecordingServer


@pytest.mark.timeout(120)
def test_a_trainer_with_children_of_every_kind_delivers_its_own_steps_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script, spool = Path(__file__).with_name("fork_matrix.py"), tmp_path / "spool"
    with RecordingServer() as server:
        done = subprocess.run(
            [sys.executable, str(script), server.address, str(spool)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "9 True\n"), done.stderr
        assert done.stderr == ""
        assert [record.step for record in server.ledger.records()] == list(range(9))
        assert len(server.ledger.identities) == 1
        assert server.ledger.checkpoints == []
        assert server.ledger.closed == [("finished", "")]
    assert list(spool.iterdir()) == []
