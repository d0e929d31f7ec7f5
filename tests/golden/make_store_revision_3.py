"""Writes the golden database of schema revision 3: `python -m tests.golden.make_store_revision_3`.

Run it only with a program whose newest migration is 0003. It is the database of revision 2 with what came with the new
column.
"""

from __future__ import annotations

from pathlib import Path

from seismograd_server.model import RankIdentity, RunKey
from seismograd_server.store.database import Transaction
from tests.golden.store_file import make

SOURCE = Path(__file__).with_name("store_revision_2.sqlite")
TARGET = Path(__file__).with_name("store_revision_3.sqlite")


def fill(transaction: Transaction) -> None:
    """A rank of another run that told of its host."""
    identity = RankIdentity(
        RunKey("mt", "host"),
        launch_id="launch-2",
        rank=0,
        world_size=1,
        session_id="session-2",
        host_facts={"cpu_count": "8", "nccl": "2.27 räm"},
    )
    transaction.runs.open_rank(identity, now=1_700_000_020.0)


if __name__ == "__main__":
    make(TARGET, fill, SOURCE)
