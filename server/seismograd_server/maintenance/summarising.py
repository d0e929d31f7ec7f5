"""Summaries of closed steps, made behind their backs: a bounded number of steps at a time, line after line.

    runs that have moved -> lines with steps not summarised yet -> some of them -> buckets of every size -> rows

How far a line is summarised is written together with its rows, so that whatever a crash interrupts is done once more,
and nothing twice. What a line adds to a bucket that is there is merged into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seismograd_server.errors import NotFoundError, StorageBusyError
from seismograd_server.model import SUMMARY_SIZES, Line, RunState, Summary, SummaryKind
from seismograd_server.pipeline import FailurePoint
from seismograd_server.reading.buckets import cut_into_rows, layer_summary, merged, series_summary
from seismograd_server.reading.layers import composed
from seismograd_server.reading.lines import visible_stretches
from seismograd_server.reading.series import step_pages
from seismograd_server.store.blocks import StepChunk
from seismograd_server.store.database import Database
from seismograd_server.store.summaries import SummaryRow, row_steps

# Steps of one piece: a tenth of a second of work for hundreds of layers. A run that goes on is summarised when it has
# so many new ones, so that readers compose no more than this and few rows are written over and over.
_PIECE_STEPS = 1024
# A run that has closed fewer since it was looked at is not looked at again.
_MOVED_STEPS = 256
# Between two looks for runs that have moved, each of which reads a line a run.
_LOOK_SECONDS = 10.0


class Summarising:
    """The chore. Made anew, it looks through every run once."""

    name = "summarise"

    def __init__(
        self,
        database: Database,
        failure_point: FailurePoint = lambda name: None,  # noqa: ARG005 (nothing fails)
    ) -> None:
        self._database = database
        self._failure_point = failure_point
        self._looked_at: float | None = None
        self._waiting: dict[int, bool] = {}  # run ids, the first is next: whether it goes on
        # Closed steps, the newest block of other optimizers, and whether it went on, at the last look.
        self._seen: dict[int, tuple[int, int, bool]] = {}

    def step(self, now: float) -> bool:
        """Summarise one piece of one run; tell whether there is more to do at once.

        Raises:
            StorageError: nothing of this piece has been changed.
        """
        if not self._waiting and (self._looked_at is None or abs(now - self._looked_at) >= _LOOK_SECONDS):
            self._looked_at = now
            self._look()
        if not self._waiting:
            return False
        run_id, goes_on = next(iter(self._waiting.items()))
        more = False
        try:
            more = self._summarise(run_id, goes_on=goes_on)
        except StorageBusyError:
            more = True
            raise
        except NotFoundError:
            pass  # the run has been deleted meanwhile
        finally:
            del self._waiting[run_id]
            if more:
                self._waiting[run_id] = goes_on  # behind the others
        return bool(self._waiting)

    def _look(self) -> None:
        """Queue the runs that have closed enough steps since they were looked at, or have ended."""
        with self._database.read() as transaction:
            runs = transaction.summaries.movements()
        for run_id, state, closed, newest in runs:
            goes_on = state is RunState.RUNNING
            is_now, before = (closed, newest, goes_on), self._seen.get(run_id)
            moved = before is None or closed - before[0] >= _MOVED_STEPS or newest != before[1]
            if moved or (not goes_on and is_now != before):
                self._seen[run_id] = is_now
                self._waiting[run_id] = goes_on
        for gone in self._seen.keys() - {run_id for run_id, *_ in runs}:
            del self._seen[gone]

    def _summarise(self, run_id: int, *, goes_on: bool) -> bool:
        """Summarise one piece of a run, if a line has enough; whether there was one."""
        with self._database.read() as transaction:
            lines = transaction.steps.lines(run_id)
        for optimizer in sorted({line.optimizer for line in lines}):
            own = [line for line in lines if line.optimizer == optimizer]
            for stretch in visible_stretches(own):
                line, to = stretch.line, stretch.line.summarised_to
                first = stretch.first_step if to is None else max(stretch.first_step, to + 1)
                grows = goes_on and line == own[-1]
                # Steps are at least as far apart as their numbers.
                if first > stretch.last_step or (grows and stretch.last_step - first + 1 < _PIECE_STEPS):
                    continue
                chunks = self._chunks(run_id, line, first, stretch.last_step)
                count = sum(chunk.count for chunk in chunks)
                if count >= (_PIECE_STEPS if grows else 1):
                    self._piece(run_id, line, chunks)
                    return True
        return False

    def _chunks(self, run_id: int, line: Line, first: int, last: int) -> list[StepChunk]:
        page = next(step_pages(self._database, run_id, line.optimizer, first, last, page_steps=_PIECE_STEPS), [])
        return [chunk for chunk in page if (chunk.attempt, chunk.branch) == (line.attempt, line.branch)]

    def _piece(self, run_id: int, line: Line, chunks: Sequence[StepChunk]) -> None:
        finest_series, finest_layers = (SUMMARY_SIZES[kind][0] for kind in SummaryKind)
        series = merged([series_summary(chunk, finest_series) for chunk in chunks], finest_series)
        blocks = composed(self._database, line.optimizer, chunks, compare=False)
        layers = merged([layer_summary(block, finest_layers) for block in blocks], finest_layers)
        rows: list[SummaryRow] = []
        if series is not None:
            rows += self._rows(run_id, line, SummaryKind.SERIES, series)
        if layers is not None and (layers.known.any() or layers.nonfinite.any()):
            rows += self._rows(run_id, line, SummaryKind.LAYERS, layers)
        with self._database.begin() as transaction:
            transaction.runs.by_id(run_id)
            if transaction.summaries.summarised_to(run_id, line) == line.summarised_to:
                transaction.summaries.save(run_id, line, rows, int(chunks[-1].steps[-1]))
            self._failure_point("summarise.before_commit")
        self._failure_point("summarise.after_commit")

    def _rows(self, run_id: int, line: Line, kind: SummaryKind, piece: Summary) -> Iterator[SummaryRow]:
        """The rows of every size that the piece belongs to, with what is in them already."""
        for size in SUMMARY_SIZES[kind]:
            coarser = merged([piece], size)
            for part in cut_into_rows(coarser, row_steps(kind, size)) if coarser is not None else ():
                first = int(part.buckets[0]) * size
                with self._database.read() as transaction:
                    known = transaction.summaries.read(
                        run_id,
                        line,
                        kind,
                        size,
                        first_step=first,
                        last_step=first,
                        on_damage=transaction.damage.noting(run_id),
                    )
                whole = merged([*known, part], size)
                if whole is not None:
                    yield SummaryRow.of(kind, whole)
