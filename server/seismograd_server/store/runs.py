"""Runs, their launches and ranks, and what ranks declare beside their records."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, func, select, update

from seismograd_server.errors import NotFoundError, UnknownRankError
from seismograd_server.model import (
    Catalog,
    Checkpoint,
    Health,
    Launch,
    OptimizerInfo,
    Rank,
    RankIdentity,
    Run,
    RunKey,
    RunState,
)
from seismograd_server.store.catalogs import load_catalogs, load_catalogs_of_rank, save_catalog
from seismograd_server.store.deletion import delete_run, delete_segments
from seismograd_server.store.listing import count_states, list_runs
from seismograd_server.store.opening import OpenedRank, find_rank, launch_of, open_rank, rank_of, revive, run_of
from seismograd_server.store.progress import Progress, note_heard, note_progress
from seismograd_server.store.schema import checkpoints, health, launches, optimizers, ranks, runs
from seismograd_server.store.upsert import insert_into

__all__ = ["OpenedRank", "RunRepository"]

# Names looked through for "did you mean": the newest ones, so that a large store answers a typing error at once.
_NAMES_COMPARED = 2000
# Bound parameters of one statement; every database takes this many.
_BOUND = 500


class RunRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # ---------------------------------------------------------------------------------------------- a rank's life

    def open_rank(self, identity: RankIdentity, now: float) -> OpenedRank:
        """Give a process its handle; the same (launch_id, rank, session_id) always has the same one.

        A launch id that is new to a known run is its next attempt, and the run is running again.

        Raises:
            RankTakenError: another process is this rank; within a launch, a rank belongs to its first process for ever.
            LaunchConflictError: another world size than the launch has, or a launch id of another run.
        """
        return open_rank(self._connection, identity, now)

    def find_rank(self, identity: RankIdentity) -> tuple[int | None, int | None]:
        """The run of a process and its handle, each None when it was never opened."""
        return find_rank(self._connection, identity)

    def rank(self, handle: int) -> Rank:
        """The rank behind a handle.

        Raises:
            UnknownRankError: it was never given, or its run has been deleted.
        """
        row = self._connection.execute(select(ranks).where(ranks.c.handle == handle)).one_or_none()
        if row is None:
            raise UnknownRankError(f"rank handle {handle} is not known here: open the run again")
        return rank_of(row)

    def ranks(self, launch_row: int) -> list[Rank]:
        """The ranks of a launch that have opened so far, by rank."""
        rows = self._connection.execute(select(ranks).where(ranks.c.launch_row == launch_row).order_by(ranks.c.rank))
        return [rank_of(row) for row in rows]

    def close_rank(self, handle: int, outcome: str, reason: str, now: float) -> Rank:
        """Note how a rank ended; when every rank of the launch has, the launch has ended. The first word counts.

        Raises:
            UnknownRankError: as `rank`.
        """
        rank = self.rank(handle)
        if rank.ended_at is not None:
            return rank
        self._connection.execute(
            update(ranks)
            .where(ranks.c.handle == handle)
            .values(ended_at=now, outcome=outcome, reason=reason, last_seen_at=now)
        )
        launch = self.launch(rank.launch_row)
        ended = select(func.count()).where(ranks.c.launch_row == launch.launch_row, ranks.c.ended_at.is_not(None))
        if self._connection.scalars(ended).one() == launch.world_size:
            self._connection.execute(
                update(launches).where(launches.c.launch_row == launch.launch_row).values(ended_at=now)
            )
        return self.rank(handle)

    def touch(self, handles: Iterable[int], now: float) -> None:
        """These ranks have been heard of; a handle that is not known is passed over."""
        note_heard(self._connection, handles, now)

    # ------------------------------------------------------------------------------------------------- launches

    def launch(self, launch_row: int) -> Launch:
        """A launch.

        Raises:
            NotFoundError: there is none (any more).
        """
        row = self._connection.execute(select(launches).where(launches.c.launch_row == launch_row)).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no launch {launch_row}: its run may have been deleted")
        return launch_of(row)

    def launches(self, run_id: int) -> list[Launch]:
        """The launches of a run, by attempt."""
        rows = self._connection.execute(
            select(launches).where(launches.c.run_id == run_id).order_by(launches.c.attempt)
        )
        return [launch_of(row) for row in rows]

    def optimizers(self, launch_row: int) -> list[OptimizerInfo]:
        """The watched optimizers of a launch, as its first rank declared them."""
        rows = self._connection.execute(
            select(optimizers).where(optimizers.c.launch_row == launch_row).order_by(optimizers.c.optimizer)
        )
        return [OptimizerInfo(row.optimizer, row.class_name, row.hyperparameters_json) for row in rows]

    def save_catalog(self, handle: int, catalog: Catalog) -> None:
        """Store the parameters behind a rank's columns; once more the same changes nothing.

        Raises:
            UnknownRankError: as `rank`.
            InvalidBatchError: the version is known with other parameters.
        """
        save_catalog(self._connection, self.rank(handle).run_id, handle, catalog)

    def catalogs(self, launch_row: int, optimizer: int) -> dict[tuple[int, int], Catalog]:
        """Every catalog of an optimizer in a launch by (rank handle, version)."""
        return load_catalogs(self._connection, launch_row, optimizer)

    def catalogs_of(self, handle: int) -> dict[tuple[int, int], Catalog]:
        """Every catalog of a rank by (optimizer, version)."""
        return load_catalogs_of_rank(self._connection, handle)

    # ------------------------------------------------------------------------------------------------------ runs

    def get(self, key: RunKey) -> Run:
        """A run by its name.

        Raises:
            NotFoundError: there is none; the message names the nearest one that exists.
        """
        row = self._connection.execute(
            select(runs).where(runs.c.project == key.project, runs.c.run == key.run)
        ).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no run {key}{self._suggestion(key)}")
        return run_of(row)

    def by_id(self, run_id: int) -> Run:
        """A run by its number.

        Raises:
            NotFoundError: there is none (any more).
        """
        row = self._connection.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no run with the id {run_id}")
        return run_of(row)

    def list(
        self,
        project: str | None = None,
        state: RunState | None = None,
        limit: int = 100,
        before: int | None = None,
        *,
        search: str = "",
        among: Collection[int] | None = None,
    ) -> list[Run]:
        """Runs, newest first; the next page is the one `before` the last run_id of this one.

        `search` is a part of the run's or the project's name, in any case; `among` says of which run_ids.
        """
        return list_runs(self._connection, project, state, limit, before, search=search, among=among)

    def states(self, project: str | None = None, search: str = "") -> dict[RunState, int]:
        """How many of these runs are in which state."""
        return count_states(self._connection, project, search)

    def live(self) -> Sequence[Run]:
        """The runs that are running, oldest first."""
        rows = self._connection.execute(select(runs).where(runs.c.state == RunState.RUNNING).order_by(runs.c.run_id))
        return [run_of(row) for row in rows]

    def existing(self, run_ids: Iterable[int]) -> set[int]:
        """Those of some runs that have not been deleted."""
        wanted = sorted(run_ids)
        found: set[int] = set()
        for start in range(0, len(wanted), _BOUND):
            some = wanted[start : start + _BOUND]
            found.update(self._connection.scalars(select(runs.c.run_id).where(runs.c.run_id.in_(some))))
        return found

    def delete_part(self, run_id: int, max_bytes: int) -> int:
        """Delete some of a run's segments, about so many bytes, and tell how many: a long run goes piece by piece."""
        return delete_segments(self._connection, run_id, max_bytes)

    def set_state(self, run_id: int, state: RunState, now: float, reason: str = "") -> None:
        """Move a run to a state; it has ended `now` unless it is running."""
        ended_at = None if state is RunState.RUNNING else now
        self._connection.execute(
            update(runs).where(runs.c.run_id == run_id).values(state=state, ended_at=ended_at, failure_reason=reason)
        )

    def revive(self, run_id: int) -> None:
        """There are new records of a run that was over: it goes on.

        Raises:
            BeingDeletedError: its deletion has begun.
            UnknownRankError: it has been deleted.
        """
        revive(self._connection, run_id)

    def progress(self, runs_of: Sequence[Progress]) -> None:
        """Note how far some runs have come."""
        note_progress(self._connection, runs_of)

    def delete(self, run_id: int) -> None:
        """Delete a run and everything of it; `Database.reclaim` gives the space back.

        Raises:
            NotFoundError: there is no such run.
        """
        delete_run(self._connection, run_id)

    # ------------------------------------------------------------------------------------ checkpoints and health

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Note a checkpoint; once more the same (rank, step, path) changes nothing.

        Raises:
            UnknownRankError: as `rank`.
        """
        run_id = self.rank(checkpoint.rank_handle).run_id
        self._connection.execute(
            insert_into(self._connection, checkpoints)
            .values(
                run_id=run_id,
                rank_handle=checkpoint.rank_handle,
                step=checkpoint.step,
                path=checkpoint.path,
                saved_at=checkpoint.saved_at,
            )
            .on_conflict_do_nothing(index_elements=[checkpoints.c.rank_handle, checkpoints.c.step, checkpoints.c.path])
        )

    def checkpoints(self, run_id: int) -> Sequence[Checkpoint]:
        """The checkpoints of a run in the order in which they were saved."""
        rows = self._connection.execute(
            select(checkpoints)
            .where(checkpoints.c.run_id == run_id)
            .order_by(checkpoints.c.saved_at, checkpoints.c.checkpoint_row)
        )
        return [Checkpoint(row.rank_handle, row.step, row.path, row.saved_at) for row in rows]

    def save_health(self, report: Health) -> None:
        """Replace what is known of a client's own health.

        Raises:
            UnknownRankError: as `rank`.
        """
        values = {
            "run_id": self.rank(report.rank_handle).run_id,
            "dropped_json": json.dumps(dict(report.dropped_records)),
            "queued_bytes": report.queued_bytes,
            "spool_bytes": report.spool_bytes,
            "hook_seconds": report.hook_seconds,
            "hook_calls": report.hook_calls,
            "capture_share": report.capture_share,
            "clock_skew_seconds": report.clock_skew_seconds,
        }
        self._connection.execute(
            insert_into(self._connection, health)
            .values(rank_handle=report.rank_handle, **values)
            .on_conflict_do_update(index_elements=[health.c.rank_handle], set_=values)
        )

    def health(self, run_id: int) -> Sequence[Health]:
        """The latest health of every rank of a run that has told."""
        rows = self._connection.execute(select(health).where(health.c.run_id == run_id).order_by(health.c.rank_handle))
        return [
            Health(
                rank_handle=row.rank_handle,
                dropped_records=json.loads(row.dropped_json),
                queued_bytes=row.queued_bytes,
                spool_bytes=row.spool_bytes,
                hook_seconds=row.hook_seconds,
                hook_calls=row.hook_calls,
                capture_share=row.capture_share,
                clock_skew_seconds=row.clock_skew_seconds,
            )
            for row in rows
        ]

    def _suggestion(self, key: RunKey) -> str:
        rows = self._connection.execute(
            select(runs.c.project, runs.c.run).order_by(runs.c.run_id.desc()).limit(_NAMES_COMPARED)
        ).all()
        if not rows:
            return ": nothing has been recorded yet"
        names = [f"{row.project}/{row.run}" for row in rows]
        same_run = [name for name, row in zip(names, rows, strict=True) if row.run == key.run]
        nearest = same_run or difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
        return f": did you mean {nearest[0]}?" if nearest else ""
