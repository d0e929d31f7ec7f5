"""The facts of many blocks, cut up at once, against each block alone and against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.facts import Facts, facts_of, numpy_octaves
from seismograd_server.model import ClosedBlock, RecordFlag, unknown32
from tests.support.closed import layout, noisy, run_of

PLAIN = ("count", "steps", "times", "levels", "losses", "sampled", "of_ranks")
TOLD = ("longest_pause", "all_present", "knows_scales")


@st.composite
def blocks(draw: st.DrawFn) -> ClosedBlock:
    """A few steps of some run, or none, with anything that may be known of them or not."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, ranks = draw(st.sampled_from([0, 1, 5])), draw(st.sampled_from([1, 2]))
    names = [f"layer.{index}" for index in range(draw(st.sampled_from([1, 3])))]
    shape = (count, len(names))

    def perhaps(column: Any, *, share: float | None = None) -> Any:
        known = generator.random(column.shape) < (draw(st.sampled_from([0.0, 0.5, 1.0])) if share is None else share)
        return np.where(known, column, np.nan)

    norms = noisy(count, int(generator.integers(1000)))
    norms[generator.random(count) < 0.1] = draw(st.sampled_from([0.0, np.inf, np.nan]))
    losses = perhaps(generator.normal(2.0, 0.3, count))
    block = run_of(
        norms,
        ranks=ranks,
        layout=layout(names, ranks=ranks),
        layer_norms=np.ones(shape, dtype=np.float32),
        times=np.cumsum(generator.choice([1.0, 500.0, np.inf], count, p=[0.9, 0.05, 0.05])),
        loss=losses,
        loss_known=~np.isnan(losses),
        learning_rate=perhaps(np.full(count, 0.1)),
        clip_coefficient=perhaps(generator.choice([0.5, 1.0], count)),
        loss_scale=perhaps(np.full(count, 1024.0)),
        flags=generator.choice([0, RecordFlag.SKIPPED_BY_SCALER], count).astype(np.uint16),
        rank_norm=perhaps(np.ones((count, ranks))),
    )
    if draw(st.booleans()):
        return replace(block, update_norms=unknown32(*shape), weight_norms=unknown32(*shape))
    updates, weights = (perhaps(generator.random(shape)).astype(np.float32) for _ in range(2))
    nonfinite = (generator.random((count, 3)) < 0.1).astype(np.int64)
    return replace(block, update_norms=updates, weight_norms=weights, nonfinite=nonfinite)


def shown(facts: Facts) -> str:
    """Everything but the block, as text: NaN equals itself there."""
    columns = {name: getattr(facts, name) for name in (*PLAIN, *TOLD)}
    asked = [
        (
            facts.sound_until(row),
            list(facts.rows_of_loss(row, facts.count)),
            facts.clipped(row, facts.count),
            facts.spreads(row),
        )
        for row in range(facts.count)
    ]
    return repr([columns, asked, facts.knows_clipping(0, facts.count)])


@settings(deadline=None)
@given(st.lists(blocks(), max_size=5))
def test_the_facts_of_many_blocks_are_those_of_each(many: list[ClosedBlock]) -> None:
    together = facts_of(many)
    assert [facts.block for facts in together] == many
    for facts, block in zip(together, many, strict=True):
        alone = Facts(block)
        assert shown(facts) == shown(alone)
        for row in range(block.count):
            assert repr(replace(facts.step(row), block=block)) == repr(replace(alone.step(row), block=block))


@settings(deadline=None)
@given(blocks())
def test_each_fact_of_a_step_is_what_its_columns_say(block: ClosedBlock) -> None:
    facts, clipped = Facts(block), 0
    for row in range(block.count):
        norm, loss = float(block.global_norm[row]), float(block.loss[row])
        sound = 0.0 < norm < math.inf and not block.flags[row] and not block.nonfinite[row].any()
        sound = sound and (not block.loss_known[row] or math.isfinite(loss))
        assert (facts.sound_until(row) > row) == sound
        assert repr(facts.levels[row]) == repr(numpy_octaves(norm) if 0.0 < norm < math.inf else math.nan)
        assert facts.level_column[row : row + 1].tolist() == pytest.approx(facts.levels[row : row + 1], nan_ok=True)
        assert (list(facts.rows_of_loss(row, row + 1)) == [row]) == bool(block.loss_known[row])
        clipped += bool(block.clip_coefficient[row] < 1.0)
        assert facts.clipped(0, row + 1) == clipped
        both = [
            (float(update), float(weight))
            for update, weight in zip(block.update_norms[row], block.weight_norms[row], strict=True)
            if not (math.isnan(update) or math.isnan(weight))
        ]
        assert (row in facts.sampled) == bool(both)
        if both:
            update, weight = (math.sqrt(sum(pair[place] ** 2 for pair in both)) for place in range(2))
            assert math.isclose(facts.step(row).ratio, math.log2(update / weight), rel_tol=1e-9, abs_tol=1e-9)
            assert math.isclose(facts.step(row).update_level, math.log2(update), rel_tol=1e-9, abs_tol=1e-9)
    pauses = [float(after) - float(before) for before, after in zip(block.times, block.times[1:], strict=False)]
    assert all(not pause > facts.longest_pause for pause in pauses)
    assert facts.knows_scales == (not np.isnan(block.loss_scale).all())


@pytest.mark.parametrize("layers", [3, 1000], ids=["small blocks, joined", "large ones, each alone"])
def test_the_least_norm_of_a_block_is_that_of_all_its_layers_and_steps(layers: int) -> None:
    names = [f"layer.{index}" for index in range(layers)]
    tables = [np.random.default_rng(seed).random((5 + seed, layers), np.float32) for seed in range(4)]
    tables[1][2, 1] = np.nan
    tables[3] = tables[3][:0]
    found = [
        facts.least_norm
        for facts in facts_of([run_of(np.ones(len(each)), layout=layout(names), layer_norms=each) for each in tables])
    ]
    assert repr(found) == repr([min(tables[0].ravel().tolist()), math.nan, min(tables[2].ravel().tolist()), math.inf])
