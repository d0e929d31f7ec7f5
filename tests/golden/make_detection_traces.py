"""Trains the small real models whose traces and findings are the golden ones of detection.

    python -m tests.golden.make_detection_traces            # train what has no trace yet, and write the findings anew
    python -m tests.golden.make_detection_traces --findings # only judge the traces there are anew

The traces are committed, because training is not bit-identical from machine to machine; the findings are frozen, so
that a change of what the detectors say about them is seen and meant.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import Finding
from seismograd_server.transfer.trace_blocks import blocks
from seismograd_server.transfer.traces import read_trace

FOLDER = Path(__file__).with_name("detection")
STEPS = 260

# Gives inputs and targets of a step for one rank.
Batch = Callable[[int, int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Scenario:
    """A model, its optimizer and its data; ranks hold the same weights and average their gradients."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    ranks: int = 1
    clip: float = float("nan")
    rate: Callable[[int], float] | None = None
    scale: float = 0.0  # the first loss scale; gradients are then float16, and steps that overflow are skipped
    half: bool = False  # gradients are float16 without a scaler


class Sidelined(torch.nn.Module):
    """A network beside which another one gets no gradient, because its output counts for nothing."""

    def __init__(self, main: torch.nn.Module, side: torch.nn.Module) -> None:
        super().__init__()
        self.main, self.side = main, side

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.main(inputs) + 0.0 * self.side(inputs)
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
    }


def train(scenario: Scenario) -> dict[str, Any]:
    """Train, and give the arrays of a trace."""
    generator = torch.Generator().manual_seed(11)
    parameters = list(scenario.model.parameters())
    rows: dict[str, list[Any]] = {
        name: [] for name in ("local", "averaged", "weight", "update", "loss", "rate", "clip", "scale")
    }
    scale = scenario.scale
    for step in range(STEPS):
        if scenario.rate is not None:
            scenario.optimizer.param_groups[0]["lr"] = scenario.rate(step)
        gradients, losses = [], []
        for rank in range(scenario.ranks):
            inputs, targets = scenario.batch(step, rank, generator)
            loss = torch.nn.functional.mse_loss(scenario.model(inputs), targets)
            found = torch.autograd.grad(loss, parameters)
            if scale or scenario.half:
                found = tuple((each * (scale or 1.0)).half().float() / (scale or 1.0) for each in found)
            gradients.append(found)
            losses.append(loss.item())
        for parameter, *shares in zip(parameters, *gradients, strict=True):
            parameter.grad = torch.stack(shares).mean(0)
        rows["averaged"].append([float(each.grad.norm()) for each in parameters if each.grad is not None])
        rows["local"].append([[float(each.norm()) for each in one] for one in gradients])
        clip = not np.isnan(scenario.clip)
        total = float(torch.nn.utils.clip_grad_norm_(parameters, scenario.clip)) if clip else 0.0
        before = [each.detach().clone() for each in parameters]
        skipped = bool(scale) and not all(bool(each.isfinite().all()) for one in gradients for each in one)
        if not skipped:
            scenario.optimizer.step()
        if scale:
            rows["scale"].append(scale)
            scale = scale / 2.0 if skipped else scale
        rows["weight"].append([float(each.norm()) for each in before])
        rows["update"].append([float((new.detach() - old).norm()) for new, old in zip(parameters, before, strict=True)])
        rows["loss"].append(losses)
        rows["rate"].append(scenario.optimizer.param_groups[0]["lr"])
        rows["clip"].append(clip and total > scenario.clip)
    several = scenario.ranks > 1
    losses_by_rank = np.asarray(rows["loss"], dtype=np.float32).T
    return {
        "grad_norms": np.asarray(rows["local"], dtype=np.float32).transpose(1, 0, 2),
        "avg_grad_norms": np.asarray(rows["averaged"] if several else [], dtype=np.float32),
        "weight_norms": np.asarray(rows["weight"], dtype=np.float32),
        "update_norms": np.asarray(rows["update"], dtype=np.float32),
        "loss": losses_by_rank.mean(axis=0),
        "rank_loss": losses_by_rank if several else np.empty((0, STEPS), dtype=np.float32),
        "lr": np.asarray(rows["rate"], dtype=np.float32),
        "clipped": np.asarray(rows["clip"], dtype=np.bool_),
        "loss_scale": np.asarray(rows["scale"], dtype=np.float32),
        "clip_threshold": np.float32(scenario.clip),
        "layer_names": np.asarray([name for name, _ in scenario.model.named_parameters()]),
    }


def findings(path: Path, thin: int) -> list[dict[str, Any]]:
    """What the detectors say about a trace whose samples come every `thin` steps."""
    watch = RunWatch()
    return [summary(each) for block in blocks(read_trace(path), thin=thin) for each in watch.observe(block).findings]


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
