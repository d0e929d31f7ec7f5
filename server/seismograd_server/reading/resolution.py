"""In which buckets a range is read: of a length that suits the points asked for, and that there still is. Blocks.

Single steps may be deleted before their summaries are: a range of which that is true is given in the finest buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from seismograd_server.model import SUMMARY_SIZES, Line, SummaryKind
from seismograd_server.reading.lines import Piece, pieces, visible_stretches
from seismograd_server.reading.summaries import Asked, lines_of, stored_pages
from seismograd_server.store.database import Database

# A range of no more steps than this is read step by step, whatever it is shown in: for the series, some tens of
# milliseconds; for the layers, which are composed again, some hundreds.
_MOST_SINGLE = {SummaryKind.SERIES: 8192, SummaryKind.LAYERS: 2048}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read, how many steps to a bucket (1 = every single step), and whether single steps are still there.

    Where they are not all there, `kept` has the ranges of steps, both ends among them, within which they are.
    """

    asked: Asked
    size: int
    detail_kept: bool = True
    kept: tuple[tuple[int, int], ...] = ()


def plan_for(database: Database, asked: Asked, points: int) -> Plan:
    """How to show a range in at most `points` buckets, a power of two in steps.

    A long range is shown in stored buckets or larger ones, even if that makes fewer of them.
    """
    lines, finest = lines_of(database, asked.run_id, asked.optimizer), SUMMARY_SIZES[asked.kind][0]
    size = size_for(asked, lines, points)
    if size >= finest:
        return Plan(asked, size)
    wide = _widened(asked, finest)
    buckets = [each for piece in _whole(lines, wide, finest) for each in _buckets(database, asked, piece)]
    if all(there for *_, there in buckets):
        return Plan(asked, size)
    kept = _joined((first, last) for first, last, there in buckets if there)
    return Plan(wide, max(finest, size_for(wide, lines, points)), detail_kept=False, kept=kept)


def detail_kept(database: Database, run_id: int, optimizer: int) -> bool:
    """Whether there are single steps behind every stored bucket of a run."""
    asked = Asked(run_id, optimizer, SummaryKind.SERIES)
    lines, finest = lines_of(database, run_id, optimizer), SUMMARY_SIZES[asked.kind][0]
    pieces_of = _whole(lines, asked, finest)
    return all(there for piece in pieces_of for *_, there in _buckets(database, asked, piece))


def size_for(asked: Asked, lines: Sequence[Line], points: int) -> int:
    """Steps a bucket, for a range of which everything is there."""
    stretches = visible_stretches(lines, asked.first_step, asked.last_step)
    if not stretches:
        return 1
    first, last = stretches[0].first_step, stretches[-1].last_step
    size = 1
    while last // size - first // size + 1 > points:
        size *= 2
    if size == 1 or last - first < _MOST_SINGLE[asked.kind]:
        return size
    return max(size, SUMMARY_SIZES[asked.kind][0])


def _widened(asked: Asked, size: int) -> Asked:
    """The range with its ends moved outward to those of buckets."""
    first, last = asked.first_step, asked.last_step
    return replace(
        asked,
        first_step=None if first is None else first // size * size,
        last_step=None if last is None else last // size * size + size - 1,
    )


def _whole(lines: Sequence[Line], asked: Asked, size: int) -> Iterator[Piece]:
    for stretch in visible_stretches(lines, asked.first_step, asked.last_step):
        yield from (piece for piece in pieces(stretch, [size]) if piece.size == size)


def _buckets(database: Database, asked: Asked, piece: Piece) -> Iterator[tuple[int, int, bool]]:
    """First and last step of every bucket of a piece, and whether there is something behind it."""
    with database.read() as transaction:
        stored = transaction.summaries
        behind = stored.blocks_behind if asked.kind is SummaryKind.SERIES else stored.segments_behind
        extents = behind(asked.run_id, piece.line, piece.first_step, piece.last_step)
    firsts, lasts = np.array(extents, np.int64).reshape(-1, 2).T
    for summary in stored_pages(database, asked, piece):
        # Extents that began by the bucket's end, less those that ended before it began.
        inside = np.searchsorted(np.sort(firsts), summary.last_steps, side="right")
        inside -= np.searchsorted(np.sort(lasts), summary.first_steps, side="left")
        yield from zip(summary.first_steps.tolist(), summary.last_steps.tolist(), (inside > 0).tolist(), strict=True)


def _joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Rising ranges, those in one that follow one another."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)
