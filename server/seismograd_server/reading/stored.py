"""What is asked of a run, and the stored buckets of it, page by page in short transactions. Blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from seismograd_server.model import Line, Summary, SummaryKind
from seismograd_server.reading.buckets import between, merged
from seismograd_server.reading.lines import Piece
from seismograd_server.store.database import Database
from seismograd_server.store.summaries import row_steps


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be read; None = from the first step, to the last one."""

    run_id: int
    optimizer: int
    kind: SummaryKind
    first_step: int | None = None
    last_step: int | None = None


def lines_of(database: Database, run_id: int, optimizer: int) -> list[Line]:
    """The lines of one optimizer of a run."""
    with database.read() as transaction:
        return transaction.steps.lines(run_id, optimizer)


def stored_pages(database: Database, asked: Asked, piece: Piece) -> Iterator[Summary]:
    """The stored buckets that a piece touches, some rows at a time; of `asked` only the run and the kind are looked at.

    Buckets are whole, even those at the ends of a piece that begins or ends amid one.
    """
    steps, first = row_steps(asked.kind, piece.size), piece.first_step
    ends = piece.first_step // piece.size, piece.last_step // piece.size + 1
    while first <= piece.last_step:
        with database.read() as transaction:
            page = transaction.summaries.read(
                asked.run_id,
                piece.line,
                asked.kind,
                piece.size,
                first_step=first,
                last_step=piece.last_step,
                on_damage=transaction.damage.noting(asked.run_id),
            )
        if not page:
            return
        together = merged([between(each, *ends) for each in page], piece.size)
        if together is not None:
            yield together
        first = (int(page[-1].buckets[0]) * piece.size // steps + 1) * steps
