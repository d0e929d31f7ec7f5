"""Finds the model to which parameters belong, in a program that has not shown it to us."""

from __future__ import annotations

import gc
from collections.abc import Collection

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def model_of(parameters: Collection[Tensor]) -> nn.Module | None:
    """The outermost module that has these parameters; several models become parts of one, under their classes' names.

    None when no module has any. Looks at every object of the process, which takes a tenth of a second: once is fine.
    """
    wanted = {id(parameter) for parameter in parameters}
    coverage = [(root, wanted & {id(p) for p in root.parameters()}) for root in _roots()]
    chosen: list[nn.Module] = []
    # The order must not depend on the garbage collector: all ranks have to name the parameters alike.
    for root, covered in sorted(coverage, key=lambda each: _rank(*each)):
        if covered & wanted:
            chosen.append(root)
            wanted -= covered
    if len(chosen) <= 1:
        return chosen[0] if chosen else None
    together = nn.Module()
    for root in chosen:
        name = type(root).__name__
        taken = sum(1 for each in chosen[: chosen.index(root)] if type(each).__name__ == name)
        together.add_module(f"{name}{taken + 1}" if taken else name, root)
    return together


def _roots() -> list[nn.Module]:
    """Modules that are part of no other."""
    # The class is asked, not the object: proxies may do anything when they are asked what they are.
    modules = [found for found in gc.get_objects() if issubclass(type(found), nn.Module)]
    parts = {id(part) for module in modules for part in (module.__dict__.get("_modules") or {}).values()}
    return [module for module in modules if id(module) not in parts and "_parameters" in module.__dict__]


def _rank(root: nn.Module, covered: set[int]) -> tuple[int, bool, bool, str]:
    """The module that has most goes first, then DDP, then what somebody has written rather than put together."""
    kind = type(root)
    from_torch = kind.__module__.startswith("torch.")
    return (
        -len(covered),
        not isinstance(root, DistributedDataParallel),
        from_torch,
        f"{kind.__module__}.{kind.__name__}",
    )
