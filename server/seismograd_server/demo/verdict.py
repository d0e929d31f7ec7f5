"""Whether the demo has shown what it promises. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from seismograd_server.demo.picture import Failure, Picture, SeenAlert, failure_of
from seismograd_server.demo.scenarios import HEALTHY_STEPS, PUSHED_STEPS, Scenario


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out; `problems` is empty when all went as promised."""

    failure: Failure | None
    alert: SeenAlert | None  # the first critical alert with the expected signature
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the alert came before the failure, and the healthy twin was silent."""
        return not self.problems

    @property
    def lead_steps(self) -> int | None:
        """How many steps before the failure the alert was critical."""
        if self.failure is None or self.alert is None or self.alert.critical_step is None:
            return None
        return self.failure.step - self.alert.critical_step


def judge(scenario: Scenario, healthy: Picture, pushed: Picture) -> Verdict:
    """Hold both runs against what the scenario promises."""
    failure = failure_of(pushed)
    critical = [each for each in pushed.alerts if each.critical_step is not None]
    expected = [each for each in critical if each.signature == scenario.signature]
    alert = min(expected, key=lambda each: each.critical_step or 0, default=None)
    problems = (*_healthy_problems(healthy), *_pushed_problems(scenario, pushed, failure, alert))
    return Verdict(failure, alert, problems)


def _healthy_problems(healthy: Picture) -> list[str]:
    problems = [
        f"the healthy twin had a {each.severity} {each.signature} at step {each.opened_step}: {each.reason}"
        for each in healthy.alerts
    ]
    if (failure := failure_of(healthy)) is not None:
        problems.append(f"the healthy twin failed at step {failure.step}: {failure.how}")
    if len(healthy.steps) != HEALTHY_STEPS:
        problems.append(f"the server has {len(healthy.steps)} of the healthy twin's {HEALTHY_STEPS} steps")
    return problems


def _pushed_problems(
    scenario: Scenario, pushed: Picture, failure: Failure | None, alert: SeenAlert | None
) -> list[str]:
    problems = []
    if failure is None:
        problems.append(f"the pushed run did not fail within {PUSHED_STEPS} steps (the server has {len(pushed.steps)})")
    if alert is None or alert.critical_step is None:
        seen = ", ".join(f"{each.severity} {each.signature} at step {each.opened_step}" for each in pushed.alerts)
        problems.append(f"the pushed run had no critical {scenario.signature}; its alerts: {seen or 'none'}")
        return problems
    if failure is not None and alert.critical_step >= failure.step:
        problems.append(
            f"the {scenario.signature} was critical at step {alert.critical_step}, not before the failure at step "
            f"{failure.step}"
        )
    if scenario.rank is not None and alert.leading_rank != scenario.rank:
        named = "no rank" if alert.leading_rank is None else f"rank {alert.leading_rank}"
        problems.append(f"the {scenario.signature} names {named}, but rank {scenario.rank} is to blame")
    return problems
