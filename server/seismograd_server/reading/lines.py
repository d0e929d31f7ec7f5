"""What of a run's lines is to be seen: one path through all attempts and branches. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from seismograd_server.model import Line
from seismograd_server.store.steps import hidden_from


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps first_step to last_step, all of one line, of which no later line has any."""

    line: Line
    first_step: int
    last_step: int


def visible_stretches(
    lines: Sequence[Line], first_step: int | None = None, last_step: int | None = None
) -> list[Stretch]:
    """The parts of one optimizer's lines that are to be seen in [first_step, last_step], in rising order."""
    hidden, found = hidden_from(lines), []
    for line in lines:
        first = line.first_step if first_step is None else max(first_step, line.first_step)
        last = min(line.last_step, hidden[line.attempt, line.branch] - 1)
        last = last if last_step is None else min(last_step, last)
        if first <= last:
            found.append(Stretch(line, first, last))
    return found


@dataclass(frozen=True, slots=True)
class Piece:
    """Where to read some steps: whole buckets of this size from the summaries; size 1 = the steps themselves."""

    line: Line
    size: int
    first_step: int
    last_step: int

    @property
    def is_summarised(self) -> bool:
        """Whether all of it is in the summaries."""
        return self.line.summarised_to is not None and self.last_step <= self.line.summarised_to


def by_bucket(piece: Piece, size: int) -> Iterator[Piece]:
    """A piece cut where buckets of `size` begin."""
    first = piece.first_step
    while first <= piece.last_step:
        last = min(first // size * size + size - 1, piece.last_step)
        yield replace(piece, first_step=first, last_step=last)
        first = last + 1


def pieces(stretch: Stretch, sizes: Sequence[int]) -> Iterator[Piece]:
    """Cuts a stretch into the largest buckets of `sizes` (rising) that hold steps of it and no others.

    Where it begins or ends amid a bucket, smaller ones are taken, and single steps at last; and single steps behind the
    end of the summaries.
    """
    line = stretch.line
    summarised = line.summarised_to if line.summarised_to is not None else line.first_step - 1
    last = min(stretch.last_step, summarised)
    if stretch.first_step <= last:
        yield from _pieces(line, sizes, stretch.first_step, last)
    if last < stretch.last_step:
        yield Piece(line, 1, max(stretch.first_step, last + 1), stretch.last_step)


def _pieces(line: Line, sizes: Sequence[int], first: int, last: int) -> Iterator[Piece]:
    if not sizes:
        yield Piece(line, 1, first, last)
        return
    size = sizes[-1]
    # The first and the last bucket of a line are whole: there is nothing else in them.
    start = first if first == line.first_step else -(-first // size) * size
    end = last if last == line.summarised_to else (last + 1) // size * size - 1
    if start > end:
        yield from _pieces(line, sizes[:-1], first, last)
        return
    if first < start:
        yield from _pieces(line, sizes[:-1], first, start - 1)
    yield Piece(line, size, start, end)
    if end < last:
        yield from _pieces(line, sizes[:-1], end + 1, last)
