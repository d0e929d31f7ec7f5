"""Writes the golden database of schema revision 2: `python -m tests.golden.make_store_revision_2`.

Run it only with a program whose newest migration is 0002. It is the database of revision 1 with what came with the new
tables, so that every revision in between is one that people have too.
"""

from __future__ import annotations

from pathlib import Path

from seismograd_server.model import Answer, Directive, DirectiveKind, DirectiveOutcome, RankIdentity, RunKey
from seismograd_server.store.database import Transaction
from tests.golden.store_file import make

SOURCE = Path(__file__).with_name("store_revision_1.sqlite")
TARGET = Path(__file__).with_name("store_revision_2.sqlite")


def fill(transaction: Transaction) -> None:
    """A rank that understands everything; a directive that was answered, and one that was not."""
    identity = RankIdentity(
        RunKey("mt", "lstm"),
        launch_id="launch-1",
        rank=1,
        world_size=2,
        session_id="session-1",
        capabilities=("capture_more", "checkpoint", "stop"),
    )
    handle = transaction.runs.open_rank(identity, now=1_700_000_010.0).rank.handle
    capture = Directive(
        "directive-1",
        run_id=1,
        kind=DirectiveKind.CAPTURE_MORE,
        asked_by="seismograd",
        asked_at=1_700_000_011.0,
        expires_at=1_700_003_611.0,
        reason="runaway: the norm doubles every step",
        alert_id="alert-1",
        first_step=-63,
        last_step=65,
    )
    stop = Directive("directive-2", 1, DirectiveKind.STOP, "ræn", asked_at=1_700_000_012.0, expires_at=1_700_003_612.0)
    for directive in (capture, stop):
        transaction.directives.add(directive, [handle])
    transaction.directives.sent([("directive-1", handle)], now=1_700_000_011.5)
    answer = Answer(handle, "directive-1", DirectiveOutcome.APPLIED, "3 steps", DirectiveKind.CAPTURE_MORE, step=2)
    transaction.directives.answer(answer, now=1_700_000_013.0)


if __name__ == "__main__":
    make(TARGET, fill, SOURCE)
