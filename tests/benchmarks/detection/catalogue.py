"""The runs of the benchmark: what goes well in an awkward way, what comes back, what explodes, what vanishes.

Seeds are fixed. `tests/benchmarks/detection/labels.py` says what each run became, whatever was meant. Thresholds were
looked at on these runs and on variations 1 to 6; later variations are for trying them on runs that nobody has seen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from tests.benchmarks.detection.training import Fault, Spec

_Value = TypeVar("_Value", int, float)


def warm_up(steps: int) -> Callable[[int], float]:
    """Linear, then constant."""
    return lambda step: min(1.0, (step + 1) / steps)


def restarts(period: int) -> Callable[[int], float]:
    """Cosine to nearly nothing, and at once back to the full rate (SGDR)."""
    return lambda step: 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * (step % period) / period))


def ramp(start: int, growth: float) -> Callable[[int], float]:
    """Constant, then growing by a factor a step."""
    return lambda step: growth ** max(0, step - start)


def from_step(start: int, before: _Value, after: _Value) -> Callable[[int], _Value]:
    """One value, then another."""
    return lambda step: after if step >= start else before


HEALTHY = (
    Spec("h_perceptron", 1, task="clusters"),
    Spec("h_perceptron", 2, optimizer="momentum", lr=0.01),
    Spec("h_recurrent", 1, task="adding", arch="rnn_tanh", clip=1.0),
    Spec("h_lstm", 1, task="letters", arch="lstm", lr=0.01),
    Spec("h_gru", 1, task="adding", arch="gru", lr=0.005),
    Spec("h_transformer", 1, task="letters", arch="transformer", width=32, schedule=warm_up(50), clip=1.0),
    Spec("h_deep", 1, task="clusters", depth=12, lr=1e-3),
    Spec("h_warm_up", 1, task="letters", arch="lstm", lr=0.03, schedule=warm_up(200)),
    Spec("h_warm_up", 2, lr=0.02, schedule=warm_up(150)),
    Spec("h_restart", 1, optimizer="momentum", lr=0.02, schedule=restarts(120)),
    Spec("h_restart", 2, task="letters", arch="gru", lr=0.02, schedule=restarts(150)),
    Spec("h_back_off", 1, task="clusters", loss_scale=2.0**24),
    Spec("h_back_off", 2, task="letters", arch="lstm", lr=0.01, loss_scale=2.0**22),
    Spec("h_heavy_tail", 1, tail=1.2, clip=1.0),
    Spec("h_heavy_tail", 2, tail=1.5, optimizer="adamw"),
    Spec("h_rescale", 1, loss_factor_at=from_step(200, 1.0, 32.0)),
    Spec("h_rescale", 2, task="letters", arch="gru", lr=0.005, loss_factor_at=from_step(250, 1.0, 64.0)),
    Spec("h_accumulation", 1, batch=4, batch_at=from_step(200, 4, 64)),
    Spec("h_accumulation", 2, task="clusters", batch=64, batch_at=from_step(220, 64, 4)),
    Spec("h_length", 1, task="letters", arch="lstm", lr=0.01, length_at=from_step(200, 8, 40)),
    Spec("h_length", 2, task="adding", arch="gru", lr=0.005, length_at=from_step(250, 8, 32)),
    Spec("h_always_clipped", 1, task="adding", arch="rnn_tanh", clip=0.02),
    Spec("h_always_clipped", 2, task="letters", arch="transformer", width=32, clip=0.05),
    Spec("h_ranks", 1, task="clusters", ranks=3),
    Spec("h_overfit", 1, task="clusters", batch=256, lr=0.01),
)
SPIKES = (
    Spec("s_batch", 1, faults=(Fault("bad_batch", 250, 30.0),), clip=1.0),
    Spec("s_batch", 2, task="clusters", faults=(Fault("bad_batch", 220, 60.0),)),
    Spec("s_batch", 3, optimizer="sgd", lr=0.02, clip=100.0, faults=(Fault("bad_batch", 250, 60.0, steps=8),)),
    Spec("s_target", 1, faults=(Fault("bad_target", 240, 200.0),)),
    Spec("s_target", 2, task="adding", arch="gru", clip=1.0, faults=(Fault("bad_target", 260, 300.0),)),
    Spec("s_target", 3, optimizer="momentum", lr=0.01, clip=200.0, faults=(Fault("bad_target", 250, 2e3, steps=3),)),
    Spec("s_rank", 1, ranks=3, clip=1.0, faults=(Fault("rank_grad_scale", 230, 200.0, rank=1),)),
    Spec("s_weight", 1, task="letters", arch="lstm", lr=0.01, clip=1.0, faults=(Fault("weight_scale", 250, 6.0),)),
    Spec("s_weight", 2, optimizer="sgd", lr=0.02, clip=50.0, faults=(Fault("weight_scale", 230, 20.0),)),
)
EXPLODING = (
    Spec("x_rate_bump", 1, optimizer="momentum", lr=0.01, faults=(Fault("lr_bump", 200, 40.0),)),
    Spec(
        "x_rate_bump", 2, task="letters", arch="lstm", optimizer="sgd", lr=0.5, faults=(Fault("lr_bump", 230, 100.0),)
    ),
    Spec("x_rate_bump", 3, task="clusters", depth=6, lr=2e-3, faults=(Fault("lr_bump", 220, 200.0),)),
    Spec("x_rate_ramp", 1, optimizer="momentum", lr=0.01, schedule=ramp(150, 1.04)),
    Spec("x_rate_ramp", 2, task="adding", arch="gru", optimizer="sgd", lr=0.05, schedule=ramp(150, 1.04)),
    Spec("x_rate_ramp", 3, optimizer="sgd", lr=0.02, schedule=ramp(150, 1.05)),
    Spec("x_high_rate", 1, depth=6, optimizer="momentum", lr=0.2, schedule=warm_up(200)),
    Spec("x_high_rate", 2, task="letters", arch="lstm", optimizer="momentum", lr=30.0, schedule=warm_up(250)),
    Spec("x_no_warm_up", 1, depth=8, optimizer="momentum", lr=0.045),
    Spec("x_no_warm_up", 2, depth=6, optimizer="sgd", lr=0.3),
    Spec("x_no_warm_up", 3, task="letters", arch="lstm", optimizer="momentum", lr=20.0),
    Spec("x_init", 1, depth=10, gain=1.4, optimizer="sgd", lr=1e-3),
    Spec("x_init", 2, depth=20, gain=1.35, optimizer="sgd", lr=1e-6),
    Spec(
        "x_recurrent", 1, task="adding", arch="rnn_relu", length=24, optimizer="sgd", lr=0.02, schedule=ramp(60, 1.02)
    ),
    Spec("x_batch", 1, optimizer="sgd", lr=0.02, faults=(Fault("bad_batch", 250, 60.0),)),
    Spec("x_batch", 2, optimizer="momentum", lr=0.005, faults=(Fault("bad_batch", 220, 40.0, steps=2),)),
    Spec("x_batch", 3, task="clusters", optimizer="momentum", lr=0.05, faults=(Fault("bad_batch", 250, 100.0),)),
    Spec(
        "x_rank_batch", 1, ranks=3, optimizer="sgd", lr=0.03, faults=(Fault("bad_batch", 240, 60.0, steps=40, rank=2),)
    ),
    Spec(
        "x_rank_batch",
        2,
        task="clusters",
        ranks=3,
        optimizer="momentum",
        lr=0.03,
        faults=(Fault("bad_batch", 240, 60.0, steps=60, rank=2),),
    ),
    Spec("x_rank_scale", 1, ranks=4, optimizer="sgd", lr=0.02, faults=(Fault("rank_grad_scale", 230, 1e4, 3, rank=1),)),
    Spec(
        "x_rank_scale",
        2,
        task="letters",
        arch="lstm",
        ranks=3,
        optimizer="sgd",
        lr=0.5,
        faults=(Fault("rank_grad_scale", 230, 3e3, 10, rank=2),),
    ),
    Spec("x_weight", 1, optimizer="sgd", lr=0.02, faults=(Fault("weight_scale", 230, 60.0),)),
    Spec("x_weight", 2, depth=6, optimizer="momentum", lr=0.005, faults=(Fault("weight_scale", 250, 50.0, layer=3),)),
    Spec("x_weight", 3, task="clusters", depth=5, clip=1.0, faults=(Fault("weight_scale", 250, 8.0),)),
    Spec("x_overflow", 1, optimizer="momentum", lr=0.01, half=True, faults=(Fault("bad_target", 240, 1e6),)),
    Spec("x_overflow", 2, depth=6, half=True, loss_factor_at=ramp(200, 1.09)),
    Spec("x_target", 1, optimizer="sgd", lr=0.03, faults=(Fault("bad_target", 250, 2000.0, steps=2),)),
    Spec("x_loose_clip", 1, optimizer="momentum", lr=0.02, clip=1e3, faults=(Fault("bad_target", 220, 500.0),)),
    Spec("x_bootstrap", 1, optimizer="sgd", lr=0.01, bootstrap=0.99),
    Spec("x_bootstrap", 2, lr=1e-3, bootstrap=1.02),
    Spec("x_bootstrap", 3, lr=1e-3, bootstrap=1.1),
)
VANISHING = (
    Spec("v_sigmoid", 1, task="clusters", arch="mlp_sigmoid", depth=12, optimizer="sgd", lr=0.01),
    Spec("v_sigmoid", 2, arch="mlp_sigmoid", task="clusters", depth=16, optimizer="momentum", lr=1e-3),
)
# Another scale of the loss or of its noise: harmless to an optimizer that normalises its updates, fatal to plain SGD.
SCALES = (
    Spec("h_accumulation", 3, task="letters", arch="lstm", lr=5e-3, batch=64, batch_at=from_step(200, 64, 2)),
    Spec("h_rescale", 3, task="clusters", lr=2e-3, loss_factor_at=from_step(220, 1.0, 32.0)),
    Spec("x_summed", 1, optimizer="momentum", lr=0.02, loss_factor_at=from_step(220, 1.0, 32.0)),
    Spec(
        "x_summed", 2, task="clusters", depth=6, optimizer="momentum", lr=0.02, loss_factor_at=from_step(230, 1.0, 64)
    ),
)


def runs(variation: int = 0) -> Iterator[Spec]:
    """Every run, with seeds of its own; another variation has the same families with other numbers."""
    for number, spec in enumerate((*HEALTHY, *SPIKES, *EXPLODING, *VANISHING, *SCALES)):
        seeded = replace(spec, seed=100 * spec.seed + number)
        yield varied(seeded, variation) if variation else seeded


def varied(spec: Spec, variation: int) -> Spec:
    """A run of the same kind with another seed, learning rate, width, batch size, and time and size of its faults."""
    chance = random.Random(f"{variation} {spec.name}")
    faults = tuple(
        replace(
            fault, step=fault.step + chance.randint(-40, 40), factor=fault.factor * 2.0 ** chance.uniform(-1.0, 1.0)
        )
        for fault in spec.faults
    )
    return replace(
        spec,
        seed=10_000 * variation + spec.seed,
        lr=spec.lr * 2.0 ** chance.uniform(-0.7, 0.7),
        width=chance.choice((16, 24, 32, 48)),
        batch=chance.choice((16, 32, 64)) if spec.batch_at is None else spec.batch,
        faults=faults,
    )
