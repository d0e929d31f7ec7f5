"""Makes the runs of the benchmark: a trace file for each, and a manifest with what became of them."""

from __future__ import annotations

import csv
import hashlib
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.detection.labels import label_of
from tests.benchmarks.detection.training import Spec, Training

MANIFEST = "manifest.csv"
_MAKERS = ("catalogue", "generating", "labels", "learning", "training")
_COLUMNS = (
    "run_id",
    "label",
    "onset_step",
    "failure_step",
    "n_steps",
    "ranks",
    "n_layers",
    "arch",
    "task",
    "optimizer",
    "clip",
    "family",
    "faults",
    "culprit_layer",
    "culprit_rank",
    "seed",
)


def cache_folder(variation: int = 0) -> Path:
    """Where the runs of the catalogue are kept: another place whenever what makes or labels them changes."""
    sources = sorted(Path(__file__).parent.joinpath(f"{name}.py") for name in _MAKERS)
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    name = f"seismograd-benchmark-{digest[:12]}"
    return Path(tempfile.gettempdir()) / (f"{name}-variation-{variation}" if variation else name)


def generate(specs: Iterable[Spec], folder: Path) -> Path:
    """Train every run into a folder, on one core, and return the manifest, which is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_make(spec, folder) for spec in specs]
    finally:
        torch.set_num_threads(threads)
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder / MANIFEST


def generate_once(specs: Iterable[Spec], folder: Path) -> tuple[Path, float]:
    """The manifest, made if it is not there yet, and the seconds that this took."""
    started = time.monotonic()
    manifest = folder / MANIFEST
    return (manifest if manifest.exists() else generate(specs, folder)), time.monotonic() - started


def _make(spec: Spec, folder: Path) -> dict[str, object]:
    training = Training(spec)
    arrays = training.run()
    label = label_of(spec, arrays)
    np.savez_compressed(folder / f"{spec.name}.npz", **arrays)
    return {
        "run_id": spec.name,
        "label": label.label,
        "onset_step": label.onset_step,
        "failure_step": label.failure_step,
        "n_steps": len(arrays["loss"]),
        "ranks": spec.ranks,
        "n_layers": len(arrays["layer_names"]),
        "arch": spec.arch,
        "task": spec.task,
        "optimizer": spec.optimizer,
        "clip": "" if np.isnan(spec.clip) else spec.clip,
        "family": spec.family,
        "faults": "+".join(fault.kind for fault in spec.faults),
        "culprit_layer": training.culprit_layer(),
        "culprit_rank": next((str(fault.rank) for fault in spec.faults if fault.rank >= 0), ""),
        "seed": spec.seed,
    }
