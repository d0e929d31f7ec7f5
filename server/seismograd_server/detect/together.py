"""Many runs looked at together: what is calm costs a fraction of what it costs run by run.

    foresee all --> detector after detector: which runs may pass unseen? --> these take their steps in
                                      |
                                      '--> the others are looked at, one by one

Each piece of code goes through all runs before the next one does, so that it is in the processor's caches: run by run,
every call would wait for its code. Findings and state of each run are, to the last bit, what `RunWatch.look` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seismograd_server.detect.context import Context
from seismograd_server.detect.depth_growth import DepthGrowthDetector
from seismograd_server.detect.facts import Facts
from seismograd_server.detect.signature import Detector
from seismograd_server.detect.stretch import Stretch, foresee_all, take_in
from seismograd_server.detect.watch import REACH_STEPS, Observation, RunWatch

# So many runs are looked at together at least: for fewer, numpy's calls cost more than they save.
_WORTH_RUNS = 4


def look_together(watches: Sequence[RunWatch], facts: Sequence[Facts]) -> list[Observation | Exception]:
    """What each watch says of its facts, as `RunWatch.look`; where one raises, the exception stands in its place.

    A watch may come several times, its blocks in order. All blocks are cut from the same columns (`facts_of`).
    """
    foreseen = _foresee(watches, facts)
    idle = _idle([_Passing(number, *watches[number].passers(), each) for number, each in foreseen.items()])
    _take_in(idle)
    passed = {one.number: one for one in idle}
    said: list[Observation | Exception] = []
    for number, (watch, each) in enumerate(zip(watches, facts, strict=True)):
        if one := passed.get(number):
            said.append(one.failure or Observation((), one.stretch.norm.centers))
            continue
        try:
            said.append(watch.look(each, foreseen.get(number)))
        except Exception as error:  # noqa: BLE001 (one run's trouble must not stop the others)
            said.append(error)
    return said


@dataclass(slots=True, eq=False)
class _Passing:
    """A run that may pass unseen with the whole of its next block."""

    number: int
    context: Context
    detectors: tuple[Detector, ...]
    stretch: Stretch
    failure: Exception | None = None

    def is_idle(self, place: int) -> bool:
        """Whether the detector in this place would not tell anything; one that fails is to be heard later."""
        try:
            return self.detectors[place].idle(self.stretch, self.context) == self.stretch.count
        except Exception:  # noqa: BLE001 (it fails again when the run is looked at by itself)
            return False


def _foresee(watches: Sequence[RunWatch], facts: Sequence[Facts]) -> dict[int, Stretch]:
    """What is foreseen, by the number of the block: of the first one of each watch, where all of it is calm."""
    first = {id(watch): number for number, watch in reversed(list(enumerate(watches))) if watch.may_pass}
    numbers = sorted(first.values())
    if len(numbers) < _WORTH_RUNS:
        return {}
    contexts = [watches[number].passers()[0] for number in numbers]
    stretches = foresee_all(contexts, [facts[number] for number in numbers], REACH_STEPS)
    return {number: each for number, each in zip(numbers, stretches, strict=True) if each is not None}


def _idle(runs: Sequence[_Passing]) -> list[_Passing]:
    """Those whose detectors would not tell anything in the whole stretch; nothing of them is changed."""
    by_number_of_detectors: dict[int, list[_Passing]] = {}  # some signatures may be muted
    for one in runs:
        by_number_of_detectors.setdefault(len(one.detectors), []).append(one)
    found = []
    for count, group in by_number_of_detectors.items():
        still = group
        for place in range(count):
            try:
                idle = _idle_steps(still, place)
                still = [one for one, steps in zip(still, idle, strict=True) if steps == one.stretch.count]
            except Exception:  # noqa: BLE001 (of one of them: to find out whose costs more)
                still = [one for one in still if one.is_idle(place)]
        found += still
    return found


def _idle_steps(runs: Sequence[_Passing], place: int) -> list[int]:
    """Of how many steps each run's detector in this place has nothing to tell; asked together, where it can be."""
    detectors = [one.detectors[place] for one in runs]
    if detectors and isinstance(detectors[0], DepthGrowthDetector):
        of_growth = [each for each in detectors if isinstance(each, DepthGrowthDetector)]
        if len(of_growth) == len(runs):  # others may have other signatures muted
            return DepthGrowthDetector.idle_all(of_growth, [one.stretch for one in runs])
    return [each.idle(one.stretch, one.context) for each, one in zip(detectors, runs, strict=True)]


def _take_in(runs: Sequence[_Passing]) -> None:
    """Let all of them take their stretch in. Whoever fails is not to be used any more."""
    for one in runs:
        try:
            take_in(one.context, one.stretch)
        except Exception as error:  # noqa: BLE001 (one run's trouble must not stop the others)
            one.failure = error
    for place in range(max((len(one.detectors) for one in runs), default=0)):
        for one in runs:
            try:
                if place < len(one.detectors):
                    one.detectors[place].skip(one.stretch)
            except Exception as error:  # noqa: BLE001 (as above)
                one.failure = error
