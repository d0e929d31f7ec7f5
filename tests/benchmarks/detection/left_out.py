"""Are the thresholds of `runaway` and `spike` memorised? Each is chosen without one family of runs, and tried on it.

    python -m tests.benchmarks.detection.left_out [--traces DIR --manifest FILE]

Each threshold is moved by a third down and up, one at a time. For every family, the best variant of all (fewest runs
judged wrongly, the shipped one where several are equal) is chosen on the other families, and judges the one left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from seismograd_server.detect.watch import WatchConfig
from seismograd_server.rules.backtest import backtest
from seismograd_server.rules.ruleset import RunRules
from seismograd_server.transfer.trace_blocks import blocks
from seismograd_server.transfer.traces import Trace, read_trace
from tests.benchmarks.detection.catalogue import runs
from tests.benchmarks.detection.generating import cache_folder, generate_once
from tests.benchmarks.detection.scoring import Alarm, Labelled, read_manifest, verdict
from tests.benchmarks.measure import table

SHIPPED = "as shipped"


def variants() -> dict[str, WatchConfig]:
    """The shipped thresholds, and each one of `runaway` and `spike` moved by a third down and up."""
    shipped = WatchConfig()
    found = {SHIPPED: shipped}
    for signature in ("runaway", "spike"):
        config = getattr(shipped, signature)
        for each in dataclasses.fields(config):
            value = getattr(config, each.name)
            for factor in (2 / 3, 4 / 3):
                moved = round(value * factor) if isinstance(value, int) else value * factor
                changed = dataclasses.replace(config, **{each.name: moved})
                found[f"{signature}.{each.name} {moved:.3g}"] = dataclasses.replace(shipped, **{signature: changed})
    return found


def wrong_runs(config: WatchConfig, labelled: Sequence[Labelled], traces: Sequence[Trace]) -> set[str]:
    """The runs that are judged wrongly under these thresholds."""
    rules = dataclasses.replace(RunRules(), watch=config)
    found = set()
    for run, trace in zip(labelled, traces, strict=True):
        findings = backtest(blocks(trace), rules).findings
        if verdict(run, [Alarm(run.run_id, each.step, each.severity.label) for each in findings]):
            found.add(run.run_id)
    return found


def left_out(labelled: Sequence[Labelled], wrong: Mapping[str, set[str]]) -> list[tuple[str, str, int, int]]:
    """For each family: the variant chosen without it, how many runs it has, and how many are then judged wrongly."""
    families = Counter(run.family for run in labelled)
    found = []
    for family, count in sorted(families.items()):
        own = {run.run_id for run in labelled if run.family == family}
        best = min(wrong, key=lambda name: (len(wrong[name] - own), name != SHIPPED))
        found.append((family, best, count, len(wrong[best] & own)))
    return found


def main() -> int:
    """Print what was chosen where it is not the shipped variant, and how many runs were judged wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="these runs instead of those made here")
    parser.add_argument("--manifest", type=Path, help="their labels")
    options = parser.parse_args()
    folder, manifest = options.traces, options.manifest
    if folder is None or manifest is None:
        folder = cache_folder()
        manifest, _ = generate_once(runs(), folder)
    labelled = read_manifest(manifest)
    traces = [read_trace(folder / f"{run.run_id}.npz") for run in labelled]
    wrong = {name: wrong_runs(config, labelled, traces) for name, config in variants().items()}
    chosen = left_out(labelled, wrong)
    table(
        "Families whose thresholds are chosen without them",
        ["family", "chosen", "runs", "judged wrongly"],
        [
            [family, best, f"{count}", f"{errors}"]
            for family, best, count, errors in chosen
            if errors or best != SHIPPED
        ],
    )
    total = sum(errors for _, _, _, errors in chosen)
    print(f"\n  {total} of {len(labelled)} runs judged wrongly when left out, {len(wrong[SHIPPED])} as shipped")
    worst = sorted(wrong, key=lambda name: -len(wrong[name]))[:8]
    table(
        "Thresholds that matter most", ["moved by a third", "judged wrongly"], [[n, f"{len(wrong[n])}"] for n in worst]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
