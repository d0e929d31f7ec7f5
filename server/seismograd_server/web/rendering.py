"""Templates to pages. What stands in them is escaped, and every invisible character in a name is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from seismograd_server.display.numbers import figure, timestamp
from seismograd_server.display.text import printable
from seismograd_server.web.links import compare_name, run_path

_TEMPLATES = Path(__file__).parent / "templates"
# How often a page with something live on it fetches itself again: people see a step within two seconds.
REFRESH_SECONDS = 2


class Renderer:
    """Makes answers of templates."""

    def __init__(self) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["shown"] = lambda value: printable(str(value))
        self._environment.filters["figure"] = figure
        self._environment.filters["steps"] = lambda value: "–" if value is None else f"{value:,}"
        self._environment.filters["timestamp"] = timestamp
        self._environment.filters["run_path"] = run_path
        self._environment.filters["compare_name"] = compare_name

    def page(self, template: str, values: dict[str, Any], status: int = 200) -> Response:
        """A page. `values` has a title, `refresh` (seconds, None = nothing on it changes) and what its template needs.

        `here` says which entry of the navigation it is, if it is one.
        """
        text = self._environment.get_template(template).render(**{"here": "", **values})
        return HTMLResponse(text.encode("utf-8", errors="backslashreplace"), status)


def drawn(svg: str) -> Markup:
    """A drawing of ours as it stands."""
    return Markup(svg)  # noqa: S704 - drawings escape every text they hold (display.svg.escaped)
