"""Opening a rank: finding or making its run, its launch and its row, and refusing what contradicts them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, Row, insert, select, update

from seismograd_server.errors import LaunchConflictError, RankTakenError, UnknownRankError
from seismograd_server.model import Launch, Rank, RankIdentity, Run, RunKey, RunState
from seismograd_server.store.lifespans import refuse_if_being_deleted
from seismograd_server.store.schema import launches, optimizers, ranks, runs

AnyRow = Row[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class OpenedRank:
    """A rank that may send now, with its launch and its run as they are afterwards."""

    rank: Rank
    launch: Launch
    run: Run
    resumed: bool  # the same process opened it before


def open_rank(connection: Connection, identity: RankIdentity, now: float) -> OpenedRank:
    """See `RunRepository.open_rank`."""
    run_id = _find_or_make_run(connection, identity, now)
    launch, is_new = _find_or_make_launch(connection, run_id, identity, now)
    if is_new:
        _start_attempt(connection, launch, identity)
    rank, resumed = _find_or_make_rank(connection, launch, identity, now)
    if resumed:
        # A process that was taken for dead is back.
        connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.state == RunState.LOST)
            .values(state=RunState.RUNNING, ended_at=None, failure_reason="")
        )
    run = run_of(connection.execute(select(runs).where(runs.c.run_id == run_id)).one())
    return OpenedRank(rank, launch, run, resumed)


def find_rank(connection: Connection, identity: RankIdentity) -> tuple[int | None, int | None]:
    """See `RunRepository.find_rank`."""
    launch = (launches.c.run_id == runs.c.run_id) & (launches.c.launch_id == identity.launch_id)
    rank = (ranks.c.launch_row == launches.c.launch_row) & (ranks.c.rank == identity.rank)
    found = connection.execute(
        select(runs.c.run_id, ranks.c.handle)
        .select_from(runs)
        .outerjoin(launches, launch)
        .outerjoin(ranks, rank & (ranks.c.session_id == identity.session_id))
        .where(runs.c.project == identity.key.project, runs.c.run == identity.key.run)
    ).one_or_none()
    return (None, None) if found is None else (found.run_id, found.handle)


def revive(connection: Connection, run_id: int) -> None:
    """See `RunRepository.revive`."""
    row = connection.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
    if row is None:
        raise UnknownRankError(f"run {run_id} has been deleted: open it again")
    refuse_if_being_deleted(RunKey(row.project, row.run), row.failure_reason)
    going_on = {"state": RunState.RUNNING, "ended_at": None, "failure_reason": ""}
    connection.execute(update(runs).where(runs.c.run_id == run_id).values(**going_on))


def run_of(row: AnyRow) -> Run:
    """A row of `runs`."""
    return Run(
        run_id=row.run_id,
        key=RunKey(row.project, row.run),
        state=RunState(row.state),
        started_at=row.started_at,
        last_record_at=row.last_record_at,
        ended_at=row.ended_at,
        failure_reason=row.failure_reason,
        config_json=row.config_json,
        tags=json.loads(row.tags_json),
        framework=row.framework,
        strategy=row.strategy,
        attempts=row.attempts,
        world_size=row.world_size,
        last_step=row.last_step,
        closed_steps=row.closed_steps,
    )


def launch_of(row: AnyRow) -> Launch:
    """A row of `launches`."""
    return Launch(
        launch_row=row.launch_row,
        run_id=row.run_id,
        launch_id=row.launch_id,
        attempt=row.attempt,
        world_size=row.world_size,
        opened_at=row.opened_at,
        ended_at=row.ended_at,
    )


def rank_of(row: AnyRow) -> Rank:
    """A row of `ranks`."""
    return Rank(
        handle=row.handle,
        launch_row=row.launch_row,
        run_id=row.run_id,
        rank=row.rank,
        session_id=row.session_id,
        hostname=row.hostname,
        device_name=row.device_name,
        device_uuid=row.device_uuid,
        process_id=row.process_id,
        opened_at=row.opened_at,
        last_seen_at=row.last_seen_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        reason=row.reason,
        capabilities=frozenset(row.capabilities.split()),
        driver_version=row.driver_version,
        host_facts=json.loads(row.host_facts) if row.host_facts else {},
    )


def _find_or_make_run(connection: Connection, identity: RankIdentity, now: float) -> int:
    key = identity.key
    found = connection.execute(
        select(runs.c.run_id, runs.c.failure_reason).where(runs.c.project == key.project, runs.c.run == key.run)
    ).one_or_none()
    if found is not None:
        refuse_if_being_deleted(key, found.failure_reason)
        return int(found.run_id)
    made: int = connection.scalars(
        insert(runs)
        .returning(runs.c.run_id)
        .values(
            project=key.project,
            run=key.run,
            state=RunState.RUNNING,
            started_at=now,
            failure_reason="",
            config_json=identity.config_json,
            tags_json=json.dumps(dict(identity.tags)),
            framework=identity.framework,
            strategy=identity.strategy,
            attempts=0,
            world_size=identity.world_size,
            closed_steps=0,
        )
    ).one()
    return made


def _find_or_make_launch(
    connection: Connection, run_id: int, identity: RankIdentity, now: float
) -> tuple[Launch, bool]:
    launch_id = identity.launch_id
    row = connection.execute(select(launches).where(launches.c.launch_id == launch_id)).one_or_none()
    if row is None:
        attempts = connection.scalars(select(runs.c.attempts).where(runs.c.run_id == run_id)).one()
        made = connection.scalars(
            insert(launches)
            .returning(launches.c.launch_row)
            .values(
                run_id=run_id,
                launch_id=launch_id,
                attempt=attempts + 1,
                world_size=identity.world_size,
                opened_at=now,
            )
        ).one()
        return launch_of(connection.execute(select(launches).where(launches.c.launch_row == made)).one()), True
    launch = launch_of(row)
    if launch.run_id != run_id:
        other = connection.execute(select(runs).where(runs.c.run_id == launch.run_id)).one()
        raise LaunchConflictError(
            f"launch {launch_id!r} belongs to run {other.project}/{other.run}, not to {identity.key}: "
            "give all its ranks the same project and run"
        )
    if launch.world_size != identity.world_size:
        raise LaunchConflictError(
            f"launch {launch_id!r} of run {identity.key} has {launch.world_size} ranks, rank {identity.rank} says "
            f"{identity.world_size}: another world size needs another launch id"
        )
    return launch, False


def _start_attempt(connection: Connection, launch: Launch, identity: RankIdentity) -> None:
    """The run goes on with this launch; what the launch does not say stays as it was."""
    values: dict[str, object] = {
        "state": RunState.RUNNING,
        "ended_at": None,
        "failure_reason": "",
        "attempts": launch.attempt,
        "world_size": launch.world_size,
    }
    for column in ("config_json", "framework", "strategy"):
        if said := getattr(identity, column):
            values[column] = said
    if identity.tags:
        values["tags_json"] = json.dumps(dict(identity.tags))
    connection.execute(update(runs).where(runs.c.run_id == launch.run_id).values(**values))
    if identity.optimizers:
        rows = [
            {
                "launch_row": launch.launch_row,
                "optimizer": each.optimizer,
                "class_name": each.class_name,
                "hyperparameters_json": each.hyperparameters_json,
            }
            for each in identity.optimizers
        ]
        connection.execute(insert(optimizers), rows)


def _find_or_make_rank(connection: Connection, launch: Launch, identity: RankIdentity, now: float) -> tuple[Rank, bool]:
    same = (ranks.c.launch_row == launch.launch_row, ranks.c.rank == identity.rank)
    row = connection.execute(select(ranks).where(*same)).one_or_none()
    if row is not None:
        holder = rank_of(row)
        if holder.session_id != identity.session_id:
            raise RankTakenError(
                f"rank {identity.rank} of launch {identity.launch_id!r} is process {holder.process_id} on "
                f"{holder.hostname or 'an unnamed host'}: a restarted process needs a new launch id"
            )
        # What is known of a rank from before this server could ask it anything is nothing.
        connection.execute(
            update(ranks).where(*same).values(last_seen_at=now, capabilities=" ".join(identity.capabilities))
        )
    else:
        if identity.rank >= identity.world_size:
            raise LaunchConflictError(
                f"rank {identity.rank} of launch {identity.launch_id!r}: ranks run from 0 to {identity.world_size - 1}"
            )
        _insert_rank(connection, launch, identity, now)
    return rank_of(connection.execute(select(ranks).where(*same)).one()), row is not None


def _insert_rank(connection: Connection, launch: Launch, identity: RankIdentity, now: float) -> None:
    connection.execute(
        insert(ranks).values(
            launch_row=launch.launch_row,
            run_id=launch.run_id,
            rank=identity.rank,
            session_id=identity.session_id,
            hostname=identity.hostname,
            process_id=identity.process_id,
            local_rank=identity.local_rank,
            device_type=identity.device_type,
            device_name=identity.device_name,
            device_uuid=identity.device_uuid,
            driver_version=identity.driver_version,
            host_facts=json.dumps(dict(identity.host_facts)) if identity.host_facts else "",
            client_version=identity.client_version,
            python_version=identity.python_version,
            clock_skew_seconds=identity.clock_skew_seconds,
            opened_at=now,
            last_seen_at=now,
            outcome="",
            reason="",
            capabilities=" ".join(identity.capabilities),
        )
    )
