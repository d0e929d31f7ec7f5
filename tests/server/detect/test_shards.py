"""Composition against its slow twin: any layers, cut in any way, held by any ranks of which any may be missing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.align import Aligner, Patience
from seismograd_server.detect.compose import Composer
from seismograd_server.model import Catalog, ClosedBlock
from tests.support.synthetic import make_batch, parameters

STEPS = 3
VALUES = st.sampled_from([0.0, 0.5, 1.0, 3.0, 1e20])


@dataclass(frozen=True)
class Holding:
    """One column of one rank: a shard of a layer, and its norms, by step."""

    layer: str
    shard: int
    shards: int
    norms: tuple[float, ...]


@st.composite
def holdings(draw: st.DrawFn) -> list[list[Holding]]:
    """What each rank holds; every shard is somebody's."""
    shards = {name: draw(st.integers(1, 3)) for name in ("a", "b", "c")[: draw(st.integers(1, 3))]}
    ranks: list[list[Holding]] = [[] for _ in range(draw(st.integers(1, 4)))]
    for name, count in shards.items():
        for shard in range(count):
            owners = draw(st.sets(st.integers(0, len(ranks) - 1), min_size=1))
            for rank in owners:
                norms = tuple(draw(VALUES) for _ in range(STEPS))
                ranks[rank].append(Holding(name, shard, count, norms))
    return ranks


@settings(max_examples=150, deadline=None)
@given(holdings(), st.data())
def test_any_way_of_holding_layers_composes_as_a_slow_look_says(
    ranks: list[list[Holding]], data: st.DataObject
) -> None:
    missing = {
        (rank, step)
        for step in range(STEPS)
        for rank in data.draw(st.sets(st.integers(0, len(ranks) - 1), max_size=len(ranks) - 1))
    }
    block = closed(ranks, missing)
    for row, step in enumerate(block.steps.tolist()):
        for column, layer in enumerate(block.layout.names):
            expected = slowly(ranks, missing, step, layer)
            assert float(block.layer_norms[row, column]) == pytest.approx(expected, rel=1e-6, nan_ok=True)
        total = math.sqrt(sum(slowly(ranks, missing, step, layer) ** 2 for layer in block.layout.names))
        if not math.isnan(total):
            assert float(block.global_norm[row]) == pytest.approx(total, rel=1e-6)


def closed(ranks: list[list[Holding]], missing: set[tuple[int, int]]) -> ClosedBlock:
    aligner = Aligner(len(ranks), Patience(), now=0.0)
    # Every rank has been heard before, so that the layout is the same whoever is missing.
    composer = Composer(len(ranks), 1, versions=dict.fromkeys(range(len(ranks)), 0))
    for rank, own in enumerate(ranks):
        catalog = [parameters([each.layer], shard_id=each.shard, shard_count=each.shards)[0] for each in own]
        composer.catalogs[rank, 0] = Catalog(0, 0, tuple(catalog))
        sent = [step for step in range(STEPS) if (rank, step) not in missing]
        if sent:
            table = np.array([[each.norms[step] for each in own] for step in sent], np.float32)
            aligner.offer(rank, make_batch(rank + 1, 0, table, steps=np.array(sent, np.int64)), now=0.0)
    (closing,) = aligner.close_all()
    (block,) = composer.compose(closing)
    return block


def slowly(ranks: list[list[Holding]], missing: set[tuple[int, int]], step: int, layer: str) -> float:
    """One layer at one step, shard by shard; NaN when a shard has nobody."""
    squares = 0.0
    shards = next(each.shards for own in ranks for each in own if each.layer == layer)
    for shard in range(shards):
        reported = sorted(
            each.norms[step]
            for rank, own in enumerate(ranks)
            for each in own
            if (each.layer, each.shard) == (layer, shard) and (rank, step) not in missing
        )
        if not reported:
            return math.nan
        squares += reported[(len(reported) - 1) // 2] ** 2
    return math.sqrt(squares)
