"""Trace files: a whole training run in one .npz, with the norms of every rank and tensor.

| array | shape | what |
|---|---|---|
| grad_norms | [ranks, n, l] | L2 norm by tensor, each rank's own gradient before averaging and clipping, unscaled |
| avg_grad_norms | [n, l] | of the averaged gradient; empty for one rank |
| weight_norms, update_norms | [n, l] | before the update; of the update made |
| loss, lr, clipped | [n] | as logged; whether clipping engaged |
| rank_loss | [ranks, n] | empty = one loss for all |
| loss_scale | [n] | empty = none |
| clip_threshold | scalar | NaN = no clipping |
| layer_names | [l] | in forward order |

NaN and Inf are data. Whatever else a file holds (labels, the outcome) is never read.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seismograd_server.errors import UsageError
from seismograd_server.model import Bool, Float64

SUFFIX = ".npz"
_ARRAYS = (
    "grad_norms",
    "avg_grad_norms",
    "weight_norms",
    "update_norms",
    "loss",
    "lr",
    "clipped",
    "rank_loss",
    "loss_scale",
    "clip_threshold",
    "layer_names",
)
# What reading a damaged archive raises, by layer: file, zip, compression, array header, array larger than memory.
_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, MemoryError)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One run as a file has it: n steps, r ranks, l tensors."""

    name: str
    layer_names: tuple[str, ...]
    local_norms: Float64  # [r, n, l], before averaging
    layer_norms: Float64  # [n, l], of the averaged gradient, NaN and Inf as they are
    weight_norms: Float64  # [n, l]
    update_norms: Float64  # [n, l]
    loss: Float64  # [n]
    rank_loss: Float64  # [r, n] or empty
    learning_rate: Float64  # [n]
    loss_scale: Float64  # [n] or empty
    clip_threshold: float  # NaN = no clipping
    clipped: Bool  # [n]

    @property
    def count(self) -> int:
        """Number of steps, n."""
        return len(self.loss)


def traces_in(folder: Path) -> list[Path]:
    """The trace files of a folder, by name.

    Raises:
        UsageError: it is no folder that can be read, or has none.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except OSError as error:
        raise UsageError(f"{folder} cannot be read as a folder of trace files: {error.strerror}") from error
    if not found:
        raise UsageError(f"{folder} has no trace file (*{SUFFIX})")
    return found


def read_trace(path: Path) -> Trace:
    """Read a trace file.

    Raises:
        UsageError: the file cannot be read, lacks an array, or has one of another kind or shape than it must have; the
            message names file, array, and what would be right.
    """
    arrays = _Arrays(path, _load(path))
    local = arrays.norms("grad_norms", ("ranks", "steps", "tensors"))
    ranks, count, tensors = local.shape
    if ranks == 0 or tensors == 0:
        raise arrays.wrong("grad_norms", f"has the shape {local.shape}: at least one rank and one tensor are needed")
    matrix, each_step = {"steps": count, "tensors": tensors}, {"steps": count}
    averaged = arrays.norms("avg_grad_norms", matrix, may_be_empty=ranks == 1)
    return Trace(
        name=path.stem,
        layer_names=arrays.names("layer_names", tensors),
        local_norms=local,
        layer_norms=averaged if averaged.size else local[0],
        weight_norms=arrays.norms("weight_norms", matrix),
        update_norms=arrays.norms("update_norms", matrix),
        loss=arrays.numbers("loss", each_step),
        rank_loss=arrays.numbers("rank_loss", {"ranks": ranks, "steps": count}, may_be_empty=True),
        learning_rate=arrays.numbers("lr", each_step),
        loss_scale=arrays.numbers("loss_scale", each_step, may_be_empty=True),
        clip_threshold=float(arrays.numbers("clip_threshold", {})),
        clipped=arrays.numbers("clipped", each_step) != 0,
    )


def _load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    name = ""
    try:
        # Opened here, because numpy leaves a file open that is no archive.
        with path.open("rb") as file, contextlib.ExitStack() as stack:
            data = np.load(file, allow_pickle=False)
            if not isinstance(data, np.lib.npyio.NpzFile):
                raise UsageError(f"{path} is one array, not a trace file: write all arrays with numpy.savez")
            stack.enter_context(data)
            missing = [name for name in _ARRAYS if name not in data]
            if missing:
                raise UsageError(f"{path} lacks {', '.join(missing)}: it has {', '.join(data.files) or 'nothing'}")
            for name in _ARRAYS:
                found[name] = data[name]
    except _DAMAGE as error:
        what = f"{path}: {name} cannot be read" if name else f"{path} is no trace file that can be read"
        raise UsageError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
    return found


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The arrays of a file, each checked as it is taken."""

    path: Path
    found: Mapping[str, Any]

    def wrong(self, name: str, what: str) -> UsageError:
        return UsageError(f"{self.path}: {name} {what}")

    def numbers(self, name: str, shape: Mapping[str, int], *, may_be_empty: bool = False) -> Float64:
        """An array of real numbers of a certain shape."""
        found = self._real(name)
        if may_be_empty and not found.size:
            return found
        if found.shape != tuple(shape.values()):
            wanted = f"[{', '.join(f'{axis} = {length}' for axis, length in shape.items())}]" if shape else "a scalar"
            empty = ", or empty" if may_be_empty else ""
            raise self.wrong(name, f"has the shape {found.shape}, not {wanted}{empty}")
        return found

    def norms(self, name: str, shape: Mapping[str, int] | tuple[str, ...], *, may_be_empty: bool = False) -> Float64:
        """Numbers that are not negative; axes without a length may have any."""
        if isinstance(shape, Mapping):
            found = self.numbers(name, shape, may_be_empty=may_be_empty)
        elif (found := self._real(name)).ndim != len(shape):
            raise self.wrong(name, f"has the shape {found.shape}, not [{', '.join(shape)}]")
        if (found < 0).any():
            where = tuple(int(index) for index in np.argwhere(found < 0)[0])
            raise self.wrong(name, f"is negative at {where}: a norm never is")
        return found

    def names(self, name: str, count: int) -> tuple[str, ...]:
        """One name for each tensor."""
        found = self.found[name]
        if found.dtype.kind != "U" or found.shape != (count,):
            raise self.wrong(name, f"has the shape {found.shape} of {found.dtype}, not {count} strings")
        return tuple(str(each) for each in found)

    def _real(self, name: str) -> Float64:
        found = self.found[name]
        if found.dtype.kind not in "fiub":
            raise self.wrong(name, f"holds {found.dtype}, not real numbers")
        return np.asarray(found, dtype=np.float64)
