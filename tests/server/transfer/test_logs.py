from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.errors import UsageError
from seismograd_server.model import Quantity
from seismograd_server.transfer.assembling import REST, ImportedRun, assemble
from seismograd_server.transfer.formats import read_log
from seismograd_server.transfer.logs import Column, Log, number_of, step_of
from seismograd_server.transfer.recognising import recognise
from seismograd_server.transfer.tables import table_file


def taken(log: Log, **mapping: str) -> ImportedRun:
    return assemble(log, recognise(log.columns, mapping), 1000.0)


@pytest.mark.parametrize(
    ("source", "name", "text", "reason"),
    [
        ("csv", "a.csv", "step,grad_norm\n1,2\n2,oops\n", "column grad_norm holds numbers and text ('oops' in line 3)"),
        ("csv", "a.csv", "step,grad_norm\n1,2\nx,3\n", "line 3: step is 'x', not a whole number"),
        ("csv", "a.csv", "grad_norm,loss\n1,2\n", "no column of steps"),
        ("csv", "a.csv", "", "is empty"),
        ("csv", "a.csv", "step,gradnrm\n1,2\n", "neither a gradient norm nor a loss was recognised; there is gradnrm"),
        ("csv", "a.csv", "step,grad_norm\n1,-2\n", "grad_norm is -2 at step 1, and a norm is never negative"),
        ("jsonl", "a.jsonl", '{"step": 1, "grad_norm": 2}\n{"step": \n{"step": 3}\n', "line 2 is no JSON object"),
        ("jsonl", "a.jsonl", "[1]\n", "line 1 holds lists, not an object"),
        ("trainer-state", "trainer_state.json", '{"log_history": [{"st', "is it still being written?"),
        ("trainer-state", "trainer_state.json", "[]", "has no log_history"),
        ("tensorboard", "events.out.tfevents.1", "no events at all", "is no event file of TensorBoard"),
        ("wandb", "run-1.wandb", "nor is this", "is no run file of W&B"),
        ("neptune", "a.parquet", "nor this", "is no Parquet that can be read"),
        ("parquet", "b.parquet", "nor this", "is no Parquet that can be read"),
        ("trace", "a.npz", "nor this", "is no trace file that can be read"),
    ],
)
def test_a_damaged_log_is_refused_as_a_whole_with_its_place(
    tmp_path: Path, source: str, name: str, text: str, reason: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as refusal:
        taken(read_log(source, tmp_path / name, None))
    assert reason in str(refusal.value)
    assert Path(name).stem in str(refusal.value)


@pytest.mark.parametrize(
    "source", ["tensorboard", "wandb", "csv", "jsonl", "parquet", "neptune", "trainer-state", "trace"]
)
def test_a_log_that_is_not_there_is_said_not_to_be(tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read|is no"):
        read_log(source, tmp_path / "nowhere", None)


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("grad_norm", "grad_norm"),
        ("train/grad_norm", "grad_norm"),
        ("train/global_grad_norm", "grad_norm"),
        ("optim/total_grad_norm", "grad_norm"),
        ("grad_2.0_norm_total", "grad_norm"),
        ("grad_norm/total", "grad_norm"),
        ("grad-norm", "grad_norm"),
        ("gnorm", "grad_norm"),
        ("lm loss", "loss"),
        ("train/CELoss", "loss"),
        ("train_loss", "loss"),
        ("learning-rate", "learning_rate"),
        ("lr-AdamW", "learning_rate"),
        ("optim/learning_rate_group0", "learning_rate"),
        ("loss-scale", "loss_scale"),
        ("grad_norm/encoder.0.weight", "layer:encoder.0.weight"),
        ("train/grad_norm/encoder.0.weight", "layer:encoder.0.weight"),
        ("grad_2.0_norm/encoder.0.weight", "layer:encoder.0.weight"),
        ("gradients/norm/encoder.0.weight", "layer:encoder.0.weight"),
        ("eval/loss", ""),
        ("val_loss", ""),
        ("param_norm", ""),
        ("loss_of_discriminator", ""),
    ],
)
def test_columns_are_recognised_by_the_names_that_frameworks_give(column: str, field: str) -> None:
    found = recognise([column], {})
    named = {**{column: wanted for wanted, column in found.fields.items()}}
    named |= {column: f"layer:{layer}" for layer, column in found.layers.items()}
    assert named.get(column, "") == field
    assert found.unknown == ([] if field else [column])


def test_of_several_columns_that_might_be_the_norm_the_plainest_is_and_the_others_are_named() -> None:
    found = recognise(["train/gradient_norm", "grad_norm", "train/loss", "loss"], {"loss": "train/loss"})
    assert found.fields == {"grad_norm": "grad_norm", "loss": "train/loss"}
    assert sorted(found.unknown) == ["loss", "train/gradient_norm"]


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"grad_nrm": "a"}, "did you mean grad_norm?"),
        ({"zzz": "a"}, "there are grad_norm, loss"),
        ({"layer:": "a"}, "is no field"),
        ({"loss": "losss"}, "did you mean 'a loss'?"),
    ],
)
def test_a_mapping_that_cannot_be_says_what_could(mapping: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError) as refusal:
        recognise(["a", "a loss"], mapping)
    assert reason in str(refusal.value)


