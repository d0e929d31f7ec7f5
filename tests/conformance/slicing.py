"""Processes that share the layers: tensor parallel, with sequences cut too or not, under FSDP2 or not; pipelines."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tests.conformance.models import BATCH, batch_of, loss_of, new_net
from tests.conformance.sharing import Shared


class Replicated(ParallelStyle):
    """The module as it is on every process, its parameters DTensors like those of its neighbours."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        def enter(_module: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> Any:
            (tensor,) = inputs
            return tensor if isinstance(tensor, DTensor) else DTensor.from_local(tensor, mesh, [Replicate()])

        def leave(_module: nn.Module, output: Any, _mesh: DeviceMesh) -> Any:
            return output.redistribute(placements=[Replicate()]).to_local()

        return distribute_module(module, mesh, None, enter, leave)


def _slice(model: nn.Module, mesh: DeviceMesh, *, sequences: bool, plain_norms: bool = False) -> None:
    """Cuts every linear layer over the mesh; with `sequences`, what lies between them is cut along the sequence.

    `plain_norms`: what is not cut stays a plain tensor, as it does where nobody names it in the plan.
    """
    between = Shard(1) if sequences else Replicate()
    plan: dict[str, ParallelStyle] = {
        "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=between),
        "head": ColwiseParallel(input_layouts=between, output_layouts=Replicate()),
    }
    if not plain_norms:
        for name in ("norm", *(f"blocks.{index}.norm" for index in range(4))):
            plan[name] = SequenceParallel() if sequences else Replicated()
    for index in range(4):
        plan[f"blocks.{index}.up"] = ColwiseParallel(input_layouts=between)
        plan[f"blocks.{index}.down"] = RowwiseParallel(output_layouts=between)
    parallelize_module(model, mesh, plan)


def tensor_parallel(rank: int, world: int, *, sequences: bool, plain_norms: bool = False) -> Shared:
    """Every process has a slice of every linear layer and sees the whole batch."""
    del rank
    model = new_net()
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("tp",))
    _slice(model, mesh, sequences=sequences, plain_norms=plain_norms)

    def backward(step: int) -> None:
        ids, targets = batch_of(step)
        loss_of(model(ids), targets, step).backward()

    return Shared(model, backward)


def sliced_and_sharded(rank: int, world: int, *, sequences: bool) -> Shared:
    """Slices of two processes each, every slice sharded over the others that hold it (FSDP2)."""
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "tp"))
    model = new_net()
    _slice(model, mesh["tp"], sequences=sequences)
    for block in model.blocks.values():
        fully_shard(block, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    share, index = BATCH // (world // 2), rank // 2

    def backward(step: int) -> None:
        ids, targets = batch_of(step)
        mine = slice(index * share, (index + 1) * share)
        loss_of(model(ids[mine]), targets[mine], step).backward()

    return Shared(model, backward)


def pipeline(rank: int, world: int, *, tied: bool = False) -> Shared:
    """Every process has some of the layers, under the names that they have in the whole model.

    `tied`: the last one has the weight of the embedding too, under a name of its own, and the two add up gradients.
    """
    model = new_net(tied=tied)
    if tied:
        model.head.weight = nn.Parameter(model.embed.weight.detach().clone())
    mine = range(rank * 4 // world, (rank + 1) * 4 // world)
    model.blocks = nn.ModuleDict({str(index): model.blocks[str(index)] for index in mine})
    if rank > 0:
        model.embed = nn.Identity()  # type: ignore[assignment]  # what the stage before sends are hidden states
    if rank < world - 1:
        model.norm = model.head = nn.Identity()  # type: ignore[assignment]  # as above
    stage = PipelineStage(model, rank, world, torch.device("cpu"))
    state = {"step": 0}
    schedule = ScheduleGPipe(stage, 2, loss_fn=lambda logits, targets: loss_of(logits, targets, state["step"]))
    ends = dist.new_group([0, world - 1])
    shared = {0: model.embed, world - 1: model.head}.get(rank) if tied else None

    def backward(step: int) -> None:
        ids, targets = batch_of(step)
        state["step"] = step
        if rank == 0:
            schedule.step(ids)
        elif rank == world - 1:
            schedule.step(target=targets)
        else:
            schedule.step()
        if shared is not None:
            assert shared.weight.grad is not None
            dist.all_reduce(shared.weight.grad, group=ends)

    def clip(limit: float) -> Tensor:
        """The norm of all stages, of which each knows its own; what is tied counts on the first."""
        counted = [p for p in model.parameters() if rank == 0 or shared is None or p is not shared.weight]
        square = get_total_norm([p.grad for p in counted if p.grad is not None]).square()
        dist.all_reduce(square)
        total = square.sqrt()
        clip_grads_with_norm_(model.parameters(), limit, total)
        return total

    return Shared(model, backward, clip)
