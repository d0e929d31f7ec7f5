"""How the processes of this job share the model: alone, as replicas, in shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seismograd.capture.flat import Slice, slices_of
from seismograd.capture.pieces import WHOLE, Piece, is_sharded


@dataclass(frozen=True, slots=True)
class Placement:
    """This process among the copies of the model.

    `ships_rows` says whether this process ships norms by parameter. Under DDP replica 0 alone does, and the others a
    total and a digest. Where several processes hold parameters without DDP, nobody can know that they are the same,
    and each ships its own.
    """

    replica_index: int = 0
    replication: int = 1
    ships_rows: bool = True
    strategy: str = "single"
    replicated: bool = False  # by DDP: whatever the parameters are, other processes hold the very same
    slices: Mapping[int, Slice] = field(default_factory=dict)  # FSDP1's, by `id(parameter)`

    def piece_of(self, parameter: Tensor, piece: Piece) -> Piece:
        """What this process holds of a parameter, given what a DTensor says about itself."""
        if self.slices and (own := self.slices.get(id(parameter))) is not None:
            return own.piece
        if not is_sharded(parameter):
            return Piece(replica_index=self.replica_index, replication=self.replication)
        return piece.repeated(self.replica_index, self.replication) if self.replicated else piece

    def shape_of(self, parameter: Tensor) -> tuple[int, ...]:
        """The shape of the whole parameter."""
        own = self.slices.get(id(parameter))
        return tuple(parameter.shape) if own is None else own.shape

    def flattens(self, parameters: Iterable[Tensor]) -> bool:
        """Whether some of the parameters are several of the model's in one."""
        return any(own.flat for parameter in parameters if (own := self.slices.get(id(parameter))) is not None)

    def ships(self, parameters: Iterable[Tensor], pieces: Iterable[Piece] | None) -> bool:
        """Whether this process ships rows of columns that are such pieces of parameters; None = plain ones."""
        if pieces is None:
            if not self.slices:
                return self.ships_rows
            pieces = itertools.repeat(WHOLE)
        return any(self.piece_of(parameter, piece).ships for parameter, piece in zip(parameters, pieces, strict=False))


def is_distributed() -> bool:
    """Whether a process group exists now."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def placement_of(model: nn.Module | None, parameters: Iterable[Tensor]) -> Placement:
    """The placement as far as the model and the default process group tell it."""
    if not is_distributed():
        return Placement()
    sharded = [parameter for parameter in parameters if is_sharded(parameter)]
    modules = list(() if model is None else model.modules())
    for module in modules:
        if isinstance(module, DistributedDataParallel):
            group = module.process_group
            replica, replication = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
            strategy = "mixed" if sharded else "ddp"
            return Placement(replica, replication, ships_rows=replica == 0, strategy=strategy, replicated=True)
    slices = slices_of(model)
    strategy = _sharding(modules, sharded) if sharded else "fsdp1" if slices else "ddp"
    world = torch.distributed.get_world_size()
    if world == 1:
        return Placement(strategy=strategy if sharded or slices else "single", slices=slices)
    return Placement(torch.distributed.get_rank(), world, strategy=strategy, slices=slices)


def _sharding(modules: Iterable[nn.Module], sharded: Iterable[Tensor]) -> str:
    """Which kind of sharding the DTensors come from, in one word."""
    # The class is only there where torch.distributed.fsdp was imported, which whoever uses it has done.
    if not any("FSDPModule" in (base.__name__ for base in type(module).__mro__) for module in modules):
        return "tp"
    cuts = (sum(not each.is_replicate() for each in tensor.placements) for tensor in sharded)  # type: ignore[attr-defined]  # DTensors
    return "mixed" if max(cuts, default=0) > 1 else "fsdp2"
