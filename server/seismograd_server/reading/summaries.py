"""Any range of a run in so many buckets: from stored summaries, and from single steps where there are none. Blocks.

lines of the run -> what of each is to be seen -> pieces: rows of summaries, single steps -> buckets of one size
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from seismograd_server.model import SUMMARY_SIZES, Line, Summary, SummaryKind
from seismograd_server.reading.buckets import between, layer_summary, merged, series_summary
from seismograd_server.reading.layers import composed
from seismograd_server.reading.lines import Piece, pieces, visible_stretches
from seismograd_server.reading.series import step_pages
from seismograd_server.store.database import Database
from seismograd_server.store.summaries import row_steps

# Layers composed at a time, as for a window.
_SPAN_STEPS = {SummaryKind.SERIES: 4096, SummaryKind.LAYERS: 1024}


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


def summary_pages(database: Database, asked: Asked, size: int) -> Iterator[Summary]:
    """The buckets of a range, in rising order and each once; every part is read in a short transaction of its own.

    Exactly what is to be seen of the range is in them: a bucket that a rewind, or the range, cuts has only the steps on
    this side.

    Raises:
        StorageError: something stored cannot be read.
    """
    lines = lines_of(database, asked.run_id, asked.optimizer)
    sizes = [each for each in SUMMARY_SIZES[asked.kind] if each <= size]
    held: Summary | None = None
    for stretch in visible_stretches(lines, asked.first_step, asked.last_step):
        for piece in pieces(stretch, sizes):
            for part in _read(database, asked, piece, size):
                both = merged([held, part] if held is not None else [part], size)
                if both is None:
                    continue
                # The last bucket may go on in the next part.
                held = between(both, int(both.buckets[-1]), int(both.buckets[-1]) + 1)
                if both.count > 1:
                    yield between(both, int(both.buckets[0]), int(both.buckets[-1]))
    if held is not None:
        yield held


def read_summary(database: Database, asked: Asked, size: int) -> Summary | None:
    """The buckets of a range at once; None = there is no step in it."""
    return merged(list(summary_pages(database, asked, size)), size)


def stored_pages(database: Database, asked: Asked, piece: Piece) -> Iterator[Summary]:
    """The stored buckets of a piece, some rows at a time; of `asked` only the run and the kind are looked at."""
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


def _read(database: Database, asked: Asked, piece: Piece, size: int) -> Iterator[Summary]:
    read = _single_steps if piece.size == 1 else _stored
    yield from read(database, asked, piece, size)


def _stored(database: Database, asked: Asked, piece: Piece, size: int) -> Iterator[Summary]:
    for page in stored_pages(database, asked, piece):
        together = merged([page], size)
        if together is not None:
            yield together


def _single_steps(database: Database, asked: Asked, piece: Piece, size: int) -> Iterator[Summary]:
    span, line = _SPAN_STEPS[asked.kind], piece.line
    pages = step_pages(database, asked.run_id, line.optimizer, piece.first_step, piece.last_step, page_steps=span)
    for page in pages:
        # A line that has come since hides steps of this one; it is not this piece.
        own = [chunk for chunk in page if (chunk.attempt, chunk.branch) == (line.attempt, line.branch)]
        if asked.kind is SummaryKind.SERIES:
            parts = [series_summary(chunk, size) for chunk in own]
        else:
            parts = [layer_summary(block, size) for block in composed(database, line.optimizer, own, compare=False)]
        together = merged(parts, size)
        if together is not None:
            yield together
