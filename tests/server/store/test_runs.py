from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from seismograd_server.errors import (
    InvalidBatchError,
    LaunchConflictError,
    NotFoundError,
    RankTakenError,
    UnknownRankError,
)
from seismograd_server.model import (
    Catalog,
    Checkpoint,
    Composition,
    Health,
    OptimizerInfo,
    Parameter,
    RankIdentity,
    RunKey,
    RunState,
)
from seismograd_server.store.database import Database
from seismograd_server.store.progress import Progress
from seismograd_server.store.runs import RunRepository

IdentityMaker = Callable[..., RankIdentity]


@pytest.fixture
def runs(database: Database) -> Iterator[RunRepository]:
    """The repository inside one write transaction."""
    with database.begin() as transaction:
        yield transaction.runs


def catalog(version: int = 0, *names: str) -> Catalog:
    parameters = tuple(
        Parameter(
            name,
            shape=(4, 8),
            numel=32,
            local_numel=16,
            dtype="float32",
            module_type="Linear",
            depth=depth,
            shard_id=1,
            shard_count=2,
            composition=Composition.PARTIAL,
            tied_group="embedding",
        )
        for depth, name in enumerate(names)
    )
    return Catalog(0, version, parameters)


def test_the_first_rank_makes_its_run_and_its_launch(runs: RunRepository, make_identity: IdentityMaker) -> None:
    identity = make_identity(
        world_size=2,
        config_json='{"lr": 1}',
        tags={"team": "räum"},
        framework="torch 2.13.0",
        strategy="ddp",
        device_uuid="GPU-1",
        host_facts={"cpu": "EPYC", "nccl": "2.27.3"},
        optimizers=(OptimizerInfo(0, "torch.optim.sgd.SGD", '{"lr": 1}'),),
    )

    opened = runs.open_rank(identity, now=10.0)

    assert not opened.resumed
    assert (opened.launch.attempt, opened.launch.world_size) == (1, 2)
    assert (opened.rank.rank, opened.rank.process_id, opened.rank.device_uuid) == (0, 4711, "GPU-1")
    assert opened.rank.host_facts == {"cpu": "EPYC", "nccl": "2.27.3"}
    assert opened.run == runs.get(RunKey("mt", "lstm"))
    assert (opened.run.state, opened.run.started_at, opened.run.attempts) == (RunState.RUNNING, 10.0, 1)
    assert (opened.run.tags, opened.run.config_json) == ({"team": "räum"}, '{"lr": 1}')
    assert runs.optimizers(opened.launch.launch_row) == list(identity.optimizers)


def test_the_same_process_gets_the_same_handle_again(runs: RunRepository, make_identity: IdentityMaker) -> None:
    first = runs.open_rank(make_identity(), now=1.0)
    again = runs.open_rank(make_identity(), now=70.0)

    assert again.resumed
    assert again.rank == replace(first.rank, last_seen_at=70.0)


def test_another_process_never_takes_a_rank_over(runs: RunRepository, make_identity: IdentityMaker) -> None:
    first = runs.open_rank(make_identity(), now=1.0)
    runs.close_rank(first.rank.handle, "failed", "killed", now=2.0)

    with pytest.raises(RankTakenError, match="is process 4711 on node-1: a restarted process needs a new launch id"):
        runs.open_rank(make_identity(session_id="second"), now=1000.0)


def test_another_world_size_contradicts_the_launch(runs: RunRepository, make_identity: IdentityMaker) -> None:
    runs.open_rank(make_identity(world_size=2), now=1.0)

    with pytest.raises(LaunchConflictError, match="has 2 ranks, rank 1 says 3"):
        runs.open_rank(make_identity(rank=1, world_size=3), now=2.0)


def test_a_launch_id_belongs_to_one_run(runs: RunRepository, make_identity: IdentityMaker) -> None:
    runs.open_rank(make_identity("lstm", launch_id="shared"), now=1.0)

    with pytest.raises(LaunchConflictError, match="'shared' belongs to run mt/lstm, not to mt/gru"):
        runs.open_rank(make_identity("gru", launch_id="shared"), now=2.0)


def test_a_rank_beyond_the_world_is_refused(runs: RunRepository, make_identity: IdentityMaker) -> None:
    with pytest.raises(LaunchConflictError, match="ranks run from 0 to 1"):
        runs.open_rank(make_identity(rank=2, world_size=2), now=1.0)


