"""Where torch keeps its clipping functions, and how to put others there and take them away again.

torch wraps each of them in a closure (`_no_grad`). Whoever imported the wrapper early still calls what its cell holds,
so the cell is the seat that reaches everybody. Where a version of torch is built differently, the names in the modules
are the seats: they reach those who look the function up when they call it.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.utils.clip_grad

Function = Callable[..., Any]

# The leading parameters that each function must have for a replacement to be understood.
_SHAPES: dict[str, tuple[str, ...]] = {
    "clip_grad_norm_": ("parameters", "max_norm", "norm_type", "error_if_nonfinite", "foreach"),
    "_get_total_norm": ("tensors", "norm_type", "error_if_nonfinite", "foreach"),
    "_clip_grads_with_norm_": ("parameters", "max_norm", "total_norm", "foreach"),
    "clip_grad_value_": ("parameters", "clip_value", "foreach"),
}
# The mark on our replacements: it leads back to torch's own.
_MARK = "seismograd_original"


def original(name: str) -> Function:
    """The function of torch without its `no_grad` wrapper, also while it is replaced. KeyError where torch has none."""
    wrapper = getattr(torch.nn.utils.clip_grad, name, None)
    if wrapper is None:
        raise KeyError(name)
    cell = _cell(wrapper, name)
    function = wrapper if cell is None else cell.cell_contents
    return getattr(function, _MARK, function)  # type: ignore[no-any-return]  # a function or torch's own


def has_expected_shape(name: str) -> bool:
    """Whether this torch has the function, with the parameters that a replacement expects."""
    try:
        parameters = tuple(inspect.signature(original(name)).parameters)
    except (KeyError, TypeError, ValueError):
        return False
    return parameters == _SHAPES[name]


def _cell(wrapper: Function, name: str) -> types.CellType | None:
    """The cell of the `no_grad` wrapper that holds the function; None when the wrapper is built differently."""
    cells: Sequence[types.CellType] = getattr(wrapper, "__closure__", None) or ()
    if len(cells) != 1 or not isinstance(wrapper, types.FunctionType) or wrapper.__code__.co_freevars != ("func",):
        return None
    contents = cells[0].cell_contents
    inner = getattr(contents, _MARK, contents)
    return cells[0] if getattr(inner, "__name__", None) == name else None


class Seat:
    """One function of torch, replaced from construction to `restore()`."""

    def __init__(self, name: str, replacement: Function) -> None:
        setattr(replacement, _MARK, original(name))
        self._original = original(name)
        self._replacement = replacement
        module = torch.nn.utils.clip_grad
        self._cell = _cell(getattr(module, name), name)
        self._names: list[tuple[types.ModuleType, str]] = []
        if self._cell is not None:
            self._cell.cell_contents = replacement
            return
        wrapped = torch.no_grad()(replacement)
        setattr(wrapped, _MARK, self._original)
        self._replacement = wrapped
        public = name.removeprefix("_")
        for place, attribute in ((module, name), (torch.nn.utils, public)):
            if getattr(place, attribute, None) is not None:
                setattr(place, attribute, wrapped)
                self._names.append((place, attribute))

    def restore(self) -> None:
        """Puts torch's own function back, unless somebody else has taken the seat since."""
        if self._cell is not None and self._cell.cell_contents is self._replacement:
            self._cell.cell_contents = self._original
        for place, attribute in self._names:
            if getattr(place, attribute) is self._replacement:
                setattr(place, attribute, self._original)
