"""What the forms of the pages do; each leads back to the page that it stands on."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from seismograd_server.alerts.silencing import literal
from seismograd_server.errors import UsageError
from seismograd_server.model import RunKey, Silence, Verdict
from seismograd_server.pipeline.people import People
from seismograd_server.web.answers import Turns
from seismograd_server.web.bodies import BODY_BYTES, signature_of, small_body
from seismograd_server.web.links import run_path


class Forms:
    """The routes that a button leads to."""

    def __init__(self, people: People, *, turns: Turns) -> None:
        self._people = people
        self._turns = turns

    async def acknowledge(self, request: Request) -> Response:
        """POST /alerts/{id}/ack: acknowledges from the form of a run page, and leads back to it."""
        fields = await fields_of(request)
        alert_id, person = request.path_params["alert_id"], _person(fields)
        alert = await self._turns(lambda: self._people.acknowledge(alert_id, person, fields.get("note", "")))
        return _back(run_path(alert.key))

    async def verdict(self, request: Request) -> Response:
        """POST /alerts/{id}/verdict: calls an alert right or wrong from the form of its run, and leads back to it."""
        fields = await fields_of(request)
        alert_id, person = request.path_params["alert_id"], _person(fields)
        try:
            verdict = Verdict(fields.get("verdict", ""))
        except ValueError:
            raise UsageError("verdict: is right or wrong") from None
        alert = await self._turns(lambda: self._people.judge(alert_id, verdict, person, fields.get("note", "")))
        return _back(run_path(alert.key))

    async def silence(self, request: Request) -> Response:
        """POST /silences: silences a run for some hours from the form of its page, and leads back to it."""
        fields = await fields_of(request)
        try:
            seconds = 3600.0 * float(fields.get("hours", ""))
        except ValueError:
            raise UsageError("hours: is a number") from None
        key = RunKey(fields.get("project", ""), fields.get("run", ""))
        wanted = Silence(
            silence_id="",
            author=_person(fields),
            reason=fields.get("reason", ""),
            created_at=0.0,
            expires_at=0.0,
            project=key.project,
            run=literal(key.run),
            signature=signature_of(fields.get("signature", "")),
        )
        await self._turns(lambda: self._people.silence(wanted, seconds))
        return _back(run_path(key))

    async def end_silence(self, request: Request) -> Response:
        """POST /silences/{id}/expire: ends a silence from the form of the first page, and leads back to it."""
        silence_id, person = request.path_params["silence_id"], _person(await fields_of(request))
        await self._turns(lambda: self._people.end_silence(silence_id, person))
        return _back("/")


async def fields_of(request: Request, most: int = BODY_BYTES) -> dict[str, str]:
    """The fields of a form, without the space around what was written.

    Raises:
        UsageError: the body is longer than `most` bytes.
    """
    found = parse_qs((await small_body(request, most)).decode("utf-8", errors="replace"))
    return {name: values[0].strip() for name, values in found.items()}


def _person(fields: dict[str, str]) -> str:
    person = fields.get("by", "")[:200]
    if not person:
        raise UsageError("by: write your name beside the button")
    return person


def _back(path: str) -> Response:
    return RedirectResponse(path, status_code=303)
