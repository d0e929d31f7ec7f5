"""What the environment of a launcher says about a process."""

from __future__ import annotations

import pytest

from seismograd.launch import LaunchEnvironment
from seismograd.options import launch_environment

ELASTIC = {
    "TORCHELASTIC_RUN_ID": "job-8",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29511",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
}
SLURM = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
POD = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "POD_UID": "8f3a",
    "POD_NAME": "train-0",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_PORT": "4000",
}


def test_torchelastic_names_the_launch_by_id_restart_and_meeting_point() -> None:
    found = LaunchEnvironment.from_variables(ELASTIC)
    assert found == LaunchEnvironment("torchelastic", "torchelastic:job-8:2:node1:29511", 3, 4, 1)


def test_a_restart_or_another_meeting_point_is_another_launch() -> None:
    ids = {
        LaunchEnvironment.from_variables(ELASTIC | change).launch_id
        for change in ({}, {"TORCHELASTIC_RESTART_COUNT": "3"}, {"MASTER_PORT": "1"}, {"MASTER_ADDR": "node2"})
    }
    assert len(ids) == 4


@pytest.mark.parametrize("run_id", ["none", "None", ""])
def test_the_id_that_every_torchrun_shares_is_ignored(run_id: str) -> None:
    found = LaunchEnvironment.from_variables(ELASTIC | {"TORCHELASTIC_RUN_ID": run_id})
    assert (found.launch_id, found.rank, found.world_size) == (None, 3, 4)


def test_a_slurm_step_gives_launch_rank_and_world() -> None:
    found = LaunchEnvironment.from_variables(SLURM | {"SLURM_RESTART_COUNT": "1"})
    assert found == LaunchEnvironment("slurm", "slurm:77.0.1", 5, 8, 1, "77")


@pytest.mark.parametrize("step", ["", "4294967291"])
def test_a_slurm_batch_script_outside_a_step_is_one_process(step: str) -> None:
    found = LaunchEnvironment.from_variables(SLURM | {"SLURM_STEP_ID": step})
    assert (found.launch_id, found.rank, found.world_size) == (None, None, None)


def test_a_pod_names_the_launch_only_when_all_ranks_live_in_it() -> None:
    assert LaunchEnvironment.from_variables(POD) == LaunchEnvironment(
        "kubernetes", "pod:8f3a:4000", 1, 2, None, "train-0"
    )
    assert LaunchEnvironment.from_variables(POD | {"WORLD_SIZE": "4"}).launch_id is None


def test_a_single_process_needs_no_agreement() -> None:
    assert LaunchEnvironment.from_variables(ELASTIC | {"RANK": "0", "WORLD_SIZE": "1"}).launch_id is None


@pytest.mark.parametrize("change", [{"RANK": "4"}, {"WORLD_SIZE": "0"}, {"WORLD_SIZE": "four"}])
def test_numbers_that_contradict_each_other_count_as_absent(change: dict[str, str]) -> None:
    found = LaunchEnvironment.from_variables(ELASTIC | change)
    assert (found.world_size, found.launch_id) == (None, None)


def test_an_ordinary_shell_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*ELASTIC, *SLURM, *POD}:
        monkeypatch.delenv(name, raising=False)
    assert launch_environment() == LaunchEnvironment("", None, None, None, None)
