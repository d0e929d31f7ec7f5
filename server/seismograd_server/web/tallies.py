"""The latest numbers of any run: of a live one from the snapshot, of one that is over from its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seismograd_server.model import Run, Snapshot, Tally
from seismograd_server.pipeline.series import SavedState
from seismograd_server.store.database import Database, Transaction

# Runs whose numbers are remembered: a few megabytes, and all that anybody looks through.
_REMEMBERED = 4096
# The optimizer whose series a run is shown by.
_OPTIMIZER = 0


class Tallies:
    """From any thread. A run that is over is read once, and again only when steps have come after all."""

    def __init__(self, database: Database, snapshot: Callable[[], Snapshot]) -> None:
        self._database = database
        self._snapshot = snapshot
        self._remembered: dict[int, tuple[int, Tally | None]] = {}  # run -> closed steps, and what was read then

    def of(self, runs: Sequence[Run]) -> dict[int, Tally]:
        """By run id; a run is missing that has no closed step yet, or whose detectors' state cannot be read.

        Raises:
            StorageError: the store cannot be read.
        """
        found = {view.run.run_id: view.tally for view in self._snapshot().runs}
        known = self._remembered
        rest = [run for run in runs if run.run_id not in found and run.closed_steps]
        unread = [run for run in rest if known.get(run.run_id, (0, None))[0] != run.closed_steps]
        if unread:
            with self._database.read() as transaction:
                known = known | {run.run_id: (run.closed_steps, _saved(transaction, run)) for run in unread}
            # Replaced as a whole, because another page may be reading it.
            self._remembered = dict(list(known.items())[-_REMEMBERED:])
        found |= {run.run_id: tally for run in rest if (tally := known[run.run_id][1]) is not None}
        return found


def _saved(transaction: Transaction, run: Run) -> Tally | None:
    checkpoint = transaction.detectors.load(run.run_id, _OPTIMIZER)
    if checkpoint is None:
        return None
    try:
        return SavedState.from_bytes(checkpoint[1]).tally
    except ValueError:  # damaged, or of another version: the run is shown without
        return None
