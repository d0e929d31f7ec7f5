"""The page of the rules: those in force, every key there is, and what others would have found in the latest runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.display.numbers import share
from seismograd_server.display.text import plural
from seismograd_server.errors import SeismogradError
from seismograd_server.model import RunKey
from seismograd_server.reading.backtest import Judged, backtest_stored, judged_alerts
from seismograd_server.reading.encoding import Json
from seismograd_server.rules.file import RulesInForce
from seismograd_server.rules.parse import RulesError, parse
from seismograd_server.rules.ruleset import Rules
from seismograd_server.rules.schema import documented_defaults
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns
from seismograd_server.web.bodies import RULES_BYTES
from seismograd_server.web.forms import fields_of
from seismograd_server.web.rendering import Renderer

# Runs judged again for one look: a second or so each for a long one. All of them is what the command is for.
_RUNS_JUDGED = 10
# A character of a form takes three bytes at most.
_FORM_BYTES = 3 * RULES_BYTES


@dataclass(frozen=True, slots=True)
class _Trial:
    """What somebody has written into the form."""

    text: str
    search: str


class RulesPage:
    """The routes."""

    def __init__(
        self, database: Database, in_force: Callable[[], RulesInForce], renderer: Renderer, *, turns: Turns
    ) -> None:
        self._database = database
        self._in_force = in_force
        self._renderer = renderer
        self._turns = turns
        # As in the API: judging takes a core, and readers must not wait for it.
        self._one = asyncio.Semaphore(1)

    async def rules(self, _request: Request) -> Response:
        """GET /rules: what is looked for, and a form to try other rules on stored runs."""
        now = self._in_force()
        return self._page(now, _Trial(now.text, ""), None, [])

    async def try_rules(self, request: Request) -> Response:
        """POST /rules: what the rules of the form would have found in the latest runs, beside what was found."""
        fields = await fields_of(request, _FORM_BYTES)
        trial = _Trial(fields.get("rules", "").replace("\r\n", "\n"), fields.get("search", ""))
        try:
            rules = parse(trial.text, "rules")
        except RulesError as error:
            return self._page(self._in_force(), trial, None, list(error.problems), 400)
        async with self._one:
            answers, problems = await self._turns(lambda: self._judged(rules, trial.search))
        return self._page(self._in_force(), trial, answers, problems)

    def _judged(self, rules: Rules, search: str) -> tuple[list[Json], list[str]]:
        with self._database.read() as transaction:
            runs = transaction.runs.list(limit=_RUNS_JUDGED, search=search)
        answers: list[Json] = []
        problems: list[str] = []
        for run in runs:
            try:
                answers.append(backtest_stored(self._database, run.key, rules))
            except SeismogradError as error:  # a run that cannot be read costs no other its answer
                problems.append(f"{run.key}: {error}")
        return answers, problems

    def _page(
        self, now: RulesInForce, trial: _Trial, answers: list[Json] | None, problems: list[str], status: int = 200
    ) -> Response:
        values: dict[str, Any] = {
            "title": "Rules",
            "here": "rules",
            "refresh": None,
            "in_force": now,
            "trial": trial,
            "every_key": documented_defaults(),
            "problems": problems,
            "judged": None if answers is None else _summary(answers),
            "rows": [row for answer in answers or [] for row in _rows(answer)],
            "verdicts": [_verdict_row(each) for each in judged_alerts(answers or [])],
            "runs_judged": _RUNS_JUDGED,
        }
        return self._renderer.page("rules.html", values, status)


def _rows(answer: Json) -> list[dict[str, Any]]:
    key = RunKey(answer["project"], answer["run"])
    failed = [{"key": key, "failure": failure} for failure in answer["failures"]]
    return failed + [{"key": key, "failure": "", **each} for each in answer["findings"]]


def _verdict_row(judged: Judged) -> dict[str, Any]:
    before, after = judged.precision
    return {"judged": judged, "before": share(before), "after": "–" if after is None else share(after)}


def _summary(answers: list[Json]) -> str:
    verdicts = Counter(each["verdict"] for answer in answers for each in answer["findings"])
    counted = ", ".join(f"{verdicts[verdict]:,} {verdict}" for verdict in ("new", "gone", "changed", "same"))
    steps = sum(answer["steps"] for answer in answers)
    return f"{plural(steps, 'step')} of {plural(len(answers), 'run')} judged again. Alerts: {counted}."
