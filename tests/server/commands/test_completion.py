"""Completion in a real bash, of a server's runs too, and "did you mean" wherever a name can be mistyped."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from tests.support.processes import free_port, require_program
from tests.support.reading import Stocked
from tests.support.seismograd import PROGRAM, seismograd
from tests.support.synthetic import healthy_norms

_PATIENCE_SECONDS = 120.0
# What bash does when the tabulator is pressed, and what it would offer.
_PRESS = """
eval "$(seismograd completion bash)"
COMP_WORDS=({words}); COMP_CWORD={place}
_seismograd_completion seismograd
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from seismograd_server.store.database import Database
    from tests.support.synthetic import new_pipeline

    path = tmp_path_factory.mktemp("named") / "seismograd.db"
    with Database.open(f"sqlite:///{path}", owner="tests") as database:
        stocked = Stocked(database, new_pipeline(database))
        for name in ("lstm-7", "lstm-8", "$(touch evil)", "two words"):
            stocked.add(name, norms=healthy_norms(3))
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(stocked.app(), port=port, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, name="web", daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(30.0)


def offered(words: str, url: str, folder: Path) -> list[str]:
    """What bash offers for the last of these words."""
    bash = require_program("bash", "bash")
    path = f"{Path(PROGRAM).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SEISMOGRAD_URL": url}
    script = _PRESS.format(words=words, place=len(words.split()) - 1)
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices(url: str, tmp_path: Path) -> None:
    assert offered("seismograd comp", url, tmp_path) == ["completion"]
    assert offered("seismograd runs c", url, tmp_path) == ["compare"]
    assert "--align" in offered("seismograd runs compare --", url, tmp_path)
    assert offered("seismograd runs list --state f", url, tmp_path) == ["finished", "failed"]


def test_bash_completes_the_runs_of_the_server_but_no_name_that_a_shell_would_run(url: str, tmp_path: Path) -> None:
    assert offered("seismograd runs show ls", url, tmp_path) == ["lstm-8", "lstm-7"]
    assert offered("seismograd clip mt/", url, tmp_path) == ["mt/lstm-8", "mt/lstm-7"]
    assert offered("seismograd runs compare lstm-7 lstm-8", url, tmp_path) == ["lstm-8"]
    assert list(tmp_path.iterdir()) == []


def test_without_a_server_nothing_is_offered_and_nothing_complains(tmp_path: Path) -> None:
    assert offered("seismograd runs show ls", f"http://127.0.0.1:{free_port()}", tmp_path) == []


@pytest.mark.parametrize(
    ("shell", "words"), [("zsh", "#compdef seismograd"), ("fish", "complete --no-files --command seismograd")]
)
def test_the_other_shells_get_click_s_own_script(shell: str, words: str) -> None:
    shown = seismograd("completion", shell, timeout=_PATIENCE_SECONDS)
    assert shown.returncode == 0, shown.stderr
    assert words in shown.stdout
    assert "_SEISMOGRAD_COMPLETE" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["rnus"], 2, "Did you mean 'runs'?"),
        (["compare"], 2, "Did you mean 'runs compare'?"),
        (["runs", "lst"], 2, "Did you mean 'list'?"),
        (["runs", "list", "--jsn"], 2, "Did you mean '--json'?"),
        (["runs", "show", "lstm-77"], 1, 'did you mean "lstm-7"?'),
        (["runs", "list", "--project", "mtt"], 1, 'no project "mtt"; did you mean "mt"?'),
        (["alerts", "list", "--project", "mtt"], 1, 'no project "mtt"; did you mean "mt"?'),
        (["alerts", "precision", "--project", "mtt"], 1, 'no project "mtt"; did you mean "mt"?'),
        (["completion", "csh"], 2, "'csh' is not one of 'bash', 'zsh', 'fish'"),
    ],
)
def test_a_name_that_is_mistyped_is_answered_with_the_nearest(
    url: str, arguments: list[str], code: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEISMOGRAD_URL", url)
    shown = seismograd(*arguments, timeout=_PATIENCE_SECONDS)
    assert shown.returncode == code, shown.stderr
    assert hint in shown.stderr


def test_an_alert_is_looked_for_by_how_its_id_begins_or_looks(stocked: Stocked) -> None:
    from seismograd_server.errors import NotFoundError

    with stocked.database.read() as transaction:
        found = transaction.alerts.list(project="mt", run="exploding", limit=1)[0].alert_id
        mistyped = f"{found[:9]}{'0' if found[9] != '0' else '1'}{found[10:]}"
        for given in (found[:8], mistyped):
            with pytest.raises(NotFoundError, match=f"did you mean {found}"):
                transaction.alerts.get(given)
        with pytest.raises(NotFoundError, match="alerts list"):
            transaction.alerts.get("nothing")
