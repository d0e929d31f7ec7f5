"""Which layers a launch has, and which columns of which rank make up each of them. Pure.

catalogs of all ranks -> Plan: layers (named the same on every rank), each cut into slots (one per shard), and for
each rank the slot that each of its columns reports on. Replicas report on the same slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from seismograd_server.model import Bool, Catalog, Composition, Int64, Layout, Parameter

_Key = tuple[str, tuple[int, ...] | None]  # a tied group and None, or a name and the shape of the whole


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How local columns compose; l = layers, s = slots.

    Attributes:
        layout: the layers.
        slots: for each rank, int64[t]: the slot of each parameter of its catalog.
        first_slots: int64[l]: where each layer's slots begin; they are consecutive and cover all s.
        slot_layers: int64[s]: the layer of each slot.
        covered: bool[l]: the catalogs seen so far hold every shard of the layer.
        partial: bool[l]: a local norm of the layer is of a summand of the gradient, so that squares do not compose.
        groups: ranks that hold the very same slots, when no two groups share a slot: their totals compose too. Empty
            when groups overlap.
        twins: ranks, two or more, whose columns report on the very same slots in the same order.
        straight: ranks whose columns are the layers themselves, one whole layer after the other.
    """

    layout: Layout
    slots: Mapping[int, Int64]
    first_slots: Int64
    slot_layers: Int64
    covered: Bool
    partial: Bool
    groups: tuple[tuple[int, ...], ...]
    twins: tuple[tuple[int, ...], ...]
    straight: frozenset[int]

    @property
    def slot_count(self) -> int:
        """Number of slots, s."""
        return len(self.slot_layers)


def make_plan(catalogs: Mapping[int, Catalog], world_size: int, hostnames: Mapping[int, str]) -> Plan:
    """Compose the catalogs of the ranks seen so far (by rank) to one plan.

    Layers stand in the order in which the lowest ranks list them. A declared group of tied parameters is one layer,
    named after its first member. Parameters of one name and different shapes are different layers, as in a pipeline
    whose stages count from 0 each; those after the first have the rank in their names.
    """
    layers: dict[_Key, int] = {}
    named: set[str] = set()
    described: list[tuple[str, str, int, int, str]] = []
    shards: list[set[int]] = []
    shard_counts: list[int] = []
    partial: list[bool] = []
    ranks = sorted(catalogs)
    for rank in ranks:
        for parameter in catalogs[rank].parameters:
            index = layers.setdefault(_key(parameter), len(layers))
            if index == len(described):
                name = parameter.name if parameter.name not in named else f"{parameter.name} (rank {rank})"
                named.add(name)
                described.append((name, parameter.module_type, parameter.depth, parameter.numel, parameter.dtype))
                shards.append(set())
                shard_counts.append(1)
                partial.append(False)
            shards[index].add(parameter.shard_id)
            shard_counts[index] = max(shard_counts[index], parameter.shard_count)
            partial[index] |= parameter.composition is Composition.PARTIAL
    numbers = {
        (index, shard): number
        for number, (index, shard) in enumerate(
            (index, shard) for index, ids in enumerate(shards) for shard in sorted(ids)
        )
    }
    slots = {
        rank: np.array([numbers[layers[_key(each)], each.shard_id] for each in catalogs[rank].parameters], np.int64)
        for rank in ranks
    }
    sizes = np.array([len(ids) for ids in shards], np.int64)
    names, module_types, depths, numels, dtypes = zip(*described, strict=True) if described else ((),) * 5
    layout = Layout(
        world_size=world_size,
        names=names,
        module_types=module_types,
        depths=depths,
        numels=numels,
        dtypes=dtypes,
        hostnames=tuple(hostnames.get(rank, "") if rank in catalogs else "" for rank in range(world_size)),
    )
    covered = sizes >= np.array(shard_counts, np.int64)
    whole = len(sizes) == len(numbers) and bool(covered.all())
    return Plan(
        layout=layout,
        slots=slots,
        first_slots=np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64) if len(sizes) else sizes,
        slot_layers=np.repeat(np.arange(len(sizes), dtype=np.int64), sizes),
        covered=covered,
        partial=np.array(partial, np.bool_),
        groups=_groups(slots, len(numbers)),
        twins=_twins(slots),
        straight=frozenset(rank for rank in ranks if whole and np.array_equal(slots[rank], np.arange(len(sizes)))),
    )


def _key(parameter: Parameter) -> _Key:
    return (parameter.tied_group, None) if parameter.tied_group else (parameter.name, parameter.shape)


def _groups(slots: Mapping[int, Int64], slot_count: int) -> tuple[tuple[int, ...], ...]:
    held: dict[bytes, list[int]] = {}
    for rank, own in slots.items():
        held.setdefault(np.unique(own).tobytes(), []).append(rank)
    covered = sum(len(np.frombuffer(key, np.int64)) for key in held)
    if covered != slot_count:  # more: groups overlap; fewer cannot be
        return ()
    return tuple(tuple(ranks) for ranks in held.values())


def _twins(slots: Mapping[int, Int64]) -> tuple[tuple[int, ...], ...]:
    held: dict[bytes, list[int]] = {}
    for rank, own in slots.items():
        held.setdefault(own.tobytes(), []).append(rank)
    return tuple(tuple(ranks) for ranks in held.values() if len(ranks) > 1)
