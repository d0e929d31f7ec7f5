"""Other versions of packages, each in a folder of its own that a process has first on its path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import miss

# Downloads of some megabytes; the package installer keeps them, so that this is waited for once.
_INSTALL_SECONDS = 300


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Call it with requirements; it gives the folder that they are in, with what they depend on if asked for."""
    folders: dict[tuple[str, ...], Path] = {}

    def installed(*requirements: str, with_dependencies: bool = False) -> Path:
        if requirements not in folders:
            folder = tmp_path_factory.mktemp("packages")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            command += [] if with_dependencies else ["--no-deps"]
            done = subprocess.run(
                [*command, "--target", str(folder), *requirements],
                capture_output=True,
                text=True,
                timeout=_INSTALL_SECONDS,
                check=False,
            )
            if done.returncode:
                miss(f"{' '.join(requirements)} cannot be installed: {done.stderr.strip()[-300:]}")
            folders[requirements] = folder
        return folders[requirements]

    return installed


@pytest.fixture(scope="session")
def run_beside() -> Callable[..., str]:
    """Runs a program in a process of its own, with a folder of packages before all others; gives what it printed."""

    def run(folder: Path | None, code: str, *arguments: str) -> str:
        paths = [*([] if folder is None else [str(folder)]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        command = [sys.executable, "-W", "error::UserWarning:google", "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
