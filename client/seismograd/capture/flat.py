"""FSDP1: parameters that are slices of flat ones, or the flat ones themselves.

`FullyShardedDataParallel` cuts a flat concatenation of parameters into one piece a process. With `use_orig_params` the
optimizer sees what each process has of every parameter, so that layers compose; without it only the flat parameters,
so that a layer is all that one wrapped module holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.distributed
from torch import nn

from seismograd.capture.pieces import Piece

_CLASS = "FullyShardedDataParallel"


@dataclass(frozen=True, slots=True)
class Slice:
    """What this process holds of one parameter; `flat`: of several at once."""

    piece: Piece
    shape: tuple[int, ...]  # of the whole
    flat: bool


def is_flattening(module: nn.Module) -> bool:
    """Whether the module is FSDP1's wrapper. Told by name: importing the class takes longer than many a test."""
    return any(base.__name__ == _CLASS for base in type(module).__mro__)


def slices_of(model: nn.Module | None) -> dict[int, Slice]:
    """Slices by `id(parameter)`; empty for a model without FSDP1."""
    found: dict[int, Slice] = {}
    for module in () if model is None else model.modules():
        flat: Any = getattr(module, "_flat_param", None) if is_flattening(module) else None
        if flat is None:
            continue
        piece = _piece_of(module)
        shapes = [tuple(shape) for shape in getattr(flat, "_shapes", ())]
        whole = sum(map(math.prod, shapes)) or flat.numel() * piece.shard_count
        found[id(flat)] = Slice(piece, (whole,), flat=True)
        for parameter, shape in zip(getattr(flat, "_params", None) or (), shapes, strict=False):
            found[id(parameter)] = Slice(piece, shape, flat=False)
    return found


def _piece_of(module: Any) -> Piece:
    group = module.process_group
    place, size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    strategy = getattr(module.sharding_strategy, "name", "")
    if strategy == "NO_SHARD":
        return Piece(replica_index=place, replication=size)
    if strategy.startswith(("HYBRID_SHARD", "_HYBRID_SHARD")):
        # torch has no public name for the group of those that hold the same shard.
        others = getattr(module, "_inter_node_pg", None)
        if others is not None:
            replica, replication = torch.distributed.get_rank(others), torch.distributed.get_world_size(others)
            return Piece(place, size, replica, replication)
    return Piece(place, size)
