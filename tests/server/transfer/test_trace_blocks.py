from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seismograd_server.model import RecordFlag
from seismograd_server.transfer.trace_blocks import Columns, blocks
from seismograd_server.transfer.traces import read_trace
from tests.support.closed import noisy
from tests.support.traces import arrays, write


def test_the_blocks_together_are_the_run(tmp_path: Path) -> None:
    norms = noisy(100)
    np.savez(tmp_path / "a.npz", **arrays(norms, ranks=2))
    cut = list(blocks(read_trace(tmp_path / "a.npz"), length=32))
    assert [block.count for block in cut] == [32, 32, 32, 4]
    np.testing.assert_array_equal(np.concatenate([block.steps for block in cut]), np.arange(100))
    np.testing.assert_allclose(np.concatenate([block.global_norm for block in cut]), norms, rtol=1e-6)
    assert {block.rank_norm.shape[1] for block in cut} == {2}


def test_the_gradients_of_each_rank_are_cut_with_their_steps(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(noisy(100), ranks=2))
    trace = read_trace(tmp_path / "a.npz")
    for block in blocks(trace, length=30, thin=7):
        for layers in block.rank_layers:
            at = block.steps[layers.rows]
            np.testing.assert_array_equal(at, [step for step in block.steps if step % 7 == 0])
            np.testing.assert_allclose(layers.norms, trace.local_norms[layers.rank, at])


@pytest.mark.parametrize(
    ("columns", "loss", "samples"), [("norms", False, False), ("norms+loss", True, False), ("all", True, True)]
)
def test_no_more_is_seen_than_was_asked_for(tmp_path: Path, columns: Columns, loss: bool, samples: bool) -> None:
    path = write(tmp_path / "a.npz", 40, clip_threshold=np.float32(1.0), clipped=np.ones(40, np.bool_))
    (block,) = blocks(read_trace(path), columns=columns)
    seen = (block.loss_known, ~np.isnan(block.loss), ~np.isnan(block.learning_rate), ~np.isnan(block.clip_threshold))
    assert all((each == loss).all() for each in seen)
    assert (block.flags > 0).all() == loss
    assert (~np.isnan(block.update_norms)).all() == samples
    assert (~np.isnan(block.weight_norms)).any() == samples


def test_samples_are_kept_every_so_many_steps_alone(tmp_path: Path) -> None:
    (block,) = blocks(read_trace(write(tmp_path / "a.npz", 40)), thin=10)
    for column in (block.update_norms, block.weight_norms, block.rank_norm):
        np.testing.assert_array_equal(np.flatnonzero(~np.isnan(column).any(1)), [0, 10, 20, 30])
    assert not np.isnan(block.layer_norms).any()


def test_a_step_that_the_loss_scaler_skipped_is_marked(tmp_path: Path) -> None:
    values = arrays(noisy(20), loss_scale=np.full(20, 1024.0, np.float32))
    values["grad_norms"][0, 7], values["update_norms"][7] = np.inf, 0.0
    values["grad_norms"][0, 9] = np.inf  # not skipped: the update was made
    np.savez(tmp_path / "a.npz", **values)
    (block,) = blocks(read_trace(tmp_path / "a.npz"))
    np.testing.assert_array_equal(np.flatnonzero(block.flags & RecordFlag.SKIPPED_BY_SCALER), [7])
    np.testing.assert_array_equal(np.flatnonzero(block.nonfinite[:, 1]), [7, 9])
    assert {(each.row, each.rank) for each in block.nonfinite_layers} == {(7, 0), (9, 0)}
