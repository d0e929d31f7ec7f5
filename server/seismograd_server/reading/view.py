"""A range of a run's own series for a chart: single steps of a short one, buckets of a long one. Blocks."""

from __future__ import annotations

from seismograd_server.model import SUMMARY_SIZES, Summary, SummaryKind
from seismograd_server.reading.history import Series
from seismograd_server.reading.lines import visible_stretches
from seismograd_server.reading.resolution import plan_for
from seismograd_server.reading.series import read_series
from seismograd_server.reading.stored import Asked, lines_of
from seismograd_server.reading.summaries import read_summary
from seismograd_server.store.database import Database

# Buckets across a chart; each is drawn with its smallest and its largest value, and more would not be seen.
_BUCKETS = 420
# Columns of a heatmap: at 15 units each they fill the width of a page.
_COLUMNS = 48
# Buckets of a picture of a line's height: one to a unit of its width.
_TRAIL_BUCKETS = 120
# Steps read before a short range, so that what was usual is known at its first step.
_LEAD = 256


def extent_of(database: Database, run_id: int, optimizer: int) -> tuple[int, int] | None:
    """The first and the last closed step that is to be seen; None = there is none yet."""
    stretches = visible_stretches(lines_of(database, run_id, optimizer))
    return (stretches[0].first_step, stretches[-1].last_step) if stretches else None


def read_curves(
    database: Database, run_id: int, optimizer: int, first_step: int, last_step: int
) -> Series | Summary | None:
    """The steps of a range and some before it, or its buckets; None = there is no step in it. Raises StorageError."""
    asked = Asked(run_id, optimizer, SummaryKind.SERIES, first_step, last_step)
    plan = plan_for(database, asked, _BUCKETS)
    if plan.size < SUMMARY_SIZES[SummaryKind.SERIES][0] and plan.detail_kept:
        return read_series(database, run_id, optimizer, first_step - _LEAD, last_step)
    return read_summary(database, plan.asked, plan.size)


def read_trail(database: Database, run_id: int) -> Summary | None:
    """All steps of a run in about 120 buckets; None = there is no step yet. Raises StorageError."""
    plan = plan_for(database, Asked(run_id, 0, SummaryKind.SERIES), _TRAIL_BUCKETS)
    return read_summary(database, plan.asked, plan.size)


def read_layer_columns(
    database: Database, run_id: int, optimizer: int, first_step: int, last_step: int
) -> Summary | None:
    """The layers' gradient norms in at most 48 columns of a range; None = there is no step. Raises StorageError."""
    asked = Asked(run_id, optimizer, SummaryKind.LAYERS, first_step, last_step)
    plan = plan_for(database, asked, _COLUMNS)
    return read_summary(database, plan.asked, plan.size)