def test_a_new_launch_of_a_known_run_is_its_next_attempt(runs: RunRepository, make_identity: IdentityMaker) -> None:
    first = runs.open_rank(make_identity(tags={"team": "a"}, framework="torch 2"), now=1.0)
    runs.set_state(first.run.run_id, RunState.FAILED, now=5.0, reason="loss is NaN")

    second = runs.open_rank(make_identity(launch_id="second", world_size=4), now=9.0)

    assert second.run.run_id == first.run.run_id
    assert (second.launch.attempt, second.run.attempts, second.run.world_size) == (2, 2, 4)
    assert (second.run.state, second.run.ended_at, second.run.failure_reason) == (RunState.RUNNING, None, "")
    assert (second.run.tags, second.run.framework) == ({"team": "a"}, "torch 2"), "what is not said again stays"
    assert [launch.attempt for launch in runs.launches(first.run.run_id)] == [1, 2]


def test_a_process_that_was_taken_for_lost_may_come_back(runs: RunRepository, make_identity: IdentityMaker) -> None:
    first = runs.open_rank(make_identity(), now=1.0)
    runs.set_state(first.run.run_id, RunState.LOST, now=90.0)

    assert runs.open_rank(make_identity(), now=100.0).run.state is RunState.RUNNING


def test_a_run_that_said_farewell_stays_ended_when_a_late_delivery_opens_it(
    runs: RunRepository, make_identity: IdentityMaker
) -> None:
    first = runs.open_rank(make_identity(), now=1.0)
    runs.set_state(first.run.run_id, RunState.FINISHED, now=5.0)

    assert runs.open_rank(make_identity(), now=100.0).run.state is RunState.FINISHED


def test_a_launch_ends_with_its_last_rank(runs: RunRepository, make_identity: IdentityMaker) -> None:
    first, second = (runs.open_rank(make_identity(rank=rank, world_size=2), now=1.0).rank for rank in (0, 1))

    ended = runs.close_rank(first.handle, "finished", "", now=5.0)
    assert (ended.ended_at, ended.outcome) == (5.0, "finished")
    assert runs.launch(first.launch_row).ended_at is None
    runs.close_rank(second.handle, "failed", "ValueError", now=6.0)
    assert runs.launch(first.launch_row).ended_at == 6.0

    assert runs.close_rank(second.handle, "finished", "", now=7.0).outcome == "failed", "the first word counts"


def test_touching_moves_only_what_is_known(runs: RunRepository, make_identity: IdentityMaker) -> None:
    rank = runs.open_rank(make_identity(), now=1.0).rank

    runs.touch([rank.handle, 999], now=33.0)
    runs.touch([], now=34.0)

    assert runs.rank(rank.handle).last_seen_at == 33.0
    assert [each.handle for each in runs.ranks(rank.launch_row)] == [rank.handle]


def test_what_does_not_exist_is_named(runs: RunRepository) -> None:
    with pytest.raises(UnknownRankError, match="rank handle 7 is not known here"):
        runs.rank(7)
    with pytest.raises(NotFoundError, match="no launch 7"):
        runs.launch(7)
    with pytest.raises(NotFoundError, match="no run with the id 7"):
        runs.by_id(7)
    with pytest.raises(NotFoundError, match="no run with the id 7"):
        runs.delete(7)
    with pytest.raises(NotFoundError, match="there is no run a/b: nothing has been recorded yet"):
        runs.get(RunKey("a", "b"))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (RunKey("mt", "lstn-7"), r"there is no run mt/lstn-7: did you mean mt/lstm-7\?"),
        (RunKey("speech", "lstm-7"), r"did you mean mt/lstm-7\?"),
        (RunKey("zzz", "qqqqqqqqqq"), r"there is no run zzz/qqqqqqqqqq$"),
    ],
)
def test_an_unknown_run_names_the_nearest_one(
    runs: RunRepository, make_identity: IdentityMaker, asked: RunKey, answer: str
) -> None:
    runs.open_rank(make_identity("lstm-7"), now=1.0)
    runs.open_rank(make_identity("transformer"), now=1.0)

    with pytest.raises(NotFoundError, match=answer):
        runs.get(asked)


