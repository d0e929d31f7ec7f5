"""Libraries that only reading or writing certain files needs."""

from __future__ import annotations

import importlib
from typing import Any

from seismograd_server.errors import UsageError


def required(module: str, purpose: str) -> Any:
    """A module that may not be installed.

    Raises:
        UsageError: it is not; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f'{purpose} need {module.partition(".")[0]}: pip install "seismograd[transfer]"') from error
