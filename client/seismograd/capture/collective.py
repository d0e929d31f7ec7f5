"""The only collective there is: ranks agree on a yes or no, in the user's own call."""

from __future__ import annotations

import torch
import torch.distributed

from seismograd.capture.placement import is_distributed


def any_rank(flag: bool) -> bool:
    """Whether any rank says yes. Every rank must call it; with one rank, and without a process group, it is local."""
    if not is_distributed() or torch.distributed.get_world_size() == 1:
        return flag
    on_device = torch.distributed.get_backend() == torch.distributed.Backend.NCCL
    vote = torch.tensor([int(flag)], dtype=torch.int32, device="cuda" if on_device else "cpu")
    torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
    return bool(vote.item())
