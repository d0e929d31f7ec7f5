"""Any range of a run in so many buckets: from stored summaries, and from single steps where there are none. Blocks.

lines of the run -> what of each is to be seen -> pieces: rows of summaries, single steps -> buckets of one size
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from seismograd_server.model import SUMMARY_SIZES, Summary, SummaryKind
from seismograd_server.reading.buckets import between, layer_summary, merged, series_summary, shortened
from seismograd_server.reading.layers import composed
from seismograd_server.reading.lines import Piece, by_bucket, pieces, visible_stretches
from seismograd_server.reading.presence import all_there
from seismograd_server.reading.series import step_pages
from seismograd_server.reading.stored import Asked, lines_of, stored_pages
from seismograd_server.store.database import Database

# Layers composed at a time, as for a window.
_SPAN_STEPS = {SummaryKind.SERIES: 4096, SummaryKind.LAYERS: 1024}


def summary_pages(database: Database, asked: Asked, size: int) -> Iterator[Summary]:
    """The buckets of a range, in rising order and each once; every part is read in a short transaction of its own.

    Exactly what is to be seen of the range is in them: a bucket that a rewind, or the range, cuts has only the steps on
    this side. If its single steps have been removed, nobody can tell them from those on the other side any more: then
    its extremes and means are those of all its steps, so that none is lost, and counts are of at most this side's.

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


def _read(database: Database, asked: Asked, piece: Piece, size: int) -> Iterator[Summary]:
    finest = SUMMARY_SIZES[asked.kind][0]
    if piece.size > 1:
        yield from _stored(database, asked, piece, size)
    elif size < finest or not piece.is_summarised:
        yield from _single_steps(database, asked, piece, size)
    else:
        for part in by_bucket(piece, finest):
            there = all_there(database, asked, part.line, part.first_step, part.last_step)
            read = _single_steps if there else _instead
            yield from read(database, asked, part, size)


def _stored(database: Database, asked: Asked, piece: Piece, size: int) -> Iterator[Summary]:
    for page in stored_pages(database, asked, piece):
        together = merged([page], size)
        if together is not None:
            yield together


def _instead(database: Database, asked: Asked, part: Piece, size: int) -> Iterator[Summary]:
    """Of a part of one bucket, whose single steps have been removed: what is known of the bucket."""
    for page in stored_pages(database, asked, replace(part, size=SUMMARY_SIZES[asked.kind][0])):
        together = merged([shortened(page, part.first_step, part.last_step)], size)
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