def test_runs_are_found_by_a_part_of_a_name_in_any_case_and_counted_by_state(
    runs: RunRepository, make_identity: IdentityMaker
) -> None:
    opened = [runs.open_rank(make_identity(name), now=1.0).run for name in ("LSTM-7", "lstm_8", "100%", "GRÜN-1")]
    runs.set_state(opened[0].run_id, RunState.FINISHED, now=10.0)

    def found(search: str) -> list[str]:
        return [run.key.run for run in runs.list(search=search)]

    assert found("lstm") == ["lstm_8", "LSTM-7"]
    assert found("_8") == ["lstm_8"], "what stands for any character in SQL is an ordinary one here"
    assert found("%") == ["100%"]
    assert found("MT") == ["GRÜN-1", "100%", "lstm_8", "LSTM-7"], "the project is a part of the name"
    assert found("nothing") == []
    assert runs.states(search="lstm") == {RunState.FINISHED: 1, RunState.RUNNING: 1}
    assert [run.key.run for run in runs.list(among=[opened[0].run_id, opened[2].run_id])] == ["100%", "LSTM-7"]
    assert runs.list(among=[]) == []


def test_runs_are_listed_newest_first_in_pages(runs: RunRepository, make_identity: IdentityMaker) -> None:
    for number in range(5):
        runs.open_rank(make_identity(f"run-{number}"), now=float(number))
    other = runs.open_rank(make_identity("x", project="other"), now=9.0).run
    runs.set_state(other.run_id, RunState.FINISHED, now=10.0)

    page = runs.list(project="mt", limit=2)
    rest = runs.list(project="mt", limit=10, before=page[-1].run_id)

    assert [run.key.run for run in page] == ["run-4", "run-3"]
    assert [run.key.run for run in rest] == ["run-2", "run-1", "run-0"]
    assert [run.key for run in runs.list(state=RunState.FINISHED)] == [other.key]
    assert other.run_id not in [run.run_id for run in runs.live()]
    assert len(runs.live()) == 5


def test_progress_is_kept_and_not_erased_by_what_is_not_known(
    runs: RunRepository, make_identity: IdentityMaker
) -> None:
    run_id = runs.open_rank(make_identity(), now=1.0).run.run_id
    runs.progress([Progress(run_id, last_step=99, closed_steps=100, last_record_at=50.0)])
    runs.progress([Progress(run_id, last_step=None, closed_steps=101, last_record_at=None)])

    run = runs.by_id(run_id)
    assert (run.last_step, run.closed_steps, run.last_record_at) == (99, 101, 50.0)


def test_catalogs_come_back_as_they_were_and_are_stored_once(
    database: Database, runs: RunRepository, make_identity: IdentityMaker
) -> None:
    ranks = [runs.open_rank(make_identity(rank=rank, world_size=2), now=1.0).rank for rank in (0, 1)]
    for rank in ranks:
        for _ in range(2):
            runs.save_catalog(rank.handle, catalog(0, "a", "bü"))
    runs.save_catalog(ranks[1].handle, catalog(1))

    found = runs.catalogs(ranks[0].launch_row, 0)

    assert found == {
        (ranks[0].handle, 0): catalog(0, "a", "bü"),
        (ranks[1].handle, 0): catalog(0, "a", "bü"),
        (ranks[1].handle, 1): catalog(1),
    }
    assert found[ranks[0].handle, 0].parameters is found[ranks[1].handle, 0].parameters
    assert runs.catalogs(ranks[0].launch_row, 1) == {}


def test_a_version_of_a_catalog_cannot_change(runs: RunRepository, make_identity: IdentityMaker) -> None:
    handle = runs.open_rank(make_identity(), now=1.0).rank.handle
    runs.save_catalog(handle, catalog(0, "a"))

    with pytest.raises(InvalidBatchError, match="version 0 of optimizer 0 was declared with other parameters"):
        runs.save_catalog(handle, catalog(0, "b"))


def test_checkpoints_are_kept_once_in_order(runs: RunRepository, make_identity: IdentityMaker) -> None:
    opened = runs.open_rank(make_identity(), now=1.0)
    late = Checkpoint(opened.rank.handle, 200, "s3://b/200", 20.0)
    early = Checkpoint(opened.rank.handle, 100, "s3://b/100", 10.0)
    for checkpoint in (late, early, late):
        runs.save_checkpoint(checkpoint)

    assert runs.checkpoints(opened.run.run_id) == [early, late]


def test_health_is_the_latest_word_of_each_rank(runs: RunRepository, make_identity: IdentityMaker) -> None:
    opened = runs.open_rank(make_identity(), now=1.0)
    first = Health(opened.rank.handle, {"queue_full": 3}, 10, 20, 0.5, 100, 0.004, -1.5)
    runs.save_health(first)
    runs.save_health(replace(first, hook_calls=200))

    assert runs.health(opened.run.run_id) == [replace(first, hook_calls=200)]
    with pytest.raises(UnknownRankError):
        runs.save_health(replace(first, rank_handle=99))
