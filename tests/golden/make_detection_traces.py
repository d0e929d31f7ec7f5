"""Trains the small real models whose traces and findings are the golden ones of detection.

    python -m tests.golden.make_detection_traces            # train what has no trace yet, and write the findings anew
    python -m tests.golden.make_detection_traces --findings # only judge the traces there are anew

A trace may have three arrays more than a trace file needs: `spectral_gain` [n, l] (NaN = no recurrent matrix),
`replica_gap` [n, ranks] and `ranks_present` [n, ranks].

The traces are committed, because training is not bit-identical from machine to machine; the findings are frozen, so
that a change of what the detectors say about them is seen and meant.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import ClosedBlock, Finding, Quantity, ReplicaGap
from seismograd_server.transfer.trace_blocks import blocks
from seismograd_server.transfer.traces import read_trace

FOLDER = Path(__file__).with_name("detection")
STEPS = 260

# Gives inputs and targets of a step for one rank.
Batch = Callable[[int, int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Scenario:
    """A model, its optimizer and its data; each rank holds a replica, and they average their gradients."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    ranks: int = 1
    clip: float = float("nan")
    rate: Callable[[int], float] | None = None
    scale: float = 0.0  # the first loss scale; gradients are then float16, and steps that overflow are skipped
    half: bool = False  # gradients are float16 without a scaler
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.nn.functional.mse_loss
    away: Callable[[int, int], bool] | None = None  # whether a rank is missing at a step
    keeps_its_own: Callable[[int, int], bool] | None = None  # whether a rank forgets to average its gradients at a step


class Sidelined(torch.nn.Module):
    """A network beside which another one gets no gradient, because its output counts for nothing."""

    def __init__(self, main: torch.nn.Module, side: torch.nn.Module) -> None:
        super().__init__()
        self.main, self.side = main, side

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.main(inputs) + 0.0 * self.side(inputs)
        return found


class Recurrent(torch.nn.Module):
    """The last state of a tanh network decides."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = torch.nn.RNN(4, 24, batch_first=True), torch.nn.Linear(24, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        states, _ = self.rnn(inputs)
        found: torch.Tensor = self.head(states[:, -1])
        return found


def perceptron(widths: list[int], activation: type[torch.nn.Module]) -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for narrow, wide in itertools.pairwise(widths):
        layers += [torch.nn.Linear(narrow, wide), activation()]
    return torch.nn.Sequential(*layers[:-1])


def waves(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy sums of sines of eight inputs."""
    inputs = torch.randn(32, 8, generator=generator)
    targets = torch.sin(2.0 * inputs[:, :4]).sum(1, keepdim=True) + 0.1 * torch.randn(32, 1, generator=generator)
    return inputs, targets


