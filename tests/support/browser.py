"""A real Chromium, and pages in it that remember whatever went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.processes import require_program

# A machine may be ten times slower than usual; what is right comes at once on any other.
_PATIENCE_MILLISECONDS = 60_000
expect.set_options(timeout=_PATIENCE_MILLISECONDS)


@dataclass
class Visit:
    """A page, what it complained of, and what it asked for from anywhere but its own server."""

    page: Page
    home: str
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    received: dict[str, int] = field(default_factory=dict)  # bytes by path

    def open(self, path: str) -> Page:
        """Goes to a path of the server."""
        self.page.goto(f"{self.home}{path}")
        return self.page

    def assert_clean(self) -> None:
        """Nothing was written to the console, no script failed, and nobody else was asked for anything."""
        assert self.complaints == []
        assert self.elsewhere == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser. It runs an event loop in this thread: other modules, which start their own, must not see it."""
    program = require_program("chromium", "chromium")
    with sync_playwright() as playwright:
        # Tests may run as root in a container, where Chromium's own sandbox cannot be set up.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Call it with the address of a server, and what a browser's context takes; it gives a page that is still empty."""
    contexts = []

    def begin(home: str, **settings: Any) -> Visit:
        context = chromium.new_context(viewport={"width": 1200, "height": 900}, **settings)
        context.set_default_timeout(_PATIENCE_MILLISECONDS)
        contexts.append(context)
        made = Visit(context.new_page(), home)
        made.page.on("console", lambda message: made.complaints.append(f"{message.type}: {message.text}"))
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on("dialog", lambda dialog: made.complaints.append(f"dialog: {dialog.message}"))
        made.page.on("request", lambda request: _note_request(made, request.url))
        made.page.on("response", lambda response: _note_response(made, response))
        return made

    yield begin
    for context in contexts:
        context.close()


def _note_request(visit: Visit, url: str) -> None:
    if urlsplit(url).netloc != urlsplit(visit.home).netloc:
        visit.elsewhere.append(url)


def _note_response(visit: Visit, response: Any) -> None:
    if response.status == 200:
        visit.received[urlsplit(response.url).path] = len(response.body())
