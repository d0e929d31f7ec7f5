"""Which part of the gradient this process holds: alone, a replica among others, or a shard (inexact yet)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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


def is_distributed() -> bool:
    """Whether a process group exists now."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def placement_of(model: nn.Module | None, parameters: Iterable[Tensor]) -> Placement:
    """The placement as far as the model and the default process group tell it."""
    if any(is_sharded(parameter) for parameter in parameters):
        return Placement(strategy="mixed")
    if not is_distributed():
        return Placement()
    for module in () if model is None else model.modules():
        if isinstance(module, DistributedDataParallel):
            group = module.process_group
            replica, replication = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
            return Placement(replica, replication, ships_rows=replica == 0, strategy="ddp")
    world = torch.distributed.get_world_size()
    if world == 1:
        return Placement()
    return Placement(torch.distributed.get_rank(), world, ships_rows=True, strategy="ddp")


def local_elements(parameter: Any) -> int:
    """Number of elements that this rank holds."""
    local: Tensor = parameter.to_local() if is_sharded(parameter) else parameter
    return local.numel()


def is_sharded(parameter: Tensor) -> bool:
    """Whether a parameter is a DTensor (FSDP2, tensor parallel)."""
    return hasattr(parameter, "to_local")
