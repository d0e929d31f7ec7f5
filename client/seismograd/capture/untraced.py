"""Keeps torch.compile out of our code, wherever the program calls it from.

    @torch.compile
    def step():
        optimizer.step()      # our hooks are called as they are, and so is everything that they call

The mark that torch's compiler knows keeps a function out of the graph that it traces. Called then, between two pieces
of that graph, the function would be compiled by itself, with all that it calls: seconds of compilation, warnings in
somebody's terminal, and so many variants that the compiler gives up on functions of torch that the program needs.
`torch.compiler.disable` says no to that as well, but costs a second of imports in programs that compile nothing.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def _imported() -> object:
    """For a torch that does not say whether it compiles: whoever compiles has imported the compiler."""
    return sys.modules.get("torch._dynamo")


def _find_compiler() -> Callable[[], object]:
    """A function that gives None where nothing is compiled.

    There is no public one; `torch.compiler.is_compiling` tells of tracing only. That of torch 2.6 and 2.7 must not be
    called: it gives away a reference that it does not have, so that None is freed, and the process ends, some ten
    thousand steps later.
    """
    if torch.__version__ < "2.8":  # compared as versions are
        return _imported
    evaluation = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)  # noqa: SLF001 - see above
    found: Callable[[], object] = getattr(evaluation, "get_eval_frame_callback", _imported)
    return found


_compiler = _find_compiler()


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called as it is."""

    @functools.wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        if _compiler() is None:
            return function(*arguments, **keywords)
        return _without_compiler()(function, *arguments, **keywords)  # type: ignore[no-any-return]  # what the function gives

    call.__dict__["_torchdynamo_disable"] = True
    call.__dict__["_torchdynamo_disable_msg"] = "seismograd takes its norms here, outside of the compiled graph"
    return call


@functools.cache
def _without_compiler() -> Callable[..., Any]:
    """Made when there is a compiler, so that its import costs nothing."""
    with contextlib.suppress(AttributeError):  # without it the wrapper is compiled once, which is all there is to it
        torch._dynamo.decorators.skip(untraced(_call))  # noqa: SLF001 - all that `untraced` gives are one piece of code
    return torch.compiler.disable(_call)  # type: ignore[no-any-return]  # of the same type as what it is given


def _call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    return function(*arguments, **keywords)
