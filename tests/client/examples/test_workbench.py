"""What the examples share: text, ranks, the decay, and when training counts as failed."""

from __future__ import annotations

import torch
from torch import nn

from seismograd.examples import workbench
from seismograd.examples.rank_fault import BATCH, SOUND_STEPS, weights_of_shard
from seismograd.examples.workbench import DecayingAdam, Ranks, Text, Verdict

ALONE = Ranks(0, 1)


def test_training_has_failed_when_the_loss_is_ten_times_its_best_and_not_before() -> None:
    verdict = Verdict(ALONE)
    assert [verdict.failure(torch.tensor(loss)) for loss in (5.0, 2.0, 19.9)] == ["", "", ""]
    assert "ten times its best of 2" in verdict.failure(torch.tensor(20.1))


def test_training_has_failed_when_the_loss_is_not_finite() -> None:
    assert Verdict(ALONE).failure(torch.tensor(float("nan"))) == "the loss is nan"
    assert Verdict(ALONE).failure(torch.tensor(float("inf"))) == "the loss is inf"


def test_the_targets_are_the_text_one_symbol_later() -> None:
    symbols, following = Text(ALONE, seed=0).sequences(batch=4, length=12)
    assert symbols.shape == following.shape == (4, 12)
    assert torch.equal(symbols[:, 1:], following[:, :-1])


def test_the_text_is_real_and_within_the_symbols() -> None:
    symbols, following = Text(ALONE, seed=0).contexts(batch=64, length=16)
    assert following.shape == (64,)
    assert int(symbols.max()) < workbench.SYMBOLS
    assert len(symbols.unique()) > 30  # letters, digits, spaces and signs


def test_the_same_seed_gives_the_same_text_and_every_rank_has_its_own() -> None:
    first, again, other = (Text(Ranks(rank, 2), seed=3).sequences(8, 32)[0] for rank in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_decay_by_hand_is_that_of_adamw_for_matrices() -> None:
    torch.manual_seed(0)
    mine, theirs = nn.Linear(5, 4, bias=False), nn.Linear(5, 4, bias=False)
    theirs.load_state_dict(mine.state_dict())
    inputs = torch.randn(6, 5)
    for model, optimizer in (
        (mine, DecayingAdam(mine.parameters(), lr=0.01, decay=0.02)),
        (theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=2.0)),  # torch multiplies by the rate
    ):
        for _ in range(5):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(mine.weight, theirs.weight)


def test_a_decay_with_the_wrong_sign_makes_weights_grow_and_leaves_biases_alone() -> None:
    model = nn.Linear(5, 4)
    optimizer = DecayingAdam(model.parameters(), lr=0.0, decay=-0.1)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    model(torch.randn(3, 5)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), 1.1 * weight)
    assert torch.equal(model.bias, bias)


def test_a_decay_that_is_scheduled_turns_into_growth_behind_its_end() -> None:
    model = nn.Linear(5, 4, bias=False)
    optimizer = DecayingAdam(model.parameters(), lr=0.0, decay=0.5, decay_steps=2)
    sizes = [1.0]
    first = model.weight.detach().clone()
    model(torch.randn(3, 5)).sum().backward()
    for _ in range(4):
        optimizer.step()
        sizes.append(float(model.weight.detach().norm() / first.norm()))
    expected = [1.0, 0.5, 0.5 * 0.75, 0.5 * 0.75, 0.5 * 0.75 * 1.25]
    torch.testing.assert_close(torch.tensor(sizes), torch.tensor(expected))


def test_the_damaged_column_is_sound_at_first_and_then_grows_without_end() -> None:
    rows = (SOUND_STEPS + 50) * BATCH
    sound, damaged = (weights_of_shard(rows, seed=1, damaged=each) for each in (False, True))
    begin = SOUND_STEPS * BATCH
    assert torch.equal(sound[:begin], damaged[:begin])
    assert bool((damaged[begin:].diff() > 0).all())
    assert float(sound.max()) <= 1.5 < float(damaged[-1]) / 100
