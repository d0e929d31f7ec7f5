"""The columns of one optimizer: which parameters are captured, in which order, and what is said about each."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from seismograd.capture.norms import MeasuresAlike, accumulation
from seismograd.capture.pieces import Piece, Pieces, belongs_here, is_sharded, local
from seismograd.capture.placement import Placement
from seismograd.capture.row import OwnRow
from seismograd.record import Catalog, Composition, Parameter

UNKNOWN_DEPTH = -1
# What torch.compile, FSDP1 and activation checkpointing put into the names of what they wrap.
_WRAPPER_MARKS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_held = operator.itemgetter("params")


@dataclass(frozen=True, slots=True)
class Description:
    """What the model says about one parameter."""

    name: str
    module_type: str
    depth: int  # rank of the owning module in forward order, 0 = nearest the input
    tied_group: str = ""  # declared: the parameter is one with others, which other ranks hold


def describe(model: nn.Module | None, forward_order: Mapping[int, int]) -> dict[int, Description]:
    """Descriptions by `id(parameter)`; a tied parameter is described once, under its first name.

    `forward_order` gives the place of modules, by id, in the first forward pass. Modules that it does not know (used
    without being called, like the projection inside attention) stand behind their predecessor in registration order.
    """
    if model is None:
        return {}
    owners: list[tuple[tuple[int, int], str, nn.Module]] = []
    place = -1
    for ordinal, (prefix, module) in enumerate(unwrap(model).named_modules()):
        if next(module.parameters(recurse=False), None) is None:
            continue
        place = forward_order.get(id(module), place)
        owners.append(((place, ordinal), prefix, module))
    found: dict[int, Description] = {}
    depths = {id(module): depth for depth, (_, _, module) in enumerate(sorted(owners, key=operator.itemgetter(0)))}
    for _, prefix, module in owners:
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in found:
                whole = plain_name(f"{prefix}.{name}" if prefix else name)
                found[id(parameter)] = Description(whole, module_type(module), depths[id(module)])
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """The user's model inside DDP, DataParallel and torch.compile, so that names are the same everywhere."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def plain_name(name: str) -> str:
    """A parameter's name without the marks of wrappers inside the model."""
    for mark in _WRAPPER_MARKS:
        name = name.replace(mark, "")
    return name


def module_type(module: nn.Module) -> str:
    """The name of the user's class: `fully_shard` gives its modules a class of its own above it."""
    kind = type(module)
    if len(kind.__bases__) == 2 and kind.__bases__[0].__name__ == "FSDPModule":
        kind = kind.__bases__[1]
    return kind.__name__


class Layout:
    """The captured parameters of one optimizer; a column each.

    Parameters that are frozen when the layout is made have no column; one that receives a gradient later makes the
    layout `outgrown`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        lists = list(map(_held, optimizer.param_groups))
        self._sizes = list(map(len, lists))
        self._listed: tuple[Tensor, ...] = tuple(chain.from_iterable(lists))
        everything = list({id(parameter): parameter for parameter in self._listed}.values())
        self.parameters: list[Tensor] = [
            parameter for parameter in everything if parameter.requires_grad and belongs_here(parameter)
        ]
        self.frozen: list[Tensor] = [parameter for parameter in everything if not parameter.requires_grad]
        self.column_of = {id(parameter): column for column, parameter in enumerate(self.parameters)}
        self.sharded = any(is_sharded(parameter) for parameter in self.parameters)
        self.pieces = Pieces()
        self.own_pieces: Sequence[Piece] = tuple(map(self.pieces.of, self.parameters))
        kinds = {(parameter.device, parameter.dtype) for parameter in self.parameters}
        # One list for one call of `_foreach_norm`; what makes it fail later (a sparse gradient) sets it to False.
        self.uniform = len(kinds) == 1 and not self.sharded
        device, dtype = next(iter(kinds), (torch.device("cpu"), torch.float32))
        self.device = device
        # Named, also where it is that of the gradients: one of a narrower type (`grad_dtype`) would be rounded to it.
        self.accumulation = accumulation(dtype, device) or dtype
        self._row = OwnRow()
        self._exactly: list[Tensor] = self.parameters  # the latest list that was found to be the columns in order

    def __len__(self) -> int:
        """Number of columns, t."""
        return len(self.parameters)

    def outgrown(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer has other parameters now, or a frozen one has thawed."""
        if not self.is_of(optimizer.param_groups):
            return True
        # One that is frozen may have kept a gradient, and would have no column in another layout either.
        return bool(self.frozen) and any(each.grad is not None and each.requires_grad for each in self.frozen)

    def is_of(self, groups: list[dict[str, Any]]) -> bool:
        """Whether these groups hold the parameters that it was made for, and no others in their places."""
        if len(groups) == 1:  # mostly: at half the cost
            held = groups[0]["params"]
            return self._sizes == [len(held)] and all(map(operator.is_, held, self._listed))
        lists = list(map(_held, groups))
        return list(map(len, lists)) == self._sizes and all(map(operator.is_, chain.from_iterable(lists), self._listed))

    def is_exactly(self, parameters: list[Tensor]) -> bool:
        """Whether the parameters are all columns in order."""
        if parameters is self._exactly:
            return True  # one clip asks three times
        if len(parameters) != len(self.parameters) or not all(map(operator.is_, parameters, self.parameters)):
            return False
        self._exactly = parameters
        return True

    def alike(self, parameters: list[Tensor]) -> MeasuresAlike | None:
        """What measures all columns, if these are they, and were plain tensors of one device and type when listed."""
        return self._row.measured if self.uniform and self.is_exactly(parameters) else None

    def piece_of_gradient(self, column: int, gradient: Any) -> Piece:
        """What this process holds of a gradient; mostly what it holds of the parameter."""
        parameter: Any = self.parameters[column]
        if hasattr(gradient, "to_local") and gradient.placements is parameter.placements:
            return self.own_pieces[column]
        return self.pieces.of(gradient)

    def catalog(
        self,
        optimizer: int,
        version: int,
        placement: Placement,
        descriptions: Mapping[int, Description],
        pieces: Sequence[Piece] | None = None,
    ) -> Catalog:
        """The columns in words, for the server. `pieces` are those that norms were taken of, None = the parameters."""
        return Catalog(
            optimizer,
            version,
            tuple(
                _parameter(
                    parameter,
                    descriptions.get(id(parameter)) or _nameless(optimizer, column),
                    placement.piece_of(parameter, piece),
                    placement.shape_of(parameter),
                )
                for column, (parameter, piece) in enumerate(
                    zip(self.parameters, self.own_pieces if pieces is None else pieces, strict=True)
                )
            ),
        )


def _nameless(optimizer: int, column: int) -> Description:
    """A parameter that the optimizer has and the model has not."""
    return Description(f"optimizer{optimizer}.parameter{column}", "", UNKNOWN_DEPTH)


def _parameter(parameter: Tensor, description: Description, piece: Piece, shape: tuple[int, ...]) -> Parameter:
    return Parameter(
        name=description.name,
        shape=shape,
        numel=math.prod(shape),
        local_numel=local(parameter).numel(),
        dtype=str(parameter.dtype).removeprefix("torch."),
        module_type=description.module_type,
        depth=description.depth,
        shard_id=piece.shard_id,
        shard_count=piece.shard_count,
        replica_index=piece.replica_index,
        replication=piece.replication,
        composition=Composition.PARTIAL if piece.partial else Composition.SUM_OF_SQUARES,
        tied_group=description.tied_group,
    )
