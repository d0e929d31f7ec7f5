"""Which single steps are still there of those that are summarised: those stored, beside the counts of buckets. Blocks.

Retention removes single steps in whole rows, which end amid buckets, and compaction may join rows from both sides of
what was removed: where a row begins and ends does not tell what is in it. A bucket knows how many steps it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from seismograd_server.errors import StorageDamageError
from seismograd_server.model import SUMMARY_SIZES, Int64, Line, Range, SummaryKind, joined_ranges, true_rows
from seismograd_server.reading.lines import Piece
from seismograd_server.reading.stored import Asked, stored_pages
from seismograd_server.store.database import Database, Transaction


def all_there(database: Database, asked: Asked, line: Line, first_step: int, last_step: int) -> bool:
    """Whether no step of a line in [first_step, last_step], which are summarised, has been removed."""
    return single_steps(database, asked, line, first_step, last_step)[0]


def single_steps(
    database: Database, asked: Asked, line: Line, first_step: int, last_step: int
) -> tuple[bool, list[Range]]:
    """Whether all summarised steps of a line in a range are there one by one, and the ranges of those that are.

    Both ends are among a range; of `asked` only the run and the kind are looked at. Where steps are far apart, a bucket
    that lacks some does not tell which: what the range has of it is then taken as incomplete. What is damaged is there:
    it is left out under its own name.
    """
    whole, ranges = True, list[Range]()
    # The smallest buckets tell most; those of the series count the same steps as those of the layers, and are smaller.
    series = replace(asked, kind=SummaryKind.SERIES)
    piece = Piece(line, SUMMARY_SIZES[SummaryKind.SERIES][0], first_step, last_step)
    for page in stored_pages(database, series, piece):
        with database.read() as transaction:
            steps, damaged = _stored_steps(transaction, asked, line, int(page.first_steps[0]), int(page.last_steps[-1]))
        firsts, lasts = np.maximum(page.first_steps, first_step), np.minimum(page.last_steps, last_step)
        complete = _count(steps, page.first_steps, page.last_steps) >= page.steps
        complete |= _count(steps, firsts, lasts) == np.maximum(lasts - firsts + 1, 0)
        for first, last in damaged:
            complete |= (page.first_steps <= last) & (page.last_steps >= first)
        whole = whole and bool(complete.all())
        ranges += [(int(firsts[start]), int(lasts[stop - 1])) for start, stop in true_rows(complete)]
        for start, stop in true_rows(~complete):
            ranges += _in_a_row(steps[(steps >= firsts[start]) & (steps <= lasts[stop - 1])])
    return whole, joined_ranges(ranges)


def _stored_steps(
    transaction: Transaction, asked: Asked, line: Line, first_step: int, last_step: int
) -> tuple[Int64, list[Range]]:
    """The steps of a line in a range that are stored one by one, rising, and the ranges of what cannot be read."""
    damaged: list[Range] = []
    note = transaction.damage.noting(asked.run_id)

    def on_damage(error: StorageDamageError) -> None:
        note(error)
        damaged.append((error.first_step, error.last_step))

    chunks = transaction.steps.read(
        asked.run_id, line.optimizer, first_step, last_step, all_branches=True, on_damage=on_damage
    )
    own = [chunk.steps for chunk in chunks if (chunk.attempt, chunk.branch) == (line.attempt, line.branch)]
    steps = np.concatenate([np.zeros(0, np.int64), *own])
    if asked.kind is SummaryKind.LAYERS:
        # Layers are composed again from records, of which there must be some behind each step.
        behind = transaction.summaries.segments_behind(asked.run_id, line, first_step, last_step)
        extents = np.array(joined_ranges(behind), np.int64).reshape(-1, 2)
        place = np.searchsorted(extents[:, 0], steps, side="right") - 1
        steps = steps[(place >= 0) & (steps <= extents[place, 1])] if len(extents) else steps[:0]
    return steps, damaged


def _count(steps: Int64, firsts: Int64, lasts: Int64) -> Int64:
    """How many steps lie in each range; none in an inverted one."""
    found = np.searchsorted(steps, lasts, side="right") - np.searchsorted(steps, firsts, side="left")
    return np.asarray(np.maximum(found, 0), np.int64)


def _in_a_row(steps: Int64) -> Iterator[Range]:
    """Steps as ranges of numbers in a row."""
    for part in np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1):
        if len(part):
            yield int(part[0]), int(part[-1])
