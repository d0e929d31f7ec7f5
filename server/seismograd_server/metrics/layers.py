"""Which layers of a run are exported: none unless asked for, and never more than sixty-four, for each is two series."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seismograd_server.model import LayerLevels

# A model has hundreds of layers and a fleet hundreds of runs: all of them belong into the store, not into Prometheus.
LAYERS_PER_RUN = 64


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """Those whose name matches, and of them the ones with the largest norms.

    Attributes:
        most: how many, up to LAYERS_PER_RUN.
        pattern: searched for in each layer's name; "" = all.
    """

    most: int = LAYERS_PER_RUN
    pattern: str = ""


class ShownLayer(NamedTuple):
    """One layer as it is exported; `deviation` is its norm over what is usual, None = not known."""

    name: str
    norm: float
    deviation: float | None


def parse_layers(text: object) -> LayerChoice | None:
    """Read `top_k:8`, `match:<regular expression>`, `all`, or `off` (nothing).

    Raises:
        ValueError: it is none of these.
    """
    if text is None or isinstance(text, LayerChoice):
        return text
    kind, _, argument = str(text).partition(":")
    if text in ("", "off"):
        return None
    if text == "all":
        return LayerChoice()
    if kind == "top_k" and argument.isascii() and argument.isdigit() and 1 <= int(argument) <= LAYERS_PER_RUN:
        return LayerChoice(most=int(argument))
    if kind == "match" and argument:
        try:
            re.compile(argument)
        except re.error as error:
            raise ValueError(f"match: is followed by a regular expression, and this is none: {error}") from error
        return LayerChoice(pattern=argument)
    raise ValueError(f"write off, top_k:N (1 to {LAYERS_PER_RUN}), match:REGEX or all")


def shown_layers(levels: LayerLevels | None, choice: LayerChoice | None) -> list[ShownLayer]:
    """The layers to export, the largest norm first; a layer whose norm is not known is not among them."""
    if levels is None or choice is None:
        return []
    norms, usual = levels.norms, levels.usual
    order = np.argsort(-norms, kind="stable")  # NaN last
    if choice.pattern:
        matches = re.compile(choice.pattern).search
        order = order[[matches(levels.names[index]) is not None for index in order.tolist()]]
    shown = order[: min(choice.most, LAYERS_PER_RUN)]
    return [
        ShownLayer(levels.names[index], norm, norm / usually if usually > 0 else None)
        for index, norm, usually in zip(shown.tolist(), norms[shown].tolist(), usual[shown].tolist(), strict=True)
        if norm == norm  # noqa: PLR0124 (NaN is not: a call for each layer costs more than the rest)
    ]
