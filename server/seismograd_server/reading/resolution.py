"""In which buckets a range is read: of a length that suits the points asked for, and that there still is. Blocks.

Single steps may be deleted before their summaries are: a range of which that is true is given in the finest buckets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from seismograd_server.model import SUMMARY_SIZES, Line, Range, SummaryKind, joined_ranges, true_rows
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
    kept: tuple[Range, ...] = ()


def plan_for(database: Database, asked: Asked, points: int) -> Plan:
    """How to show a range in at most `points` buckets, a power of two in steps.

    A long range is shown in stored buckets or larger ones, even if that makes fewer of them.
    """
    lines, finest = lines_of(database, asked.run_id, asked.optimizer), SUMMARY_SIZES[asked.kind][0]
    size = size_for(asked, lines, points)
    if size >= finest:
        return Plan(asked, size)
    wide = _widened(asked, finest)
    found = [_kept(database, asked, piece) for piece in _whole(lines, wide, finest)]
    if all(whole for whole, _ in found):
        return Plan(asked, size)
    kept = joined_ranges(each for _, ranges in found for each in ranges)
    return Plan(wide, max(finest, size_for(wide, lines, points)), detail_kept=False, kept=tuple(kept))


def detail_kept(database: Database, run_id: int, optimizer: int) -> bool:
    """Whether there are single steps behind every stored bucket of a run."""
    asked = Asked(run_id, optimizer, SummaryKind.SERIES)
    lines, finest = lines_of(database, run_id, optimizer), SUMMARY_SIZES[asked.kind][0]
    return all(_kept(database, asked, piece)[0] for piece in _whole(lines, asked, finest))


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


def _kept(database: Database, asked: Asked, piece: Piece) -> tuple[bool, list[Range]]:
    """Whether single steps are behind every bucket of a piece, and the ranges of those behind buckets in a row."""
    with database.read() as transaction:
        stored = transaction.summaries
        behind = stored.blocks_behind if asked.kind is SummaryKind.SERIES else stored.segments_behind
        extents = joined_ranges(behind(asked.run_id, piece.line, piece.first_step, piece.last_step))
    buckets = [(each.first_steps, each.last_steps) for each in stored_pages(database, asked, piece)]
    if not buckets:
        return True, []
    firsts, lasts = np.array(extents, np.int64).reshape(-1, 2).T
    first_steps, last_steps = (np.concatenate(ends) for ends in zip(*buckets, strict=True))
    # Behind a bucket are the extents from the first one that does not end before it to the last that has begun by then.
    begin = np.searchsorted(lasts, first_steps, side="left")
    end = np.searchsorted(firsts, last_steps, side="right")
    there = begin < end
    ranges = [
        (max(int(first_steps[start]), int(firsts[begin[start]])), min(int(last_steps[stop]), int(lasts[end[stop] - 1])))
        for start, stop in ((start, behind_last - 1) for start, behind_last in true_rows(there))
    ]
    return bool(there.all()), ranges
