"""`seismograd run`: programs that know nothing of a watch are watched, and behave as they do alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from seismograd.integrations.autowatch import MOST_AT_ONCE, STEPS_BEFORE
from seismograd.options import watched_environment
from seismograd.record import NormSource, Quantity, RecordFlag, RecordKind, StepRecord
from seismograd.testing import Ledger, RecordingServer
from tests.client.integrations.conftest import Norms, Truth
from tests.support.seismograd import PROGRAM, SeismogradServer

SCRIPT = str(Path(__file__).parent / "programs" / "plain.py")


@dataclass
class Done:
    """A program that has ended."""

    code: int
    output: str
    error: str
    norms: dict[str, list[Norms]]  # as the program has computed them, by the way it trained


def run(
    server: str, folder: Path, ways: str, *options: str, code: int = 0, launcher: tuple[str, ...] = (sys.executable,)
) -> Done:
    truth = folder / "truth"
    command = [PROGRAM, "run", "--server", server, *options, "--", *launcher, SCRIPT, ways, str(truth), str(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    return Done(done.returncode, done.stdout, done.stderr, json.loads(truth.with_suffix(".0").read_text()))


# One program after another would import torch each time; several trainings in one program must work anyway.
WAYS = {
    "clipped": NormSource.CLIP,
    "clipped_in_two_halves": NormSource.CLIP,
    "with_closure": NormSource.OPTIMIZER_STEP,
    "compiled": NormSource.CLIP,
    "scaled": NormSource.OPTIMIZER_STEP,
}

RUNS = ["fold", "fold-2", "fold-3", "fold-4", "fold-5"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Ledger]:
    with RecordingServer() as server:
        folder = tmp_path_factory.mktemp("trained")
        done = run(server.address, folder, ",".join(WAYS), "--project", "zero", "--run", "fold")
        assert done.code == 0, done.error
        return done, server.ledger


def records_of(ledger: Ledger, way: str) -> list[StepRecord]:
    run = RUNS[list(WAYS).index(way)]  # by name: each opens from a thread of its own, in any order
    (handle,) = (handle for handle, identity in ledger.identities.items() if identity.run == run)
    return list(ledger._records[handle, 0, RecordKind.STEP].values())


@pytest.mark.parametrize("way", [way for way in WAYS if way != "scaled"])
def test_every_step_but_the_first_ones_is_recorded_with_its_number_before_the_clip(
    trained: tuple[Done, Ledger], way: str
) -> None:
    done, ledger = trained
    records = records_of(ledger, way)
    assert [record.step for record in records] == [5, 6, 7, 8, 9]
    assert {record.source for record in records} == {WAYS[way]}
    Truth(done.norms[way][STEPS_BEFORE:]).assert_are_norms_of(records, ledger)


def test_what_compiles_the_program_compiles_nothing_of_ours(trained: tuple[Done, Ledger]) -> None:
    assert "seismograd" not in trained[0].error  # the compiler names what it breaks its graphs for


def test_a_first_watched_step_that_the_scaler_skips_is_recorded_too(trained: tuple[Done, Ledger]) -> None:
    done, ledger = trained
    records = records_of(ledger, "scaled")
    assert [RecordFlag.SKIPPED_BY_SCALER in record.flags for record in records] == [True] + [False] * 4
    assert [record.scalars[Quantity.LOSS_SCALE] for record in records] == [1024.0] + [512.0] * 4
    Truth(done.norms["scaled"][STEPS_BEFORE + 1 :]).assert_are_norms_of(records[1:], ledger)


def test_each_training_in_one_program_is_a_run_of_its_own(trained: tuple[Done, Ledger]) -> None:
    identities = list(trained[1].identities.values())
    assert {identity.project for identity in identities} == {"zero"}
    assert sorted(identity.run for identity in identities) == RUNS
    assert trained[1].closed == [("finished", "")] * len(WAYS)


def test_several_optimizers_are_series_of_one_run_with_the_names_of_their_models(
    server: RecordingServer, tmp_path: Path
) -> None:
    done = run(server.address, tmp_path, "adversarial")

    # The generator steps first, although it was made last: it leads the run.
    for optimizer, (first, prefix) in enumerate(((0, "Net."), (1, "Critic."))):
        # The critic has made five steps as well, before the sixth of the generator.
        Truth(done.norms["adversarial"][first::2][STEPS_BEFORE:]).assert_is_recorded(server.ledger, optimizer, prefix)
    assert len(server.ledger.identities) == 1


def test_what_a_program_watches_itself_is_left_to_it(server: RecordingServer, tmp_path: Path) -> None:
    done = run(server.address, tmp_path, "explicit", "--run", "by-us", code=7)

    assert (done.code, done.output, done.error) == (7, "", "")
    assert [identity.run for identity in server.ledger.identities.values()] == ["by-hand"]


def test_an_exception_is_a_failed_run_and_looks_as_ever(server: RecordingServer, tmp_path: Path) -> None:
    done = run(server.address, tmp_path, "failing")

    assert done.code == 1
    assert done.error.startswith("Traceback")
    assert done.error.rstrip().endswith("FloatingPointError: the loss is NaN")
    assert server.ledger.closed == [("failed", "FloatingPointError: the loss is NaN")]


def test_an_inner_loop_that_makes_an_optimizer_for_each_task_is_no_run(server: RecordingServer, tmp_path: Path) -> None:
    done = run(server.address, tmp_path, "inner_loops", "--run", "reptile")

    assert (done.code, done.error) == (0, "")
    assert json.loads(done.output) == {"threads": 1, "rings": 1}
    assert [identity.run for identity in server.ledger.identities.values()] == ["reptile"]
    assert [record.step for record in server.ledger.records()] == list(range(STEPS_BEFORE, 200))


def test_a_training_that_is_over_gives_its_resources_back_while_the_program_goes_on(
    server: RecordingServer, tmp_path: Path
) -> None:
    done = run(server.address, tmp_path, "sweep", "--run", "seed")

    assert (done.code, done.error) == (0, "")
    assert json.loads(done.output) == {"threads": 0, "rings": 0}
    runs = {identity.run for identity in server.ledger.identities.values()}
    assert runs == {"seed", *(f"seed-{number}" for number in range(2, 21))}
    assert server.ledger.closed == [("finished", "")] * 20


def test_of_trainings_that_a_program_keeps_only_a_few_are_watched_and_that_is_said(
    server: RecordingServer, tmp_path: Path
) -> None:
    done = run(server.address, tmp_path, "kept_sweep", "--run", "seed")

    assert done.code == 0
    assert json.loads(done.output) == {"threads": MOST_AT_ONCE, "rings": MOST_AT_ONCE}
    assert done.error.count("are not watched") == 1
    assert len(server.ledger.identities) == MOST_AT_ONCE
    assert server.ledger.closed == [("finished", "")] * MOST_AT_ONCE


def test_a_program_without_an_optimizer_pays_nothing(server: RecordingServer, tmp_path: Path) -> None:
    done = run(server.address, tmp_path, "without_an_optimizer", code=3)

    assert (done.code, done.output, done.error) == (3, "", "")
    assert not server.ledger.identities


def test_a_signal_reaches_the_program_itself(server: RecordingServer, tmp_path: Path) -> None:
    command = [PROGRAM, "run", "--server", server.address, "--", sys.executable, SCRIPT, "waiting", str(tmp_path), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_the_ranks_of_torchrun_are_ranks_of_one_run(
    start_seismograd: Callable[..., SeismogradServer], tmp_path: Path
) -> None:
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    launcher = (torchrun, "--standalone", "--nproc-per-node", "2")
    server = start_seismograd()
    done = run(server.grpc, tmp_path, "data_parallel", "--project", "zero", "--run", "ranks", launcher=launcher)

    assert done.code == 0, done.error
    series = server.get("/api/v1/runs/zero/ranks/series")["series"]
    assert series["ranks_present"] == [2] * 5  # the last ones of ten
    expected = [np.sqrt(sum(norm**2 for norm in norms.values())) for norms in done.norms["data_parallel"][5:]]
    np.testing.assert_allclose(series["grad_norm"], expected, rtol=1e-5)


def test_a_program_that_never_imports_torch_finds_its_own_sitecustomize(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.customized = __file__")
    code = "import sys, sitecustomize; print(customized, sitecustomize.__file__, 'seismograd' in sys.modules)"
    own = str(tmp_path / "sitecustomize.py")
    done = subprocess.run(
        [PROGRAM, "run", "--", sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [own, own, "False"]


def test_where_seismograd_cannot_be_imported_the_program_runs_unwatched(tmp_path: Path) -> None:
    for name, text in (("torch", "here = True"), ("seismograd", "raise ImportError('not for this Python')")):
        (tmp_path / f"{name}.py").write_text(text)
    environment = watched_environment()
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.here, torch.__loader__.exec_module.__name__)"],
        env={
            **environment,
            "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"].split(os.pathsep)[0], str(tmp_path)]),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "True exec_module\n")
    assert done.stderr == "seismograd: this program is not watched: ImportError: not for this Python\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--", "no-such-program"], 1, "Error: cannot start 'no-such-program': No such file or directory\n"),
        (["--run", "a\nb", "--", "true"], 1, "Error: run: 'a\\nb' has control characters"),
        (["--server", "nowhere:x", "--", "true"], 1, "Error: server: "),
        ([], 2, "Missing argument 'COMMAND...'"),
        (["--", "true", "--run"], 0, ""),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments: list[str], code: int, message: str) -> None:
    done = subprocess.run([PROGRAM, "run", *arguments], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == code
    assert message in done.stderr
    assert bool(done.stderr) == bool(message)
