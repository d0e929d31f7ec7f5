"""Which piece of a tensor a process holds: for every mesh, the pieces are disjoint, complete, and copied alike."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor._ops._math_ops import _NormPartial
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from seismograd.capture.pieces import WHOLE, Piece, Pieces, belongs_here, is_sharded, local, piece_at

CUTS = (Shard(0), Shard(1), _StridedShard(0, split_factor=2), _NormPartial(2))
MESHES = st.lists(st.tuples(st.integers(1, 4), st.sampled_from((*CUTS, Replicate()))), min_size=1, max_size=3)


@given(MESHES)
def test_on_every_mesh_each_shard_is_held_by_as_many_as_it_has_replicas(mesh: list[tuple[int, Placement]]) -> None:
    sizes, placements = [size for size, _ in mesh], [placement for _, placement in mesh]
    everywhere = [piece_at(place, sizes, placements) for place in itertools.product(*map(range, sizes))]

    assert len(set(everywhere)) == math.prod(sizes), "no two processes claim the same replica of the same shard"
    first = everywhere[0]
    assert {(piece.shard_count, piece.replication, piece.partial) for piece in everywhere} == {
        (first.shard_count, first.replication, False)
    }
    held = Counter(piece.shard_id for piece in everywhere)
    assert held == dict.fromkeys(range(first.shard_count), first.replication)


def test_a_summand_is_a_partial_piece_whatever_else_cuts_it() -> None:
    assert piece_at([1], [2], [Partial()]) == Piece(partial=True)
    assert piece_at([1, 1], [2, 3], [Partial(), Shard(0)]) == Piece(shard_id=1, shard_count=3, partial=True)
    assert piece_at([1], [2], [Partial("avg")]).partial


def test_replicas_of_a_whole_group_multiply_those_within() -> None:
    inner = Piece(shard_id=1, shard_count=2, replica_index=1, replication=2)
    assert inner.repeated(2, 3) == Piece(1, 2, replica_index=5, replication=6)


def test_a_plain_tensor_is_whole() -> None:
    tensor = torch.ones(3, requires_grad=True)
    assert Pieces().of(tensor) is WHOLE
    assert local(tensor) is tensor
    assert belongs_here(tensor)
    assert not is_sharded(tensor)
