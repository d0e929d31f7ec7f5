"""FSDP1: its own clip is listened to for as long as somebody watches. Its norms are held to one process's elsewhere."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from seismograd.capture.flat import is_flattening, slices_of
from seismograd.capture.flat_clip import FlatClipInterception


def test_the_method_is_as_it_was_afterwards() -> None:
    before = FullyShardedDataParallel.clip_grad_norm_
    interception = FlatClipInterception()
    assert FullyShardedDataParallel.clip_grad_norm_ is not before
    interception.restore()
    assert FullyShardedDataParallel.clip_grad_norm_ is before


def test_who_has_replaced_it_since_is_left_alone() -> None:
    before = FullyShardedDataParallel.clip_grad_norm_
    first = FlatClipInterception()
    second = FlatClipInterception()
    first.restore()
    assert FullyShardedDataParallel.clip_grad_norm_ is not before
    second.restore()
    assert FullyShardedDataParallel.clip_grad_norm_ is before


def test_a_model_without_it_has_no_slices() -> None:
    model = nn.Linear(2, 2)
    assert not is_flattening(model)
    assert slices_of(model) == {}
    assert slices_of(None) == {}