def one_bad_batch(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = waves(step, rank, generator)
    return inputs, targets * (400.0 if step == 180 else 1.0)


def one_huge_target(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = waves(step, rank, generator)
    return inputs, targets * (1e6 if step == 180 else 1.0)


def growing_targets(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = waves(step, rank, generator)
    return inputs, targets * 1.1 ** max(0, step - 80)


def growing_inputs(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs that drift, with targets that cannot be learnt."""
    inputs, _ = waves(step, rank, generator)
    return inputs * 1.03 ** max(0, step - 60), torch.randn(32, 1, generator=generator)


def one_corrupted_shard(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = waves(step, rank, generator)
    return inputs * (40.0 if rank == 1 and step >= 200 else 1.0), targets


def sequences(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether the first numbers of a noisy sequence were large."""
    inputs = torch.randn(32, 12, 4, generator=generator)
    return inputs, inputs[:, :3].mean((1, 2))[:, None].sign()


def one_shard_with_wild_targets(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = waves(step, rank, generator)
    wild = 20.0 * torch.randn(targets.shape, generator=generator)
    return inputs, targets + (wild if rank == 2 and step >= 160 else 0.0)


def targets_that_move_away(step: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Far from where the model begins; when it is nearly there, they leave faster than it can follow."""
    inputs, targets = waves(step, rank, generator)
    return inputs, targets + 8.0 + 0.5 * max(0, step - 100)


def scenarios() -> dict[str, Callable[[], Scenario]]:
    def healthy() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.Tanh)
        return Scenario(model, torch.optim.Adam(model.parameters(), 3e-3), waves, ranks=2, clip=1.0)

    def ramp() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.ReLU)
        optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
        return Scenario(model, optimizer, waves, rate=lambda step: 0.02 * 1.08 ** max(0, step - 150))

    def bad_batch() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.Tanh)
        return Scenario(model, torch.optim.Adam(model.parameters(), 3e-3), one_bad_batch)

    def rank_fault() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.ReLU)
        return Scenario(model, torch.optim.SGD(model.parameters(), 0.05), one_corrupted_shard, ranks=3)

    def sigmoids() -> Scenario:
        model = perceptron([8, *[24] * 9, 1], torch.nn.Sigmoid)
        return Scenario(model, torch.optim.SGD(model.parameters(), 0.05), waves)

    def large_gain() -> Scenario:
        model = perceptron([8, *[24] * 9, 1], torch.nn.ReLU)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):  # twice what keeps the variance
                torch.nn.init.normal_(layer.weight, 0.0, 2.0 * (2.0 / layer.in_features) ** 0.5)
                torch.nn.init.zeros_(layer.bias)
        return Scenario(model, torch.optim.SGD(model.parameters(), 1e-12), waves)

    def sidelined() -> Scenario:
        model = Sidelined(perceptron([8, 24, 1], torch.nn.Tanh), perceptron([8, 12, 1], torch.nn.Tanh))
        return Scenario(model, torch.optim.Adam(model.parameters(), 3e-3), waves)

    def scaler() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.Tanh)
        return Scenario(model, torch.optim.Adam(model.parameters(), 3e-3), growing_targets, scale=2.0**14)

    def overflow() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.ReLU)
        return Scenario(model, torch.optim.SGD(model.parameters(), 0.02), one_huge_target, half=True)

    def behind_the_clip() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.ReLU)
        return Scenario(model, torch.optim.SGD(model.parameters(), 0.01), growing_inputs, clip=0.01)

    def recurrent() -> Scenario:
        model = Recurrent()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        optimizer.param_groups[0]["weight_decay"] = -0.12  # as of a schedule that ran on below zero
        return Scenario(model, optimizer, sequences)

    def desynchronised() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.Tanh)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        return Scenario(
            model, optimizer, waves, ranks=3, keeps_its_own=lambda rank, step: rank == 1 and 150 <= step < 160
        )

    def rank_away() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.Tanh)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        return Scenario(model, optimizer, waves, ranks=3, away=lambda rank, step: rank == 2 and 100 <= step < 220)

    def wild_targets() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.Tanh)
        return Scenario(model, torch.optim.Adam(model.parameters(), 3e-3), one_shard_with_wild_targets, ranks=4)

    def moving_away() -> Scenario:
        model = perceptron([8, 24, 24, 1], torch.nn.Tanh)
        optimizer = torch.optim.SGD(model.parameters(), 0.006)
        return Scenario(model, optimizer, targets_that_move_away, loss=torch.nn.functional.l1_loss)

    return {
        "healthy": healthy,
        "learning_rate_ramp": ramp,
        "one_bad_batch": bad_batch,
        "corrupted_shard_on_rank_1": rank_fault,
        "deep_sigmoids": sigmoids,
        "deep_relus_of_large_gain": large_gain,
        "sidelined_branch": sidelined,
        "loss_scaler_at_its_floor": scaler,
        "overflow_in_half_precision": overflow,
        "rise_behind_the_clip": behind_the_clip,
        "recurrent_weights_that_grow": recurrent,
        "replica_that_kept_its_own_gradients": desynchronised,
        "rank_2_away_for_a_while": rank_away,
        "wild_targets_on_rank_2": wild_targets,
        "targets_that_move_away": moving_away,
    }


def train(scenario: Scenario) -> dict[str, Any]:
    """Train, and give the arrays of a trace: what rank 0 sees, and every rank's own gradients."""
    generator = torch.Generator().manual_seed(11)
    pairs = [(scenario.model, scenario.optimizer)]
    pairs += [copy.deepcopy(pairs[0]) for _ in range(1, scenario.ranks)]
    parameters = list(scenario.model.parameters())
    names = ("local", "averaged", "weight", "update", "loss", "rate", "clip", "scale", "gain", "gap", "present")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    scale = scenario.scale
    for step in range(STEPS):
        rows["present"].append([not (scenario.away and scenario.away(rank, step)) for rank in range(scenario.ranks)])
        gradients = []
        rows["loss"].append([])
        for rank, (model, optimizer) in enumerate(pairs):
            if scenario.rate is not None:
                optimizer.param_groups[0]["lr"] = scenario.rate(step)
            inputs, targets = scenario.batch(step, rank, generator)
            loss = scenario.loss(model(inputs), targets)
            found = torch.autograd.grad(loss, list(model.parameters()))
            if scale or scenario.half:
                found = tuple((each * (scale or 1.0)).half().float() / (scale or 1.0) for each in found)
            gradients.append(found)
            rows["loss"][-1].append(loss.item() if rows["present"][-1][rank] else np.nan)
        rows["gap"].append(exchange(scenario, step, pairs, gradients, rows["present"][-1]))
        rows["averaged"].append([float(each.grad.norm()) for each in parameters if each.grad is not None])
        rows["local"].append(
            [
                [float(each.norm()) if here else np.nan for each in one]
                for one, here in zip(gradients, rows["present"][-1], strict=True)
            ]
        )
        clip = not np.isnan(scenario.clip)
        totals = [clip and torch.nn.utils.clip_grad_norm_(model.parameters(), scenario.clip) for model, _ in pairs]
        before = [each.detach().clone() for each in parameters]
        skipped = bool(scale) and not all(bool(each.isfinite().all()) for one in gradients for each in one)
        for _, optimizer in pairs if not skipped else ():
            optimizer.step()
        if scale:
            rows["scale"].append(scale)
            scale = scale / 2.0 if skipped else scale
        rows["weight"].append([float(each.norm()) for each in before])
        rows["update"].append([float((new.detach() - old).norm()) for new, old in zip(parameters, before, strict=True)])
        rows["rate"].append(scenario.optimizer.param_groups[0]["lr"])
        rows["clip"].append(clip and float(totals[0]) > scenario.clip)
        rows["gain"].append(gains(scenario.model))
    return arrays(scenario, rows)


def exchange(
    scenario: Scenario,
    step: int,
    pairs: Sequence[tuple[torch.nn.Module, torch.optim.Optimizer]],
    gradients: Sequence[Sequence[torch.Tensor]],
    present: Sequence[bool],
) -> list[float]:
    """Give every replica the mean gradient of the ranks that are there, or its own where it forgets to average.

    A rank that is away is restored from the others when it comes back: its replica follows theirs.

    Returns:
        by rank, how far the norms of the replica's gradient lie from those of the median replica, relative to them.
    """
    means = [
        torch.stack([each for each, here in zip(shares, present, strict=True) if here]).mean(0)
        for shares in zip(*gradients, strict=True)
    ]
    norms = []
    for rank, (model, _) in enumerate(pairs):
        own = scenario.keeps_its_own is not None and scenario.keeps_its_own(rank, step)
        for parameter, mean, alone in zip(model.parameters(), means, gradients[rank], strict=True):
            parameter.grad = (alone if own else mean).clone()
        norms.append([float(each.norm()) for each in (gradients[rank] if own else means)])
    if not np.isfinite(norms).all():
        return [0.0] * len(norms)  # nothing can be compared
    agreed = np.median(norms, axis=0)
    return [float(np.linalg.norm(each - agreed) / np.linalg.norm(agreed)) for each in np.asarray(norms)]


def gains(model: torch.nn.Module) -> list[float]:
    """Of each recurrent matrix of a tanh network the largest singular value; NaN for other tensors."""
    return [
        float(torch.linalg.matrix_norm(each.detach(), 2)) if "weight_hh" in name else np.nan
        for name, each in model.named_parameters()
    ]


def arrays(scenario: Scenario, rows: dict[str, list[Any]]) -> dict[str, Any]:
    """What was noted at each step, in the arrays of a trace."""
    several = scenario.ranks > 1
    losses_by_rank = np.asarray(rows["loss"], dtype=np.float32).T
    found = {
        "grad_norms": np.asarray(rows["local"], dtype=np.float32).transpose(1, 0, 2),
        "avg_grad_norms": np.asarray(rows["averaged"] if several else [], dtype=np.float32),
        "weight_norms": np.asarray(rows["weight"], dtype=np.float32),
        "update_norms": np.asarray(rows["update"], dtype=np.float32),
        "loss": losses_by_rank.mean(axis=0, where=np.asarray(rows["present"]).T),
        "rank_loss": losses_by_rank if several else np.empty((0, STEPS), dtype=np.float32),
        "lr": np.asarray(rows["rate"], dtype=np.float32),
        "clipped": np.asarray(rows["clip"], dtype=np.bool_),
        "loss_scale": np.asarray(rows["scale"], dtype=np.float32),
        "clip_threshold": np.float32(scenario.clip),
        "layer_names": np.asarray([name for name, _ in scenario.model.named_parameters()]),
    }
    more = {
        "spectral_gain": np.asarray(rows["gain"], dtype=np.float32),
        "replica_gap": np.asarray(rows["gap"], dtype=np.float32),
        "ranks_present": np.asarray(rows["present"], dtype=np.bool_),
    }
    if np.isnan(more["spectral_gain"]).all():
        del more["spectral_gain"]
    if not more["replica_gap"].any():
        del more["replica_gap"]
    if more["ranks_present"].all():
        del more["ranks_present"]
    return found | more


def recorded(path: Path, thin: int) -> Iterator[ClosedBlock]:
    """The blocks of a golden trace, with what a trace file has no array for."""
    with np.load(path, allow_pickle=False) as file:
        more = {name: file[name] for name in ("spectral_gain", "replica_gap", "ranks_present") if name in file}
    start = 0
    for traced in blocks(read_trace(path), thin=thin):
        block = traced
        rows = slice(start, start := start + block.count)
        if "spectral_gain" in more:
            sampled = np.arange(rows.start, rows.stop) % thin == 0
            gained = np.where(sampled[:, None], more["spectral_gain"][rows], np.nan).astype(np.float32)
            block = replace(block, sampled={Quantity.SPECTRAL_GAIN: gained})
        if "replica_gap" in more:
            apart = more["replica_gap"][rows]
            pairs = np.argwhere(apart > 0.0).tolist()
            block = replace(
                block, replica_gaps=tuple(ReplicaGap(row, rank, float(apart[row, rank])) for row, rank in pairs)
            )
        if "ranks_present" in more:
            there = more["ranks_present"][rows]
            block = replace(block, ranks_present=there, rank_loss_known=block.rank_loss_known & there)
        yield block


def findings(path: Path, thin: int) -> list[dict[str, Any]]:
    """What the detectors say about a trace whose samples come every `thin` steps."""
    watch = RunWatch()
    return [summary(each) for block in recorded(path, thin) for each in watch.observe(block).findings]


def summary(finding: Finding) -> dict[str, Any]:
    """A finding as it is frozen: numbers to four digits, because powers may differ in the last bit between machines."""

    def rounded(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.4g}")

    evidence = finding.evidence
    return {
        "signature": finding.signature.value,
        "severity": finding.severity.label,
        "step": finding.step,
        "since_step": finding.since_step,
        "value": rounded(evidence.value),
        "baseline": rounded(evidence.baseline),
        "threshold": rounded(evidence.threshold),
        "doubling_time_steps": rounded(evidence.doubling_time_steps),
        "steps_to_overflow": rounded(evidence.steps_to_overflow),
        "leading_layer": evidence.leading_layer,
        "leading_rank": evidence.leading_rank,
        "reason": finding.reason,
    }


def judge() -> dict[str, Any]:
    """Findings of every trace, with all samples and with every tenth, as the client ships them."""
    return {
        path.stem: {f"every_{thin}": findings(path, thin) for thin in (1, 10)} for path in sorted(FOLDER.glob("*.npz"))
    }


def main() -> None:
    """Write traces and findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--findings", action="store_true", help="keep the traces")
    if not parser.parse_args().findings:
        for name, make in scenarios().items():
            if (FOLDER / f"{name}.npz").exists():
                continue
            torch.manual_seed(7)
            np.savez_compressed(FOLDER / f"{name}.npz", **train(make()))
    text = json.dumps(judge(), indent=1)
    (FOLDER / "findings.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
