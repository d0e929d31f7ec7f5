from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from seismograd_server.report.contents import CauseKind
from seismograd_server.transfer.traces import read_trace
from tests.benchmarks.detection.catalogue import EXPLODING, SCALES
from tests.benchmarks.detection.causes import causes_of, truth
from tests.benchmarks.detection.generating import generate
from tests.benchmarks.detection.scoring import Labelled, read_manifest


def run(family: str, faults: str = "") -> Labelled:
    return Labelled("a", family, faults, "exploding", 10, 20)


def test_what_was_done_is_known_of_every_exploding_family() -> None:
    for spec in (*EXPLODING, *(each for each in SCALES if each.family.startswith("x"))):
        assert truth(run(spec.family, "+".join(fault.kind for fault in spec.faults))), spec.family


def test_a_family_outranks_a_fault_and_several_faults_are_all_right() -> None:
    assert truth(run("x_overflow", "bad_target")) == {CauseKind.PRECISION_OVERFLOW, CauseKind.TARGET_OUTLIER}
    assert truth(run("x_new", "bad_batch+lr_bump")) == {CauseKind.BAD_BATCH, CauseKind.LEARNING_RATE}
    assert truth(run("x_new")) == frozenset()


def test_the_cause_of_a_run_is_read_from_its_post_mortem(tmp_path: Path) -> None:
    bump = next(spec for spec in EXPLODING if spec.family == "x_rate_bump")
    (labelled,) = read_manifest(generate([replace(bump, steps=230)], tmp_path))
    found = causes_of(read_trace(tmp_path / f"{labelled.run_id}.npz"), thin=10)
    assert found[0].kind in truth(labelled)
