from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.errors import UsageError
from seismograd_server.transfer.traces import read_trace, traces_in
from tests.support.closed import noisy
from tests.support.traces import LAYERS, arrays, write


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    loss = np.linspace(3, 1, 50, dtype=np.float32)
    trace = read_trace(write(tmp_path / "lstm-7.npz", 50, ranks=2, loss=loss, clip_threshold=np.float32(0.5)))
    assert (trace.name, trace.layer_names, trace.count) == ("lstm-7", LAYERS, 50)
    assert trace.local_norms.shape == (2, 50, 3)
    assert trace.layer_norms.shape == (50, 3)
    np.testing.assert_array_equal(trace.loss, loss.astype(np.float64))
    assert trace.clip_threshold == 0.5


def test_the_gradient_of_one_rank_is_the_averaged_one(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "a.npz", 20))
    np.testing.assert_array_equal(trace.layer_norms, trace.local_norms[0])


def test_a_run_without_a_step_is_a_run(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path / "a.npz", 0)).count == 0


def test_numbers_that_are_not_finite_are_data(tmp_path: Path) -> None:
    loss = np.array([1.0, np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(read_trace(write(tmp_path / "a.npz", 3, loss=loss)).loss, loss)


def test_what_a_run_became_is_not_read(tmp_path: Path) -> None:
    hidden = np.array([object()])  # would raise if it were
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, outcome=hidden, meta=hidden, **arrays(noisy(5)))
    assert read_trace(path).count == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": None, "lr": None}, r"lacks loss, lr: it has grad_norms, "),
        ({"grad_norms": np.zeros((20, 3))}, r"grad_norms has the shape \(20, 3\), not \[ranks, steps, tensors\]"),
        ({"grad_norms": np.zeros((0, 20, 3))}, r"grad_norms .* at least one rank and one tensor"),
        ({"update_norms": np.zeros((19, 3))}, r"update_norms .*\(19, 3\), not \[steps = 20, tensors = 3\]"),
        ({"update_norms": np.zeros((0, 3))}, r"update_norms .*\(0, 3\), not \[steps = 20, tensors = 3\]"),
        ({"loss": np.zeros(21)}, r"loss .*\(21,\), not \[steps = 20\]"),
        ({"loss_scale": np.zeros(7)}, r"loss_scale .*\(7,\), not \[steps = 20\], or empty"),
        ({"rank_loss": np.zeros((2, 20))}, r"rank_loss .*\(2, 20\), not \[ranks = 1, steps = 20\], or empty"),
        ({"clip_threshold": np.zeros(1)}, r"clip_threshold .*\(1,\), not a scalar"),
        ({"layer_names": np.array(["a", "b"])}, r"layer_names has the shape \(2,\) of <U1, not 3 strings"),
        ({"layer_names": np.arange(3)}, r"layer_names has the shape \(3,\) of int64, not 3 strings"),
        ({"loss": np.array(["1"] * 20)}, r"loss holds <U1, not real numbers"),
        ({"lr": np.zeros(20, complex)}, r"lr holds complex128, not real numbers"),
        ({"weight_norms": -np.eye(20, 3)}, r"weight_norms is negative at \(0, 0\): a norm never is"),
    ],
)
def test_an_array_that_cannot_be_used_is_named_with_what_it_should_be(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.npz", 20, **changes)
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}:? {message}"):
        read_trace(path)


def test_several_ranks_need_the_averaged_gradient(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", 20, ranks=2, avg_grad_norms=np.zeros((0, 3)))
    with pytest.raises(UsageError, match=r"avg_grad_norms has the shape \(0, 3\), not \[steps = 20, tensors = 3\]$"):
        read_trace(path)


def test_an_array_of_objects_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **arrays(noisy(5), loss=np.array([object()] * 5)))
    with pytest.raises(UsageError, match=r"loss cannot be read: Object arrays cannot be loaded"):
        read_trace(path)


def test_a_single_array_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UsageError, match="is one array, not a trace file"):
        read_trace(path)


def test_an_array_larger_than_any_memory_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**57,)})
    path = write(tmp_path / "a.npz", 20, loss=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("loss.npy", header.getvalue())
    with pytest.raises(UsageError, match="loss cannot be read"):
        read_trace(path)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_damage_a_file_has_is_an_error_that_names_it_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("traces") / "a.npz", 20)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        read_trace(path)
    except UsageError as error:
        assert str(path) in str(error)  # noqa: PT017 (damage between the arrays is harmless)


def test_a_folder_is_read_by_name_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("b.npz", "a.npz"):
        write(tmp_path / name, 5)
    (tmp_path / "manifest.csv").write_text("run_id\n")
    assert [path.name for path in traces_in(tmp_path)] == ["a.npz", "b.npz"]


def test_a_folder_that_has_none_or_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no trace file \(\*\.npz\)"):
        traces_in(tmp_path)
    with pytest.raises(UsageError, match=r"nowhere cannot be read as a folder of trace files: No such file"):
        traces_in(tmp_path / "nowhere")
