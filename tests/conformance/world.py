"""Starts the processes of a world, and holds what they report against the truth."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from seismograd_server.model import ClosedBlock
from tests.conformance.cases import CASES, Case
from tests.conformance.composing import compose
from tests.conformance.models import Truth, train_alone
from tests.conformance.worker import Report

# A world of four trains some forty small models; on one loaded core that takes half a minute.
_TIMEOUT_SECONDS = 240.0


@dataclass(frozen=True)
class Result:
    """What came of one case in one world.

    Attributes:
        blocks: what the server composed.
        truth: what one process found.
        reports: what each process said, by rank.
    """

    case: Case
    blocks: list[ClosedBlock]
    truth: Truth
    reports: list[Report]

    @property
    def global_error(self) -> float:
        """Largest relative error of a composed global norm."""
        norms = np.concatenate([block.global_norm for block in self.blocks])
        return float(np.nanmax(np.abs(norms / np.array(self.truth.totals) - 1.0)))

    @property
    def layer_error(self) -> float:
        """Largest relative error of any layer's norm at any step; Inf = one that should be known is not."""
        return max(
            error for layers in self._layers() for name, error in layers.items() if name not in self.unknown_layers
        )

    @property
    def unknown_layers(self) -> frozenset[str]:
        """Layers that the server says it does not know at some step."""
        missing = [np.isnan(block.layer_norms).any(axis=0) for block in self.blocks]
        return frozenset(
            block.layout.names[place]
            for block, gone in zip(self.blocks, missing, strict=True)
            for place in np.flatnonzero(gone).tolist()
        )

    @property
    def inexact(self) -> bool:
        """Whether any step is marked as inexact."""
        return any(bool(block.inexact.any()) for block in self.blocks)

    def _layers(self) -> list[dict[str, float]]:
        """Errors by step and name, relative to the norm; absolute where a gradient is zero."""
        rows = [
            dict(zip(block.layout.names, row, strict=True))
            for block in self.blocks
            for row in block.layer_norms.tolist()
        ]
        return [
            {name: abs(row.get(name, np.inf) - norm) / (norm or 1.0) for name, norm in truth.items()}
            for row, truth, total in zip(rows, self.truth.layers, self.truth.totals, strict=True)
            if not math.isnan(total)  # not of the step that overflowed
        ]


def run_processes(entry: str, world: int, store: str, *arguments: str) -> None:
    """Runs a function of the worker's module in so many processes, to their end. Raises RuntimeError when one fails."""
    # By its module's name, so that what it pickles can be read here.
    command = [sys.executable, "-c", f"from tests.conformance.worker import {entry}; {entry}()"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), store, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for rank, process in enumerate(processes):
            output, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
            if process.returncode != 0:
                raise RuntimeError(f"process {rank} of {world} failed:\n{output}")
    finally:
        for process in processes:
            process.kill()


@cache
def run_world(world: int) -> Mapping[str, Result]:
    """The results of all cases on so many processes, by name; run once."""
    with tempfile.TemporaryDirectory() as folder:
        run_processes("main", world, f"{folder}/store", folder)
        said = [pickle.loads(Path(f"{folder}/{world}-{rank}.pickle").read_bytes()) for rank in range(world)]
    return {case.name: judge(case, [reports[case.name] for reports in said]) for case in CASES if world in case.worlds}


def judge(case: Case, reports: list[Report]) -> Result:
    """Composes what was sent, and trains the same alone."""
    blocks = compose([(report.opening, report.frames) for report in reports])
    truth = _truth(oddities=case.oddities, tied=case.tied, clips=case.clips, skips=case.scales)
    return Result(case, blocks, truth, reports)


_truth = cache(train_alone)
