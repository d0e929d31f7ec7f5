"""Writes the golden database of schema revision 8: `python -m tests.golden.make_store_revision_8`.

Run it only with a program whose newest migration is 0008. It is the database of revision 7 with another run, whose
records and closed steps are stored plainly and with a checksum.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from seismograd_server.model import RankIdentity, RunKey
from seismograd_server.store.database import Transaction
from tests.golden.make_store_revision_6 import batch, block
from tests.golden.store_file import make

SOURCE = Path(__file__).with_name("store_revision_7.sqlite")
TARGET = Path(__file__).with_name("store_revision_8.sqlite")


def fill(transaction: Transaction) -> None:
    """Another run, as it came."""
    identity = RankIdentity(RunKey("mt", "checked"), "launch-4", rank=0, world_size=1, session_id="session-4")
    opened = transaction.runs.open_rank(identity, now=1_700_000_060.0)
    transaction.segments.append([batch(opened.rank.handle)], received_at=1_700_000_061.0)
    transaction.steps.append(opened.run.run_id, opened.launch.launch_row, 0, replace(block(), replica_gaps=()))


if __name__ == "__main__":
    make(TARGET, fill, SOURCE)
