"""Writes the golden database of schema revision 7: `python -m tests.golden.make_store_revision_7`.

Run it only with a program whose newest migration is 0007. It is the database of revision 6 with two silences, and an
alert that a person acknowledged and called wrong.
"""

from __future__ import annotations

from pathlib import Path

from seismograd_server.alerts import lifecycle
from seismograd_server.model import Signature, Silence, Verdict
from seismograd_server.store.database import Transaction
from tests.golden.store_file import make

SOURCE = Path(__file__).with_name("store_revision_6.sqlite")
TARGET = Path(__file__).with_name("store_revision_7.sqlite")

SILENCES = (
    Silence("silence-1", "ræn", "a restart", 1_700_000_050.0, 1_700_003_650.0, project="mt", run="sweep-*"),
    Silence("silence-2", "Ada", "", 1_700_000_051.0, 1_700_000_060.0, signature=Signature.SPIKE, ended_by="ræn"),
)


def fill(transaction: Transaction) -> None:
    """What two people did."""
    for silence in SILENCES:
        transaction.silences.add(silence)
    alert = transaction.alerts.get("alert-1")
    run = transaction.runs.by_id(alert.run_id)
    acknowledged = lifecycle.acknowledge(alert, "ræn", run, 1_700_000_052.0, "on it")
    assert acknowledged is not None
    judged = lifecycle.judge(acknowledged.alert, Verdict.WRONG, "Ada", 1_700_000_053.0, "a planned räm")
    assert judged is not None
    transaction.alerts.apply([acknowledged, judged])


if __name__ == "__main__":
    make(TARGET, fill, SOURCE)
