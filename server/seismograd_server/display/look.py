"""The style sheet and the script that pages and reports share."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


@cache
def shared_css() -> str:
    """Colours, severities and charts as CSS."""
    return (Path(__file__).parent / "look.css").read_text(encoding="utf-8")


@cache
def colours(name: str) -> tuple[str, str]:
    """A colour of the style sheet on light and on dark paper, for drawings that stand outside of a page."""
    light, dark, *_ = re.findall(rf"--{name}: (#\w+);", shared_css())
    return light, dark


@cache
def readout_script() -> str:
    """The script by which charts tell what is under the pointer."""
    return (Path(__file__).parent / "readout.js").read_text(encoding="utf-8")


def key_swatch(css_class: str) -> str:
    """A short piece of a curve for a legend."""
    if css_class == "broken":
        drawing = '<path class="broken" d="M8 2.5l5 5m0 -5l-5 5"/>'
    elif css_class == "incident":
        drawing = '<rect class="incident key-area" width="22" height="10"/>'
    else:
        drawing = f'<path class="{css_class}" d="M0 5H22"/>'
    return f'<svg class="key chart-key chart" viewBox="0 0 22 10" aria-hidden="true">{drawing}</svg>'
