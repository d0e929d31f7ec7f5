from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.watch import RunWatch, WatchConfig
from seismograd_server.model import Severity, Signature
from seismograd_server.rules.backtest import backtest
from seismograd_server.rules.ruleset import RunRules
from seismograd_server.transfer.trace_blocks import slice_block
from tests.support.closed import noisy, run_of


def spiky(steps: int = 120, at: int = 80) -> np.ndarray:
    norms = noisy(steps)
    norms[at] *= 30.0
    return norms


def test_the_findings_are_those_of_a_live_watch() -> None:
    block = run_of(spiky())
    found = backtest([block], RunRules())
    live = [each for each in RunWatch().observe(block).findings if each.severity >= Severity.WARNING]
    assert list(found.findings) == live
    assert [(each.signature, each.step) for each in found.findings] == [(Signature.SPIKE, 80)]
    assert found.steps == 120


def test_what_is_over_or_merely_informative_is_left_out() -> None:
    everything = RunWatch().observe(run_of(spiky())).findings
    assert Severity.NONE in {each.severity for each in everything}  # the end of the spike
    assert Severity.NONE not in {each.severity for each in backtest([run_of(spiky())], RunRules()).findings}


def test_a_muted_signature_is_not_looked_for() -> None:
    assert backtest([run_of(spiky())], RunRules(WatchConfig(muted=frozenset({Signature.SPIKE})))).findings == ()


@settings(max_examples=20)
@given(st.lists(st.integers(1, 119), max_size=6))
def test_how_the_run_is_cut_does_not_matter(cuts: list[int]) -> None:
    block = run_of(spiky())
    edges = [0, *sorted(set(cuts)), block.count]
    pieces = [slice_block(block, start, stop) for start, stop in itertools.pairwise(edges)]
    assert backtest(pieces, RunRules()) == backtest([block], RunRules())
