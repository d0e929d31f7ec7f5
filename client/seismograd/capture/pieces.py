"""Which piece of a whole tensor this process holds, read off a DTensor's mesh and placements without a collective.

    mesh dimension is        the tensor on it is cut     -> another shard id for every coordinate
                             the same everywhere         -> another replica of the same shard
                             a summand of the whole      -> a partial piece: squares do not compose

The squares of distinct shards add, whichever dimensions of the mesh cut the tensor and how unevenly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """One process's part of a tensor, or of its norm."""

    shard_id: int = 0
    shard_count: int = 1
    replica_index: int = 0
    replication: int = 1
    partial: bool = False  # a summand: its norm says nothing about the norm of the sum

    @property
    def ships(self) -> bool:
        """Whether nobody else ships a norm that could stand for this one."""
        return self.partial or self.replica_index == 0

    def repeated(self, replica_index: int, replication: int) -> Piece:
        """The same piece where whole groups like this one are replicas of each other (DDP around a sharded model)."""
        return self._replace(
            replica_index=self.replica_index + self.replication * replica_index,
            replication=self.replication * replication,
        )


WHOLE = Piece()


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor (FSDP2, tensor parallel)."""
    return hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """The elements that this process holds: the very tensor inside a DTensor, or the tensor itself."""
    return all_local([tensor])[0] if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]  # a plain one


def all_local(tensors: Iterable[Any]) -> list[Any]:
    """The same of several, among which may be None."""
    with torch.no_grad():  # outside of it, these would be nodes of autograd's graph
        return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def belongs_here(tensor: Any) -> bool:
    """Whether this process is in the tensor's mesh at all."""
    return not hasattr(tensor, "to_local") or tensor.device_mesh.get_coordinate() is not None


class Pieces:
    """Pieces of DTensors; each kind of placement is worked out once."""

    def __init__(self) -> None:
        self._known: dict[object, Piece] = {}

    def of(self, tensor: Any) -> Piece:
        """The piece that this process holds; WHOLE for a plain tensor."""
        if not hasattr(tensor, "to_local"):
            return WHOLE
        key = (tensor.device_mesh, tensor.placements)
        piece = self._known.get(key)
        if piece is None:
            mesh = tensor.device_mesh
            coordinate = mesh.get_coordinate()
            sizes = [mesh.size(dimension) for dimension in range(mesh.ndim)]
            piece = self._known[key] = piece_at(coordinate or [0] * mesh.ndim, sizes, tensor.placements)
        return piece


def piece_at(coordinate: Iterable[int], sizes: Iterable[int], placements: Iterable[Any]) -> Piece:
    """The piece at a coordinate of a mesh whose dimensions have these sizes and placements."""
    shard = replica = 0
    shards = replicas = 1
    partial = False
    for place, size, placement in zip(coordinate, sizes, placements, strict=True):
        if placement.is_replicate():
            replica, replicas = replica * size + place, replicas * size
        elif placement.is_partial() and not hasattr(placement, "norm_type"):
            partial = True
        else:  # cut in any way, or (with a norm type) the norm of such a cut that nobody has reduced
            shard, shards = shard * size + place, shards * size
    return Piece(shard, shards, replica, replicas, partial)
