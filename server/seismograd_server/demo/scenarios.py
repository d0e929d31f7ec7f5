"""What can be shown: per scenario a training script, what pushes it over the edge, and what must then be seen."""

from __future__ import annotations

from dataclasses import dataclass

# Long enough for baselines, short enough to watch.
HEALTHY_STEPS = 200
# Every pushed run fails well before; this only bounds one that does not.
PUSHED_STEPS = 400


@dataclass(frozen=True, slots=True)
class Scenario:
    """A model that explodes, and how.

    Attributes:
        name: as in `--scenario`.
        module: the training script.
        model: what is trained, in a few words.
        push: what is done to the pushed twin, in a few words.
        settings: options of the script that push it over the edge; the healthy twin runs with the script's own.
        signature: of the critical alert that must come before the failure.
        rank: the rank that the alert must name; None = any or none.
    """

    name: str
    module: str
    model: str
    push: str
    settings: tuple[str, ...]
    signature: str = "runaway"
    rank: int | None = None


_WITHOUT_CLIPPING = ("--clip", "0", "--steps", str(PUSHED_STEPS))

SCENARIOS = {
    each.name: each
    for each in (
        Scenario(
            name="lstm",
            module="seismograd.examples.char_lstm",
            model="a character-level LSTM",
            push="no clipping, and a warm-up towards eighty times the learning rate",
            settings=("--learning-rate", "40", "--warm-up-steps", "400", *_WITHOUT_CLIPPING),
        ),
        Scenario(
            name="rnn",
            module="seismograd.examples.char_rnn",
            model="a plain recurrent network",
            push="no clipping, and a weight decay with the wrong sign",
            settings=("--weight-decay", "-0.025", *_WITHOUT_CLIPPING),
        ),
        Scenario(
            name="mlp",
            module="seismograd.examples.deep_mlp",
            model="a residual network of fifty layers",
            push="no clipping, and a schedule of the weight decay that runs on below zero",
            settings=("--decay-steps", "60", *_WITHOUT_CLIPPING),
        ),
        Scenario(
            name="transformer",
            module="seismograd.examples.char_transformer",
            model="a small transformer",
            push="no clipping, and a weight decay with the wrong sign",
            settings=("--weight-decay", "-0.04", *_WITHOUT_CLIPPING),
        ),
        Scenario(
            name="rank-fault",
            module="seismograd.examples.rank_fault",
            model="a small network on weighted samples",
            push="no clipping, and a damaged column of sample weights in the shard of rank 1",
            settings=("--damaged-rank", "1", *_WITHOUT_CLIPPING),
            rank=1,
        ),
    )
}