@given(st.lists(st.tuples(st.integers(-5, 20), st.floats(allow_nan=False)), max_size=60))
def test_of_a_step_that_was_logged_again_the_last_value_counts(entries: Sequence[tuple[int, float]]) -> None:
    column = Column()
    for step, value in entries:
        column.put(step, value)
    steps, values = column.latest()
    assert dict(zip(steps.tolist(), values.tolist(), strict=True)) == dict(entries)
    assert steps.tolist() == sorted(set(steps.tolist()))


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.lists(st.integers(), max_size=2)))
def test_whatever_stands_in_a_log_is_a_number_or_is_none(value: object) -> None:
    number, step = number_of(value), step_of(value)
    assert number is None or isinstance(number, float)
    assert step is None or (number is not None and step == number and abs(step) < 2**62)


def test_columns_of_different_steps_are_aligned_and_what_is_missing_stays_unknown() -> None:
    log = Log("x")
    for step in range(10):
        log.put("loss", step, float(step))
    for step in (4, 9):
        log.put("grad_norm", step, 2.0)
    run = taken(log)
    assert run.steps.tolist() == list(range(10))
    assert np.flatnonzero(~np.isnan(run.total)).tolist() == [4, 9]
    assert run.times.tolist() == [991.0 + step for step in range(10)], "a second a step up to the last"
    rows, values = run.scalars[Quantity.LOSS]
    assert (rows.tolist(), values.tolist()) == (list(range(10)), [float(step) for step in range(10)])


def test_layers_that_do_not_add_up_to_the_total_are_completed_or_left_out() -> None:
    def logged(share: float) -> ImportedRun:
        log = Log("x")
        for step in range(5):
            log.put("grad_norm", step, 5.0)
            log.put("grad_norm/a", step, 3.0 * share)
            log.put("grad_norm/b", step, 4.0 * share)
        return taken(log)

    assert logged(1.0).layers == ("a", "b")
    partial = logged(0.5)
    assert partial.layers == ("a", "b", REST)
    np.testing.assert_allclose(np.sqrt(np.square(partial.norms.astype(float)).sum(axis=1)), 5.0, rtol=1e-6)
    other = logged(3.0)
    assert other.layers == ()
    assert "of another gradient" in str(other.notes)


def test_what_was_not_finite_is_noted_beside_a_norm_of_nothing() -> None:
    log = Log("x")
    for step, value in enumerate([1.0, math.nan, math.inf, 2.0]):
        log.put("grad_norm", step, value)
        log.put("grad_norm/a", step, value)
    run = taken(log)
    assert run.total.tolist() == [1.0, 0.0, 0.0, 2.0]
    assert run.broken.tolist() == [0.0, 1.0, 2.0, 0.0]
    assert run.broken_layers.tolist() == [[1, 0, 1], [2, 0, 2]]


def test_the_same_log_is_the_same_launch_also_when_it_has_grown_and_another_one_is_not() -> None:
    def run(values: Sequence[float]) -> ImportedRun:
        log = Log("x")
        for step, value in enumerate(values):
            log.put("grad_norm", step, value)
        return taken(log)

    short, grown, other = run([1.0, 2.0]), run([1.0, 2.0, 3.0]), run([1.5, 2.0])
    assert short.identity("p", "r", "csv") == grown.identity("p", "r", "csv")
    different = {
        other.identity("p", "r", "csv"),
        short.identity("p", "q", "csv"),
        short.identity("p2", "r", "csv"),
        short.identity("p", "r", "jsonl"),
    }
    assert len(different | {short.identity("p", "r", "csv")}) == 5


def test_an_export_of_wandb_as_json_lines_is_read_by_its_own_names(tmp_path: Path) -> None:
    row = {"grad_norm": 1.0, "gradients/a": {"_type": "histogram"}}
    lines = [{"_step": 3 * step, "_timestamp": 1e9 + step, **row} for step in range(4)]
    (tmp_path / "export.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = taken(read_log("jsonl", tmp_path / "export.jsonl", None))
    assert run.steps.tolist() == [0, 3, 6, 9]
    assert run.times.tolist() == [1e9 + step for step in range(4)]
    assert run.unreadable == {"gradients/a": "objects"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_that_fails_halfway_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"run{suffix}"
    target.write_text("before")

    def cut_off() -> None:
        with table_file(target, {"step": "int64"}, {}) as table:
            table.write({"step": [1, 2]})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cut_off()
    assert target.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == [target.name]
