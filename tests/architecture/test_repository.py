"""The shape of the repository, held as tests: what lies at the top, how long a file may be, what may not be written."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TOP_LEVEL = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "client",
    "constraints.txt",
    "deploy",
    "protos",
    "pyproject.toml",
    "server",
    "tests",
}

# A file that cannot be read in one sitting hides things.
LONGEST_SOURCE_FILE = 320


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for line in listing.splitlines() if (path := ROOT / line).is_file()]


def source_files() -> list[Path]:
    return [
        path
        for path in tracked_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in {"client", "server"} and "_pb2" not in path.name
    ]


def test_the_top_level_holds_what_the_design_lists_and_no_more() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert {name for name in found if not name.startswith(".")} <= TOP_LEVEL


# A migration is frozen when it is released and names every column it makes; splitting one would hide its order.
@pytest.mark.parametrize(
    "path",
    [path for path in source_files() if "migrations" not in path.parts],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_source_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_SOURCE_FILE


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_begins_by_saying_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_lint_exception_names_its_rule_and_its_reason() -> None:
    bare = re.compile(r"#\s*(?:noqa|type:\s*ignore)(?::\s*[A-Z0-9, ]+|\[[a-z-]+(?:,\s*[a-z-]+)*\])?\s*$")
    offenders = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path.suffix == ".py" and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert offenders == []


def test_nothing_is_pickled() -> None:
    pickling = re.compile(r"^\s*(?:import|from)\s+(?:pickle|dill|cloudpickle|shelve)\b|allow_pickle=True", re.MULTILINE)
    offenders = [str(path.relative_to(ROOT)) for path in source_files() if pickling.search(path.read_text())]
    assert offenders == []
