"""What newer Pythons have taken away is not used: only one interpreter runs these tests, several are promised."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Removed from the standard library by 3.12 and 3.13 (and asyncore's kin, which warn in 3.11 already).
REMOVED_MODULES = frozenset(
    [
        "aifc",
        "asynchat",
        "asyncore",
        "audioop",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "distutils",
        "imghdr",
        "imp",
        "lib2to3",
        "mailcap",
        "msilib",
        "nis",
        "nntplib",
        "ossaudiodev",
        "pipes",
        "smtpd",
        "sndhdr",
        "spwd",
        "sunau",
        "telnetlib",
        "uu",
        "xdrlib",
    ]
)
# Attributes that went, or warn in 3.12 and 3.13, where warnings are errors.
REMOVED_ATTRIBUTES = frozenset(
    {"utcnow", "utcfromtimestamp", "assertEquals", "find_module", "load_module", "getdefaultlocale", "resetlocale"}
)
SOURCES = sorted(path for folder in ("protos", "client", "server") for path in (ROOT / folder).rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("folder", ["protos", "client", "server"])
def test_no_removed_module_is_imported_and_no_removed_attribute_used(folder: str) -> None:
    found = {}
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] != folder:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if wrong := (imported(tree) & REMOVED_MODULES) | (used & REMOVED_ATTRIBUTES):
            found[str(path)] = wrong

    assert found == {}
    assert any(path.relative_to(ROOT).parts[0] == folder for path in SOURCES)
