"""The demo from beginning to end: a server, a healthy run, a pushed run, the verdict, the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seismograd_server.commands.remote import Remote
from seismograd_server.demo.display import Screen
from seismograd_server.demo.observer import PROJECT, Observer
from seismograd_server.demo.picture import Picture
from seismograd_server.demo.processes import TRAINING_FAILED, WORLD_SIZE, Child, ChildError, Children
from seismograd_server.demo.scenarios import HEALTHY_STEPS, Scenario
from seismograd_server.demo.verdict import Verdict, judge
from seismograd_server.errors import UsageError

# How often the server is asked: alerts are shown as they fire, and the trainers keep their two cores.
_LOOK_SECONDS = 0.25
# A run takes about ten seconds on two cores; this is for machines that are much slower, or hang.
_RUN_SECONDS = 300.0
# The ranks say goodbye within two seconds; the server then closes what it has.
_END_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo leaves behind."""

    scenario: Scenario
    healthy: Picture
    pushed: Picture
    verdict: Verdict
    report: Path
    alert_after_seconds: float | None  # from the start of the demo until the expected alert was known here
    seconds: float


class Story:
    """One demo against a server that is ready."""

    def __init__(self, children: Children, server: Child, address: str, observer: Observer, screen: Screen) -> None:
        self._children = children
        self._server = server
        self._address = address
        self._observer = observer
        self._screen = screen
        self._pictures: list[Picture] = []
        self._alerts: dict[str, float] = {}  # when each became known, by its id; seconds of the monotonic clock

    def play(self, scenario: Scenario, seed: int, data_directory: Path, began: float) -> Outcome:
        """Train both twins and judge; `began` is the monotonic clock at the start of the demo.

        Raises:
            ChildError: a process ended as it should not, or not at all.
        """
        number = self._observer.next_number(scenario.name)
        common = ("--server", self._address, "--project", PROJECT, "--seed", str(seed))
        self._screen.say(f"{scenario.model} on two ranks: a healthy twin first")
        healthy = self._train(scenario, f"{scenario.name}-{number}-healthy", (*common, "--steps", str(HEALTHY_STEPS)))
        self._screen.say(f"the same model with {scenario.push}")
        pushed = self._train(scenario, f"{scenario.name}-{number}-pushed", (*common, *scenario.settings))
        report = data_directory / f"postmortem-{pushed.run}.html"
        self._observer.write_postmortem(pushed.run, report)
        verdict = judge(scenario, healthy, pushed)
        known_at = self._alerts[verdict.alert.alert_id] if verdict.alert else None
        after = None if known_at is None else known_at - began
        return Outcome(scenario, healthy, pushed, verdict, report, after, time.monotonic() - began)

    def _train(self, scenario: Scenario, run: str, arguments: Sequence[str]) -> Picture:
        ranks = self._children.start_ranks(scenario.module, run, arguments)
        self._watch(run, _RUN_SECONDS, lambda picture: picture.over or self._ended(ranks), ranks)
        for rank in ranks:
            if not rank.ended_within(_END_SECONDS):
                raise ChildError(f"{rank.name} did not end within {_END_SECONDS:.0f} s of its training", rank.tail())
        self._ended(ranks)
        return self._watch(run, _END_SECONDS, lambda picture: picture.over, ranks)

    def _watch(self, run: str, seconds: float, done: Callable[[Picture], bool], ranks: Sequence[Child]) -> Picture:
        """Look at a run until it is `done`, and show it."""
        deadline = time.monotonic() + seconds
        while True:
            picture = self._observer.look(run)
            self._show(picture)
            if done(picture):
                return picture
            if time.monotonic() > deadline:
                raise ChildError(f"{run} had not ended after {seconds:.0f} s", ranks[0].tail())
            # Nothing tells when the next steps are there; a server that dies meanwhile is noticed at once.
            if self._server.ended_within(_LOOK_SECONDS):
                raise self._server.failed()

    def _show(self, picture: Picture) -> None:
        if self._pictures and self._pictures[-1].run == picture.run:
            self._pictures[-1] = picture
        else:
            self._pictures.append(picture)
        for alert in picture.alerts:
            if alert.alert_id not in self._alerts:
                self._alerts[alert.alert_id] = time.monotonic()
                if not alert.inhibited:
                    self._screen.alert(picture.run, alert)
        self._screen.update(self._pictures)

    @staticmethod
    def _ended(ranks: Sequence[Child]) -> bool:
        """Whether all ranks have ended; raises when one did in a way that no training ends."""
        codes = [rank.process.poll() for rank in ranks]
        for rank, code in zip(ranks, codes, strict=True):
            if code not in {None, 0, TRAINING_FAILED}:
                raise rank.failed()
        return None not in codes


def run_demo(
    scenario: Scenario,
    data_directory: Path,
    screen: Screen,
    *,
    seed: int,
    afterwards: Callable[[Outcome, str, Child], None],
) -> Outcome:
    """Play a scenario against a server of its own; `afterwards` is called while the server is still up, with its URL.

    Raises:
        UsageError: the data directory cannot be written.
        ChildError: a process ended as it should not.
    """
    began = time.monotonic()
    logs = data_directory / "demo-logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{data_directory} cannot be written ({error.strerror}): name another --data-dir") from error
    with Children(logs) as children:
        with screen:
            server, ready = children.start_server(data_directory)
            screen.say(
                f"server ready: pages and metrics at {ready['http']}, {WORLD_SIZE} ranks ship to {ready['grpc']}"
            )
            with Remote(ready["http"]) as remote:
                story = Story(children, server, ready["grpc"], Observer(remote), screen)
                outcome = story.play(scenario, seed, data_directory, began)
        afterwards(outcome, ready["http"], server)
    return outcome
