"""Two real processes under DistributedDataParallel: what each ships, and that training does not notice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seismograd.record import NormSource, Quantity, digest_of

WORKER = Path(__file__).with_name("ddp_worker.py")
WORLD = 2


def train(folder: Path, mode: str) -> list[dict[str, Any]]:
    """Runs every rank to its end and gives what each wrote."""
    outputs = [folder / f"{mode}-{rank}.json" for rank in range(WORLD)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(WORLD), str(folder / f"{mode}-store"), str(output), mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text
    return [json.loads(output.read_text()) for output in outputs]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return train(tmp_path_factory.mktemp("watched"), "watched")


def test_training_is_the_same_to_the_last_bit(ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = train(tmp_path, "plain")

    assert [rank["weights"] for rank in ranks] == [rank["weights"] for rank in plain]
    assert [rank["losses"] for rank in ranks] == [rank["losses"] for rank in plain]


def test_the_ranks_agree_on_the_launch_through_the_store(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["launch"] == ranks[1]["launch"]
    assert ranks[0]["run"] == ranks[1]["run"]
    assert [(rank["rank"], rank["world"], rank["strategy"]) for rank in ranks] == [(0, 2, "ddp"), (1, 2, "ddp")]
    assert [rank["broken"] for rank in ranks] == [{}, {}]


def test_every_rank_names_its_replica(ranks: list[dict[str, Any]]) -> None:
    for index, rank in enumerate(ranks):
        assert {tuple(entry[1:]) for entry in rank["catalog"]} == {(0, index, 2)}
        assert [entry[0] for entry in rank["catalog"]] == [
            f"{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")
        ]


def test_replica_zero_ships_rows_and_the_other_a_total_and_the_digest_of_the_same_row(
    ranks: list[dict[str, Any]],
) -> None:
    assert len(ranks[0]["records"]) == len(ranks[1]["records"]) == 6
    for first, second in zip(ranks[0]["records"], ranks[1]["records"], strict=True):
        row = np.frombuffer(bytes.fromhex(first["norm_bytes"]), dtype="<f4")
        assert first["digest"] is None
        assert first["total"] is None
        assert second["norms"] is None
        assert second["digest"] == digest_of(row)
        assert second["total"] == pytest.approx(float(np.linalg.norm(row.astype(np.float64))), rel=1e-6)
        assert first["source"] == second["source"] == NormSource.CLIP
        assert second["sampled"] in ([], [Quantity.LOCAL_GRADIENT_NORM])
    assert ranks[0]["records"][0]["sampled"] == [
        Quantity.WEIGHT_NORM,
        Quantity.UPDATE_NORM,
        Quantity.MAX_ABS,
        Quantity.SPECTRAL_GAIN,
        Quantity.LOCAL_GRADIENT_NORM,
    ]
    assert ranks[1]["records"][0]["sampled"] == [Quantity.LOCAL_GRADIENT_NORM]


def test_every_rank_ships_its_own_loss_and_its_own_gradient_before_the_all_reduce(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        found = {record["step"]: record["local"] for record in rank["records"] if record["local"] is not None}
        assert 0 in found, "the first step is always sampled; how many more is a matter of what they cost"
        expected = [np.linalg.norm(rank["local_norms"][step]) for step in found]
        np.testing.assert_allclose(list(found.values()), expected, rtol=1e-4)
        by_layer = {record["step"]: record["local_by_layer"] for record in rank["records"] if record["local_by_layer"]}
        assert found.keys() == by_layer.keys()
        for step, norms in by_layer.items():
            np.testing.assert_allclose(norms, rank["local_norms"][step], rtol=1e-4)
    first, second = ([record["loss"] for record in rank["records"]] for rank in ranks)
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_stop_told_to_one_rank_reaches_both_in_the_same_call(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["stops"] == ranks[1]["stops"] == [False, False, False, True, False, True]
