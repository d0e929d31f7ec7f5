"""Whom alerts blame: the layer and the rank that a fault was injected into, wherever a manifest names one.

    python -m tests.benchmarks.detection.culprits [--traces DIR --manifest FILE]

Of exploding runs and spikes. First: the first alert from ten steps before the onset on that names any. Ever: one of the
alerts before the run's end; samples of weights and local norms come every tenth step as shipped, and may come later.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from seismograd_server.model import Finding
from seismograd_server.rules.backtest import backtest
from seismograd_server.rules.ruleset import RunRules
from seismograd_server.transfer.trace_blocks import blocks
from seismograd_server.transfer.traces import Trace, read_trace
from tests.benchmarks.detection.catalogue import runs
from tests.benchmarks.detection.generating import cache_folder, generate_once
from tests.benchmarks.detection.scoring import Labelled, read_manifest
from tests.benchmarks.measure import table

_EARLY = 10  # an onset is known to about so many steps


def named(findings: Iterable[Finding], onset: int, what: str) -> list[str]:
    """Layers or ranks (`what`) that alerts name, in order; those long before the onset are about something else."""
    values = (getattr(each.evidence, f"leading_{what}") for each in findings if each.step >= onset - _EARLY)
    return [str(value) for value in values if value is not None]


def rows(labelled: Sequence[Labelled], traces: Sequence[Trace]) -> list[list[str]]:
    """A row for each cadence and kind of culprit: how many there are, and how many were named first, or ever."""
    found = []
    for thin in (1, 10):
        counts = {"layer": [0, 0, 0], "rank": [0, 0, 0]}
        wrong: dict[str, list[str]] = {"layer": [], "rank": []}
        for run, trace in zip(labelled, traces, strict=True):
            culprits = {"layer": run.culprit_layer, "rank": run.culprit_rank}
            if run.label not in {"exploding", "spike"} or not any(culprits.values()):
                continue
            findings = backtest(blocks(trace, thin=thin), RunRules()).findings
            for what, culprit in culprits.items():
                if not culprit:
                    continue
                blamed = named(findings, run.onset_step, what)
                counts[what][0] += 1
                counts[what][1] += blamed[:1] == [culprit]
                counts[what][2] += culprit in blamed
                wrong[what] += [run.run_id] * (culprit not in blamed)
        found += [[what, f"{thin}", *map(str, counts[what]), " ".join(wrong[what])] for what in counts]
    return found


def main() -> int:
    """Print the table."""
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
    table("Culprits", ["culprit", "samples every", "runs", "first", "ever", "never named in"], rows(labelled, traces))
    return 0


if __name__ == "__main__":
    sys.exit(main())
