from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seismograd_server.transfer.traces import read_trace
from tests.benchmarks.detection.catalogue import runs
from tests.benchmarks.detection.generating import generate, generate_once
from tests.benchmarks.detection.scoring import read_manifest
from tests.benchmarks.detection.training import Fault, Spec, Training

RATE_BUMP = Spec("x_rate_bump", 1, optimizer="momentum", lr=0.01, steps=90, faults=(Fault("lr_bump", 60, 60.0),))
RANKS = Spec("h_ranks", 2, task="clusters", steps=20, ranks=3, clip=1.0)


def test_a_run_is_made_again_number_by_number() -> None:
    first, again = Training(RANKS).run(), Training(RANKS).run()
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)


def test_the_files_and_the_manifest_are_what_backtests_read(tmp_path: Path) -> None:
    manifest = generate([RATE_BUMP, RANKS], tmp_path)
    explosion, healthy = read_manifest(manifest)
    assert (explosion.label, explosion.onset_step, explosion.faults) == ("exploding", 60, "lr_bump")
    assert 60 < explosion.failure_step < 90
    assert (healthy.label, healthy.onset_step) == ("healthy", -1)
    trace = read_trace(tmp_path / f"{healthy.run_id}.npz")
    assert (trace.local_norms.shape[0], trace.count, trace.clip_threshold) == (3, 20, 1.0)
    assert generate_once([], tmp_path)[0] == manifest  # made once


def test_the_averaged_gradient_of_ranks_is_no_larger_than_their_own_ones_together() -> None:
    arrays = Training(RANKS).run()
    assert (arrays["avg_grad_norms"] <= arrays["grad_norms"].mean(0) * (1 + 1e-5)).all()
    np.testing.assert_allclose(arrays["rank_loss"].mean(0), arrays["loss"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["bad_batch", "bad_target", "rank_grad_scale"])
def test_a_fault_of_one_rank_is_in_the_gradient_of_that_rank_alone(kind: str) -> None:
    spec = replace(RANKS, task="waves", faults=(Fault(kind, 10, 100.0, rank=1),), clip=1e-6)
    faulty, sound = Training(spec).run()["grad_norms"], Training(replace(spec, faults=())).run()["grad_norms"]
    np.testing.assert_array_equal(faulty[[0, 2], :11], sound[[0, 2], :11])
    assert np.linalg.norm(faulty[1, 10]) > 10.0 * np.linalg.norm(sound[1, 10])


def test_a_corrupted_weight_is_named_and_seen_in_the_weights() -> None:
    spec = Spec("x_weight", steps=12, faults=(Fault("weight_scale", 10, 10.0),))
    training = Training(spec)
    arrays = training.run()
    layer = arrays["layer_names"].tolist().index(training.culprit_layer())
    jump = arrays["weight_norms"][10] / arrays["weight_norms"][9]
    assert jump[layer] > 9.0
    assert (np.delete(jump, layer) < 2.0).all()


def test_a_loss_scaler_skips_what_does_not_fit_into_half_precision_and_backs_off() -> None:
    arrays = Training(Spec("h_back_off", 1, task="clusters", steps=60, loss_scale=2.0**24)).run()
    skipped = ~np.isfinite(arrays["global_norm"])
    assert skipped[0]
    assert not skipped[-1]
    assert (arrays["update_norms"][skipped] == 0.0).all()
    assert arrays["loss_scale"][-1] < 2.0**24


def test_the_catalogue_has_runs_of_every_kind_each_with_a_name_of_its_own() -> None:
    specs = list(runs())
    assert len({spec.name for spec in specs}) == len(specs)
    assert {spec.family[0] for spec in specs} == set("hsxv")


def test_a_variation_has_the_same_families_with_other_numbers() -> None:
    shipped, varied = list(runs()), list(runs(3))
    assert [spec.family for spec in varied] == [spec.family for spec in shipped]
    assert not {spec.name for spec in varied} & {spec.name for spec in shipped}
    assert [spec.lr for spec in varied] == [spec.lr for spec in runs(3)] != [spec.lr for spec in shipped]
    assert all(0.5 < new.lr / old.lr < 2.0 for new, old in zip(varied, shipped, strict=True))
