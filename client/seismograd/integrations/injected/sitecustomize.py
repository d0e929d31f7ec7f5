"""Alone in this folder, which `seismograd run` puts first on PYTHONPATH: Python imports it before the program begins.

It waits for the program to import torch; a program that never does is not slowed down. Whatever fails is one line on
stderr. The `sitecustomize` that this one hides is imported as if this one were not there.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Sequence

_AWAITED = "torch"


def _begin() -> None:
    try:
        from seismograd.integrations import autowatch  # noqa: PLC0415 - it imports torch, which is only now there

        autowatch.begin()
    except Exception as error:  # noqa: BLE001 - the program must run whether it can be watched or not
        sys.stderr.write(f"seismograd: this program is not watched: {type(error).__name__}: {error}\n")


class _Awaiting(importlib.abc.MetaPathFinder):
    """Finds torch as all others would, and begins once it has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The true spec of torch, whose loader tells us; None for all else."""
        if fullname != _AWAITED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            loader, load = spec.loader, spec.loader.exec_module

            def load_and_begin(module: types.ModuleType) -> None:
                del loader.exec_module  # only the instance's: the loader is as it was
                load(module)
                _begin()

            loader.exec_module = load_and_begin  # type: ignore[method-assign]  # of this one spec
        return spec


def _import_hidden() -> None:
    """Imports the `sitecustomize` that Python would have found without us."""
    here = os.path.realpath(os.path.dirname(__file__))  # noqa: PTH120 - pathlib would cost every program its import
    others = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if _AWAITED in sys.modules:
    _begin()
else:
    sys.meta_path.insert(0, _Awaiting())
_import_hidden()
