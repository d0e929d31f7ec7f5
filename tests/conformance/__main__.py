"""`python -m tests.conformance`: runs every case on 2 and 4 processes and prints a table in Markdown."""

from __future__ import annotations

import sys

from tests.conformance.cases import CASES, Case
from tests.conformance.world import Result, run_world

WORLDS = (2, 4)


def main() -> int:
    """Exit code 0; what must hold is asserted by the test beside this file."""
    results = {world: run_world(world) for world in WORLDS}
    print("Largest relative error of the composed norms over all steps, against one process that trains alone:\n")
    titles = [f"{world} processes: {what}" for world in WORLDS for what in ("global norm", "worst layer")]
    print("| case | " + " | ".join(titles) + " | remarks |")
    print("|---|" + "---:|" * len(titles) + "---|")
    for case in CASES:
        print(row(case, {world: found[case.name] for world, found in results.items() if case.name in found}))
    return 0


def row(case: Case, found: dict[int, Result]) -> str:
    """One line of the table."""
    cells: list[str] = [case.name]
    for world in WORLDS:
        result = found.get(world)
        layers = "" if result is None or case.flat else f"{result.layer_error:.0e}"
        cells += ["" if result is None else f"{result.global_error:.0e}", layers]
    unknown = next(iter(found.values())).unknown_layers
    marked = any(result.inexact for result in found.values())
    if case.flat:
        return "| " + " | ".join([*cells, "layers are flat parameters, marked as such"]) + " |"
    remarks = f"{len(unknown)} layers not known and left out" * bool(unknown) + "; marked as inexact" * marked
    return "| " + " | ".join([*cells, remarks.removeprefix("; ")]) + " |"


if __name__ == "__main__":
    sys.exit(main())
