from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seismograd_server.errors import NotFoundError, UsageError
from seismograd_server.model import RunKey
from seismograd_server.report import RunComparer
from seismograd_server.report.compare.compare import Align, Read, align_runs, pairs
from seismograd_server.report.configuration import differences
from seismograd_server.store.database import Database
from tests.support.histories import make_run
from tests.support.long_run import KEY, LongRun, write
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, exploding_norms, healthy_norms, new_pipeline


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stocked]:
    """Runs that are to be compared; nothing here writes to them."""
    path = tmp_path_factory.mktemp("compared") / "seismograd.db"
    with Database.open(f"sqlite:///{path}", owner="tests") as database:
        stocked = Stocked(database, new_pipeline(database))
        stocked.add("calm", norms=healthy_norms(200))
        stocked.add("bad", norms=exploding_norms(200, 150), started=NOW + 1000)
        stocked.add("half", norms=healthy_norms(100), started=NOW + 2000)
        stocked.add("a/b%2F", norms=healthy_norms(60), started=NOW + 3000)
        stocked.add("none", norms=np.zeros(0), finish=False, started=NOW + 4000)
        yield stocked


def pair_of(answer: Any, quantity: str = "grad_norm", run: int = 1) -> Any:
    return next(each for each in answer["partings"] if (each["quantity"], each["run"]) == (quantity, run))


def test_runs_part_where_one_of_them_explodes(store: Stocked) -> None:
    answer = RunComparer(store.database)(["mt/calm", "mt/bad"])
    found = pair_of(answer)
    assert (found["parted"], found["shared_points"]) == (True, 200)
    assert 150 <= found["position"] <= 154
    assert found["octaves"] > 3.0
    assert f"part at step {found['position']:.0f}" in found["sentence"]
    assert "that of mt/bad lies" in found["sentence"]
    assert answer["steps_per_point"] == 1
    assert [each["run"] for each in answer["runs"]] == ["calm", "bad"]
    assert [each["signature"] for each in answer["runs"][1]["alerts"]]
    assert answer["series"]["step"] == list(range(200))
    assert [len(column) for column in answer["series"]["grad_norm"]] == [200, 200]


def test_runs_of_the_same_noise_are_said_to_stay_together(store: Stocked) -> None:
    found = pair_of(RunComparer(store.database)(["mt/calm", "mt/half"]))
    assert (found["parted"], found["position"], found["octaves"]) == (False, None, None)
    assert "stay together" in found["sentence"]
    assert found["shared_points"] == 100


def test_runs_of_any_length_can_be_held_against_each_other_by_progress(store: Stocked) -> None:
    answer = RunComparer(store.database)(["mt/calm", "mt/bad", "mt/half"], "progress")
    assert answer["series"]["progress"][0] == pytest.approx(0.5 / 256)
    found = pair_of(answer)
    assert 0.74 <= found["position"] <= 0.78
    assert "% of the way" in found["sentence"]
    assert not pair_of(answer, run=2)["parted"]


def test_a_run_without_a_step_is_compared_with_what_is_known(store: Stocked) -> None:
    answer = RunComparer(store.database)(["mt/calm", "mt/none"])
    assert pair_of(answer)["shared_points"] == 0
    assert "No step is closed yet: mt/none." in answer["notes"]
    assert RunComparer(store.database)(["mt/none"])["series"]["step"] == []


@pytest.mark.parametrize("name", ["mt/a/b%2F", "mt/a%2Fb%252F"])
def test_a_name_with_slashes_is_found_as_it_is_and_escaped(store: Stocked, name: str) -> None:
    assert RunComparer(store.database)([name])["runs"][0]["run"] == "a/b%2F"


@pytest.mark.parametrize(
    ("names", "align", "kind", "words"),
    [
        (["mt/calm", "mt/lost"], "step", NotFoundError, "lost"),
        (["calm"], "step", UsageError, "project/run"),
        ([], "step", UsageError, "1 to 8"),
        (["mt/calm"] * 9, "step", UsageError, "1 to 8"),
        (["mt/calm", "mt/calm"], "step", UsageError, "twice"),
        (["mt/calm"], "time", UsageError, "step, progress"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(
    store: Stocked, names: list[str], align: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        RunComparer(store.database)(names, align)


def test_a_long_run_is_compared_in_points_of_as_many_steps_as_fit(store: Stocked) -> None:
    with Database.open("sqlite://", owner="tests") as database:
        write(database, LongRun(steps=9_000, layers=2, ranks=1), NOW)
        answer = RunComparer(database)([str(KEY)])
        assert answer["steps_per_point"] == 64
        assert len(answer["series"]["step"]) == 141
        assert any("64 steps" in note for note in answer["notes"])


def test_differences_name_nested_keys_tags_and_surroundings_but_no_secret() -> None:
    one = make_run(config_json=json.dumps({"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "api_key": "a"}))
    other = replace(
        make_run(
            key=RunKey("mt", "other"),
            config_json=json.dumps({"optimizer": {"lr": 0.2, "betas": [0.9, 0.99]}, "api_key": "b", "warm_up": 10}),
            tags={"team": "speech", "host": "x"},
            world_size=4,
        )
    )
    found = {(each.kind, each.key): each.values for each in differences([one, other])}
    assert found == {
        ("configuration", "optimizer.lr"): ("0.1", "0.2"),
        ("configuration", "warm_up"): (None, "10"),
        ("tag", "host"): (None, "x"),
        ("surroundings", "world size"): ("2", "4"),
    }
    assert differences([one, one]) == ()
    assert differences([one, replace(other, config_json="{")])[0].values


def test_losses_below_zero_are_not_measured_in_octaves(store: Stocked) -> None:
    answer = RunComparer(store.database)(["mt/calm", "mt/half"])
    with store.database.read() as transaction:
        runs = [transaction.runs.get(RunKey("mt", name)) for name in ("calm", "half")]
    aligned = align_runs([Read(run, (), None) for run in runs], Align.STEP)
    loss = tuple(np.array([-1.0, -2.0, -3.0]) for _ in runs)
    negative = replace(aligned, position=np.arange(3), norm=loss, loss=loss)
    found = pairs([Read(run, (), None) for run in runs], negative, Align.STEP)
    assert all("not all positive" in pair.sentence for pair in found)
    assert answer["partings"]
