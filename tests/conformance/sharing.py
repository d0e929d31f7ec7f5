"""Processes that share the batch: each holds a copy of the model, or a shard of every parameter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from tests.conformance.models import BATCH, Block, batch_of, loss_of, new_net


@dataclass
class Shared:
    """A model as one process holds it.

    `backward(step, scaled)` makes the gradients of the whole batch, together with the other processes; `scaled` is
    what a loss goes through before.
    """

    model: nn.Module
    backward: Callable[..., None]
    clip: Callable[[float], Any] | None = None  # the model's own way of clipping; None = torch's


Build = Callable[[int, int], Shared]


def as_it_is(loss: Tensor) -> Tensor:
    """No loss scaler."""
    return loss


def _data_parallel(
    model: nn.Module,
    rank: int,
    ranks: int,
    *,
    micro_batches: int = 1,
    waiting: Callable[[], AbstractContextManager[Any]] = nullcontext,
    last: Callable[[bool], None] = lambda _: None,
) -> Callable[..., None]:
    """Every process has its part of the batch; the gradients are averaged over processes by whoever wraps the model."""
    share = BATCH // ranks // micro_batches

    def backward(step: int, scaled: Callable[[Tensor], Tensor] = as_it_is) -> None:
        ids, targets = batch_of(step)
        for index in range(micro_batches):
            begin = (rank * micro_batches + index) * share
            final = index == micro_batches - 1
            last(final)
            with nullcontext() if final else waiting():
                logits = model(ids[begin : begin + share])
                scaled(loss_of(logits, targets[begin : begin + share], step) / micro_batches).backward()

    return backward


def ddp(rank: int, world: int, *, micro_batches: int = 1) -> Shared:
    """DistributedDataParallel."""
    model = DistributedDataParallel(new_net(oddities=True), find_unused_parameters=True)
    backward = _data_parallel(model, rank, world, micro_batches=micro_batches, waiting=model.no_sync)
    return Shared(model, backward)


def fsdp2(rank: int, world: int, *, micro_batches: int = 1, mesh: DeviceMesh | None = None) -> Shared:
    """`fully_shard` on one mesh dimension, or with a 2-D mesh on the second: the first then holds replicas (HSDP)."""
    mesh = mesh or init_device_mesh("cpu", (world,))
    model = new_net(oddities=True)
    for block in model.blocks.values():
        fully_shard(block, mesh=mesh)
    root = fully_shard(model, mesh=mesh)
    backward = _data_parallel(model, rank, world, micro_batches=micro_batches, last=root.set_requires_gradient_sync)
    return Shared(model, backward)


def hsdp(rank: int, world: int) -> Shared:
    """Two replicas of a sharded model."""
    return fsdp2(rank, world, mesh=init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replica", "shard")))


def fsdp1(rank: int, world: int, *, original: bool) -> Shared:
    """FullyShardedDataParallel, with parameters of their own (`use_orig_params`) or one flat one."""
    model = new_net()
    wrapped = FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), use_orig_params=original, auto_wrap_policy=ModuleWrapPolicy({Block})
    )

    def clip(limit: float) -> Any:
        return wrapped.clip_grad_norm_(limit)

    return Shared(wrapped, _data_parallel(wrapped, rank, world), clip)
