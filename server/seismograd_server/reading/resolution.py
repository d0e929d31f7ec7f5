"""In which buckets a range is read: of a length that suits the points asked for, and that there still is. Blocks.

Single steps may be deleted before their summaries are: a range of which that is true is given in the finest buckets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from seismograd_server.model import SUMMARY_SIZES, Line, Range, SummaryKind, joined_ranges
from seismograd_server.reading.lines import Piece, by_bucket, pieces, visible_stretches
from seismograd_server.reading.presence import all_there, single_steps
from seismograd_server.reading.stored import Asked, lines_of
from seismograd_server.store.database import Database

# A range of no more steps than this is read step by step, whatever it is shown in: for the series, some tens of
# milliseconds; for the layers, which are composed again, some hundreds.
_MOST_SINGLE = {SummaryKind.SERIES: 8192, SummaryKind.LAYERS: 2048}

# No step lies beyond it on either side, and larger buckets could not be counted in 64 bits.
_LARGEST = 2**62


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
    """How to show a range in at most `points` buckets, a power of two in steps; around step 0 in two at least.

    A long range is shown in stored buckets or larger ones, even if that makes fewer of them. An end that lies amid a
    bucket whose single steps have been removed is moved outward to that of the bucket, so that nothing is left out.
    """
    lines, finest = lines_of(database, asked.run_id, asked.optimizer), SUMMARY_SIZES[asked.kind][0]
    size = size_for(asked, lines, points)
    if size < finest:
        if _kept(database, asked, lines)[0]:
            return Plan(asked, size)
        wide = _widened(asked, finest)
    else:
        gone = [
            part
            for part in _cut_buckets(asked, lines, size)
            if not all_there(database, asked, part.line, part.first_step, part.last_step)
        ]
        if not gone:
            return Plan(asked, size)
        wide = _widened(
            asked,
            finest,
            first=any(part.first_step == asked.first_step for part in gone),
            last=any(part.last_step == asked.last_step for part in gone),
        )
    _, kept = _kept(database, wide, lines)
    return Plan(wide, max(finest, size_for(wide, lines, points)), detail_kept=False, kept=tuple(kept))


def plan_of_steps(database: Database, asked: Asked) -> Plan:
    """The range as it is asked for, step by step, for what no summary tells: of what was removed nothing is left."""
    whole, kept = _kept(database, asked, lines_of(database, asked.run_id, asked.optimizer))
    return Plan(asked, 1) if whole else Plan(asked, 1, detail_kept=False, kept=tuple(kept))


def detail_kept(database: Database, run_id: int, optimizer: int) -> bool:
    """Whether there are single steps behind every stored bucket of a run."""
    asked = Asked(run_id, optimizer, SummaryKind.SERIES)
    return _kept(database, asked, lines_of(database, run_id, optimizer))[0]


def size_for(asked: Asked, lines: Sequence[Line], points: int) -> int:
    """Steps a bucket, for a range of which everything is there."""
    stretches = visible_stretches(lines, asked.first_step, asked.last_step)
    if not stretches:
        return 1
    first, last = stretches[0].first_step, stretches[-1].last_step
    # However long they are, a bucket ends before step 0 and another one begins there.
    points = max(points, 2) if first < 0 <= last else points
    size = 1
    while last // size - first // size + 1 > points and size < _LARGEST:
        size *= 2
    if size == 1 or last - first < _MOST_SINGLE[asked.kind]:
        return size
    return max(size, SUMMARY_SIZES[asked.kind][0])


def _widened(asked: Asked, size: int, *, first: bool = True, last: bool = True) -> Asked:
    """The range with its ends, or one of them, moved outward to those of buckets."""
    first_step, last_step = asked.first_step, asked.last_step
    if first and first_step is not None:
        first_step = first_step // size * size
    if last and last_step is not None:
        last_step = last_step // size * size + size - 1
    return replace(asked, first_step=first_step, last_step=last_step)


def _cut_buckets(asked: Asked, lines: Sequence[Line], size: int) -> Iterator[Piece]:
    """The parts of summarised buckets that are to be read step by step, because the range or a later line cuts them."""
    sizes = [each for each in SUMMARY_SIZES[asked.kind] if each <= size]
    for stretch in visible_stretches(lines, asked.first_step, asked.last_step):
        for piece in pieces(stretch, sizes):
            if piece.size == 1 and piece.is_summarised:
                yield from by_bucket(piece, sizes[0])


def _kept(database: Database, asked: Asked, lines: Sequence[Line]) -> tuple[bool, list[Range]]:
    """Whether every single step of a range is there, and the ranges of those that are."""
    whole, ranges = True, list[Range]()
    for stretch in visible_stretches(lines, asked.first_step, asked.last_step):
        # What is not summarised yet has never been removed.
        for piece in pieces(stretch, ()):
            there, found = True, [(piece.first_step, piece.last_step)]
            if piece.is_summarised:
                there, found = single_steps(database, asked, piece.line, piece.first_step, piece.last_step)
            whole, ranges = whole and there, ranges + found
    return whole, joined_ranges(ranges)
