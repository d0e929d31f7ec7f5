"""The order in which modules run, seen once in the first forward pass by hooks that remove themselves.

A model that is compiled is left alone: with the hooks it would be compiled once, and without them a second time. Its
modules count as running in the order of their registration.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from seismograd.capture.layout import unwrap


class ForwardOrder:
    """Watches the modules that own parameters until `close()`. `places` maps id(module) to its place, where known.

    A copy or a pickle of the model made meanwhile carries a hook that does nothing.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.places: dict[int, int] = {}
        self._handles: list[RemovableHandle] = []
        for module in () if model is None or _is_compiled(model) else unwrap(model).modules():
            if (
                next(module.parameters(recurse=False), None) is not None
                and type(module).__name__ != "RecursiveScriptModule"
            ):
                self._handles.append(module.register_forward_pre_hook(_Note(self.places)))

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has got it, or a part of it."""
    return any(
        "_orig_mod" in module.__dict__.get("_modules", ()) or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


class _Note:
    """The hook: notes a module's first call."""

    # torch.compile reads this: the hook is called as it is, not traced into the user's graph.
    _torchdynamo_disable = True

    def __init__(self, places: dict[int, int] | None = None) -> None:
        self._places = places

    def __call__(self, module: nn.Module, _arguments: object) -> None:
        if self._places is not None:
            self._places.setdefault(id(module), len(self._places))

    def __deepcopy__(self, _memo: object) -> _Note:
        return _Note()

    def __reduce__(self) -> tuple[type[_Note], tuple[Any, ...]]:
        return (_Note, ())
