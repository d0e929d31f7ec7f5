"""Many runs looked at together: who passes, who is looked at, and whose trouble stays its own.

That findings and states are those of each run alone is shown in tests/property/test_detection.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from seismograd_server.detect.facts import facts_of
from seismograd_server.detect.spike import SpikeDetector
from seismograd_server.detect.stretch import Stretch
from seismograd_server.detect.together import _Passing, look_together
from seismograd_server.detect.watch import Observation, RunWatch, WatchConfig
from seismograd_server.model import ClosedBlock, Severity, Signature
from seismograd_server.transfer.trace_blocks import slice_block
from tests.support.closed import layout, noisy, run_of

WARM, STEPS = 256, 16


def trained(runs: int, *muted: Signature) -> tuple[list[RunWatch], list[ClosedBlock]]:
    """Calm runs that have been watched for long, and the next steps of each."""
    blocks = [run_of(noisy(WARM + STEPS, seed)) for seed in range(runs)]
    watches = [RunWatch(WatchConfig(muted=frozenset(muted))) for _ in range(runs)]
    for watch, block in zip(watches, blocks, strict=True):
        watch.observe(slice_block(block, 0, WARM))
    return watches, [slice_block(block, WARM, WARM + STEPS) for block in blocks]


def sound(said: list[Observation | Exception]) -> list[Observation]:
    return [each for each in said if isinstance(each, Observation)]


def test_calm_runs_are_looked_at_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    watches, blocks = trained(6)
    monkeypatch.setattr(RunWatch, "look", None)  # would raise
    said = sound(look_together(watches, facts_of(blocks)))
    assert [len(each.baseline) for each in said] == [STEPS] * 6
    assert not any(each.findings or each.failures for each in said)


def test_models_of_different_shapes_that_are_not_deep_pass_together(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [layout([f"layer.{index}.weight" for index in range(3 + run % 2)]) for run in range(6)]
    blocks = [run_of(noisy(WARM + 64, seed), layout=shape) for seed, shape in enumerate(shapes)]
    watches = [RunWatch() for _ in blocks]
    for watch, block in zip(watches, blocks, strict=True):
        watch.observe(slice_block(block, 0, WARM))
    monkeypatch.setattr(_Passing, "is_idle", None)  # would raise: nobody has to be asked alone
    monkeypatch.setattr(RunWatch, "look", None)
    assert len(sound(look_together(watches, facts_of([slice_block(block, WARM, WARM + 64) for block in blocks])))) == 6


def test_the_one_that_explodes_is_looked_at_and_the_others_pass() -> None:
    watches, blocks = trained(6)
    norms = blocks[2].global_norm.copy()
    norms[8:] *= 1e6
    blocks[2] = replace(blocks[2], global_norm=norms)
    said = sound(look_together(watches, facts_of(blocks)))
    assert [bool(each.findings) for each in said] == [number == 2 for number in range(6)]
    assert any(each.signature is Signature.SPIKE for each in said[2].findings)
    assert max(each.severity for each in said[2].findings) >= Severity.WARNING


def test_blocks_of_one_run_are_looked_at_in_order() -> None:
    watches, blocks = trained(5)
    twin, _ = trained(5)
    halves = [half for block in blocks for half in (slice_block(block, 0, 5), slice_block(block, 5, STEPS))]
    said = sound(look_together([watch for watch in watches for _ in range(2)], facts_of(halves)))
    assert [len(each.baseline) for each in said] == [5, STEPS - 5] * 5
    for watch, other, block in zip(watches, twin, blocks, strict=True):
        other.observe(block)
        assert watch.to_bytes() == other.to_bytes()


@pytest.mark.parametrize("where", ["idle", "skip"])
def test_what_one_run_raises_stands_in_its_place_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    watches, blocks = trained(6)
    broken = watches[3].passers()[1][2]
    assert isinstance(broken, SpikeDetector)
    usual = getattr(SpikeDetector, where)

    def fail(self: SpikeDetector, stretch: Stretch, *rest: object) -> object:
        if self is broken:
            raise ZeroDivisionError("of run 3")
        return usual(self, stretch, *rest)

    monkeypatch.setattr(SpikeDetector, where, fail)
    said = look_together(watches, facts_of(blocks))
    assert [isinstance(each, ZeroDivisionError) for each in said] == [number == 3 for number in range(6)]


def test_runs_that_are_watched_for_less_pass_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    watches, blocks = trained(4)
    less, others = trained(4, Signature.SPIKE, Signature.STALLED)
    monkeypatch.setattr(RunWatch, "look", None)
    assert len(sound(look_together([*watches, *less], facts_of([*blocks, *others])))) == 8
